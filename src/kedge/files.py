"""Files and folders that are there whole or not at all, and the sweeping of what dead processes left unfinished."""

import hashlib
import itertools
import os
import platform
import re
import shutil
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from kedge.full_disk import naming

__all__ = [
    "folder_in_place_of",
    "is_temporary",
    "scratch_beside",
    "sweep",
    "temporary_beside",
    "whole",
    "whole_folder",
    "write_text",
    "write_together",
]

# `.NAME.HOST-PID-NUMBER.tmp`, which none but kedge gives
_TEMPORARY = re.compile(r"\..*\.(?P<host>[0-9a-f]{8})-(?P<pid>\d+)-\d+\.tmp", re.DOTALL)
FORGOTTEN = 7 * 86400.0  # seconds without a change after which even another machine's is taken for dead
_numbers = itertools.count()


def temporary_beside(path: Path) -> Path:
    """A name beside `path` for what will become `path`: it says which process of which machine writes it."""
    # 50 characters are 200 bytes at most: the name of `path` may be as long as a name can be.
    return path.with_name(f".{path.name[:50]}.{_here()}-{os.getpid()}-{next(_numbers)}.tmp")


@contextmanager
def whole(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary path to write to, on the same disk; it becomes `path` if nothing was raised, else it goes.

    The content reaches the disk before the name does. Readable by others as the umask says, whatever wrote it.
    """
    path = Path(path)
    # In a folder of its own: safetensors writes by way of a file of its own, under a name that nobody could sweep.
    with scratch_beside(path) as scratch:
        temporary = scratch / path.name
        with naming(path, temporary):
            yield temporary
        _settle(temporary)
        os.replace(temporary, path)


@contextmanager
def scratch_beside(path: Path) -> Iterator[Path]:
    """Give a new folder beside `path`, on the same disk, which goes in the end with what is still in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_beside(path)
    try:
        with naming(path, temporary):
            temporary.mkdir()
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def whole_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a new folder beside `path` to fill; it becomes `path` if nothing was raised, and goes if something was.

    Raises:
        FileExistsError: if `path` has come to be there meanwhile, and is not an empty folder.
    """
    path = Path(path)
    with scratch_beside(path) as temporary:
        yield temporary
        try:
            os.rename(temporary, path)
        except OSError as error:
            if path.exists():
                raise FileExistsError(f"{path} was just made by another process: choose another name") from error
            raise


def write_text(path: str | os.PathLike[str], text: str) -> Path:
    """Write UTF-8 `text` to `path`, whole or not at all, making its folder, and return the path."""
    with whole(path) as temporary:
        # A file's name need not be text: its strange bytes are escaped, and JSON and YAML read them back.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
    return Path(path)


def write_together(texts: Mapping[Path, str]) -> list[Path]:
    """Write several files, all or none where writing fails, in their order, and return their paths.

    The last one is the sign that all are there: a process that is killed between two renames leaves it as it was.
    """
    with ExitStack() as stack:
        for path, text in reversed(list(texts.items())):  # left in the order of the mapping
            stack.enter_context(whole(path)).write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
    return list(texts)


def sweep(folder: str | os.PathLike[str]) -> int:
    """Delete what dead processes left unfinished in `folder`, not below it; gives how many files and folders.

    What a process of this machine writes that lives is left alone, and what another machine writes until nothing in it
    has changed for a week.
    """
    count = 0
    try:
        entries = [entry for entry in os.scandir(folder) if entry.name.startswith(".")]
    except OSError:  # there is none, or it cannot be read
        return 0
    for entry in entries:
        if is_temporary(entry.name) and not _alive(entry):
            if entry.is_dir(follow_symlinks=False):
                shutil.rmtree(entry.path, ignore_errors=True)
            else:
                Path(entry.path).unlink(missing_ok=True)
            count += 1
    return count


@contextmanager
def folder_in_place_of(path: Path, own: Collection[str]) -> Iterator[Path]:
    """As `whole_folder`, where there may be a folder that was broken off: it goes when the new one is whole.

    `own`: the names in it that may be lost.

    Raises:
        FileExistsError: if it holds anything else.
    """
    others = [p.name for p in path.iterdir() if p.name not in own and not is_temporary(p.name)] if path.is_dir() else []
    if others:
        raise FileExistsError(f"{path} holds {', '.join(sorted(others)[:3])}, which is not replaced: move it away")
    with whole_folder(path) as new:
        yield new
        if path.is_dir():
            shutil.rmtree(path)


def is_temporary(name: str) -> bool:
    """Whether a file of this name is one that was to become another."""
    return _TEMPORARY.fullmatch(name) is not None


def _alive(entry: "os.DirEntry[str]") -> bool:
    match = _TEMPORARY.fullmatch(entry.name)
    if match is not None and match["host"] == _here():
        return _runs(int(match["pid"]))
    try:
        return time.time() - _changed(entry.path) < FORGOTTEN
    except OSError:
        return True


def _changed(path: str) -> float:
    """When something last changed in a file, or in a folder and all below it."""
    times = [os.lstat(path).st_mtime]
    for parent, _, names in os.walk(path):
        times += [os.lstat(parent).st_mtime, *(os.lstat(os.path.join(parent, name)).st_mtime for name in names)]
    return max(times)


def _runs(pid: int) -> bool:
    if os.name == "nt":  # where signal 0 would end the process
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's; no process has such a number
        return True
    return True


def _here() -> str:
    """This machine, and in a container its room of process numbers, as eight hex digits."""
    try:
        room = os.readlink("/proc/self/ns/pid")
    except OSError:  # not Linux
        room = ""
    return hashlib.blake2b(f"{platform.node()} {room}".encode(), digest_size=4).hexdigest()


def _settle(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
    mask = os.umask(0)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def is_locked(path: Path) -> bool | None:
    """Whether a process has locked the file or folder, as `lock` does; None where that cannot be known."""
    try:
        import fcntl

        descriptor = os.open(path, os.O_RDONLY)
    except (ImportError, OSError):  # Windows, and what may not be read
        return None
    try:
        # Shared: two that ask at once do not take each other for one that holds it.
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:  # file systems without locks
        return None
    finally:
        os.close(descriptor)
    return False


def lock(descriptor: int) -> bool:
    """Lock an open file or folder until it is closed; whether nobody else has. Where there are no locks: True."""
    try:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except (ImportError, OSError):  # Windows, and file systems without locks
        pass
    return True

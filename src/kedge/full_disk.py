"""A full disk: told from any error, whatever library's it is and whatever it is wrapped in; and foreseen."""

import errno
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["FullDisk", "about_full_disk", "check_space", "in_bytes", "is_full_disk", "naming"]

# EFBIG: a limit on the size of files (ulimit -f, or a disk in an old format) is as good as a full disk.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What safetensors (Rust), torch and protobuf (C++) make of it: an error of their own that has the system's words.
_WORDS = re.compile(
    "|".join([*(re.escape(os.strerror(code)) for code in FULL), *(rf"os error {code}\b" for code in FULL)]),
    re.IGNORECASE,
)
# torch's own writer does not say why it failed: it is asked of the disk.
_TORCH = re.compile("iostream error|unexpected pos|PytorchStreamWriter failed")
_NOTHING = 2**16


class FullDisk(OSError):
    """There is no room for a file, of which so many bytes were written; whatever library's error that was."""

    def __init__(self, code: int, words: str, path: str, written: int = 0, free: int | None = None) -> None:
        super().__init__(code, words, path)
        self.written, self.free = written, free


@contextmanager
def naming(path: Path, written: Path) -> Iterator[None]:
    """Let errors of the system name `path`, whose content goes to `written` first; of a full disk it is `FullDisk`."""
    try:
        yield
    except FullDisk:
        raise  # of a file within
    except Exception as error:
        free = _free(path)
        if not (is_full_disk(error) or (_TORCH.search(str(error)) and free is not None and free < _NOTHING)):
            if isinstance(error, OSError) and Path(str(error.filename)).is_relative_to(written):
                error.filename = str(path)
            raise
        code = errno.EFBIG if _of_limit(error) else errno.ENOSPC
        size = written.stat().st_size if written.exists() else 0
        raise FullDisk(code, os.strerror(code), str(path), size, free) from error


def is_full_disk(error: BaseException) -> bool:
    """Whether the error, or one that led to it, says that there is no room on the disk (or a quota or limit is met)."""
    return any(_says_full(each) for each in _chain(error))


def about_full_disk(error: BaseException, then: str = "free some space, then run it again") -> str | None:
    """What to say of an error that a full disk caused, which ends in `then`: how to go on; None of any other error."""
    if not is_full_disk(error):
        return None
    chain = list(_chain(error))
    full = next((each for each in chain if isinstance(each, FullDisk)), None)
    named = (each.filename for each in chain if isinstance(each, OSError) and isinstance(each.filename, str | bytes))
    place = next((os.fsdecode(name) for name in named), None)
    what = "a file met the limit on the size of files (ulimit -f)" if _of_limit(error) else "the disk is full"
    at = "" if place is None else f": {place} could not be written"
    if full is not None and full.written:
        at += f", it takes more than {in_bytes(full.written)}"
        at += "" if full.free is None or _of_limit(error) else f" and {in_bytes(full.free)} more were free"
    return f"{what}{at}. What was written before is intact; {then}"


def check_space(folder: str | os.PathLike[str], needed: int, what: str) -> None:
    """Raise ValueError, in words, where fewer than `needed` bytes are free for `what` in `folder`, which may not exist.

    To be asked before work that takes long; `needed` is the least that is certain to be needed.
    """
    free = _free(Path(folder))
    if free is not None and free < needed:
        raise ValueError(
            f"the disk is too full: {what} takes {in_bytes(needed)} in {folder}, and {in_bytes(free)} are free there. "
            "Free some space, or name a folder on another disk"
        )


def in_bytes(count: int) -> str:
    """A number of bytes for people: `12 kB`, `3.4 GB`."""
    size = float(count)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "bytes" or size >= 10 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


def _chain(error: BaseException) -> Iterator[BaseException]:
    visited: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is None or id(each) in visited:
            continue
        visited.add(id(each))
        yield each
        waiting += [each.__cause__, each.__context__]
        waiting += each.exceptions if isinstance(each, BaseExceptionGroup) else []


def _of_limit(error: BaseException) -> bool:
    words = os.strerror(errno.EFBIG).lower()
    return any(getattr(each, "errno", None) == errno.EFBIG or words in str(each).lower() for each in _chain(error))


def _says_full(error: BaseException) -> bool:
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in FULL
    return _WORDS.search(str(error)) is not None


def _free(place: Path) -> int | None:
    """Bytes free for this user where `place` is or would be; None where that cannot be asked."""
    try:
        for each in (place.absolute(), *place.absolute().parents):
            if each.exists():
                return shutil.disk_usage(each).free
    except OSError:
        pass
    return None

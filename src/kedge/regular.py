"""Files that are read: nothing but regular files, which nothing has to be waited for."""

import hashlib
import os
import stat
from io import BufferedReader

__all__ = ["LARGEST_TEXT", "check_file", "file_digest", "is_folder", "open_file", "read_text"]

LARGEST_TEXT = 10_000_000  # bytes of a config, a card, or what else describes a model or data


def read_text(path: str | os.PathLike[str], largest: int) -> str:
    """The UTF-8 text of a file of at most `largest` bytes.

    Raises:
        ValueError: it is larger, no text in UTF-8, or no file; the path is named.
        OSError: there is no such file, or it cannot be read.
    """
    with open_file(path) as file:
        data = file.read(largest + 1)
    if len(data) > largest:
        raise ValueError(f"{path} is larger than {largest:,} bytes, which nothing of its kind is")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} is not text in UTF-8 (byte {error.start} is {data[error.start]:#04x}): it was changed, or is a "
            "file of another kind"
        ) from None


_NO_WAIT = getattr(os, "O_NONBLOCK", 0)
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def open_file(path: str | os.PathLike[str]) -> BufferedReader:
    """Open a file to read its bytes. Never waits: a named pipe would, for whoever writes to it.

    Raises:
        ValueError: what lies there is no file but a named pipe, a device, a socket or a folder.
        OSError: there is nothing, or it cannot be read.
    """
    return open(path, "rb", opener=_only_files)


def file_digest(path: str | os.PathLike[str]) -> str:
    """SHA-256 of a file, in hex digits; raises as `open_file` does."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_file(path: str | os.PathLike[str]) -> None:
    """Raise as `open_file` does, for what a library is to open itself."""
    kind = stat.S_IFMT(os.stat(path).st_mode)
    if kind != stat.S_IFREG:
        raise ValueError(f"{os.fspath(path)} is {_KINDS.get(kind, 'something else')}, not a file")


def is_folder(entry: "os.DirEntry[str]") -> bool:
    """Whether an entry is a folder or a link to one; a link that leads in a circle is none, and no error."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def _only_files(path: str, flags: int) -> int:
    check_file(path)  # before it is opened: opening alone makes some devices act
    return os.open(path, flags | _NO_WAIT)  # whatever lies there by now

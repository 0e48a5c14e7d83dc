"""Standard output and standard error of a command: names cannot write on the terminal, a reader may go away."""

import contextlib
import os
import select
import sys
from collections.abc import Iterator
from typing import Any

from kedge.printable import printable_lines

__all__ = ["gone", "plain_output"]


class _Plain:
    """A text stream that escapes control characters, and what its encoding has no sign for; `raw` is the stream itself.

    What draws on the terminal on purpose, as a progress bar does, writes to `raw`.
    """

    def __init__(self, raw: Any) -> None:
        self.raw = raw

    def write(self, text: str) -> int:
        encoding = getattr(self.raw, "encoding", None) or "utf-8"
        again = "\r" if text.startswith("\r") else ""  # a bar of a download begins its line anew; a name comes later
        shown = again + printable_lines(text.removeprefix("\r"))
        self.raw.write(shown.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.raw, name)


@contextlib.contextmanager
def plain_output() -> Iterator[None]:
    """Let nothing but text reach standard output and standard error; a closed one takes all and keeps nothing."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (_Plain(_nowhere() if stream is None else stream) for stream in before)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except (OSError, ValueError):
                # It cannot be written to: the interpreter's end is not to complain of that once more.
                with contextlib.suppress(AttributeError, OSError, ValueError):
                    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
        sys.stdout, sys.stderr = before


def gone() -> bool:
    """Whether whoever read standard output or standard error has gone away, as `head` does."""
    for stream in (sys.stdout, sys.stderr):
        try:
            waiting = select.poll()
            waiting.register(stream.fileno(), 0)
            if any(event & (select.POLLERR | select.POLLHUP) for _, event in waiting.poll(0)):
                return True
        except (AttributeError, OSError, ValueError):  # no such stream, none of the system's, or no poll() here
            continue
    return False


def _nowhere() -> Any:
    # Opened for good: the file takes the free number of the closed stream, which nothing else then gets.
    return open(os.devnull, "w", encoding="utf-8")

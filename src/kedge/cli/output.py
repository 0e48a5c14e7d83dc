"""What a command says: text that names cannot forge, to a reader who may go away; a bar; why it failed."""

import contextlib
import os
import select
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from kedge.printable import printable_lines

__all__ = ["gone", "in_words", "plain_output", "progress_bar", "warnings_of"]

MOST = 2000  # characters of a message of a library


class _Plain:
    """A text stream that escapes control characters, and what its encoding has no sign for; `raw` is the stream itself.

    What draws on the terminal on purpose, as a progress bar does, writes to `raw`.
    """

    def __init__(self, raw: Any) -> None:
        self.raw = raw

    def write(self, text: str) -> int:
        encoding = getattr(self.raw, "encoding", None) or "utf-8"
        again = "\r" if text.startswith("\r") else ""  # a bar of a download begins its line anew; a name comes later
        plain = again + printable_lines(text.removeprefix("\r"))
        self.raw.write(plain.encode(encoding, "backslashreplace").decode(encoding))
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


@contextlib.contextmanager
def progress_bar(
    what: str,
) -> Iterator[tuple[Callable[[int, int], None] | None, Callable[[str], None]]]:
    """A bar on standard error if that is a terminal: gives the callback (done, total), and one for sentences."""
    if not sys.stderr.isatty():
        yield None, lambda words: print(words, file=sys.stderr, flush=True)
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(file=getattr(sys.stderr, "raw", sys.stderr)), transient=True) as bar:
        task = bar.add_task(what)
        yield (
            lambda done, total: bar.update(task, completed=done, total=total),
            lambda words: bar.console.print(printable_lines(words), highlight=False, markup=False),
        )


@contextlib.contextmanager
def warnings_of(command: str) -> Iterator[None]:
    """Say each warning in a line of the command, once all is done."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    for warning in caught:
        print(f"kedge {command}: {warning.message}", file=sys.stderr)


def _nowhere() -> Any:
    # Opened for good: the file takes the free number of the closed stream, which nothing else then gets.
    return open(os.devnull, "w", encoding="utf-8")


def in_words(error: Exception) -> str:
    """What went wrong; of what nobody foresaw also the place, and how to see the way there."""
    from kedge.full_disk import about_full_disk

    if not isinstance(error, OSError) and _is_for_people(error):
        return str(error)
    if (full := about_full_disk(error)) is not None:
        return full
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        named = [os.fsdecode(each) for each in (error.filename, error.filename2) if isinstance(each, str | bytes)]
        return f"{_short(' and '.join(named))}: {error.strerror.lower()}"
    if isinstance(error, OSError):
        return _short(str(error))
    if isinstance(error, MemoryError) or "out of memory" in str(error).lower() or "can't allocate memory" in str(error):
        return f"out of memory: a smaller --batch_size, smaller images or a smaller model may fit ({_first(error)})"
    last = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{os.path.join(*last.filename.split(os.sep)[-2:])}, line {last.lineno}"
    return (
        f"not foreseen: {type(error).__name__}: {_first(error)} (raised in {place}; --debug shows the way there, which "
        "is worth a report)"
    )


def _is_for_people(error: Exception) -> bool:
    """Whether the message says all that a user needs: raised on purpose, not a fault deep in a library."""
    if type(error).__module__.startswith("kedge."):
        return True
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    raised_in = trace.tb_frame.f_globals.get("__name__", "") if trace else ""
    return raised_in.startswith("kedge.") and isinstance(error, ValueError | TypeError | RuntimeError | ImportError)


def _first(error: Exception) -> str:
    return _short(str(error).strip().split("\n")[0])


def _short(text: str) -> str:
    return text if len(text) <= MOST else f"{text[: MOST // 2]} ... {text[-MOST // 2 :]}"

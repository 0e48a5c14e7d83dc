"""Why a command failed, in one message for people."""

import os
import traceback

from kedge.full_disk import about_full_disk

__all__ = ["in_words"]

MOST = 2000  # characters of a message of a library


def in_words(error: Exception) -> str:
    """What went wrong; of what nobody foresaw also the place, and how to see the way there."""
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

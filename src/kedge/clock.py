"""The time, as records hold it."""

from datetime import UTC, datetime
from typing import Any


def now() -> str:
    """The time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def is_before(first: Any, second: Any) -> bool:
    """Whether one recorded time is before another; not where either is no time with its distance from UTC."""
    try:
        return datetime.fromisoformat(first) < datetime.fromisoformat(second)
    except (TypeError, ValueError):
        return False

"""As good as SIGKILL at a chosen moment, in the process of the tests, which takes no seconds to start."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from kedge import files

EVENTS = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod")


class Killed(BaseException):
    """No `except Exception` sees it, and what runs after it can touch no file either."""


class _Killer:
    """Notes what is done to files below a folder, and from the event number `at` on lets nothing be done to them."""

    def __init__(self) -> None:
        self.folder, self.at, self.events = "", 0, []

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.folder or event not in EVENTS:
            return
        path, reads = arguments[0], event == "open" and not set(arguments[1] or "r") & set("wax+")
        if reads or not isinstance(path, str | os.PathLike) or not str(path).startswith(self.folder):
            return
        self.events.append(event)
        if 0 < self.at <= len(self.events):
            raise Killed


_KILLER = _Killer()
sys.addaudithook(_KILLER)  # which cannot be taken back: it rests where no folder is watched


@contextmanager
def watched(folder: Path, at: int = 0) -> Iterator[list[str]]:
    """Gives the list of what is done to files below `folder`; with `at` the process counts as killed at that one."""
    _KILLER.folder, _KILLER.at, _KILLER.events = str(folder), at, []
    try:
        yield _KILLER.events
    finally:
        _KILLER.folder = ""


@contextmanager
def killed(folder: Path, at: int) -> Iterator[None]:
    """Kill what is inside at the event number `at` below `folder`; it must come that far."""
    with pytest.raises(Killed), watched(folder, at):
        yield


@contextmanager
def afterwards() -> Iterator[None]:
    """Another process, to which the killed one is dead."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "_runs", lambda pid: False)
        yield


def places(events: list[str], kinds: tuple[str, ...] = ("os.rename",)) -> list[int]:
    """Where to kill: at the first and the last event, and at all of these kinds."""
    return sorted({1, *(place for place, event in enumerate(events, 1) if event in kinds), len(events)})


def tree(folder: Path) -> list[str]:
    """All that is below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))

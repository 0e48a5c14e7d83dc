"""What a process does to files, seen by an audit hook: there a fault strikes, and what lies outside is noted."""

import errno
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC


@dataclass(frozen=True)
class Fault:
    """`kill` before the k-th event; `torn`, with half of what is synced; `full`, no space in `work` from there on."""

    kind: str
    event: int


class Watch:
    """Counts what this process does to files, notes what lies outside its place, and strikes at the k-th event."""

    def __init__(self, place: Path, fault: Fault | None, notes: Path) -> None:
        self.place, self.fault = str(place.resolve()), fault
        self.process, self.count, self.busy = os.getpid(), 0, False
        self.file = os.open(notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.fsync = os.fsync
        os.fsync = self._synced
        sys.addaudithook(self._hook)

    def end(self) -> None:
        self.process = 0
        os.fsync = self.fsync

    def _hook(self, event: str, given: tuple[Any, ...]) -> None:
        if self.busy or os.getpid() != self.process:
            return
        if event == "open":
            path, _, flags = given
            if isinstance(path, int) or not isinstance(flags, int) or not flags & WRITES:
                return
            self._happens("open", path)
        elif event == "os.rename":
            self._happens("rename", given[1])
        elif event in ("os.mkdir", "os.link", "os.symlink"):
            path = given[0] if event == "os.mkdir" else given[1]
            if not self._there(path):
                self._happens(event.removeprefix("os."), path)
        elif event in ("os.remove", "os.rmdir", "os.truncate") and self._there(given[0]):
            self._happens(event.removeprefix("os."), given[0])

    def _synced(self, descriptor: Any) -> None:
        if os.getpid() == self.process:
            number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
            self._happens("sync", os.readlink(f"/proc/self/fd/{number}"))
        self.fsync(descriptor)

    def _there(self, path: Any) -> bool:
        self.busy = True
        try:
            return os.path.lexists(path)
        except (TypeError, ValueError):
            return False
        finally:
            self.busy = False

    def _happens(self, what: str, path: Any) -> None:
        self.busy = True
        try:
            full = os.path.abspath(os.fsdecode(path))
            if full.startswith(("/dev/", "/proc/")):
                return
            if not full.startswith(self.place):
                os.write(self.file, f"o {what} {full!r}\n".encode(errors="replace"))
                return
            self.count += 1
            short = os.path.relpath(full, self.place).replace(str(self.process), "PID")
            os.write(self.file, f"e {what} {short!r}\n".encode(errors="replace"))
            self._strike(what, full)
        finally:
            self.busy = False

    def _strike(self, what: str, path: str) -> None:
        if self.fault is None or self.count < self.fault.event:
            return
        if self.fault.kind == "full":
            if what in ("open", "mkdir", "link", "symlink", "sync") and path.startswith(f"{self.place}/work/"):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
            return
        if self.fault.kind == "torn" and what == "sync":
            os.truncate(path, os.path.getsize(path) // 2)
        os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(10)

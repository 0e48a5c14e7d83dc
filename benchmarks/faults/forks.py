"""One `kedge` command in a fork of this process, which has imported all that is slow, with a fault on the way.

A fork costs a tenth of a second where a new Python costs six. It has its own working folder, home, temporary folder and
PATH, a limit of time and of memory, and a hook that sees what it does to files: there the fault strikes.
"""

import contextlib
import faulthandler
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.faults.events import Fault, Watch

UNFORESEEN = "not foreseen: "  # how `kedge` begins of what nobody thought of
MEMORY = 2 << 30  # bytes beyond what this process has
EVENTS = "events.txt"


@dataclass
class Place:
    """Where a try happens: `work` is the folder it starts in, the rest is what it must leave alone."""

    root: Path
    commands: list[str] = field(default_factory=list)  # as they were given, for whoever looks
    killed: bool = False  # whether a command here could not clear up behind itself
    most: float = 0.0  # MiB that a command of this try held beyond what its parent had

    def __post_init__(self) -> None:
        for folder in (self.work, self.home, self.temporary, self.programs):
            folder.mkdir(parents=True, exist_ok=True)

    @property
    def work(self) -> Path:
        return self.root / "work"

    @property
    def home(self) -> Path:
        return self.root / "home"

    @property
    def temporary(self) -> Path:
        return self.root / "tmp"

    @property
    def programs(self) -> Path:
        return self.root / "bin"

    @property
    def marker(self) -> Path:
        """What a stranger's code would write, if it ran."""
        return self.root / "MARKER"

    def gone(self) -> None:
        shutil.rmtree(self.root, ignore_errors=True)


@dataclass
class Outcome:
    """How a command ended. `status` is negative for a signal, None where it went past its time."""

    status: int | None
    out: str
    err: str
    seconds: float
    memory: float
    events: list[str]
    outside: list[str]

    @property
    def last(self) -> str:
        """The last line that was said."""
        said = [line for line in (self.err.strip() or self.out.strip()).splitlines() if line.strip()]
        return said[-1].strip()[:240] if said else ""

    @property
    def traced(self) -> bool:
        """Whether nobody foresaw it: a traceback, or what the command says in place of one."""
        return "Traceback (most recent call last)" in self.err or UNFORESEEN in self.err

    def fault(self) -> str | None:
        """What no command may do, whatever it is asked: hang, crash, trace back, end without a word, write outside."""
        if self.status is None:
            return f"went past {self.seconds:.0f} s"
        if self.status < 0:
            first = next((line.strip() for line in self.err.splitlines() if line.strip()), "")
            return f"ended by signal {signal.Signals(-self.status).name}: {first[:240]}"
        if self.traced:
            return f"traceback: {self.last}"
        if self.status and not (self.err + self.out).strip():
            return f"status {self.status} without a word"
        if self.status not in (0, 1, 2, 3):
            return f"status {self.status}: {self.last}"
        if self.memory > MEMORY / 2**20:
            return f"took {self.memory:.0f} MB"
        return f"wrote outside its folder: {self.outside[0]}" if self.outside else None


@dataclass
class Running:
    process: int
    place: Place
    began: float
    streams: tuple[Path, Path]
    notes: Path


def call(arguments: Sequence[str], place: Place, limit: float = 60, **how: Any) -> Outcome:
    """Start a command and wait for it; `how` as `start`."""
    return wait(start(arguments, place, **how), limit)


def start(
    arguments: Sequence[str],
    place: Place,
    fault: Fault | None = None,
    module: bool = False,
    out: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Running:
    """Begin `kedge ARGUMENTS` in `place`; with `module` as `python -m kedge` would, with `out` onto that device."""
    number = len(place.commands)
    place.commands.append(" ".join(arguments))
    streams = place.root / f"out-{number}.txt", place.root / f"err-{number}.txt"
    notes = place.root / f"{number}-{EVENTS}"
    sys.stdout.flush()
    sys.stderr.flush()
    process = os.fork()
    if process:
        return Running(process, place, time.perf_counter(), streams, notes)
    status = 70
    try:
        status = _child(list(arguments), place, fault, module, out, environment or {}, streams, notes)
    finally:
        os._exit(status)


def wait(running: Running, limit: float = 60, kill_after: float | None = None) -> Outcome:
    """Wait for a command; past `limit`, or on purpose after `kill_after` seconds, it is killed with its children."""
    until = running.began + (limit if kill_after is None else kill_after)
    pause, done = 0.002, 0
    while not done:
        done, code, used = os.wait4(running.process, os.WNOHANG)
        if not done and time.perf_counter() > until:
            break
        if not done:
            time.sleep(pause)
    late = not done
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(running.process, signal.SIGKILL)
    if late:
        with contextlib.suppress(ProcessLookupError):
            os.kill(running.process, signal.SIGKILL)
        _, code, used = os.wait4(running.process, 0)
    seconds = time.perf_counter() - running.began
    lines = running.notes.read_text(errors="replace").splitlines() if running.notes.exists() else []
    held = max(0.0, used.ru_maxrss / 1024 - _resident())
    running.place.killed |= late or os.waitstatus_to_exitcode(code) == -signal.SIGKILL
    running.place.most = max(running.place.most, held)
    return Outcome(
        status=None if late and kill_after is None else os.waitstatus_to_exitcode(code),
        out=running.streams[0].read_text(errors="replace") if running.streams[0].exists() else "",
        err=running.streams[1].read_text(errors="replace") if running.streams[1].exists() else "",
        seconds=seconds,
        memory=held,
        events=[line[2:] for line in lines if line.startswith("e ")],
        outside=[line[2:] for line in lines if line.startswith("o ")],
    )


def bounded() -> None:
    """Give this process no more than twice the memory that a command may take beyond what it began with."""
    most = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize() + 2 * MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _resident() -> float:
    """MiB of its own that this process holds, which a fork begins with; what lies in files comes back as it is used."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024


def _child(
    arguments: list[str],
    place: Place,
    fault: Fault | None,
    module: bool,
    out: str | None,
    environment: Mapping[str, str],
    streams: tuple[Path, Path],
    notes: Path,
) -> int:
    os.setsid()
    faulthandler.disable()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    _stream(0, "/dev/null", os.O_RDONLY)
    _stream(1, out or str(streams[0]), os.O_WRONLY | os.O_CREAT)
    _stream(2, str(streams[1]), os.O_WRONLY | os.O_CREAT)
    if out == "closed":
        os.close(1)
    # As a new Python opens them: what is no UTF-8 in a name goes onto the terminal's error stream escaped.
    sys.stdout = None if out == "closed" else os.fdopen(1, "w", encoding="utf-8", errors="strict")
    sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    os.chdir(place.work)
    os.environ.update({"HOME": str(place.home), "TMPDIR": str(place.temporary), "COLUMNS": "120", **environment})
    os.environ["PATH"] = f"{place.programs}{os.pathsep}{os.environ['PATH']}"
    os.environ.pop("PYTHONPATH", None)
    tempfile.tempdir = None
    sys.path[0] = str(place.work if module else Path(sys.executable).parent)
    sys.argv = [str(Path(sys.executable).with_name("kedge")), *arguments]
    random.seed()
    bounded()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from kedge.cli import main

    watch = Watch(place.root, fault, notes)
    try:
        status = main(arguments)
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    with contextlib.suppress(Exception):
        if sys.stdout is not None:
            sys.stdout.flush()
    watch.end()
    return status


def _stream(number: int, path: str, flags: int) -> None:
    if path == "closed":
        return
    opened = os.open(path, flags, 0o600)
    os.dup2(opened, number)
    os.close(opened)

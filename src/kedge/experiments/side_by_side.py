"""Processes of one machine that share runs out between them."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from kedge.own_code import command

__all__ = ["cores", "shares", "side_by_side"]

GRACE = 10.0  # seconds that a process has to end after it was asked to


def cores() -> int:
    """How many CPU cores this process may use."""
    try:
        return len(os.sched_getaffinity(0))  # type: ignore[attr-defined,unused-ignore]
    except AttributeError:  # macOS, Windows
        return os.cpu_count() or 1


def shares(jobs: int, part: int = 1, parts: int = 1) -> list[str]:
    """`K/N` for each of `jobs` processes that share out part `part` of `parts`.

    Part k of n is each nth run from the kth on; its job j of m each (n·m)th from the (k + j·n)th on.
    """
    return [f"{part + job * parts}/{parts * jobs}" for job in range(jobs)]


def side_by_side(
    commands: Sequence[Sequence[str]],
    logs: Sequence[Path],
    tick: Callable[[], None],
    well: Sequence[int] = (0,),
    gpus: int = 1,
) -> list[str]:
    """Run commands of kedge at once, each with its share of the CPU; what went wrong, in words.

    Args:
        commands: the words after `kedge`.
        logs: the files that what they print is added to.
        tick: called about once a second while they run, and once afterwards.
        well: exit statuses with which nothing went wrong.
        gpus: of more than one that this process may use, each sees one.

    However this is left, by an interruption or SIGTERM too, no process is.
    """
    threads = max(1, cores() // len(commands))
    children: list[subprocess.Popen[bytes]] = []
    before = None
    if threading.current_thread() is threading.main_thread():  # no other one may set a handler
        before = signal.signal(signal.SIGTERM, _interrupted)
    try:
        for job, (words, log) in enumerate(zip(commands, logs, strict=True)):
            environment = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads))}
            if gpus > 1:
                seen = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))
                environment["CUDA_VISIBLE_DEVICES"] = seen.split(",")[job % gpus]
            log.parent.mkdir(parents=True, exist_ok=True)
            with open(log, "a", encoding="utf-8") as file:
                call = [*command(), *words]
                children.append(subprocess.Popen(call, env=environment, stdout=file, stderr=subprocess.STDOUT))
        while any(child.poll() is None for child in children):
            time.sleep(0.5)
            tick()
        tick()
    finally:
        _end(children)
        if before is not None:
            signal.signal(signal.SIGTERM, before)
    return [_why(child.returncode, log) for child, log in zip(children, logs, strict=True)
            if child.returncode not in well]  # fmt: skip


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def _end(children: Sequence["subprocess.Popen[bytes]"]) -> None:
    for child in children:
        if child.poll() is None:
            child.terminate()
    until = time.monotonic() + GRACE
    for child in children:
        try:
            child.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


def _why(code: int, log: Path) -> str:
    last = log.read_text(encoding="utf-8", errors="replace").strip().split("\n")[-1]
    if code < 0:
        known = {each.value: each.name for each in signal.Signals}
        ended = f"a process was ended by {known.get(-code, f'signal {-code}')}"
        why = ", as happens where memory runs out" if known.get(-code) == "SIGKILL" else ""
        return f"{ended}{why} (see {log})"
    return f"a process stopped (see {log}): {last}"

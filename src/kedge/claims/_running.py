"""Run claims, each variant of each seed once: what a folder has is not done again."""

import json
import multiprocessing
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kedge import data
from kedge.claims._base import Claim, claim
from kedge.claims._sources import digest, text_digest
from kedge.clock import now
from kedge.evaluation.provenance import machine
from kedge.files import sweep, write_text
from kedge.json_text import read_json

__all__ = ["Task", "missing_data", "record_of", "run_tasks", "tasks"]


@dataclass(frozen=True)
class Task:
    """One variant of one seed of a claim, and the file of what was measured."""

    name: str
    variant: str
    seed: int
    out: Path

    @property
    def file(self) -> Path:
        """`measured/CLAIM/VARIANT-SEED.json`."""
        return self.out / "measured" / self.name / f"{self.variant}-{self.seed}.json"


def tasks(names: Sequence[str], seeds: Sequence[int] | None, out: Path) -> list[Task]:
    """All that is to be done, the variants of a seed one after another; `seeds` None: as each claim says."""
    return [
        Task(name, variant, seed, out)
        for name in names
        for each in [claim(name)]
        for seed in (range(each.seeds) if seeds is None else seeds)
        for variant in each.variants
    ]


def record_of(task: Task) -> dict[str, Any] | None:
    """What was measured; None if nothing was, or by another text of the claim or of what it uses."""
    try:
        record: dict[str, Any] = read_json(task.file, nan=True)
    except (OSError, ValueError):
        return None
    same = isinstance(record.get("measures"), dict) and _texts(task.name).items() <= record.items()
    return record if same else None


def missing_data(each: Claim) -> str | None:
    """The first data set that a claim needs and that is not here."""
    for name in each.data:
        try:
            data.splits(name)
        except data.DataError:
            return name
    return None


def run_tasks(todo: Sequence[Task], jobs: int, notice: Callable[[str], None]) -> list[str]:
    """Do what is not done, `jobs` at once with one thread each; what went wrong, in words."""
    waiting = [task for task in todo if record_of(task) is None]
    failed = []
    for number, (task, error, seconds) in enumerate(_outcomes(waiting, jobs), 1):
        what = f"{task.name}, {task.variant}, seed {task.seed} ({number} of {len(waiting)})"
        notice(f"{what}: {seconds:.0f} s" if error is None else f"{what}: {error}")
        if error is not None:
            failed.append(f"{what}: {error}")
    return failed


def _outcomes(waiting: Sequence[Task], jobs: int) -> Iterator[tuple[Task, str | None, float]]:
    if jobs == 1:
        yield from map(_do, waiting)
        return
    # Spawned: a forked process would share torch's threads with this one.
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn"))
    try:
        for future in as_completed([pool.submit(_do, task) for task in waiting]):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _do(task: Task) -> tuple[Task, str | None, float]:
    began, computing = time.perf_counter(), time.process_time()
    try:
        each = claim(task.name)
        if task.variant not in each.variants:
            raise ValueError(f"no variant is named {task.variant!r}; there are {', '.join(each.variants)}")
        with _one_thread():
            measures = each.run(task.variant, task.seed)
    except (ValueError, RuntimeError, OSError) as error:
        return task, f"{type(error).__name__}: {error}", time.perf_counter() - began
    seconds = time.perf_counter() - began
    record = {
        "measures": measures,
        "seconds": seconds,
        "seconds of a core": time.process_time() - computing,
        **_texts(task.name),
        "created": now(),
        "machine": machine(),
    }
    task.file.parent.mkdir(parents=True, exist_ok=True)
    sweep(task.file.parent)
    write_text(task.file, json.dumps(record, indent=1) + "\n")
    return task, None, seconds


@contextmanager
def _one_thread() -> Iterator[None]:
    """Small networks are no faster with more, and times are comparable."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _texts(name: str) -> dict[str, str]:
    """Of the claim's file, and of what it uses: what another text of them measured is measured again."""
    return {"text": text_digest(name), "uses": digest(name)}

"""Answers of several processes to one file: each writes its share as it comes, and goes on where it was killed."""

import hashlib
import itertools
import json
import math
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kedge.cli.answers import FIELDS, Row, write_file
from kedge.files import lock, whole, write_text
from kedge.json_text import parse_json, read_json

__all__ = ["Share", "check_alone", "place_among_processes"]

_PATIENCE = 600.0  # seconds without a new answer after which another process counts as gone
_LOOK = 0.2  # seconds between looks


def place_among_processes() -> tuple[int, int, int]:
    """(rank, processes, rank on this machine) under torchrun or Slurm's srun, as for training; (0, 1, 0) alone."""
    if not {"TORCHELASTIC_RUN_ID", "SLURM_NTASKS"}.intersection(os.environ):
        return 0, 1, 0
    from lightning.fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment

    for kind in (TorchElasticEnvironment, SLURMEnvironment):
        if kind.detect():
            there = kind()
            return there.global_rank(), there.world_size(), there.local_rank()
    return 0, 1, 0


def check_alone(command: str) -> None:
    """Raise ValueError under torchrun with several processes, for a command that would do all of its work in each.

    Not under Slurm: a batch script of several tasks has its variables also where a command is started once.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ and (world := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        raise ValueError(
            f"{command} is one process: each of {world} would do everything, and write the same files. "
            "Start it without torchrun"
        )


class Share:
    """The answers of one of `world` processes to images rank, rank + world, rank + 2 world, ... of a call.

    They lie in `OUT.parts/` as JSON lines until the last is there; then process 0 writes OUT under another name, gives
    it its own, and the parts go.

    Within it (`with`) no other process writes the same share.

    Args:
        out: the file that there is in the end.
        call: what the answers depend on, which a call that goes on must agree with.
        count: how many images the call has.
        rank: of this process.
        world: how many there are.

    Raises:
        FileExistsError: `out` is there already.
        ValueError: answers of another call lie there, or another process is writing them.
    """

    def __init__(self, out: Path, call: Mapping[str, Any], count: int, rank: int, world: int) -> None:
        if out.exists():
            raise FileExistsError(f"{out} is there already and is not overwritten: delete it, or name another file")
        self.out, self.count, self.rank, self.world = out, count, rank, world
        self._sign = hashlib.sha256(json.dumps(dict(call), sort_keys=True).encode()).hexdigest()
        self.folder = out.with_name(f"{out.name}.parts")
        self.folder.mkdir(parents=True, exist_ok=True)
        about = self.folder / "call.json"
        if not about.is_file():
            write_text(about, json.dumps(dict(call), indent=1))
        before = read_json(about)
        differing = [key for key in {**before, **call} if before.get(key) != call.get(key)]
        if differing and not any(path.stat().st_size for path in self.folder.glob("*.jsonl")):
            write_text(about, json.dumps(dict(call), indent=1))  # a call that failed before its first answer
        elif differing:
            words = "; ".join(f"{key}: {before.get(key)} then, {call.get(key)} now" for key in differing[:4])
            raise ValueError(
                f"{self.folder} holds answers of another call ({words}): go on as it began, or delete it to begin again"
            )
        self._path = self._part(rank)
        self._before = self._path.stat().st_mtime if self._path.is_file() else math.inf
        self._stream = self._path.open("a", encoding="utf-8", newline="")
        if not lock(self._stream.fileno()):
            self._stream.close()
            raise ValueError(f"{self._path} is being written by another process: the same command is running already")
        self.done = _whole_lines(self._path)

    def __enter__(self) -> "Share":
        return self

    def __exit__(self, *error: object) -> None:
        self._stream.close()

    def _part(self, rank: int) -> Path:
        return self.folder / f"{rank:05d}-of-{self.world:05d}.jsonl"

    def _end(self, rank: int) -> Path:
        return self._part(rank).with_suffix(".done")

    def _ended(self, rank: int) -> bool:
        """Whether a process has answered all its images of this call, not of one before it."""
        try:
            return self._end(rank).read_text(encoding="utf-8") == self._sign
        except OSError:
            return False

    def changed(self, paths: Sequence[str]) -> list[str]:
        """Which of the files were written, or put in their place, after the last answer of the call before."""
        return [path for path in paths if os.path.exists(path) and _touched(path) > self._before]

    def take(self, rows: Iterator[Row], note: Callable[[Row], Any]) -> None:
        """Write this process's answers after those that are there, each as it comes; `note` is called with all."""
        for before in _rows(self._path) if self.done else ():
            note(before)
        for row in rows:
            self._stream.write(json.dumps(row) + "\n")
            self._stream.flush()
            note(row)
        os.fsync(self._stream.fileno())
        if not self._ended(self.rank):  # else process 0 may be done with the folder by now
            write_text(self._end(self.rank), self._sign)

    def join(self, columns: Sequence[str], note: Callable[[Row], Any], say: Callable[[str], None]) -> None:
        """Process 0: wait for the others, then write the file, in the order of the images; `note` is called with each.

        Raises:
            RuntimeError: another process has written nothing for ten minutes, or not what it should have.
        """
        self._wait(say)
        for rank in range(self.world):
            images, answers = len(range(rank, self.count, self.world)), _lines(self._part(rank))[0]
            if answers != images:
                raise RuntimeError(
                    f"{self._part(rank)} holds {answers} answers to {images} images: it is damaged, or was written by "
                    f"two processes. Delete {self.folder} to begin again"
                )

        def rows() -> Iterator[Row]:
            parts = [_rows(self._part(rank)) for rank in range(self.world)]
            for row in (row for turn in itertools.zip_longest(*parts) for row in turn if row is not None):
                note(row)
                yield row

        with whole(self.out) as temporary:
            write_file(temporary, columns, rows())
        shutil.rmtree(self.folder)

    def _wait(self, say: Callable[[str], None]) -> None:
        sizes, since, announced = list[int](), time.monotonic(), False
        while missing := [rank for rank in range(self.world) if not self._ended(rank)]:
            now = [path.stat().st_size if (path := self._part(rank)).exists() else 0 for rank in missing]
            if now != sizes:
                sizes, since = now, time.monotonic()
            if time.monotonic() - since > _PATIENCE:
                raise RuntimeError(
                    f"process {missing[0]} of {self.world} has written no answer for {_PATIENCE / 60:.0f} minutes: "
                    "start all of them again with the same command, which goes on where each was"
                )
            if not announced and time.monotonic() - since > 10:
                say(f"waiting for the answers of process {', '.join(map(str, missing[:8]))} of {self.world}")
                announced = True
            time.sleep(_LOOK)


def _touched(path: str) -> float:
    """When a file was last written or moved here."""
    about = os.stat(path)
    return max(about.st_mtime, about.st_ctime)


def _whole_lines(path: Path) -> int:
    """How many whole lines a file has; a part of a line at its end, of a process that was killed, is cut off."""
    count, end = _lines(path)
    os.truncate(path, end)
    return count


def _lines(path: Path) -> tuple[int, int]:
    """(how many whole lines a file has, where the last of them ends)."""
    count = end = at = 0
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            count += block.count(b"\n")
            if (last := block.rfind(b"\n")) >= 0:
                end = at + last + 1
            at += len(block)
    return count, end


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8", errors="backslashreplace", newline="") as file:
        for number, line in enumerate(file, 1):
            row = parse_json(line, f"{path}, line {number},", nan=True)
            if missing := [name for name in FIELDS if name not in row]:
                raise ValueError(f"{path}, line {number}, has no {missing[0]}: delete {path.parent} to begin again")
            yield row

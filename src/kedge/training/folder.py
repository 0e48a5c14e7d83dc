"""The run's folder: its recipe, what it ran with, its metrics; it and each file in it are whole or not there."""

import csv
import io
import json
import logging
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

from kedge import checkpoint
from kedge._version import __version__
from kedge.anchoring import PixelModel
from kedge.clock import now
from kedge.data.folders import same_place
from kedge.files import is_temporary, lock, sweep, whole_folder, write_text
from kedge.regular import read_text
from kedge.training.digests import MAY_CHANGE, may_grow, stamp
from kedge.training.recipe import Recipe, changed, read_recipe
from kedge.training.record import FILE, ImageRecord
from kedge.training.recorded import recorded, recorded_facts

__all__ = ["RunFolder", "unbegun"]

log = logging.getLogger("kedge")

COLUMNS = ("epoch", "step", "lr", "train_loss", "val_accuracy", "val_nll", "val_ece", "seconds")
_LARGEST = 100_000_000  # bytes of metrics.csv: a million epochs


class RunFolder:
    """`runs/NAME/` with recipe.yaml, run.json, images.safetensors, metrics.csv, last.ckpt, model/ and report.html.

    Beside report.html lies images.csv, a line for each image that the page is of.

    A run with init_from has the model it began from in start/; one that attacks its validation images keeps the best
    weights so far in best-EPOCH.safetensors, and in the end the model that is not model/ in last/, or best/. Copies of
    the model after some epochs are in snapshots/epoch-NNNN/.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoint = path / "last.ckpt"
        self.model = path / "model"
        self.start = path / "start"
        self.report = path / "report.html"
        self._claim: int | None = None  # descriptor of the folder while this process holds it

    @property
    def has_start(self) -> bool:
        """Whether the model that the run began with is kept."""
        return (self.start / "config.json").is_file()

    def best(self, epoch: int) -> Path:
        """The weights of `epoch`, if they were the best so far."""
        return self.path / f"best-{epoch}.safetensors"

    def snapshot(self, epoch: int) -> Path:
        """The model folder of the copy kept after `epoch`."""
        return self.path / "snapshots" / f"epoch-{epoch:04d}"

    def snapshots(self) -> dict[int, Path]:
        """The model folders of the copies that were kept, by epoch."""
        return {int(path.name.removeprefix("epoch-")): path for path in sorted(self.path.glob("snapshots/epoch-*"))}

    def clear_best(self, but: int | None = None) -> None:
        """Delete the weights of all epochs, `but` of one."""
        for path in self.path.glob("best-*.safetensors"):
            if but is None or path != self.best(but):
                path.unlink(missing_ok=True)

    def best_row(self) -> dict[str, Any] | None:
        """The row of the epoch that is best under attack, of equals the more accurate, then the first; or None."""
        rows = [row for row in self.rows() if "val_pgd" in row]
        return max(rows, key=lambda row: (row["val_pgd"], row["val_accuracy"]), default=None)

    @classmethod
    def plan(cls, recipe: Recipe) -> "RunFolder":
        """The folder for a new run; FileExistsError if it is there already. Makes nothing yet.

        Without a name it is called by data, model and time, and by a number where two runs start in one second.
        """
        runs = Path(recipe.runs)
        if recipe.name is None:
            model = recipe.model if recipe.init_from is None else f"{Path(recipe.init_from).resolve().name}-tuned"
            data, model = (Path(part).name or "run" for part in (recipe.data or "digits", model))
            data = data.replace(":", "-")  # which Windows takes in no name
            name = f"{data}-{model}-{time.strftime('%Y%m%d-%H%M%S')}"
            numbered = (f"{name}-{number}" for number in range(2, 1000))
            return cls(next(path for n in chain([name], numbered) if not (path := runs / n).exists()))
        path = runs / recipe.name
        if path.exists() and not unbegun(path):
            raise FileExistsError(
                f"{path} is there already and is not overwritten: continue it with --resume {path}, "
                f"or give the new run another name"
            )
        return cls(path)

    @classmethod
    def open(cls, path: str | Path) -> "RunFolder":
        """The folder of an earlier run; FileNotFoundError if it is none."""
        folder = cls(Path(path))
        if not folder.path.is_dir() and (Path(Recipe.runs) / path).is_dir():
            folder = cls(Path(Recipe.runs) / path)
        if not folder.path.is_dir():
            others = sorted(p.parent.name for p in folder.path.parent.glob("*/recipe.yaml"))[-5:]
            have = f"; {folder.path.parent} holds {', '.join(others)}" if others else ""
            raise FileNotFoundError(f"no run folder at {path}{have}")
        if not (folder.path / "recipe.yaml").is_file():
            raise FileNotFoundError(f"{path} is not the folder of a run: it holds no recipe.yaml")
        return folder

    def create(
        self,
        recipe: Recipe,
        facts: dict[str, Any],
        images: ImageRecord | None = None,
        start: PixelModel | None = None,
    ) -> dict[str, Any]:
        """Make the folder, whole or not at all, with what is known at the start; gives the facts with their digests.

        `start`: the model that the run begins with, where it could not be made again from the recipe.
        """
        sweep(self.path.parent)
        if unbegun(self.path):
            shutil.rmtree(self.path)
        with whole_folder(self.path) as new:
            begun = RunFolder(new)
            if images is not None:
                images.write(new)
            if start is not None:
                checkpoint.save(start, begun.start)
            facts = {**facts, **stamp(recipe, new / FILE)}
            begun.write_facts(facts)
            write_text(new / "recipe.yaml", recipe.to_yaml())
        return facts

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Keep other processes from going on with the run meanwhile; a process that dies lets go.

        Raises:
            ValueError: another process is at the run.
        """
        if self._claim is not None or os.name == "nt":
            yield
            return
        self._claim = os.open(self.path, os.O_RDONLY)
        try:
            if not lock(self._claim):
                raise ValueError(
                    f"another process trains {self.path} at this moment; wait for it, or end it before you go on with "
                    f"--resume {self.path}"
                )
            yield
        finally:
            os.close(self._claim)
            self._claim = None

    def sweep(self) -> None:
        """Delete what dead processes left unfinished in the folder and beside it."""
        sweep(self.path.parent)
        for folder in (self.path, self.model, self.start, *(self.path / name for name in ("best", "last"))):
            sweep(folder)
        for folder in self.path.glob("snapshots/*"):
            sweep(folder)

    def recipe(self, changes: "Recipe | dict[str, Any] | None" = None) -> Recipe:
        """The recipe of the run, with the few fields taken from `changes` that a resumed run may change.

        Raises ValueError naming the first other field in which `changes` differs.
        """
        stored = read_recipe(self.path / "recipe.yaml")
        if not recorded(self.path):
            raise ValueError(f"{self.path / 'recipe.yaml'} is empty: it was cut off. Put it back, or start a new run")
        if changes is None:
            return stored
        if isinstance(changes, Recipe):
            original = Recipe.from_dict(self.facts().get("given", {}))
            other, keys = changes, [k for k in changed(original, changes) if k in changed(stored, changes)]
        else:
            values = Recipe.typed(changes)
            other = Recipe.from_dict({**asdict(stored), **values})
            keys = [k for k in changed(stored, other) if k in values]
        if "init_from" in keys and same_place(stored.init_from, other.init_from):
            keys.remove("init_from")
        for key in keys:
            if key not in MAY_CHANGE and not (key == "epochs" and may_grow(stored, other.epochs)):
                raise ValueError(
                    f"a resumed run keeps its recipe: {key} is {getattr(stored, key)!r} there, not "
                    f"{getattr(other, key)!r}. Only {', '.join(MAY_CHANGE[:7])} may change{_about_epochs(key)}; for "
                    f"another {key} start a new run"
                )
        goes_on = replace(stored, **{k: getattr(other, k) for k in keys if k not in ("runs", "name")})
        if not stored.sync and goes_on.world != stored.world:
            raise ValueError(
                f"without sync what each device draws depends on how many there are: the run has {stored.world}, not "
                f"{goes_on.world}; resume it on as many"
            )
        return goes_on

    def facts(self) -> dict[str, Any]:
        """What run.json holds.

        Raises:
            ValueError: if it is not there, or damaged.
        """
        try:
            return recorded_facts(self.path)
        except (OSError, ValueError) as error:
            raise ValueError(f"{self.path / 'run.json'} cannot be read: {error}") from error

    def write_facts(self, facts: dict[str, Any]) -> None:
        """Write run.json."""
        write_text(self.path / "run.json", json.dumps(facts, indent=2, ensure_ascii=False) + "\n")

    def rows(self, before: int | None = None) -> list[dict[str, Any]]:
        """The rows of metrics.csv, of the epochs up to and with `before` if it is given."""
        path = self.path / "metrics.csv"
        if not path.is_file():
            return []
        try:
            rows = [_numbers(row) for row in csv.DictReader(io.StringIO(read_text(path, _LARGEST), newline=""))]
        except (csv.Error, ValueError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is not the table of a run's epochs: {error}") from error
        return rows if before is None else [row for row in rows if row["epoch"] <= before]

    def write_rows(self, rows: list[dict[str, Any]]) -> None:
        """Write metrics.csv."""
        text = io.StringIO()
        more = [k for k in dict.fromkeys(k for row in rows for k in row) if k not in COLUMNS]
        writer = csv.DictWriter(text, [*COLUMNS, *more], lineterminator="\n")
        writer.writeheader()
        writer.writerows({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows)
        write_text(self.path / "metrics.csv", text.getvalue())


def unbegun(path: Path) -> bool:
    """Whether a folder holds nothing but what dead processes left: a run makes its own whole or not at all."""
    return path.is_dir() and all(is_temporary(each.name) for each in path.iterdir())


def _about_epochs(key: str) -> str:
    return ", and more epochs where nothing in the recipe follows their number" if key == "epochs" else ""


def _numbers(row: dict[str, str]) -> dict[str, Any]:
    """A row of metrics.csv; TypeError or ValueError for one that is none."""
    numbers: dict[str, Any] = {k: int(v) if k in ("epoch", "step") else float(v) for k, v in row.items() if v}
    if "epoch" not in numbers:
        raise ValueError(f"a row says of no epoch: {', '.join(map(str, row.values()))[:80]!r}")
    return numbers


def surroundings() -> dict[str, Any]:
    """What a run is made with: versions, platform, command, time."""
    libraries = ("torch", "torchvision", "timm", "lightning", "torchmetrics", "numpy")
    return {
        "kedge": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in libraries},
        "platform": platform.platform(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "started": now(),
    }

"""The commands that are disturbed: what each starts from, how a user would go on, and what should be there then."""

import re
import shlex
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks.faults.forks import Outcome, Place, call
from benchmarks.faults.tries import TINY, Base, Expected, spoiled

GOING_ON = 120.0  # seconds


@dataclass(frozen=True, eq=False)
class Scene:
    """A command to disturb; `again` are the commands a user tries in turn until one ends well."""

    name: str
    start: Callable[[Base], Path]
    command: list[str]
    again: tuple[list[str], ...]


def _empty(base: Base) -> Path:
    return base.empty


def _run(base: Base) -> Path:
    return base.run


def _half(base: Base) -> Path:
    return base.half


_TRAIN = ["train", *TINY, "--name", "r"]
_TUNE = [
    "train", "--config", "robust-finetune", "--init-from", "base", "--eps", "0.1", "--epochs", "2", "--batch_size",
    "50",
    "--train_images", "200", "--val_pgd_steps", "2", "--val_pgd_images", "20", "--device", "cpu", "--workers", "0",
    "--name", "r",
]  # fmt: skip
_RESUME = ["train", "--resume", "runs/r"]
_EVALUATE = ["evaluate", "base", "--shift", "contrast", "--severities", "1", "--limit", "40", "--device", "cpu"]
_ADAPT = [
    "adapt", "base", "--data", "digits", "--how", "linear-probe", "lp-ft", "--shots", "3", "--epochs", "1", "--device",
    "cpu",
]  # fmt: skip
_REPRODUCE = ["reproduce", "tiny.yaml", "--device", "cpu"]
_INTERPOLATE = [
    "interpolate", "base", "other", "--sweep", "--alphas", "0.5", "--limit", "40", "--steps", "2", "--attack_images",
    "20", "--bn_images", "100", "--overwrite",
]  # fmt: skip
SCENES = (
    Scene("train", _empty, _TRAIN, (_RESUME, _TRAIN)),
    Scene("resume", _half, _RESUME, (_RESUME,)),
    Scene("finetune", _run, _TUNE, (_RESUME, _TUNE)),
    Scene("adapt", _run, _ADAPT, (_ADAPT,)),
    Scene("evaluate", _run, _EVALUATE, (_EVALUATE,)),
    Scene("reproduce", _empty, _REPRODUCE, (_REPRODUCE,)),
    Scene("calibrate", _run, ["calibrate", "base"], (["calibrate", "base"],)),
    Scene("interpolate", _run, _INTERPOLATE, (_INTERPOLATE,)),
    Scene("card", _run, ["card", "base"], (["card", "base"],)),
    Scene("export", _run, ["export", "base", "--to", "onnx"], (["export", "base", "--to", "onnx"],)),
    Scene("export-torch", _run, ["export", "base", "--to", "torch"], (["export", "base", "--to", "torch"],)),
    Scene(
        "predict",
        _run,
        ["predict", "base", "images", "--format", "csv"],
        (["predict", "base", "images", "--format", "csv"],),
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Known:
    """A scene that ran undisturbed twice."""

    scene: Scene
    expected: Expected
    events: list[str]
    seconds: float
    before: int
    after: int


@cache
def known(scene: Scene, base: Base) -> Known:
    """Run the scene twice, undisturbed; what both agree on is what is expected of a disturbed one."""
    start = scene.start(base)
    places = base.place(start), base.place(start)
    first = call(scene.command, places[0], 240)
    time.sleep(1.1)  # a time of day that is written must not be the same by chance
    ends = first, call(scene.command, places[1], 240)
    for end in ends:
        if end.status != 0:
            raise SystemExit(f"kedge {shlex.join(scene.command)} does not work here: {end.err or end.out}")
    said = (ends[0].out, ends[1].out) if scene.name == "predict" else ("", "")
    expected = Expected.of((places[0].work, places[1].work), said)
    sizes = size_of(start), size_of(places[0].work)
    for place in places:
        place.gone()
    return Known(scene, expected, ends[1].events, ends[1].seconds, *sizes)


def size_of(folder: Path) -> int:
    """Bytes of its files on a disk of 4 KiB blocks; folders take none of a tmpfs."""
    return sum(4096 * -(-p.stat().st_size // 4096) for p in folder.rglob("*") if p.is_file())


def go_on(scene: Scene, place: Place, expected: Expected) -> str | None:
    """Go on after a fault as a user would, and compare; None where all is as it should be."""
    said = []
    for command in scene.again:
        done = call(command, place, GOING_ON)
        if wrong := spoiled(done, place):
            return f"going on with kedge {command[0]}: {wrong}"
        if done.status == 0:
            return _compared(done, expected, place)
        said.append(done.last)
    if _obeyed(said, place.work) and (done := call(scene.command, place, GOING_ON)).status == 0:
        return _compared(done, expected, place)
    return f"dead end: {said[-1]}"


def _compared(done: Outcome, expected: Expected, place: Place) -> str | None:
    if expected.said and done.out != expected.said:
        return "printed other answers"
    return expected.differs(place.work)


def _obeyed(said: list[str], work: Path) -> bool:
    """Delete what the words say is to be deleted before the command is given again; whether they said so."""
    targets = [
        target for words in said for target in re.findall(r"(?:[Dd]elete|[Rr]emove) [^/]*?([\w.-]+/[\w./-]+)", words)
    ]
    paths = [(work / target.rstrip(".,;:")).resolve() for target in targets]
    paths = [p for p in paths if p.is_relative_to(work.resolve()) and p != work.resolve() and p.exists()]
    for path in paths:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return bool(paths)

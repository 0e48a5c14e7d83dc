"""What a try is, the folder that all of them start from, and how what is left is compared with what should be."""

import hashlib
import json
import math
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Any

from benchmarks.faults.events import Fault
from benchmarks.faults.forks import Outcome, Place, call

# Two epochs of 200 digits on a network of five thousand weights: a second and a half.
TINY = [
    "--data", "digits", "--model", "kedge_resnet_small", "--arguments", "{width: 4}", "--train_images", "200",
    "--batch_size", "50", "--references", "2", "--device", "cpu", "--workers", "0", "--epochs", "2",
]  # fmt: skip
# How a result came about, not what it is; and a digest of a file whose header has an order by chance.
PASSING = ("/parts_found", "/parts_measured", "/peak_memory_mb", "/digests/images")
EXPERIMENT = """title: Tiny
source: this campaign
data: digits
base: {model: kedge_resnet_small, arguments: {width: 4}, objective: [{Anchored: {alpha: 0.25}}, CrossEntropy],
  train_images: 300, classes: [0, 1, 2], epochs: 1, batch_size: 50, references: 2, device: cpu, workers: 0}
variants:
  standard: {anchored: false, objective: [CrossEntropy]}
  masked: {}
evaluation: {shift: [contrast], severities: [2], references: 1, limit: 40}
scales: {laptop: {}}
seeds: 1
"""


@dataclass(frozen=True)
class Try:
    """One fault in a copy of the folder `start`: `run` gives None where it held, else what did not, in words."""

    name: str
    start: Path
    run: Callable[[Place], str | None]


@dataclass(frozen=True)
class Asked:
    """Which tries are wanted: a pattern of names, and whether some, few (`quick`) or all (`every`) of them."""

    seed: int
    quick: bool
    every: bool
    pattern: str

    def draw(self, of: str) -> random.Random:
        """What draws the tries `of` one command: the same whichever others are wanted."""
        return random.Random(f"{self.seed} {of}")

    def wants(self, prefix: str) -> bool:
        """Whether a pattern such as kills/train/* can mean a name that begins with `prefix`."""
        parts, mine = self.pattern.split("/"), prefix.rstrip("/").split("/")
        return all(fnmatch(word, part) for word, part in zip(mine, parts, strict=False))

    def some(self, of: str, choices: Sequence[Any], few: int, some: int) -> list[Any]:
        """As many of `choices` as wanted, in their order; all where a single try is asked for by its name."""
        one = self.pattern.count("/") >= 2 and not any(sign in self.pattern for sign in "*?[")
        most = len(choices) if self.every or one else few if self.quick else some
        if len(choices) <= most:
            return list(choices)
        return [choices[place] for place in sorted(self.draw(of).sample(range(len(choices)), most))]


class Base:
    """What tries start from, made once: a finished run, another, one that was broken off, images, exported files."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.counter = 0

    def place(self, start: Path | None = None, name: str | None = None) -> Place:
        """A new place whose working folder is a copy of that of `start` (default: empty)."""
        self.counter += 1
        place = Place(self.root / (name or f"try-{self.counter}"))
        if start is not None:
            shutil.copytree(start, place.work, dirs_exist_ok=True, symlinks=True)
        return place

    def _ran(self, name: str, start: Path | None, *commands: list[str]) -> Path:
        place = self.place(start, name)
        for command in commands:
            if (done := call(command, place, 240)).status != 0:
                raise SystemExit(f"kedge {' '.join(command)} does not work here: {done.err or done.out}")
        return place.work

    @cached_property
    def empty(self) -> Path:
        place = self.place(None, "empty")
        (place.work / "tiny.yaml").write_text(EXPERIMENT)
        photos = place.work / "images"
        photos.mkdir()
        for number, image in enumerate(_digits()):
            image.save(photos / f"{number}.png")
        return place.work

    @cached_property
    def run(self) -> Path:
        """With runs/base and runs/other, both finished."""
        return self._ran(
            "run", self.empty, *(["train", *TINY, "--name", n, "--seed", s] for n, s in (("base", "0"), ("other", "1")))
        )

    @cached_property
    def half(self) -> Path:
        """With runs/r, killed after the first of its two epochs."""
        train = ["train", *TINY, "--name", "r"]
        events = call(train, self.place(self.empty, "whole")).events
        last = [k for k, event in enumerate(events, 1) if event.startswith("rename") and event.endswith("last.ckpt'")]
        place = self.place(self.empty, "half")
        call(train, place, fault=Fault("kill", (last[0] if last else len(events) // 2) + 1))
        for path in list(place.work.rglob(".*.tmp")):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        return place.work

    @cached_property
    def files(self) -> Path:
        """With runs/base/base.onnx beside the runs."""
        return self._ran("files", self.run, ["export", "base", "--to", "onnx"])


def _digits() -> list[Any]:
    from PIL import Image
    from sklearn.datasets import load_digits

    return [Image.fromarray((image * 255 / 16).astype("uint8")) for image in load_digits().images[:4]]


def files_of(work: Path) -> dict[str, Path]:
    """The files below `work` by their relative name."""
    return {str(p.relative_to(work)): p for p in sorted(work.rglob("*")) if p.is_file() or p.is_symlink()}


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def bits(path: Path) -> str:
    """A digest of what a file holds: of a safetensors file whichever order its header has, which is by chance."""
    if path.suffix != ".safetensors":
        return digest(path)
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    try:
        header = dict(sorted(json.loads(data[8 : 8 + size]).items()))
    except ValueError:
        return digest(path)
    about = header.pop("__metadata__", {})
    held = hashlib.sha256(repr(sorted(about.items())).encode())
    for name, tensor in header.items():
        first, last = tensor.pop("data_offsets")
        held.update(repr((name, sorted(tensor.items()))).encode() + data[8 + size + first : 8 + size + last])
    return held.hexdigest()


def leaves(value: Any, at: str = "") -> dict[str, Any]:
    """The values of a JSON tree by the path to them."""
    if isinstance(value, dict):
        return {k: v for key, each in value.items() for k, v in leaves(each, f"{at}/{key}").items()}
    if isinstance(value, list):
        return {k: v for number, each in enumerate(value) for k, v in leaves(each, f"{at}/{number}").items()}
    return {at: value}


@dataclass
class Expected:
    """What two undisturbed runs agree on: names of files, bits of weights, values of JSON; the rest is only there."""

    names: frozenset[str]
    bits: Mapping[str, str]
    values: Mapping[str, Mapping[str, Any]]
    said: str | None

    @classmethod
    def of(cls, works: tuple[Path, Path], outs: tuple[str, str]) -> "Expected":
        first, second = (files_of(work) for work in works)
        names = {name for name in first.keys() & second.keys() if not _cached(name)}
        same, values = {}, {}
        for name in names:
            if name.endswith((".safetensors", ".onnx")) and bits(first[name]) == bits(second[name]):
                same[name] = bits(first[name])
            if name.endswith(".json"):
                a, b = (leaves(json.loads(files[name].read_text())) for files in (first, second))
                values[name] = {
                    key: value
                    for key, value in a.items()
                    if key in b and _same(b[key], value) and not key.endswith(PASSING)
                }
        return cls(frozenset(names), same, values, outs[0] if outs[0] == outs[1] else None)

    def differs(self, work: Path) -> str | None:
        """How the files below `work` differ from what they should be; None if they do not."""
        files = files_of(work)
        if other := [name for name in sorted(self.bits) if name in files and bits(files[name]) != self.bits[name]]:
            return f"other bits: {', '.join(other[:3])}"
        if missing := sorted(self.names - files.keys()):
            return f"missing: {', '.join(missing[:3])}"
        for name, expected in self.values.items():
            try:
                values = leaves(json.loads(files[name].read_text()))
            except ValueError as error:
                return f"{name} is not JSON: {error}"
            for key, value in expected.items():
                if not _same(values.get(key, "nothing"), value):
                    return f"{name}{key} is {values.get(key, 'nothing')!r}, not {value!r}"
        if extra := sorted(name for name in files.keys() - self.names if not _cached(name)):
            return f"left behind: {', '.join(extra[:3])}"
        return None


def _same(a: Any, b: Any) -> bool:
    """The same value: to six digits of a fraction, as what is kept and read again is rounded; NaN is NaN."""
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=1e-6) or (a != a and b != b)
    return bool(a == b)


def _cached(name: str) -> bool:
    """Whether a file is a measured part that is kept to go on from; its name is a digest, and may be another."""
    path = Path(name)
    return path.parent.name == "parts" and not path.name.startswith(".")


def temporary_files(work: Path) -> list[str]:
    """Files and folders below `work` that are called as temporary ones are."""
    return sorted(
        str(p.relative_to(work))
        for p in work.rglob("*")
        if p.name.startswith(".") or p.name.endswith((".tmp", ".new", ".part"))
    )


def spoiled(outcome: Outcome, place: Place, must_fail: bool = False) -> str | None:
    """What is wrong with how a command took a stranger's file; None if nothing is."""
    if place.marker.exists():
        return "CODE WAS EXECUTED"
    reasons = [outcome.fault()]
    for folder in (place.home,) if place.killed else (place.home, place.temporary):
        if written := [p for p in folder.rglob("*") if p.is_file()]:
            reasons.append(f"wrote outside its folder: {written[0].relative_to(place.root)}")
    if must_fail and outcome.status == 0:
        reasons.append("accepted without a word")
    return "; ".join(reason for reason in reasons if reason) or None

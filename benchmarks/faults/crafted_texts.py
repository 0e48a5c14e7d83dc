"""Crafted recipes, run folders, experiments, results: YAML, JSON and CSV, and the checkpoint beside them."""

import json
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.faults.tries import TINY

Prepare = Callable[[Path, Path], object]
DEEP = 100_000
NOT_TEXT = bytes(range(256)) * 8


class Payload:
    """Unpickled, it makes the marker."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self.marker), "w"))


def put(name: str, content: str | bytes) -> Prepare:
    """Write `content` to `name`, MARKER in it replaced by the marker's path."""

    def prepare(work: Path, marker: Path) -> None:
        path = work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        data = content.encode() if isinstance(content, str) else content
        path.unlink(missing_ok=True)
        path.write_bytes(data.replace(b"MARKER", str(marker).encode()))

    return prepare


def pickled(name: str) -> Prepare:
    def prepare(work: Path, marker: Path) -> None:
        (work / name).write_bytes(pickle.dumps(Payload(marker)))

    return prepare


def torch_pickled(name: str) -> Prepare:
    """A file of torch.save whose pickle runs code."""

    def prepare(work: Path, marker: Path) -> None:
        import torch

        torch.save({"state_dict": Payload(marker), "epoch": 1}, work / name)

    return prepare


def fifo(name: str) -> Prepare:
    def prepare(work: Path, marker: Path) -> None:
        (work / name).unlink(missing_ok=True)
        os.mkfifo(work / name)

    return prepare


def linked(name: str, target: str) -> Prepare:
    def prepare(work: Path, marker: Path) -> None:
        (work / name).unlink(missing_ok=True)
        (work / name).symlink_to(target)

    return prepare


def folder(name: str) -> Prepare:
    def prepare(work: Path, marker: Path) -> None:
        (work / name).unlink(missing_ok=True)
        (work / name).mkdir()

    return prepare


def both(*prepares: Prepare) -> Prepare:
    return lambda work, marker: [each(work, marker) for each in prepares]


def changed(name: str, change: Callable[[bytes], bytes]) -> Prepare:
    def prepare(work: Path, marker: Path) -> None:
        (work / name).write_bytes(change((work / name).read_bytes()))

    return prepare


def set_json(name: str, **values: Any) -> Prepare:
    """Set top-level values of a JSON file, NaN among them."""
    return changed(name, lambda data: json.dumps({**json.loads(data), **values}).encode())


BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 12)
)
EVIL_PY = "open({marker!r}, 'w').close()\nimport torch\nclass Loss(torch.nn.Module):\n    pass\ndef make(): pass\n"
YAML: dict[str, str | bytes] = {
    "python-object": '!!python/object/apply:os.system ["touch MARKER"]\n',
    "python-in-value": 'data: !!python/object/apply:os.system ["touch MARKER"]\n',
    "alias-bomb": BOMB + "data: *a11\n",
    "deep": "data: " + "[" * DEEP + "]" * DEEP,
    "binary": NOT_TEXT,
    "utf16": "data: digits\n".encode("utf-16"),
    "list": "- data\n- digits\n",
    "unclosed": "data: 'digits\n",
    "huge-number": "epochs: 1" + "0" * 5000 + "\n",
}
JSON: dict[str, str | bytes] = {
    "empty": b"",
    "empty-object": "{}",
    "list": "[1, 2]",
    "null": "null",
    "deep": "[" * DEEP + "]" * DEEP,
    "deep-object": '{"a":' * DEEP + "1" + "}" * DEEP,
    "binary": NOT_TEXT,
    "huge-number": '{"epochs": 1' + "0" * 5000 + "}",
    "nan": '{"data": NaN, "given": NaN, "validation": NaN, "finished": NaN, "models": NaN, "format": NaN}',
    "wrong-types": '{"data": 3, "given": [], "validation": "x", "finished": {}, "models": 7, "split": [], "cost": 0}',
}
RECIPES = {
    "code-objective": "objective: ['evil:Loss']\n",
    "code-objective-std": "objective: [{'os:system': {command: 'touch MARKER'}}]\n",
    "code-model": "model: 'evil:make'\n",
    "code-data": "data: 'evil:make()'\n",
    "code-init": "init_from: 'evil:make'\n",
    "name-outside": "name: ../../outside\n",
    "name-escape": 'name: "a\\e[31mb"\nepochs: x\n',
    "lr-nan": "lr: .nan\n",
    "lr-inf": "lr: .inf\n",
    "lr-negative": "lr: -1\n",
    "epochs-text": "epochs: many\n",
    "epochs-half": "epochs: 0.5\n",
    "width-half": "arguments: {width: 2.5}\n",
    "width-huge": "arguments: {width: 1000000}\n",
    "width-none": "arguments: {width: 0}\n",
    "arguments-list": "arguments: [1, 2]\n",
    "references-huge": "references: 1000000000000\n",
    "image-size-huge": "image_size: 1000000\n",
    "batch-none": "batch_size: 0\n",
    "classes-odd": "classes: [0, 0, -1]\n",
    "schedule-odd": "schedule: [1]\n",
    "label-noise-2": "label_noise: 2\n",
    "seed-text": "seed: now\n",
    "unknown-key": "epocs: 3\n",
    "objective-numbers": "objective: [1, 2]\n",
    "objective-deep": "objective: [{Anchored: {alpha: {a: {b: [1]}}}}, CrossEntropy]\n",
    "weights-directory": "model: resnet18\nweights: .\n",
}


def crafts() -> Iterator[tuple[Any, ...]]:
    train = ["train", *TINY, "--config", "evil.yaml"]
    evil = lambda work, marker: (work / "evil.py").write_text(EVIL_PY.format(marker=str(marker)))  # noqa: E731
    for name, text in {**YAML, "empty": "", **RECIPES}.items():
        given = train
        if isinstance(text, str) and text and ":" in text:  # what the file says must not be overruled by the flags
            given = ["train", "--config", "evil.yaml", *without(TINY, text)]
        for module in (False, True) if name.startswith("code") else (False,):
            started = "-module" if module else ""
            yield f"recipe/{name}{started}", "empty", both(put("evil.yaml", text), evil), given, bool(text), module
    yield "recipe/fifo", "empty", fifo("evil.yaml"), train
    yield "recipe/dev-zero", "empty", linked("evil.yaml", "/dev/zero"), train
    yield "recipe/folder", "empty", folder("evil.yaml"), train
    for name in ("w.pt", "w.pth", "w.safetensors", "w.ckpt"):
        weights = ["train", *without(TINY, "model: x\narguments: x\n"), "--model", "resnet18", "--weights", name]
        yield f"weights/pickle-{name}", "empty", pickled(name), weights
        yield f"weights/torch-pickle-{name}", "empty", torch_pickled(name), weights
    yield "weights/timm-pickle", "empty", torch_pickled("w.pt"), _timm("w.pt")
    resume = ["train", "--resume", "runs/r"]
    for name, content in YAML.items():
        yield f"resume/recipe-{name}", "half", put("runs/r/recipe.yaml", content), resume
    for module in (False, True):
        code = both(evil, changed("runs/r/recipe.yaml", lambda data: data.replace(b"- CrossEntropy", b"- evil:Loss")))
        yield f"resume/recipe-code{'-module' * module}", "half", code, resume, True, module
    for name, content in JSON.items():
        yield (
            f"resume/run-json-{name}",
            "half",
            put("runs/r/run.json", content),
            resume,
            name not in ("wrong-types", "empty-object", "nan"),
        )
    yield "resume/run-json-fifo", "half", fifo("runs/r/run.json"), resume
    yield "resume/recipe-fifo", "half", fifo("runs/r/recipe.yaml"), resume
    rows = {
        "binary": NOT_TEXT,
        "empty": b"",
        "words": "epoch,step\none,two\n",
        "huge": "epoch,step\n9" + "9" * 400 + ",1\n",
    }
    for name, content in rows.items():
        yield f"resume/metrics-{name}", "half", put("runs/r/metrics.csv", content), resume, False
    last = "runs/r/last.ckpt"
    yield "resume/checkpoint-pickle", "half", pickled(last), resume
    yield "resume/checkpoint-torch-pickle", "half", torch_pickled(last), resume
    yield "resume/checkpoint-text", "half", put(last, "no checkpoint"), resume
    yield "resume/checkpoint-empty", "half", put(last, b""), resume
    yield "resume/checkpoint-torn", "half", changed(last, lambda data: data[: len(data) // 2]), resume
    yield "resume/checkpoint-list", "half", lambda work, marker: _saved(work / last, [1, 2]), resume
    yield "resume/checkpoint-wrong", "half", lambda work, marker: _saved(work / last, {"state_dict": 3}), resume
    yield "resume/checkpoint-bomb", "half", lambda work, marker: _zip_bomb(work / last), resume
    yield "resume/checkpoint-fifo", "half", fifo(last), resume, False  # it begins anew
    yield "resume/checkpoint-bit", "half", changed(last, _flipped), resume
    yield "resume/checkpoint-folder", "half", folder(last), resume
    evaluate = ["evaluate", "base", "--shift", "none", "--limit", "20"]
    done = lambda work, marker: _evaluated(work)  # noqa: E731
    for name, content in JSON.items():
        kept = both(done, put("runs/base/evaluation/results.json", content))
        yield f"evaluate/results-{name}", "run", kept, evaluate, False
        yield f"card/results-{name}", "run", kept, ["card", "base"], False
        yield f"evaluate/run-json-{name}", "run", put("runs/base/run.json", content), evaluate, False
        yield f"card/run-json-{name}", "run", put("runs/base/run.json", content), ["card", "base"], False
    for name, content in YAML.items():
        yield f"evaluate/recipe-{name}", "run", put("runs/base/recipe.yaml", content), evaluate, False
        yield f"experiment/{name}", "empty", put("evil.yaml", content), ["reproduce", "evil.yaml", "--print"]
        yield f"init-from/recipe-{name}", "run", put("runs/base/recipe.yaml", content), _tuned(), False
    experiment = lambda work, marker: put(  # noqa: E731
        "evil.yaml", (work / "tiny.yaml").read_text().replace("CrossEntropy", "evil:Loss")
    )(work, marker)
    for module in (False, True):
        name = f"experiment/code{'-module' * module}"
        yield name, "empty", both(evil, experiment), ["reproduce", "evil.yaml", "--device", "cpu"], True, module
    yield "experiment/fifo", "empty", fifo("evil.yaml"), ["reproduce", "evil.yaml"]
    yield "evaluate/code", "run", evil, ["evaluate", "os:system", "--data", "digits", "--shift", "none", "--limit", "9"]


def without(given: list[str], text: str) -> list[str]:
    """The options of `given` that a recipe's text does not set itself."""
    keys = {line.split(":")[0].strip() for line in text.splitlines()[:40] if not line.startswith((" ", "-"))}
    pairs = zip(given[::2], given[1::2], strict=True)
    return [word for pair in pairs if pair[0].removeprefix("--") not in keys for word in pair]


def _timm(weights: str) -> list[str]:
    return ["evaluate", "timm/resnet18", "--weights", weights, "--data", "digits", "--shift", "none", "--limit", "9"]


def _tuned() -> list[str]:
    return [
        "train",
        "--init-from",
        "base",
        "--epochs",
        "1",
        "--train_images",
        "50",
        "--batch_size",
        "50",
        "--name",
        "t",
    ]


def _saved(path: Path, content: object) -> None:
    import torch

    torch.save(content, path)


def _zip_bomb(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file, file.open("archive/data.pkl", "w") as entry:
        for _ in range(2000):
            entry.write(bytes(1 << 20))


def _flipped(data: bytes) -> bytes:
    """One bit of a stored weight, in the middle of the file."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 16]) + data[middle + 1 :]


def _evaluated(work: Path) -> None:
    """The results of an evaluation, as its folder has them; only the file is looked at."""
    evaluation = work / "runs" / "base" / "evaluation"
    shutil.rmtree(evaluation, ignore_errors=True)
    evaluation.mkdir()

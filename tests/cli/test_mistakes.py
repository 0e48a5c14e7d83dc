"""Every command, every kind of mistake: exit status 1 or 2, one message with what was wrong in it, no traceback."""

import functools
import os
import re
import shutil
import subprocess
import sys
import time

import pytest
import torch

import kedge
from kedge import networks
from kedge.cli import COMMANDS, flags, main
from kedge.cli.flags import parser_of
from kedge.training import Recipe

MODELS = {
    "evaluate": ["--shift", "none"],
    "predict": ["pictures"],
    "calibrate": [],
    "export": [],
    "card": [],
    "push": ["owner/name"],
    "adapt": ["--data", "pictures"],
    "interpolate": ["saved"],
    "select": [],
    "subgroups": ["--groups", "folder"],
    "features": ["saved"],
    "cascade": ["saved", "--out", "both"],
    "demo": ["--port", "0"],
    "check": ["--min_accuracy", "0.5"],
}
# What a command needs to get as far as the option that is wrong.
NEEDED = {
    **{name: ["runs/mine", *rest] for name, rest in MODELS.items()},
    "train": ["--data", "digits"],
    "reproduce": ["digits-masking"],
    "compare": ["pictures", "digits", "--model", "runs/mine"],
    "audit": ["digits"],
    "check-data": ["digits"],
}
NO_MODELS = ["nowhere", "empty", "text.txt", "junk.bin", "junk.onnx", "empty.onnx", "emptyfolder", "junkmodel", "cut",
             "pictures", "saved/config.json/x", "runs/min", "timm/resnet1x", "hf-hub:nope", "nowhere:model", "x" * 5000,
             "\x1b[31mred", "null"]  # fmt: skip
NO_DATA = ["nowhere", "empty", "junk.bin", "emptyfolder", "text.txt", "digit", "x" * 5000, "saved"]
NO_DEVICES = ["gpu", "cuda:", "cuda:x", "3", "meta", "cpuu"]
# Numbers that an option takes although others do not: text is no number to any.
ANY_NUMBER = {"seed", "split_seed"}


def kind(action):
    return str(getattr(action, "_typehint", None) or action.type)


def numeric(action):
    one = bool(action.option_strings) and action.nargs is None and "list" not in kind(action)
    return one and ("int" in kind(action) or "float" in kind(action))


def options():
    for command in COMMANDS:
        for action in parser_of(command)._actions:
            yield command, action


def cases():
    for command, rest in MODELS.items():
        for model in NO_MODELS:
            yield [command, model, *rest], model
    for command, action in options():
        if not action.option_strings:
            continue
        flag, needed = action.option_strings[0], NEEDED.get(command, [])
        if numeric(action):
            wrong = ["abc", *([] if action.dest in ANY_NUMBER else ["-1"])]
            wrong.append("nan" if "float" in kind(action) else "99999999999999999999999999999")
            if "Literal" in kind(action):
                wrong.append("blx")
            for value in wrong:
                yield [command, *needed, flag, value], value
        elif action.choices:
            yield [command, *needed, flag, "nope"], "nope"
        elif action.dest == "device":
            for device in NO_DEVICES:
                yield [command, *needed, flag, device], device
            if not torch.cuda.is_available():
                yield [command, *needed, flag, "cuda"], "cuda"
        elif action.dest in ("data", "validation") and command not in ("reproduce", "export"):
            beside = {"predict": ["--adapt_at_test", "tent"], "evaluate": ["--unlabelled", "pictures"]}
            more = beside.get(command, []) if action.dest == "validation" else []
            for value in NO_DATA:
                yield [command, *needed, *more, flag, value], value
        elif action.dest in (
            "ood",
            "near",
            "shift",
            "scores",
            "attack",
            "unlabelled",
            "frost_textures",
            "how",
            "shots",
            "adapt_at_test",
            "corruptions",
        ):
            more = ["--shift", "frost", "--severities", "1"] if action.dest == "frost_textures" else []
            yield [command, *needed, *more, flag, "nope"], "nope"
        elif action.dest in ("config", "resume"):
            for value in ["nowhere", "junk.yaml", "list.yaml", "emptyfolder", "x" * 5000]:
                yield [command, *needed, flag, value] if action.dest == "config" else [command, flag, value], value
        elif action.dest in ("init_from", "weights", "model", "augment", "eps", "objective", "arguments", "classes"):
            yield [command, *needed, flag, "nope"], "nope"
    for value in NO_DATA:
        yield ["audit", value], value
        yield ["check-data", value], value
        yield ["check-data", "digits", "--test", value], value
        yield ["audit", "digits", "--val", value], value
    for model in NO_MODELS[:-1]:  # null means none, which is none of them here
        yield ["audit", "digits", "--run", model], model
    for command in COMMANDS:
        yield [command, "--nope"], "--nope"
    yield ["trane"], "trane"
    yield ["reproduce", "digits-maskin"], "digits-maskin"
    yield ["reproduce", "junk.yaml"], "junk.yaml"
    yield ["train", "--arguments", "{width: 2.5}", "--epochs", "1"], "2.5"
    yield ["train", "--arguments", "{widht: 16}", "--epochs", "1"], "widht"
    yield ["train", "--arguments", "{num_classes: 3}", "--epochs", "1"], "num_classes"
    yield ["train", "--objective", "[CrossEntropie]"], "CrossEntropie"
    yield ["train", "--data", "pictures", "--image_size", "96", "--cache", "text.txt"], "text.txt"
    yield ["evaluate", "os:system", "--data", "digits"], "system"
    yield ["evaluate", "os:nothing", "--data", "digits"], "nothing"
    yield ["predict", "runs/mine", "emptyfolder"], "emptyfolder"
    yield ["predict", "runs/mine", "no*.jpg"], "no*.jpg"
    yield ["card", "runs/mine", "--out", "emptyfolder"], "emptyfolder"
    yield ["card", "runs/mine", "--out", "text.txt/x/card.md"], "text.txt"
    yield ["calibrate", "runs/mine", "--out", "text.txt"], "text.txt"
    yield ["push", "runs/mine", "no-owner"], "no-owner"
    yield ["push", "runs/mine", "no-owner", "--space"], "no-owner"
    yield ["demo", "runs/mine", "--host", "no.such.host.example"], "no.such.host.example"
    yield ["quickstart", "--epochs", "1", "--out", "text.txt/x", "--part", "1/8"], "text.txt"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A working folder with a run, a model, pictures, and files of all the wrong kinds."""
    from PIL import Image

    folder, junk = tmp_path_factory.mktemp("mistakes"), bytes(range(128, 256)) * 8
    torch.manual_seed(0)
    network = networks.create("kedge_resnet_small", 10, 1, 8, arguments={"width": 8})
    model = kedge.anchor(network, example=(1, 8, 8)).eval()
    model.references, model.class_names = torch.rand(2, 1, 8, 8), [str(i) for i in range(10)]
    model.reject = {"score": "confidence", "threshold": 0.15, "coverage": 0.9}
    kedge.save(model, folder / "saved")
    shutil.copytree(folder / "saved", folder / "runs" / "mine" / "model")
    recipe = Recipe(name="mine", data="digits", image_size=8).to_yaml()
    (folder / "runs" / "mine" / "recipe.yaml").write_text(recipe)
    for number in range(8):
        path = folder / "pictures" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), number).save(path)
    (folder / "emptyfolder").mkdir()
    (folder / "text.txt").write_text("text")
    (folder / "list.yaml").write_text("- 1\n")
    for name in ("empty", "empty.onnx"):
        (folder / name).touch()
    for name in ("junk.bin", "junk.onnx", "junk.yaml"):
        (folder / name).write_bytes(junk)
    shutil.copytree(folder / "saved", folder / "junkmodel")
    (folder / "junkmodel" / "config.json").write_bytes(junk)
    shutil.copytree(folder / "saved", folder / "cut")
    weights = folder / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    return folder


@pytest.mark.slow
def test_every_mistake_is_said_in_words(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    monkeypatch.delenv("KEDGE_DATA", raising=False)
    monkeypatch.delenv("KEDGE_DEBUG", raising=False)
    monkeypatch.setattr(flags, "parser_of", functools.cache(parser_of))  # making them is most of the time
    before, wrong, count = sorted(place.rglob("*")), [], 0
    for arguments, value in cases():
        started = time.perf_counter()
        try:
            status = main(arguments)
        except BaseException as error:
            status = f"{type(error).__name__}: {error}"
        seconds, printed, count = time.perf_counter() - started, capsys.readouterr(), count + 1
        named = re.sub(r"\x1b", r"\\x1b", value.removeprefix("timm/"))[:100]
        number = float(value) if re.fullmatch(r"[\d.]+", value) else None
        shown = [named, *([f"{number:g}", f"{number}"] if number is not None else [])]
        lines = [line for line in printed.err.splitlines() if not line.endswith("--help lists the options")]
        faults = [
            ("status", status not in (1, 2)),
            ("nothing said", not lines),
            ("value", not any(each in printed.err for each in shown)),
            ("not foreseen", "not foreseen" in printed.err or "Traceback" in printed.err),
            ("escape", "\x1b" in printed.err + printed.out),
            ("slow", seconds > 10),
        ]
        if found := [name for name, is_so in faults if is_so]:
            short = [each if len(each) < 50 else f"{each[:20]}..." for each in arguments]
            wrong.append(f"{short}: {', '.join(found)}: {status}, {seconds:.1f} s, {printed.err[-300:]!r}")
    left = sorted(set(place.rglob("*")).difference(before))
    assert not wrong, f"{len(wrong)} of {count}:\n" + "\n".join(wrong)
    assert not left, left
    assert count > 500


def test_what_can_be_known_at_once_is_said_before_data_is_read(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    monkeypatch.setattr("kedge.data.load", lambda *given, **how: pytest.fail("data was read"))
    monkeypatch.setattr("kedge.checkpoint.load", lambda *given, **how: pytest.fail("a model was read"))
    asked = 0
    for command, action in options():
        wrong = (
            ["gpu"] if action.dest == "device" else ["-1"] if numeric(action) and action.dest not in ANY_NUMBER else []
        )
        for value in wrong:
            assert main([command, *NEEDED.get(command, []), action.option_strings[0], value]) in (1, 2)
            asked += 1
    assert asked > 60
    assert "digits (" not in capsys.readouterr().err


def run(command, **how):
    # A path of its own for the interpreter's start: the current folder may hold anything.
    return subprocess.run(command, shell=True, executable="/bin/bash", capture_output=True, text=True, **how)


KEDGE = f"{sys.executable} -m kedge"


@pytest.mark.skipif(os.name != "posix", reason="pipes of a shell")
@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        (f"{KEDGE} train --print_config | true; exit ${{PIPESTATUS[0]}}", (0, 1), ""),
        (f"{KEDGE} nope 2>&1 | true; exit ${{PIPESTATUS[0]}}", (1, 2), ""),
        (f"{KEDGE} train --print_config >&-", (0,), ""),
        (f"{KEDGE} predict nowhere x 2>&-", (1,), ""),
        (f"{KEDGE} train --print_config > /dev/full", (1,), "kedge train: the disk is full"),
    ],
)
def test_output_that_nobody_takes(tmp_path, command, status, said):
    done = run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode in status
    assert done.stderr.startswith(said)
    assert bool(done.stderr) == bool(said)


def test_debug_shows_where_an_error_came_from(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError):
        main(["--debug", "predict", "nowhere", "x"])

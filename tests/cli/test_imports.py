import json
import subprocess
import sys

import pytest

from kedge.cli import COMMANDS
from kedge.reporting import write_results
from tests.reporting import synthetic

HEAVY = {"torch", "torchvision", "timm", "lightning", "torchmetrics", "datasets", "numpy", "scipy", "sklearn"}
HEAVY |= {"pandas", "pyarrow", "PIL", "matplotlib", "onnx", "huggingface_hub", "jinja2"}


def loaded(code: str) -> set[str]:
    """The modules that are there after `code`, run by a new interpreter."""
    script = f"{code}\nimport json, sys\nprint()\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_importing_kedge_waits_for_nothing():
    found = loaded("import kedge")
    assert not HEAVY & found
    assert {name for name in found if name.startswith("kedge")} == {"kedge", "kedge._version"}


STEPS = (
    "import torch", "import kedge; kedge.anchor, kedge.AnchoredModel", "import kedge.scores", "import kedge.data",
    "import kedge.metrics", "import kedge.deploy, kedge.demo.answering", "kedge.metrics.ECE",
)  # fmt: skip


@pytest.mark.slow
def test_the_core_and_the_rooms_load_no_more_than_they_need():
    """Whoever has imported torch pays for kedge's own modules alone; one interpreter, as each takes seconds to start.

    What a step loads is there after the later ones too, so they are in the order of what they may load.
    """
    note = "\nloaded.append(sorted(sys.modules))\n"
    code = f"import json, sys\nloaded = []\n{note.join(STEPS)}{note}print(json.dumps(loaded))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    torch, core, scores, data, metrics, deploy, classes = map(set, json.loads(done.stdout.splitlines()[-1]))
    assert {name for name in core - torch if not name.startswith("kedge")} <= {"ctypes"}
    slow = {"torchvision", "timm", "lightning", "matplotlib", "sklearn"}
    assert not (slow | {"torchmetrics", "pytorch_ood", "scipy"}) & scores
    assert not (slow | {"datasets", "pyarrow"}) & data
    assert not {"torchmetrics", "lightning"} & (metrics | deploy)
    assert "torchmetrics" in classes  # for the classes alone


def test_help_needs_no_parser():
    found = loaded("from kedge.cli import main\nassert main(['--help']) == 0")
    assert not (HEAVY | {"jsonargparse", "yaml", "argparse", "ctypes"}) & found
    assert {name for name in found if name.startswith("kedge")} == {
        "kedge",
        "kedge._version",
        "kedge.cli",
        "kedge.cli.output",
        "kedge.printable",
    }


def test_the_number_of_the_version_is_there_at_once():
    assert not (HEAVY | {"jsonargparse"}) & loaded("from kedge.cli import main\nassert main(['--version']) == 0")


@pytest.mark.parametrize("name", COMMANDS)
def test_the_help_of_a_command_waits_for_no_library(name):
    found = loaded(
        f"from kedge.cli import main\ntry:\n    main([{name!r}, '--help'])\nexcept SystemExit as stop:\n"
        "    assert not stop.code"
    )
    assert not HEAVY & found


WITHOUT_A_MODEL = (
    "evaluate absent", "predict absent photo.jpg", "export absent", "calibrate absent", "interpolate absent other",
    "card absent", "adapt absent --data digits", "features absent other", "subgroups absent", "cascade absent other",
    "compare one two --model absent",
)  # fmt: skip


def test_a_model_that_is_not_there_is_said_before_anything_slow_is_imported(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = loaded(
        f"import sys\nfrom kedge.cli import main\nfor words in {WITHOUT_A_MODEL!r}:\n"
        "    assert main(words.split()) == 1\n    assert 'torch' not in sys.modules, words"
    )
    assert not {"torch", "lightning", "timm", "torchvision"} & found


@pytest.mark.slow
@pytest.mark.parametrize("flag", ["--data", "--resume"])
def test_what_is_not_there_is_said_before_lightning_is_imported(flag, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "lightning" not in loaded(f"from kedge.cli import main\nassert main(['train', '{flag}', 'absent']) == 1")


def test_a_verdict_waits_for_no_library(tmp_path):
    """It is read from files: of a run, and of results alone."""
    run = tmp_path / "mine"
    (run / "model").mkdir(parents=True)
    (run / "model" / "config.json").write_text("{}")
    (run / "recipe.yaml").write_text("name: mine\ndata: digits\n")
    file = write_results(synthetic.results(("mine",)), run / "evaluation" / "results.json")
    flags = ["--min_accuracy", "0.5", "--max_ece", "0.5", "--junit", str(tmp_path / "gate.xml")]
    for words in ([str(run), *flags], [str(file), *flags]):
        assert not HEAVY & loaded(f"from kedge.cli import main\nassert main(['check', *{words!r}]) == 0")

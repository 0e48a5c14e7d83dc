import pkgutil
import subprocess
import sys

import pytest

import kedge.cli
from kedge.cli import evaluate

COMMANDS = ["quickstart", "evaluate", "calibrate", "predict", "export", "version"]
SLOW = ["torch", "torchvision", "timm", "lightning", "datasets", "matplotlib", "sklearn", "onnx", "numpy"]


def test_no_command_imports_anything_slow():
    modules = [f"kedge.cli.{m.name}" for m in pkgutil.iter_modules(kedge.cli.__path__)]
    code = (
        f"import sys, importlib\nfor m in {modules!r}:\n    m = importlib.import_module(m)\n"
        "    getattr(m, 'parser', lambda: None)()\n"
        f"print([m for m in {SLOW!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_explains_itself(name):
    import importlib

    parser = importlib.import_module(f"kedge.cli.{name}").parser()
    assert parser.prog == f"kedge {name}"
    assert parser.description
    for action in parser._actions:
        assert action.help, f"{name}: {action.dest}"


def test_the_groups_named_in_the_help_are_those_there_are():
    from kedge.data.corruptions import GROUPS

    (action,) = [a for a in evaluate.parser()._actions if a.dest == "shift"]
    for group in GROUPS:
        assert group in action.help

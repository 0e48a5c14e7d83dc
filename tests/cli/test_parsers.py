import pkgutil
import subprocess
import sys

import pytest

import kedge.cli
from kedge.cli.flags import parser_of

SLOW = ["torch", "torchvision", "timm", "lightning", "datasets", "matplotlib", "sklearn", "onnx", "numpy"]


def test_no_command_imports_anything_slow():
    modules = [f"kedge.cli.{m.name}" for m in pkgutil.iter_modules(kedge.cli.__path__)]
    code = (
        f"import sys, importlib\nfor m in {modules!r}:\n    importlib.import_module(m)\n"
        "from kedge.cli import COMMANDS, flags\nfor name in COMMANDS:\n    flags.parser_of(name)\n"
        f"print([m for m in {SLOW!r} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", kedge.cli.COMMANDS)
def test_every_flag_explains_itself(name):
    parser = parser_of(name)
    assert parser.prog == f"kedge {name}"
    assert parser.description
    for action in parser._actions:
        assert action.help, f"{name}: {action.dest}"


def test_the_groups_named_in_the_help_are_those_there_are():
    from kedge.data.corruptions import GROUPS

    (action,) = [a for a in parser_of("evaluate")._actions if a.dest == "shift"]
    for group in GROUPS:
        assert group in action.help

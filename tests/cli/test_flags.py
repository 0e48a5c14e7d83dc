"""Flags come from the signature and the docstring of a command, and lead back to the call that gave them."""

import inspect
import shlex
from importlib import import_module

import pytest

from kedge import catalog
from kedge.cli import COMMANDS, main
from kedge.cli.flags import _ARGUMENT, command_words, module_of, parser_of

OWN = [command for command in COMMANDS if command != "train"]  # whose flags are the keys of a recipe


@pytest.mark.parametrize("command", OWN)
def test_the_docstring_is_about_what_there_is(command):
    run = import_module(module_of(command)).run
    named = [match[1] for match in _ARGUMENT.finditer(inspect.cleandoc(run.__doc__))]
    assert named == list(inspect.signature(run).parameters)
    for action in parser_of(command)._actions:
        assert "{" not in str(action.help), f"{command}: {action.dest}"


@pytest.mark.parametrize(
    "line",
    [
        "evaluate 'a b' c --severities 1 2 --ood x --equalise --references blt --eps 8/255 --risk 0.1 --norm l2",
        "interpolate a --sweep --alphas 0 0.3 --attack none --limit 5",
        "reproduce digits --part 1/2 --print",
        "quickstart --seeds 2 --out x",
        "predict mine a.png 'b c.png' --references 3 --format csv",
        "calibrate mine --step class_prior --prior 0.2 0.8",
        "evaluate a --shift none",
        "compare a b --model m --severities 1 3 --alpha 0.05",
        "version",
    ],
)
def test_the_options_give_the_line_that_gave_them(line):
    command, *words = shlex.split(line)
    options = parser_of(command).parse_args(words).as_dict()
    again = parser_of(command).parse_args(command_words(command, options)[1:]).as_dict()
    assert again == options
    assert sorted(command_words(command, options)) == sorted([command, *words])


def test_a_room_gives_the_choices():
    (step,) = (action for action in parser_of("calibrate")._actions if action.dest == "step")
    assert step.choices == list(catalog.names("postprocess"))


def test_a_flag_that_is_needed_is_asked_for_with_its_help(capsys):
    assert main(["adapt", "mine"]) == 1
    assert "--data FOLDER is missing: the new images: a folder" in capsys.readouterr().err


def test_paragraphs_are_filled_and_examples_are_left(monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    text = parser_of("evaluate").format_help()
    assert "    kedge evaluate mine --limit 500 --severities 3       a quick look\n" in text
    about = text[text.index("Measure") : text.index("positional")]
    assert max(map(len, about.splitlines())) <= 60
    assert "\n\n" in about.strip()

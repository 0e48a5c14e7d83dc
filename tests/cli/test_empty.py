"""An unset shell variable leaves an empty text, which names nothing: never the default, never the folder one is in."""

import pytest

from kedge.cli import COMMANDS, main
from kedge.cli.parse import separated
from kedge.data import DataError, load, load_unlabelled, published
from kedge.training import Recipe


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["train", "--data", ""], "--data"),
        (["train", "--data="], "--data"),
        (["train", "--data", "  "], "--data"),
        (["train", "--data", "digits", "--init-from", ""], "--init-from"),
        (["train", "--name", "", "--epochs", "1"], "--name"),
        (["train", "--config", ""], "--config"),
        (["train", "--resume", ""], "--resume"),
        (["evaluate", "mine", "--ood", ""], "--ood"),
        (["evaluate", "mine", "--ood", "mnist", "", "--near", "cifar100"], "--ood"),
        (["evaluate", "mine", "--unlabelled", ""], "--unlabelled"),
        (["evaluate", "mine", "--train", "", "--out", "x"], "--train"),
        (["evaluate", ""], "argument 1"),
        (["evaluate", "one", ""], "argument 2"),
        (["predict", "mine", ""], "argument 2"),
        (["calibrate", "mine", "--data", ""], "--data"),
        (["export", "mine", "--out", ""], "--out"),
        (["adapt", "mine", "--data", ""], "--data"),
        (["interpolate", "one", "two", "--name", ""], "--name"),
        (["push", "mine", ""], "argument 2"),
        (["compare", "may", "", "--model", "mine"], "argument 2"),
        (["compare", "may", "june", "--model", ""], "--model"),
    ],
)
def test_an_empty_name_is_an_error_everywhere(capsys, monkeypatch, tmp_path, arguments, what):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert f"kedge {arguments[0]}: {what} is empty: is a shell variable unset?" in printed.err
    assert not printed.out
    assert not list(tmp_path.iterdir())
    assert arguments[0] in COMMANDS


@pytest.mark.parametrize("word", [",", "mnist,", ",mnist", "mnist,,cifar10", " ", ""])
def test_nothing_beside_a_comma_is_an_error(word):
    with pytest.raises(ValueError, match="names nothing"):
        separated(["digits", word])
    assert separated(["a,b", "c"]) == ["a", "b", "c"]


@pytest.mark.parametrize("key", ["data", "init_from", "model", "runs", "eps", "name"])
def test_an_empty_value_in_a_recipe_is_an_error(key):
    for value in ("", " "):
        with pytest.raises(ValueError, match=f"{key} is empty"):
            Recipe.from_dict({key: value})


def test_an_empty_folder_is_not_the_current_one(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for read in (load, load_unlabelled, published):
        with pytest.raises(DataError, match="name is empty"):
            read("")

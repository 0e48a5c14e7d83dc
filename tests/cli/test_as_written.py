"""Names that YAML reads as something else: in a recipe, on the command line, and back."""

import pytest
import yaml

from kedge.cli import main
from kedge.experiments.experiment import Experiment
from kedge.training import Recipe
from kedge.training.recipe import load_recipe
from kedge.yaml_text import parse_yaml

# Each is no text to YAML 1.1 or 1.2, or another text.
HOSTILE = ["null", "~", "yes", "no", "on", "True", "1e3", "1_000", "007", "0x10", "010", "1.10", "2020-01-01",
           "12:30:00", "=", "-1", "#1", "a: b", "[x]", "{y}", "!!int", "&a", "*a", "'q'", "é", "a #b"]  # fmt: skip


def test_a_recipe_comes_back_from_its_file(tmp_path):
    for name in HOSTILE:
        recipe = Recipe(name=name, data=name, model=name, runs=name, classes=HOSTILE)
        (tmp_path / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
        assert load_recipe(tmp_path / "recipe.yaml") == recipe


@pytest.mark.parametrize(
    "name", ["yes", "1e3", "1_000", "007", "0x10", "010", "1.10", "2020-01-01", "12:30:00", "True"]
)
def test_what_is_written_without_quotes_is_the_name(tmp_path, name):
    path = tmp_path / "recipe.yaml"
    path.write_text(f"name: {name}\ndata: {name}\nclasses: [{name}, null, ~]\nepochs: 10\nlr: 0.5\nclip: null\n")
    recipe = load_recipe(path)
    assert (recipe.name, recipe.data, recipe.classes) == (name, name, [name, "null", "~"])
    assert (recipe.epochs, recipe.lr, recipe.clip) == (10, 0.5, None)


def test_null_is_still_what_leaves_a_name_out():
    values = parse_yaml("name: null\ndata: ~\nruns:\n", "it", ["name", "data", "runs"], [])
    assert values == dict.fromkeys(("name", "data", "runs"))


@pytest.mark.parametrize("name", [name for name in HOSTILE if name != "null"])
def test_the_command_line_takes_a_name_as_it_is(capsys, name):
    assert main(["train", "--print_config", f"--name={name}", f"--data={name}", "--classes", f'["{name}", null]']) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert (printed["name"], printed["data"], printed["classes"]) == (name, name, [name, "null"])


def test_numbers_in_lists_are_names_where_names_are_wanted(capsys):
    assert main(["train", "--print_config", "--classes", "[007, 010, 1e3]", "--milestones", "[1, 2.5]"]) == 0
    printed = yaml.safe_load(capsys.readouterr().out)
    assert printed["classes"] == ["007", "010", "1e3"]  # to YAML 7, 8 and 1000.0
    assert printed["milestones"] == [1.0, 2.5]


def test_a_variant_that_is_no_text_is_an_error():
    values = {"title": "t", "source": "s", "data": "digits", "base": {}, "scales": {"laptop": {}}}
    with pytest.raises(ValueError, match=r"variants: a name is True to YAML, not text: write it in quotes"):
        Experiment.from_dict({**values, **yaml.safe_load("variants: {yes: {}}")})

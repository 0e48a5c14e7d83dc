import subprocess
import sys
from dataclasses import asdict, fields

import pytest
import yaml

from kedge.training.recipe import Recipe, load_recipe, recipe_names


def test_reading_recipes_imports_nothing_slow():
    code = (
        "import sys, kedge.training as t; t.load_recipe('digits');"
        "assert not {'torch', 'timm', 'lightning', 'torchvision'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_recipe_survives_yaml():
    recipe = Recipe(lr=0.1, classes=["a", "b"], objective=[{"Anchored": {"alpha": 0}}, "CrossEntropy"], precision="32")
    assert Recipe.from_dict(yaml.safe_load(recipe.to_yaml())) == recipe


@pytest.mark.parametrize("name", recipe_names())
def test_shipped_recipes_are_valid_and_say_what_they_cost(name):
    recipe = load_recipe(name)
    assert Recipe.from_dict(asdict(recipe)) == recipe
    from importlib import resources

    text = resources.files("kedge").joinpath("recipes", f"{name}.yaml").read_text()
    assert text.startswith("# ")
    assert "Cost:" in text
    assert "Result:" in text


def test_every_field_is_documented():
    for field in fields(Recipe):
        assert f"\n        {field.name}: " in Recipe.__doc__


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"epocs": 3}, r"no recipe key is named 'epocs'; did you mean epochs"),
        ({"epochs": 0}, "epochs must be 1 or more"),
        ({"epochs": "ten"}, "epochs is a whole number, not 'ten'"),
        ({"epochs": 2.5}, "epochs is a whole number, not 2.5"),
        ({"epochs": True}, "epochs is a whole number, not True"),
        ({"anchored": 1}, "anchored is true or false, not 1"),
        ({"lr": -0.1}, "lr must be above 0, not -0.1"),
        ({"lr": float("nan")}, "lr must be above 0, not nan"),
        ({"lr": float("inf")}, "lr must be above 0, not inf"),
        ({"optimizer": "sdg"}, "optimizer is one of .* not 'sdg'; did you mean sgd"),
        ({"schedule": "multistep"}, "needs milestones"),
        ({"schedule": "multistep", "milestones": [3, 2]}, "rising"),
        ({"milestones": [30], "epochs": 30}, "never reached in 30 epochs"),
        ({"milestones": [1], "epochs": 1}, "never reached in 1 epoch$"),
        ({"milestones": [1, "x"]}, "an entry of milestones is a number, not 'x'"),
        ({"batch_size": 7, "devices": 2}, "multiple"),
        ({"name": "../x"}, "name is a folder inside runs/"),
        ({"objective": []}, "objective is empty"),
        ({"objective": "CrossEntropy"}, "objective is a list"),
        ({"objective": [{"Anchored": 3}]}, "outermost first"),
        ({"objective": [{"Mixup": {}, "Anchored": {}}]}, "outermost first"),
        ({"classes": ["cat"]}, "two different classes"),
        ({"arguments": [1]}, "arguments is a mapping"),
        ({"coverage": 0}, "coverage must be above 0, at most 1"),
        ({"val_fraction": 0.9}, "at most 0.5"),
        ({"warmup": -1}, "warmup must be 0 or more"),
        ({"label_noise": 1}, "label_noise must be 0 or more, at most 0.9999, not 1"),
        ({"label_noise": -0.1}, "label_noise must be 0 or more"),
        ({"augment": "pixmax"}, "augment is one of .* did you mean pixmix"),
    ],
)
def test_what_cannot_work_is_said_with_the_value(values, words):
    with pytest.raises(ValueError, match=words):
        Recipe.from_dict(values)


def test_values_that_people_and_yaml_write_differently():
    recipe = Recipe.from_dict(yaml.safe_load("{lr: 1e-3, precision: 32, epochs: 5.0, classes: [0, 1], name: 7}"))
    assert (recipe.lr, recipe.precision, recipe.epochs, recipe.classes, recipe.name) == (1e-3, "32", 5, ["0", "1"], "7")


def test_errors_name_the_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("epochs: 0\n")
    with pytest.raises(ValueError, match=r"mine.yaml: epochs must be"):
        load_recipe(path)
    path.write_text("- a\n")
    with pytest.raises(ValueError, match="a list where a mapping of keys to values"):
        load_recipe(path)
    path.write_text("epochs: [\n")
    with pytest.raises(ValueError, match="is not YAML"):
        load_recipe(path)
    path.write_text("epochs: !!python/object/apply:os.system ['true']\n")
    with pytest.raises(ValueError, match="of the kind !!python"):
        load_recipe(path)
    path.write_text("")
    assert load_recipe(path) == Recipe()


def test_an_unknown_recipe_suggests_a_near_one():
    with pytest.raises(FileNotFoundError, match=r"no recipe is named 'digitz'.*did you mean digits"):
        load_recipe("digitz")


def test_a_radius_that_is_none_is_told_with_the_recipe():
    assert Recipe.from_dict({"eps": 0.15}).eps == "0.15"
    Recipe.from_dict({"eps": "7.5/255"})
    with pytest.raises(ValueError, match=r"my\.yaml: eps must be a number.*got 'eight'"):
        Recipe.from_dict({"eps": "eight"}, "my.yaml: ")

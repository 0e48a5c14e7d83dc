"""Settings of optimizer, schedule and sampler under their names and beside them: the same recipe."""

import json
from dataclasses import asdict

import pytest
import yaml

from kedge.cli import main
from kedge.experiments.experiment import Experiment
from kedge.training.digests import may_grow, recipe_digest
from kedge.training.nested import change, flattened
from kedge.training.recipe import Recipe, load_recipe

PAIRS = [
    ({"optimizer": {"sgd": {"lr": 0.1, "momentum": 0.5}}}, {"optimizer": "sgd", "lr": 0.1, "momentum": 0.5}),
    ({"optimizer": {"SGD": None}}, {"optimizer": "sgd"}),
    ({"optimizer": [{"adamw": {"lr": "1e-3", "weight_decay": None}}]}, {"optimizer": "adamw", "lr": 1e-3}),
    ({"optimizer": {"auto": {"lr": 0.1}}}, {"lr": 0.1}),
    ({"schedule": {"multistep": {"milestones": [2, 3], "gamma": 0.5}}}, {"schedule": "multistep", "milestones": [2, 3],
                                                                        "gamma": 0.5}),
    ({"schedule": {"slow_start_fast_decay": {"ramp": "exp"}}}, {"schedule": "slow-start-fast-decay", "ramp": "exp"}),
    ({"schedule": "SlowStartHalving"}, {"schedule": "slow-start-halving"}),
    ({"sampler": "ClassBalanced"}, {"sampler": "class-balanced"}),
    ({"sampler": "class_balanced"}, {"sampler": "class-balanced"}),
]  # fmt: skip


@pytest.mark.parametrize(("under", "beside"), PAIRS)
def test_both_ways_of_writing_are_one_recipe(under, beside):
    one, other = Recipe.from_dict(under), Recipe.from_dict(beside)
    assert one == other
    assert recipe_digest(asdict(one)) == recipe_digest(asdict(other))
    assert Recipe(**under) == other
    assert Recipe.from_dict(yaml.safe_load(one.to_yaml())) == one


def test_what_is_written_has_the_settings_under_the_names_and_no_others():
    recipe = Recipe.from_dict({"optimizer": "adamw", "lr": 0.1, "schedule": "constant", "warmup": 0.0, "gamma": 0.3})
    tree = yaml.safe_load(recipe.to_yaml())
    assert tree["optimizer"] == {"adamw": {"lr": 0.1, "weight_decay": None}}
    assert tree["schedule"] == {"constant": {"warmup": 0.0}}
    assert {"lr", "momentum", "milestones", "ramp"} & set(tree) == set()
    assert tree["gamma"] == 0.3  # which a constant rate does not take, and somebody wrote
    assert yaml.safe_load(Recipe(lr=0.1).to_yaml())["lr"] == 0.1  # of which rule is not known yet


def test_wrappers_keep_their_own_settings():
    text = "optimizer: [{orthograd: {rescale: false}}, {sam: {rho: 0.1}}, {sgd: {lr: 0.2, momentum: 0}}]"
    recipe = Recipe.from_dict(yaml.safe_load(text))
    assert recipe.optimizer == [{"orthograd": {"rescale": False}}, {"sam": {"rho": 0.1}}, "sgd"]
    assert (recipe.lr, recipe.momentum) == (0.2, 0.0)
    assert Recipe.from_dict(yaml.safe_load(recipe.to_yaml())) == recipe
    assert Recipe.from_dict(json.loads(json.dumps(asdict(recipe)))) == recipe


def test_settings_that_have_no_key_stay_with_the_name():
    recipe = Recipe.from_dict({"schedule": {"cosine": {"floor": 0.1, "warmup": 0.2}}})
    assert (recipe.schedule, recipe.warmup) == ({"cosine": {"floor": 0.1}}, 0.2)
    assert yaml.safe_load(recipe.to_yaml())["schedule"] == {"cosine": {"warmup": 0.2, "floor": 0.1}}
    assert Recipe.from_dict(yaml.safe_load(recipe.to_yaml())) == recipe


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"optimizer": {"sgd": {"lr": 0.1}}, "lr": 0.2}, "lr is 0.1 in optimizer sgd and 0.2 beside it"),
        ({"optimizer": {"adamw": {"momentum": 0.9}}}, "adamw has no setting 'momentum'; it has lr"),
        ({"optimizer": {"sgd": {"momentun": 0.9}}}, "did you mean momentum"),
        ({"optimizer": "sam"}, r"sam wraps another: name that after it, as in \[sam, auto\]"),
        ({"optimizer": ["sgd", "adamw"]}, "sgd wraps no other"),
        ({"optimizer": ["auto", "sgd"]}, "optimizer is one of"),
        ({"optimizer": ["sma", "sgd"]}, "not 'sma'; did you mean sam"),
        ({"optimizer": []}, "optimizer is a name or"),
        ({"optimizer": {"sgd": {}, "adamw": {}}}, "wraps from the outside in"),
        ({"optimizer": {"sgd": 3}}, "optimizer is a name or"),
        ({"optimizer": {"sgd": {"fused": True}}}, "no setting 'fused'"),
        ({"schedule": ["cosine"]}, "schedule is a name or"),
        ({"schedule": {"cosine": {"steps": 7}}}, "no setting 'steps'"),
        ({"schedule": {"slow-start-halving": {"gamma": 0.5}}}, "no setting 'gamma'; it has warmup"),
        ({"schedule": "cosinus"}, "did you mean cosine"),
        ({"sampler": "balanced"}, "sampler is one of class-balanced, .*; did you mean class-balanced"),
        ({"sampler": {"shuffled": {"seed": 3}}}, "it has none"),
        ({"optimizer": {"sgd": {"lr": -1}}}, "lr must be above 0, not -1"),
        ({"optimizer": {"sgd": {"lr": "fast"}}}, "lr is a number, not 'fast'"),
    ],
)
def test_what_cannot_be_is_said(values, words):
    with pytest.raises(ValueError, match=words):
        Recipe.from_dict(values)


def test_the_same_value_twice_is_no_contradiction():
    assert Recipe.from_dict({"optimizer": {"sgd": {"lr": "1e-1"}}, "lr": 0.1}).lr == 0.1
    assert Recipe.from_dict({"optimizer": {"sgd": {"lr": None}}, "lr": 0.1}).lr == 0.1


def printed(capsys, *arguments):
    assert main(["train", "--print_config", *arguments]) == 0
    return yaml.safe_load(capsys.readouterr().out)


def test_flags_override_a_file_in_either_form(capsys, tmp_path):
    (tmp_path / "a.yaml").write_text("optimizer: {sgd: {lr: 0.1, momentum: 0.5}}\nschedule: multistep\nmilestones: [3]")
    file = ["--config", str(tmp_path / "a.yaml")]
    assert printed(capsys, *file)["optimizer"]["sgd"]["lr"] == 0.1
    assert printed(capsys, *file, "--lr", "0.2")["optimizer"]["sgd"] == {
        "lr": 0.2, "momentum": 0.5, "nesterov": True, "weight_decay": None,
    }  # fmt: skip
    assert printed(capsys, *file, "--optimizer", "{sgd: {lr: 0.3}}")["optimizer"]["sgd"]["lr"] == 0.3
    assert printed(capsys, *file, "--optimizer", "adamw")["optimizer"]["adamw"]["lr"] == 0.1
    listed = printed(capsys, *file, "--optimizer", "[{sam: {rho: 0.1}}, sgd]", "--lr", "0.4")["optimizer"]
    assert listed[0] == {"sam": {"rho": 0.1}}
    assert listed[1]["sgd"]["lr"] == 0.4
    assert printed(capsys, *file)["schedule"]["multistep"]["milestones"] == [3.0]


def test_help_lists_the_folders(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    for name in ("orthograd", "slow-start-halving", "class-balanced"):
        assert name in text


EXPERIMENT = {
    "title": "t", "source": "s", "data": "digits", "base": {"optimizer": {"sgd": {"lr": 0.1}}, "epochs": 1},
    "scales": {"small": {}, "slow": {"lr": 0.01}},
    "variants": {
        "base": {},
        "flat": {"lr": 0.2},
        "dotted": {"optimizer.sgd.lr": 0.3, "schedule.cosine.floor": 0.1},
        "other": {"optimizer": "adamw"},
        "wrapped": {"optimizer": [{"sam": {}}, "sgd"], "optimizer.sam.rho": 0.2, "optimizer.sgd.momentum": 0.0},
    },
}  # fmt: skip


def test_variants_change_either_form():
    recipes = {v.name: Recipe.from_dict(v.recipe) for v in Experiment.from_dict(EXPERIMENT).variants_at("small")}
    assert {name: recipe.lr for name, recipe in recipes.items()} == {
        "base": 0.1, "flat": 0.2, "dotted": 0.3, "other": 0.1, "wrapped": 0.1,
    }  # fmt: skip
    assert recipes["dotted"].schedule == {"cosine": {"floor": 0.1}}
    assert recipes["wrapped"].optimizer == [{"sam": {"rho": 0.2}}, "sgd"]
    assert recipes["wrapped"].momentum == 0
    slow = {v.name: Recipe.from_dict(v.recipe).lr for v in Experiment.from_dict(EXPERIMENT).variants_at("slow")}
    assert slow == {"base": 0.01, "flat": 0.2, "dotted": 0.3, "other": 0.01, "wrapped": 0.01}
    for wrong in ({"optimizer.adamw.lr": 0.1}, {"optimizer.sgd.rho": 1.0}):
        with pytest.raises(ValueError, match=r"and not 'adamw'|no setting 'rho'"):
            Experiment.from_dict({**EXPERIMENT, "variants": {"wrong": wrong}})


def test_a_dotted_path_reaches_what_nobody_wrote():
    values = flattened({"schedule": "cosine"})
    assert change(values, ["schedule", "cosine", "floor"], 0.1)
    assert values == {"schedule": {"cosine": {"floor": 0.1}}}
    assert not change(values, ["objective", "Anchored", "alpha"], 0.1)


def test_own_code_is_named_and_not_imported(tmp_path):
    (tmp_path / "own.yaml").write_text("optimizer: {evil:Rule: {lr: 0.1, beta: 3}}\nsampler: evil:draw\n")
    with pytest.raises(ValueError, match=r"evil:\w+ is Python code"):
        load_recipe(tmp_path / "own.yaml")
    recipe = load_recipe(tmp_path / "own.yaml", allow_code=True)
    assert (recipe.optimizer, recipe.lr) == ({"evil:Rule": {"beta": 3}}, 0.1)
    assert Recipe.from_dict(yaml.safe_load(recipe.to_yaml())) == recipe


@pytest.mark.parametrize(
    ("schedule", "grows"),
    [("constant", True), ("multistep", True), ("cosine", False), ("slow-start-fast-decay", False)],
)
def test_a_run_may_grow_where_its_schedule_counts_epochs(schedule, grows):
    recipe = Recipe(schedule=schedule, warmup=0.0, epochs=3, milestones=[1.0], objective=["CrossEntropy"])
    assert may_grow(recipe, 5) is grows


@pytest.mark.parametrize("flag", ["--optimizer.sgd.lr", "--objective.Anchored.alpha=0.3", "--schedule.cosine"])
def test_a_dotted_flag_is_told_how_to_write_it(flag, capsys):
    assert main(["train", flag, "0.3", "--print_config"]) == 2
    key, name = flag.removeprefix("--").split(".")[:2]
    said = capsys.readouterr().err
    assert f"--{key} '{{{name}: {{SETTING: VALUE}}}}'" in " ".join(said.split())
    assert "NestedArg" not in said

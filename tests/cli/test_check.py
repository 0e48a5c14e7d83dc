"""`kedge check`: exit status, files, the gate of a recipe, and what is said where nothing was measured."""

import json

import pytest

from kedge.cli import main
from kedge.reporting.files import write_results
from kedge.training.recipe import Recipe
from tests.reporting import synthetic


@pytest.fixture
def file(tmp_path):
    return write_results(synthetic.results(("mine",)), tmp_path / "results.json")  # about 93 % of 10,000 right


@pytest.mark.parametrize(
    ("flags", "status", "said"),
    [
        (["--min-accuracy", "0.85"], 0, "pass: 1 pass"),
        (["--min-accuracy", "0.99"], 1, "fail: 1 fail"),
        (["--min-accuracy", "0.99", "--max-ece", "0.5"], 1, "fail: 1 fail, 1 pass"),
    ],
)
def test_the_exit_status_is_the_verdict(command, file, flags, status, said):
    code, out, _ = command("check", file, *flags)
    assert (code, out.splitlines()[-1]) == (status, said)


def test_what_cannot_be_told_has_a_status_of_its_own_and_can_be_let_through(command, file, tmp_path):
    value = json.loads(file.read_text())["models"]["mine"]["clean"]["accuracy"]["value"]
    flags = ["check", file, "--min-accuracy", value - 0.001]
    code, out, _ = command(*flags)
    assert code == 3
    assert "would tell" in out
    junit, report = tmp_path / "out" / "gate.xml", tmp_path / "gate.json"
    assert command(*flags, "--allow_undecided", "--junit", junit, "--json", report)[0] == 0
    assert 'skipped="1"' in junit.read_text()
    assert json.loads(report.read_text())["verdict"] == "cannot tell"


def test_what_was_not_measured_is_refused_with_the_command_that_measures_it(file, capsys):
    assert main(["check", str(file), "--worst-group", "0.5", "--min-accuracy", "0.5"]) == 2
    said = capsys.readouterr().err
    assert "accuracy of the worst group (worst_group): not in" in said
    assert said.strip().endswith("kedge evaluate MODEL --groups WAY")


def test_an_attack_that_may_have_failed_is_not_let_through_as_undecided(command, file):
    results = json.loads(file.read_text())
    model = results["models"]["mine"]
    for attack in model["attacks"].values():
        attack["accuracy"] = {"value": 0.99, "low": 0.98, "high": 1.0}
    file.write_text(json.dumps(results))
    flags = ["check", file, "--min-attacked-accuracy", "0.5", "--allow_undecided"]
    assert command(*flags)[0] == 0
    model["sanity"].append({"check": "zero gradients", "ok": False, "detail": "80 % of them"})
    file.write_text(json.dumps(results))
    code, out, _ = command(*flags)
    assert code == 3
    assert "checks of the attack failed (zero gradients)" in out


def test_a_foreign_set_that_broke_is_no_missing_rule(file, capsys):
    results = json.loads(file.read_text())
    model = results["models"]["mine"]
    broken, *_ = list(model["ood"])
    del model["ood"][broken]
    model["errors"].append({"part": f"ood {broken}", "message": "logits that are not finite"})
    file.write_text(json.dumps(results))
    assert main(["check", str(file), "--max-unknown-answered", "0.5"]) == 2
    said = capsys.readouterr().err
    assert f"ood {broken} failed: logits that are not finite" in said
    assert "no reject rule" not in said


@pytest.mark.parametrize(
    "words", [["nowhere"], ["FILE"], ["FILE", "--min-coverage", "0.8"], ["FILE", "--max-ece", "7"]]
)
def test_without_a_verdict_the_status_is_2(file, capsys, words):
    arguments = [str(file) if word == "FILE" else word for word in words]
    assert main(["check", *arguments, *(["--min-accuracy", "0.5"] if words == ["nowhere"] else [])]) == 2
    assert capsys.readouterr().err.startswith("kedge check: ")


def test_a_run_is_judged_by_the_gate_of_its_recipe_and_flags_come_first(command, run_folder, capsys):
    recipe = Recipe(name="first", data="digits", image_size=8, gate={"min_accuracy": 0.99, "worst_class": 0.0})
    (run_folder / "recipe.yaml").write_text(recipe.to_yaml())
    assert main(["check", str(run_folder)]) == 2
    assert f"was not evaluated: kedge evaluate {run_folder}" in capsys.readouterr().err
    _, _, said = command("evaluate", run_folder, "--shift", "none", "--limit", 60)
    assert "by the gate of the recipe" in said
    assert (
        json.loads((run_folder / "evaluation" / "results.json").read_text())["models"]["first"]["gate"] == recipe.gate
    )
    code, out, _ = command("check", run_folder)
    assert code == 1
    assert out.splitlines()[-1] == "fail: 1 fail, 1 pass"
    assert command("check", run_folder, "--min-accuracy", "0.0")[0] == 0
    assert command("check", run_folder / "evaluation")[0] == 1


def test_a_gate_that_is_none_is_said_before_anything_is_measured(run_folder, capsys):
    path = run_folder / "recipe.yaml"
    path.write_text(f"{Recipe(name='first', data='digits').to_yaml()}".replace("gate: {}", "gate: {min_acuracy: 0.5}"))
    assert main(["evaluate", str(run_folder), "--shift", "none"]) == 1
    said = capsys.readouterr().err
    assert "the gate in the recipe of first" in said
    assert not (run_folder / "evaluation").exists()

"""Folders, recipes and results that an earlier kedge made: they load, say the same, and go on."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import kedge
from kedge import data
from kedge.cli import main
from kedge.reporting import table, write_report
from kedge.training import fit
from kedge.training.recipe import load_recipe

HOUSE = Path(__file__).parent / "fixtures" / "first-house"
RUNS = ("plain", "masked", "robust")
LOGITS = json.loads((HOUSE / "logits.json").read_text())
RESULTS = json.loads((HOUSE / "results.json").read_text())


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The runs of then, where commands look for runs by name."""
    for name in RUNS:
        shutil.copytree(HOUSE / name, tmp_path / "runs" / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs"


@pytest.mark.parametrize("name", RUNS)
def test_models_answer_as_then(name: str) -> None:
    images = data.load("digits", "test").first(6).float().div(255)
    logits = kedge.load(HOUSE / name / "model").predict(images).logits
    torch.testing.assert_close(logits, torch.tensor(LOGITS[name]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", RUNS)
def test_recipes_are_read(name: str) -> None:
    recipe = load_recipe(HOUSE / name / "recipe.yaml")
    assert recipe.name == name
    assert recipe.model == "kedge_resnet_small"


def test_a_recipe_trains_again(house: Path) -> None:
    recipe = vars(load_recipe(house / "masked" / "recipe.yaml")) | {"name": "again", "epochs": 1, "train_images": 200}
    result = fit(recipe, progress=False, report=False)
    assert (result.folder / "model" / "config.json").is_file()


def test_a_run_goes_on(house: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--resume", "runs/plain"]) == 0  # makes the page that is missing
    assert (house / "plain" / "report.html").is_file()


def test_commands_take_the_folders(house: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["calibrate", "masked", "--remove"]) == 0
    assert main(["evaluate", "robust", "--severities", "3", "--shift", "contrast", "--limit", "40"]) == 0
    assert main(["export", "masked", "--to", "torch"]) == 0


def keys_of(value: Any, place: str = "") -> set[str]:
    """The paths of all keys in nested dicts; of a list those of its first item."""
    if isinstance(value, list):
        return keys_of(value[0], f"{place}[]") if value else set()
    if not isinstance(value, dict):
        return {place}
    return {place}.union(*(keys_of(inner, f"{place}/{key}") for key, inner in value.items()))


def numbers_of(value: Any, place: str = "") -> dict[str, float]:
    """All numbers by their place."""
    if isinstance(value, dict | list):
        pairs = value.items() if isinstance(value, dict) else enumerate(value)
        return {k: v for key, inner in pairs for k, v in numbers_of(inner, f"{place}/{key}").items()}
    return {place: float(value)} if isinstance(value, int | float) and not isinstance(value, bool) else {}


def test_an_evaluation_says_the_same(house: Path, tmp_path: Path) -> None:
    command = (
        "evaluate masked plain --data digits --shift gaussian_noise --severities 3 --limit 60 --attack pgd "
        "--attack_images 10"
    )
    assert main([*command.split(), "--out", str(tmp_path / "evaluation")]) == 0
    results = json.loads((tmp_path / "evaluation" / "results.json").read_text())
    assert keys_of(RESULTS) - keys_of(results) == set()
    assert list(RESULTS["models"]) == list(results["models"])
    now = numbers_of(results["models"])
    for place, value in numbers_of(RESULTS["models"]).items():
        if not any(word in place for word in ("timing", "/pace", "seconds", "per_second")):
            assert now[place] == pytest.approx(value, abs=2e-3, rel=2e-3), place


def test_the_page_of_old_results_is_made(tmp_path: Path) -> None:
    text = write_report(RESULTS, tmp_path / "report.html").read_text()
    assert "masked" in text
    assert table(RESULTS)

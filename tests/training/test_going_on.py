"""A run that goes on from a model goes on from what that one answers: its map, and references as it had them."""

import shutil

import pytest
import torch

import kedge
from kedge.training import Recipe, checkpoint_selection, fit
from kedge.training.images import load_sets
from kedge.training.objective import make_objective
from kedge.training.start_from import inherit, load_start

pytestmark = pytest.mark.usefixtures("no_report")
IMAGES = torch.rand(7, 1, 8, 8, generator=torch.Generator().manual_seed(0))
MASKED = {"Anchored": {"alpha": 0.0}}
THROUGH = [MASKED, "stable_max", "cross_entropy"]
STEP = {"stable_max": {"value": None}}
# Of a run whose weights stay where they are.
STILL = {"epochs": 1, "lr": 1e-12, "optimizer": "sgd", "batch_norm": "frozen", "arguments": {}}


@pytest.fixture(scope="module")
def runs(recipes, tmp_path_factory):
    """Runs to start from: mapped, anchored; flat, mapped and not anchored; plain, not mapped."""
    folder = tmp_path_factory.mktemp("runs")
    recipe = recipes(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kedge.run_page.write_run_report", lambda *arguments: None)
        fit(recipe(name="mapped", objective=THROUGH, temperature=True), progress=False)
        fit(recipe(name="flat", objective=["StableMax", "CrossEntropy"], anchored=False, epochs=1), progress=False)
        fit(recipe(name="plain", anchored=False, epochs=1), progress=False)
    return folder


def without_temperature(folder):
    model = kedge.load(folder)
    model.steps.pop("temperature", None)
    return model


def alike(one, other):
    assert one.steps == other.steps
    torch.testing.assert_close(one.predict(IMAGES).probs, other.predict(IMAGES).probs, atol=1e-5, rtol=0)


# Through the map


@pytest.mark.parametrize("start", ["init_from", "in memory", "a folder that belongs to no run"])
def test_a_run_goes_on_through_the_map_of_its_start(runs, tiny, tmp_path, start):
    source, keywords = without_temperature(runs / "mapped"), {}
    if start == "in memory":
        keywords, fields = {"start": kedge.load(runs / "mapped")}, {}
    elif start == "init_from":
        fields = {"init_from": str(runs / "mapped")}
    else:
        fields = {"init_from": str(shutil.copytree(runs / "mapped" / "model", tmp_path / "copied"))}
    result = fit(tiny(**STILL, **fields), progress=False, **keywords)
    alike(result.model, source)
    alike(kedge.load(result.folder / "start"), source)
    outer, *inner = result.recipe.objective
    assert "Anchored" in outer
    assert inner == ["StableMax", "CrossEntropy"]


@pytest.mark.parametrize("in_memory", [True, False])
def test_an_objective_without_the_map_is_refused(runs, tiny, in_memory):
    keywords = {"start": kedge.load(runs / "mapped")} if in_memory else {}
    fields = {} if in_memory else {"init_from": str(runs / "mapped")}
    with pytest.raises(ValueError, match=r"was trained through StableMax.* \[.*StableMax, CrossEntropy\].*remove_step"):
        fit(tiny(**STILL, objective=[MASKED, "CrossEntropy"], **fields), progress=False, **keywords)
    assert not (runs.parent / "run").exists()
    # Taken out, it is not gone on with.
    model = kedge.load(runs / "mapped")
    model.steps.clear()
    result = fit(tiny(**STILL, objective=[MASKED, "CrossEntropy"]), progress=False, start=model)
    assert result.model.steps == {}


def test_an_anchored_model_made_of_one_has_its_map(runs):
    recipe = inherit(Recipe(init_from=str(runs / "flat"), anchored=True, references=3, classes=["0", "1", "2", "3"]))
    assert recipe.objective == [MASKED, "StableMax", "CrossEntropy"]
    model = load_start(recipe, load_sets(recipe)[0]).eval()
    assert model.count() == 3
    torch.testing.assert_close(model(IMAGES), kedge.load(runs / "flat")(IMAGES), atol=1e-4, rtol=0)


def test_self_targets_are_the_answers_of_the_start(runs):
    written = [MASKED, "StableMax", "SelfTargets", "CrossEntropy"]
    recipe = inherit(Recipe(init_from=str(runs / "mapped"), objective=written))
    train, _ = load_sets(recipe)
    objective = make_objective(recipe, train, start=load_start(recipe, train))
    alike(objective.inner.inner.start.model, without_temperature(runs / "mapped"))


def test_a_start_without_the_map_gets_it_and_stays_what_it_was(runs, tiny, break_off, monkeypatch):
    source = kedge.load(runs / "plain")
    written = {"objective": ["StableMax", "SelfTargets", "CrossEntropy"], "anchored": False, "arguments": {}}
    written |= {"init_from": str(runs / "plain"), "lr": 0.05}
    whole = fit(tiny(**written, name="whole"), progress=False)
    assert whole.model.steps == STEP
    alike(kedge.load(whole.folder / "start"), source)
    # Its answers are the same targets when the run is taken up again.
    break_off(tiny(**written, name="broken"))
    resumed = fit(resume=whole.folder.parent / "broken", progress=False)
    assert torch.equal(resumed.model(IMAGES), whole.model(IMAGES))
    # Where the start is kept it is the start.
    monkeypatch.setattr(checkpoint_selection, "most_trained", lambda accuracy: (0.0, {0.0: accuracy(0.0), 1.0: 0.5}))
    alike(fit(tiny(**written, name="below"), progress=False).model, source)


# What is for a new model


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"references": 5}, "references 5 is for a new model: the bank is that of the start; leave references out"),
        ({"choose": "kcenter"}, "choose kcenter is for a new model"),
        ({"residuals": 20}, "residuals 20 is for a new model"),
        ({"anchored": False}, "the model is an anchored one: it goes on as one, leave out anchored: false"),
    ],
)
def test_what_a_start_in_memory_decides_is_refused(runs, tiny, tmp_path, fields, words):
    start = kedge.load(runs / "mapped")
    with pytest.raises(ValueError, match=f"start: {words}"):
        fit(tiny(**{**STILL, **fields}), progress=False, start=start)
    assert not (tmp_path / "run").exists()


def test_what_a_start_in_memory_has_may_be_said(runs, tiny):
    start = kedge.load(runs / "mapped")
    start.residuals = torch.rand(4, 1, 8, 8) - 0.5
    result = fit(tiny(**STILL, residuals=4, anchored=True), progress=False, start=start)
    assert (result.recipe.residuals, result.recipe.references) == (4, 3)
    assert torch.equal(result.model.residuals, start.residuals)

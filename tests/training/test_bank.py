"""The bank of a run is averaged and blurred as references are in its training, and residuals are of that bank."""

import shutil

import pytest
import torch

import kedge
from kedge.training import fit
from kedge.training.images import load_sets

pytestmark = pytest.mark.usefixtures("no_report")
SOFT = [{"Anchored": {"alpha": 0, "average": 2, "blur": 3}}, "CrossEntropy"]


def distance(model, recipe):
    """The largest distance of a residual plus that reference which suits it best from a training image."""
    images = load_sets(recipe)[0].images.flatten(1).double() / 255
    sums = model.residuals[:, None].double() + model.references[None].double()
    return float(torch.cdist(sums.flatten(2), images).amin((1, 2)).max())


@pytest.mark.parametrize("ema", [None, 0.5])
def test_residuals_are_of_the_bank_that_predicts(tiny, ema):
    result = fit(tiny(objective=SOFT, residuals=20, epochs=1, ema=ema), progress=False)
    assert result.model.bank_prepared == (2, 3)
    assert result.model.residuals.shape == (20, 1, 8, 8)
    assert distance(result.model, result.recipe) < 1e-5
    assert torch.equal(kedge.load(result.folder).residuals, result.model.residuals)


def test_a_bank_that_is_blurred_when_a_run_starts_from_it_has_residuals_of_its_own(tiny, break_off):
    first = fit(tiny(name="first", residuals=20, epochs=1), progress=False)
    assert distance(first.model, first.recipe) < 1e-5
    more = {"init_from": str(first.folder), "arguments": {}, "objective": SOFT}
    second = fit(tiny(name="second", **more), progress=False)
    assert second.model.residuals.shape == (20, 1, 8, 8)
    assert distance(second.model, second.recipe) < 1e-5
    break_off(tiny(name="third", **more))
    resumed = fit(resume=second.folder.parent / "third", progress=False)
    assert torch.equal(resumed.model.residuals, second.model.residuals)


def test_residuals_in_a_loop_of_ones_own_are_taken_out_with_the_bank_that_they_are_of():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 2, 6), torch.nn.Flatten())
    model = kedge.anchor(network, example=(3, 6, 6), references=torch.rand(4, 3, 6, 6))
    model.residuals = torch.rand(7, 3, 6, 6) - 0.5
    for prepared, there in (({}, True), ({"blur": 3}, False)):
        kedge.objectives.Anchored(kedge.objectives.CrossEntropy(), **prepared).prepare(model)
        assert (model.residuals is not None) == there


@pytest.mark.parametrize("start", ["init_from", "in memory", "a folder that belongs to no run"])
def test_a_run_goes_on_with_references_as_they_were(tiny, tmp_path, start):
    first = fit(tiny(name="first", objective=SOFT, epochs=1), progress=False)
    fields, keywords = {"arguments": {}}, {}
    if start == "in memory":
        keywords = {"start": first.model}
    elif start == "init_from":
        fields["init_from"] = str(first.folder)
    else:
        fields["init_from"] = str(shutil.copytree(first.folder / "model", tmp_path / "copied"))
    second = fit(tiny(name="second", **fields), progress=False, **keywords)
    outer = second.recipe.objective[0]["Anchored"]
    assert (outer["average"], outer["blur"]) == (2, 3)
    assert torch.equal(second.model.references, first.model.references)
    assert second.model.bank_prepared == (2, 3)

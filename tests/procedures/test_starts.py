"""Training from a model in memory: what is refused, and what a run of it records."""

import pytest
import torch

from kedge.adaptation import adapt, with_head
from kedge.anchoring.references import blurred
from kedge.probing.features import drawn_features
from kedge.training import Recipe, fit
from kedge.training.recorded import anchored_arguments, recorded


def test_a_start_of_other_classes_or_sizes_is_refused(body, digits, tmp_path):
    recipe = Recipe(name="run", runs=str(tmp_path), device="cpu", epochs=1, references=3)
    sets = digits[:2]
    with pytest.raises(ValueError, match=r"start: the model has 7 outputs .* 3 classes"):
        fit(recipe, sets=sets, start=body, progress=False)
    other = with_head(body, "fc", ["7", "4", "1"])
    with pytest.raises(ValueError, match="start: the model has 3 outputs for 7, 4, 1"):
        fit(recipe, sets=sets, start=other, progress=False)
    assert not (tmp_path / "run").exists()


def test_a_start_is_not_changed_and_what_it_cost_is_not_known(body, digits, tmp_path):
    start = with_head(body, "fc", digits[0].class_names)
    before = {k: v.clone() for k, v in start.state_dict().items()}
    recipe = Recipe(name="run", runs=str(tmp_path), device="cpu", epochs=1, references=3)
    result = fit(recipe, sets=digits[:2], start=start, progress=False, report=False)
    assert all((value == before[name]).all() for name, value in start.state_dict().items())
    assert (result.recipe.anchored, result.recipe.model) == (False, "kedge_resnet_small")
    assert result.report is None
    assert not (result.folder / "report.html").exists()
    assert '"earlier": null' in (result.folder / "run.json").read_text()


@pytest.mark.parametrize("how", ["linear-probe", "finetune"])
def test_the_new_bank_is_averaged_and_blurred_as_the_old_one(anchored, digits, how, tmp_path):
    usual = adapt(anchored, *digits[:2], how="linear-probe", device="cpu").model.references
    anchored.prepare_bank(2, 3)
    adapted = adapt(anchored, *digits[:2], how=how, out=tmp_path, device="cpu", epochs=1, batch_size=16)
    assert adapted.model.bank_prepared == (2, 3)
    expected = blurred((usual + usual.roll(-1, 0)) / 2, 3)
    torch.testing.assert_close(adapted.model.references, expected)
    if how == "finetune":
        outer = anchored_arguments(recorded(adapted.folder)["objective"])
        assert (outer["average"], outer["blur"]) == (2, 3)


def test_references_that_are_drawn_for_a_probe_are_averaged_and_blurred_too(anchored, digits):
    seen = []
    anchored.register_forward_pre_hook(lambda model, args, kwargs: seen.append(kwargs["references"]), with_kwargs=True)
    images = digits[0].images.float() / 255
    for prepared in ((1, 0), (2, 1), (2, 3)):
        anchored.bank_prepared = prepared
        drawn_features(anchored, "fc", digits[0], 1, False, 0)
    one, two, soft = seen
    assert torch.cdist(one.flatten(1), images.flatten(1)).amin(1).max() < 0.01
    assert torch.cdist(two.flatten(1), images.flatten(1)).amin(1).median() > 0.5
    torch.testing.assert_close(soft, blurred(two, 3))

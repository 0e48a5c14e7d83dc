"""Training from a model in memory: what is refused, and what a run of it records."""

import pytest

from kedge.adaptation import with_head
from kedge.training import Recipe, fit


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

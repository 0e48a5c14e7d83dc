"""Stages of epsilon: which share is in force when, that images stay within it, and what is refused."""

import pytest
import torch
from torch import nn

from kedge.attacks import FGSM, PGD, Attack
from kedge.objectives import Adversarial, CrossEntropy, set_progress
from kedge.training import Recipe, fit
from kedge.training.digests import may_grow
from tests.settings import TINY

IMAGES = torch.rand(5, 1, 6, 6, generator=torch.Generator().manual_seed(0)) * 0.6 + 0.2
LABELS = torch.arange(5) % 3


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(36, 3))


def staged(stages, attack=None):
    return Adversarial(CrossEntropy(), attack or PGD(0.1, 4), stages=stages)


@pytest.mark.parametrize(("progress", "share"), [
    (0.0, 0.25), (0.33, 0.25), (0.34, 0.5), (0.66, 0.5), (0.67, 1.0), (0.99, 1.0), (1.0, 1.0),
])  # fmt: skip
def test_each_stage_has_an_equal_part_of_training(progress, share):
    objective = staged((0.25, 0.5, 1.0))
    set_progress(objective, progress)
    assert objective.share == share
    adversarial = objective.perturb(network(), IMAGES, LABELS)
    assert float((adversarial - IMAGES).abs().max()) == pytest.approx(share * 0.1, abs=1e-6)


def test_one_stage_of_all_is_the_whole_epsilon_bit_for_bit():
    losses = []
    for stages in ((1.0,), None):
        torch.manual_seed(3)
        objective = Adversarial(CrossEntropy(), PGD(0.1, 4), stages=stages)
        set_progress(objective, 0.2)
        losses.append(objective(network(), IMAGES, LABELS))
    assert torch.equal(*losses)


def test_a_stage_of_zero_costs_one_pass_and_stages_may_fall():
    objective = staged([1.0, 0.0])
    set_progress(objective, 0.6)
    assert objective.passes == 1
    assert torch.equal(objective(network(), IMAGES, LABELS), CrossEntropy()(network(), IMAGES, LABELS))
    set_progress(objective, 0.4)
    assert objective.passes == 5


@pytest.mark.parametrize("count", [1, 3])
def test_small_batches_and_soft_targets(count):
    objective = staged([0.5, 1.0], FGSM(0.1))
    set_progress(objective, 0.1)
    for targets in (torch.zeros(count, dtype=torch.long), torch.eye(3)[LABELS[:count]]):
        assert objective(network(), IMAGES[:count], targets).isfinite()


@pytest.mark.parametrize("stages", [(), [0.0], [0.5, 1.5], [-0.1], "1"])
def test_stages_that_are_none(stages):
    with pytest.raises(ValueError, match="stages are shares of eps, 0 to 1"):
        staged(stages)


def test_what_contradicts_them():
    with pytest.raises(ValueError, match="both say how eps grows: leave one out"):
        Adversarial(CrossEntropy(), PGD(0.1, 2), ramp=0.5, stages=(0.5, 1.0))

    class Fixed(Attack):
        def __call__(self, model, images, targets):
            return images

    with pytest.raises(ValueError, match="stages change the eps of a PGD or FGSM"):
        staged((0.5, 1.0), Fixed())


def test_a_loop_that_says_no_progress_is_warned():
    with pytest.warns(UserWarning, match="hold, ramp and stages follow the progress"):
        staged((0.5, 1.0))(network(), IMAGES, LABELS)


def test_in_a_recipe_and_then_it_cannot_grow(tmp_path):
    spec = [{"Adversarial": {"attack": {"fgsm": {"eps": "8/255"}}, "stages": [0.5, 1.0]}}, "CrossEntropy"]
    values = {**TINY, "objective": spec, "anchored": False, "runs": str(tmp_path), "name": "run", "epochs": 1}
    result = fit({**values, "val_pgd_steps": 0}, progress=False, report=False)
    assert result.recipe.objective[0]["Adversarial"]["stages"] == [0.5, 1.0]
    constant = {"schedule": "constant", "warmup": 0.0, "epochs": 2}
    assert not may_grow(Recipe.from_dict({**values, **constant}), 4)
    plain = [{"Adversarial": {"attack": {"fgsm": {"eps": "8/255"}}}}, "CrossEntropy"]
    assert may_grow(Recipe.from_dict({**values, **constant, "objective": plain}), 4)


def test_repr_shows_stages_where_there_are_some():
    assert "stages=(0.5, 1.0)" in repr(staged((0.5, 1.0)))
    assert "stages" not in repr(staged(None))

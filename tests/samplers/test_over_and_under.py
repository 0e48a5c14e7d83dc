"""Oversampling and undersampling: how often each image comes, how long an epoch is, and what goes with them."""

import json

import pytest
import torch

from kedge.data import TensorSet
from kedge.data.batches import training_batches
from kedge.objectives._weights import balanced_weights
from kedge.samplers import make_sampler
from kedge.samplers._base import epoch_length
from kedge.samplers.oversampled import oversampled
from kedge.samplers.undersampled import undersampled
from kedge.training import fit
from kedge.training.objective import make_objective
from kedge.training.recipe import Recipe

COUNTS = {0: 60, 1: 7, 2: 30, 4: 3}  # class 3 has none
LABELS = torch.tensor([label for label, count in COUNTS.items() for _ in range(count)])


def flat(labels=LABELS):
    images = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
    return TensorSet(images, labels, list("abcde"))


@pytest.mark.parametrize("epoch", range(3))
def test_every_class_gets_as_large_as_the_largest_and_no_image_is_left_out(epoch):
    order = oversampled(LABELS, epoch, 1)
    assert LABELS[order].bincount().tolist() == [60, 60, 60, 0, 60]
    times = order.bincount(minlength=100)
    assert int(times.min()) == 1
    for label in COUNTS:
        of_class = times[label == LABELS]
        assert int(of_class.max() - of_class.min()) <= 1


@pytest.mark.parametrize("epoch", range(3))
def test_every_class_gets_as_small_as_the_smallest_and_no_image_comes_twice(epoch):
    order = undersampled(LABELS, epoch, 1)
    assert LABELS[order].bincount().tolist() == [3, 3, 3, 0, 3]
    assert int(order.bincount().max()) == 1


def test_up_to_a_ratio():
    assert LABELS[oversampled(LABELS, 0, 0, ratio=0.25)].bincount().tolist() == [60, 15, 30, 0, 15]
    assert LABELS[undersampled(LABELS, 0, 0, ratio=0.25)].bincount().tolist() == [12, 7, 12, 0, 3]
    for ratio in (0, 1.5, True, "1"):
        for name in ("oversampled", "undersampled"):
            with pytest.raises(ValueError, match=f"{name}: ratio is .*above 0 up to 1"):
                make_sampler({name: {"ratio": ratio}})(LABELS, 0, 0)


@pytest.mark.parametrize("name", ["oversampled", "undersampled", "class_balanced"])
def test_a_balanced_set_is_left_as_it_is(name):
    labels = torch.arange(40) % 4
    assert sorted(make_sampler(name)(labels, 2, 0).tolist()) == list(range(40))


def test_draws_are_fresh_each_epoch_unless_that_is_not_wanted():
    drawn = [set(undersampled(LABELS, epoch, 0).tolist()) for epoch in range(40)]
    assert len(set.union(*drawn)) > 80  # of 100; 12 in an epoch
    once = [undersampled(LABELS, epoch, 0, fresh=False) for epoch in range(3)]
    assert {tuple(sorted(each.tolist())) for each in once} == {tuple(sorted(once[0].tolist()))}
    assert not torch.equal(once[0], once[1])  # in another order
    assert not torch.equal(oversampled(LABELS, 0, 0), oversampled(LABELS, 1, 0))


@pytest.mark.parametrize("sampler", [oversampled, undersampled])
def test_the_mean_is_that_of_balanced_weights(sampler):
    values = torch.rand(100, generator=torch.Generator().manual_seed(0))
    weighted = (balanced_weights(LABELS, 5)[LABELS] * values).mean()
    drawn = torch.stack([values[sampler(LABELS, epoch, 2)].mean() for epoch in range(600)])
    assert float(drawn.mean()) == pytest.approx(float(weighted), abs=4 * float(drawn.std()) / 600**0.5)


@pytest.mark.parametrize(("name", "length"), [("oversampled", 240), ("undersampled", 12)])
def test_an_epoch_is_as_long_as_what_is_drawn(name, length):
    sampler = make_sampler(name)
    assert epoch_length(sampler, LABELS, 0) == length
    for world in (1, 2):
        ranks = [training_batches(flat(), 8, 0, rank, world, sampler=sampler) for rank in range(world)]
        assert {len(rank) for rank in ranks} == {-(-length // (8 * world))}
        for rank in ranks:
            rank.set_epoch(3)
        rows = [image for rank in ranks for batch, _ in rank for image in batch[:, 0, 0, 0].tolist()]
        assert sorted(rows) == sorted(sampler(LABELS, 3, 0).tolist())


def test_epochs_of_different_lengths_are_refused():
    batches = training_batches(flat(), 10, 0, sampler=lambda labels, epoch, seed: torch.arange(3 + epoch))
    batches.set_epoch(2)
    with pytest.raises(ValueError, match="3 for epoch 0, and 5 for epoch 2"):
        batches.indices()
    for wrong in (torch.ones(3), torch.ones(3, 1).long(), torch.zeros(0).long(), [0, 1], torch.tensor([0, 100])):
        with pytest.raises(ValueError, match="a sampler gives"):
            training_batches(flat(), 10, 0, sampler=lambda labels, epoch, seed, wrong=wrong: wrong)


@pytest.mark.parametrize("name", ["oversampled", "undersampled", "class-balanced"])
@pytest.mark.parametrize(
    ("second", "words"),
    [
        ({"class_weights": "balanced", "objective": ["CrossEntropy"]}, "class_weights balanced weighs them so"),
        ({"objective": ["BalancedSoftmax"]}, "objective BalancedSoftmax corrects"),
        ({"objective": [{"DiverseExperts": {"tau": 1.0}}]}, "objective DiverseExperts corrects"),
    ],
)
def test_correcting_twice_is_refused(name, second, words):
    with pytest.raises(ValueError, match=f"draws every class equally often, and {words}"):
        make_objective(Recipe(sampler=name, **second), flat(LABELS[LABELS < 3]).only_classes(["a", "b", "c"]))


def test_half_way_weights_do_the_rest():
    """Weights beside a sampler that draws classes not quite equally are those of what is drawn: once in all."""
    recipe = Recipe(sampler={"oversampled": {"ratio": 0.5}}, class_weights="balanced", objective=["CrossEntropy"])
    train = flat(LABELS[LABELS < 3]).only_classes(["a", "b", "c"])
    weights = make_objective(recipe, train).class_weights
    drawn = torch.tensor([60, 30, 30])
    torch.testing.assert_close(weights * drawn, torch.full((3,), 40.0))


def test_a_run_counts_the_steps_of_what_it_draws(tmp_path):
    def run(name, sampler):
        settings = {"data": "digits", "classes": ["0", "1"], "model": "kedge_resnet_small", "arguments": {"width": 4},
                    "epochs": 2, "batch_size": 20, "device": "cpu", "anchored": False, "runs": str(tmp_path),
                    "imbalance": {"ratio": 8}, "name": name, "sampler": sampler}  # fmt: skip
        result = fit(settings, progress=False, report=False)
        return json.loads((result.folder / "run.json").read_text())

    plain, over, under = (run(name, name) for name in ("shuffled", "oversampled", "undersampled"))
    n = plain["data"]["train"]
    assert over["data"]["train"] == under["data"]["train"] == n
    assert plain["cost"]["passes"] == 2 * n
    assert over["cost"]["passes"] > 1.5 * 2 * n
    assert under["cost"]["passes"] < 0.5 * 2 * n

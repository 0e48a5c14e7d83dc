"""Which images an epoch holds: in what order, how often, and the same in every process."""

from itertools import chain

import pytest
import torch
from PIL import Image

from kedge import catalog, data
from kedge.data.batches import repeats, training_batches
from kedge.data.report import DataError
from kedge.data.sets import TensorSet
from kedge.objectives._weights import balanced_weights
from kedge.samplers import make_sampler
from kedge.samplers.class_balanced import class_balanced
from kedge.samplers.shuffled import shuffled
from kedge.training.objective import make_objective
from kedge.training.recipe import Recipe

NAMES = catalog.names("samplers")
ORDERS = [[1, 5, 2, 3, 9, 7, 6, 0, 8, 4], [3, 7, 1, 5, 9, 6, 4, 2, 8, 0]]
LABELS = torch.tensor([0] * 60 + [1] * 7 + [2] * 30 + [4] * 3)  # class 3 has none


def test_shuffled_is_the_order_that_runs_always_had():
    # Of epoch 0 and seed 0, and of epoch 3 and seed 7, before there were samplers: a resumed run goes on with them.
    assert shuffled(torch.zeros(10), 0, 0).tolist() == ORDERS[0]
    assert shuffled(torch.zeros(10), 3, 7).tolist() == ORDERS[1]


@pytest.mark.parametrize("name", NAMES)
def test_a_sampler_draws_as_many_afresh_each_epoch_and_alike_for_a_seed(name):
    sampler = make_sampler(name)
    first = sampler(LABELS, 0, 5)
    assert (first.dtype, first.shape) == (torch.long, sampler(LABELS, 3, 7).shape)
    assert torch.equal(first, sampler(LABELS, 0, 5))
    assert not torch.equal(first, sampler(LABELS, 1, 5))
    assert not torch.equal(first, sampler(LABELS, 0, 6))
    assert catalog.info("samplers", name)


@pytest.mark.parametrize("epoch", range(5))
def test_classes_are_drawn_equally_often(epoch):
    order = class_balanced(LABELS, epoch, 0)
    assert LABELS[order].bincount().tolist() == [25, 25, 25, 0, 25]
    times = order.bincount(minlength=100)
    for label, count in ((0, 60), (1, 7), (2, 30), (4, 3)):
        of_class = times[label == LABELS]
        assert int(of_class.max() - of_class.min()) <= 1  # 25 of 60 at most once, 25 of 7 three or four times
        assert int(of_class.max()) == -(-25 // count)


def test_what_is_left_over_goes_to_random_classes():
    labels = torch.tensor([0] * 5 + [1] * 3 + [2] * 3)
    counts = torch.stack([labels[class_balanced(labels, epoch, 0)].bincount() for epoch in range(300)])
    assert counts.sum(1).unique().tolist() == [11]
    assert sorted(counts.unique().tolist()) == [3, 4]
    assert counts.double().mean(0).tolist() == pytest.approx([11 / 3] * 3, abs=0.1)


def test_over_epochs_every_image_of_a_class_comes_equally_often():
    times = sum(class_balanced(LABELS, epoch, 1).bincount(minlength=100) for epoch in range(400)) / 400
    for label, count in ((0, 60), (1, 7), (2, 30), (4, 3)):
        # 25 / 60 is a coin: over 400 epochs its deviation is 0.025, and the largest of a hundred stays below four.
        assert times[label == LABELS].tolist() == pytest.approx([25 / count] * count, abs=0.1)


def test_balanced_draws_have_the_expectation_of_balanced_weights():
    values = torch.rand(100, generator=torch.Generator().manual_seed(0))
    weighted = (balanced_weights(LABELS, 5)[LABELS] * values).mean()
    drawn = torch.stack([values[class_balanced(LABELS, epoch, 2)].mean() for epoch in range(400)])
    assert float(drawn.mean()) == pytest.approx(float(weighted), abs=4 * float(drawn.std()) / 20)


def test_fewer_images_than_classes_and_equal_classes():
    assert sorted(class_balanced(torch.tensor([3, 8]), 0, 0).tolist()) == [0, 1]
    even = torch.arange(40) % 4
    assert sorted(class_balanced(even, 0, 0).tolist()) == list(range(40))


def test_a_thousand_classes_take_no_time():
    labels = torch.randint(1000, (100_000,), generator=torch.Generator().manual_seed(0))
    assert len(class_balanced(labels, 0, 0)) == 100_000


def test_names_and_settings_that_are_none():
    assert make_sampler("ClassBalanced") is class_balanced
    with pytest.raises(ValueError, match="class_balanced"):
        make_sampler("balancd")
    with pytest.raises(ValueError, match="has no argument 'ratio'"):
        make_sampler({"shuffled": {"ratio": 1}})


# In batches


def digits(count=100):
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 1, 8, 8).contiguous()
    return TensorSet(images, LABELS[:count], list("abcde"))


@pytest.mark.parametrize("world", [1, 2, 3])
def test_all_processes_together_have_the_draws_of_one(world):
    ranks = [training_batches(digits(), 7, 3, rank, world, sampler=class_balanced) for rank in range(world)]
    for epoch in (0, 2):
        rows = []
        for rank in ranks:
            rank.set_epoch(epoch)
            rows.append([batch[:, 0, 0, 0].tolist() for batch, _ in rank])
        length = ranks[0].batch_size * world
        order = class_balanced(LABELS, epoch, 3).split(length)
        for step, whole in enumerate(order[: len(ranks[0])]):
            parts = [rows[rank][step] for rank in range(world)]
            assert sorted(chain(*parts)) == sorted(whole.tolist())


def test_repeats_are_counted():
    assert repeats(torch.tensor([4, 1, 4, 4, 0, 1])).tolist() == [0, 0, 1, 2, 0, 1]
    assert repeats(torch.tensor([2, 0, 1])).tolist() == [0, 0, 0]
    assert repeats(torch.zeros(0, dtype=torch.long)).tolist() == []


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_comes_again_in_an_epoch_is_augmented_anew(tmp_path, workers):
    draws = torch.Generator().manual_seed(0)
    for name, count in (("a", 9), ("b", 1)):
        (tmp_path / name).mkdir()
        for i in range(count):
            pixels = torch.randint(256, (80, 80, 3), generator=draws, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(tmp_path / name / f"{i}.png")
    images = data.load(tmp_path, image_size=80)
    batches = training_batches(images, 10, 0, augment="crop-flip", workers=workers, sampler=class_balanced)
    ((views, labels),) = list(batches)
    rare = views[labels == 1]
    assert len(rare) == 5
    assert len(rare.flatten(1).unique(dim=0)) == 5


@pytest.mark.slow
def test_images_of_a_stream_cannot_be_drawn(tmp_path):
    import io
    import tarfile

    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for i in range(8):
            content = io.BytesIO()
            Image.new("RGB", (80, 80), (i, 0, 0)).save(content, "PNG")
            for name, text in ((f"{i}.png", content.getvalue()), (f"{i}.cls", str(i % 2).encode())):
                info = tarfile.TarInfo(name)
                info.size = len(text)
                tar.addfile(info, io.BytesIO(text))
    train, _ = data.stream(f"stream:{tmp_path}", None, 0.25, 0)
    with pytest.raises(DataError, match="leave sampler out"):
        training_batches(train, 2, 0, sampler=class_balanced)
    with pytest.raises(DataError, match="leave sampler out"):
        make_objective(Recipe(sampler="class-balanced", objective=["CrossEntropy"]), train)


# With class weights


def test_correcting_twice_is_refused():
    balanced = Recipe(sampler="class-balanced", class_weights="balanced", objective=["CrossEntropy"])
    with pytest.raises(ValueError, match="one of the two is enough"):
        make_objective(balanced, digits())
    even = TensorSet(torch.zeros(10, 1, 8, 8, dtype=torch.uint8), torch.arange(10) % 2, ["a", "b"])
    assert make_objective(balanced, even).class_weights.tolist() == [1, 1]


def test_written_weights_have_the_mean_one_over_what_is_drawn():
    recipe = Recipe(sampler="class-balanced", objective=[{"CrossEntropy": {"class_weights": [1, 2, 3, 9, 4]}}])
    expected = torch.tensor([1, 2, 3, 9, 4]) / 2.5  # the mean of 1, 2, 3 and 4: class 3 has no images
    torch.testing.assert_close(make_objective(recipe, digits()).class_weights, expected)
    plain = make_objective(Recipe(objective=recipe.objective), digits()).class_weights
    assert float(plain[LABELS].mean()) == pytest.approx(1)

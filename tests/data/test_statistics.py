import pytest
import torch

import kedge
from kedge.data.statistics import NormBatches


def passes(batches):
    return [list(batches), list(batches)]


def test_whole_batches_of_a_subset_the_same_in_every_pass():
    train = kedge.data.load("digits", "train")
    batches = NormBatches(train, 32, most=100, seed=3)
    first, second = passes(batches)
    assert [(len(images), len(labels)) for images, labels in first] == [(32, 32)] * 3
    assert len(batches) == 3
    for (images, labels), (again, same) in zip(first, second, strict=True):
        assert torch.equal(images, again)
        assert torch.equal(labels, same)
    other = list(NormBatches(train, 32, most=100, seed=4))
    assert not torch.equal(first[0][0], other[0][0])
    assert first[0][0].dtype == torch.uint8


def test_images_as_they_are_or_augmented():
    train = kedge.data.load("digits", "train").subset(range(40))
    known = {image.numpy().tobytes(): int(label) for image, label in zip(train.images, train.labels, strict=True)}
    plain = list(NormBatches(train, 20, "none"))
    assert {
        image.numpy().tobytes(): int(label) for batch in plain for image, label in zip(*batch, strict=True)
    } == known
    moved = torch.cat([images for images, _ in NormBatches(train, 20)])
    assert len({image.numpy().tobytes() for image in moved} - set(known)) > 20


@pytest.mark.parametrize("augment", ["trivial", "randaugment", "pixmix"])
def test_augmented_as_in_training(augment):
    train = kedge.data.load("digits", "train").subset(range(40))
    first, second = passes(NormBatches(train, 20, augment))
    assert all(torch.equal(a, b) for (a, _), (b, _) in zip(first, second, strict=True))
    flipped = list(NormBatches(train, 20))
    assert not torch.equal(first[0][0], flipped[0][0])


def test_a_small_set_is_one_batch():
    train = kedge.data.load("digits", "train").subset(range(10))
    assert [len(images) for images, _ in NormBatches(train, 64)] == [10]

import copy
import io

import datasets
import pytest
import torch
from PIL import Image

import kedge
from kedge.data import DataError, ImageSet, TensorSet, distilled, feature_distance, from_stream


def striped(each=12, classes=3, size=8, channels=1, seed=0):
    """Of each class noisy stripes of another direction."""
    draws = torch.Generator().manual_seed(seed)
    row, column = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    patterns = torch.stack([((row * k + column * (classes - k)) % 4 < 2).float() for k in range(classes)])
    labels = torch.arange(classes).repeat(each)
    noise = torch.randn(len(labels), channels, size, size, generator=draws)
    pixels = (128 + 80 * (patterns[labels][:, None] - 0.5) + 30 * noise).clamp(0, 255)
    return TensorSet(pixels.to(torch.uint8), labels, [f"way {k}" for k in range(classes)], "stripes", "train")


@pytest.mark.parametrize("begin", ["means", "photos", "noise"])
def test_so_many_of_each_class_with_their_labels(begin):
    whole = striped(channels=3)
    few = distilled(whole, 2, seed=1, steps=2, begin=begin)
    assert few.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert few.images.dtype == torch.uint8
    assert (few.image_shape, few.class_names, few.split) == (whole.image_shape, whole.class_names, "train")
    assert few.name == "stripes (distilled)"


def test_without_steps_they_are_what_they_begin_as():
    whole = striped(each=6)
    means = torch.stack([whole.images[whole.labels == c].double().mean(0) for c in range(3)])
    torch.testing.assert_close(distilled(whole, 1, steps=0).images.double(), means, atol=0.5 + 1e-3, rtol=0)
    halves = distilled(whole, 2, steps=0).images.double().view(3, 2, 1, 8, 8).mean(1)  # both halves of a class
    torch.testing.assert_close(halves, means, atol=0.5 + 1e-3, rtol=0)
    photos = distilled(whole, 2, seed=4, steps=0, begin="photos")
    for image, label in zip(photos.images, photos.labels, strict=True):
        assert (whole.images[whole.labels == label] == image).flatten(1).all(1).any()
    assert len(photos.images.flatten(1).unique(dim=0)) == 6


@pytest.mark.parametrize("begin", ["means", "photos", "noise"])
def test_steps_bring_them_nearer_to_the_photos_for_networks_that_they_have_not_met(begin):
    whole = striped(each=20)
    before, after = (feature_distance(whole, distilled(whole, 2, steps=steps, begin=begin)) for steps in (0, 60))
    noise = feature_distance(whole, distilled(whole, 2, steps=0, begin="noise"))
    assert after < 0.7 * before
    assert after < 0.5 * noise


def test_means_of_photos_that_are_all_alike_stay_where_they_are():
    """The distance is 0 from the start."""
    one = torch.randint(256, (2, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    twice = TensorSet(one.repeat_interleave(2, 0), torch.tensor([0, 0, 1, 1]), ["a", "b"])
    few = distilled(twice, 1, steps=5)
    assert (few.images.int() - one.int()).abs().max() <= 1


def test_a_seed_decides():
    whole = striped()
    one, again, other = (distilled(whole, 2, seed, steps=3) for seed in (0, 0, 1))
    assert torch.equal(one.images, again.images)
    assert not torch.equal(one.images, other.images)
    torch.manual_seed(7)
    state = torch.get_rng_state()
    distilled(whole, 1, steps=2)
    assert torch.equal(torch.get_rng_state(), state)


def test_one_class_unequal_classes_and_images_all_alike():
    single = striped(each=2, classes=1)
    assert distilled(single, 1, steps=2).labels.tolist() == [0]
    whole = striped(each=10)
    unequal = whole.subset([i for i, label in enumerate(whole.labels.tolist()) if label or i < 6])
    assert distilled(unequal, 1, steps=2).labels.tolist() == [0, 1, 2]
    black = TensorSet(torch.zeros(4, 1, 5, 4, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]), ["a", "b"])
    assert distilled(black, 1, steps=3).images.max() <= 255 * 0.1
    assert feature_distance(black, black) == 0


def test_the_distance_is_of_class_means():
    whole, other = striped(), striped(seed=1)
    twice = whole.subset(torch.arange(len(whole)).repeat(2))
    assert feature_distance(whole, twice) == pytest.approx(0, abs=1e-8)
    assert feature_distance(whole, other) > 0
    swapped = whole.relabelled((whole.labels + 1) % 3)
    assert feature_distance(whole, swapped) > 2 * feature_distance(whole, other)


def test_they_are_references_like_any_images():
    whole = striped()
    few = distilled(whole, 1, steps=2)
    bank = kedge.anchoring.choose_references(few, 3, "stratified")
    assert {row.numpy().tobytes() for row in bank} == {(row / 255).numpy().tobytes() for row in few.images}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"each": 0}, "each must be a whole number of 1 or more, got 0"),
        ({"each": True}, "each must be a whole number"),
        ({"each": 1.5}, r"got 1\.5"),
        ({"steps": -1}, "steps must be a whole number of 0 or more, got -1"),
        ({"begin": "zeros"}, "begin as means, photos, noise, not 'zeros'"),
        ({"each": 7}, "class way 0 of stripes has 12 images, 7 that begin as means need 14"),
        ({"each": 13, "begin": "photos"}, "has 12 images, 13 that begin as photos need 13"),
    ],
)
def test_values_out_of_range_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        distilled(striped(), **arguments)


def test_sets_that_cannot_be_distilled_are_refused():
    whole = striped()
    with pytest.raises(ValueError, match="stripes has no image of class way 1"):
        distilled(whole.subset(whole.labels != 1))
    with pytest.raises(ValueError, match="4 px a side or more, those of stripes are 1x3x3"):
        distilled(striped(size=3))
    with pytest.raises(TypeError, match="must be an image set"):
        distilled([whole[0]])
    with pytest.raises(ValueError, match="same classes"):
        feature_distance(whole, striped(classes=2))


def test_streams_and_files_are_refused():
    files = io.BytesIO()
    Image.new("L", (8, 8)).save(files, "png")
    rows = {"image": [{"bytes": files.getvalue(), "path": None}] * 4, "label": [0, 1, 0, 1]}
    stream, _ = from_stream(datasets.Dataset.from_dict(rows).to_iterable_dataset(), val_fraction=0)
    in_files = copy.copy(striped())
    in_files.__class__ = ImageSet
    for images in (stream, in_files):
        with pytest.raises(DataError, match="is not in memory, and only such sets are distilled"):
            distilled(images)
        with pytest.raises(DataError, match="is not in memory"):
            feature_distance(striped(), images)

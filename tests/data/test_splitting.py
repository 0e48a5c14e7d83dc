import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kedge.data import DataError, TensorSet, reference_subset, split_validation


def numbered_set(labels: list[int], classes: int | None = None) -> TensorSet:
    """Images whose first pixels are their position in the set."""
    images = torch.zeros(len(labels), 1, 2, 2, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(len(labels)) % 256
    images[:, 0, 0, 1] = torch.arange(len(labels)) // 256
    names = [f"class{i}" for i in range(classes or max(labels) + 1)]
    return TensorSet(images, torch.tensor(labels), names, "numbered")


def positions(images: TensorSet) -> list[int]:
    return (images.images[:, 0, 0, 0].int() + 256 * images.images[:, 0, 0, 1].int()).tolist()


@given(st.lists(st.integers(0, 4), min_size=2, max_size=200), st.floats(0.05, 0.6), st.integers(0, 5))
def test_validation_takes_the_fraction_of_each_class(labels, fraction, seed):
    images = numbered_set(labels, 5)
    counts = torch.bincount(images.labels, minlength=5)
    if counts.max() < 2:
        with pytest.raises(DataError, match="no class has two images"):
            split_validation(images, fraction, seed)
        return
    train, val = split_validation(images, fraction, seed)
    assert sorted(positions(train) + positions(val)) == list(range(len(labels)))
    held = torch.bincount(val.labels, minlength=5)
    for n, k in zip(counts.tolist(), held.tolist(), strict=True):
        assert abs(k - fraction * n) <= (1 if n > 1 else n)
        if n > 1:
            assert 1 <= k < n
        elif n == 1:
            assert k == 0
    again = split_validation(images, fraction, seed)
    assert positions(again[1]) == positions(val)
    assert (train.split, val.split) == ("train", "val")


def test_another_seed_is_another_split():
    images = numbered_set([0, 1] * 200)
    splits = [tuple(positions(split_validation(images, 0.2, seed)[1])) for seed in range(4)]
    assert len(set(splits)) == 4


def test_bad_fraction():
    for fraction in (0.0, 1.0, -0.1, 2):
        with pytest.raises(DataError, match=f"got {fraction}"):
            split_validation(numbered_set([0, 0]), fraction)


def test_reference_subset():
    images = numbered_set([0, 1, 2] * 30)
    two = reference_subset(images, classes=["class2", 0])
    assert sorted(set(two.labels.tolist())) == [0, 2]  # labels stay
    assert len(two) == 60
    some = reference_subset(images, n=20, seed=1)
    assert len(set(positions(some))) == 20
    assert positions(some) == positions(reference_subset(images, n=20, seed=1))
    assert positions(some) != positions(reference_subset(images, n=20, seed=2))
    both = reference_subset(images, classes=[1], n=7)
    assert set(both.labels.tolist()) == {1}
    assert len(both) == 7
    with pytest.raises(DataError, match="asked for 31 reference images, there are 30"):
        reference_subset(images, classes=[1], n=31)
    with pytest.raises(DataError, match="no class 'klass1'; did you mean class1"):
        reference_subset(images, classes=["klass1"])


def test_subset_and_only_classes():
    images = numbered_set([0, 1, 2, 1, 0])
    images.paths = list("abcde")
    part = images.subset([3, 0, 3])
    assert positions(part) == [3, 0, 3]
    assert part.paths == ["d", "a", "d"]
    assert part.labels.tolist() == [1, 0, 1]
    assert positions(images.subset(images.labels == 1)) == [1, 3]
    kept = images.only_classes(["class2", 0])
    assert positions(kept) == [0, 2, 4]
    assert kept.labels.tolist() == [1, 0, 1]
    assert kept.class_names == ["class2", "class0"]
    assert images.labels.tolist() == [0, 1, 2, 1, 0]  # the caller's set is untouched
    assert len(images.subset([])) == 0
    for bad in ([5], [-1]):
        with pytest.raises(IndexError, match=r"0\.\.4"):
            images.subset(bad)
    with pytest.raises(IndexError, match="mask"):
        images.subset(torch.tensor([True]))
    with pytest.raises(DataError, match="named twice"):
        images.only_classes([1, "class1"])
    with pytest.raises(DataError, match="no class 3"):
        images.only_classes([3])


def test_mirroring_is_off_for_characters_and_travels():
    letters = TensorSet(torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 1]), ["A", "B"])
    assert not letters.mirror
    assert numbered_set([0]).mirror
    letters.mirror = True
    assert letters.subset([0]).mirror
    assert letters.only_classes(["A"]).mirror


def test_tensor_set_checks_its_parts():
    with pytest.raises(TypeError, match="uint8"):
        TensorSet(torch.zeros(1, 1, 2, 2), torch.tensor([0]), ["a"])
    with pytest.raises(ValueError, match="1 images but 2 labels"):
        TensorSet(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), torch.tensor([0, 0]), ["a"])
    assert "1 images 1x2x2, 1 classes" in repr(numbered_set([0]))

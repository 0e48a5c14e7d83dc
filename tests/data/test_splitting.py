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
def test_each_class_gives_some_and_none_gives_all(labels, fraction, seed):
    images = numbered_set(labels, 5)
    counts = torch.bincount(images.labels, minlength=5)
    if counts.max() < 2:
        with pytest.raises(DataError, match="no class has two different images"):
            split_validation(images, fraction, seed)
        return
    train, val = split_validation(images, fraction, seed)
    assert sorted(positions(train) + positions(val)) == list(range(len(labels)))
    held = torch.bincount(val.labels, minlength=5)
    for n, k in zip(counts.tolist(), held.tolist(), strict=True):
        assert (1 if n > 1 and n * fraction >= 0.5 else 0) <= k < max(n, 1)
    assert len(val) > 0
    again = split_validation(images, fraction, seed)
    assert positions(again[1]) == positions(val)
    assert (train.split, val.split) == ("train", "val")


def test_few_images_are_trained_on_and_not_held_out_by_the_class():
    """Of twenty photos of six classes one of each would be three in ten."""
    held = [split_validation(numbered_set([i % 6 for i in range(20)]), 0.1, s)[1] for s in range(200)]
    counts = torch.tensor([len(val) for val in held])
    assert counts.min() >= 1
    # One in ten, and one where the draw gives none: 2 + 0.9 ** 20.
    assert abs(float(counts.double().mean()) - 2.12) < 4 * (20 * 0.09 / 200) ** 0.5


def test_the_fraction_of_a_class_is_met_as_closely_as_by_tossing_coins():
    """The deviations over 60 seeds and ten classes of 300 are binomial ones, against scipy's distribution."""
    from scipy import stats

    images, n, fraction = numbered_set([c for c in range(10) for _ in range(300)]), 300, 0.1
    draws = (split_validation(images, fraction, s)[1].labels for s in range(60))
    counts = torch.stack([torch.bincount(labels, minlength=10) for labels in draws])
    assert abs(float(counts.double().mean()) - 30) < 5 * (n * 0.09) ** 0.5 / 600**0.5
    assert 0.8 < float(counts.double().var()) / (n * 0.09) < 1.2
    low, high = stats.binom.interval(0.95, n, fraction)
    assert 0.93 < float(((counts >= low) & (counts <= high)).double().mean()) < 0.99


@given(st.data())
def test_no_image_moves_when_others_come_go_or_change_their_places(data):
    images = numbered_set([i % 3 for i in range(300)])
    order = torch.tensor(data.draw(st.permutations(range(300))))[: data.draw(st.integers(60, 300))]
    held = set(positions(split_validation(images, 0.2, seed=4)[1]))
    part = images.subset(order)
    if not held & set(positions(part)):
        return  # a choice that looks like a part that was divided before
    val = set(positions(split_validation(part, 0.2, seed=4)[1]))
    for c in range(3):
        own = set(positions(part.subset(part.labels == c)))
        if 0 < len(own & held) < len(own):
            assert val & own == own & held
        elif len(own) > 2:  # else it gives one, or keeps one
            assert len(val & own) == (1 if not own & held else len(own) - 1)


def test_equal_images_are_on_one_side_also_in_different_classes():
    images = numbered_set([0] * 40 + [1] * 40)
    images.images[40:] = images.images[:40]
    train, val = split_validation(images, 0.3, seed=1)
    assert not set(train.keys()) & set(val.keys())
    assert len(val) % 2 == 0
    # The lowest of a class that has none takes its copies along, unless they are all that another class has.
    images = numbered_set([0] * 9 + [1, 2, 2])
    images.images[9:11] = images.images[:1]
    for seed in range(40):
        train, val = split_validation(images, 0.01, seed)
        assert {0, 1, 2} == set(train.labels.tolist())
        assert not set(train.keys()) & set(val.keys())


def test_what_a_model_knows_stays_where_it_was():
    images = numbered_set([0, 1] * 100)
    keys = images.keys()
    train, val = split_validation(images, 0.1, seed=0, trained=set(keys[:50]), held=set(keys[40:80]))
    assert set(keys[:50]) <= set(train.keys())
    assert set(keys[50:80]) <= set(val.keys())
    assert 0 < len(set(val.keys()) - set(keys[50:80])) < 40
    with pytest.raises(DataError, match="a model was trained on all of its images, so none can be held out"):
        split_validation(images, 0.1, trained=set(keys))


def test_a_part_of_a_set_is_not_divided_by_the_same_seed_again():
    images = numbered_set([0, 1] * 300)
    rest, _ = split_validation(images, 0.5, seed=3)
    with pytest.raises(DataError, match=r"none of \d+ images falls to validation with seed 3 .* Take another seed"):
        split_validation(rest, 0.1, seed=3)
    assert len(split_validation(rest, 0.1, seed=4)[1]) > 10


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


def test_copies_of_one_image_a_class_are_said_to_be_that():
    images = torch.cat([torch.full((100, 1, 4, 4), value, dtype=torch.uint8) for value in (10, 200)])
    copies = TensorSet(images, torch.tensor([0] * 100 + [1] * 100), ["a", "b"])
    with pytest.raises(DataError, match="no class has two different images"):
        split_validation(copies, 0.1, 0)

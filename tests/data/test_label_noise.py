import pytest
import torch

import kedge
from kedge.data import with_label_noise


@pytest.fixture(scope="module")
def digits():
    return kedge.data.load("digits", "train")


@pytest.mark.parametrize("share", [0.05, 0.2, 0.999])
def test_so_many_labels_become_another_class(digits, share):
    before = digits.labels.clone()
    noisy = with_label_noise(digits, share, seed=3)
    assert int((noisy.labels != digits.labels).sum()) == round(share * len(digits))
    assert torch.equal(digits.labels, before)
    assert noisy.images is digits.images
    assert (int(noisy.labels.min()), int(noisy.labels.max())) == (0, 9)


def test_every_other_class_is_equally_likely(digits):
    pairs = torch.zeros(10, 10)
    for seed in range(20):
        noisy = with_label_noise(digits, 0.5, seed)
        changed = noisy.labels != digits.labels
        pairs.index_put_((digits.labels[changed], noisy.labels[changed]), torch.ones(()), accumulate=True)
    assert (pairs.diagonal() == 0).all()
    expected = 20 * 0.5 * len(digits) / 90
    off = pairs[~torch.eye(10, dtype=torch.bool)]
    chi = ((off - expected) ** 2 / expected).sum()
    assert chi < 150  # 89 degrees of freedom: mean 89, standard deviation 13


def test_a_seed_decides(digits):
    one, again, other = (with_label_noise(digits, 0.2, seed).labels for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(with_label_noise(digits, 0.0, 1).labels, digits.labels)


@pytest.mark.parametrize("share", [0.1, 0.4, 0.999])
def test_pair_noise_takes_each_class_for_one_other(digits, share):
    noisy = with_label_noise(digits, share, 3, "pair")
    changed = noisy.labels != digits.labels
    assert int(changed.sum()) == round(share * len(digits))
    became = [set(noisy.labels[changed & (digits.labels == c)].tolist()) for c in range(10)]
    assert all(len(others) == 1 and c not in others for c, others in enumerate(became))


def test_the_classes_taken_for_each_other_are_those_of_all_parts_and_the_images_are_not(digits):
    parts = [with_label_noise(digits, 0.5, 3, "pair", part).labels for part in ("train", "val", "test")]
    for one, other in zip(parts, parts[1:] + parts[:1], strict=True):
        assert not torch.equal(one, other)
        both = (one != digits.labels) & (other != digits.labels)
        assert int(both.sum()) > 100
        assert torch.equal(one[both], other[both])


def test_every_other_class_is_equally_likely_to_be_the_one(digits):
    one_each = digits.subset([int((digits.labels == c).nonzero()[0]) for c in range(10)])
    pairs = torch.zeros(10, 10)
    for seed in range(2000):
        noisy = with_label_noise(one_each, 0.9, seed, "pair").labels
        changed = noisy != one_each.labels
        pairs[one_each.labels[changed], noisy[changed]] += 1
    assert (pairs.diagonal() == 0).all()
    off = pairs[~torch.eye(10, dtype=torch.bool)]
    chi = ((off - 200) ** 2 / 200).sum()
    assert chi < 150  # 89 degrees of freedom: mean 89, standard deviation 13


def test_pair_noise_of_two_classes_is_symmetric_noise(digits):
    two = digits.only_classes([3, 8])
    one, other = (with_label_noise(two, 0.3, 5, kind).labels for kind in ("symmetric", "pair"))
    assert torch.equal(one, other)


def test_what_cannot_be(digits):
    with pytest.raises(ValueError, match="one of symmetric, pair, not 'asymmetric'"):
        with_label_noise(digits, 0.1, 0, "asymmetric")
    for share in (-0.1, 1.0):
        with pytest.raises(ValueError, match=f"0 or more and below 1, got {share}"):
            with_label_noise(digits, share, 0)
    with pytest.raises(ValueError, match="single class"):
        with_label_noise(digits.only_classes([3]), 0.1, 0)

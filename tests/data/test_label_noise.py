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


def test_what_cannot_be(digits):
    for share in (-0.1, 1.0):
        with pytest.raises(ValueError, match=f"0 or more and below 1, got {share}"):
            with_label_noise(digits, share, 0)
    with pytest.raises(ValueError, match="single class"):
        with_label_noise(digits.only_classes([3]), 0.1, 0)

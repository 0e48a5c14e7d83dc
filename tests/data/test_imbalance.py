import pytest
import torch

import kedge
from kedge.data import TensorSet, imbalanced


def flat(counts, names=None):
    """Images whose pixels say which they are."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(1))]
    pixels = torch.arange(len(labels)).to(torch.int32).view(-1, 1, 1, 1)
    images = torch.cat([pixels % 256, pixels // 256], 1).to(torch.uint8)
    return TensorSet(images, labels, names or [f"c{k}" for k in range(len(counts))])


def counts_of(images):
    return torch.bincount(images.labels, minlength=len(images.class_names)).tolist()


def test_the_published_counts():
    """n_max 500, ρ 50 and ten classes, of the code of SADE."""
    part = imbalanced(flat([500] * 10), 50, order=range(10))
    assert counts_of(part) == [500, 323, 209, 135, 87, 56, 36, 23, 15, 10]


def test_step_and_linear():
    whole = flat([100] * 5)
    assert counts_of(imbalanced(whole, 10, "step", order=range(5), rare=0.4)) == [100, 100, 100, 10, 10]
    assert counts_of(imbalanced(whole, 5, "linear", order=[4, 3, 2, 1, 0])) == [20, 40, 60, 80, 100]
    assert sorted(counts_of(imbalanced(whole, 10, "step", seed=3))) == [10, 10, 100, 100, 100]  # half of 5, to even


def test_no_class_needs_more_than_it_has():
    whole = flat([40, 100, 9])
    for kind in ("long-tailed", "linear", "step"):
        for seed in range(6):
            counts = counts_of(imbalanced(whole, 4, kind, seed))
            assert all(count <= there for count, there in zip(counts, [40, 100, 9], strict=True))
            assert min(counts) * 4 <= max(counts) < (min(counts) + 1) * 4
    assert counts_of(imbalanced(whole, 1, seed=2)) == [9, 9, 9]
    assert counts_of(imbalanced(whole, 4, "step", order=[1, 0, 2], largest=20, rare=0.4)) == [20, 20, 5]


def test_images_are_none_twice_and_in_their_order():
    whole = flat([60] * 4)
    part = imbalanced(whole, 6, seed=5)
    places = part.images[:, 0, 0, 0].long() + 256 * part.images[:, 1, 0, 0].long()
    assert (places.diff() > 0).all()
    assert torch.equal(whole.labels[places], part.labels)
    assert part.class_names == whole.class_names


def test_a_seed_decides_which_classes_are_rare_and_which_images_there_are():
    whole = flat([60] * 6)
    one, again, other = (imbalanced(whole, 6, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one.images, again.images)
    assert counts_of(one) != counts_of(other)
    fixed = [imbalanced(whole, 6, seed=seed, order=range(6)) for seed in (1, 2)]
    assert counts_of(fixed[0]) == counts_of(fixed[1])
    assert not torch.equal(fixed[0].images, fixed[1].images)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"ratio": 0.5}, "1 or more, got 0.5"),
        ({"ratio": float("nan")}, "1 or more, got nan"),
        ({"ratio": 2, "kind": "exp"}, "long-tailed, linear, step, not 'exp'"),
        ({"ratio": 1000}, "leaves no image of class"),
        ({"ratio": 2, "kind": "step", "rare": 1.0}, "leave none, or all"),
        ({"ratio": 2, "order": [0, 1]}, "all 3 classes"),
        ({"ratio": 2, "order": [0, 1, "owl"]}, "no class 'owl'"),
        ({"ratio": 2, "largest": 99}, "would need"),
    ],
)
def test_what_cannot_be(arguments, words):
    with pytest.raises(ValueError, match=words):
        imbalanced(flat([30] * 3), **arguments)
    with pytest.raises(ValueError, match="single class"):
        imbalanced(kedge.data.load("digits", "train").only_classes([3]), 2)

"""The verdict: its parts against counts by hand, and how often it is false, in simulation."""

import math

import pytest
import torch
from scipy import optimize, stats

from kedge.evaluation.verdict import verdict


def of(wrong_half: int, wrong_rest: int, images: int = 200) -> dict:
    """The verdict on images of which so many are wrong among the more certain half, and among the rest."""
    correct = torch.ones(images, dtype=torch.bool)
    correct[:wrong_half] = False
    correct[images - wrong_rest :] = False
    order = torch.randperm(images, generator=torch.Generator().manual_seed(0))
    return verdict(torch.linspace(5, -5, images)[order], correct[order], 0.05)


def test_the_parts_are_counted_and_bounded_exactly():
    own = of(3, 20)
    assert (own["half"]["wrong"], own["half"]["images"]) == (3, 100)
    assert (own["all"]["wrong"], own["all"]["images"]) == (23, 200)
    expected = stats.binomtest(3, 100).proportion_ci(0.95, "exact")
    assert (own["half"]["low"], own["half"]["high"]) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(
    ("wrong", "kind"), [((0, 2), "all"), ((0, 30), "half"), ((4, 30), "unclear"), ((20, 40), "none")]
)
def test_what_it_comes_to(wrong, kind):
    assert of(*wrong)["kind"] == kind


def test_few_images_and_an_odd_one():
    assert of(0, 0, 19)["kind"] == "few"
    assert verdict(torch.arange(21.0), torch.ones(21, dtype=torch.bool), 0.05)["half"]["images"] == 11


@pytest.mark.parametrize("levels", [1, 2, 3, 7])
def test_equal_confidences_belong_together_whatever_the_order_of_the_images(levels):
    """A folder is sorted by class: among equally sure answers its first half would be other classes than its second."""
    draws = torch.Generator().manual_seed(levels)
    sure = torch.randint(levels, (61,), generator=draws).double()
    correct = torch.arange(61) < 40
    orders = [torch.arange(61), torch.arange(61).flip(0), torch.randperm(61, generator=draws)]
    first, *others = (verdict(sure[order], correct[order], 0.05) for order in orders)
    assert all(other == first for other in others)
    assert first["half"]["images"] >= 31
    assert (sure > sure[sure.argsort()[30]]).sum() <= first["half"]["images"]
    if levels == 1:
        assert first["half"] == first["all"]


def share_wrong(certain: torch.Tensor, slope: float, level: float) -> torch.Tensor:
    """The chance that an answer is wrong, by how certain it is (standard normal)."""
    return torch.sigmoid(level - slope * certain)


@pytest.mark.parametrize("images", [100, 200, 361])
def test_one_that_is_usable_is_false_in_one_of_twenty_also_where_confidence_tells_nothing(images):
    """At the border, 5 % wrong in both halves alike: the exact chance, over all numbers of wrong answers in them."""
    half = (images + 1) // 2
    first, rest = (stats.binom.pmf(range(n + 1), n, 0.05) for n in (half, images - half))
    chance = 0.0
    for wrong_half in range(int(stats.binom.isf(1e-6, half, 0.05))):
        for wrong_rest in range(int(stats.binom.isf(1e-6, images - half, 0.05))):
            # What comes later in the order is decided by numbers alone, as the loop goes on to worse ones.
            if of(wrong_half, wrong_rest, images)["kind"] not in ("all", "half"):
                break
            chance += first[wrong_half] * rest[wrong_rest]
    assert chance <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("images", [60, 400])
@pytest.mark.parametrize("slope", [0.0, 1.0, 2.0])
def test_it_is_false_in_one_of_twenty_at_the_most(slope, images):
    """At the border, 5 % wrong among the more certain half, either verdict is false in 5 % at most."""
    grid = torch.tensor(stats.norm.ppf((torch.arange(2000).double() + 0.5) / 2000))
    level = optimize.brentq(lambda b: float(share_wrong(grid[1000:], slope, b).mean()) - 0.05, -20, 5)
    generator = torch.Generator().manual_seed(images)
    kinds = []
    for _ in range(300):
        certain = torch.randn(images, generator=generator, dtype=torch.double)
        wrong = torch.rand(images, generator=generator, dtype=torch.double) < share_wrong(certain, slope, level)
        kinds.append(verdict(certain, ~wrong, 0.05)["kind"])
    most = 300 * 0.05 + 3.3 * math.sqrt(300 * 0.05 * 0.95)
    assert kinds.count("none") <= most
    assert kinds.count("half") + kinds.count("all") <= most

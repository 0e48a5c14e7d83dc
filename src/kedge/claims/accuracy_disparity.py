"""With unequally many images a class, robustness to attacks widens the gap between the classes: a closed form."""

import math
import time

import torch
from torch import Tensor
from torch.nn import functional as F

from kedge import metrics
from kedge.claims import Claim, Criterion, Curve
from kedge.metrics.class_disparity import info as info
from kedge.seeds import generator

DISTANCE = 1.5  # of each mean from 0
RADII = (0.0, 0.5, 1.0)
DRAWN = 200_000  # images to learn from, and as many to judge by


def disparity(ratio: float, eps: float, distance: float = DISTANCE) -> float:
    """How much more often the larger class is right, in [0, 1], of clean images under the best robust rule.

    Classes N(d, 1) and N(-d, 1) along the line between their means, `ratio` of the first for one of the second, and
    attacks of l2 norm up to `eps`: the best threshold is -ln(ratio) / (2 (d - eps)), so that the accuracies are
    Φ(d ± ln(ratio) / (2 (d - eps))).

    Raises:
        ValueError: for a radius that is not below the distance, where the classes overlap whole, and a ratio below 1.
    """
    if not 0 <= eps < distance:
        raise ValueError(f"eps is from 0 to below the distance {distance:g} of a mean, got {eps:g}")
    if ratio < 1:
        raise ValueError(f"ratio is how many of the larger class there are for one of the smaller, got {ratio:g}")
    moved = math.log(ratio) / (2 * (distance - eps))
    more, less = torch.special.ndtr(torch.tensor([distance + moved, distance - moved], dtype=torch.float64)).tolist()
    return float(more - less)


def searched(ratio: float, eps: float, distance: float = DISTANCE) -> float:
    """The same, with the threshold of the least robust error found among 400,001 of them."""
    thresholds = torch.linspace(-8, 8, 400_001, dtype=torch.float64)
    margin = distance - eps
    missed = ratio * torch.special.ndtr(thresholds - margin) + torch.special.ndtr(-thresholds - margin)
    best = thresholds[missed.argmin()]
    return float(torch.special.ndtr(distance - best) - torch.special.ndtr(distance + best))


def simulated(ratio: float, eps: float, seed: int, distance: float = DISTANCE) -> float:
    """The same, of logistic regression trained against the strongest attack, on drawn points of two dimensions."""
    drawn = generator(seed, f"disparity {ratio:g} {eps:g}")
    points, labels = _points(ratio, distance, drawn)
    signs = 2.0 * labels - 1
    weights = torch.tensor([0.1, 0.0, 0.0], dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        # The strongest attack on a linear rule moves every point by eps along its weights.
        margin = signs * (points @ weights[:2] + weights[2]) - eps * weights[:2].norm()
        value = F.softplus(-margin).mean()
        value.backward()
        return value

    optimizer.step(loss)
    points, labels = _points(1.0, distance, drawn)
    answers = (points @ weights.detach()[:2] + weights.detach()[2] > 0).long()
    return metrics.class_disparity(answers == labels, labels).value or 0.0


def _points(ratio: float, distance: float, drawn: torch.Generator) -> tuple[Tensor, Tensor]:
    """Points `[N, 2]` and labels `[N]`, 1 for the larger class."""
    labels = (torch.rand(DRAWN, generator=drawn) < ratio / (1 + ratio)).long()
    points = torch.randn(DRAWN, 2, generator=drawn, dtype=torch.float64)
    points[:, 0] += distance * (2.0 * labels - 1)
    return points, labels


class AccuracyDisparity(Claim):
    """Two Gaussian classes at distance 3, 1, 2, 5 and 10 of the one for one of the other; attacks of radius 0, 0.5, 1.

    "off the search" is how far the closed form is from the best of 400,001 thresholds, "off the simulation" from robust
    logistic regression on 200,000 points: the largest over the three radii, in points.
    """

    part = "measuring"
    methods = ("metrics.class_disparity",)
    variants = ("1 : 1", "2 : 1", "5 : 1", "10 : 1")
    criteria = (
        *(Criterion(f"closed form, {name}", "off the search", name, None, "below", 0.01) for name in variants),
        *(Criterion(f"simulation, {name}", "off the simulation", name, None, "below", 2) for name in variants),
        Criterion("equal classes have no gap", "gap, radius of 1", "1 : 1", None, "below", 0.01),
        Criterion("robustness widens the gap", "gap at radius 1 beyond that at 0", "5 : 1", "1 : 1", "above", 30),
        Criterion("the more unequal the more", "gap at radius 1 beyond that at 0", "10 : 1", "5 : 1", "above", 10),
    )
    curve = Curve("gap", "radius of")

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """The gaps of the closed form in points, and how far a search and a simulation are from them."""
        started = time.perf_counter()
        ratio = float(variant.partition(" ")[0])
        gaps = {eps: 100 * disparity(ratio, eps) for eps in RADII}
        return {
            **{f"gap, radius of {eps:g}": gap for eps, gap in gaps.items()},
            "gap at radius 1 beyond that at 0": gaps[1.0] - gaps[0.0],
            "off the search": max(abs(100 * searched(ratio, eps) - gap) for eps, gap in gaps.items()),
            "off the simulation": max(abs(100 * simulated(ratio, eps, seed) - gap) for eps, gap in gaps.items()),
            "seconds a step": time.perf_counter() - started,
        }

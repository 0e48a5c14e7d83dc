"""PRESTO gives rare last classes better probabilities than logistic regression, proportional or not."""

from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kedge.claims import Claim, Criterion
from kedge.heads import Presto as Head
from kedge.heads import ProportionalOdds
from kedge.objectives import CrossEntropy
from kedge.objectives import Presto as Objective
from kedge.objectives.presto import info as info
from kedge.seeds import generator

POINTS, FRESH, FEATURES = 1500, 5000, 10
WEIGHTS = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1)
STEPS = 250
# Of each setting: how much two of the ten weights differ between the boundaries, and the boundaries.
SETTINGS = {"nearly proportional": (0.5, (0.0, 5.0)), "not proportional": (1.5, (0.0, 4.4))}


class Presto(Claim):
    """Error of a rare class's probability: 1,500 points, ten dimensions, three ordered classes, the last of 3 to 5 %.

    It is the mean squared error, times 10⁴, on fresh points, against the probability that they were drawn with.

    Two of ten weights differ between the two boundaries, by 0.5 ("nearly proportional") or by 1.5. "logistic" tells the
    last class from the rest. Of PRESTO the weight λ is that of the smallest NLL on a third of the points, held out for
    it, and all points are fitted with it; the head and the objective are those of kedge, by full batches.
    """

    part = "measuring"
    methods = ("heads.presto", "objectives.presto", "heads.proportional_odds")
    variants = ("logistic", "proportional odds", "PRESTO")
    seeds = 12
    criteria = (
        Criterion("not above logistic", "error, nearly proportional", "PRESTO", "logistic", "below"),
        Criterion("not above logistic", "error, not proportional", "PRESTO", "logistic", "below"),
        Criterion("not above the rigid model", "error, not proportional", "PRESTO", "proportional odds", "below"),
    )

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """The error of both settings; of PRESTO also the chosen weight, and % of points with crossed boundaries."""
        measured: dict[str, float] = {}
        for setting in SETTINGS:
            points = drawn(setting, seed)
            head, weight = fitted(variant, points)
            with torch.no_grad():
                rare = head(points.fresh).softmax(1)[:, -1]
                measured[f"error, {setting}"] = 1e4 * float((rare - points.truth).square().mean())
                if weight is not None:
                    measured[f"weight, {setting}"] = weight
                    measured[f"crossed, {setting}"] = 100 * float(head.crossed(points.fresh).double().mean())  # type: ignore[operator]
            measured[f"rare share, {setting}"] = 100 * float((points.y == 2).double().mean())
        return measured


class Points(NamedTuple):
    """Points `[N, D]` with classes `[N]`, and fresh ones `[M, D]` with the probability of the last class `[M]`."""

    x: Tensor
    y: Tensor
    fresh: Tensor
    truth: Tensor


@cache
def drawn(setting: str, seed: int) -> Points:
    """The points of a setting and seed."""
    apart, boundaries = SETTINGS[setting]
    draws = generator(seed, "presto", setting)
    x = torch.randn(POINTS + FRESH, FEATURES, generator=draws).double()
    first = 0.5 * (2 * torch.randint(2, (FEATURES,), generator=draws) - 1).double()
    second = first.clone()
    second[:2] += apart * torch.tensor([1.0, -1.0])
    below = torch.stack([x @ first + boundaries[0], x @ second + boundaries[1]], 1).sigmoid().cummax(1).values
    chance = torch.rand(POINTS + FRESH, 1, generator=draws).double()
    y = (chance > below).sum(1)
    return Points(x[:POINTS], y[:POINTS], x[POINTS:], 1 - below[POINTS:, 1])


def fitted(variant: str, points: Points) -> tuple[nn.Module, float | None]:
    """The head of a variant on its points, and the weight that was chosen; None where there is none."""
    if variant == "logistic":
        return fit(ProportionalOdds(FEATURES, 2), points.x, (points.y == 2).long()), None
    if variant == "proportional odds":
        return fit(ProportionalOdds(FEATURES, 3), points.x, points.y), None
    some = POINTS * 2 // 3

    def held_out(weight: float) -> float:
        head = fit(Head(FEATURES, 3), points.x[:some], points.y[:some], weight)
        with torch.no_grad():
            return float(F.cross_entropy(head(points.x[some:]), points.y[some:]))

    weight = min(WEIGHTS, key=held_out)
    return fit(Head(FEATURES, 3), points.x, points.y, weight), weight


def fit(head: nn.Module, x: Tensor, y: Tensor, weight: float = 0.0) -> nn.Module:
    """A head trained on all points at once, from zero."""
    head = head.double()
    with torch.no_grad():
        head.shared.weight.zero_()  # type: ignore[union-attr,operator]
    loss = Objective(CrossEntropy(), weight) if isinstance(head, Head) else CrossEntropy()
    optimizer = torch.optim.Adam(head.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss(head, x, y).backward()
        optimizer.step()
        schedule.step()
    return head.eval()

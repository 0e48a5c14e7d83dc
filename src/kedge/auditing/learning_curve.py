"""Would more photos help, and of which class: accuracy with parts of the training images, at equal steps."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kedge.auditing.subsampled import STEPS, trained
from kedge.seeds import generator

__all__ = ["Curve", "extrapolate", "learning_curve"]

SHARES = (0.125, 0.25, 0.5, 1.0)
EXPONENTS = torch.linspace(0.1, 1.5, 29, dtype=torch.float64)
RESAMPLES, MOST_CLASSES, FEWEST = 400, 20, 8


@dataclass(frozen=True)
class Curve:
    """Accuracy with parts of the training images.

    Attributes:
        images: how many, rising; `[S]`.
        right: `[S, R, V]`, bool: whether each of R heads trained on so many drawn anew is right about V judged images.
        labels: of the judged images, long `[V]`.
        halved: {class: bool `[R, V]`}, of heads trained on all images but with half of that class left out.
    """

    images: tuple[int, ...]
    right: Tensor
    labels: Tensor
    halved: dict[int, Tensor]

    def accuracy(self) -> list[tuple[float, float, float]]:
        """(mean, low, high) for each number of images: over draws and judged images, a 95 % bootstrap interval."""
        means = self._resampled(0)
        exact = self.right.double().mean((1, 2))
        return [(float(m), *_interval(means[:, s])) for s, m in enumerate(exact)]

    def expected(self, images: int, seed: int = 0) -> tuple[float, float, float]:
        """(mean, low, high): the accuracy to expect with so many images; see `extrapolate`."""
        draws = generator(seed, "curve")
        spread = self.right.double().mean(2).std(1) / self.right.shape[1] ** 0.5
        noise = spread.clamp(min=0.5 / self.right[0].numel() ** 0.5 * 0.5)
        predicted = torch.stack([
            extrapolate(self.images, 1 - row, noise, images, draws) for row in self._resampled(seed)
        ])  # fmt: skip
        return 1 - float(predicted.mean()), *_interval(1 - predicted)

    def of_class(self, label: int) -> dict[str, float]:
        """Recall of a class with all images, what half of its images more cost, and the interval of that (paired)."""
        own = self.labels == label
        full = self.right[-1][:, own].double()
        values: dict[str, float] = {"judged": float(own.sum()), "recall": float(full.mean())}
        if label in self.halved:
            lost = full.mean(1) - self.halved[label][:, own].double().mean(1)
            draws = generator(0, "class")
            less = self.halved[label][:, own].double()
            columns = torch.randint(full.shape[1], (RESAMPLES, full.shape[1]), generator=draws)
            means = torch.stack([_mean_of(full, c, draws) - _mean_of(less, c, draws) for c in columns])
            values |= dict(zip(("gain", "low", "high"), (float(lost.mean()), *_interval(means)), strict=True))
        return values

    def _resampled(self, seed: int) -> Tensor:
        """Accuracies `[400, S]` with draws and judged images drawn anew, with replacement."""
        draws, (sizes, heads, judged) = generator(seed, "resampled"), self.right.shape
        rows = []
        for _ in range(RESAMPLES):
            columns = torch.randint(judged, (judged,), generator=draws)
            means = self.right.double()[:, :, columns].mean(2)
            rows.append(means.gather(1, torch.randint(heads, (sizes, heads), generator=draws)).mean(1))
        return torch.stack(rows)


def extrapolate(images: Sequence[int], errors: Tensor, noise: Tensor, wanted: int, draws: torch.Generator) -> Tensor:
    """The error at `wanted` images on a curve a + b n^-c through errors `[S]`, a and b not below 0.

    Few points do not tell the exponent c: one is drawn from 0.1 to 1.5 by how well its best curve fits, given the noise
    `[S]` of the errors. Many calls with resampled errors thus give an interval that knows of it.
    """
    n, weights = torch.tensor(images, dtype=torch.float64), 1 / noise.double().square()
    curves, misfit = [], []
    for exponent in EXPONENTS:
        powers = (n / n[-1]) ** -exponent
        floor, slope = _line(powers, errors.double(), weights)
        curves.append(floor + slope * (wanted / n[-1]) ** -exponent)
        misfit.append((weights * (floor + slope * powers - errors).square()).sum())
    chances = (-(torch.stack(misfit) - torch.stack(misfit).min()) / 2).exp()
    return torch.stack(curves)[torch.multinomial(chances, 1, generator=draws)[0]]


def _line(x: Tensor, y: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """(floor, slope), neither below 0, of the weighted least-squares line."""
    mean_x, mean_y = (weights * x).sum() / weights.sum(), (weights * y).sum() / weights.sum()
    slope = (weights * (x - mean_x) * (y - mean_y)).sum() / (weights * (x - mean_x).square()).sum()
    floor = mean_y - slope * mean_x
    if float(slope) < 0:
        return mean_y, torch.zeros_like(slope)
    if float(floor) < 0:
        return torch.zeros_like(floor), (weights * x * y).sum() / (weights * x.square()).sum()
    return floor, slope


def learning_curve(
    features: Tensor,
    labels: Tensor,
    classes: int,
    training: Tensor,
    judged: Tensor,
    shares: Sequence[float] = SHARES,
    draws: int = 8,
    by_class: bool = True,
    steps: int = STEPS,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Curve:
    """Train heads on shares of the images at equal steps, each class by its share, and judge them.

    Args:
        features: `[N, D]`, as of `reduced`.
        labels: long `[N]`.
        classes: how many there are.
        training, judged: places of images, which have none in common, long.
        shares: of the training images, rising; the last is 1.
        draws: heads for each share, each on images drawn anew.
        by_class: whether each class is halved in turn, of more than 20 those with the lowest recall.
        steps: of each head.
        seed: of the draws and the first weights.
        progress: called with (steps done, steps).

    Raises:
        ValueError: images that are trained on and judged, none to judge, or a class of fewer than 8 training images.
    """
    if not len(judged) or bool(torch.isin(judged, training).any()):
        raise ValueError("a learning curve needs images to judge by that are not trained on")
    counts = torch.bincount(labels[training], minlength=classes)
    if int(counts[labels[judged].unique()].min()) < FEWEST:
        few = int(counts[labels[judged].unique()].min())
        raise ValueError(
            f"a learning curve trains on an eighth of the images of each class, and one has {few} of them: it takes "
            f"{FEWEST}"
        )
    chance = generator(seed, "shares")
    inside = torch.zeros(len(shares) * draws, len(labels), dtype=torch.bool)
    for number in range(len(inside)):
        inside[number, _drawn(training, labels, shares[number // draws], chance)] = True
    right = _judged(features, labels, classes, inside, judged, steps, seed, progress)
    right = right.view(len(shares), draws, -1)
    halved: dict[int, Tensor] = {}
    if by_class:
        own = {c: right[-1][:, labels[judged] == c] for c in labels[judged].unique().tolist()}
        worst = sorted(own, key=lambda c: float(own[c].double().mean()))[:MOST_CLASSES]
        inside = torch.zeros(len(worst) * draws, len(labels), dtype=torch.bool)
        inside[:, training] = True
        for number, row in enumerate(inside):
            members = training[labels[training] == worst[number // draws]]
            row[members[torch.randperm(len(members), generator=chance)[: len(members) // 2]]] = False
        answers = _judged(features, labels, classes, inside, judged, steps, seed, progress)
        halved = dict(zip(worst, answers.view(len(worst), draws, -1), strict=True))
    numbers = tuple(len(_drawn(training, labels, each, chance)) for each in shares)
    return Curve(numbers, right, labels[judged], halved)


def _judged(
    features: Tensor, labels: Tensor, classes: int, inside: Tensor, judged: Tensor, steps: int, seed: int,
    progress: Callable[[int, int], None] | None,
) -> Tensor:  # fmt: skip
    logits = trained(features, labels, classes, inside, steps, seed, progress=progress)[steps]
    return logits[:, judged].argmax(-1) == labels[judged]


def _drawn(training: Tensor, labels: Tensor, share: float, chance: torch.Generator) -> Tensor:
    """Of each class so large a share of its training images, one at least."""
    chosen = []
    for label in labels[training].unique().tolist():
        members = training[labels[training] == label]
        chosen.append(members[torch.randperm(len(members), generator=chance)[: max(1, round(share * len(members)))]])
    return torch.cat(chosen)


def _mean_of(right: Tensor, columns: Tensor, draws: torch.Generator) -> Tensor:
    """The mean of `[R, V]` over these images and over heads drawn anew."""
    return right[torch.randint(len(right), (len(right),), generator=draws)][:, columns].mean()


def _interval(values: Tensor) -> tuple[float, float]:
    low, high = values.quantile(torch.tensor([0.025, 0.975], dtype=values.dtype)).tolist()
    return low, high

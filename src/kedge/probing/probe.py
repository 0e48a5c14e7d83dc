"""A linear head on frozen features: multinomial logistic regression, solved to convergence."""

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = [
    "STRENGTHS",
    "Probe",
    "ProbeData",
    "Resampled",
    "choose_strength",
    "fit_probe",
    "fold_count",
    "fold_logits",
    "solve",
]

Resampled = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]  # features [N, D], labels [N] -> those of M rows

STRENGTHS = tuple(10 ** (-n / 2) for n in range(11))  # 1 to 1e-5, strong first
CONVERGED = 1e-5  # the largest entry of the gradient at which a solution counts as one


@dataclass(frozen=True)
class ProbeData:
    """Features to fit a head on.

    Attributes:
        seen: `[R, N, D]`, N images with R references each; R is 1 for a plain model and for means over a bank.
        labels: `[N]`.
        classes: how many there are.
        masked: `[R, N, D]`, the same with the reference hidden, or None.
        alpha: the share of masking: the weight of `masked`, whose target is the uniform distribution.
        balanced: whether every class counts the same, as in batches that hold as many images of each; else every image.
        resampled: makes the rows that are fitted on from those of the images, with synthetic ones; None: no others. In
            cross-validation it has the images of the other folds alone. It draws the same whenever it is called.
    """

    seen: Tensor
    labels: Tensor
    classes: int
    masked: Tensor | None = None
    alpha: float = 0.0
    balanced: bool = False
    resampled: Resampled | None = None

    def __post_init__(self) -> None:
        if self.resampled is not None and (self.masked is not None or len(self.seen) > 1):
            raise ValueError("synthetic rows are made of one row for each image, not of drawn or hidden references")

    def class_weights(self, labels: Tensor) -> Tensor | None:
        """Weights `[C]` with which classes of these labels count the same, float64; None where images do."""
        counts = torch.bincount(labels, minlength=self.classes).double()
        return 1 / counts.clamp(min=1) if self.balanced else None

    def rows(self, chosen: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Features `[M, D]`, targets `[M, C]` and weights `[M]`, which sum to 1, of all images or those `chosen`."""
        labels = self.labels if chosen is None else self.labels[chosen]
        seen = self.seen if chosen is None else self.seen[:, chosen]
        if self.resampled is not None:
            rows, labels = self.resampled(seen[0], labels)
            seen = rows[None]
        draws, n = seen.shape[:2]
        targets = F.one_hot(labels, self.classes).double().repeat(draws, 1)
        x, weights = seen.flatten(0, 1).double(), torch.full((draws * n,), 1 / (draws * n), dtype=torch.float64)
        if (of_class := self.class_weights(labels)) is not None:
            weights = of_class[labels].repeat(draws)
            weights /= weights.sum()
        if self.masked is None or self.alpha == 0:
            return x, targets, weights
        hidden = self.masked if chosen is None else self.masked[:, chosen]
        even = torch.full_like(targets, 1 / self.classes)
        weights = torch.cat([(1 - self.alpha) * weights, self.alpha * weights])
        return torch.cat([x, hidden.flatten(0, 1).double()]), torch.cat([targets, even]), weights


@dataclass(frozen=True)
class Probe:
    """A head: logits = weight·features + bias.

    Attributes:
        weight: `[C, D]`.
        bias: `[C]`, or None for a network whose head has none.
        strength: of the regularisation, λ.
        chosen: how it was chosen, in words.
        nll: what each strength gave where it was chosen, {λ: mean negative log-likelihood}.
    """

    weight: Tensor
    bias: Tensor | None
    strength: float
    chosen: str
    nll: dict[float, float]


def fit_probe(
    data: ProbeData,
    validation: tuple[Tensor, Tensor] | None = None,
    strength: float | None = None,
    intercept: bool = True,
) -> Probe:
    """Fit a head: the minimum over W, b of the mean cross-entropy + λ/2 |W|², W in units of the scaled features.

    Features are centred, and divided by one number, the root of their mean variance: a deviation for each feature is
    noise where there are few images. Both are folded into W and b. The bias is not regularised.

    λ is `strength`; else the one of `STRENGTHS` with the lowest negative log-likelihood on `validation` (features
    `[N, D]` and labels, of images that were not trained on); else, without those, by cross-validation among the images
    themselves where each class has two or more; else 1/N, which is scikit-learn's C = 1.

    Raises:
        ValueError: for features that are not finite, or a single class.
    """
    if data.classes < 2:
        raise ValueError(f"a probe tells classes apart, and there is {data.classes}")
    if not bool(data.seen.isfinite().all()):
        raise ValueError("the features hold NaN or infinity: the network's weights may be broken")
    nll_of: dict[float, float] = {}
    if strength is not None:
        how = "given"
    elif validation is not None:
        how = f"by NLL on {len(validation[1])} validation images"
        nll_of = choose_strength(data, [(None, *validation)], intercept)
    elif (folds := fold_count(data)) >= 2:
        how = f"by NLL in {folds}-fold cross-validation of the {len(data.labels)} images"
        nll_of = choose_strength(data, _folds(data, folds), intercept)
    else:
        strength, how = 1 / len(data.labels), "1/N: one image of a class leaves nothing to choose by"
    if strength is None:
        strength = min(nll_of, key=lambda s: nll_of[s])
    weight, bias = _fitted(data, None, strength, intercept)
    return Probe(weight.float(), bias.float() if intercept else None, strength, how, nll_of)


def choose_strength(
    data: ProbeData, parts: Sequence[tuple[Tensor | None, Tensor, Tensor]], intercept: bool = True
) -> dict[float, float]:
    """The mean negative log-likelihood of each strength, over parts (images to fit on, features, labels to judge by).

    From strong to weak, each from the solution of the last; ends when two in a row were worse than the best.
    """
    sums: dict[float, list[float]] = {}
    for chosen, features, labels in parts:
        best, worse = math.inf, 0
        for strength, (weight, bias) in zip(STRENGTHS, _path(data, chosen, intercept), strict=False):
            nll = float(F.cross_entropy(features.double() @ weight.T + bias, labels, data.class_weights(labels)))
            sums.setdefault(strength, []).append(nll * len(labels))
            best, worse = min(best, nll), 0 if nll <= best else worse + 1
            if worse == 2:
                break
    total = sum(len(labels) for _, _, labels in parts)
    # A strength that some part did not come to is worse than others there.
    return {s: sum(values) / total for s, values in sums.items() if len(values) == len(parts)}


def fold_logits(data: ProbeData, strength: float, intercept: bool = True) -> tuple[int, Tensor, Tensor] | None:
    """How many folds, and logits `[N, C]` and labels `[N]` of each image by the head fitted on the other folds.

    None where a class has a single image. The images come fold by fold.
    """
    if (folds := fold_count(data)) < 2:
        return None
    logits, answers = [], []
    for chosen, features, labels in _folds(data, folds):
        weight, bias = _fitted(data, chosen, strength, intercept)
        logits.append(features.double() @ weight.T + bias)
        answers.append(labels)
    return folds, torch.cat(logits), torch.cat(answers)


def _fitted(data: ProbeData, chosen: Tensor | None, strength: float, intercept: bool) -> tuple[Tensor, Tensor]:
    """W and b of all images or those `chosen`."""
    x, targets, weights = data.rows(chosen)
    scaled, mean, scale = _scaled(data, chosen, x, intercept)
    scaled, basis = _spanned(scaled)
    return _unscaled(solve(scaled, targets, weights, strength, intercept), basis, mean, scale)


def _path(data: ProbeData, chosen: Tensor | None, intercept: bool) -> Iterator[tuple[Tensor, Tensor]]:
    """W and b for each of `STRENGTHS`, solved when asked for."""
    x, targets, weights = data.rows(chosen)
    scaled, mean, scale = _scaled(data, chosen, x, intercept)
    scaled, basis = _spanned(scaled)
    state = None
    for strength in STRENGTHS:
        state = solve(scaled, targets, weights, strength, intercept, state, tolerance=1e-4)
        yield _unscaled(state, basis, mean, scale)


def _scaled(data: ProbeData, chosen: Tensor | None, x: Tensor, intercept: bool) -> tuple[Tensor, Tensor, float]:
    seen = (data.seen if chosen is None else data.seen[:, chosen]).flatten(0, 1).double()
    mean = seen.mean(0) if intercept else torch.zeros(seen.shape[1], dtype=torch.float64)
    scale = float((seen - mean).square().mean().sqrt()) or 1.0
    return (x - mean) / scale, mean, scale


def _spanned(x: Tensor) -> tuple[Tensor, Tensor | None]:
    """Rows `[M, M]` in a basis `[D, M]` of what they span, where they are fewer than features; else as they are, None.

    A part of W outside of it changes no logit and costs λ, so the minimum has none; a turned W costs as much.
    """
    if len(x) >= x.shape[1]:
        return x, None
    basis = torch.linalg.qr(x.T)[0]
    return x @ basis, basis


def _unscaled(state: Tensor, basis: Tensor | None, mean: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    weight = state[:, :-1] / scale
    if basis is not None:
        weight = weight @ basis.T
    return weight, state[:, -1] - weight @ mean


def solve(
    x: Tensor,
    targets: Tensor,
    weights: Tensor,
    strength: float,
    intercept: bool = True,
    start: Tensor | None = None,
    tolerance: float = 1e-7,
    most: int = 2000,
) -> Tensor:
    """`[C, D + 1]`, W and b: the minimum of Σ_i w_i CE(t_i, softmax(W x_i + b)) + λ/2 |W|², by L-BFGS in float64.

    `x` `[M, D]`, `targets` `[M, C]` distributions, `weights` `[M]`. The problem is convex and has one minimum. A
    warning says so if `most` steps do not reach it.
    """
    n, classes = x.shape[1], targets.shape[1]
    state = torch.zeros(classes, n + 1, dtype=torch.float64) if start is None else start.clone()
    optimizer = torch.optim.LBFGS(
        [state],
        max_iter=most,
        history_size=20,
        tolerance_grad=tolerance,
        tolerance_change=1e-12,
        line_search_fn="strong_wolfe",
    )

    @torch.no_grad()
    def closure() -> float:
        logs = (x @ state[:, :-1].T + state[:, -1]).log_softmax(1)
        wrong = (logs.exp() - targets) * weights[:, None]
        gradient = torch.empty_like(state)
        gradient[:, :-1] = wrong.T @ x + strength * state[:, :-1]
        gradient[:, -1] = wrong.sum(0) if intercept else 0
        state.grad = gradient
        return float(-(weights[:, None] * targets * logs).sum() + strength / 2 * state[:, :-1].square().sum())

    optimizer.step(closure)
    closure()
    assert state.grad is not None
    gradient = float(state.grad.abs().max())
    if gradient > max(CONVERGED, 10 * tolerance):
        warnings.warn(
            f"the linear head is not at its minimum after {most} steps (gradient {gradient:.2g}, strength "
            f"{strength:.2g}): name a larger strength",
            stacklevel=2,
        )
    state.grad = None
    return state


def fold_count(data: ProbeData) -> int:
    """Into how many folds the images go: five, or as many as the smallest class has images."""
    return min(5, int(torch.bincount(data.labels, minlength=data.classes).min()))


def _folds(data: ProbeData, folds: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(images to fit on, features and labels to judge by) with each class spread evenly over the folds."""
    place = torch.empty(len(data.labels), dtype=torch.long)
    for label in range(data.classes):
        members = (data.labels == label).nonzero().squeeze(1)
        place[members] = torch.arange(len(members)) % folds
    middle = data.seen.mean(0)
    parts = []
    for fold in range(folds):
        judged = place == fold
        parts.append(((~judged).nonzero().squeeze(1), middle[judged], data.labels[judged]))
    return parts

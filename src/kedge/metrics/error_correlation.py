"""Error correlation: how much members, or references, are wrong on the same images."""

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from kedge.catalog import Info
from kedge.metrics._base import Answers, Bounds, Metric
from kedge.metrics._bootstrap import percentile_interval
from kedge.metrics._ensembles import errors_of
from kedge.metrics.oracle_at import errors

info = Info(
    "Helping or Herding? Reward Model Ensembles Mitigate but do not Eliminate Reward Hacking", "Eisenstein et al.",
    "COLM", 2024, "https://arxiv.org/abs/2312.09244", "derived",
)  # fmt: skip


def error_correlation(predictions: Tensor, labels: Tensor) -> Tensor:
    """Mean over pairs of members of the correlation φ of being wrong, a scalar in [-1, 1]; lower: more of an ensemble.

    1: all are wrong on the same images, and an average of them mends nothing. 0: they are wrong as if by chance. φ is
    Pearson's correlation of two indicators of error, (p_11 - p_1 p_2) / √(p_1 (1 - p_1) p_2 (1 - p_2)).

    Args:
        predictions: predicted classes `[M, N]` of M ≥ 2 members of an ensemble, or references of an anchored model.
        labels: class indices `[N]`.

    Raises:
        ValueError: for one member, logits, other shapes, no images; where a member is right everywhere, or nowhere: a
            correlation with what does not vary is undefined.

    Source: shared errors of ensembles as in Eisenstein et al., arXiv 2312.09244; φ is Pearson's.
    """
    wrong = errors_of(predictions, labels)
    if len(wrong) < 2:
        raise ValueError("a correlation of errors needs two members or more, and predictions has one")
    if constant := [m for m, count in enumerate(wrong.sum(1).tolist()) if count in (0, wrong.shape[1])]:
        what = "no error" if not wrong[constant[0]].any() else "errors alone"
        raise ValueError(
            f"member {constant[0]} makes {what} on these {wrong.shape[1]} images, and a correlation with what does not "
            "vary is undefined: take more images, or harder ones"
        )
    return _phi(wrong, torch.ones(1, wrong.shape[1]))[0]


def _phi(wrong: Tensor, weights: Tensor) -> Tensor:
    """`[R]` float64 of errors `[M, N]` and weights `[R, N]`: the mean over the pairs for which there is one."""
    one, other = torch.triu_indices(len(wrong), len(wrong), 1)
    share = weights.double() / weights.double().sum(1, keepdim=True)
    indicators = wrong.double()
    means = share @ indicators.T
    both = torch.stack([share @ (indicators[a] * indicators[b]) for a, b in zip(one, other, strict=True)], dim=1)
    spread = (means * (1 - means)).clamp_min(0).sqrt()
    scale = spread[:, one] * spread[:, other]
    phi = ((both - means[:, one] * means[:, other]) / scale).masked_fill(scale < 1e-12, torch.nan)
    return phi.clamp(-1, 1).nanmean(1)  # rounding


class ErrorCorrelation(Metric):
    """How much the members of an ensemble, or the references of a bank, are wrong on the same images."""

    label = "error correlation"
    unit = ""
    better = None
    order = 82
    judged = False
    bottom: ClassVar[float] = -1.0
    probs = True
    summary = ("clean",)
    words = (
        "Whether members of an ensemble, or references of an anchored model, are wrong on the same images: 1 on just "
        "the same, where their mean mends nothing, 0 as by chance. Undefined, and left out, where one of them makes no "
        "error."
    )
    convention = "mean over pairs of Pearson's correlation of being wrong; interval: bootstrap percentiles"

    def applies(self, sample: Answers) -> bool:
        if sample.settings.get("members") is None:
            return False
        wrong = sample.once(errors)
        return len(wrong) > 1 and bool((wrong.any(1) & ~wrong.all(1)).all())

    def value(self, sample: Answers) -> float:
        return float(_phi(sample.once(errors), torch.ones(1, len(sample)))[0])

    def resampled(self, sample: Answers) -> Callable[[Tensor], Tensor]:
        wrong, value = sample.once(errors), self.value(sample)
        # A resample on which nobody errs has no correlation; that of all images stands for it.
        return lambda weights: _phi(wrong, weights).nan_to_num(value)

    def bounds(self, draws: Tensor, value: float, center: float, size: int) -> Bounds:
        return percentile_interval(draws, value, size)

"""Accuracy on images without labels, estimated from scores there and on labelled source images.

Every estimate rests on an assumption about the shift that the images cannot confirm: no method is right for all shifts
(Garg et al., section 3). The intervals are of sampling alone, over source and target images; they do not hold the
error of that assumption.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from kedge.metrics._bootstrap import interval, resamples
from kedge.metrics._checks import check_flags, check_scores

# Resamples worked on at once hold this many counts.
_AT_ONCE = 1 << 21


def average_thresholded_confidence(source_scores: Tensor, source_correct: Tensor, target_scores: Tensor) -> Tensor:
    """The share of target images that score above a threshold, the accuracy expected there: a scalar in [0, 1].

    The threshold is the one above which lies the same share of source images as is answered rightly: ATC of Garg,
    Balakrishnan, Lipton, Neyshabur & Sedghi, "Leveraging Unlabeled Data to Predict Out-of-Distribution Performance",
    ICLR 2022, arXiv 2201.04234. Theirs are the largest probability and the negative entropy; any score will do that is
    higher where the model is surer, such as `-disagreement_over_references`. Of images that score exactly the
    threshold, the share that gives the source accuracy is counted, there and here: on the source itself the estimate is
    its accuracy, whatever ties there are.

    Args:
        source_scores: `[N]`, of labelled images that the model was not trained on; higher = surer.
        source_correct: `[N]` bool, whether its answers are right.
        target_scores: `[M]`, of the images without labels.

    Raises:
        ValueError: for no images, NaN, other shapes, and `source_correct` that is not bool.
    """
    return _thresholded(_Sorted(source_scores, source_correct, target_scores))


def difference_of_confidences(source_scores: Tensor, source_correct: Tensor, target_scores: Tensor) -> Tensor:
    """Source accuracy plus the mean target score less the mean source score, clipped to [0, 1]: a scalar.

    Difference of confidences (DoC) of Guillory, Shankar, Ebrahimi, Darrell & Schmidt, "Predicting with Confidence on
    Unseen Distributions", ICCV 2021, arXiv 2107.03315, in the form without regression: accuracy falls by as much as
    confidence does. For scores on the scale of an accuracy: the largest probability, or `agreement_of_references`.

    Arguments and errors as of `average_thresholded_confidence`.
    """
    source, correct, target = _checked(source_scores, source_correct, target_scores)
    return (correct.mean() + target.mean() - source.mean()).clamp(0, 1)


def average_thresholded_confidence_interval(
    source_scores: Tensor, source_correct: Tensor, target_scores: Tensor, n: int = 1000, seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:  # fmt: skip
    """Bootstrap interval of `average_thresholded_confidence` from `n` resamples of source and target, in [0, 1].

    The threshold is found anew on each resample of the source. Where no resample differs (all right, all alike) the
    reach is the rule of three, 3 / min(N, M).
    """
    ordered = _Sorted(source_scores, source_correct, target_scores)
    return _clipped(torch.cat(list(_thresholded_draws(ordered, n, seed))), _thresholded(ordered), ordered.fewest, level)


def difference_of_confidences_interval(
    source_scores: Tensor, source_correct: Tensor, target_scores: Tensor, n: int = 1000, seed: int = 0,
    level: float = 0.95,
) -> tuple[float, float]:  # fmt: skip
    """Bootstrap interval of `difference_of_confidences` from `n` resamples of source and target, in [0, 1].

    Where no resample differs (all right, all alike) the reach is the rule of three, 3 / min(N, M).
    """
    source, correct, target = _checked(source_scores, source_correct, target_scores)
    seeds = _seeds(seed)
    own = torch.cat([w.double() @ (correct - source) / len(source) for w in resamples(len(source), n, seeds[0])])
    away = torch.cat([w.double() @ target / len(target) for w in resamples(len(target), n, seeds[1])])
    value = correct.mean() + target.mean() - source.mean()
    return _clipped(own + away, value, min(len(source), len(target)), level)


def agreement_of_references(per_reference: Tensor, label: Tensor | None = None) -> Tensor:
    """`[B]` in [0, 1]: the share of K references whose answer to an image is `label`.

    How stable the answer is when the reference changes. `per_reference` `[K, B, C]` logits of each reference, K >= 2
    (`predict(..., keep_per_reference=True)`); `label` `[B]`, None for the answer of their mean. Raises ValueError for
    other shapes and for one reference.
    """
    if per_reference.ndim != 3 or len(per_reference) < 2:
        raise ValueError(
            f"per_reference must be logits [K, B, C] of two or more references, but its shape is "
            f"{list(per_reference.shape)}"
        )
    label = per_reference.mean(0).argmax(-1) if label is None else label
    return (per_reference.argmax(-1) == label).double().mean(0)


def _checked(source: Tensor, correct: Tensor, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """All three on the CPU in float64. Raises ValueError for what cannot be measured on."""
    source, target = check_scores("source_scores", source), check_scores("target_scores", target)
    return source.double(), check_flags("source_correct", correct, source).double(), target.double()


class _Sorted:
    """Scores from the highest to the lowest, in groups of equals.

    Attributes:
        right: `[N]`, whether the answers to the source images are right, from the highest score.
        ends: `[G]`, how many source images score at least the g-th highest value.
        above, upto: `[G]`, how many target images score more than that value, and at least as much.
        targets: M; a resample of them is one of the images from the highest score, so no order need be kept.
    """

    def __init__(self, source: Tensor, correct: Tensor, target: Tensor) -> None:
        source, correct, target = _checked(source, correct, target)
        self.targets, self.fewest = len(target), min(len(source), len(target))
        ordered, order = source.sort(descending=True)
        self.right = correct[order]
        values, counts = torch.unique_consecutive(ordered, return_counts=True)
        self.ends = counts.cumsum(0)
        falling = (-target).sort().values
        self.above = torch.searchsorted(falling, -values)
        self.upto = torch.searchsorted(falling, -values, right=True)


def _fitted(counts: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """(which value is the threshold, what share of the images that score just that is counted), `[R]` each.

    From how many source images score at least each value, `[R, G]`, and how many are right, `[R]`.
    """
    group = torch.searchsorted(counts, right[:, None])[:, 0]
    before = torch.cat([counts.new_zeros(len(counts), 1), counts], 1).gather(1, group[:, None])[:, 0]
    share = (right - before) / (counts.gather(1, group[:, None])[:, 0] - before).clamp(min=1)
    return group, share


def _thresholded(ordered: _Sorted) -> Tensor:
    group, share = _fitted(ordered.ends[None].double(), ordered.right.sum()[None])
    above, upto = ordered.above[group].double(), ordered.upto[group].double()
    # Where no answer is right, nothing lies above the threshold.
    return (torch.lerp(above, upto, share) / ordered.targets)[0] * bool(ordered.right.any())


def _thresholded_draws(ordered: _Sorted, n: int, seed: int) -> Iterator[Tensor]:
    """Blocks `[R]` of the estimate on resamples, n in all."""
    seeds = _seeds(seed)
    fitted = []
    for weights in _drawn(len(ordered.right), n, seeds[0]):
        fitted.append(
            _fitted(weights.cumsum(1)[:, ordered.ends - 1].double(), (weights @ ordered.right.float()).double())
        )
    groups, shares = (torch.cat(parts) for parts in zip(*fitted, strict=True))
    start = 0
    for weights in _drawn(ordered.targets, n, seeds[1]):
        rows = slice(start, start + len(weights))
        start += len(weights)
        counts = torch.cat([weights.new_zeros(len(weights), 1), weights.cumsum(1)], 1)
        above, upto = (
            counts.gather(1, at[groups[rows]][:, None])[:, 0].double() for at in (ordered.above, ordered.upto)
        )
        yield torch.lerp(above, upto, shares[rows]) / ordered.targets * bool(ordered.right.any())


def _drawn(size: int, n: int, seed: int) -> Iterator[Tensor]:
    """The blocks of `resamples` in smaller pieces: several copies of each are held at once."""
    for weights in resamples(size, n, seed):
        yield from weights.split(max(1, _AT_ONCE // size))


def _seeds(seed: int) -> tuple[int, int]:
    """Seeds of the source's and the target's resamples: sets of one size must not be drawn alike."""
    return 2 * seed, 2 * seed + 1


def _clipped(draws: Tensor, value: Tensor, fewest: int, level: float) -> tuple[float, float]:
    """The interval within [0, 1], of the reach of the rule of three where no draw differs."""
    low, high = interval(draws, value, level).tolist()
    slack = 3 / fewest if float(draws.max() - draws.min()) < 1e-9 else 0.0
    middle = min(1.0, max(0.0, float(value)))
    return max(0.0, min(low - slack, middle)), min(1.0, max(high + slack, middle))

"""Answering only when confident: risk against coverage, thresholds for a wanted one of the two, what is gained.

Risk is the share of wrong answers among those given, coverage the share of inputs answered. Equal confidences cannot be
told apart, so they are counted in a random order, on average: no result depends on the order of the samples.

`confidence` is whatever is higher for a surer answer. Take the log odds (`log_odds(logits)`, `Prediction.log_odds`):
they rank as the largest probability does, and go on where that is 1 in float32.
"""

import math
from collections.abc import Callable, Iterator
from functools import lru_cache

import torch
from torch import Tensor

from kedge.binomial import exact_interval
from kedge.metrics._bootstrap import percentile_interval, resamples
from kedge.metrics._checks import check_flags, check_scores

# Resamples worked on at once hold this many counts.
_AT_ONCE = 1 << 21


def _checked(confidence: Tensor, correct: Tensor) -> tuple[Tensor, Tensor]:
    return check_scores("confidence", confidence), check_flags("correct", correct, confidence)


def threshold_for_coverage(confidence: Tensor, coverage: float) -> float:
    """The highest threshold t for which `confidence >= t` keeps at least `coverage` of the samples.

    `confidence` `[N]`, higher = more certain; `coverage` in (0, 1]. Ties at t are kept, so the share that is
    kept can be larger. Choose it on validation data. Raises ValueError for no samples, NaN, and a coverage
    out of range.
    """
    confidence = check_scores("confidence", confidence)
    if not 0 < coverage <= 1:
        raise ValueError(f"coverage must be above 0 and at most 1, but it is {coverage}")
    keep = math.ceil(coverage * confidence.numel() - 1e-9)
    return float(confidence.sort(descending=True).values[max(keep, 1) - 1])


def selective_accuracy(confidence: Tensor, correct: Tensor, threshold: float) -> tuple[float, float | None]:
    """(coverage, accuracy): the share of samples with `confidence >= threshold`, and the accuracy among those.

    `confidence` `[N]`, `correct` `[N]` bool. The accuracy is None when nothing is kept. Raises ValueError for no
    samples, NaN, and a threshold that is NaN.
    """
    confidence, correct = _checked(confidence, correct)
    if math.isnan(threshold):
        raise ValueError("threshold must be a number, but it is NaN: nothing would be kept")
    # The threshold is compared in the dtype of the confidences: stored as JSON it has more digits than a
    # float32.
    return accuracy_of_answered(confidence >= confidence.new_tensor(threshold), correct)


def accuracy_of_answered(answered: Tensor, correct: Tensor) -> tuple[float, float | None]:
    """(coverage, accuracy): the share of samples that are answered, and the accuracy among those, `[N]` bool each."""
    count = int(answered.sum())
    return count / answered.numel(), float(correct[answered].double().mean()) if count else None


def risk_coverage(confidence: Tensor, correct: Tensor) -> tuple[Tensor, Tensor]:
    """(coverage, risk), each `[N]` float64: the risk among the k most confident samples, for k = 1 to N.

    `confidence` `[N]`, higher = more certain; `correct` `[N]` bool. El-Yaniv & Wiener, JMLR 2010. Raises ValueError
    for no samples and NaN.
    """
    answered, wrong = at_thresholds(confidence, correct)
    k = torch.arange(1, int(answered[-1]) + 1, dtype=torch.float64)
    group = torch.searchsorted(answered, k)
    answered, wrong = (torch.cat([x.new_zeros(1), x]) for x in (answered, wrong))
    # Within a group of equals, errors come evenly.
    share = (k - answered[group]) / (answered[group + 1] - answered[group])
    errors = torch.lerp(wrong[group], wrong[group + 1], share)
    return k / len(k), errors / k


def aurc(confidence: Tensor, correct: Tensor) -> Tensor:
    """Area under the risk-coverage curve, a scalar in [0, 1]: the mean of the N risks of `risk_coverage`.

    Lower is better; a random order has the error rate. Geifman, Uziel & El-Yaniv, "Bias-Reduced Uncertainty
    Estimation for Deep Neural Classifiers", ICLR 2019, arXiv 1805.08206 (some authors print it times 1000).
    """
    return risk_coverage(confidence, correct)[1].mean()


def excess_aurc(confidence: Tensor, correct: Tensor) -> Tensor:
    """How far `aurc` is above that of the best order, all correct samples before all wrong ones: E-AURC, in [0, 1).

    It leaves the order alone to be judged, whatever the accuracy; 0 is perfect. Geifman et al., ICLR 2019; the
    optimum is summed exactly, where they use its integral.
    """
    return aurc(confidence, correct) - aurc(correct.detach().float(), correct)


def aurc_interval(
    confidence: Tensor, correct: Tensor, n: int = 1000, seed: int = 0, level: float = 0.95
) -> tuple[float, float]:
    """Bootstrap interval of `aurc` from `n` resamples, in [0, 1]: percentiles, widened where needed to hold it.

    Without a single error, and with nothing but errors, no resample differs: then the reach is 3 / N.
    """
    confidence, correct = _checked(confidence, correct)
    value = float(aurc(confidence, correct))
    size, counts = len(confidence), resampled_counts(confidence, correct)
    draws = [area(*block, harmonic(size)) for weights in resamples(size, n, seed) for block in counts(weights)]
    low, high = percentile_interval(torch.cat(draws), value, size, (1 - level) / 2)
    return max(0.0, low), min(1.0, high)


def threshold_for_risk(
    confidence: Tensor, correct: Tensor, risk: float, certainty: float | None = None
) -> tuple[float | None, float]:
    """(threshold, coverage): answering where `confidence >= threshold` has a risk of at most `risk` on these samples.

    Of the thresholds that do, the one of the largest coverage; (None, 0.0) where there is none. Choose it on validation
    data. The risk on new data is a little above that of the data it was chosen on: with `certainty`, such as 0.95, the
    threshold is one whose true risk is at most `risk` with that probability, over the draw of independent samples. It
    is found by the bisection of "Selective Classification for Deep Neural Networks" (Geifman & El-Yaniv, NeurIPS 2017,
    arXiv 1705.08500, algorithm 1), with exact binomial bounds, each at (1 - certainty) / the number of steps.

    Args:
        confidence: `[N]`, higher = more certain.
        correct: `[N]` bool.
        risk: the wanted share of wrong answers, in [0, 1).
        certainty: None, or in (0, 1).

    Raises:
        ValueError: for no samples, NaN, and a risk or certainty out of range.
    """
    if not 0 <= risk < 1:
        raise ValueError(f"risk is the share of wrong answers, at least 0 and below 1, but it is {risk}")
    if certainty is not None and not 0 < certainty < 1:
        raise ValueError(f"certainty must be between 0 and 1, but it is {certainty}")
    answered, wrong = at_thresholds(confidence, correct)
    thresholds = confidence.detach().cpu().unique().flip(0)
    if certainty is None:
        fits = (wrong <= risk * answered + 1e-9).nonzero()[:, 0]
        index = int(fits[-1]) if len(fits) else None
    else:
        index = _bisected(answered, wrong, risk, certainty)
    return (None, 0.0) if index is None else (float(thresholds[index]), float(answered[index] / answered[-1]))


def joint_risk_coverage(
    confidence_inside: Tensor, correct_inside: Tensor, confidence_outside: Tensor
) -> tuple[Tensor, Tensor]:
    """(coverage, risk), each `[N + M]` float64, together with out-of-distribution inputs, whose every answer is wrong.

    `confidence_inside` `[N]` and `correct_inside` `[N]` bool of in-distribution inputs, `confidence_outside` `[M]`. One
    threshold has to reject both the own mistakes and the foreign inputs: Kim et al., "A Unified Benchmark for the
    Unknown Detection Capability of Deep Neural Networks" (arXiv 2112.00337), and Xia & Bouganis (SCOD), ACCV 2022,
    arXiv 2207.07506. The risk depends on the share M / (N + M): compare only mixtures of the same sizes.
    """
    _checked(confidence_inside, correct_inside)
    check_scores("confidence_outside", confidence_outside)
    return risk_coverage(*joint(confidence_inside, correct_inside, confidence_outside))


def joint(confidence_inside: Tensor, correct_inside: Tensor, confidence_outside: Tensor) -> tuple[Tensor, Tensor]:
    """(confidence, correct) `[N + M]` of the mixture of `joint_risk_coverage`, for `aurc` and the other functions."""
    answers = torch.cat([correct_inside, correct_inside.new_zeros(len(confidence_outside))])
    return torch.cat([confidence_inside, confidence_outside.to(confidence_inside)]), answers


def at_thresholds(confidence: Tensor, correct: Tensor) -> tuple[Tensor, Tensor]:
    """How many are kept and how many of these are wrong, `[G]` each, at the distinct confidences, highest first."""
    confidence, correct = _checked(confidence, correct)
    ordered, order = confidence.sort(descending=True)
    answered = torch.unique_consecutive(ordered, return_counts=True)[1].cumsum(0)
    wrong = (~correct)[order].cumsum(0)[answered - 1]
    return answered.double(), wrong.double()


def resampled_counts(confidence: Tensor, correct: Tensor) -> Callable[[Tensor], Iterator[tuple[Tensor, Tensor]]]:
    """A function from weights `[R, N]`, how often each sample was drawn, to `at_thresholds` of the resamples.

    They come in blocks `[r, G]` of a few resamples at a time.
    """
    order = confidence.argsort(descending=True)
    wrong = (~correct)[order].float()
    ends = torch.unique_consecutive(confidence[order], return_counts=True)[1].cumsum(0) - 1
    rows = max(1, _AT_ONCE // len(order))

    def counts(weights: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        for block in weights.split(rows):
            drawn = block[:, order]
            yield drawn.cumsum(1)[:, ends].double(), (drawn * wrong).cumsum(1)[:, ends].double()

    return counts


@lru_cache(maxsize=2)
def harmonic(size: int) -> Tensor:
    """`[size + 1]`: 1 + 1/2 + ... + 1/k for k from 0 on."""
    sums = torch.arange(1, size + 1, dtype=torch.float64).reciprocal().cumsum(0)
    return torch.cat([sums.new_zeros(1), sums])


def area(answered: Tensor, wrong: Tensor, harmonic: Tensor) -> Tensor:
    """AURC `[R]` from counts `[R, G]` at falling thresholds; `harmonic` `[N + 1]` holds 1 + 1/2 + ... + 1/k.

    Over a group of n equals after S samples with E errors, e of them wrong, the risks (E + j e / n) / (S + j) for
    j = 1 to n add up to n e / n + (E - S e / n) (H(S + n) - H(S)).
    """
    before, errors = (torch.cat([x.new_zeros(len(x), 1), x[:, :-1]], 1) for x in (answered, wrong))
    size, new = answered - before, wrong - errors
    rate = new / size.clamp(min=1)
    spread = harmonic[answered.long()] - harmonic[before.long()]
    return (new + (errors - before * rate) * spread).sum(1) / answered[:, -1]


def _bisected(answered: Tensor, wrong: Tensor, risk: float, certainty: float) -> int | None:
    low, high, best = 0, len(answered) - 1, None
    steps = max(1, math.ceil(math.log2(len(answered) + 1)))
    while low <= high:
        middle = (low + high) // 2
        # The upper end of a two-sided interval is a one-sided bound at half its tail.
        bound = exact_interval(int(wrong[middle]), int(answered[middle]), 1 - 2 * (1 - certainty) / steps)[1]
        if bound <= risk:
            best, low = middle, middle + 1
        else:
            high = middle - 1
    return best

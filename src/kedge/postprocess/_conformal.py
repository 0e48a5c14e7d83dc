"""Split conformal prediction: how badly classes fit, the threshold of a stated coverage, and sets of several models.

Of n images like those to come, which the model was not trained on, the scores s of the true classes are ordered; the
threshold is the k-th smallest, k = ⌈(n + 1) coverage⌉, and a set holds every class with a score up to it. Then the set
of another such image holds its true class with a chance of at least `coverage`, whatever the model (Vovk et al. 2005;
for scores without ties it is k / (n + 1)). Of one set of n images the chance is Beta(k, n + 1 - k) distributed.
"""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from fractions import Fraction

SCORES = ("lac", "aps", "raps")


def set_scores(
    logits: Tensor, score: str = "lac", draws: Tensor | None = None, penalty: float = 0.1, free: int = 1
) -> Tensor:
    """How badly each class fits, `[..., C]` float64 of logits `[..., C]`: lower fits better.

    "lac" (least ambiguous sets; Sadinle et al. 2019): 1 - p_k. The sets are the smallest on average.
    "aps" (Romano et al. 2020): the sum of all larger probabilities, Σ_{p_j > p_k} p_j, so that the sets are the most
    probable classes until their probabilities add up to more than the threshold. Never empty.
    "raps" (Angelopoulos et al. 2021): as aps + penalty · max(0, rank - free), which shortens the longest sets.
    Equal probabilities have equal scores.

    Args:
        logits: after the steps of the model.
        score: one of the three.
        draws: `[...]` of U(0, 1), for aps and raps of the papers, which count the share 1 - u of p_k too: sets are then
            exact where the deterministic ones cover more than was asked for, but random and sometimes empty.
        penalty, free: of raps.

    Raises:
        ValueError: for another name or numbers out of range, and for draws with lac.
    """
    check_score(score, penalty, free)
    probs = logits.double().softmax(-1)
    if score == "lac":
        if draws is not None:
            raise ValueError("lac has nothing to draw: leave draws out")
        return 1 - probs
    ordered = (-probs).sort(-1).values
    before = torch.searchsorted(ordered, (-probs).contiguous())  # how many are larger
    sums = torch.cat([torch.zeros_like(probs[..., :1]), (-ordered).cumsum(-1)], -1)
    scores = sums.gather(-1, before)
    if draws is not None:
        scores = scores + (1 - draws.double()[..., None]) * probs
    return scores if score == "aps" else scores + penalty * (before + 1 - free).clamp(min=0).double()


def check_score(score: str, penalty: float = 0.1, free: int = 1) -> None:
    """Raise ValueError unless there is such a score."""
    if score not in SCORES:
        raise ValueError(f"the score of prediction sets is one of {', '.join(SCORES)}, got {score!r}")
    if isinstance(penalty, bool) or not isinstance(penalty, int | float) or not 0 <= penalty < math.inf:
        raise ValueError(f"penalty is a number of 0 or more, got {penalty!r}")
    if isinstance(free, bool) or not isinstance(free, int) or free < 0:
        raise ValueError(f"free is how many classes cost nothing, 0 or more, got {free!r}")


def place_of_threshold(images: int, coverage: float) -> int:
    """k = ⌈(images + 1) coverage⌉, the place of the threshold among the scores; beyond `images` there is none.

    Raises ValueError for a coverage outside (0, 1).
    """
    return math.ceil((images + 1) * _exact(coverage))


def images_needed(coverage: float) -> int:
    """From how many calibration images on there is a threshold for a coverage in (0, 1): ⌈coverage / (1 - coverage)⌉.

    Raises ValueError for a coverage outside (0, 1).
    """
    share = _exact(coverage)
    return math.ceil(share / (1 - share))


def _exact(coverage: float) -> "Fraction":
    """As it was written: 0.07 · 100 is 7.000000000000001 in floating point, and its ceiling 8."""
    if isinstance(coverage, bool) or not isinstance(coverage, int | float) or not 0 < coverage < 1:
        raise ValueError(f"coverage is a share of images above 0 and below 1, such as 0.9, got {coverage!r}")
    from fractions import Fraction  # which whoever only anchors a model does not pay for

    return Fraction(repr(float(coverage)))


def conformal_threshold(scores: Tensor, coverage: float) -> float:
    """The ⌈(n + 1) coverage⌉-th smallest of the scores `[n]` of true classes; infinite where n is less than that.

    Raises ValueError for a coverage outside (0, 1) and for scores that are NaN.
    """
    place = place_of_threshold(len(scores), coverage)
    if bool(scores.isnan().any()):
        raise ValueError(f"{int(scores.isnan().sum())} of {len(scores)} scores are NaN: they have no order")
    return math.inf if place > len(scores) else float(scores.double().sort().values[place - 1])


def coverage_range(images: int, coverage: float, level: float = 0.9) -> tuple[float, float]:
    """Between which shares the coverage lies with a chance of `level`, over all sets of so many calibration images.

    The quantiles of Beta(k, n + 1 - k) at (1 ± level) / 2 (Vovk 2012). Raises ValueError where there is no threshold.
    """
    place = place_of_threshold(images, coverage)
    if place > images:
        raise ValueError(f"{images} images have no threshold for {coverage:g}: it takes {images_needed(coverage)}")
    from scipy.stats import beta

    low, high = beta.ppf([(1 - level) / 2, (1 + level) / 2], place, images + 1 - place)
    return float(low), float(high)


def merged_scores(scores: Tensor, how: str | float = "mean") -> Tensor:
    """One score of each class from those of M references, heads or models, `[..., C]` from `[M, ..., C]`.

    The threshold has to be set on merged scores: then the coverage is that of one model, whatever `how` is and however
    alike the members are, as the merged score is only another function of image and class. Sets whose thresholds
    were set for each member alone are merged by `majority`, which costs coverage.

    Args:
        scores: of `set_scores`.
        how: "mean", "median" (of an even number the lower of the two), or a number in [0, 1], that quantile (the
            ⌈M · how⌉-th smallest): 0 is the best member's, 1 the worst's.

    Raises:
        ValueError: for no member and another `how`.
    """
    if scores.ndim < 2 or len(scores) == 0:
        raise ValueError(f"scores of members are [M, ..., C] with M >= 1, got {list(scores.shape)}")
    if how == "mean":
        return scores.mean(0)
    share = 0.5 if how == "median" else how
    if isinstance(share, bool | str) or not 0 <= share <= 1:
        raise ValueError(f"how is mean, median or a number from 0 to 1, got {how!r}")
    return scores.sort(0).values[max(0, math.ceil(len(scores) * share) - 1)]


def majority(sets: Tensor) -> Tensor:
    """The classes `[..., C]` that are in more than half of the sets `[M, ..., C]` (bool) of M models.

    If each of them covers `1 - a`, the majority covers at least `1 - 2a`, however the models depend on each other:
    where it misses, half of them or more do, and their expected share is a (Markov; Cherubin 2019, Gasparin and Ramdas
    2024). So members need a threshold for `coverage_of_members`. Raises ValueError for no member or what is not bool.
    """
    if sets.ndim < 2 or len(sets) == 0 or sets.dtype != torch.bool:
        raise ValueError(f"sets of members are bool [M, ..., C], M >= 1, got {sets.dtype} {list(sets.shape)}")
    return 2 * sets.sum(0) > len(sets)


def coverage_of_members(coverage: float) -> float:
    """What each member has to cover so that their majority covers `coverage`: (1 + coverage) / 2."""
    return float((1 + _exact(coverage)) / 2)

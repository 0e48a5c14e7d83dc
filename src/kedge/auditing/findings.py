"""What an audit says of each image: one finding each of dark, blurred, copied, wrongly labelled, memorised, ..."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kedge.auditing.gathering import Pool
from kedge.auditing.looks import Looks
from kedge.auditing.opposing import Opposing
from kedge.auditing.subsampled import Heads
from kedge.data.near import Pair

__all__ = [
    "KINDS",
    "Finding",
    "of_groups",
    "of_heads",
    "of_looks",
    "of_pairs",
    "of_unreadable",
    "suspects",
]

# What each finding means, in the order of the page.
KINDS = {
    "unreadable": "cannot be read",
    "copy across the split": "the same picture in two parts: what is measured on the later part is too good",
    "copy": "the same picture twice in one part",
    "copy with another label": "the same picture with two labels, one of which is wrong",
    "wrong label": "heads that did not see the image are sure of another class",
    "memorised": "right only where it was trained on: wrong labels, copies' odd ones, and rare kinds",
    "hard": "far from its label early in training: hard, odd or wrong",
    "dark": "next to nothing bright in it",
    "washed out": "next to nothing dark in it",
    "blurred": "far less sharp than the others",
    "one colour": "nothing to see",
    "odd size": "of a far different size",
    "odd shape": "far longer or higher than the others",
    "opposing, worse": "pulls against the other group: its loss rose at the step at which that of the other fell",
    "opposing, better": "pulls against the other group: its loss fell at that step",
}
MEMORISED = 0.5
FAR, WIDE = 4.5, 6.0  # robust standard deviations from the median at which a look is odd, and a size


@dataclass(frozen=True)
class Finding:
    """One thing about one image.

    Attributes:
        image: its place in the pool; None for one that cannot be read.
        file: its file, or what it is called.
        kind: one of `KINDS`.
        score: how much of it, higher is worse; see the docs of each kind.
        partner: the place of the other image of a copy.
        words: what else there is to say: the class that is more likely, the reason.
    """

    image: int | None
    file: str
    kind: str
    score: float
    partner: int | None = None
    words: str = ""


def of_unreadable(pool: Pool) -> list[Finding]:
    """The images that cannot be read, with why."""
    return [Finding(None, file, "unreadable", 1.0, words=reason) for file, reason in pool.unreadable]


def of_pairs(pairs: list[Pair], pool: Pool) -> list[Finding]:
    """A finding for each pair of copies, at the later image; its score is the similarity."""
    splits, labels, order = pool.splits, pool.labels, {"train": 0, "all": 0, "val": 1, "test": 2}
    named = []
    for pair in pairs:
        first, second = sorted((pair.first, pair.second), key=lambda i: (order.get(splits[i], 3), i))
        across = splits[first] != splits[second]
        kind = "copy across the split" if across else "copy"
        if labels[first] != labels[second]:
            named.append(_copy(pool, "copy with another label", pair, second, first))
        if across or labels[first] == labels[second]:
            named.append(_copy(pool, kind, pair, second, first))
    return named


def _copy(pool: Pool, kind: str, pair: Pair, image: int, partner: int) -> Finding:
    words = {"exact": "bit for bit", "near": "near", "cut": "edges cut off"}[pair.kind]
    return Finding(image, pool.file(image), kind, pair.similarity, partner, words)


def suspects(probs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(whether a label is doubtful, bool `[N]`; the class that is more likely, long `[N]`; margin, `[N]`).

    Confident learning (Northcutt et al., JAIR 2021): of each class the threshold is the mean probability that images
    labelled so get; an image is doubtful where, of the classes above their thresholds, the most probable is another
    one. The margin is that of the most probable other class over the label, in [-1, 1].

    Args:
        probs: `[N, C]`, of predictors that did not see the image.
        labels: long `[N]`.
    """
    count, classes = probs.shape
    own = probs[torch.arange(count), labels]
    sums = torch.zeros(classes, dtype=probs.dtype).index_add_(0, labels, own)
    counts = torch.bincount(labels, minlength=classes)
    thresholds = torch.where(counts > 0, sums / counts.clamp(min=1), torch.inf)
    above = torch.where(probs >= thresholds, probs, -1.0)
    likely = above.argmax(1)
    others = probs.clone()
    others[torch.arange(count), labels] = -1
    margin = others.max(1).values - own
    return (above.max(1).values > 0) & (likely != labels) & (margin > 0), others.argmax(1), margin


def of_heads(heads: Heads, pool: Pool, share: float) -> list[Finding]:
    """Doubtful labels, memorised images and the `share` of all that are hardest."""
    doubtful, likely, margin = suspects(heads.apart, pool.labels)
    memorised, el2n = heads.memorisation(), heads.el2n
    named = [
        Finding(i, pool.file(i), "wrong label", float(margin[i]), words=f"rather {pool.class_names[int(likely[i])]}")
        for i in _first(doubtful, margin)
    ]
    named += [
        Finding(i, pool.file(i), "memorised", float(memorised[i])) for i in _first(memorised >= MEMORISED, memorised)
    ]
    most = torch.zeros(len(el2n), dtype=torch.bool)
    most[el2n.argsort(descending=True, stable=True)[: round(share * len(el2n))]] = True
    return named + [Finding(i, pool.file(i), "hard", float(el2n[i])) for i in _first(most, el2n)]


def of_groups(opposing: Opposing | None, pool: Pool) -> list[Finding]:
    """The two groups that pull against each other; the score is the change of the loss."""
    if opposing is None:
        return []
    return [
        Finding(i, pool.file(i), kind, abs(float(opposing.change[i])))
        for kind, places in (("opposing, worse", opposing.worse), ("opposing, better", opposing.better))
        for i in places.tolist()
    ]


def of_looks(looks: Looks, pool: Pool) -> list[Finding]:
    """Images that are far from the others in brightness, sharpness, size or shape.

    Far: 4.5 robust standard deviations from the median of the set (6 for size and shape), and dark, blurred, ... by
    themselves as well. The score is that distance. Images below 32 px are too small to be called blurred.
    """
    area, shape = (looks.height * looks.width).log2(), (looks.width / looks.height).log2()
    large = torch.minimum(looks.height, looks.width) >= 32
    flat = looks.spread < 0.01
    checks = {
        "dark": (-_far(looks.brightness, 0.02), (looks.brightness < 0.4) & ~flat, FAR),
        "washed out": (_far(looks.darkness, 0.02), (looks.darkness > 0.6) & ~flat, FAR),
        "blurred": (-_far(looks.sharpness, 0.05), (looks.sharpness < -1.0) & large & ~flat, FAR),
        "one colour": (torch.full_like(looks.spread, torch.inf), flat, FAR),
        "odd size": (_far(area, 0.1).abs(), (area - area.median()).abs() > 2, WIDE),
        "odd shape": (_far(shape, 0.05).abs(), (shape - shape.median()).abs() > 0.8, WIDE),
    }
    return [
        Finding(
            i, pool.file(i), kind, min(99.0, float(far[i])), words=_size(looks, i) if kind.startswith("odd") else ""
        )
        for kind, (far, by_itself, least) in checks.items()
        for i in _first(by_itself & (far >= least), far)
    ]


def _size(looks: Looks, i: int) -> str:
    return f"{int(looks.width[i])} x {int(looks.height[i])} px"


def _far(values: Tensor, least: float) -> Tensor:
    """Robust standard deviations from the median; a deviation of at least `least`."""
    middle = values.median()
    return (values - middle) / max(least, 1.4826 * float((values - middle).abs().median()))


def _first(chosen: Tensor, score: Tensor) -> list[int]:
    """The places that are chosen, those with the highest score first."""
    order: list[int] = score.argsort(descending=True, stable=True).tolist()
    return [i for i in order if bool(chosen[i])]

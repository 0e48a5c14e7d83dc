"""An audit of a data set from the files to the findings, with what it rests on in words."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kedge.auditing.findings import Finding, of_groups, of_heads, of_looks, of_pairs, of_unreadable
from kedge.auditing.gathering import Pool, gather
from kedge.auditing.learning_curve import FEWEST, Curve, learning_curve
from kedge.auditing.looks import look
from kedge.auditing.opposing import edge_losses, largest_rise, opposing_groups
from kedge.auditing.pixel_features import NAME, pixel_features
from kedge.auditing.subsampled import STEPS, reduced, subsampled
from kedge.data.near import groups, near_duplicates
from kedge.seeds import generator

__all__ = ["Audit", "audit"]

WEAK = 0.85  # accuracy on images left out below which what features say of labels is hardly worth a look
LEAST = 10  # images that heads are trained on at the least
Progress = Callable[[str], Callable[[int, int], None] | None]


@dataclass
class Audit:
    """What an audit saw.

    Attributes:
        pool: the images.
        findings: in the order of the page, those of a kind from the worst on.
        features: what the labels were judged by.
        accuracy: of heads on images that they were not trained on; None where labels were not looked at.
        notes: what was not looked at, and why; what is weak.
        curve: of accuracy against the number of images, or None.
    """

    pool: Pool
    findings: list[Finding]
    features: str
    accuracy: float | None = None
    notes: list[str] = field(default_factory=list)
    curve: Curve | None = None

    def count(self, kind: str) -> int:
        """How many findings of a kind there are."""
        return sum(finding.kind == kind for finding in self.findings)


def audit(
    data: str,
    val: str | None = None,
    test: str | None = None,
    model: Any = None,
    model_name: str = "",
    hard: float = 0.02,
    curve: bool = False,
    batch_size: int = 64,
    workers: int = 0,
    seed: int = 0,
    progress: Progress = lambda what: None,
) -> Audit:
    """Look through a data set for copies, doubtful labels, bad photos, memorised, hard and opposing images.

    Args:
        data, val, test: as of `gathering.gather`.
        model: of kedge, or None: the labels are then judged by simple features of the pixels.
        model_name: what to call it.
        hard: share of the images that are listed as hard.
        curve: whether accuracy against the number of training images is measured too.
        batch_size, workers: of the model.
        seed: of all draws.
        progress: called with what is done next; gives the callback (done, total) for it.

    Raises:
        kedge.data.DataError: as of `gather`.
        ValueError: no image can be read; a model that has no features; a share outside [0, 1]; a curve of images that
            do not allow one.
    """
    if not 0 <= hard <= 1:
        raise ValueError(f"hard is a share of the images, 0 to 1, got {hard}")
    if model is not None and (not hasattr(model, "network") or len(model.input_shape) != 3):
        raise ValueError(
            f"{model_name or 'the model'} gives no features of images, such as an exported file: name a run, a model "
            "folder or timm/NAME, or none for features of the pixels"
        )
    looks, pool = look(gather(data, val, test), progress("reading"))
    pairs, words = near_duplicates(looks)
    result = Audit(
        pool, [*of_unreadable(pool), *of_pairs(pairs, pool)], NAME, notes=[*pool.notes, *([words] if words else [])]
    )
    looked = of_looks(looks, pool)
    together = groups(pairs, len(pool))
    why = _no_labels(pool, together)
    if why:
        result.notes.append(why)
        if curve:
            raise ValueError(f"there is no learning curve: {why}")
        result.findings += looked
        return result
    if model is None:
        features = pixel_features(looks)
    else:
        features, result.features = _features(model, pool, batch_size, workers), f"the network {model_name}"
    rows, classes = reduced(features), len(pool.class_names)
    heads = subsampled(rows, pool.labels, classes, groups=together, steps=steps_for(len(pool)), seed=seed,
                       progress=progress("training small heads"))  # fmt: skip
    result.accuracy = float((heads.apart.argmax(1) == pool.labels).double().mean())
    if result.accuracy < WEAK:
        better = (
            "name a trained or a published network with --run" if model is None else "another network may know more"
        )
        result.notes.append(
            f"these features tell the classes of only {100 * result.accuracy:.0f} % of images that heads did not see: "
            f"doubtful labels, memorised and hard images below are as often just hard for them; {better}"
        )
    losses = edge_losses(rows, pool.labels, classes, seed=seed)
    step = largest_rise(losses)
    opposing = None if step is None else opposing_groups(losses[step], losses[step + 1])
    result.findings += [*of_heads(heads, pool, hard), *looked, *of_groups(opposing, pool)]
    if curve:
        result.curve = _curve(rows, pool, together, seed, progress("training heads on parts of the images"))
    return result


def steps_for(images: int) -> int:
    """Steps of each head: 1,000, and in a large set so many that each image is seen seven times or more."""
    return max(STEPS, images // 6)


def _no_labels(pool: Pool, together: Tensor) -> str:
    """Why labels are not looked at, in words; "" where they are."""
    if not pool.labelled:
        return "the folder has no class folders: there are no labels to look at"
    counts = torch.bincount(pool.labels, minlength=len(pool.class_names))
    there = counts[counts > 0]
    if len(there) < 2:
        name = pool.class_names[int(counts.argmax())]
        return f"all images are of one class, {name!r}: labels are not looked at, nor memorised and hard images"
    if len(together.unique()) < LEAST:
        return (
            f"there are {len(pool):,} images, {len(together.unique())} different ones: too few (below {LEAST}) to "
            "judge labels by"
        )
    different = len(set(zip(pool.labels.tolist(), together.tolist(), strict=True)))
    if different <= len(there):
        return (
            "each class has a single image: what it looks like cannot be learned from others, labels are not looked at"
        )
    return ""


def _features(model: Any, pool: Pool, batch_size: int, workers: int) -> Tensor:
    """What the last layer of the model reads, `[N, D]`, in the order of the pool."""
    from kedge.probing.features import features
    from kedge.probing.heads import find_head

    head = find_head(model)
    return torch.cat([
        features(model, head, images, batch_size, workers, references=10) for images in pool.sets(model.input_shape)
    ])  # fmt: skip


def _curve(rows: Tensor, pool: Pool, together: Tensor, seed: int, progress: Any) -> Curve:
    """The learning curve: judged on the parts that are not for training, else on a fifth; copies are left out."""
    training, judged = divided(pool.splits, together, seed)
    labels = pool.labels
    known = torch.bincount(labels[training], minlength=len(pool.class_names)) > 0
    judged = judged[known[labels[judged]]]
    if few := [pool.class_names[c] for c in labels[judged].unique().tolist() if (labels[training] == c).sum() < FEWEST]:
        raise ValueError(
            f"a learning curve trains on an eighth of the images of each class, and {', '.join(few[:8])} have fewer "
            f"than {FEWEST} training images: add some, or leave --learning_curve out"
        )
    return learning_curve(rows, labels, len(pool.class_names), training, judged, seed=seed,
                          steps=steps_for(len(training)), progress=progress)  # fmt: skip


def divided(splits: Sequence[str], together: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Places of (training images, those to judge by): the parts as they are, else four fifths and one.

    An image to judge by that is a copy of a training image is left out.
    """
    training = torch.tensor([split in ("train", "all") for split in splits])
    if bool(training.all()):
        numbers = together.unique(return_inverse=True)[1]
        order = torch.randperm(int(numbers.max()) + 1, generator=generator(seed, "divided"))
        fifth = torch.isin(numbers, order[: max(1, len(order) // 5)])
        return (~fifth).nonzero()[:, 0], fifth.nonzero()[:, 0]
    apart = ~training & ~torch.isin(together, together[training])
    return training.nonzero()[:, 0], apart.nonzero()[:, 0]

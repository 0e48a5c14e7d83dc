"""Classes added to a model without the photos of its old ones: a head fitted on features drawn for these."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kedge.anchoring import PixelModel
from kedge.data import ImageSet
from kedge.data.sets import check_set
from kedge.probing.class_features import ClassFeatures, class_features
from kedge.probing.features import features
from kedge.probing.heads import find_head, with_head
from kedge.probing.probe import Probe, ProbeData, fit_probe
from kedge.probing.remembered import Remembered, named_classes
from kedge.seeds import derive_seed

__all__ = ["AddedClasses", "add_classes", "fit_on_replayed"]


@dataclass(frozen=True)
class AddedClasses:
    """What `add_classes` gives.

    Attributes:
        model: for the old classes, then the new ones, in eval mode, on the CPU.
        remembered: of all of them, for the next ones.
        probe: the head, and by what it was chosen.
        recalled: the share of features drawn for the old classes whose class the model names right; None where none
            can be drawn.
    """

    model: PixelModel
    remembered: Remembered
    probe: Probe
    recalled: float | None


def add_classes(
    model: PixelModel,
    remembered: Remembered,
    train: ImageSet,
    val: ImageSet | None = None,
    *,
    samples: int = 200,
    strength: float | None = None,
    head: str | None = None,
    photos: int = 20,
    seed: int = 0,
    batch_size: int = 256,
    workers: int = 0,
) -> AddedClasses:
    """Add the classes of `train` to a model whose old photos are gone: Gaussian replay of features.

    The body stays as it is, and an anchored model's bank too: with either changed, what is remembered would be of
    another model. The head is logistic regression over old and new classes together, which count the same: on
    `samples` features drawn from the Gaussian of each old class (or the features of the photos that are remembered),
    and on those of the new photos. No output stands for a class that is not here yet, which is the same as an output
    masked to minus infinity. Without old classes it is an ordinary probe. Steps after the logits and the threshold are
    left out: they were of other logits.

    Args:
        model: it stays as it is.
        remembered: of `remember`, for this model.
        train: photos of the new classes, one or more, none of which the model has.
        val: of the same classes; the strength of the regularisation is chosen by these and by further draws. None: by
            cross-validation.
        samples: of each old class.
        strength: of the regularisation; None: chosen.
        head: the last layer, by its name; None: found.
        photos: of each new class, where exemplars are remembered.
        seed: of all draws.

    Raises:
        ValueError: where `remembered` is of another model or other classes, a new class is an old one, or has no
            photo, or photos are of another shape.

    Source: the last stage of HiDe-Prompt, Wang et al., NeurIPS 2023 (arXiv 2310.07234), without its prompts.
    """
    old = named_classes(model)
    check_new(model, train, val)
    if samples < 1:
        raise ValueError(f"samples must be 1 or more of each class, got {samples}")
    head = find_head(model, head)
    remembered.check(model, head)
    reading: dict[str, Any] = {"batch_size": batch_size, "workers": workers}
    rows = features(model, head, train, **reading)  # no new photo is in the bank
    judged = None if val is None else (features(model, head, val, **reading), val.labels)
    layer: Any = model.network.get_submodule(head) if head else model.network
    probe = fit_on_replayed(
        remembered.features,
        rows,
        train.labels,
        len(train.class_names),
        judged,
        samples=samples,
        strength=strength,
        intercept=layer.bias is not None,
        seed=seed,
    )
    names = [*old, *train.class_names]
    kept = remembered.features
    new = class_features(rows, train.labels, len(train.class_names), kept.how, photos, derive_seed(seed, len(old)))
    wider = with_head(model, head, names, probe.weight, probe.bias).cpu().eval()
    together = replace(remembered, class_names=names, features=kept.joined(new))  # type: ignore[arg-type]
    return AddedClasses(wider, together, probe, _recalled(kept, probe, seed) if kept.drawn else None)


def fit_on_replayed(
    old: ClassFeatures | None,
    rows: Tensor,
    labels: Tensor,
    classes: int,
    judged: tuple[Tensor, Tensor] | None = None,
    *,
    samples: int = 200,
    strength: float | None = None,
    intercept: bool = True,
    seed: int = 0,
) -> Probe:
    """The head for the `old` classes, then new ones, whose rows `[N, D]` have labels 0, 1, ...; classes count the same.

    `judged`: features and labels of images of the new classes, by which and by further draws of the old ones the
    strength is chosen; without them, or where none can be drawn, by cross-validation.
    """
    count = 0 if old is None else len(old)
    seen, targets = _joined(old, rows, labels, samples, seed)
    if judged is not None and (old is None or old.drawn):
        judged = _joined(old, *judged, samples, derive_seed(seed, "judged"))
    elif old is not None:
        judged = None
    return fit_probe(ProbeData(seen[None], targets, count + classes, balanced=True), judged, strength, intercept)


def check_new(model: PixelModel, train: ImageSet, val: ImageSet | None) -> None:
    """Raise ValueError for images that are none of new classes for this model, TypeError for what is no image set."""
    old = named_classes(model)
    check_set(train, "the photos of the new classes")
    if twice := [name for name in train.class_names if name in old]:
        raise ValueError(
            f"{', '.join(twice[:8])} of {train.name}: the model has that already. Only new classes are added: leave "
            "the others out"
        )
    counts = torch.bincount(train.labels, minlength=len(train.class_names)).tolist()
    if empty := [name for name, count in zip(train.class_names, counts, strict=True) if not count]:
        raise ValueError(f"{train.name} has no photo of {', '.join(empty[:8])}")
    if val is not None and val.class_names != train.class_names:
        raise ValueError(f"{val.name} has other classes than {train.name}")
    if tuple(train.image_shape) != tuple(model.input_shape):
        wants, has = ("x".join(map(str, shape)) for shape in (model.input_shape, train.image_shape))
        raise ValueError(f"the model takes images of {wants} (C, H, W), those of {train.name} are {has}")


def _joined(old: ClassFeatures | None, rows: Tensor, labels: Tensor, samples: int, seed: int) -> tuple[Tensor, Tensor]:
    """Rows and labels of old classes, then of new ones."""
    if old is None:
        return rows, labels
    parts = [old.rows(label, samples, seed) for label in range(len(old))]
    of_old = torch.repeat_interleave(torch.arange(len(old)), torch.tensor([len(part) for part in parts]))
    return torch.cat([*parts, rows]), torch.cat([of_old, labels + len(old)])


def _recalled(old: ClassFeatures, probe: Probe, seed: int) -> float:
    """The share of further draws of the old classes, 100 each, that the head names right; classes count the same."""
    right = 0.0
    for label in range(len(old)):
        logits = old.rows(label, 100, derive_seed(seed, "recalled")) @ probe.weight.T + (
            0 if probe.bias is None else probe.bias
        )
        right += float((logits.argmax(1) == label).double().mean())
    return right / len(old)

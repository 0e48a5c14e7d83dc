"""The images of an evaluation: to test on, to learn from, shifted, out-of-distribution; and whether they will do."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kedge.data.corruptions import expand
from kedge.data.corruptions.frost import texture_files
from kedge.data.overlap import check_apart, shared_images
from kedge.data.sets import check_set
from kedge.evaluation.equalise import Step
from kedge.evaluation.evaluated_model import Subject
from kedge.scores import Score

FIT_IMAGES = 5000  # training images at most, for the scores that learn
FIT_FEW = 1000  # as many at least, however few images of each set a limit asks for
Condition = tuple[str, int]  # a corruption and its severity


@dataclass(frozen=True)
class Shifts:
    """What to shift the images by.

    Attributes:
        corruptions: names of those made here.
        published: published sets of corrupted images, which take their place.
        renditions: published sets of other images of the classes.
        conditions: every corruption at every severity.
        frost_textures: a folder of pictures for "frost"; None for those made here.
    """

    corruptions: list[str]
    published: list[Any]
    renditions: list[Any]
    conditions: list[Condition]
    frost_textures: str | None = None

    @property
    def source(self) -> str | None:
        """Where the corrupted images come from, for the report."""
        if self.published:
            return ", ".join(p.name for p in self.published)
        return "generated" if self.corruptions else None

    @property
    def severities(self) -> list[int]:
        """The severities, each once, rising."""
        return sorted({severity for _, severity in self.conditions})

    def names(self) -> list[str]:
        """The corruptions, each once, in order."""
        return list(dict.fromkeys(name for name, _ in self.conditions))

    def masks(self, class_names: Sequence[str]) -> dict[str, Tensor | None]:
        """Name of a published set to where the models have its classes. Raises ValueError for classes they lack."""
        names = list(class_names)
        return {s.name: s.mask_for(names, len(names)) for s in [*self.published, *self.renditions]}


@dataclass(frozen=True)
class Sets:
    """What the models are run over.

    Attributes:
        test: the test images, as many as a limit leaves.
        positions: long `[N]`, their places in the whole set.
        training: training images for the scores that learn; None without those.
        why_no_training: in words; "" where there are some.
        shifts: what to shift the test images by.
        masks: name of a published set to the outputs among which its answers are looked for; None for all.
        ood: name to out-of-distribution images.
        step: what the test images, where they are compared with those, and those go through; None: nothing.
        mixed: whether published sets are put into an order drawn by the seed, as models adapt to them.
    """

    test: Any
    positions: Tensor
    training: Any
    why_no_training: str
    shifts: Shifts
    masks: Mapping[str, Tensor | None]
    ood: Mapping[str, Any]
    step: Step | None
    mixed: bool = False


def check_request(data: Any, batch_size: int, limit: int | None, severities: Sequence[int], risk: float) -> None:
    """Raise ValueError for settings and test data that cannot be measured on."""
    for name, value in (("batch_size", batch_size), ("limit", 1 if limit is None else limit)):
        if not isinstance(value, int) or value < 1:
            whole = "" if isinstance(value, int) else "a whole number, "
            raise ValueError(f"{name} must be {whole}1 or more, got {value!r}")
    check_severities(severities)
    if not isinstance(risk, int | float) or not 0 < risk < 1:
        raise ValueError(f"risk must be between 0 and 1, got {risk}: 0.05 asks how many answers can be 95 % right")
    check_images(data)
    low, high, classes = int(data.labels.min()), int(data.labels.max()), len(data.class_names)
    if low < 0 or high >= classes:
        raise ValueError(
            f"the set {data.name!r} has {classes} classes, but its labels go from {low} to {high}; "
            + ("classes count from 0: subtract 1" if low == 1 else "evaluation needs a label for every image")
        )


def check_seen(seen: Sequence[str], ood: Iterable[str]) -> None:
    """Raise ValueError for a set that was called seen in pre-training and is none of the out-of-distribution ones."""
    sets = list(ood)
    if unknown := [name for name in seen if name not in sets]:
        raise ValueError(
            f"seen: there is no out-of-distribution set {unknown[0]!r}; there are: {', '.join(sets) or 'none'}"
        )


def check_tpr(tpr: float | None, any_ood: bool) -> None:
    """Raise ValueError for a share of familiar images that is none, or that nothing is measured at."""
    if tpr is None:
        return
    if isinstance(tpr, bool) or not isinstance(tpr, int | float) or not 0 < tpr < 1:
        raise ValueError(f"tpr is a share between 0 and 1, got {tpr}: 0.99 lets 99 % of the familiar images pass")
    if not any_ood:
        raise ValueError(
            f"tpr={tpr} is of telling familiar images from out-of-distribution ones, and no set of these was given"
        )


def check_severities(severities: Sequence[int]) -> None:
    """Raise ValueError unless there are severities, each 1 to 5."""
    if not isinstance(severities, Iterable):
        raise ValueError(f"severities is a list of 1 to 5, got {severities!r}")
    for severity in severities:
        if severity not in (1, 2, 3, 4, 5):
            raise ValueError(f"severities are 1 to 5, got {severity}")
    if not severities:
        raise ValueError("severities is empty: give some of 1 to 5, or no shift at all")


def check_images(data: Any) -> None:
    """Raise TypeError for what is no image set, ValueError for one without images."""
    check_set(data, "images to evaluate on")
    if len(data) == 0:
        raise ValueError(f"the set {data.name!r} is empty: there is nothing to evaluate")


def limited(data: Any, limit: int | None, seed: int) -> tuple[Any, Tensor]:
    """The set, or a seeded random subset of `limit` images in the set's order, with their positions `[N]`.

    Of a set that was loaded without decoding it, what is returned is decoded or checked, and nothing else; images that
    cannot be read are left out.
    """
    total, chosen, positions = len(data), data, torch.arange(len(data))
    if limit is not None and limit < total:
        positions = torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:limit].sort().values
        chosen = data.subset(positions)
    chosen, places = chosen.readable()
    return chosen, positions[places]


def named_sets(ood: Any, near: Sequence[str], data: Any) -> tuple[dict[str, Any], dict[str, str | None]]:
    """(name to out-of-distribution set, name to a warning where it shares images with the data).

    A set goes by its own name where none was given. Raises ValueError for an empty set, for the data itself under
    whatever name, and for a near set that is not there.
    """
    if ood is None:
        sets: dict[str, Any] = {}
    elif isinstance(ood, Mapping):
        sets = {str(name): images for name, images in ood.items()}
    else:
        sets = {}
        for images in ood if isinstance(ood, (list, tuple)) else [ood]:
            check_images(images)
            name = images.name if images.name != data.name else f"{images.name} (other classes)"
            if name in sets:
                raise ValueError(f"two out-of-distribution sets are called {name!r}: pass a dict of name to set")
            sets[name] = images
    for images in sets.values():
        check_images(images)
    warnings = {name: check_apart(data, images) for name, images in sets.items()}
    if unknown := [name for name in near if name not in sets]:
        raise ValueError(f"near: there is no out-of-distribution set {unknown[0]!r}; there are: {', '.join(sets)}")
    return sets, warnings


def shifts(shift: Any, severities: Sequence[int], frost_textures: str | None = None) -> Shifts:
    """Sort `shift`: None (all nineteen corruptions), or a sequence of names, group words and published sets.

    Raises ValueError for an unknown name, for corruptions made here beside published ones, whose means would mix, and
    for a folder without textures.
    """
    if shift is None:
        shift = ["corruptions"]
    each = [shift] if isinstance(shift, str) or hasattr(shift, "conditions") else list(shift)
    names = expand([word for word in each if isinstance(word, str)])
    sets = [one for one in each if not isinstance(one, str)]
    names_of_sets = [s.name for s in sets]
    if again := [name for name in names_of_sets if names_of_sets.count(name) > 1]:
        raise ValueError(f"two published sets are called {again[0]}: give one of them another name (its .name)")
    published = [s for s in sets if s.kind == "corruptions"]
    if names and published:
        raise ValueError(
            f"shift names corruptions made here ({', '.join(names[:3])}) and the published set {published[0].name}: "
            "a mean over both would mean nothing; evaluate twice"
        )
    if frost_textures is not None:
        texture_files(Path(frost_textures))  # a wrong folder is an error before anything is measured
    chosen = sorted({int(s) for s in severities})
    conditions = [(name, severity) for name in names for severity in chosen]
    for images in published:
        own = [(name, severity) for name, severity in images.conditions if severity in chosen]
        if not own:
            raise ValueError(f"{images.name} has no images of severity {', '.join(map(str, chosen))}")
        if twice := set(own) & set(conditions):
            raise ValueError(f"two published sets have {sorted(twice)[0][0]}: evaluate them one after the other")
        conditions += own
    renditions = [s for s in sets if s.kind != "corruptions"]
    return Shifts(names, published, renditions, conditions, frost_textures)


def rendition_names(images: Any) -> list[str]:
    """What each condition of a set of renditions is called: by the set, where there are several also by itself."""
    several = len(images.conditions) > 1
    return [f"{images.name} {condition}" if several else images.name for condition, _ in images.conditions]


def fit_images(limit: int | None, subjects: Sequence[Subject], classes: int) -> int:
    """How many training images the scores that learn get: with few, a covariance is of rounding alone."""
    if limit is None:
        return FIT_IMAGES
    widest = max((s.head[0].shape[1] for s in subjects if s.head is not None), default=0)
    return min(FIT_IMAGES, max(limit, FIT_FEW, 2 * widest, 10 * classes))


def training_images(
    train: Any, data: Any, scores: Sequence[Score], any_ood: bool, seed: int, most: int
) -> tuple[Any, str]:
    """(at most so many training images for the scores that learn, or None; why there are none).

    Raises ValueError where test images are among them.
    """
    if train is None:
        return None, "it learns from training images, and none were given"
    if not any_ood or not any(score.fits for score in scores):
        return None, "nothing was asked of it"
    check_images(train)
    if list(train.class_names) != list(data.class_names):
        return None, f"it learns from training images, and {train.name} has other classes than {data.name}"
    shared = len(data) if train is data else shared_images(train, data)
    if shared > 0.01 * len(data):
        what = "the test images" if shared == len(data) else f"{shared} of the {len(data)} test images"
        raise ValueError(
            f"among the training images {train.name!r} are {what}: scores would be fitted on what they are tested on"
        )
    return limited(train, most, seed)[0], ""


def labelled_few(training: Any, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """`count` training images `[K, C, H, W]` and labels `[K]`, drawn by the seed, one of each class before a second."""
    order = torch.randperm(len(training), generator=torch.Generator().manual_seed(seed))
    labels = torch.as_tensor(training.labels)[order]
    turn = torch.zeros(len(order), dtype=torch.long)  # how many of its class come before
    for label in labels.unique():
        own = labels == label
        turn[own] = torch.arange(int(own.sum()))
    chosen = training.subset(order[turn.argsort(stable=True)][:count])
    return torch.stack([chosen[i][0] for i in range(len(chosen))]), torch.as_tensor(chosen.labels)


def trained_images(trained_on: Mapping[str, Callable[[Any], int | None]] | None, name: str, images: Any) -> int | None:
    """How many of the images the model called `name` was trained on; None where that is not known."""
    count = (trained_on or {}).get(name)
    return None if count is None else count(images)


def set_record(data: Any, used: int, limit: int | None) -> dict[str, Any]:
    """What the results say of a set of which `used` images were measured."""
    report = getattr(data, "report", None)
    return {
        "name": data.name,
        "split": getattr(data, "split", None),
        "images": used,
        "of": len(data),
        "limited": limit is not None and limit < len(data),
        "image_shape": list(data.image_shape),
        "unreadable": len(getattr(report, "skipped", ())),
    }

"""What can be wrong with a request, said before any work is done."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kedge.data.overlap import check_apart
from kedge.data.sets import check_set


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
    warned = {name: check_apart(data, images) for name, images in sets.items()}
    if unknown := [name for name in near if name not in sets]:
        raise ValueError(f"near: there is no out-of-distribution set {unknown[0]!r}; there are: {', '.join(sets)}")
    return sets, warned


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


def seen(trained_on: Mapping[str, Callable[[Any], int | None]] | None, name: str, images: Any) -> int | None:
    """How many of the images the model called `name` was trained on; None where that is not known."""
    count = (trained_on or {}).get(name)
    return None if count is None else count(images)


def named_groups(groups: Mapping[str, Sequence[str]] | None, names: Sequence[str]) -> dict[str, list[str]]:
    """The groups of models that are seeds of one method. Raises ValueError for unknown models and for one in two."""
    made = {str(group): list(members) for group, members in (groups or {}).items()}
    seen: set[str] = set()
    for group, members in made.items():
        if not members:
            raise ValueError(f"the group {group!r} has no models")
        for name in members:
            if name not in names:
                raise ValueError(f"the group {group!r} names {name!r}, but the models are {', '.join(names)}")
            if name in seen:
                raise ValueError(f"the model {name!r} is in two groups")
            seen.add(name)
    return made

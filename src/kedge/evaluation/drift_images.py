"""The images of a comparison: two sets apart from each other, and how far each new one is from the earlier ones."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor

from kedge.data.origin import of_each
from kedge.data.overlap import also_in
from kedge.data.report import DataError
from kedge.evaluation.drift_profiles import Whitening
from kedge.evaluation.drift_seen import Seen
from kedge.evaluation.figures import thumbnail
from kedge.evaluation.sets import limited

FEWEST = 20  # images of a set: a mean of fewer says next to nothing
SHEET = 24  # images on the contact sheet
TYPICAL = 8  # reference images beside them

Chosen = tuple[Any, list[Any]]  # images, and what their files are


def apart(reference: Any, new: Any, limit: int | None, seed: int) -> tuple[Chosen, Chosen, list[str], int]:
    """(the reference images, the new ones that are not among them, warnings, how many were)."""
    warned: list[str] = []
    chosen: list[Chosen] = []
    for images in (reference, new):
        some, positions = limited(images, limit, seed)
        files = of_each(images if limit is None else images.subset(positions))
        files = [files[i] for i in positions.tolist()] if limit is None else files
        if skipped := len(getattr(images.report, "skipped", ())):
            warned.append(f"{skipped} images of {images.name} could not be read and are left out")
        chosen.append((some, files))
    (first, ours), (second, theirs) = chosen
    flags = torch.tensor(also_in(reference, second) if reference is not new else [True] * len(second))
    shared = int(flags.sum())
    if shared == len(second):
        raise DataError(
            f"all {len(second)} images of {new.name} are also in {reference.name}, bit for bit: there is nothing to "
            "compare. Name two folders of different images"
        )
    if shared:
        places = (~flags).nonzero().squeeze(1)
        second, theirs = second.subset(places), [theirs[i] for i in places.tolist()]
        warned.append(f"{shared} images of {new.name} are also in {reference.name}, bit for bit, and are left out")
    for images in (first, second):
        if len(images) < FEWEST:
            raise ValueError(
                f"{images.name} has {len(images)} image{'s' * (len(images) != 1)} to compare"
                + (f" beside {shared} shared ones" if images is second and shared else "")
                + f", and {FEWEST} are the fewest that can be: add images"
            )
    return (first, ours), (second, theirs), warned, shared


def distances_from(ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
    """Mahalanobis distance of each image from the mean of the reference images: theirs, and those of the new ones."""
    whiten = Whitening(torch.cov(ours.T))
    return tuple(whiten(each - ours.mean(0)).norm(dim=1) for each in (ours, theirs))


def rows_of(images: Any, seen: Seen, classes: Sequence[str], distances: tuple[Tensor, Tensor]) -> list[dict[str, Any]]:
    """Each new image: where it is, what the model answers, how far it is from the reference images."""
    own, away = distances
    ordered = own.sort().values
    further = 1 - torch.searchsorted(ordered, away) / len(ordered)
    confidence, answer = seen.outputs.logits.softmax(1).max(1)
    return [
        {"path": _place(images, i), "answer": classes[int(answer[i])], "confidence": float(confidence[i]),
         "distance": float(away[i]), "further": float(further[i])}
        for i in range(len(images))
    ]  # fmt: skip


def _place(images: Any, i: int) -> str:
    return str(i) if images.paths is None else str(images.paths[i])


def sheet_of(
    first: Any, second: Any, a: Seen, b: Seen, classes: Sequence[str], distances: tuple[Tensor, Tensor]
) -> Mapping[str, list[dict[str, Any]]]:
    """The new images that are furthest from the reference images, and reference images from the middle of these."""
    own, away = distances

    def entry(images: Any, seen: Seen, i: int, distance: Tensor) -> dict[str, Any]:
        confidence, answer = seen.outputs.logits[i].softmax(0).max(0)
        path = "/".join(PurePath(str(images.paths[i])).parts[-2:]) if images.paths is not None else None
        return {"index": i, "path": path, "answer": classes[int(answer)], "confidence": float(confidence),
                "distance": float(distance[i]), "thumbnail": thumbnail(images[i][0])}  # fmt: skip

    most = away.argsort(descending=True, stable=True)[:SHEET].tolist()
    middle = (own - own.median()).abs().argsort(stable=True)[:TYPICAL].tolist()
    return {"drifted": [entry(second, b, i, away) for i in most], "usual": [entry(first, a, i, own) for i in middle]}

"""Which images a model has seen in training, and which its run held out: asked of the run's record, said aloud."""

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from kedge.cli.resolve_model import Source

if TYPE_CHECKING:
    from kedge.data import ImageSet
    from kedge.training.held_out import RunImages
    from kedge.training.record import ImageRecord


def images_of_run(source: Source, place: str | None = None) -> "RunImages":
    """What the run of a model trained on and held out, as its data is now; what is left out is said.

    `place`: where that data is, if not where the run has it from.

    Raises:
        ValueError: if it is not known which images those are, or too few of the held-out ones are left.
    """
    from kedge.training.held_out import RunImages

    assert source.run is not None
    images = RunImages(source.run, place)
    images.val  # noqa: B018 - first of all, whether there are enough
    if images.left_out:
        print(f"held out by {source.name}: {len(images.val)} images; {images.left_out}", file=sys.stderr)
    return images


def trained_by(source: Source, deep: bool = False) -> "ImageRecord | None":
    """What is known of the images that a model was trained on; None if nothing is.

    `deep`: of a run of an earlier version, draw them again.
    """
    from kedge.training.record import ImageRecord

    if source.members:
        records = [trained_by(member, deep) for member in source.members]
        return ImageRecord.union([record for record in records if record is not None]) if all(records) else None
    record = source.record()
    if record is not None or not deep or not source.recipe().get("data"):
        return record
    from kedge.training.held_out import RunImages

    assert source.run is not None
    try:
        images = RunImages(source.run)
        return None if images.own_part else ImageRecord.of(images.train, None, known=images.recipe.init_from is None)
    except ValueError:
        return None


def counters(sources: Mapping[str, Source], images: "ImageSet") -> dict[str, Callable[[Any], int | None]]:
    """For each model of which that is known, what counts the images of a set that it was trained on."""
    known = {name: trained_by(source, deep=images.split == "val") for name, source in sources.items()}
    return {name: record.count for name, record in known.items() if record is not None}


def unseen_by(source: Source, images: "ImageSet") -> "ImageSet":
    """The images that a model was not trained on, as far as is known; how many were left out is said.

    Raises:
        ValueError: if too few are left.
    """
    from kedge.training.held_out import unseen

    record = trained_by(source, deep=True)
    left = images if record is None else unseen(images, record, source.name)
    if len(left) < len(images):
        print(f"left out, as {source.name} was trained on them: {len(images) - len(left)} images", file=sys.stderr)
    return left

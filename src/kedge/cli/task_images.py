"""The images of a new task for a model: training, validation and test, held out where the data has no such parts."""

import sys
from typing import TYPE_CHECKING, Any

from kedge.cli.load_data import common_shape

if TYPE_CHECKING:
    from kedge.data import ImageSet
    from kedge.training.record import ImageRecord

__all__ = ["images_of_task"]

TEST_FRACTION = 0.2  # of the training images, where the data has no part test


def images_of_task(
    place: str,
    model: Any,
    name: str,
    val_fraction: float,
    seed: int,
    before: "ImageRecord | None" = None,
    split_by: str | None = None,
) -> "tuple[ImageSet, ImageSet, ImageSet]":
    """Training, validation and test images at `place` in the size that the model, called `name`, takes.

    `before`: what the model was trained on; nothing of it is drawn to choose by or to measure on. `split_by`: what
    stays together where images are drawn, as in a recipe.

    Raises:
        ValueError: if there is nothing else.
    """
    from kedge import data
    from kedge.training.groups import about_held_out
    from kedge.training.held_out import unseen
    from kedge.training.record import ImageRecord

    channels, size = common_shape({name: model})
    train = data.load(place, "train", size, channels)
    offered = data.splits(place)
    known = before.seen if before is not None and before.keys_of == train.keys_of else frozenset()

    def drawn(share: float, seed: int, part: str) -> "tuple[ImageSet, ImageSet]":
        groups = None if split_by is None else data.group_by(train, split_by, place)
        try:
            rest, out = data.split_validation(train, share, seed, trained=known, groups=groups)
        except data.DataError as error:
            raise ValueError(f"{error}. Put images that {name} was not trained on into {place}/{part}") from error
        if groups is not None:
            rest.report.notes.append(f"for {part}, {about_held_out(groups, train, out)}")
        return rest, out

    if "val" in offered:
        val = unseen(data.load(place, "val", size, channels), ImageRecord.of(train, None, before), "this task")
    else:
        train, val = drawn(val_fraction, seed, "val")
    if split_by is not None and {"val", "test"} <= set(offered):
        raise ValueError(f"--split_by says what is held out together, and {place} has parts val and test of its own")
    if "test" in offered:
        test = data.load(place, "test", size, channels)
        for record, what in ((before, name), (ImageRecord.of(train, val), "the new head")):
            if record is not None and (count := record.count(test)):
                print(f"careful: {what} was trained on {count} of the {len(test)} test images", file=sys.stderr)
    else:
        # After the validation images, which are then those that the recipes of the run folders name.
        train, test = drawn(TEST_FRACTION, data.derive_seed(seed, "test"), "test")
        test.split = "test"
        print(
            f"{place} has no part test: {len(test)} of its training images, about a fifth of each class, drawn "
            f"by --seed {seed}, are held out to measure on and train nothing",
            file=sys.stderr,
        )
    (train, _), (val, _), (test, _) = train.readable(), val.readable(), test.readable()
    print(f"{train.name}: {train.report.summary()}", file=sys.stderr)
    return train, val, test

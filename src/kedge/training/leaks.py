"""Images on both sides of a run's split that show the same thing: what is said of them, and how the model fares there.

Near twins (a burst of photos, a picture saved anew) and files of one series are not equal, so that a split by what is
in the images lets them fall on either side; the accuracy on those that were held out then promises more than new photos
give.
"""

from collections.abc import Callable, Iterable, Sequence
from pathlib import PurePath
from typing import Any

import torch
from torch import Tensor

from kedge.data import ImageSet
from kedge.data.groups import KEEPS_SERIES, series, series_hint
from kedge.data.twins import MOST, can_look, twin_pairs, twins
from kedge.training.recipe import Recipe

__all__ = ["about_leaks", "fares", "leaks", "with_and_without"]

SHARE, FEWEST = 0.05, 3  # of the images that judge: below it nothing is said, as unrelated pictures can look alike too
Sides = list[tuple[int, int]]  # (place among the images that judge, row of a training image)


def leaks(train: ImageSet, val: ImageSet, folds: Sequence[Tensor] = ()) -> dict[str, Any] | None:
    """Which of the images that judge a run have a near twin, or a file of their series, among those it is trained on.

    For run.json: how many `images` judge (of folds in the order of the folds), the `places` among them of those with a
    near twin, how many have one of their `series`, and `examples` of both as pairs of file names; or why it was not
    looked for, `skipped`. None for images that come one after another, which cannot be looked up.

    `folds`: where the images of each fold are in `train`, where they judge.
    """
    count = len(train) + len(val)
    if not can_look(train, val):
        return {"skipped": f"{count:,} images are more than {MOST:,}"} if count > MOST else None
    judging, alike, of_series = _of_folds(train, folds) if folds else _of_parts(train, val)
    names = [None if each.paths is None else [PurePath(path).name for path in each.paths] for each in (judging, train)]
    return {
        "images": len(judging),
        "places": sorted({place for place, _ in alike}),
        "series": len({place for place, _ in of_series}),
        "examples": {what: _named(pairs, names) for what, pairs in (("twins", alike), ("series", of_series))},
    }


def about_leaks(record: dict[str, Any] | None, recipe: Recipe, own_part: bool) -> str:
    """A warning in a sentence; "" where there is nothing to warn of. `own_part`: the data has a part val of its own."""
    if record is None:
        return ""
    if "skipped" in record:
        return (
            f"near twins on both sides of the split were not looked for: {record['skipped']}. If photos come in bursts "
            "or series, --split_by keeps those together"
        )
    found, ways = [], []
    for count, what, way in (
        (len(record["places"]), "a near twin", "--split_by near"),
        (record["series"], "a file of the same series", KEEPS_SERIES),
    ):
        if count >= max(FEWEST, SHARE * record["images"]):
            pair = record["examples"]["series" if "series" in what else "twins"]
            found.append(f"{count:,} have {what}{f' ({pair[0]} and {pair[1]})' if pair else ''}")
            ways.append(way)
    if not found:
        return ""
    remedy = (
        "take them out of one of the two parts"
        if own_part
        else "a column, a folder or another pattern that tells what belongs together is better yet"
        if recipe.split_by is not None
        else f"{' or '.join(ways)} keeps these on one side"
    )
    which = "images of the folds" if recipe.folds else "validation images"
    others = "the images of other folds" if recipe.folds else "the training images"
    return (
        f"careful: of the {record['images']:,} {which} {' and '.join(found)} among {others}, and promise more than new "
        f"photos give: {remedy}"
    )


def with_and_without(places: Sequence[int], right: Tensor) -> dict[str, dict[str, int]]:
    """How many of the images that judge have a near twin in training, and how many of them are right; and the others.

    `right`: bool `[N]`, of the images in their order.
    """
    twin = torch.zeros(len(right), dtype=torch.bool)
    twin[list(places)] = True
    return {
        name: {"images": int(own.sum()), "right": int(right[own].sum())}
        for name, own in (("with", twin), ("without", ~twin))
    }


def fares(record: dict[str, Any] | None, interval: Callable[[int, int], tuple[float, float]]) -> str:
    """Right answers on images with a near twin in training beside the others, in a sentence; "" where too few have.

    `interval`: of how many are right of how many, `accuracy_interval` or, where folds judge, `folds_interval`.
    """
    measured = (record or {}).get("measured")
    if measured is None or measured["with"]["images"] < FEWEST or not measured["without"]["images"]:
        return ""
    told = [
        f"{100 * own['right'] / own['images']:.1f} % of the {own['images']:,} images {words} near twin in training "
        "({:.1f} to {:.1f} %)".format(*(100 * end for end in interval(own["right"], own["images"])))
        for own, words in ((measured["with"], "with a"), (measured["without"], "without a"))
    ]
    return f"right on {' and on '.join(told)}: new photos are like the latter"


def _of_parts(train: ImageSet, val: ImageSet) -> tuple[ImageSet, Sides, Sides]:
    """(the images that judge, twins, files of one series) where some are held out."""
    alike = twins(val, train)
    pairs = list(zip(alike.places.tolist(), alike.others.tolist(), strict=True))
    if not _named_in_series(train, [*(train.paths or ()), *(val.paths or ())]):
        return val, pairs, []
    ours = {thing: row for row, thing in enumerate(series(train.paths or ())) if thing is not None}
    theirs = enumerate(series(val.paths or ()))
    return val, pairs, [(place, ours[thing]) for place, thing in theirs if thing is not None and thing in ours]


def _of_folds(images: ImageSet, places: Sequence[Tensor]) -> tuple[ImageSet, Sides, Sides]:
    """The same where every image of a fold is judged by a model of the other folds."""
    rows = torch.cat(list(places)).tolist()
    place_of = {row: place for place, row in enumerate(rows)}
    fold_of = {row: fold for fold, own in enumerate(places) for row in own.tolist()}

    def apart(pairs: Iterable[tuple[int, int]]) -> Sides:
        both = [pair for i, j in pairs for pair in ((i, j), (j, i))]
        return [(place_of[i], j) for i, j in both if i in place_of and fold_of.get(j) != fold_of[i]]

    things: dict[str, list[int]] = {}
    if _named_in_series(images, images.paths or ()):
        for row, thing in enumerate(series(images.paths or ())):
            if thing is not None:
                things.setdefault(thing, []).append(row)
    of_series = [(a, b) for own in things.values() for a in own for b in own if a < b]
    return images.subset(rows), apart((p.first, p.second) for p in twin_pairs(images)), apart(of_series)


def _named_in_series(images: ImageSet, paths: Sequence[str]) -> bool:
    return series_hint(paths, len(images.class_names)) is not None


def _named(pairs: Sides, names: Sequence[Sequence[str] | None]) -> list[str]:
    """The file names of the first pair; none where images lie in no files."""
    judging, training = names
    return [judging[pairs[0][0]], training[pairs[0][1]]] if pairs and judging and training else []

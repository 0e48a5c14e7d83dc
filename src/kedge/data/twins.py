"""Twins: images of one set that show what images of another show, a moment earlier or later, or saved anew.

Photos that were taken in a burst are not equal and not independent: with some in training and some held out, those that
were held out promise more than new photos give.
"""

from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor

from kedge.data.file_sets import EncodedSet
from kedge.data.groups import Groups
from kedge.data.near import ALIKE, FLOOR, SIDE, Pair, blurred, grey_of, small_copy, unit
from kedge.data.report import DataError, UnreadableImage
from kedge.data.sets import ImageSet, TensorSet

__all__ = ["MOST", "Twins", "by_twins", "can_look", "twin_pairs", "twins"]

MOST = 10_000  # images that are looked at: beyond it the search takes minutes
SHOTS = 10  # whose distance is the yardstick: a burst of as many still lies within it
CLOSE = 0.25  # distance of two twins, as a share of that
NO_YARDSTICK = 0.5  # what two unrelated pictures differ by, about: of fewer than `SHOTS` others
ROWS = 512  # compared with all others at a time


@dataclass(frozen=True)
class Twins:
    """Which images of a set have a twin among others.

    Attributes:
        places: long `[K]`, of the images that have one, in rising order.
        others: long `[K]`, the nearest twin of each.
    """

    places: Tensor
    others: Tensor


def can_look(*sets: ImageSet) -> bool:
    """Whether images can be looked at one by one, and are at most `MOST` in all."""
    return all(isinstance(each, EncodedSet | TensorSet) for each in sets) and sum(map(len, sets)) <= MOST


def small_copies(images: ImageSet) -> Tensor:
    """`[N, 1024]` float32: vectors of length 1 whose products are correlations; 0 for an image that cannot be read,
    and for one of a single grey."""
    grey = torch.zeros(len(images), SIDE, SIDE)
    for i in range(len(images)):
        try:
            grey[i] = grey_of(small_copy(_picture(images, i)))
        except UnreadableImage:
            continue
    flat = grey.flatten(1).std(dim=1) <= 0.01
    half = torch.nn.functional.avg_pool2d(blurred(grey, 1)[:, None], 2)[:, 0]
    return unit(half).masked_fill(flat[:, None], 0.0)


def twins(images: ImageSet, among: ImageSet) -> Twins:
    """Which of `images` have a twin `among` others.

    Two images are twins where the correlation r of their small copies is 0.9 or more and 1 - r is at most a quarter of
    what it is to the tenth nearest of the others, for either of the two: in a set whose images are all much alike more
    is asked for. Both are decoded once, small. Twins that moved by more than a few percent of the picture are missed:
    what is found is the least that there is.
    """
    nearest: dict[int, int] = {}
    for i, j, _ in _close(small_copies(images), small_copies(among)):
        nearest.setdefault(i, j)
    rows = sorted(nearest)
    return Twins(torch.tensor(rows, dtype=torch.long), torch.tensor([nearest[i] for i in rows], dtype=torch.long))


def by_twins(images: ImageSet, train: ImageSet) -> Groups:
    """Two groups of images: with a near twin among the training images, and without.

    Raises:
        DataError: for more images than are looked at, or such as come one after another, and where none has a twin.
    """
    if not can_look(images, train):
        raise DataError(
            f"near twins are looked for among {MOST:,} images on a disk or in memory at most, and {images.name} has "
            f"{len(images):,} beside {len(train):,} to train on"
        )
    places = set(twins(images, train).places.tolist())
    if not places:
        raise DataError(
            f"none of {len(images):,} images of {images.name} has a near twin among {len(train):,} to train on"
        )
    words = ["with a near twin in training" if i in places else "without" for i in range(len(images))]
    return Groups.of(words, "twins")


def twin_pairs(images: ImageSet) -> list[Pair]:
    """Every two images of a set that are twins, the earlier one first; see `twins`."""
    copies = small_copies(images)
    found = {(min(i, j), max(i, j)): r for i, j, r in _close(copies, copies, itself=True)}
    return [Pair(i, j, "near", r) for (i, j), r in sorted(found.items())]


def _close(copies: Tensor, others: Tensor, itself: bool = False) -> list[tuple[int, int, float]]:
    """(row of `copies`, row of `others`, correlation) of twins, for each row the nearest first.

    `itself`: the two are the same, and no row is a twin of itself.
    """
    if not len(copies) or len(others) <= itself:
        return []
    values, places = _nearest(copies, others, torch.arange(len(copies)) if itself else None)
    near = (values >= ALIKE) & (1 - values <= CLOSE * _far(values)[:, None])
    rows, ranks = near.nonzero(as_tuple=True)
    partners, back = places[rows, ranks].unique(return_inverse=True)
    theirs = _far(_nearest(others[partners], others, partners)[0])[back]
    r = values[rows, ranks]
    keep = 1 - r <= CLOSE * theirs
    triples = zip(rows[keep].tolist(), places[rows, ranks][keep].tolist(), r[keep].tolist(), strict=True)
    return list(triples)


def _far(values: Tensor) -> Tensor:
    """The yardstick of images `[N]` whose nearest others have these correlations `[N, SHOTS]`, the largest first."""
    if values.shape[1] < SHOTS:
        return torch.full((len(values),), NO_YARDSTICK)
    return (1 - values[:, -1]).clamp(min=FLOOR)


def _nearest(copies: Tensor, others: Tensor, own: Tensor | None) -> tuple[Tensor, Tensor]:
    """(correlation, row) `[N, SHOTS]` of the nearest others of each; `own`: the row that each is itself."""
    most = min(SHOTS, len(others) - (own is not None))
    values, places = [], []
    for start in range(0, len(copies), ROWS):
        similar = copies[start : start + ROWS] @ others.T
        if own is not None:
            similar[torch.arange(len(similar)), own[start : start + ROWS]] = -2
        best = similar.topk(most, dim=1)
        values.append(best.values)
        places.append(best.indices)
    if not values:
        return torch.zeros(0, most), torch.zeros(0, most, dtype=torch.long)
    return torch.cat(values), torch.cat(places)


def _picture(images: ImageSet, i: int) -> Image.Image:
    """Image i, small where that is quicker to decode; UnreadableImage if it cannot be."""
    if isinstance(images, EncodedSet):
        stored = images.items.image(int(images.rows[i]), SIDE)
    else:
        assert isinstance(images, TensorSet)
        stored = images.images[i]
    if isinstance(stored, Image.Image):
        return stored
    array = stored.permute(1, 2, 0).numpy()
    return Image.fromarray(array[..., 0] if array.shape[2] != 3 else array)

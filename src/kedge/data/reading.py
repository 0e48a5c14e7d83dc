"""Reading the images of a set of which some may be damaged."""

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.data import Dataset

from kedge.data.report import UnreadableImage

log = logging.getLogger(__name__)


def first_readable(images: Any, count: int) -> torch.Tensor:
    """Return the first `count` images of a set that can be read, uint8 [n, C, H, W]; UnreadableImage if none can."""
    read: list[torch.Tensor] = []
    wrong: UnreadableImage | None = None
    for i in range(len(images)):
        if len(read) == count:
            break
        try:
            read.append(images[i][0])
        except UnreadableImage as error:
            wrong = wrong or error
    if not read and wrong is not None:
        raise wrong
    return torch.stack(read)


def sound_places(images: Any, read: Callable[[int], object]) -> torch.Tensor:
    """Return the places, long [M], of the images of a set whose rows `read` can read; the others go into its report.

    Raises:
        DataError: of the whole set more than 1 % cannot be read.
    """
    places: list[int] = []
    damaged: list[tuple[str, str]] = []
    for place, row in enumerate(images.rows.tolist()):
        try:
            read(row)
        except UnreadableImage as error:
            images.report.skip(error)
            damaged.append((error.path, error.reason))
        else:
            places.append(place)
    images.report.check(images.name)
    if damaged:
        log.warning("%s: %d unreadable images left out, such as %s: %s", images.name, len(damaged), *damaged[0])
    return torch.tensor(places, dtype=torch.long)


class Caught(Dataset):
    """A set whose unreadable images are handed over as errors: a worker's exception loses its words."""

    def __init__(self, images: Any) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int] | UnreadableImage:
        try:
            return self._images[i]
        except UnreadableImage as error:
            return error


def collate_caught(
    samples: list[tuple[torch.Tensor, int] | UnreadableImage],
) -> tuple[torch.Tensor, torch.Tensor] | UnreadableImage:
    """Return a batch (images [B, C, H, W], labels [B]), or the first error among its samples."""
    read = []
    for sample in samples:
        if isinstance(sample, UnreadableImage):
            return sample
        read.append(sample)
    return torch.stack([image for image, _ in read]), torch.tensor([label for _, label in read])

"""The batches of a run: the training images, and beside them those of the further images by the stream's name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import Any

import torch

from kedge.data import ImageSet, TrainingBatches, derive_seed, training_batches
from kedge.data.augment import CROP
from kedge.data.batches import EndlessBatches
from kedge.data.sets import TensorSet
from kedge.samplers import make_sampler
from kedge.training.recipe import Recipe

__all__ = ["EpochBatches", "Place", "Unreadable", "crop_of"]


@dataclass(frozen=True)
class Place:
    """Which process of a run this is.

    Attributes:
        rank, world: the number of the process, and how many there are.
        together: whether they train as one would.
        device: where this one trains.
    """

    rank: int
    world: int
    together: bool
    device: torch.device


class Unreadable:
    """Path and reason of the images that others stood in for: of training ones, and of further ones by their stream."""

    def __init__(self, streams: Mapping[str, ImageSet]) -> None:
        self.training: dict[str, str] = {}
        self.extra: dict[str, dict[str, str]] = {name: {} for name in streams}

    def add(self, training: Mapping[str, str], extra: Mapping[str, Mapping[str, str]]) -> None:
        """Note those of another process, or of before the run was broken off, too."""
        self.training.update(training)
        for name, unreadable in extra.items():
            self.extra[name].update(unreadable)


class EpochBatches:
    """This process's share of the training batches, or all of each, with as many batches of each further set.

    They are told the epoch whenever an epoch begins, a resumed one included: `epoch()` gives it.
    """

    def __init__(
        self,
        recipe: Recipe,
        train: ImageSet,
        extra: Mapping[str, ImageSet],
        place: Place,
        unreadable: Unreadable,
        epoch: Callable[[], int],
    ) -> None:
        shared = partial(_shared_out, recipe=recipe, place=place)
        sampler = make_sampler(recipe.sampler)
        self.training = shared(training_batches, train, seed=recipe.seed, failed=unreadable.training, sampler=sampler)
        self.streams = {
            name: shared(
                EndlessBatches,
                images,
                seed=derive_seed(recipe.seed, "extra", name),
                failed=unreadable.extra[name],
                steps=len(self.training),
            )
            for name, images in extra.items()
        }
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self.training)

    def __iter__(self) -> Any:
        # Lightning makes the first iterator before it knows the epoch of a resumed run; this runs with the first batch.
        for each in (self.training, *self.streams.values()):
            each.set_epoch(self._epoch())
        further = [map(itemgetter(0), each) for each in self.streams.values()]
        for (images, labels), *rows in zip(self.training, *further, strict=True):
            yield images, labels, dict(zip(self.streams, rows, strict=True))


def _shared_out(
    make: Callable[..., TrainingBatches], images: ImageSet, recipe: Recipe, place: Place, **more: Any
) -> TrainingBatches:
    """Batches of a set, this process's share of each or all of it."""
    assert recipe.batch_size is not None
    world, rank = place.world, place.rank
    if place.together and isinstance(images, TensorSet):
        world, rank = 1, 0  # each process has the whole set: nothing need be sent
    return make(
        images,
        batch_size=recipe.batch_size // world,
        rank=rank,
        world=world,
        augment=recipe.augment,
        workers=recipe.workers,
        device=place.device,
        crop=crop_of(recipe),
        together=place.together,
        **more,
    )


def crop_of(recipe: Recipe) -> float:
    """The smallest share of the area that a random crop of a training image keeps."""
    return CROP if recipe.crop is None else recipe.crop

"""The batches of a run: the training images, and beside them those of the further images by the stream's name."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from lightning.pytorch import Trainer

from kedge.data import ImageSet, TrainingBatches, derive_seed, training_batches
from kedge.data.augment import CROP
from kedge.data.batches import EndlessBatches
from kedge.data.sets import TensorSet
from kedge.samplers import make_sampler
from kedge.samplers._base import epoch_length
from kedge.training.recipe import Recipe

__all__ = ["EpochBatches", "Unreadable", "crop_of", "drawn_images"]


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

    Args:
        recipe: how they are made.
        train, extra: the training images, and further ones by the stream's name.
        unreadable: where images are noted that others stand in for.
        trainer: knows which process this is, of how many, on which device, and in each epoch which that is.
        together: whether the processes train as one would.
        errors: for a sampler that draws by them, see `kedge.samplers`.
    """

    def __init__(
        self,
        recipe: Recipe,
        train: ImageSet,
        extra: Mapping[str, ImageSet],
        unreadable: Unreadable,
        trainer: Trainer,
        together: bool,
        errors: Sequence[Sequence[float]] = (),
    ) -> None:
        self._trainer, world = trainer, trainer.world_size
        batch_size = recipe.batch_size
        assert batch_size is not None

        def shared(make: Callable[..., TrainingBatches], images: ImageSet, seed: int, **more: Any) -> TrainingBatches:
            alone = together and isinstance(images, TensorSet)  # each process has the whole set: nothing need be sent
            return make(
                images,
                batch_size=batch_size if alone else batch_size // world,
                seed=seed,
                rank=0 if alone else trainer.global_rank,
                world=1 if alone else world,
                augment=recipe.augment,
                workers=recipe.workers,
                device=trainer.strategy.root_device,
                crop=crop_of(recipe),
                together=together,
                **more,
            )

        sampler = make_sampler(recipe.sampler, errors)
        self.training = shared(training_batches, train, recipe.seed, failed=unreadable.training, sampler=sampler)
        endless = partial(EndlessBatches, steps=len(self.training))
        self.streams = {
            name: shared(endless, images, derive_seed(recipe.seed, "extra", name), failed=unreadable.extra[name])
            for name, images in extra.items()
        }

    def __len__(self) -> int:
        return len(self.training)

    def __iter__(self) -> Any:
        # Lightning makes the first iterator before it knows the epoch of a resumed run; this runs with the first batch.
        for each in (self.training, *self.streams.values()):
            each.set_epoch(self._trainer.current_epoch)
        for (images, labels), *further in zip(self.training, *self.streams.values(), strict=True):
            yield images, labels, dict(zip(self.streams, further, strict=True))


def drawn_images(recipe: Recipe, train: ImageSet) -> int:
    """How many images each epoch holds: as many as the set, where the sampler does not draw more or fewer."""
    if recipe.sampler == Recipe.sampler:
        return len(train)
    return epoch_length(make_sampler(recipe.sampler), train.labels, recipe.seed)


def crop_of(recipe: Recipe) -> float:
    """The smallest share of the area that a random crop of a training image keeps."""
    return CROP if recipe.crop is None else recipe.crop

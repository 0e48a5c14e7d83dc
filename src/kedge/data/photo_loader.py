"""Training views of larger images: decoded, cropped and augmented one by one, in worker processes or in this one."""

import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from kedge.data.augment import WHOLE, photo_transform
from kedge.data.decode import evaluation_view, least_side, open_image, to_tensor
from kedge.data.formats import Encoded
from kedge.data.report import DataError, UnreadableImage, listed, tolerated
from kedge.data.sets import ImageSet
from kedge.data.streams import StreamSet
from kedge.seeds import derive_seed, generator

log = logging.getLogger(__name__)
Transform = Callable[[Any], Any]
View = tuple[torch.Tensor, int, UnreadableImage | None]  # image, label, what was wrong with the one it stands in for


class PhotoLoader:
    """Feeds an epoch's batches through a DataLoader whose workers live as long as the run.

    Args:
        images: the set.
        seed: of the augmentation.
        augment: as for `photo_transform`.
        crop: as for `photo_transform`.
        workers: processes; None takes `photo_workers`.
        failed: where to note images that cannot be read, path to reason.
    """

    def __init__(
        self,
        images: ImageSet,
        seed: int,
        augment: str,
        crop: float,
        workers: int | None,
        failed: dict[str, str],
    ) -> None:
        workers = photo_workers(on_cpu=not torch.cuda.is_available()) if workers is None else workers
        _, *size = images.image_shape
        # Smaller images are augmented on the batch, on the model's device.
        transform = photo_transform(augment, size, images.mirror, crop) if max(size) > WHOLE else None
        views: Dataset
        if isinstance(images, StreamSet):
            views = _SampleViews(images, seed, transform)
        else:
            views = _FileViews(images, seed, transform)
        self._images = images
        self._order = _EpochOrder()
        self.failed = failed
        self._loader = DataLoader(
            views,
            batch_sampler=self._order,
            num_workers=workers,
            persistent_workers=workers > 0,
            collate_fn=_collate,
            pin_memory=torch.cuda.is_available(),
            generator=generator(seed),  # else the loader draws from torch's global generator
        )

    def epoch(self, entries: Callable[[], Iterator[list[Any]]]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield (uint8 [B, C, H, W], long [B]) of an epoch whose batches are lists of `entries`."""
        self._order.entries = entries
        for images, labels, errors in self._loader:
            for error in errors:
                self._note(error)
            yield images, labels

    def _note(self, error: UnreadableImage) -> None:
        if error.path in self.failed:
            return
        self.failed[error.path] = error.reason
        log.warning("%s; another image of its class takes its place", error)
        total = max(len(self._images), self._images.report.total)
        allowed = tolerated(total)
        if len(self.failed) > allowed:
            raise DataError(
                f"{self._images.name}: {len(self.failed)} of {total} images could not be read in training, "
                f"more than the {allowed} that others stand in for:\n{listed(list(self.failed.items()))}\n"
                "Is the disk or network folder still there? Restore or remove the files and resume the run."
            )


def photo_workers(on_cpu: bool) -> int:
    """How many processes decode photos for training: up to 16, none where a model on the CPU needs two cores itself."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return 0 if cores <= 2 and on_cpu else min(16, cores)  # on two cores the model needs both


class _EpochOrder:
    """A batch sampler that is told what its batches are; entries name their epoch, as workers outlive one."""

    def __init__(self) -> None:
        self.entries: Callable[[], Iterator[list[Any]]] = lambda: iter(())

    def __iter__(self) -> Iterator[list[Any]]:
        return self.entries()


class _FileViews(Dataset):
    """Training views, each drawn with a generator seeded by (seed, epoch, index), of a repeated image differently."""

    def __init__(self, images: ImageSet, seed: int, transform: Transform | None) -> None:
        self._images, self._seed, self._transform = images, seed, transform

    def __getitem__(self, entry: tuple[int, int, int]) -> View:
        epoch, index, repeat = entry
        label = int(self._images.labels[index])
        first: UnreadableImage | None = None
        for candidate in self._candidates(index):
            try:
                return self._view(epoch, candidate, repeat), label, first
            except UnreadableImage as error:
                first = first or error
        raise DataError(f"{first}; nor can any other image of class {self._images.class_names[label]!r} be read")

    def _candidates(self, index: int) -> Iterator[int]:
        """Yield the image itself, then stand-ins: the next ones of its class, a choice that replays alike."""
        yield index
        members = (self._images.labels == self._images.labels[index]).nonzero().squeeze(1)
        start = int((members == index).nonzero())
        yield from members.roll(-start - 1)[:-1].tolist()

    def _view(self, epoch: int, index: int, repeat: int) -> torch.Tensor:
        if self._transform is None:
            return self._images[index][0]
        image = self._images.uncropped(index)
        seed = derive_seed(self._seed, "augment", epoch, index, *([repeat] if repeat else []))
        return _augmented(image, self._transform, seed, self._images.image_shape[0])


class _SampleViews(Dataset):
    """Training views of images that are handed over, each drawn with a generator seeded by (seed, epoch, number)."""

    def __init__(self, images: StreamSet, seed: int, transform: Transform | None) -> None:
        self._shape, self._seed, self._transform = images.image_shape, seed, transform
        self._sample = images.sample

    def __getitem__(self, entry: tuple[int, int, str, Encoded, int]) -> View:
        epoch, number, name, source, label = entry
        channels, size, _ = self._shape
        try:
            image = open_image(source, name, least=least_side(size))
        except UnreadableImage as error:
            unreadable = UnreadableImage(name, error.reason)
            members = (self._sample.labels == label).nonzero()[:, 0]
            if not len(members):
                raise DataError(f"{unreadable}; nor is there another image of its class to stand in") from None
            return self._sample[int(members[number % len(members)])][0], label, unreadable
        if self._transform is None:
            return to_tensor(evaluation_view(image, size), channels), label, None
        seed = derive_seed(self._seed, "augment", epoch, number)
        return _augmented(image, self._transform, seed, channels), label, None


def _augmented(image: Any, transform: Transform, seed: int, channels: int) -> torch.Tensor:
    with torch.random.fork_rng(devices=[]):  # v2 transforms know no generator of their own
        torch.default_generator.manual_seed(seed)
        return to_tensor(transform(image), channels)


def _collate(views: list[View]) -> tuple[torch.Tensor, torch.Tensor, list[UnreadableImage]]:
    images = torch.stack([image for image, _, _ in views])
    labels = torch.tensor([label for _, label, _ in views])
    return images, labels, [error for _, _, error in views if error is not None]

"""Training batches that are a pure function of (seed, epoch, rank)."""

from collections.abc import Iterator
from itertools import islice
from typing import Any

import torch

from kedge.data.augment import CROP, WHOLE, check_augment
from kedge.data.file_sets import FileSet
from kedge.data.photo_loader import PhotoLoader
from kedge.data.report import DataError
from kedge.data.sets import ImageSet, TensorSet
from kedge.data.streams import StreamSet
from kedge.samplers._base import Sampler, draws_of, epoch_length
from kedge.samplers.shuffled import shuffled
from kedge.seeds import generator

SMALL = 2**30  # bytes of pixels: up to this a set in memory is copied to where the model is (CIFAR-10: 0.14 of it)
SHARE = 0.1  # of the device's free memory that such a copy may take


def training_batches(
    images: ImageSet,
    batch_size: int,
    seed: int,
    rank: int = 0,
    world: int = 1,
    augment: str = "auto",
    workers: int | None = None,
    drop_last_single: bool = True,
    device: torch.device | str = "cpu",
    crop: float = CROP,
    failed: dict[str, str] | None = None,
    together: bool = False,
    sampler: Sampler = shuffled,
) -> "TrainingBatches":
    """Return the shuffled batches of a training set.

    Call `set_epoch(epoch)`, then iterate: the batches of an epoch are bitwise the same whatever came before and
    however many workers there are. All ranks together get each image that the sampler draws once, in the batches of one
    process with `batch_size * world`; of the last, smaller one some may get an image more than others, or none.
    Images above 64 px are augmented one by one here; smaller ones are not: they are augmented on the batch, on the
    model's device, by `BatchAugmentation`.

    Args:
        images: the set.
        batch_size: images per batch and rank.
        seed: of shuffling and augmentation.
        rank: of this process, 0 to world - 1.
        world: number of processes.
        augment: "auto" (crop-flip), "none", "crop-flip", "trivial" (adds TrivialAugment) or "randaugment" (adds
            RandAugment); for images above 64 px.
        workers: processes that decode and augment one by one; None takes up to 16, or none on two cores without CUDA.
        drop_last_single: leave out a last batch of one image, which batch statistics and references cannot use; of
            several ranks that each keep to their own images (not `together`) one that has not two for each (one where a
            batch is one image).
        device: where the model is. A TensorSet of up to 1 GiB that takes at most a tenth of the free memory there is
            copied to it when the first epoch begins, unless it is augmented one by one, and its batches come from
            there; all other batches are on the CPU, pinned where there is CUDA.
        crop: smallest share of the area that a random crop of an image above 64 px keeps.
        failed: where to note images that cannot be read, path to reason; None makes a new dict.
        together: the ranks make one batch of their shares, see `kedge.objectives._whole_batch`.
        sampler: which images an epoch holds, in their order: (labels, epoch, seed) -> indices, see `kedge.samplers`.

    Raises:
        ValueError: a bad batch size, rank or augmentation.
        DataError: no batch would be left, or a sampler for a set that is read in turn.
    """
    check_sampler(images, sampler)
    kind = StreamBatches if isinstance(images, StreamSet) else TrainingBatches
    return kind(
        images, batch_size, seed, rank, world, augment, workers, drop_last_single, device, crop, failed, together,
        sampler,
    )  # fmt: skip


def check_sampler(images: ImageSet, sampler: Sampler) -> None:
    """Raise DataError where images cannot be drawn as `sampler` says: those of a stream come as they come."""
    if isinstance(images, StreamSet) and sampler is not shuffled:
        raise DataError(
            f"{images.name} is read in turn, so that no sampler can choose its images: leave sampler out, or unpack "
            "the shards into a folder"
        )


class TrainingBatches:
    """Iterates over (uint8 [B, C, H, W], long [B]); see `training_batches`.

    Attributes:
        failed: path to reason of the images that could not be read so far; another image of its class stood in for
            each. More than 1 % of them, and more than one, is an error.
    """

    _loader: "PhotoLoader | _TensorLoader | _ItemLoader"

    def __init__(
        self,
        images: ImageSet,
        batch_size: int,
        seed: int,
        rank: int,
        world: int,
        augment: str,
        workers: int | None,
        drop_last_single: bool,
        device: torch.device | str = "cpu",
        crop: float = CROP,
        failed: dict[str, str] | None = None,
        together: bool = False,
        sampler: Sampler = shuffled,
    ) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        if not 0 <= rank < world:
            raise ValueError(f"rank must be 0 to {world - 1} for world {world}, got {rank}")
        check_augment(augment)
        self.images, self.sampler = images, sampler
        self.batch_size, self.seed = batch_size, seed
        self.rank, self.world = rank, world
        self.epoch = 0
        self.failed: dict[str, str] = {} if failed is None else failed
        shares = 1 if together else world  # that have to do without the images of others
        self._drawn = epoch_length(sampler, images.labels, seed)
        self._count = self._used(self._drawn, world)
        last = self._count % (batch_size * world)
        self._length = -(-self._count // (batch_size * world))
        if drop_last_single and 0 < last < shares * min(2, batch_size * world // shares):
            self._length -= 1
        if self._length == 0:
            raise DataError(f"{images.name}: {len(images)} training images on {world} processes make no batch")
        one_by_one = augment != "none" and max(images.image_shape[1:]) > WHOLE
        if one_by_one or isinstance(images, FileSet | StreamSet):
            self._loader = PhotoLoader(images, seed, augment, crop, workers, self.failed)
        elif isinstance(images, TensorSet):
            self._loader = _TensorLoader(images, torch.device(device))
        else:
            self._loader = _ItemLoader(images)

    @staticmethod
    def _used(count: int, world: int) -> int:
        """How many of the `count` images that are drawn an epoch has."""
        return count

    def __len__(self) -> int:
        return self._length

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose batches the next iteration gives."""
        self.epoch = epoch

    def indices(self) -> list[torch.Tensor]:
        """Return this rank's batches of the epoch as indices into the set, each long [B]."""
        return self._shares(self._order())

    def _order(self) -> torch.Tensor:
        """The images of the epoch for all ranks, long [M]."""
        order = draws_of(self.sampler, self.images.labels, self.epoch, self.seed)
        if len(order) != self._drawn:
            raise ValueError(
                f"a sampler gives as many images for each epoch: it gave {self._drawn} for epoch 0, and {len(order)} "
                f"for epoch {self.epoch}"
            )
        return order

    def _shares(self, values: torch.Tensor) -> list[torch.Tensor]:
        """Values `[N]` in the order of the epoch, cut into this rank's batches."""
        batches = values.split(self.batch_size * self.world)[: self._length]
        return [batch[self.rank :: self.world] for batch in batches]

    def size(self, step: int) -> int:
        """How many images all ranks together have in batch `step` of an epoch."""
        whole = self.batch_size * self.world
        return min(whole, self._count - step * whole)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        if isinstance(self._loader, PhotoLoader):
            yield from self._loader.epoch(self._entries)
        elif batches := [index for index in self.indices() if len(index)]:
            yield from self._loader.epoch(batches)
        if self.size(self._length - 1) <= self.rank:  # a rank that gets none of the last batch's images
            yield torch.zeros(0, *self.images.image_shape, dtype=torch.uint8), self.images.labels[:0]

    def _entries(self) -> Iterator[list[Any]]:
        """What the workers get of each batch of the epoch."""
        order = self._order()
        # One batch at a time: the entries of an epoch of a million images take 200 MB.
        for batch, times in zip(self._shares(order), self._shares(repeats(order)), strict=True):
            if len(batch):
                yield [(self.epoch, i, n) for i, n in zip(batch.tolist(), times.tolist(), strict=True)]


class EndlessBatches(TrainingBatches):
    """Whole batches of further images, `steps` in each epoch: the set in one random order after another, without a gap.

    Batch g of a run, counted over all epochs, is rows g · W to (g + 1) · W of the orders one behind the other, W images
    in the batches of all ranks; so a resumed run goes on where it was, and each image is met as often as any other.
    """

    def __init__(self, images: ImageSet, steps: int, **settings: Any) -> None:
        super().__init__(images, drop_last_single=False, **settings)
        self._length = steps
        self._count = steps * self.batch_size * self.world

    def _passes(self) -> list[torch.Tensor]:
        """For each batch of the epoch, of this rank's rows, (the pass over the set, the index into it), long [B, 2]."""
        whole, n = self.batch_size * self.world, len(self.images)
        first, last = self.epoch * self._count, (self.epoch + 1) * self._count
        rows = []
        for number in range(first // n, -(-last // n)):
            order = torch.randperm(n, generator=generator(self.seed, "order", number))
            rows.append(torch.stack([torch.full((n,), number), order], 1))
        batches = torch.cat(rows)[first - first // n * n :][: self._count].split(whole)
        return [batch[self.rank :: self.world] for batch in batches]

    def indices(self) -> list[torch.Tensor]:
        """Return this rank's batches of the epoch as indices into the set, each long [B]."""
        return [batch[:, 1] for batch in self._passes()]

    def _entries(self) -> Iterator[list[Any]]:
        return ([(number, i, 0) for number, i in batch.tolist()] for batch in self._passes())


class StreamBatches(TrainingBatches):
    """The batches of a set that is read in turn: this process reads, its workers decode and augment.

    They are bitwise the same however many workers there are. Each rank gets N // world images, none of them twice.
    """

    @staticmethod
    def _used(count: int, world: int) -> int:
        return count // world * world

    def indices(self) -> list[torch.Tensor]:
        """Raise DataError: there are no positions in a set that is read in turn."""
        raise DataError(f"{self.images.name} is read in turn, and its images have no positions")

    def _entries(self) -> Iterator[list[Any]]:
        assert isinstance(self.images, StreamSet)
        samples = self.images.epoch(self.seed, self.epoch, self.rank, self.world)
        for _ in range(self._length):
            some = islice(samples, self.batch_size)
            yield [(self.epoch, number, sample.name, sample.source, label) for number, sample, label in some]


def repeats(order: torch.Tensor) -> torch.Tensor:
    """For each of the indices `[N]` how often it has come before, long `[N]`."""
    if len(order) == 0 or int(order.bincount().max()) == 1:
        return torch.zeros_like(order)
    by_index = order.argsort(stable=True)
    ordered = order[by_index]
    times = torch.empty_like(order)
    times[by_index] = torch.arange(len(order)) - torch.searchsorted(ordered, ordered)
    return times


class _TensorLoader:
    """Cuts an epoch's batches out of a set in memory, on the model's device where the set fits there."""

    def __init__(self, images: TensorSet, device: torch.device) -> None:
        self._images, self._device = images, device
        self._placed: tuple[torch.Tensor, torch.Tensor] | None = None

    def epoch(self, batches: list[torch.Tensor]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        pixels, labels = self._placed = self._placed or self._place()  # not before: a length alone needs no copy
        pin = pixels.device.type == "cpu" and torch.cuda.is_available()  # asked once: it takes a while
        # All indices of the epoch go over at once, so that no batch waits for the host.
        for index in torch.cat(batches).to(pixels.device).split([len(batch) for batch in batches]):
            # index_select copies whole images; images[index] goes through them pixel by pixel.
            yield _pinned(pixels.index_select(0, index).permute(0, 3, 1, 2), labels.index_select(0, index), pin)

    def _place(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The set's pixels [N, H, W, C], the order that augmentation and convolutions are fast in, and its labels."""
        pixels, labels = self._images.images, self._images.labels
        if not fits(pixels.nbytes, self._device):
            return pixels.permute(0, 2, 3, 1), labels
        return pixels.to(self._device).permute(0, 2, 3, 1).contiguous(), labels.to(self._device)


def fits(size: int, device: torch.device) -> bool:
    """Whether a set of `size` bytes may be copied to `device`: it is small, also next to what is free there."""
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
    return size <= SMALL and (free is None or size <= SHARE * free)


class _ItemLoader:
    """Reads the images of an epoch's batches one by one, of a set that has no faster way."""

    def __init__(self, images: ImageSet) -> None:
        self._images = images

    def epoch(self, batches: list[torch.Tensor]) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        pin = torch.cuda.is_available()
        for index in batches:
            yield _pinned(torch.stack([self._images[i][0] for i in index.tolist()]), self._images.labels[index], pin)


def _pinned(images: torch.Tensor, labels: torch.Tensor, pin: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """A batch, with `pin` in the memory that a GPU copies from without waiting."""
    return (images.pin_memory(), labels.pin_memory()) if pin else (images, labels)

"""Image sets of which every image lies encoded where it came from: read again and again, or decoded once."""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from kedge.data.decode import CROP_SHARE, Size, convert_channels, evaluation_view, least_side, sides, to_tensor
from kedge.data.fingerprints import sampled_rows
from kedge.data.items import ENCODED, Items
from kedge.data.report import DataError, LoadReport, UnreadableImage
from kedge.data.sets import ImageSet, TensorSet
from kedge.seeds import generator

log = logging.getLogger(__name__)


class EncodedSet(ImageSet):
    """Images of a source, each known by its row there.

    Attributes:
        items: the encoded images.
        rows: long [N], the position of each image among them.
    """

    def __init__(
        self,
        items: Items,
        rows: torch.Tensor,
        labels: torch.Tensor,
        class_names: Sequence[str],
        image_shape: tuple[int, int, int],
        name: str = "custom",
        split: str = "all",
        report: LoadReport | None = None,
        paths: Sequence[str] | None = None,
    ) -> None:
        super().__init__(name, split, class_names, labels, image_shape, report, paths)
        self.items, self.rows = items, rows
        self._keys: list[bytes] | None = None  # read once: a part of the set has them from the whole

    def keys(self, sampled: bool = False) -> list[bytes]:
        """Return one key for each image's encoded bytes, b"" for one that cannot be read."""
        if sampled and self._keys is None:
            return self.items.keys(self.rows[list(sampled_rows(len(self)))])
        if self._keys is None:
            self._keys = self.items.keys(self.rows)
        return [self._keys[i] for i in sampled_rows(len(self))] if sampled else self._keys

    @property
    def keys_of(self) -> str:
        """What the source of the images says: as a rule encoded bytes."""
        return self.items.keys_of

    def _choose(self, index: torch.Tensor) -> None:
        self.rows = self.rows[index]
        self._keys = None if self._keys is None else [self._keys[i] for i in index.tolist()]

    def _sound_places(self, read: Callable[[int], object]) -> torch.Tensor:
        """Return the places, long [M], of the images whose rows `read` can read; the others go into the report.

        Raises:
            DataError: of the whole set more than 1 % cannot be read.
        """
        places: list[int] = []
        damaged: list[UnreadableImage] = []
        for place, row in enumerate(self.rows.tolist()):
            try:
                read(row)
            except UnreadableImage as error:
                self.report.skip(error)
                damaged.append(error)
            else:
                places.append(place)
        self.report.check(self.name)
        if damaged:
            count, first = len(damaged), damaged[0]
            log.warning("%s: %d unreadable images left out, such as %s: %s", self.name, count, first.path, first.reason)
        return torch.tensor(places, dtype=torch.long)


class FileSet(EncodedSet):
    """Images decoded each time they are read, for sets of larger images.

    `set[i]` resizes the shorter side to image_size / `crop_share` (0.875; 1 below 192 px) and crops the centre to a
    square of image_size; images that were cropped already have the share 1. An oblong image_size, (H, W), is just
    covered, and the centre cropped: images of that size stay whole.

    Attributes:
        checked: whether each image was looked through for damage; else `readable` does.
    """

    def __init__(
        self,
        items: Items,
        rows: torch.Tensor,
        labels: torch.Tensor,
        class_names: Sequence[str],
        channels: int,
        image_size: Size,
        name: str = "custom",
        split: str = "all",
        report: LoadReport | None = None,
        paths: Sequence[str] | None = None,
        crop_share: float = CROP_SHARE,
    ) -> None:
        shape = (channels, *sides(image_size))
        super().__init__(items, rows, labels, class_names, shape, name, split, report, paths)
        self.crop_share = crop_share
        self.checked = False

    def readable(self) -> tuple[ImageSet, torch.Tensor]:
        """As for any set; an image takes a tenth of the time of decoding it."""
        if self.checked:
            return super().readable()
        places = self._sound_places(self.items.check)
        sound = self.subset(places)
        sound.checked = True
        return sound, places

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        channels, size = self.image_shape[0], self.image_shape[1:]
        row, label = int(self.rows[i]), int(self.labels[i])
        image = evaluation_view(self.items.image(row, least=least_side(size)), size, self.crop_share)
        return to_tensor(image, channels), label

    def uncropped(self, i: int) -> Any:
        """As for any set; the whole image, of twice the size of the view or more."""
        return self.items.image(int(self.rows[i]), least=least_side(self.image_shape[1:]))

    def batches(self, batch_size: int, workers: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield (uint8 [B, C, H, W], long [B]) in the order of the set, decoded by `workers` processes.

        Raises:
            UnreadableImage: an image that could be read when the set was loaded no longer can.
        """
        loader = DataLoader(
            _Caught(self),
            batch_size,
            num_workers=workers,
            collate_fn=_collate_caught,
            generator=generator(0),  # else the loader draws from torch's global generator
            pin_memory=torch.cuda.is_available(),
        )
        for batch in loader:
            if isinstance(batch, UnreadableImage):
                raise DataError(
                    f"{batch}\nIt could be read when the set was loaded. Repair or remove the file and start again."
                )
            yield batch


class _Caught(Dataset):
    """A set whose unreadable images are handed over as errors: a worker's exception loses its words."""

    def __init__(self, images: FileSet) -> None:
        self._images = images

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int] | UnreadableImage:
        try:
            return self._images[i]
        except UnreadableImage as error:
            return error


def _collate_caught(
    samples: list[tuple[torch.Tensor, int] | UnreadableImage],
) -> tuple[torch.Tensor, torch.Tensor] | UnreadableImage:
    """Return a batch (images [B, C, H, W], labels [B]), or the first error among its samples."""
    sound = []
    for sample in samples:
        if isinstance(sample, UnreadableImage):
            return sample
        sound.append(sample)
    return torch.stack([image for image, _ in sound]), torch.tensor([label for _, label in sound])


class Undecoded(EncodedSet):
    """Images of up to 64 px of which only the headers were read, of sets of which it is not known yet what is needed.

    `subset` decodes nothing; `readable` gives the TensorSet that loading with `decode` would have given.
    """

    def readable(self) -> tuple[TensorSet, torch.Tensor]:
        """As for any set; they are decoded into memory."""
        images = torch.empty((len(self), *self.image_shape), dtype=torch.uint8)
        free = iter(images)

        def read(row: int) -> None:
            image, _ = small_image(self.items, row, self.image_shape)
            next(free).copy_(image)

        places = self._sound_places(read)
        sound = self.subset(places)
        decoded = TensorSet(
            images[: len(places)], sound.labels, self.class_names, self.name, self.split, self.report, sound.paths
        )
        decoded.mirror, decoded.origin = self.mirror, self.origin
        decoded.source = (sound.keys(), ENCODED) if self.keys_of == ENCODED else None
        return decoded, places

    def decoded(self) -> TensorSet:
        """The images that can be read, in memory."""
        return self.readable()[0]

    def fingerprint(self) -> str:
        """Return that of the decoded set."""
        return self.decoded().fingerprint()

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        image, _ = small_image(self.items, int(self.rows[i]), self.image_shape)
        return image, int(self.labels[i])


def small_image(
    items: Items, i: int, shape: tuple[int, int, int], traits: list[str] | None = None
) -> tuple[torch.Tensor, tuple[int, ...]]:
    """(image i as uint8 of `shape` (C, H, W), the shape that it was stored in).

    Raises:
        UnreadableImage: it cannot be decoded.
    """
    from torchvision.transforms.v2 import functional as v2

    image = items.small(i, traits)
    stored = tuple(image.shape)
    if stored[1:] == shape[1:]:
        return convert_channels(image, shape[0]), stored
    # As larger images and those of `kedge predict` are: PIL's view, then the channels.
    return to_tensor(evaluation_view(v2.to_pil_image(image), shape[1:]), shape[0]), stored

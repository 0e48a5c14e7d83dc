"""Sets of small images that are decoded when it is known which of them are wanted."""

from collections.abc import Iterator, Sequence

import torch

from kedge.data.decode import convert_channels, evaluation_view, to_tensor
from kedge.data.items import ENCODED, Items
from kedge.data.reading import sound_places
from kedge.data.report import LoadReport
from kedge.data.sets import ImageSet, TensorSet


def small_image(items: Items, i: int, shape: tuple[int, int, int]) -> tuple[torch.Tensor, tuple[int, ...]]:
    """(image i as uint8 of `shape` (C, H, W), the shape that it was stored in).

    Raises:
        UnreadableImage: it cannot be decoded.
    """
    image = items.small(i)
    stored = tuple(image.shape)
    image = convert_channels(image, shape[0])
    if image.shape[1:] != shape[1:]:
        image = _fit(image, (shape[1], shape[2]))
    return image, stored


def encoded_keys(items: Items, rows: torch.Tensor) -> tuple[list[bytes], str] | None:
    """Keys of the encoded images at `rows`, for `TensorSet.source`; None where reading them would decode them again."""
    return (items.keys(rows), ENCODED) if items.keys_of == ENCODED else None


def _fit(image: torch.Tensor, target: tuple[int, int]) -> torch.Tensor:
    if target[0] == target[1]:
        return to_tensor(evaluation_view(image, target[0]))
    from torchvision.transforms.v2 import functional as v2  # a stray image in a set of oblong ones

    return v2.resize(image, list(target), antialias=True)


class Undecoded(ImageSet):
    """Images of up to 64 px of which only the headers were read.

    `subset` decodes nothing; `readable` gives the TensorSet that loading with `decode` would have given.

    Attributes:
        items: the encoded images.
        rows: long [N], the position of each image among them.
    """

    def __init__(
        self,
        items: Items,
        rows: torch.Tensor,
        labels: torch.Tensor,
        class_names: list[str],
        image_shape: tuple[int, int, int],
        name: str,
        split: str,
        report: LoadReport,
        paths: Sequence[str] | None = None,
    ) -> None:
        super().__init__(name, split, class_names, labels, image_shape, report, paths)
        self.items, self.rows = items, rows

    def readable(self) -> tuple[TensorSet, torch.Tensor]:
        """As for any set; they are decoded into memory."""
        images = torch.empty((len(self), *self.image_shape), dtype=torch.uint8)
        free = iter(images)

        def read(row: int) -> None:
            image, _ = small_image(self.items, row, self.image_shape)
            next(free).copy_(image)

        places = sound_places(self, read)
        images, labels, paths = images[: len(places)], self.labels[places], self._paths_at(places)
        made = TensorSet(images, labels, self.class_names, self.name, self.split, self.report, paths)
        made.mirror, made.origin = self.mirror, self.origin
        made.source = encoded_keys(self.items, self.rows[places])
        return made, places

    def decoded(self) -> TensorSet:
        """The images that can be read, in memory."""
        return self.readable()[0]

    def keys(self, sampled: bool = False) -> list[bytes]:
        """Return one key for each image's encoded bytes, b"" for one that cannot be read."""
        return self.items.keys(self.rows)

    @property
    def keys_of(self) -> str:
        """What the source of the images says: as a rule encoded bytes."""
        return self.items.keys_of

    def fingerprint(self) -> str:
        """Return that of the decoded set."""
        return self.decoded().fingerprint()

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        image, _ = small_image(self.items, int(self.rows[i]), self.image_shape)
        return image, int(self.labels[i])

    def batches(self, batch_size: int, workers: int = 0) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Yield (uint8 [B, C, H, W], long [B]) in the order of the set, each batch decoded as it is asked for."""
        for start in range(0, len(self), batch_size):
            chosen = range(start, min(start + batch_size, len(self)))
            yield torch.stack([self[i][0] for i in chosen]), self.labels[start : start + batch_size]

    def _select(self, index: torch.Tensor) -> "Undecoded":
        return Undecoded(
            self.items,
            self.rows[index],
            self.labels[index],
            self.class_names,
            self.image_shape,
            self.name,
            self.split,
            self.report,
            self._paths_at(index),
        )

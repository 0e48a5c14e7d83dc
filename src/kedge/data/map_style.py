"""from_dataset(): from any map-style data set of (image, label) to an image set."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from kedge.checks import whole_labels
from kedge.data.build import Listing, build
from kedge.data.decode import DAMAGED, Size, to_tensor
from kedge.data.items import PixelItems
from kedge.data.labels import names_of
from kedge.data.report import DataError, UnreadableImage
from kedge.data.sets import ImageSet
from kedge.data.tables import dataset_listing

_COMPARED = 64  # items whose labels are compared with what the data set states


def from_dataset(
    dataset: Any,
    class_names: list[str] | None = None,
    name: str = "custom",
    image_size: Size | None = None,
    channels: int | None = None,
) -> ImageSet:
    """Wrap any map-style data set of (image, label), or a Hugging Face `Dataset` with image and label columns.

    Images are PIL, uint8 or float [0, 1] tensors [C, H, W], or arrays [H, W, C]. Images of up to 64 px are decoded
    once into a TensorSet; larger ones are read from `dataset` each time. Labels are those of the items: taken from
    `dataset.targets` or `dataset.labels` where some items agree with it and there is no `target_transform`, else from
    one pass over the data set. Each item is compared with its label whenever it is read.

    Args:
        dataset: with len() and [i].
        class_names: in the order of the labels, and where a Hugging Face `Dataset` has text labels, what these are
            looked up in; None takes `dataset.classes`, else the numbers or the texts.
        name: for reports.
        image_size: as for `load`.
        channels: as for `load`.

    Raises:
        DataError: an empty data set, a stream, several data sets, labels that are no whole numbers or outside
            `class_names`, or an item, now or later, with another label than `dataset.targets` says.
    """
    _check_map_style(dataset, name)
    if len(dataset) == 0:
        raise DataError(f"{name}: the data set is empty")
    if hasattr(dataset, "column_names") and hasattr(dataset, "cast_column"):
        return build(dataset_listing(dataset, name, "all", class_names), image_size, channels)
    labels = _labels_of(dataset, name)
    if class_names is None and (classes := getattr(dataset, "classes", None)):
        class_names = [str(c) for c in classes]
    names, numbers = names_of(labels, class_names, name), labels.tolist()
    items = _DatasetItems(dataset, name, numbers)
    return build(Listing(items, numbers, names, name, "all", has_paths=False), image_size, channels)


def _check_map_style(dataset: Any, name: str) -> None:
    """Raise DataError for several data sets at once, and for one that only gives its items in turn."""
    if isinstance(dataset, Mapping) and hasattr(dataset, "cast_column"):
        raise DataError(f"{name}: these are several data sets, {', '.join(map(str, dataset))}: give one of them")
    if isinstance(dataset, torch.utils.data.IterableDataset) or not hasattr(dataset, "__len__"):
        raise DataError(
            f"{name}: a {type(dataset).__name__} gives its items in turn, and cannot be counted, divided or shuffled: "
            "kedge.data.from_stream makes training images of one of Hugging Face; else load it without streaming=True, "
            "or take a part of it, such as "
            "datasets.Dataset.from_list(list(stream.take(10000)), features=stream.features)"
        )


def _labels_of(dataset: Any, name: str) -> torch.Tensor:
    try:
        for attribute in ("targets", "labels"):
            stated = getattr(dataset, attribute, None)
            if stated is not None and len(stated) == len(dataset) and _agrees(dataset, stated):
                return whole_labels(stated, name)
        first = dataset[0]
        if isinstance(first, tuple | list) and len(first) > 1:
            return whole_labels([dataset[i][1] for i in range(len(dataset))], name)
    except ValueError as error:
        raise DataError(str(error)) from None
    raise DataError(f"{name}: an item is a {type(first).__name__}, not a pair (image, label): labels are needed")


def _agrees(dataset: Any, stated: Any) -> bool:
    """Whether items have the labels that an attribute of their data set states, as far as some of them tell.

    A `target_transform` changes what the items say and not the attribute; a wrapper may pass on a stale one.
    """
    if getattr(dataset, "target_transform", None) is not None:
        return False
    for i in range(0, len(dataset), max(1, len(dataset) // _COMPARED)):
        try:
            item = dataset[i]
        except DAMAGED:  # an image that cannot be read tells nothing
            continue
        own = item[1] if len(item) > 1 else stated[i]
        if bool(getattr(own, "ndim", 0)) or own != stated[i]:
            return False
    return True


class _DatasetItems(PixelItems):
    """The images of a map-style data set of (image, label), whose labels are compared with `labels` when read."""

    def __init__(self, dataset: Any, origin: str, labels: Sequence[int]) -> None:
        self._dataset = dataset
        self._origin = origin
        self._labels = labels

    def __len__(self) -> int:
        return len(self._dataset)

    def name(self, i: int) -> str:
        return f"{self._origin}:{i}"

    def origin(self, i: int) -> tuple[str, tuple[int, int], int | None]:
        image = self.image(i)
        if isinstance(image, Image.Image):
            return image.format or "array", (image.height, image.width), None  # PIL may remember a file's
        return "array", (image.shape[1], image.shape[2]), None

    def image(self, i: int, least: int | None = None) -> Image.Image | torch.Tensor:
        try:
            item = self._dataset[i]
        except DAMAGED as error:
            raise UnreadableImage(self.name(i), str(error) or type(error).__name__) from None
        image = item[0]
        if len(item) > 1 and item[1] != self._labels[i]:
            raise DataError(
                f"{self.name(i)}: the item has label {item[1]!r}, but {self._labels[i]} was taken for it (from the "
                "data set's targets or labels, or when it was read before): these must agree, and stay as they are"
            )
        return image if isinstance(image, Image.Image) else to_tensor(image)

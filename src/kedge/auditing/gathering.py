"""All images of a data set in one list, whatever part they lie in, with those that cannot be read named."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from kedge.data import DataError, FileSet, ImageSet, TensorSet, is_stream
from kedge.data.build import Listing
from kedge.data.decode import SMALL, convert_channels, evaluation_view, to_tensor
from kedge.data.file_sets import small_image
from kedge.data.fingerprints import key_of_pixels
from kedge.data.image_files import about_unread, files_under, is_flat
from kedge.data.items import FileItems, Items
from kedge.data.sources import Arrays, resolve

__all__ = ["Part", "Pool", "gather"]

NO_LABELS = "unlabelled"


@dataclass(frozen=True)
class Part:
    """Images of one part of the data.

    Attributes:
        split: "train", "val", "test" or "all".
        source: the encoded images, or a set in memory where there are no files.
        labels: long `[N]`, of the classes of the pool.
    """

    split: str
    source: Items | TensorSet
    labels: Tensor

    def name(self, i: int) -> str:
        """The file of image i, or what it is called without one."""
        if isinstance(self.source, TensorSet):
            return f"{self.source.name}:{self.split}:{i}"
        return self.source.name(i)

    def image(self, i: int, least: int) -> Image.Image:
        """Image i, a JPEG decoded no smaller than `least`; UnreadableImage if it cannot be."""
        if isinstance(self.source, TensorSet):
            return _picture(self.source.images[i])
        image = self.source.image(i, least)
        return image if isinstance(image, Image.Image) else _picture(image)

    def stored(self, i: int) -> tuple[int, int]:
        """(height, width) of image i as it is stored."""
        if isinstance(self.source, TensorSet):
            height, width = self.source.images.shape[2:]
            return height, width
        return self.source.header(i)[0]

    def key(self, i: int) -> bytes:
        """What a run keeps of an image that it trained on."""
        return key_of_pixels(self.source.images[i]) if isinstance(self.source, TensorSet) else self.source.key(i)

    def digest(self, i: int) -> bytes:
        """The same for images that are equal bit for bit, and for no others."""
        return self.key(i) if isinstance(self.source, TensorSet) else self.source.digest(i)

    def in_shape(self, rows: Sequence[int], classes: Sequence[str], shape: tuple[int, int, int]) -> ImageSet:
        """The images at `rows` as a set of one shape (C, H, W), in memory up to 64 px."""
        channels, height, width = shape
        labels = self.labels[list(rows)]
        if isinstance(self.source, TensorSet):
            images = self.source.images[list(rows)]
            if images.shape[2:] != (height, width):
                images = torch.stack([to_tensor(evaluation_view(image, (height, width))) for image in images])
            return TensorSet(convert_channels(images, channels), labels, classes)
        if max(height, width) > SMALL:
            files = FileSet(self.source, torch.tensor(rows), labels, classes, channels, (height, width))
            files.checked = True
            return files
        small = torch.stack([small_image(self.source, i, shape)[0] for i in rows])
        return TensorSet(small, labels, classes)


@dataclass(frozen=True)
class Pool:
    """Images of all parts that can be read, in a row.

    Attributes:
        name: of the data.
        parts: where they come from.
        class_names: of the labels.
        unreadable: (file, reason) of each image that cannot be read.
        places: (part, row in it) of each image.
        notes: what else a person should know.
    """

    name: str
    parts: tuple[Part, ...]
    class_names: tuple[str, ...]
    unreadable: tuple[tuple[str, str], ...]
    places: tuple[tuple[int, int], ...]
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.places)

    @cached_property
    def labels(self) -> Tensor:
        """Long `[N]`."""
        return torch.tensor([int(self.parts[p].labels[row]) for p, row in self.places], dtype=torch.long)

    @cached_property
    def splits(self) -> list[str]:
        """The part of each image."""
        return [self.parts[p].split for p, _ in self.places]

    @property
    def labelled(self) -> bool:
        """Whether the images have classes at all."""
        return self.class_names != (NO_LABELS,)

    @property
    def about(self) -> str:
        """How many images of which parts and how many classes, in words."""
        parts = {split: self.splits.count(split) for split in dict.fromkeys(self.splits)}
        divided = (
            "" if [*parts] == ["all"] else f" ({', '.join(f'{count:,} {split}' for split, count in parts.items())})"
        )
        images, classes = len(self), len(self.class_names)
        return (
            f"{images:,} image{'s' * (images != 1)}{divided}"
            + f", {classes:,} class{'es' * (classes != 1)}" * self.labelled
        )

    def file(self, i: int) -> str:
        """The file of image i, or what it is called."""
        part, row = self.places[i]
        return self.parts[part].name(row)

    def without(self, damaged: dict[int, str]) -> "Pool":
        """The pool without images that turned out damaged, {place: reason}."""
        more = tuple((self.file(i), reason) for i, reason in sorted(damaged.items()))
        left = tuple(place for i, place in enumerate(self.places) if i not in damaged)
        return Pool(self.name, self.parts, self.class_names, self.unreadable + more, left, self.notes)

    def sets(self, shape: tuple[int, int, int]) -> list[ImageSet]:
        """The images as a set for each part, in a model's shape."""
        rows = [[row for p, row in self.places if p == number] for number in range(len(self.parts))]
        return [part.in_shape(own, self.class_names, shape) for part, own in zip(self.parts, rows, strict=True) if own]


def gather(data: str, val: str | None = None, test: str | None = None) -> Pool:
    """List the images of all parts of a data set, or of a folder and those for validation and test beside it.

    Args:
        data: a folder or name as `kedge.data.load` takes it; a folder of images and no folders has no classes.
        val: another folder or set, of validation images.
        test: another, of test images.

    Raises:
        DataError: not there, no images, a set that is read in turn, a part named twice, or classes that one part has
            and the training images lack.
    """
    listings = _listings(data)
    for name, split in ((val, "val"), (test, "test")):
        if name is not None:
            listings.append(_one_listing(name, split))
    splits = [listing.split for listing in listings]
    if twice := {split for split in splits if splits.count(split) > 1}:
        raise DataError(f"{data} has a part {sorted(twice)[0]!r} of its own: leave out --{sorted(twice)[0]}")
    classes, parts = listings[0].class_names, []
    for listing in listings:
        if unknown := sorted(set(listing.class_names) - set(classes)):
            raise DataError(
                f"{listing.split!r} has classes that {splits[0]!r} lacks: {', '.join(unknown[:8])}. The folders of all "
                "parts need the same names"
            )
        relabel = torch.tensor([classes.index(name) for name in listing.class_names])
        source = listing if isinstance(listing, TensorSet) else listing.items
        parts.append(Part(listing.split, source, relabel[torch.as_tensor(listing.labels, dtype=torch.long)]))
    listed = [each for each in listings if isinstance(each, Listing)]
    refusals = ["; ".join(each.refusal.splitlines()) for each in listed if each.refusal is not None]
    notes = dict.fromkeys([*refusals, *(note for each in listed for note in each.notes)])
    places = tuple((number, row) for number, part in enumerate(parts) for row in range(len(part.labels)))
    if not places:
        raise DataError(f"{data} holds no images")
    return Pool(listings[0].name, tuple(parts), tuple(classes), (), places, tuple(notes))


def _listings(data: str) -> list[Listing | TensorSet]:
    """What each part of a data set lists; small sets that are made here come as they are."""
    if is_stream(data):
        raise DataError(f"{data} is read in turn, and an audit compares every image with every other: give it as files")
    if is_flat(folder := Path(data).expanduser()):
        paths, others = files_under(folder)
        notes = about_unread(others)
        return [Listing(FileItems(paths), [0] * len(paths), [NO_LABELS], folder.resolve().name, "all", notes)]
    source = resolve(data)
    if isinstance(source, Arrays):
        return [source.load(split, None, None) for split in source.splits]
    return [source.listing(split) for split in source.splits]


def _one_listing(data: str, split: str) -> Listing | TensorSet:
    """The images of a further folder or set, as the part `split`: its part of that name, or all that it has."""
    listings = _listings(data)
    own = next((each for each in listings if each.split == split), listings[-1])
    if own.class_names == [NO_LABELS]:
        raise DataError(f"--{split} {data} holds images but no class folders: make a folder for each class")
    if len(listings) > 1 and own.split != split:
        raise DataError(
            f"--{split} {data} has the parts {', '.join(each.split for each in listings)}: name one of them"
        )
    own.split = split
    return own


def _picture(image: Tensor) -> Image.Image:
    """A uint8 tensor [C, H, W] as a PIL image."""
    return Image.fromarray(image[0].numpy() if len(image) == 1 else image.permute(1, 2, 0).numpy())

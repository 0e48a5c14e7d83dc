"""Published sets of shifted images, read from where they were unpacked: nothing is generated or downloaded here.

CIFAR-10-C, CIFAR-100-C, ImageNet-C (Hendrycks & Dietterich 2019), ImageNet-C-bar (Mintun et al. 2021), CIFAR-10.1 and
ImageNet-V2 (Recht et al. 2018, 2019), ImageNet-Sketch (Wang et al. 2019), ImageNet-R and -A (Hendrycks et al. 2021).
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from kedge.data.build import Listing, build
from kedge.data.decode import CROP_SHARE, Size
from kedge.data.folders import pack
from kedge.data.formats import EXTENSIONS
from kedge.data.image_files import about_unread, files_under, subfolders
from kedge.data.items import FileItems
from kedge.data.label_spaces import CIFAR10, WNID, class_mask, classes_of, imagenet, published_wnids
from kedge.data.published_arrays import ArrayItems, Rows, array_layout, read_cifar_10_1, read_cifar_c
from kedge.data.published_notes import (
    C_BAR,
    SEVERITIES,
    about_class_folders,
    about_classes,
    about_corruptions,
    about_severities,
    few,
)
from kedge.data.report import DataError
from kedge.data.sets import ImageSet

Condition = tuple[str, int | None]
_NUMBER = re.compile(r"\d+(\.\d+)?")
_LAYOUTS = (
    "labels.npy with <corruption>.npy (CIFAR-10-C, CIFAR-100-C); cifar10.1_v6_data.npy with cifar10.1_v6_labels.npy; "
    "<corruption>/<severity>/<wnid>/*.JPEG, in folders of families or not (ImageNet-C, ImageNet-C-bar); <wnid>/* "
    "(ImageNet-R, -A, -Sketch); 0/* to 999/* (ImageNet-V2)"
)


@dataclass
class PublishedSet:
    """A published set of shifted images.

    Attributes:
        name: "CIFAR-10-C", "ImageNet-R", ...; the folder's name for a set that is not known.
        kind: "corruptions" (the same images under several conditions) or "renditions" (other images of the classes).
        conditions: (name, severity) in order; the severity is None for renditions.
        class_names: of the classes that occur; labels are positions among them.
        classes: long, the positions of these classes among all of the benchmark's; None where all occur. Of ImageNet's
            they are what the published protocols restrict a model's answers to: `logits[:, mask]` before the softmax.
        notes: what a person should know, such as missing classes.
        space: every class of the benchmark, in the usual order.
    """

    name: str
    kind: str
    conditions: list[Condition]
    class_names: list[str]
    space: Sequence[str]
    notes: list[str] = field(default_factory=list)
    crop_share: float = CROP_SHARE
    places: dict[Condition, Rows | Path] = field(default_factory=dict, repr=False)

    @property
    def classes(self) -> torch.Tensor | None:
        """See above."""
        return class_mask(self.class_names, self.space, None, len(self.space))

    def mask_for(self, class_names: Sequence[str] | None = None, num_outputs: int | None = None) -> torch.Tensor | None:
        """Where a model has this set's classes: `logits[:, mask]` has them in the order of the labels.

        Args:
            class_names: the model's: ImageNet's WordNet identifiers or English names, or CIFAR's names, in any
                order and among others; or numbers, places in the usual order. None takes the usual order.
            num_outputs: the model's, needed where it has no class names.

        Returns:
            long `[len(self.class_names)]`, or None where the model's outputs are just these classes in this order.

        Raises:
            DataError: it is not known which output is which class, or the model lacks some.
        """
        try:
            return class_mask(self.class_names, self.space, class_names, num_outputs)
        except DataError as error:
            raise DataError(f"{self.name}: {error}") from None

    def load(
        self,
        condition: Condition | None = None,
        image_size: Size | None = None,
        channels: int | None = None,
        decode: bool = True,
    ) -> ImageSet:
        """The images of one condition; None for the only one.

        Args:
            condition: one of `conditions`.
            image_size: side in pixels, as for `kedge.data.load`. ImageNet-C's images were cropped when they were
                made, so they are only resized, and at 224 not touched.
            channels: as for `kedge.data.load`.
            decode: as for `kedge.data.load`.

        Raises:
            DataError: an unknown condition, no images, or more than 1 % of them unreadable.
        """
        if condition is None and len(self.conditions) == 1:
            (condition,) = self.conditions
        if condition not in self.places:
            known = ", ".join(map(_words, self.conditions[:8])) + (", ..." if len(self.conditions) > 8 else "")
            lacks = "several conditions: say which" if condition is None else f"no condition {_words(condition)}"
            raise DataError(f"{self.name} has {lacks}; there are {known}")
        place, split = self.places[condition], _words(condition)
        if isinstance(place, Rows):
            listing = Listing(ArrayItems(place), place.labels, self.class_names, self.name, split)
        else:
            paths, labels, notes = _listed(place, self.class_names)
            listing = Listing(FileItems(paths), labels, self.class_names, self.name, split, notes)
        return build(listing, image_size, channels, self.crop_share, decode)


def published(path: str | os.PathLike[str]) -> PublishedSet:
    """Read what a folder holds, by its content; images are decoded only by `load`.

    Args:
        path: the unpacked folder, or its name in $KEDGE_DATA.

    Raises:
        DataError: not a layout that is known, labels or images missing, damaged files.
    """
    root = _located(path)
    layout = array_layout(root)
    if layout == "cifar-c":
        name, rows, class_names, notes = read_cifar_c(root)
        return PublishedSet(name, "corruptions", list(rows), list(class_names), class_names, notes, places={**rows})
    if layout == "cifar-10.1":
        rows = read_cifar_10_1(root)
        return PublishedSet("CIFAR-10.1", "renditions", list(rows), list(CIFAR10), CIFAR10, places={**rows})
    places = _class_folders(root)
    if not places:
        raise DataError(f"{root} holds no published set that is known; expected one of: {_LAYOUTS}")
    return _imagenet(root, places)


def is_published(path: str | os.PathLike[str]) -> bool:
    """Whether a folder (or a name in $KEDGE_DATA) holds a set that `published` reads, judged by its files' names."""
    try:
        root = _located(path)
    except DataError:
        return False
    return array_layout(root) is not None or bool(_class_folders(root))


def looks_corrupted(root: Path) -> bool:
    """Whether a folder looks like CIFAR-10-C or ImageNet-C at a glance: what no image folder should be taken for."""
    place = root
    for _ in range(4):
        inside = _folders(place)
        if not inside:
            return place == root and array_layout(root) is not None
        if _NUMBER.fullmatch(place.name) and WNID.fullmatch(inside[0]):
            return place != root
        place /= inside[0]
    return False


def _located(path: str | os.PathLike[str]) -> Path:
    if not os.fspath(path).strip():
        raise DataError("the folder's name is empty: give the unpacked folder of a published set")
    root = Path(path).expanduser()
    if not root.exists():
        root = pack(path) or root
    if not root.is_dir():
        raise DataError(f"{os.fspath(path)!r} is not a folder: give the unpacked folder of a published set")
    return root


def _folders(root: Path) -> list[str]:
    try:
        return [folder.name for folder in subfolders(root)]
    except OSError:
        return []


def _class_folders(root: Path, depth: int = 3) -> dict[tuple[str, ...], Path]:
    """Every folder, up to three below `root`, whose folders are classes, by its path in parts."""
    inside = _folders(root)
    if any(WNID.fullmatch(name) for name in inside) or _are_indices(root, inside):
        return {(): root}
    if depth == 0:
        return {}
    return {(name, *parts): place for name in inside for parts, place in _class_folders(root / name, depth - 1).items()}


def _are_indices(root: Path, inside: list[str]) -> bool:
    """Whether these are ImageNet-V2's folders: other data has numbered folders too, but hardly this many."""
    if not inside or not all(name.isdecimal() and int(name) < 1000 for name in inside):
        return False
    return len(inside) > 500 or "v2" in root.resolve().name.lower()


def _imagenet(root: Path, places: dict[tuple[str, ...], Path]) -> PublishedSet:
    corrupted = {parts: place for parts, place in places.items() if parts and _NUMBER.fullmatch(parts[-1])}
    if corrupted:
        notes = []
        if others := ["/".join(parts) for parts in places if parts not in corrupted]:
            notes.append(f"class folders that are no corruption's at a severity are left out: {few(others)}")
        return _corrupted(root, corrupted, notes)
    if len(places) > 1:
        several = ", ".join("/".join(parts) for parts in list(places)[:5])
        raise DataError(f"{root} holds several sets ({several}): give one of these folders")
    (place,) = places.values()
    wnids = classes_of({place: _folders(place)})
    name = _rendition(place, wnids)
    conditions: dict[Condition, Rows | Path] = {(name, None): place}
    notes = about_classes(name, len(wnids))
    return PublishedSet(name, "renditions", list(conditions), wnids, imagenet(), notes, places=conditions)


def _corrupted(root: Path, places: dict[tuple[str, ...], Path], notes: list[str]) -> PublishedSet:
    """ImageNet-C and its like, of folders whose last part is a severity."""
    levels: dict[str, dict[str, Path]] = {}
    for parts, place in places.items():
        corruption = parts[-2] if len(parts) > 1 else root.resolve().name
        own = levels.setdefault(corruption, {})
        if twice := [level for level in own if float(level) == float(parts[-1])]:
            raise DataError(f"{corruption} severity {parts[-1]} is there twice: {own[twice[0]]} and {place}")
        own[parts[-1]] = place
    conditions: dict[Condition, Path] = {}
    by_rank = {}
    for corruption, own in levels.items():
        rising = sorted(own, key=float)
        # ImageNet-C-bar as its own program writes it has folders named after the parameter: 2.00, 3.50, ... A whole
        # number may be among them, so each corruption has either severities or parameters.
        if all(level.isdecimal() and 1 <= int(level) <= SEVERITIES for level in rising):
            conditions |= {(corruption, int(level)): own[level] for level in rising}
        else:
            by_rank[corruption] = rising
            conditions |= {(corruption, rank): own[level] for rank, level in enumerate(rising, 1)}
    tiny = "tiny" in root.resolve().name.lower()
    name = "Tiny-ImageNet-C" if tiny else "ImageNet-C-bar" if set(C_BAR) & set(levels) else "ImageNet-C"
    folders = {condition: _folders(place) for condition, place in conditions.items()}
    wnids = classes_of({conditions[condition]: inside for condition, inside in folders.items()})
    notes += about_classes(name, len(wnids))
    notes += about_corruptions(name, list(levels))
    notes += about_severities(list(conditions), by_rank)
    notes += about_class_folders({_words(condition): inside for condition, inside in folders.items()})
    about = ("corruptions", list(conditions), wnids, imagenet(), notes)
    return PublishedSet(name, *about, crop_share=1.0, places={**conditions})


def _rendition(place: Path, wnids: list[str]) -> str:
    folder = place.resolve().name
    if all(map(str.isdecimal, _folders(place))):
        return "ImageNet-V2"
    for pattern, name in ((r"[-_]?r", "ImageNet-R"), (r"[-_]?a", "ImageNet-A"), (r"[-_]?v2.*", "ImageNet-V2")):
        if re.fullmatch(rf"imagenet{pattern}", folder, re.IGNORECASE):
            return name
    if "sketch" in folder.lower():
        return "ImageNet-Sketch"
    for letter in "ra":
        if set(wnids) == published_wnids(letter):
            return f"ImageNet-{letter.upper()}"
    first = next((place / wnids[0]).glob("sketch_*.JPEG"), None)
    return "ImageNet-Sketch" if first is not None and len(wnids) == len(imagenet()) else folder


def _listed(place: Path, wnids: list[str]) -> tuple[list[str], list[int], list[str]]:
    """The image files of a folder of class folders, with labels, and notes on images of kinds that are not read."""
    folders = {imagenet()[int(name)] if name.isdecimal() else name: place / name for name in _folders(place)}
    paths: list[str] = []
    labels: list[int] = []
    unread: list[str] = []
    for label, wnid in enumerate(wnids):
        files, others = files_under(folders.get(wnid, place / wnid))
        paths += files
        unread += others
        labels += [label] * len(files)
    if not paths:
        raise DataError(f"no images under {place}: its class folders hold no {', '.join(EXTENSIONS[:4])}, ...")
    # Below the folder: what is said of all severities is one sentence then, and results that are shared name no home.
    return paths, labels, about_unread([os.path.relpath(path, place) for path in unread])


def _words(condition: Condition) -> str:
    name, severity = condition
    return name if severity is None else f"{name} {severity}"

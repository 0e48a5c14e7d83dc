"""The classes that published sets are labelled with, and where a model has them among its outputs.

ImageNet's thousand classes are known by their WordNet identifiers ("n01440764"), which timm lists in the order that
every published ImageNet model uses: that of the identifiers.
"""

import functools
import pkgutil
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch

from kedge.data.published_notes import few
from kedge.data.report import DataError

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR100 = tuple(
    """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
    man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
    pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
    skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
    tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm""".split()  # noqa: SIM905
)
WNID = re.compile(r"n\d{8}")
_IN_PLACE = 0.9  # of a thousand names that must be ImageNet's at their place for the list to be in its order


@functools.cache
def imagenet() -> tuple[str, ...]:
    """The WordNet identifiers of ImageNet's 1000 classes, in the order of a model's outputs."""
    from timm.data import ImageNetInfo

    return tuple(ImageNetInfo("imagenet-1k").label_names())


@functools.cache
def published_wnids(which: str) -> frozenset[str]:
    """The classes of ImageNet-"r" or ImageNet-"a", as timm lists them; empty if it does not."""
    try:
        text = pkgutil.get_data("timm.data", f"_info/imagenet_{which}_synsets.txt")
    except OSError:
        text = None
    return frozenset((text or b"").decode().split())


def classes_of(folders: Mapping[Path, Sequence[str]]) -> list[str]:
    """The identifiers of the class folders in any of these places, in ImageNet's order.

    Folders called by numbers, 0 to 999, are positions in it.

    Raises:
        DataError: folders that are no classes of ImageNet, or two in one place that are one number.
    """
    names = {name for inside in folders.values() for name in inside}
    if are_numbers(names):
        for place, inside in folders.items():
            if len({int(name) for name in inside}) < len(inside):
                raise DataError(f"{place}: two class folders are one number, such as 7 and 07: keep one of them")
        numbers = sorted({int(name) for name in names})
        if numbers[-1] >= len(imagenet()):
            raise DataError(f"{next(iter(folders))}: there is no class {numbers[-1]} among ImageNet's, 0 to 999")
        return [imagenet()[i] for i in numbers]
    if strange := sorted(names.difference(imagenet())):
        raise DataError(
            f"{next(iter(folders))}: {len(strange)} of {len(names)} class folders are not among ImageNet's 1000 "
            f"classes, such as {few(strange)}"
        )
    return sorted(names)


def among_imagenet(names: Sequence[str]) -> tuple[dict[str, int], list[str]]:
    """(name to the ImageNet class that it means, names that mean none or several), of WordNet identifiers and English.

    "n01440764", "tench" and "tench, Tinca tinca" mean class 0; "crane" is a bird and a machine.
    """
    known = _names_of(imagenet())
    meant = {name: known.get(_plain(name), ()) for name in names}
    return {n: m[0] for n, m in meant.items() if len(m) == 1}, [n for n, m in meant.items() if len(m) != 1]


def class_mask(
    classes: Sequence[str], space: Sequence[str], class_names: Sequence[str] | None, num_outputs: int | None
) -> torch.Tensor | None:
    """Where a model has some classes: long `[len(classes)]`, or None where its outputs are just these in order.

    Args:
        classes: of a data set, taken from `space`.
        space: every class of the benchmark, in the usual order: `CIFAR10`, `CIFAR100`, `imagenet()`.
        class_names: of the model: those of the space in any order, among others or not. For ImageNet, WordNet
            identifiers or English names ("tench", "tench, Tinca tinca"). Numbers from 0, one for each class of the
            space, are places in the usual order. None takes the usual order if `num_outputs` is the size of the space.
        num_outputs: of the model.

    Raises:
        DataError: the model does not have all of `classes`, or it is not known which output is which class.
    """
    if class_names is None:
        if num_outputs != len(space):
            raise DataError(
                f"the model has {num_outputs} outputs and no class names, so it is not known which of them are the "
                f"data's {len(classes)} classes (with {len(space)} outputs the usual order is taken). "
                "Set model.class_names"
            )
        where = {name: i for i, name in enumerate(space)}
        outputs_of = [where[name] for name in classes]
        width = len(space)
    else:
        if num_outputs is not None and num_outputs != len(class_names):
            raise DataError(f"the model has {num_outputs} outputs but {len(class_names)} class names")
        of = _by_number if are_numbers(class_names) else _by_name
        outputs_of, width = of(classes, space, class_names), len(class_names)
    return None if outputs_of == list(range(width)) else torch.tensor(outputs_of, dtype=torch.long)


def are_numbers(class_names: Collection[str]) -> bool:
    """Whether all classes are called by whole numbers."""
    return bool(class_names) and all(str(name).isdecimal() for name in class_names)


def about_numbers(class_names: Sequence[str], space: Sequence[str]) -> list[str]:
    """A sentence where classes are called by numbers, which are taken for those of a published `space`."""
    if not space or not are_numbers(class_names):
        return []
    return [
        "the classes are called by numbers, which are taken for places in the published order: "
        f"0 for {space[0]}, 1 for {space[1]}, ..., {len(space) - 1} for {space[-1]}. If they are other classes, what "
        "is measured on this set means nothing"
    ]


def _by_number(classes: Sequence[str], space: Sequence[str], class_names: Sequence[str]) -> list[int]:
    # Not by their places: folders called by numbers are sorted as text, and 10 comes before 2.
    outputs = {int(name): output for output, name in enumerate(class_names)}
    if len(class_names) != len(space) or sorted(outputs) != list(range(len(space))):
        raise DataError(
            f"the model's {len(class_names)} classes are called by numbers, {', '.join(class_names[:3])}, ..., which "
            f"stand for the published classes only where they are 0 to {len(space) - 1}, each once. Call the classes "
            f"by the published names, {', '.join(space[:3])}, ..., in the data and in model.class_names"
        )
    place = {name: i for i, name in enumerate(space)}
    return [outputs[place[name]] for name in classes]


def _by_name(classes: Sequence[str], space: Sequence[str], class_names: Sequence[str]) -> list[int]:
    known = _names_of(tuple(space))
    place = {name: i for i, name in enumerate(space)}
    if len(class_names) == len(space):
        in_place = sum(i in known.get(_plain(n), ()) for i, n in enumerate(class_names))
        # Names that can mean several classes, or none that is known, do not speak against the usual order.
        elsewhere = any(len(m := known.get(_plain(n), ())) == 1 and m[0] != i for i, n in enumerate(class_names))
        if not elsewhere and in_place >= (1.0 if len(space) < 1000 else _IN_PLACE) * len(space):
            return [place[name] for name in classes]
    outputs: dict[int, int] = {}
    for output, name in enumerate(class_names):
        meant = known.get(_plain(name), ())
        if len(meant) == 1:
            outputs.setdefault(meant[0], output)
    lacking = [name for name in classes if place[name] not in outputs]
    if lacking:
        example = ", ".join(lacking[:5]) + (", ..." if len(lacking) > 5 else "")
        raise DataError(
            f"the model lacks {len(lacking)} of the data's {len(classes)} classes, such as {example}\n"
            f"Its {len(class_names)} classes are called {', '.join(map(str, class_names[:5]))}, ...; "
            "expected the published names" + (", or WordNet identifiers (n01440764)" if len(space) == 1000 else "")
        )
    return [outputs[place[name]] for name in classes]


@functools.cache
def _names_of(space: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Every name in use for a class, plainly written, to the positions of the classes that it may mean."""
    meant: dict[str, tuple[int, ...]] = {}
    english: Sequence[str] = [""] * len(space)
    if len(space) == 1000:
        from timm.data import ImageNetInfo

        english = list(ImageNetInfo("imagenet-1k").label_descriptions())  # "tench, Tinca tinca"
    for i, (name, words) in enumerate(zip(space, english, strict=True)):
        for one in {_plain(n) for n in (name, words, *words.split(",")) if n.strip()}:
            meant[one] = (*meant.get(one, ()), i)
    return meant


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]+", " ", str(name).lower()).strip()

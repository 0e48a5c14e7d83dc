"""Shifted images: corruptions made here, and published sets read from disk."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from kedge.data.fingerprints import key_of_file
from kedge.evaluation.cache import digest
from kedge.evaluation.checks import limited
from kedge.evaluation.inference_runner import Part, identity

Condition = tuple[str, int]  # a corruption and its severity


@dataclass(frozen=True)
class Shifts:
    """What to shift the images by.

    Attributes:
        corruptions: names of those made here.
        published: published sets of corrupted images, which take their place.
        renditions: published sets of other images of the classes.
        conditions: every corruption at every severity.
    """

    corruptions: list[str]
    published: list[Any]
    renditions: list[Any]
    conditions: list[Condition]

    @property
    def source(self) -> str | None:
        """Where the corrupted images come from, for the report."""
        if self.published:
            return ", ".join(p.name for p in self.published)
        return "generated" if self.corruptions else None

    def names(self) -> list[str]:
        """The corruptions, each once, in order."""
        return list(dict.fromkeys(name for name, _ in self.conditions))


def shifts(wanted: Any, severities: Sequence[int]) -> Shifts:
    """Sort `wanted`: None (all nineteen corruptions), or a sequence of names, group words and published sets.

    Raises ValueError for an unknown name, and for corruptions made here beside published ones: their means would mix.
    """
    from kedge.data.corruptions import expand

    if wanted is None:
        wanted = ["corruptions"]
    each = [wanted] if isinstance(wanted, str) or hasattr(wanted, "conditions") else list(wanted)
    names = expand([word for word in each if isinstance(word, str)])
    sets = [given for given in each if not isinstance(given, str)]
    names_of_sets = [s.name for s in sets]
    if again := [name for name in names_of_sets if names_of_sets.count(name) > 1]:
        raise ValueError(f"two published sets are called {again[0]}: give one of them another name (its .name)")
    published = [s for s in sets if s.kind == "corruptions"]
    renditions = [s for s in sets if s.kind != "corruptions"]
    if names and published:
        raise ValueError(
            f"shift names corruptions made here ({', '.join(names[:3])}) and the published set {published[0].name}: "
            "a mean over both would mean nothing; evaluate twice"
        )
    chosen = sorted({int(s) for s in severities})
    conditions = [(name, severity) for name in names for severity in chosen]
    for given in published:
        found = [(name, severity) for name, severity in given.conditions if severity in chosen]
        if not found:
            raise ValueError(f"{given.name} has no images of severity {', '.join(map(str, chosen))}")
        if twice := set(found) & set(conditions):
            raise ValueError(f"two published sets have {sorted(twice)[0][0]}: evaluate them one after the other")
        conditions += found
    return Shifts(names, published, renditions, conditions)


def generated(
    found: Shifts, images: Any, who: str, positions: Tensor, seed: int, frost_textures: str | None
) -> Iterator[tuple[Condition, Part]]:
    """The parts of the corruptions made here; `who` is the identity of the images."""
    from kedge.data.corruptions import corrupt, corruption
    from kedge.data.corruptions.frost import VERSION, texture_files

    textures: Any = VERSION if frost_textures is None else _content(texture_files(frost_textures))
    for name, severity in found.conditions if found.corruptions else ():

        def change(shown: Tensor, where: Tensor, name: str = name, severity: int = severity) -> Tensor:
            return corrupt(shown, name, severity, indices=where, seed=seed, frost_textures=frost_textures)

        settings = ["corrupt", name, severity, seed, textures if corruption(name).textured else None]
        yield (name, severity), Part(f"{name} {severity}", images, who, positions, change, settings)


def _content(files: Sequence[Path]) -> list[list[str]]:
    """Name and key of each file."""
    return [[path.name, key_of_file(str(path)).hex()] for path in files]


def published(
    sets: Sequence[Any],
    masks: Mapping[str, Tensor | None],
    severities: Sequence[int],
    shape: tuple[int, ...],
    limit: int | None,
    seed: int,
) -> Iterator[tuple[tuple[str, int | None], Part]]:
    """The parts of published sets, each read from disk when its turn comes; `masks` from `class_masks`."""
    for given in sets:
        for condition in given.conditions:
            if condition[1] is not None and condition[1] not in severities:
                continue
            side = shape[1] if shape[1] == shape[2] else None
            part = {} if limit is None else {"decode": False}
            whole = given.load(condition, image_size=side, channels=shape[0], **part)
            images, positions = limited(whole, limit, seed)
            if condition[1] is not None:
                name = f"{condition[0]} {condition[1]}"
            else:
                name = rendition_names(given)[given.conditions.index(condition)]
            who = digest(given.name, condition, identity(images, positions))
            yield condition, Part(name, images, who, positions, classes=masks[given.name])


def rendition_names(given: Any) -> list[str]:
    """What each condition of a set of renditions is called: by the set, where there are several also by itself."""
    several = len(given.conditions) > 1
    return [f"{given.name} {condition}" if several else given.name for condition, _ in given.conditions]


def class_masks(sets: Sequence[Any], class_names: Sequence[str]) -> dict[str, Tensor | None]:
    """Name of a published set to where the models have its classes. Raises ValueError for classes they lack."""
    # Numbers are no names: the usual order is meant.
    names = None if all(name.isdigit() for name in class_names) else list(class_names)
    return {given.name: given.mask_for(names, len(class_names)) for given in sets}

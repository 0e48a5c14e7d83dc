"""Images made of parts, each of which tells the class: shuffled among the images, a part shows whether it is used."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from kedge.data.decode import Size
from kedge.data.report import DataError
from kedge.data.sets import ImageSet, TensorSet
from kedge.seeds import derive_keys

__all__ = ["PartedSet", "RandomisedParts", "randomised"]

RANDOMISED = "-randomised"  # how a split ends that is the test images with one part shuffled
Parts = Mapping[str, torch.Tensor]


class PartedSet(TensorSet):
    """Images in memory that are put together from parts.

    Attributes:
        parts: name to what is shown there, `[N, ...]`.
        part_labels: name to the class that each shows, long `[N]`; the label of an image is its own, whatever the part.
        compose: parts to images, uint8 `[N, C, H, W]`.
    """

    def __init__(
        self,
        parts: Parts,
        part_labels: Parts,
        compose: Callable[[Parts], torch.Tensor],
        labels: torch.Tensor,
        class_names: Sequence[str],
        name: str,
        split: str,
    ) -> None:
        super().__init__(compose(parts), labels, class_names, name, split)
        self.parts, self.part_labels, self.compose = dict(parts), dict(part_labels), compose

    def labelled_by(self, part: str) -> ImageSet:
        """The same images with the classes that a part shows for labels. Raises DataError for no such part."""
        return self.relabelled(_of(self, self.part_labels, part))

    def _choose(self, index: torch.Tensor) -> None:
        super()._choose(index)
        self.parts = {name: content[index] for name, content in self.parts.items()}
        self.part_labels = {name: labels[index] for name, labels in self.part_labels.items()}


def randomised(images: ImageSet, parts: str | Sequence[str], seed: int = 0) -> PartedSet:
    """Return the images with parts taken from other images of the set, the labels as they are.

    One permutation, drawn by the seed, moves all of `parts` together, so that what they hold occurs as often as before
    and says nothing of the label any more: a model that stays right uses the other parts. The classes that the parts
    show go with them (`PartedSet.labelled_by`).

    Args:
        images: a set of parts (`kedge.data.dominoes`, `kedge.data.slabs`).
        parts: the name of one or several; none leaves the images as they are.
        seed: another seed, another permutation.

    Raises:
        DataError: for images without parts, or a part that they do not have.

    Source: the S-randomised measures of Shah et al., NeurIPS 2020, arXiv 2006.07710 (their code).
    """
    if not isinstance(images, PartedSet):
        raise DataError(f"{images.name} has no parts that could be randomised: dominoes: and slabs have")
    names = [parts] if isinstance(parts, str) else list(parts)
    order = derive_keys(torch.arange(len(images)), seed, "randomised").argsort(stable=True)
    changed = copy.copy(images)
    changed.parts = images.parts | {name: _of(images, images.parts, name)[order] for name in names}
    changed.part_labels = images.part_labels | {name: images.part_labels[name][order] for name in names}
    changed.images = images.compose(changed.parts)
    return changed


def _of(images: PartedSet, contents: Parts, part: str) -> torch.Tensor:
    if part not in contents:
        raise DataError(f"{images.name} has no part {part!r}; there are {', '.join(contents)}")
    return contents[part]


class RandomisedParts:
    """The test images of a set of parts, each part randomised in turn: for an evaluation, as a published set.

    Attributes:
        name, class_names: of the set.
        conditions: a part and None.
        load: a split, an image size and a number of channels to images.
    """

    kind = "renditions"

    def __init__(self, name: str, class_names: Sequence[str], parts: Sequence[str], load: Callable[..., Any]) -> None:
        self.name, self.class_names = name, list(class_names)
        self.conditions: list[tuple[str, int | None]] = [(f"{part} randomised", None) for part in parts]
        self.notes: list[str] = []
        self._load = load

    def mask_for(self, class_names: Sequence[str] | None = None, num_outputs: int | None = None) -> torch.Tensor | None:
        """As of `kedge.data.PublishedSet`."""
        names = list(class_names or [])
        if names == self.class_names or (not names and num_outputs == len(self.class_names)):
            return None
        if not set(self.class_names) <= set(names):
            raise DataError(
                f"{self.name} has the classes {', '.join(self.class_names)}, and the model {num_outputs} others"
            )
        return torch.tensor([names.index(name) for name in self.class_names])

    def load(
        self,
        condition: tuple[str, int | None],
        image_size: Size | None = None,
        channels: int | None = None,
        decode: bool = True,
    ) -> Any:
        """The images of a condition."""
        return self._load(condition[0].replace(" ", "-"), image_size, channels)

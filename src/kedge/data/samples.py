"""Samples of sources that are read in turn: what one is, and what its label is called."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import torch

from kedge.data.formats import Encoded
from kedge.data.report import DataError
from kedge.data.tables import check_most

Label = int | str


class Sample(NamedTuple):
    """An image as it comes: its place in its piece, its name, its bytes or path, its label as it is written there."""

    place: int
    name: str
    source: Encoded
    label: Label


class Pieces(Protocol):
    """Parts of a source, each of which is read from its beginning to its end, and always gives the same."""

    def __len__(self) -> int: ...

    def read(self, piece: int, wanted: torch.Tensor | None = None) -> Iterator[Sample]:
        """The samples of a piece in order, of `wanted`, bool [n], those alone."""


def named(
    labels: Sequence[Label], class_names: Sequence[str] | None, where: str, file: str
) -> tuple[torch.Tensor, list[str], list[str]]:
    """(labels as numbers, long [N]; class names; what a person should know) of labels as they are written.

    Args:
        labels: numbers, or names.
        class_names: of the numbers in order, and what names are looked up in; None: names in alphabetical order,
            numbers stand for themselves, and it is said how `file` would name them.
        where: what errors call the source.
        file: what would name the classes.

    Raises:
        DataError: no labels, names and numbers mixed, or a class that is not among `class_names`.
    """
    if not labels:
        raise DataError(f"{where} holds no images with labels")
    texts = {label for label in labels if isinstance(label, str)}
    if texts and any(not isinstance(label, str) for label in labels):
        raise DataError(f"{where}: some labels are numbers and some are names, such as {min(texts)!r}")
    notes: list[str] = []
    if texts:
        names = sorted(texts) if class_names is None else list(class_names)
        number: dict[Label, int] = {name: i for i, name in enumerate(names)}
        if unknown := sorted(texts - number.keys()):
            raise DataError(f"{where}: labels that are not among its classes: {', '.join(map(repr, unknown[:8]))}")
        return torch.tensor([number[label] for label in labels]), names, notes
    numbers = torch.tensor(labels, dtype=torch.long)
    low, high = int(numbers.min()), int(numbers.max())
    if class_names is None:
        names = [str(i) for i in range(check_most(high, where) + 1)]
        notes.append(
            f"labels are numbers and nothing names them: classes are called 0 to {high} ({file} would name them)"
        )
    else:
        names = list(class_names)
    if low < 0 or high >= len(names):
        raise DataError(f"{where}: labels go from {low} to {high}, and there are {len(names)} class names")
    return numbers, names, notes

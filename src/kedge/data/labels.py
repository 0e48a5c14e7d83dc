"""Which class a label means: labels as they are written in a source, numbers or names, and the names of its classes."""

from collections.abc import Iterable, Mapping, Sequence
from numbers import Number
from typing import Any

import torch

from kedge.checks import whole_labels
from kedge.data.report import DataError

Label = int | str
LARGEST_LABEL = 1_000_000


def numbered(labels: Iterable[Any], class_names: Sequence[str] | None, where: str) -> tuple[torch.Tensor, list[str]]:
    """(labels as numbers, long [N]; class names) of labels as they are written.

    Args:
        labels: numbers, or names.
        class_names: of the numbers in order, and what names are looked up in; None: names in alphabetical order,
            and numbers stand for themselves.
        where: what errors call the source.

    Raises:
        DataError: no labels, rows without one, names and numbers mixed, or a class that is not among `class_names`.
    """
    labels = list(labels)
    if not labels:
        raise DataError(f"{where} holds no images with labels")
    missing = sum(v is None or v == -1 for v in labels)
    if missing:
        raise DataError(f"{where}: {missing} of {len(labels)} rows have no label")
    texts = {label for label in labels if isinstance(label, str)}
    if texts and any(not isinstance(label, str) for label in labels):
        raise DataError(f"{where}: some labels are numbers and some are names, such as {min(texts)!r}")
    if texts:
        names = sorted(texts) if class_names is None else list(class_names)
        number = {name: i for i, name in enumerate(names)}
        if unknown := sorted(texts - number.keys()):
            raise DataError(f"{where}: labels that are not among its classes: {', '.join(map(repr, unknown[:8]))}")
        return torch.tensor([number[label] for label in labels]), names
    try:
        numbers = whole_labels(labels, where)
    except ValueError as error:
        raise DataError(str(error)) from None
    return numbers, names_of(numbers, class_names, where)


def names_of(numbers: torch.Tensor, class_names: Sequence[str] | None, where: str) -> list[str]:
    """Return the class names of labels, long [N]: None are called 0, 1, ... up to the largest.

    Raises:
        DataError: labels that lie outside them, or a largest one that a class for each number up to it cannot mean.
    """
    low, high = int(numbers.min()), int(numbers.max())
    names = [str(i) for i in range(_check_largest(high, where) + 1)] if class_names is None else list(class_names)
    if low < 0 or high >= len(names):
        raise DataError(f"{where}: labels run from {low} to {high}, but there are {len(names)} class names")
    return names


def about_unnamed(labels: Sequence[Label], class_names: Sequence[str] | None, naming: str) -> list[str]:
    """A sentence that says how `naming` would name labels that are numbers and that nothing names; else none."""
    if class_names is not None or isinstance(labels[0], str):
        return []
    return [
        f"labels are numbers and nothing names them: classes are called 0 to {max(labels)} ({naming} would name them)"
    ]


def common_classes(labels: Mapping[str, Iterable[Any]], name: str) -> list[str]:
    """Return the class names of labels that nothing names, the same for all splits: those of "train" if there is one.

    Text labels in alphabetical order, numbers up to the largest.

    Raises:
        DataError: a split with classes that "train" lacks.
    """
    kinds = {type(v) for values in labels.values() for v in values if v is not None}
    mixed = len({issubclass(kind, str) for kind in kinds}) > 1
    if mixed or not all(issubclass(kind, str | Number) for kind in kinds):
        raise DataError(f"{name}: labels are numbers or text, got {', '.join(sorted(k.__name__ for k in kinds))}")
    # Numbers that are not whole, and NaN, name no class: `numbered` refuses them, and says where they are.
    classes = {
        split: {v for v in values if isinstance(v, str) or (v is not None and v != -1 and v == v // 1)}
        for split, values in labels.items()
    }
    known = classes.get("train") or set().union(*classes.values())
    if not known or not all(isinstance(v, str) for v in known):
        known = set(range(_check_largest(int(max(known, default=0)), name) + 1))
    for split, theirs in classes.items():
        if extra := sorted(map(str, theirs - known)):
            raise DataError(f"{name}: the split {split!r} has classes that 'train' lacks: {', '.join(extra[:8])}")
    return [str(v) for v in sorted(known)]


def _check_largest(largest: int, name: str) -> int:
    if largest >= LARGEST_LABEL:
        raise DataError(
            f"{name}: a label is {largest}, and nothing names the classes: numbers without names are those of classes, "
            f"from 0 on, and below {LARGEST_LABEL:,}. Number the classes, or store their names as text"
        )
    return largest

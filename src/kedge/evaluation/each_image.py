"""What is kept of every test image: its file, its class, and what each model answered."""

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from torch import Tensor

from kedge.rejection import answered

DIGITS = 6  # of a number of one image


def file_names(paths: Sequence[str] | None, positions: Tensor) -> list[str] | None:
    """The files at `positions` of a set, below the folder that all share but with that they lie in; None without files.

    Nothing above that folder is said: results go to others, and whose machine they are from is not their business.
    """
    if paths is None:
        return None
    parts = [PurePath(path).parts for path in paths]
    shared = 0
    if parts:
        first, last = min(parts), max(parts)
        most = min(len(first), len(last), *map(len, parts)) - 1
        while shared < most and first[shared] == last[shared]:
            shared += 1
    chosen = (parts[i] for i in positions.tolist())
    if parts and shared <= len(PurePath(paths[0]).anchor):  # below no folder of all: the last one says enough
        return ["/".join(own[-2:]) for own in chosen]
    return ["/".join(own[min(shared, max(0, len(own) - 2)) :]) for own in chosen]


def images_record(labels: Tensor, positions: Tensor, files: Sequence[str] | None) -> dict[str, Any]:
    """`labels` and `positions` `[N]` of the test images, and their `files` where there are some.

    `positions` are places in the whole set, None where every image stands in its own: 0, 1, 2, ...
    """
    places = positions.tolist()
    return {
        "files": None if files is None else list(files),
        "positions": None if places == list(range(len(places))) else places,
        "labels": labels.tolist(),
    }


def answers_record(
    columns: Mapping[str, Tensor], rule: Mapping[str, Any] | None, unknown: Tensor | None = None
) -> dict[str, list[float] | None]:
    """What a model answered to each image, `[N]` each; `unsure` is 1 where its reject `rule` by confidence says so.

    `unknown`: where its rule for that does, `[N]` bool; None where it has none.
    """
    unsure = None
    if rule is not None:
        unsure = (~answered(rule, columns["confidence"], columns["log_odds"])).int().tolist()
    return {
        "predicted": columns["predicted"].int().tolist(),
        "confidence": _rounded(columns["confidence"]),
        "log_odds": _rounded(columns["log_odds"]),
        "uncertainty": _rounded(columns["uncertainty"]) if "uncertainty" in columns else None,
        "unsure": unsure,
        "unknown": None if unknown is None else unknown.int().tolist(),
    }


def repeated(keys: Sequence[bytes]) -> int:
    """How many of these images have been there before, bit for bit; what could not be read has an empty key."""
    readable = [key for key in keys if key]
    return len(readable) - len(set(readable))


def _rounded(values: Tensor) -> list[float]:
    return [float(f"{value:.{DIGITS}g}") for value in values.tolist()]

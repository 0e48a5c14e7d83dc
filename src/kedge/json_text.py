"""JSON that anybody may have written: read within bounds, and refused in words."""

import json
import math
import os
from typing import Any

from kedge.regular import read_text

__all__ = ["DEEPEST", "parse_json", "read_json"]

LARGEST = 100_000_000  # bytes; results of many models have some millions
DEEPEST = 64  # lists and mappings inside one another; ours have about ten
_DIGITS = 300  # of a whole number: from 309 on it is no float


def read_json(path: str | os.PathLike[str], largest: int = LARGEST, nan: bool = False) -> dict[str, Any]:
    """The mapping that a JSON file holds, of at most `largest` bytes; see `parse_json`.

    Raises:
        ValueError: it cannot be read as that, and why; the path is named.
        OSError: there is no such file.
    """
    return parse_json(read_text(path, largest), str(path), nan)


def parse_json(text: str, where: str, nan: bool = False) -> dict[str, Any]:
    """The mapping that JSON `text` holds; `where` names it in errors. `nan`: whether NaN and infinity are taken.

    Raises:
        ValueError: it is no JSON, no mapping, nested deeper than 64, or holds a key twice, a number out of range or
            half a character.
    """
    finite: dict[str, Any] = {} if nan else {"parse_constant": _no_constant, "parse_float": _finite}
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_int=_whole, **finite)
        if "\\ud" in text.lower():  # half of a character, which nothing could print
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError:
        raise ValueError(f"{where} is nested deeper than {DEEPEST}, which nothing that kedge writes is") from None
    except ValueError as error:
        raise ValueError(f"{where} is not JSON: {'it is empty' if not text.strip() else error}") from error
    if not isinstance(value, dict):
        raise ValueError(f"{where} holds {_KINDS.get(type(value), 'nothing')} where a mapping of names is expected")
    level: list[Any] = [value]
    for _ in range(DEEPEST):
        inner = (each for outer in level for each in (outer.values() if isinstance(outer, dict) else outer))
        level = [each for each in inner if isinstance(each, dict | list)]
        if not level:
            return value
    raise ValueError(f"{where} is nested deeper than {DEEPEST}, which nothing that kedge writes is")


_KINDS = {list: "a list", str: "text", int: "a number", float: "a number", bool: "true or false"}


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    mapping: dict[str, Any] = {}
    for name, value in pairs:
        if name in mapping:
            raise ValueError(f"{name[:80]!r} is there twice")
        mapping[name] = value
    return mapping


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no number")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{digits[:80]} is too large for a number")
    return value


def _whole(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError(f"a number of {len(digits)} digits is too large")
    return int(digits)

"""What the file of a model says of it: the fields that a config and the card of an exported file both hold, checked."""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from kedge.anchoring.base import TASKS
from kedge.postprocess import check_steps
from kedge.rejection import OF_FEATURES, OF_LOGITS, is_rule, is_unknown_rule

# Values of one input, and outputs; a tampered shape must not allocate the machine away.
LARGEST = 2**24


def check_stated(stated: Mapping[str, Any], where: str) -> None:
    """Raise ValueError unless input shape, outputs, task, names, reject rule and steps can be those of a model.

    `where` names the file; the message says which field is wrong, what it holds, and what it would hold.
    """
    check_there(stated, ("class_names", "reject"), where)
    shape, outputs, names = stated.get("input_shape"), stated.get("num_outputs"), stated.get("class_names")
    listed = isinstance(shape, list) and 1 <= len(shape) <= 4 and all(map(is_count, shape))
    if not listed or math.prod(shape or []) > LARGEST:
        refuse(stated, "input_shape", where, f"one to four positive whole numbers, of a product up to {LARGEST:,}")
    if not (is_count(outputs) and outputs <= LARGEST):  # type: ignore[operator]
        refuse(stated, "num_outputs", where, f"a positive whole number up to {LARGEST:,}")
    if stated.get("task") not in TASKS:
        refuse(stated, "task", where, " or ".join(TASKS))
    if names is not None:
        if not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
            refuse(stated, "class_names", where, f"null, or {outputs} texts")
        if len(names) != outputs:
            raise ValueError(f"{where}: class_names has {len(names)} names, but num_outputs is {outputs}")
    if stated.get("ordered") not in (None, True, False):
        refuse(stated, "ordered", where, "true or false")
    if stated.get("reject") is not None and not is_rule(stated["reject"]):
        refuse(stated, "reject", where, "null, or a finite threshold, a confidence between 0 and 1, with its log_odds")
    if stated.get("unknown") is not None and not is_unknown_rule(stated["unknown"]):
        scores = ", ".join((*OF_LOGITS, *OF_FEATURES))
        refuse(stated, "unknown", where, f"null, or one of the scores {scores} and a finite threshold that it is below")
    try:
        check_steps(stated.get("steps") or {}, str(stated.get("task")), outputs)
    except ValueError as error:
        raise ValueError(f"{where}: steps cannot be so: {error}") from error


def check_there(stated: Mapping[str, Any], names: Iterable[str], where: str) -> None:
    """Raise ValueError unless fields that may be null are there."""
    if missing := [name for name in names if name not in stated]:
        raise ValueError(f"{where} does not say {missing[0]}: the file was changed or is incomplete")


def refuse(stated: Mapping[str, Any], name: str, where: str, rule: str) -> None:
    """Raise the ValueError for a field that holds something else than the rule allows."""
    value = json.dumps(stated.get(name), default=str)
    value = f"{value[:80]}..." if len(value) > 80 else value
    raise ValueError(f"{where}: {name} cannot be {value}, it is {rule}; the file was changed or is incomplete")


def is_count(value: Any) -> bool:
    """Whether this is a whole number of 1 or more, and no bool."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0

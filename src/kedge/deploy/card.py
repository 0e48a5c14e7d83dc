"""What travels inside an exported file: enough to turn pixels into a named, accepted or rejected label."""

import json
from typing import Any

from kedge._version import __version__
from kedge.anchoring import PixelModel
from kedge.anchoring.steps import check_steps

KEY = "kedge"  # the name of the entry, in ONNX metadata_props and among the extra files of a .pt2
FORMAT_VERSION = 1


def write_card(model: PixelModel) -> str:
    """JSON with the model's task, input shape, class names, reject rule and steps, and the version that wrote it.

    The steps (a temperature) are part of the exported computation already; the card only says so.
    """
    return json.dumps(
        {
            "format_version": FORMAT_VERSION,
            "kedge_version": __version__,
            "task": model.task,
            "input": "images, float32 in [0, 1], normalised inside",
            "output": "logits",
            "input_range": [0, 1] if len(model.input_shape) > 1 else None,
            "input_shape": list(model.input_shape),
            "num_outputs": model.num_outputs,
            "class_names": model.class_names,
            "reject": model.reject,
            "steps": model.steps,
        },
        ensure_ascii=False,
    )


def read_card(text: str, where: str) -> dict[str, Any]:
    """Parse and check what `write_card` wrote; `where` names the file in errors.

    Raises:
        ValueError: if it is not such a card, or was written by a later format.
    """
    try:
        card = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{where}: the kedge entry is not JSON ({error})") from error
    if not isinstance(card, dict) or not isinstance(card.get("format_version"), int):
        raise ValueError(f"{where}: the kedge entry has no format_version")
    if card["format_version"] > FORMAT_VERSION:
        raise ValueError(
            f"{where} was written by kedge {card.get('kedge_version')} in format {card['format_version']}; "
            f"this kedge reads up to {FORMAT_VERSION}: upgrade kedge, or export again"
        )
    shape, outputs, names = card.get("input_shape"), card.get("num_outputs"), card.get("class_names")
    if not (isinstance(shape, list) and shape and all(_is_count(n) for n in shape)):
        raise ValueError(f"{where}: input_shape must be a list of positive integers, got {shape!r}")
    if not _is_count(outputs):
        raise ValueError(f"{where}: num_outputs must be a positive integer, got {outputs!r}")
    if card.get("task") not in ("classification", "regression"):
        raise ValueError(f"{where}: task must be classification or regression, got {card.get('task')!r}")
    if names is not None and not (
        isinstance(names, list) and len(names) == outputs and all(isinstance(n, str) for n in names)
    ):
        raise ValueError(f"{where}: class_names must be {outputs} strings, got {names!r}")
    reject = card.get("reject")
    if reject is not None and not (
        isinstance(reject, dict)
        and isinstance(reject.get("threshold"), (int, float))
        and isinstance(reject.get("log_odds", 0), (int, float))
    ):
        raise ValueError(f"{where}: reject must hold a threshold, and numbers for it and its log_odds, got {reject!r}")
    try:
        check_steps(card.get("steps") or {}, card["task"])
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error
    return card


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0

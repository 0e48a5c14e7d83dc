"""What travels inside an exported file: enough to turn pixels into a named, accepted or rejected label."""

import json
from collections.abc import Mapping
from typing import Any

from kedge._version import __version__
from kedge.anchoring import PixelModel
from kedge.deploy.answering import Answering
from kedge.json_text import parse_json
from kedge.postprocess import kind_of
from kedge.regular import LARGEST_TEXT
from kedge.stated import check_stated, refuse
from kedge.unknown import formula

KEY = "kedge"  # the name of the entry, in ONNX metadata_props and among the extra files of a .pt2
# Files that take images are written as format 1, as every kedge reads them. Format 2 is that of files which take
# photos, and of those with a rule for "unknown": who does not know it would name a class where there is none.
FORMAT_VERSION = 2


def write_card(model: PixelModel) -> str:
    """JSON with the model's task, input shape, class names, rules and steps, and the version that wrote it.

    The steps (a temperature) are part of the exported computation already; the card only says so. Of a step that is not
    (prediction sets) it has the value, and under `formulas` what a program does with that and the logits.
    """
    formulas = {name: kind_of(name)(record["value"]).formula() for name, record in model.steps.items()}
    formulas |= {"unknown": formula(model.unknown)} if model.unknown else {}
    return json.dumps(
        {
            "format_version": 2 if model.unknown else 1,
            "kedge_version": __version__,
            "task": model.task,
            "input": "images, float32 in [0, 1], normalised inside",
            "output": "logits",
            "input_range": [0, 1] if len(model.input_shape) > 1 else None,
            "input_shape": list(model.input_shape),
            "num_outputs": model.num_outputs,
            "class_names": model.class_names,
            "ordered": model.ordered,
            "reject": model.reject,
            **({"unknown": model.unknown} if model.unknown else {}),
            "steps": model.steps,
            "formulas": {name: words for name, words in formulas.items() if words},
        },
        ensure_ascii=False,
    )


def photo_card(card: Mapping[str, Any], answering: Answering) -> dict[str, Any]:
    """The card of a file that takes a photo and answers, from that of one that takes images and gives logits."""
    formulas = {
        name: words for name, words in (card.get("formulas") or {}).items() if name != "unknown"
    }  # it is inside
    return {
        **card,
        "formulas": formulas,
        "format_version": FORMAT_VERSION,
        "input": "photo, uint8 [height, width, 3], RGB, upright",
        "input_range": [0, 255],
        "takes": "photo",
        "output": "answer",
        "answers": answering.answers,
        "thresholds": {name: float(value) for name, value in answering.defaults().items()},
    }


def read_card(text: str, where: str) -> dict[str, Any]:
    """Parse and check what `write_card` wrote; `where` names the file in errors.

    Raises:
        ValueError: if it is not such a card, or was written by a later format.
    """
    if len(text) > LARGEST_TEXT:
        raise ValueError(f"{where}: the kedge entry is larger than {LARGEST_TEXT:,} characters, which none is")
    card = parse_json(text, f"{where}: the kedge entry")
    version = card.get("format_version")
    if not isinstance(version, int) or isinstance(version, bool):
        raise ValueError(f"{where}: the kedge entry has no format_version")
    if version > FORMAT_VERSION:
        raise ValueError(
            f"{where} was written by kedge {str(card.get('kedge_version'))[:40]} in format {version}; "
            f"this kedge reads up to {FORMAT_VERSION}: upgrade kedge, or export again"
        )
    check_stated(card, where)
    if not isinstance(card.get("precision"), dict | None):
        refuse(card, "precision", where, "null, or what kedge export --int8 says of an 8-bit file")
    return card

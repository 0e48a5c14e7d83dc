"""Results of an earlier version or an interrupted run, with what they lack filled in."""

import copy
from typing import Any

NEWEST = 2  # the format_version of results that this version writes and reads


class _Part(dict[str, Any]):
    """What a part holds that may be None as a whole: it was not measured."""


_SET: dict[str, Any] = {
    "name": "?",
    "split": None,
    "images": 0,
    "of": 0,
    "limited": False,
    "image_shape": [],
    "unreadable": 0,
}
_MODEL: dict[str, Any] = {
    "kind": "?", "network": "?", "parameters": None, "references": None, "device": "?", "input_shape": [],
    "conversion": "", "steps": [], "trained_on": None, "images": {}, "errors": [], "warnings": [], "gate": {},
    "verdict": _Part(kind="few", risk=None, all=_Part(images=0, wrong=0, low=None, high=None),
                     half=_Part(images=0, wrong=0, low=None, high=None)),
    "answers": _Part(predicted=[], confidence=[], log_odds=[], uncertainty=None, unsure=None, unknown=None),
    "training": _Part(folder=None, data=None, images=None, validation_images=None, classes=None, repeated=None,
                      photos=None, seconds=None, finished=None, recipe={}, probe=None, validation=None, curve={}),
    "timing": {"images_per_second": None, "device": None, "seconds": None},
    "clean": _Part(reliability=None, calibration={}),
    "shift": _Part(mean={}, by_severity=[], conditions=[], reliability=None),
    "shift_sets": {},
    "scores": {"*": {"title": "?", "edges": [], "inside": [], "fitted_on": None}},
    "ood": {"*": {"scores": {"*": {"outside": [], "roc": None}}, "accepted": None, "separability": None}},
    "ood_groups": {},
    "skipped_scores": {},
    "selective": _Part(
        score="confidence", threshold=None, log_odds=None, wanted_coverage=None, clean=None, shift=None,
        curve={"clean": None, "shift": None}, joint={},
    ),
    "prediction_sets": _Part(
        score="?", coverage=None, by_class=False, calibration_images=0,
        clean={"coverage": None, "size": None, "empty": None, "classes": [],
               "outlook": {"expected_accuracy": None, "unfamiliar": None, "broken": False, "words": ""}},
        shift=_Part(coverage=None, size=None, by_severity=[], conditions=[]),
    ),
    "attacks": {},
    "attack_curve": None,
    "first_order": _Part(norm="linf", images=0, points=[], without_gradient=0, note=""),
    "sanity": [],
    "refusal": None,
    "stability": _Part(oversensitive=None, overstable=None, confidence=0.9, images=0, changes=[], notes=[]),
    "test_time": _Part(method="?", brake=None, sets={}),
    "unlabelled": _Part(
        validation=None, warnings=[],
        sets={"*": {"images": 0, "of": 0, "headline": None, "estimates": {}, "unlike": None, "warnings": [],
                    "prediction_sets": None}},
    ),
}  # fmt: skip
_RESULTS: dict[str, Any] = {
    "created": "", "command": None, "seconds": None, "peak_memory_mb": None, "complete": True,
    "conventions": {}, "citations": [], "strips": [], "groups": {}, "comparisons": [], "group_table": {},
    "machine": {"kedge": "?", "torch": "?", "python": "?", "system": "?", "cpus": None, "threads": None,
                "accelerators": []},
    "settings": {"corruptions": [], "severities": [], "seed": None, "limit": None, "batch_size": None, "bins": 15,
                 "resamples": None, "scores": [], "references": None, "attacks": [], "risk": None, "tpr": None,
                 "equalise": None},
    "data": {**_SET, "class_names": [], "repeated": None},
    "test_images": _Part(files=None, positions=None, labels=[]),
    "ood_sets": {"*": {**_SET, "conversion": {}, "group": None, "seen": None, "warning": None}},
    "shift_sets": {"*": {"name": "?", "images": None, "classes": None, "of_classes": None, "note": None}},
    "shift_notes": {},
    "models": {"*": _MODEL},
}  # fmt: skip
_ENTRIES = {"sanity": {"check", "detail", "ok"}, "errors": {"part", "message"}}  # lists, and what each entry holds


def upgrade(results: dict[str, Any]) -> dict[str, Any]:
    """A copy of `results`, possibly of an earlier version or an interrupted run, with every key.

    What was not measured is None or empty. Only what is missing is filled in; nothing is computed anew.

    Raises:
        TypeError: for a value of another kind than belongs there.
    """
    whole = copy.deepcopy(results)
    _fill(whole, _RESULTS)
    for model in whole["models"].values():
        for key, names in _ENTRIES.items():
            for entry in model[key]:
                if not isinstance(entry, dict) or not entry.keys() >= names:
                    raise TypeError(f"{key} holds {str(entry)[:80]!r}, not {', '.join(sorted(names))}")
    return whole


def _fill(record: Any, shape: dict[str, Any]) -> None:
    """Fill in what `shape` has and `record` lacks; "*" stands for every key of a mapping."""
    if "*" in shape:
        for name, entry in record.items():
            _fill(entry, {**shape["*"], **({"name": name} if "name" in shape["*"] else {})})
        return
    for key, default in shape.items():
        kind = next((kind for kind in (dict, list) if isinstance(default, kind)), None)
        if kind is not None and not isinstance(default, _Part) and record.get(key) is None:
            record[key] = kind()
        value = record.setdefault(key, None if isinstance(default, _Part) else default)
        if kind is not None and value is not None and not isinstance(value, kind):
            raise TypeError(f"{key} is a {type(value).__name__}, not a {kind.__name__}")
        if kind is dict and value is not None:
            _fill(value, default)

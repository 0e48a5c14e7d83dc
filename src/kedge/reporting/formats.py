"""Results of any readable format, brought to the newest one, with what they lack filled in."""

import copy
from typing import Any

NEWEST = 2  # the newest format_version of results that this version understands

_RESULTS: dict[str, Any] = {
    "created": "",
    "command": None,
    "machine": {},
    "seconds": None,
    "peak_memory_mb": None,
    "complete": True,
    "settings": {},
    "conventions": {},
    "citations": [],
    "data": {},
    "ood_sets": {},
    "shift_sets": {},
    "strips": [],
    "groups": {},
    "comparisons": [],
    "group_table": {},
}
_SETTINGS: dict[str, Any] = {
    "corruptions": [],
    "severities": [],
    "seed": None,
    "limit": None,
    "batch_size": None,
    "bins": 15,
    "resamples": None,
    "scores": [],
    "references": None,
    "attacks": [],
    "risk": None,
    "equalise": None,
}
_MACHINE: dict[str, Any] = {
    "kedge": "?", "torch": "?", "python": "?", "system": "?", "cpus": None, "threads": None, "accelerators": [],
}  # fmt: skip
_DATA: dict[str, Any] = {
    "name": "?", "split": None, "images": 0, "of": 0, "limited": False, "image_shape": [], "unreadable": 0,
}  # fmt: skip
_MODEL: dict[str, Any] = {
    "kind": "?",
    "network": "?",
    "parameters": None,
    "references": None,
    "device": "?",
    "input_shape": [],
    "conversion": "",
    "steps": [],
    "clean": None,
    "shift": None,
    "shift_sets": {},
    "scores": {},
    "ood": {},
    "ood_groups": {},
    "skipped_scores": {},
    "selective": None,
    "attacks": {},
    "attack_curve": None,
    "sanity": [],
    "trained_on": None,
    "unlabelled": None,
    "images": {},
    "timing": {},
    "errors": [],
    "warnings": [],
}
_ENTRIES = {"sanity": {"check", "detail", "ok"}, "errors": {"part", "message"}}  # lists, and what each entry holds
_TIMING: dict[str, Any] = {"images_per_second": None, "device": None, "seconds": None}
_DETECTION: dict[str, Any] = {
    "auroc": None,
    "aupr_in": None,
    "aupr_out": None,
    "fpr95": None,
    "outside": [],
    "roc": None,
}
_SELECTIVE: dict[str, Any] = {
    "score": "confidence",
    "threshold": None,
    "log_odds": None,
    "wanted_coverage": None,
    "clean": None,
    "shift": None,
    "aurc": None,
    "excess_aurc": None,
    "at_risk": None,
    "curve": {"clean": None, "shift": None},
    "joint": {},
}


def upgrade(results: dict[str, Any]) -> dict[str, Any]:
    """A copy of `results` (format 1 or 2, possibly of an interrupted run) as format 2 with every key.

    What was not measured is None or empty. Only what is missing is filled in; nothing is computed anew.
    """
    newest = copy.deepcopy(results)
    newest["format_version"] = NEWEST
    _fill(newest, _RESULTS)
    _fill(newest["settings"], _SETTINGS)
    _fill(newest["machine"], _MACHINE)
    _fill(newest["data"], {**_DATA, "class_names": []})
    for name, record in newest["ood_sets"].items():
        _fill(record, {**_DATA, "name": name, "conversion": {}, "group": None, "warning": None})
    for name, record in newest["shift_sets"].items():
        _fill(record, {"name": name, "images": None, "classes": None, "of_classes": None, "note": None})
    for model in newest["models"].values():
        _upgrade_model(model)
    return newest


def _upgrade_model(model: dict[str, Any]) -> None:
    _fill(model, _MODEL)
    model["timing"] = model["timing"] or {}
    _fill(model["timing"], _TIMING)
    for key, names in _ENTRIES.items():
        for entry in model[key] or []:
            if not isinstance(entry, dict) or not entry.keys() >= names:
                raise TypeError(f"{key} holds {str(entry)[:80]!r}, not {', '.join(sorted(names))}")
    if model["clean"] is not None:
        _fill(model["clean"], {"accuracy": None, "top5": None, "nll": None, "brier": None, "ece": None,
                               "reliability": None, "calibration": {}})  # fmt: skip
    if model["shift"] is not None:
        _fill(model["shift"], {"mean": {}, "by_severity": [], "conditions": [], "reliability": None})
    for record in model["scores"].values():
        _fill(record, {"title": "?", "edges": [], "inside": [], "fitted_on": None})
    for record in model["ood"].values():
        _fill(record, {"scores": {}, "accepted": None})
        for values in record["scores"].values():
            _fill(values, _DETECTION)
            if isinstance(values["fpr95"], (int, float)):  # format 1 had no interval
                values["fpr95"] = {"value": values["fpr95"], "low": None, "high": None}
    if model["unlabelled"] is not None:
        _fill(model["unlabelled"], {"validation": None, "sets": {}, "warnings": []})
        for record in model["unlabelled"]["sets"].values():
            _fill(record, {"images": 0, "of": 0, "headline": None, "estimates": {}, "unlike": None, "warnings": []})
    if model["selective"] is not None:
        _fill(model["selective"], _SELECTIVE)
        model["selective"]["curve"] = {"clean": None, "shift": None, **(model["selective"]["curve"] or {})}


def _fill(record: dict[str, Any], defaults: dict[str, Any]) -> None:
    for key, value in defaults.items():
        if key not in record:
            record[key] = copy.deepcopy(value)
        elif isinstance(value, dict | list) and not isinstance(record[key], type(value) | None):
            raise TypeError(f"{key} is a {type(record[key]).__name__}, not a {type(value).__name__}")

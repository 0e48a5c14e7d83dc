"""From the results of an evaluation to the measures of an experiment, in percent."""

from typing import Any

from kedge.experiments.experiment import MEASURES

__all__ = ["measured"]

SCORES = {"confidence": "msp", "energy": "energy", "masked reference": "masked"}
ERRORS = {"ECE": "ece", "smooth ECE": "smooth_ece"}


def measured(entry: dict[str, Any]) -> dict[str, Any]:
    """{measures: name to percent, severities: severity to accuracy, corruptions: name to mean accuracy} of a model.

    And corrected: calibration error to percent without its bias, by which variants are compared.

    `entry`: of `models` in the results of `kedge.evaluation.evaluate`. What was not measured is left out.
    """
    corrected = {
        f"{place} {title}": row[metric]["corrected"]
        for place, row in (("clean", entry["clean"]), ("corrupted", (entry["shift"] or {}).get("mean")))
        for title, metric in ERRORS.items()
        if row is not None and row[metric].get("corrected") is not None
    }
    clean, shift, groups = entry["clean"], entry["shift"], entry["ood_groups"]
    values = {
        "clean accuracy": _value(clean, "accuracy"),
        "clean ECE": _value(clean, "ece"),
        "clean smooth ECE": _value(clean, "smooth_ece"),
    }
    severities: dict[str, float] = {}
    corruptions: dict[str, list[float]] = {}
    if shift is not None:
        values |= {
            "corrupted accuracy": _value(shift["mean"], "accuracy"),
            "corrupted ECE": _value(shift["mean"], "ece"),
            "corrupted smooth ECE": _value(shift["mean"], "smooth_ece"),
        }
        for row in shift["by_severity"]:
            if (value := _value(row, "accuracy")) is not None:
                severities[str(row["severity"])] = value
        values["severity 5 accuracy"] = severities.get("5")
        for row in shift["conditions"]:
            corruptions.setdefault(row["corruption"], []).append(100 * row["accuracy"]["value"])
    for group in ("near", "far"):
        scores = (groups or {}).get(group, {})
        for title, score in SCORES.items():
            if score in scores:
                values[f"{group} AUROC, {title}"] = _value(scores[score], "auroc")
    return {
        "measures": {name: values[name] for name in MEASURES if values.get(name) is not None},
        "corrected": {name: 100 * float(value) for name, value in corrected.items()},
        "severities": severities,
        "corruptions": {name: sum(each) / len(each) for name, each in corruptions.items()},
    }


def _value(row: dict[str, Any], metric: str) -> float | None:
    value = row[metric]["value"]
    return None if value is None else 100 * float(value)

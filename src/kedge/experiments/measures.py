"""What experiments compare, in percent, and where the results of an evaluation have it. Imports nothing slow."""

from dataclasses import dataclass
from typing import Any

__all__ = ["MEASURES", "Measure", "measured"]


@dataclass(frozen=True)
class Measure:
    """A number of a model.

    Attributes:
        higher: whether higher is better.
        place: the keys that lead to it in the entry of a model; a number stands for the row of that severity.
        biased: whether it has a bias on few images, without which variants are compared.
    """

    higher: bool
    place: tuple[str | int, ...]
    biased: bool = False


MEASURES = {  # in the order of the tables
    "clean accuracy": Measure(True, ("clean", "accuracy")),
    "corrupted accuracy": Measure(True, ("shift", "mean", "accuracy")),
    "severity 5 accuracy": Measure(True, ("shift", "by_severity", 5, "accuracy")),
    "clean ECE": Measure(False, ("clean", "ece"), biased=True),
    "clean smooth ECE": Measure(False, ("clean", "smooth_ece"), biased=True),
    "corrupted ECE": Measure(False, ("shift", "mean", "ece"), biased=True),
    "corrupted smooth ECE": Measure(False, ("shift", "mean", "smooth_ece"), biased=True),
    "near AUROC, confidence": Measure(True, ("ood_groups", "near", "msp", "auroc")),
    "far AUROC, confidence": Measure(True, ("ood_groups", "far", "msp", "auroc")),
    "near AUROC, energy": Measure(True, ("ood_groups", "near", "energy", "auroc")),
    "far AUROC, energy": Measure(True, ("ood_groups", "far", "energy", "auroc")),
    "far AUROC, masked reference": Measure(True, ("ood_groups", "far", "masked", "auroc")),
}


def measured(entry: dict[str, Any]) -> dict[str, Any]:
    """{measures: name to percent, severities: severity to accuracy, corruptions: name to mean accuracy} of a model.

    And corrected: calibration error to percent without its bias, by which variants are compared.

    `entry`: of `models` in the results of `kedge.evaluation.evaluate`. What was not measured is left out.
    """
    shift = entry["shift"] or {"by_severity": [], "conditions": []}
    corruptions: dict[str, list[float]] = {}
    for row in shift["conditions"]:
        corruptions.setdefault(row["corruption"], []).append(100 * row["accuracy"]["value"])
    biased = {name: measure.place for name, measure in MEASURES.items() if measure.biased}
    return {
        "measures": _percent({name: _at(entry, *measure.place, "value") for name, measure in MEASURES.items()}),
        "corrected": _percent({name: _at(entry, *place, "corrected") for name, place in biased.items()}),
        "severities": _percent({str(row["severity"]): row["accuracy"]["value"] for row in shift["by_severity"]}),
        "corruptions": {name: sum(each) / len(each) for name, each in corruptions.items()},
    }


def _at(record: Any, *keys: str | int) -> float | None:
    """The value that the keys lead to, None where one of them is missing."""
    for key in keys:
        if isinstance(record, list):
            record = next((row for row in record if row["severity"] == key), None)
        else:
            record = record.get(key) if isinstance(record, dict) else None
    value: float | None = record
    return value


def _percent(values: dict[str, float | None]) -> dict[str, float]:
    return {name: 100 * float(value) for name, value in values.items() if value is not None}

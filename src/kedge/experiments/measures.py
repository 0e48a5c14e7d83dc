"""What experiments compare, and where the results of an evaluation have it. Imports nothing slow."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["MEASURES", "RISK", "Measure", "measured", "value"]

RISK = 0.02  # share of wrong answers at which it is asked how many images are answered


@dataclass(frozen=True)
class Measure:
    """A number of a model.

    Attributes:
        higher: whether higher is better.
        place: the keys that lead to it in the entry of a model; a number stands for the row of that severity.
        biased: whether it has a bias on few images, without which variants are compared.
        unit: % for a share, which is recorded in percent.
        less: of two other measures the difference, first less second, and not measured itself.
    """

    higher: bool
    place: tuple[str | int, ...] = ()
    biased: bool = False
    unit: str = "%"
    less: tuple[str, str] | None = None


MEASURES = {  # in the order of the tables
    "clean accuracy": Measure(True, ("clean", "accuracy")),
    "corrupted accuracy": Measure(True, ("shift", "mean", "accuracy")),
    "severity 5 accuracy": Measure(True, ("shift", "by_severity", 5, "accuracy")),
    "drop under corruption": Measure(False, less=("clean accuracy", "corrupted accuracy")),
    "clean ECE": Measure(False, ("clean", "ece"), biased=True),
    "clean smooth ECE": Measure(False, ("clean", "smooth_ece"), biased=True),
    "corrupted ECE": Measure(False, ("shift", "mean", "ece"), biased=True),
    "corrupted smooth ECE": Measure(False, ("shift", "mean", "smooth_ece"), biased=True),
    "clean NLL": Measure(False, ("clean", "nll"), unit="nats"),
    "corrupted NLL": Measure(False, ("shift", "mean", "nll"), unit="nats"),
    f"answered at {100 * RISK:g} % risk": Measure(True, ("selective", "at_risk", "coverage")),
    "near AUROC, confidence": Measure(True, ("ood_groups", "near", "msp", "auroc")),
    "far AUROC, confidence": Measure(True, ("ood_groups", "far", "msp", "auroc")),
    "near AUROC, energy": Measure(True, ("ood_groups", "near", "energy", "auroc")),
    "far AUROC, energy": Measure(True, ("ood_groups", "far", "energy", "auroc")),
    "far AUROC, masked reference": Measure(True, ("ood_groups", "far", "masked", "auroc")),
}


def value(record: Mapping[str, Any], name: str) -> float | None:
    """The measure of that name of what was `measured`, in its unit; None if it has none."""
    less, own = MEASURES[name].less, record["measures"]
    if less is None:
        measure: float | None = own.get(name)
        return measure
    return own[less[0]] - own[less[1]] if less[0] in own and less[1] in own else None


def measured(entry: dict[str, Any]) -> dict[str, Any]:
    """{measures: name to value, severities: severity to accuracy, corruptions: name to mean accuracy} of a model.

    And corrected: calibration error to percent without its bias, by which variants are compared.

    `entry`: of `models` in the results of `kedge.evaluation.evaluate`. What was not measured is left out.
    """
    shift = entry["shift"] or {"by_severity": [], "conditions": []}
    corruptions: dict[str, list[float]] = {}
    for row in shift["conditions"]:
        corruptions.setdefault(row["corruption"], []).append(100 * row["accuracy"]["value"])
    biased = {name: measure for name, measure in MEASURES.items() if measure.biased}
    accuracies = {str(row["severity"]): row["accuracy"]["value"] for row in shift["by_severity"]}
    return {
        "measures": _in_units(entry, {name: m for name, m in MEASURES.items() if m.less is None}, "value"),
        "corrected": _in_units(entry, biased, "corrected"),
        "severities": {severity: 100 * share for severity, share in accuracies.items() if share is not None},
        "corruptions": {name: sum(each) / len(each) for name, each in corruptions.items()},
    }


def _at(record: Any, *keys: str | int) -> Any:
    """What the keys lead to, None where one of them is missing."""
    for key in keys:
        if isinstance(record, list):
            record = next((row for row in record if row["severity"] == key), None)
        else:
            record = record.get(key) if isinstance(record, dict) else None
    return record


def _in_units(entry: dict[str, Any], measures: Mapping[str, Measure], key: str) -> dict[str, float]:
    """Those that the entry has: with an interval and more, the value is under `key`, otherwise it stands alone."""
    values: dict[str, float] = {}
    for name, measure in measures.items():
        place = _at(entry, *measure.place)
        number = place.get(key) if isinstance(place, dict) else place
        if number is not None:
            values[name] = float(number) * (100 if measure.unit == "%" else 1)
    return values

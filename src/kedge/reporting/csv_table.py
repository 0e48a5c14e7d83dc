"""Results as CSV in long form: one number a line."""

import csv
import io
from collections.abc import Iterator
from typing import Any

from kedge.metrics._base import metrics
from kedge.printable import cell
from kedge.reporting.files import check_results
from kedge.reporting.rows import dig, estimate, value_of

COLUMNS = ("model", "part", "where", "severity", "score", "metric", "value", "low", "high", "n")
# part, where, severity, score, metric, value, n
_Number = tuple[str, str, int | str, str, str, Any, int | None]


def as_csv(results: dict[str, Any]) -> str:
    """One line per number, with a header: model, part, where, severity, score, metric, value, low, high, n.

    Shares are fractions; `n` is the number of images that the number rests on (out of distribution: those of the
    set, next to the clean ones), for seeds that of the models. A name that a spreadsheet would take for a formula has
    an apostrophe before it.
    """
    results = check_results(results)
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(COLUMNS)

    def write(model: str, numbers: Iterator[_Number]) -> None:
        for *place, value, n in numbers:
            known = estimate(value)
            if known is not None:
                names = [cell(each) if isinstance(each, str) else each for each in (model, *place)]
                writer.writerow([*names, known["value"], known.get("low"), known.get("high"), n])

    for name, model in results["models"].items():
        write(name, _labelled(model, results))
        write(name, _outside(model, results))
        write(name, _selective(model, results))
        write(name, _attacks(model))
        write(name, _unlabelled(model))
        write(name, _cost(model))
    for group, labels in results["group_table"].items():
        write(group, _seeds(labels))
    for one in results["comparisons"]:
        difference, p = (("comparison", one["where"], "", one["test"], key, one[value], one["n"])
                         for key, value in ((one["metric"], "difference"), (f"p, {one['metric']}", "p")))  # fmt: skip
        write(f"{one['a']} - {one['b']}", iter((difference, p)))
    return stream.getvalue()


def _labelled(model: dict[str, Any], results: dict[str, Any]) -> Iterator[_Number]:
    """Clean, corrupted and published sets."""
    n = results["data"]["images"]
    for one in (one for one in metrics() if one.part in ("clean", "calibration")):
        for where, metric, value in one.numbers(value_of(model, one), results["data"]["class_names"]):
            yield "clean", where, "", "", metric, value, None if where else n
    shifted = [one.key for one in metrics() if "shift" in one.places]
    shift = model["shift"] or {"mean": {}, "by_severity": [], "conditions": []}
    for metric in shifted:
        yield "shift", "mean", "", "", metric, shift["mean"].get(metric), n
    for row in shift["by_severity"]:
        for metric in shifted:
            yield "shift", "mean", row["severity"], "", metric, row.get(metric), n
    for row in shift["conditions"]:
        for metric in shifted:
            yield "shift", row["corruption"], row["severity"], "", metric, row.get(metric), n
    for name, own in model["shift_sets"].items():
        for metric in shifted:
            yield "shift set", name, "", "", metric, dig(own, metric), dig(results["shift_sets"], name, "images")


def _outside(model: dict[str, Any], results: dict[str, Any]) -> Iterator[_Number]:
    keys = [one.key for one in metrics("ood")]
    for name, own in model["ood"].items():
        n = dig(results["ood_sets"], name, "images")
        for score, values in own["scores"].items():
            for metric in keys:
                yield "ood", name, "", score, metric, values.get(metric), n
        yield "ood", name, "", "", "accepted", own["accepted"], n
    for group, scores in model["ood_groups"].items():
        for score, values in scores.items():
            for metric in keys:
                yield "ood mean", group, "", score, metric, values.get(metric), None


def _selective(model: dict[str, Any], results: dict[str, Any]) -> Iterator[_Number]:
    own, n = model["selective"], results["data"]["images"]
    if own is None:
        return
    for one in metrics("selective"):
        for where, metric, value in one.numbers(own.get(one.key), results["data"]["class_names"]):
            yield "selective", where or "clean", "", own["score"], metric, value, n
    for metric in ("threshold", "log_odds"):
        yield "selective", "stored", "", own["score"], metric, own[metric], None
    for place in ("clean", "shift"):
        for metric, value in (own[place] or {}).items():
            yield "selective", f"stored, {place}", "", own["score"], metric, value, n if place == "clean" else None
    for name, joint in own["joint"].items():
        yield "selective", f"with {name}", "", own["score"], "aurc", joint.get("aurc"), None


def _attacks(model: dict[str, Any]) -> Iterator[_Number]:
    for name, attack in model["attacks"].items():
        for metric in ("accuracy", "clean_accuracy"):
            yield "attack", name, "", "", metric, attack.get(metric), attack["images"]
        for metric in ("eps", "steps", "restarts", "seconds"):
            yield "attack", name, "", "", metric, attack.get(metric), None
    for point in dig(model, "attack_curve", "points") or []:
        yield "attack curve", f"eps {point['eps']:.6g}", "", "", "accuracy", point["accuracy"], None


def _unlabelled(model: dict[str, Any]) -> Iterator[_Number]:
    known = dig(model, "unlabelled", "validation")
    if known is not None:
        yield "unlabelled", "validation images", "", "", "accuracy", known["accuracy"], known["images"]
    for name, entry in (dig(model, "unlabelled", "sets") or {}).items():
        for key, one in entry["estimates"].items():
            yield "unlabelled", name, "", key, "expected accuracy", one, entry["images"]
        yield "unlabelled", name, "", "knn", "auroc", entry["unlike"], entry["images"]


def _cost(model: dict[str, Any]) -> Iterator[_Number]:
    for metric in ("images_per_second", "seconds"):
        yield "cost", "", "", "", metric, model["timing"][metric], None
    yield "cost", "", "", "", "parameters", model["parameters"], None


def _seeds(labels: dict[str, Any]) -> Iterator[_Number]:
    for label, over in labels.items():
        yield "seeds", "mean", "", "", label, over["mean"], over["n"]
        yield "seeds", "sd", "", "", label, over["sd"], over["n"]

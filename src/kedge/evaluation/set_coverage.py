"""What prediction sets hold on labelled images: how often the true class, how many classes, by class and severity."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kedge.binomial import accuracy_interval
from kedge.metrics._bootstrap import bootstrap_interval
from kedge.metrics._results import Estimate
from kedge.metrics._summary import FEWEST
from kedge.postprocess import SetRule

Columns = dict[str, Tensor]
Condition = tuple[str, int]


def set_columns(rule: SetRule | None, logits: Tensor, labels: Tensor) -> Columns:
    """Per image `[B]`: whether the set holds its class, how large it is, and what says that the promise still holds.

    Of logits `[B, C]` after the steps; nothing without a rule.
    """
    if rule is None:
        return {}
    (step,) = rule.steps
    sets, labels = step.sets(logits), labels.cpu()
    right, unfamiliar = step.usual(logits)
    columns = {"covered": sets.gather(1, labels[:, None])[:, 0], "set_size": sets.sum(1),
               "expected_right": right, "unfamiliar": unfamiliar}  # fmt: skip
    return {name: column.float() for name, column in columns.items()}


def coverage_summary(
    rule: SetRule | None,
    clean: Columns,
    labels: Tensor,
    classes: int,
    shifted: Mapping[Condition, Mapping[str, Tensor]],
    failed: Sequence[Condition],
    resamples: int,
    seed: int,
) -> dict[str, Any] | None:
    """The entry of a model in the results; `clean` and each of `shifted` are columns `[N]` of `set_columns`.

    Coverage of clean images has Wilson's interval; a mean over corruptions, and every mean size, a bootstrap over
    images, which corruptions share. A mean over corruptions one of which `failed` is none.
    """
    if rule is None:
        return None
    (step,) = rule.steps
    value = step.value
    measured = {key: columns for key, columns in shifted.items() if "covered" in columns}
    severities = sorted({severity for _, severity in [*measured, *failed]})

    def mean(chosen: Sequence[int]) -> dict[str, Any]:
        if any(severity in chosen for _, severity in failed):
            return {"coverage": Estimate(None).to_json(), "size": Estimate(None).to_json()}
        return _measured([columns for (_, s), columns in measured.items() if s in chosen], resamples, seed)

    warned = [key for key, columns in measured.items() if _outlook(rule, columns)["broken"]]
    return {
        "score": value["score"],
        "coverage": value["coverage"],
        "by_class": value["by_class"],
        "calibration_images": sum(value["images"]),
        "clean": {
            **_measured([clean], resamples, seed),
            "empty": float((clean["set_size"] == 0).double().mean()),
            "outlook": _outlook(rule, clean),
            "classes": [_of_class(clean, labels == k, resamples, seed) for k in range(classes)],
        },
        "shift": None if not measured else {
            **mean(severities),
            "by_severity": [{"severity": s, **mean([s])} for s in severities],
            "conditions": [
                {"corruption": corruption, "severity": severity, "coverage": float(columns["covered"].mean()),
                 "size": float(columns["set_size"].mean()), "warned": (corruption, severity) in warned}
                for (corruption, severity), columns in measured.items()
            ],
        },
    }  # fmt: skip


def outlook_of(rule: SetRule | None, logits: Tensor) -> dict[str, Any] | None:
    """Whether the promise can be relied on for images without labels, of their logits `[N, C]`."""
    if rule is None:
        return None
    right, unfamiliar = rule.steps[0].usual(logits)
    return _outlook(rule, {"expected_right": right, "unfamiliar": unfamiliar})


def _outlook(rule: SetRule, columns: Mapping[str, Tensor]) -> dict[str, Any]:
    counts = (int(columns[name].sum()) for name in ("expected_right", "unfamiliar"))
    outlook = rule.outlook(len(columns["unfamiliar"]), *counts)
    return {
        "expected_accuracy": outlook.expected,
        "calibration_accuracy": outlook.accuracy,
        "unfamiliar": outlook.unfamiliar / max(1, outlook.images),
        "broken": outlook.broken,
        "words": str(outlook),
    }


def _measured(samples: Sequence[Mapping[str, Tensor]], resamples: int, seed: int) -> dict[str, Any]:
    """Coverage and size of one set of images or of several, as of the same images under corruptions."""
    covered, size = (_per_image([sample[name] for sample in samples]) for name in ("covered", "set_size"))
    if len(samples) == 1:
        hits, total = int(covered.sum()), len(covered)
        coverage = Estimate(hits / total, *accuracy_interval(hits, total))
    else:
        coverage = _mean(covered, resamples, seed, 1.0)
    return {"coverage": coverage.to_json(), "size": _mean(size, resamples, seed).to_json()}


def _per_image(columns: Sequence[Tensor]) -> Tensor:
    """The mean over conditions of each image `[N]`; of conditions with other images all of them one after the other."""
    alike = len({len(column) for column in columns}) == 1
    return torch.stack(list(columns)).double().mean(0) if alike else torch.cat(list(columns)).double()


def _mean(each: Tensor, resamples: int, seed: int, top: float = torch.inf) -> Estimate:
    value = float(each.mean())
    if not resamples or len(each) < FEWEST:
        return Estimate(value)
    low, high = bootstrap_interval(lambda w: w.double() @ each / len(each), len(each), resamples, seed).tolist()
    return Estimate(value, max(0.0, low), min(top, high))


def _of_class(columns: Columns, own: Tensor, resamples: int, seed: int) -> dict[str, Any] | None:
    """Of the images of a class; None where there are none."""
    if not bool(own.any()):
        return None
    return {"images": int(own.sum()), **_measured([{k: column[own] for k, column in columns.items()}], resamples, seed)}

"""The table of what a gate can ask of a model, and how a bar is written."""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from kedge.gate.measured import Measured, of_estimate, of_mean_share, of_shares
from kedge.own_code import near_names

__all__ = ["CRITERIA", "Bar", "Criterion", "as_gate", "failed_checks", "measuring"]

Record = Mapping[str, Any]
_AT_RISK = re.compile(r"(?P<coverage>[^@]+)@(?:risk)?(?P<risk>[^@]+)")


@dataclass(frozen=True)
class Bar:
    """What is asked for: a share in [0, 1]; `at` a coverage in (0, 1] where it is the risk of so many answers."""

    share: float
    at: float | None = None


@dataclass(frozen=True)
class Criterion:
    """One thing that can be asked of a model.

    Attributes:
        name: the key in the `gate` of a recipe, and the flag of `kedge check`.
        words: what is measured, with {at} for the coverage of the bar.
        better: "higher" or "lower" than the bar.
        measured: from the results, the model's entry in them and the bar to what was measured; None: it was not.
        flags: what `kedge evaluate` needs to measure it; "" for nothing.
        of_risk: whether a bar is a coverage and its risk, such as 0.8@risk0.02.
    """

    name: str
    words: str
    better: str
    measured: Callable[[Record, Record, Bar], Measured | None]
    flags: str = ""
    of_risk: bool = False

    def bar(self, written: Any, source: str = "") -> Bar:
        """The bar that is written so. Raises ValueError, which `source` begins, for what is none."""
        if not self.of_risk:
            return Bar(self._share(written, written, source))
        match = _AT_RISK.fullmatch(str(written))
        if match is None:
            raise ValueError(
                f"{source}{self.name} is a coverage and a risk, such as 0.8@risk0.02 (of the surest 80 % of answers "
                f"at most 2 % wrong), not {written!r}"
            )
        bar = Bar(self._share(match["risk"], written, source), self._share(match["coverage"], written, source))
        if bar.at == 0:
            raise ValueError(
                f"{source}{self.name}: without an answer there is no risk, so a coverage of 0 asks nothing"
            )
        return bar

    def _share(self, text: Any, written: Any, source: str) -> float:
        try:
            share = math.nan if isinstance(text, bool) else float(text)
        except (TypeError, ValueError):
            share = math.nan
        if not 0 <= share <= 1:
            raise ValueError(f"{source}{self.name} takes shares between 0 and 1, such as 0.9, not {written!r}")
        return share


def as_gate(values: Record, source: str = "") -> dict[str, Bar]:
    """Name of a criterion to its bar, of what a recipe or a command line says.

    Raises ValueError, which `source` begins, for a criterion that is none and for a bar that is none.
    """
    known = {criterion.name: criterion for criterion in CRITERIA}
    for name in values:
        if name not in known:
            near = near_names(str(name), list(known)) or f": it has {', '.join(known)}"
            raise ValueError(f"{source}a gate has no {name!r}{near}")
    return {name: known[name].bar(value, source) for name, value in values.items()}


def measuring(gate: Record) -> str:
    """The flags with which `kedge evaluate` measures all that a gate asks for; "" for none."""
    return " ".join(dict.fromkeys(c.flags for c in CRITERIA if c.name in gate and c.flags))


def _accuracy(results: Record, model: Record, bar: Bar) -> Measured | None:
    return _share(_clean(model, "accuracy"), results["data"]["images"])


def _worst_class(results: Record, model: Record, bar: Bar) -> Measured | None:
    by_class = _clean(model, "accuracy_by_class")
    if not by_class:
        return None
    names, shares = results["data"]["class_names"], by_class["accuracy"]
    counts = {
        names[c] if c < len(names) else str(c): (share or 0.0, images)
        for c, (share, images) in enumerate(zip(shares, by_class["images"], strict=True))
    }
    return of_shares(counts, each="class")


def _worst_group(results: Record, model: Record, bar: Bar) -> Measured | None:
    by_group = _clean(model, "accuracy_by_group")
    if not by_group:
        return None
    counts = {name: (own["value"] or 0.0, own["images"]) for name, own in by_group["groups"].items()}
    return of_shares(counts, each="group")


def _ece(results: Record, model: Record, bar: Bar) -> Measured | None:
    return of_estimate(_clean(model, "ece"), results["data"]["images"])


def _risk(results: Record, model: Record, bar: Bar) -> Measured | None:
    """Wrong answers among the surest: at the first point of the stored curve that answers as many as the bar asks."""
    curve = ((model.get("selective") or {}).get("curve") or {}).get("clean")
    if not curve or bar.at is None:
        return None
    points = zip(curve["coverage"], curve["risk"], strict=True)
    coverage, risk = next(((c, r) for c, r in points if c >= bar.at - 1e-5), (1.0, curve["risk"][-1]))
    images = results["data"]["images"]
    return of_shares({"": (risk, round(coverage * images))}, lowest=False, images=images)


def _unknown_answered(results: Record, model: Record, bar: Bar) -> Measured | None:
    """Foreign images with a label: neither unknown nor unsure, where the model has a rule for unknown ones."""
    by_rules = (model.get("refusal") or {}).get("ood") or {}
    given = {
        name: by_rules[name]["answered"]["value"] if name in by_rules else own.get("accepted")
        for name, own in (model.get("ood") or {}).items()
    }
    if not given or None in given.values() or set(results["ood_sets"]) - set(given):  # one could not be measured
        return None
    counts = {name: (share, results["ood_sets"][name]["images"]) for name, share in given.items()}
    return of_shares(counts, lowest=False, each="set" if len(counts) > 1 else "")


def _corrupted_accuracy(results: Record, model: Record, bar: Bar) -> Measured | None:
    return of_mean_share(_corrupted(model, "accuracy"), results["data"]["images"])


def _corrupted_ece(results: Record, model: Record, bar: Bar) -> Measured | None:
    return of_estimate(_corrupted(model, "ece"), results["data"]["images"])


def _attacked(results: Record, model: Record, bar: Bar) -> Measured | None:
    """The lowest accuracy under any of the attacks that were made; in doubt where their checks failed."""
    attacks = model.get("attacks") or {}
    if any(str(error["part"]).startswith("attack") for error in model.get("errors") or ()):
        return None  # what was to come after the one that broke was not made
    titles = Counter(own.get("title", name) for name, own in attacks.items())
    counts = {}
    for name, own in attacks.items():
        title = own.get("title", name)
        counts[title if titles[title] == 1 else name] = own["accuracy"]["value"], own["images"]
    most = max((images for _, images in counts.values()), default=0)
    measured = of_shares(counts, each="attack", images=most)
    failed = failed_checks(model)
    doubt = f"not to be believed: checks of the attack failed ({', '.join(failed)})" if failed else ""
    return measured and replace(measured, doubt=doubt)


def failed_checks(model: Record) -> list[str]:
    """The checks of the attack on a model that failed: its accuracy under attack is not to be believed."""
    return list(dict.fromkeys(check["check"] for check in model.get("sanity") or () if not check["ok"]))


def _corrupted(model: Record, key: str) -> Any:
    return ((model.get("shift") or {}).get("mean") or {}).get(key)


def _clean(model: Record, key: str) -> Any:
    return (model.get("clean") or {}).get(key)


def _share(estimate: Any, images: int) -> Measured | None:
    return None if not estimate else of_shares({"": (estimate["value"], images)})


CRITERIA = (
    Criterion("min_accuracy", "accuracy", "higher", _accuracy),
    Criterion("worst_class", "accuracy of the worst class", "higher", _worst_class),
    Criterion("worst_group", "accuracy of the worst group", "higher", _worst_group, "--groups WAY"),
    Criterion("max_ece", "calibration error (ECE)", "lower", _ece),
    Criterion("min_coverage", "wrong among the surest {at} of answers", "lower", _risk, of_risk=True),
    Criterion("max_unknown_answered", "foreign images answered", "lower", _unknown_answered, "--ood FOREIGN"),
    Criterion("min_corrupted_accuracy", "accuracy on corrupted images", "higher", _corrupted_accuracy,
              "--shift corruptions"),
    Criterion("max_corrupted_ece", "calibration error on corrupted images", "lower", _corrupted_ece,
              "--shift corruptions"),
    Criterion("min_attacked_accuracy", "accuracy under attack", "higher", _attacked, "--attack pgd"),
)  # fmt: skip

"""How many images may be answered so that at most a stated share of the answers is wrong."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from kedge.catalog import Info
from kedge.metrics._base import Answers, Metric
from kedge.metrics._results import Line
from kedge.metrics._selective import threshold_for_risk
from kedge.rejection import in_words, resolved, rule_from

info = Info(
    "Selective Classification for Deep Neural Networks", "Geifman & El-Yaniv", "NeurIPS", 2017,
    "https://arxiv.org/abs/1705.08500", "paper",
)  # fmt: skip
FEWEST = 20  # of a handful of images a share of risk says nothing


@dataclass(frozen=True)
class AtRisk:
    """The coverage with a risk, and the threshold for it; None: there is none."""

    risk: float
    coverage: float | None
    threshold: float | None
    log_odds: float | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class CoverageAtRisk(Metric):
    """The largest share of images that can be answered at the stated risk, found on these images themselves."""

    label = "answered"
    part = "selective"
    order = 230
    summary = ("selective",)
    results_key = "at_risk"

    def value(self, sample: Answers) -> float:
        return threshold_for_risk(sample["log_odds"], sample.correct, sample.settings["risk"])[1]

    def result(self, sample: Answers, value: float, center: float, draws: Tensor | None) -> AtRisk:
        risk = sample.settings["risk"]
        if len(sample) < FEWEST:
            return AtRisk(risk, None, None, None)
        limit, coverage = threshold_for_risk(sample["log_odds"], sample.correct, risk)
        rule = {"threshold": None, "log_odds": None} if limit is None else rule_from(limit)
        return AtRisk(risk, coverage, rule["threshold"], rule["log_odds"])

    def lines(self, values: Sequence[Any], class_names: Sequence[str]) -> list[Line]:
        risks = [v["risk"] for v in values if v and v.get("risk") is not None]
        if not risks:
            return []
        at = f"at {100 * risks[0]:g} % risk"
        thresholds = [resolved(v) if v and v.get("threshold") is not None else None for v in values]
        coverages = [v.get("coverage") if v else None for v in values]
        return [
            Line(f"answered {at}", coverages, "%", "higher"),
            Line(f"threshold {at}", thresholds, "confidence", None),
        ]

    def sentence(self, value: Any, class_names: Sequence[str]) -> str:
        if not value or value.get("risk") is None:
            return ""
        risk = f"{100 * value['risk']:g} %"
        if value["threshold"] is None or not value["coverage"]:
            return f"No threshold keeps its errors on these images at {risk} or below."
        return (
            f"To be wrong on at most {risk} of its answers to these images, it may answer "
            f"{100 * value['coverage']:.1f} % of them (above a confidence of {in_words(value, 2)}; the threshold was "
            "chosen on the same images)."
        )

    def numbers(self, value: Any, class_names: Sequence[str]) -> Iterator[tuple[str, str, Any]]:
        for key in ("risk", "coverage", "threshold", "log_odds"):
            yield "at risk", key, (value or {}).get(key)

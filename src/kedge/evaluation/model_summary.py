"""Everything that the results say about one model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kedge.confidence import log_odds
from kedge.data.groups import Groups
from kedge.evaluation.collect import Collected
from kedge.evaluation.comparing import Measured, compared_numbers
from kedge.evaluation.each_image import answers_record
from kedge.evaluation.evaluated_model import Subject
from kedge.evaluation.figures import example_images
from kedge.evaluation.ood import averaged, compared_outside, outside_summary, ready, separated
from kedge.evaluation.refusal import refusal_summary, unknown_of
from kedge.evaluation.runner import Columns, measure, outputs_from
from kedge.evaluation.set_coverage import coverage_summary, set_columns
from kedge.evaluation.sets import Condition, Sets
from kedge.evaluation.stability import rates
from kedge.evaluation.verdict import verdict
from kedge.metrics import aurc, bin_sums, joint_risk_coverage, reliability, risk_coverage
from kedge.metrics._base import Answers, metrics
from kedge.metrics._results import Estimate
from kedge.metrics._selective import accuracy_of_answered
from kedge.metrics._summary import Numbers, numbers
from kedge.rejection import answered, by_confidence
from kedge.scores import Score

POINTS = 200  # of a curve


@dataclass(frozen=True)
class Settings:
    """What the summaries of all models share.

    Of images to look at: how many of a kind are `examples`, how many stand `behind` the cells of a confusion matrix,
    the `files` of the test images, and the `thumbnails` that were drawn already.
    """

    bins: int
    resamples: int
    seed: int
    risk: float
    examples: int
    train_counts: Mapping[str, Sequence[int]]
    tpr: float | None = None
    separability: bool = False
    groups: Groups | None = None
    behind: int = 0
    files: Sequence[str] | None = None
    thumbnails: dict[int, str] = field(default_factory=dict)

    def answers(
        self,
        columns: Columns,
        probs: Tensor | None = None,
        labels: Tensor | None = None,
        name: str | None = None,
        **others: Any,
    ) -> Answers:
        """What a model answered, for the metrics; of a model by `name` with its numbers of training images.

        `others`: what some metrics go by, such as whether its classes are ordered.
        """
        counts = None if name is None else self.train_counts.get(name)
        more = {"risk": self.risk, "train_counts": counts, "groups": None if name is None else self.groups, **others}
        return Answers(columns, probs, labels, self.bins, self.resamples, self.seed, **more)


def about(
    subject: Subject,
    collected: Collected,
    sets: Sets,
    scores: Sequence[Score],
    groups: Mapping[str, str | None],
    pace: float,
    settings: Settings,
) -> tuple[dict[str, Any], Measured]:
    """(the model's entry in the results, what comparisons with other models need)."""
    data, logits = sets.test, collected.clean.tensors["logits"]
    clean = measure(logits, data.labels)
    if "uncertainty" in collected.clean.tensors:
        clean["uncertainty"] = collected.clean.tensors["uncertainty"]
    more = {
        "ordered": subject.model.ordered,
        "members": collected.clean.tensors.get("members"),
        "members_are": "members" if subject.model.of_members else "references",
    }
    answers = settings.answers(clean, logits.softmax(dim=1), data.labels, subject.name, **more)
    on_clean = numbers([answers], [m for m in metrics() if "clean" in m.places and m.applies(answers)])
    anywhere = [metric for metric in metrics() if "shift" in metric.places]
    samples = [settings.answers(columns) for columns in collected.shift.values()]
    shifted = numbers(samples, [m for m in anywhere if all(map(m.applies, samples))]) if samples else None
    renditions = {name: settings.answers(columns) for name, columns in collected.renditions.items()}
    rule = by_confidence(getattr(subject.model, "reject", None))
    # Where sets were equalised, familiar images are compared in that form, or not at all.
    familiar = collected.clean if sets.step is None else collected.inside
    outside = {name: outputs_from(part.tensors, subject) for name, part in collected.outside.items() if familiar}
    familiar = familiar or collected.clean
    within = outputs_from(familiar.tensors, subject)
    unknown = unknown_of(subject.model, outputs_from(collected.clean.tensors, subject))
    unknown_within = unknown if familiar is collected.clean else unknown_of(subject.model, within)
    training = None
    if collected.training is not None:
        training = (outputs_from(collected.training.tensors, subject), sets.training.labels)
    usable, skipped = ready(scores if outside else (), subject.fields, training, sets.why_no_training)
    histograms, ood, broken = outside_summary(
        within,
        outside,
        usable,
        rule,
        None if training is None else len(training[1]),
        settings.resamples,
        settings.seed,
        settings.tpr,
    )
    for record in ood.values():
        record["separability"] = None
    if settings.separability:
        for name, own in outside.items():
            ood[name]["separability"], why = separated(within, own, settings.seed)
            if why:
                broken["linear separability"] = why
    results = on_clean.results()
    entry = {
        **subject.description(tuple(data.image_shape)),
        "clean": clean_summary(results, answers),
        "shift": None if not collected.shift and not collected.failed
        else shift_summary(list(collected.shift), collected.failed, shifted),
        "shift_sets": {
            name: {**numbers([own], [m for m in anywhere if m.applies(own)]).results(), "reliability": diagram([own])}
            for name, own in renditions.items()
        },
        "scores": histograms,
        "ood": ood,
        "ood_groups": averaged(ood, groups),
        "skipped_scores": {**skipped, **broken},
        "selective": selective_summary(
            rule,
            results,
            clean,
            [] if collected.failed else list(collected.shift.values()),
            {name: log_odds(o.logits) for name, o in outside.items()},
            clean if familiar is collected.clean else measure(familiar.tensors["logits"], data.labels),
        ),
        "refusal": refusal_summary(subject.model, rule, within, unknown_within, data.labels, outside),
        "prediction_sets": coverage_summary(
            subject.set_rule,
            set_columns(subject.set_rule, logits, data.labels),
            data.labels,
            logits.shape[1],
            collected.shift,
            collected.failed,
            settings.resamples,
            settings.seed,
        ),
        "attacks": {},
        "attack_curve": None,
        "first_order": None,
        "sanity": [],
        **({} if collected.attacked is None else collected.attacked.entry()),
        "unlabelled": None,
        "stability": stability_summary(collected, clean["predicted"], data.image_shape, settings),
        "verdict": verdict(clean["log_odds"], clean["rank"] == 0, settings.risk),
        "answers": answers_record(clean, rule, unknown),
        "images": example_images(
            clean, data, sets.positions, settings.files, settings.examples, settings.behind, settings.thumbnails
        ),
        "timing": {
            "images_per_second": 1 / pace if pace > 0 else None,
            "device": str(subject.device),
        },
        "errors": collected.errors,
        "warnings": list(subject.warnings),
    }  # fmt: skip
    correct = {"clean": answers.correct}
    if collected.attacked is not None:
        correct |= collected.attacked.correct()
    compared = compared_numbers(on_clean, None if collected.failed else shifted)
    away = {name: outputs.logits for name, outputs in outside.items()}
    return entry, Measured(compared, correct, compared_outside(familiar.tensors["logits"], away, rule))


def stability_summary(
    collected: Collected, clean: Tensor, shape: Sequence[int], settings: Settings
) -> dict[str, Any] | None:
    """Both rates of stability; None where they were not asked for, or nothing could be measured."""
    if not collected.changed:
        return None
    answers = {name: (columns["predicted"], columns["confidence"]) for name, columns in collected.changed.items()}
    return rates(answers, clean, shape, settings.resamples, settings.seed)


def clean_summary(results: Mapping[str, Any], answers: Answers) -> dict[str, Any]:
    """What every metric of labelled images says on clean ones, and the reliability diagram."""
    parts: dict[str, dict[str, Any]] = {"clean": {}, "calibration": {}, "selective": {}}
    for metric in metrics():
        if "clean" in metric.places:
            parts[metric.part][metric.key] = results.get(metric.key)
    unbiased = {m.key: results[m.key] for m in metrics("clean") if m.unbiased}
    return {**parts["clean"], "reliability": diagram([answers]), "calibration": {**parts["calibration"], **unbiased}}


def diagram(samples: Sequence[Answers]) -> dict[str, Any]:
    """The reliability diagram of all samples together."""
    sums = [bin_sums(sample["confidence"], sample.correct, sample.bins) for sample in samples]
    return reliability(torch.stack(sums).sum(dim=0))


def shift_summary(
    conditions: Sequence[Condition], failed: Sequence[Condition], measured: Numbers | None
) -> dict[str, Any]:
    """Metrics under each corruption, mean by severity and overall; `measured` is of the conditions.

    A mean over conditions of which one failed is no mean: its values are None, and there is no diagram of them.
    """

    def mean(chosen: list[int], lost: bool) -> dict[str, Any]:
        if lost or not chosen or measured is None:
            return {m.key: Estimate(None).to_json() for m in metrics() if "shift" in m.places}
        return measured.of(chosen).results()

    severities = sorted({severity for _, severity in [*conditions, *failed]})
    return {
        "mean": mean(list(range(len(conditions))), bool(failed)),
        "by_severity": [
            {
                "severity": s,
                **mean([j for j, key in enumerate(conditions) if key[1] == s], any(f[1] == s for f in failed)),
            }
            for s in severities
        ],
        "conditions": [
            {"corruption": corruption, "severity": severity, **measured.of([j]).results()}
            for j, (corruption, severity) in enumerate(conditions)
            if measured
        ],
        "reliability": diagram(measured.samples) if measured and not failed else None,
    }


def selective_summary(
    rule: Mapping[str, Any] | None,
    results: Mapping[str, Any],
    clean: Columns,
    shifted: Sequence[Columns],
    outside: Mapping[str, Tensor],
    beside: Columns,
) -> dict[str, Any]:
    """Risk and coverage by confidence on clean images, on all shifted ones together, and with each unfamiliar set.

    Images are ranked by the log odds of their confidence. `rule` is the model's reject rule by confidence, or None:
    with one also coverage and accuracy where it answers. `shifted` is empty where a corruption failed. `results` are
    those of the metrics, `outside` has log odds `[M]`, and `beside` what clean images gave in the form in which they
    are compared with those.
    """
    together = (
        {name: torch.cat([c[name] for c in shifted]) for name in ("confidence", "log_odds", "rank")}
        if len(shifted)
        else None
    )

    def at(columns: Columns | None) -> dict[str, float | None] | None:
        if rule is None or columns is None:
            return None
        accepted = answered(rule, columns["confidence"], columns["log_odds"])
        coverage, accuracy = accuracy_of_answered(accepted, columns["rank"] == 0)
        return {"coverage": coverage, "accuracy": accuracy}

    stored = rule or {}
    return {
        "score": "confidence",
        "threshold": float(stored["threshold"]) if rule else None,
        "log_odds": stored.get("log_odds"),
        "wanted_coverage": stored.get("coverage"),
        "clean": at(clean),
        "shift": at(together),
        **{m.key: results.get(m.key) for m in metrics("selective")},
        "curve": {"clean": _curve(clean), "shift": None if together is None else _curve(together)},
        "joint": {name: _joint(beside["log_odds"], beside["rank"] == 0, away) for name, away in outside.items()},
    }


def _curve(columns: Columns) -> dict[str, list[float]]:
    return _thinned(*risk_coverage(columns["log_odds"], columns["rank"] == 0))


def _joint(odds: Tensor, correct: Tensor, outside: Tensor) -> dict[str, Any]:
    coverage, risk = joint_risk_coverage(odds, correct, outside)
    merged = torch.cat([correct, torch.zeros(len(outside), dtype=torch.bool)])
    return {**_thinned(coverage, risk), "aurc": float(aurc(torch.cat([odds, outside]), merged))}


def _thinned(coverage: Tensor, risk: Tensor) -> dict[str, list[float]]:
    """At most `POINTS` points of a curve, both ends among them."""
    index = torch.linspace(0, len(coverage) - 1, min(POINTS, len(coverage))).round().long().unique()
    curves = {"coverage": coverage[index], "risk": risk[index]}
    return {name: [round(value, 5) for value in values.tolist()] for name, values in curves.items()}

"""Everything that the results say about one model."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from kedge.confidence import log_odds
from kedge.evaluation.comparing import Measured
from kedge.evaluation.evaluated_model import Subject
from kedge.evaluation.examples import example_images
from kedge.evaluation.inference_runner import measure, outputs_from
from kedge.evaluation.ood import averaged, compared_outside, outside_summary, ready
from kedge.evaluation.runner import Collected
from kedge.evaluation.selective import selective_summary
from kedge.evaluation.summaries import clean_summary, draw, estimates, shift_summary
from kedge.metrics import bin_sums, reliability
from kedge.rejection import by_confidence
from kedge.scores import Score


@dataclass(frozen=True)
class Settings:
    """What the summaries of all models share."""

    bins: int
    resamples: int
    seed: int
    risk: float
    examples: int
    equalised: bool


def about(
    subject: Subject,
    found: Collected,
    data: Any,
    positions: Tensor,
    training_labels: Tensor | None,
    no_training: str,
    scores: Sequence[Score],
    groups: Mapping[str, str | None],
    pace: float,
    settings: Settings,
) -> tuple[dict[str, Any], Measured]:
    """(the model's entry in the results, what comparisons with other models need)."""
    bins, n, seed = settings.bins, settings.resamples, settings.seed
    logits = found.clean.tensors["logits"]
    clean = measure(logits, data.labels)
    if "uncertainty" in found.clean.tensors:
        clean["uncertainty"] = found.clean.tensors["uncertainty"]
    shifted = list(found.shift.values())
    drawn = draw([clean, *shifted], bins, n, seed)
    rule = by_confidence(getattr(subject.model, "reject", None))
    # Where sets were equalised, familiar images are compared in that form, or not at all.
    familiar = found.inside if settings.equalised else found.clean
    outside = {name: outputs_from(kept.tensors, subject) for name, kept in found.outside.items() if familiar}
    familiar = familiar or found.clean
    training = None
    if found.training is not None and training_labels is not None:
        training = (outputs_from(found.training.tensors, subject), training_labels)
    usable, skipped = ready(scores if outside else (), subject.fields, training, no_training)
    selective = selective_summary(
        rule,
        clean,
        shifted,
        {name: log_odds(o.logits) for name, o in outside.items()},
        clean if familiar is found.clean else measure(familiar.tensors["logits"], data.labels),
        settings.risk,
        n,
        seed,
    )
    histograms, ood, broken = outside_summary(
        outputs_from(familiar.tensors, subject),
        outside,
        usable,
        rule,
        None if training is None else len(training[1]),
        n,
        seed,
    )
    renditions = {}
    for name, columns in found.renditions.items():
        renditions[name] = {
            **estimates(draw([columns], bins, n, seed)),
            "reliability": reliability(bin_sums(columns["confidence"], columns["rank"] == 0, bins)),
        }
    entry = {
        **subject.description(tuple(data.image_shape)),
        "clean": clean_summary(clean, logits, data.labels, estimates(drawn.of([0])), bins, n, seed),
        "shift": shift_summary(found.shift, found.failed, drawn.of(range(1, 1 + len(shifted))), bins),
        "shift_sets": renditions,
        "scores": histograms,
        "ood": ood,
        "ood_groups": averaged(ood, groups),
        "skipped_scores": {**skipped, **broken},
        "selective": selective,
        "attacks": {},
        "attack_curve": None,
        "sanity": [],
        **({} if found.attacked is None else found.attacked.entry()),
        "unlabelled": None,
        "images": example_images(clean, data, positions, settings.examples),
        "timing": {
            "images_per_second": 1 / pace if pace > 0 else None,
            "device": str(subject.device),
        },
        "errors": found.errors,
        "warnings": list(subject.warnings),
    }
    correct = {"clean": clean["rank"] == 0}
    if found.attacked is not None:
        correct |= found.attacked.correct()
    compared = drawn.of([0]) if found.failed else drawn
    away = {name: outputs.logits for name, outputs in outside.items()}
    share = compared_outside(familiar.tensors["logits"], away, rule)
    return entry, Measured(compared.values, compared.draws, correct, compared.corrected, share)

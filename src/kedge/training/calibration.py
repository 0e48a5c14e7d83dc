"""What is set on validation images, thresholds and temperature, and what a model is worth on them."""

import logging
import warnings
from typing import Any

import torch
from torch import Tensor

from kedge import catalog, metrics
from kedge.anchoring import PixelModel
from kedge.anchoring.prototypes import reads_features
from kedge.checks import unlike_classes
from kedge.confidence import log_odds
from kedge.data import ImageSet
from kedge.data.sets import check_set
from kedge.own_code import near_names
from kedge.postprocess import kind_of, trained_through
from kedge.postprocess.temperature import fit_temperature
from kedge.rejection import by_confidence, rule_from
from kedge.training.recipe import Recipe
from kedge.training.unknown_rule import rule_anew

__all__ = [
    "calibrate",
    "fit_temperature",
    "judge",
    "measures",
    "predict_familiar",
    "predict_logits",
    "predict_set",
    "reject_rule",
    "rows_at_a_time",
    "run_logits",
    "set_anew",
]

log = logging.getLogger("kedge")


@torch.no_grad()
def predict_logits(
    model: PixelModel, images: ImageSet, batch_size: int = 256, workers: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits `[N, C]` and labels `[N]` of a whole set, with the model's whole bank and steps, on the CPU."""
    return predict_familiar(model, images, batch_size, workers)[:2]


@torch.no_grad()
def predict_familiar(
    model: PixelModel, images: ImageSet, batch_size: int = 256, workers: int = 0
) -> tuple[Tensor, Tensor, Tensor | None]:
    """As `predict_logits`, and how familiar the images are `[N]`, of a model with a rule by prototypes, else None."""
    device = model.mean.device
    logits, labels, familiar = [], [], []
    for batch, target in images.batches(batch_size, workers):
        prediction = model.predict(batch.to(device).float() / 255)
        logits.append(prediction.logits.float().cpu())
        labels.append(target)
        familiar += [] if prediction.familiarity is None else [prediction.familiarity.float().cpu()]
    return torch.cat(logits), torch.cat(labels), torch.cat(familiar) if familiar else None


def rows_at_a_time(recipe: Recipe) -> int:
    """How many images go through the network at a time where a run looks at its validation images."""
    return max(64, recipe.batch_size or 0)


def run_logits(model: PixelModel, images: ImageSet, recipe: Recipe) -> tuple[torch.Tensor, torch.Tensor]:
    """`predict_logits` as a run does it: of the model moved to its device, in its batches, with its workers."""
    model.to(torch.device(recipe.device))
    return predict_logits(model, images, rows_at_a_time(recipe), recipe.workers or 0)


def predict_set(
    model: PixelModel, images: ImageSet, batch_size: int = 256, workers: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities `[N, C]` and labels `[N]` of a whole set, as `predict_logits`."""
    logits, labels = predict_logits(model, images, batch_size, workers)
    return logits.softmax(1), labels


def reject_rule(
    logits: torch.Tensor, labels: torch.Tensor, coverage: float | None = None, risk: float | None = None
) -> dict[str, Any]:
    """The rule stored with a model, from logits `[N, C]`: answer where the confidence is at least `threshold`.

    The threshold is the highest that keeps at least `coverage` of these (validation) images, or with `risk` the one
    that keeps the most of them with at most that share of wrong answers. Where none does, a warning says so, and the
    threshold is above the confidence of all of them. `log_odds` is the same threshold, on the scale that is compared:
    it tells apart answers whose confidence is 1 in float32.
    """
    odds, correct = log_odds(logits), logits.argmax(1) == labels
    if risk is None:
        assert coverage is not None
        least = metrics.threshold_for_coverage(odds, coverage)
    else:
        fitting, _ = metrics.threshold_for_risk(odds, correct, risk)
        if fitting is None:
            warnings.warn(
                f"no threshold brings the share of wrong answers among {len(labels)} validation images down to {risk}: "
                "the model will reject whatever is not surer than all of them",
                stacklevel=2,
            )
        above = torch.nextafter(odds.max(), odds.new_tensor(torch.inf))
        least = float(above) if fitting is None else fitting
    answered, accuracy = metrics.selective_accuracy(odds, correct, least)
    return {
        "score": "confidence",
        **rule_from(least, met=answered > 0),
        **({"coverage": coverage} if risk is None else {"risk": risk}),
        "validation_coverage": answered,
        "validation_accuracy": accuracy,
    }


def calibrate(
    model: PixelModel,
    validation: ImageSet,
    step: str = "temperature",
    *,
    batch_size: int = 256,
    workers: int = 0,
    measured: tuple[Tensor, Tensor] | None = None,
    **stated: Any,
) -> dict[str, Any]:
    """Set a step of `kedge.postprocess` on validation images: a temperature, fitted; and the reject threshold anew.

    "prediction_sets" leave logits and reject threshold as they are, and rest on the steps before them.

    The images must be such as the model was not trained on, and are not to be those that it is judged by. An earlier
    step of this name is replaced if it was fitted, and refused if it changes labels: twice is no correction.
    Confidences change, so stored thresholds, for unsure and for unknown, are derived again from the same images for the
    same goals; `model.remove_step(step)` brings the old ones back with the old logits. All references of the bank are
    used, as `predict` does.

    Args:
        model: a classifier of `kedge.anchor`, `kedge.plain` or `kedge.load`; changed in place.
        validation: the images, with the classes of the model in its order.
        step: the name of the step.
        batch_size: images that go through the network at a time.
        workers: processes that decode images.
        measured: logits `[N, C]` without the step, after those before it, and labels `[N]` of those images, if they are
            known already.
        stated: what the step takes, such as `prior="uniform"` and `train_prior` of "class_prior", or `coverage`, `sets`
            and `by_class` of "prediction_sets". What is None is as if
            it were left out; `train_counts` is for the steps that ask.

    Returns:
        The record of the step: value, fitted_on, images, and nll, ece (and accuracy, where labels change) before and
        after on these images; of prediction sets instead how many references were asked, mean size, share of empty ones
        and accuracy on these images.

    Raises:
        ValueError: for a regression model, other classes, no images, logits that are not finite, a step that is there
            already or that others were set after, or values that it does not take.
    """
    step = catalog.resolve("postprocess", step)
    kind = kind_of(step)
    if kind.stage < 0:
        raise ValueError(
            f"a {step} is set on no images: a model has it that was trained through it, and no other may have it"
        )
    if model.task != "classification":
        raise ValueError(f"a {step} is for classification, and the task of this model is {model.task}")
    check_set(validation, "validation images")
    if len(validation) == 0:
        raise ValueError(f"{validation.name} ({validation.split}) holds no images to set a {step} on")
    own, names = model.class_names or model.num_outputs, (validation.name, "the model")
    if (unlike := unlike_classes(validation.class_names, own, names)) is not None:
        raise ValueError(f"the classes of {validation.name} ({validation.split}) are not those of the model: {unlike}")
    takes = [name for name in catalog.arguments(kind.fit) if name not in ("cls", "logits", "labels")]
    asked = [name for name in takes if name != "class_names"]
    stated = {name: value for name, value in stated.items() if value is not None}
    if "train_counts" not in takes:
        stated.pop("train_counts", None)  # the run knows it, and nobody stated it
    if wrong := [name for name in stated if name not in asked]:
        raise ValueError(f"{step} takes no {wrong[0]}: {stated[wrong[0]]!r}{near_names(wrong[0], asked)}")
    if step in model.steps and kind.changes_labels:
        raise ValueError(f"the model has a {step} already, and a second one would count twice: take that out first")
    if later := [name for name in model.steps if kind_of(name).stage > kind.stage]:
        raise ValueError(f"{later[-1]} was set on answers of the model without a new {step}: take it out first")
    if kind.changes_labels and model.reject is not None and not _goal(model.reject):
        raise ValueError(
            "the model has a reject threshold, and it is not stored what that was set for: with other labels it would "
            "say nothing. Take it out first (model.reject = None)"
        )
    earlier = dict(model.steps), model.reject, model.unknown
    if step in model.steps:
        model.remove_step(step)
    try:
        logits, labels = measured or predict_logits(model, validation, batch_size, workers)
        known = {"class_names": model.class_names} if "class_names" in takes else {}
        value = kind.fit(logits, labels, **known, **stated)
        kind(value).check(model.num_outputs)
    except BaseException:
        model.steps, model.reject, model.unknown = earlier
        raise
    record: dict[str, Any] = {"fitted_on": f"{validation.name} ({validation.split})", "images": len(labels)}
    if kind.keeps_logits:  # and with them the reject threshold
        model.set_step(step, value, **record, references=model.count(), **kind(value).facts(logits, labels))
        return model.steps[step]
    new = kind(value)(logits)
    before, after = measures(logits, labels), measures(new, labels)
    for name in ("nll", "ece", *(["accuracy"] if kind.changes_labels else [])):
        record |= {f"{name}_before": before[name], f"{name}_after": after[name]}
    rule = model.reject
    goal = _goal(rule)
    if goal:
        record["reject_before"] = rule
        model.reject = reject_rule(new, labels, **goal)
    if model.unknown is not None and not reads_features(model.unknown):  # which no step changes
        record["unknown_before"] = model.unknown
        model.unknown = rule_anew(model.unknown, new)
    model.set_step(step, value, **record)
    return model.steps[step]


def set_anew(model: PixelModel, validation: ImageSet, batch_size: int = 64) -> None:
    """Set steps and thresholds of a model anew, whose answers are no longer those that they were set on.

    What was fitted is fitted again, what was stated stays; the threshold is for the same coverage or risk.
    """
    records = {name: record for name, record in model.steps.items() if name not in trained_through(model.steps)}
    for name in reversed(records):
        model.remove_step(name)
    goal = _goal(model.reject)
    logits, labels, familiar = predict_familiar(model, validation, batch_size)
    if goal and all(kind_of(name).keeps_logits for name in records):
        model.reject = reject_rule(logits, labels, **goal)
    if model.unknown is not None:
        model.unknown = rule_anew(model.unknown, logits, familiar)
    for name, record in records.items():
        kind = kind_of(name)
        if kind.changes_labels:
            after = kind(record["value"])(logits)
            stated = {"value": record["value"], **({"reject_before": model.reject} if goal else {})}
            if model.unknown is not None and not reads_features(model.unknown):
                stated["unknown_before"], model.unknown = model.unknown, rule_anew(model.unknown, after)
            model.set_step(name, **stated)
            model.reject = reject_rule(after, labels, **goal) if goal else model.reject
        else:
            calibrate(model, validation, name, measured=(logits, labels), **kind(record["value"]).again())
            after = kind(model.steps[name]["value"])(logits)
        logits = after


def _goal(rule: Any) -> dict[str, Any]:
    """What a reject rule about confidence was set for, {"coverage": c} or {"risk": r}; empty if that is not known."""
    if by_confidence(rule) is None:
        return {}
    return {key: rule[key] for key in ("coverage", "risk") if rule.get(key) is not None}


def judge(
    model: PixelModel, recipe: Recipe, images: ImageSet, logits: Tensor, labels: Tensor, warn: bool = True
) -> dict[str, float]:
    """Set the reject threshold of `model`, and the temperature if one is wanted; gives accuracy, nll and ece.

    By logits `[N, C]` and labels `[N]` of `images`. With folds in the recipe they are those of all folds, by models
    that did not see them, and the rule says so. `warn`: say what is to be said of the temperature.
    """
    model.reject = reject_rule(logits, labels, recipe.coverage, recipe.risk)
    if recipe.temperature:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            logits = logits / calibrate(model, images, measured=(logits, labels))["value"]
        for warning in caught if warn else []:
            log.warning("%s", warning.message)
    if recipe.folds:
        model.reject = {**model.reject, "folds": recipe.folds}
    return measures(logits, labels)


def measures(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy, nll and ece of logits `[N, C]`."""
    probs = logits.softmax(1)
    return {
        "accuracy": float(metrics.accuracy(probs, labels)),
        "nll": float(metrics.nll(probs, labels)),
        "ece": float(metrics.calibration_error(probs, labels)),
    }

"""Steps after the logits, set on validation images: a temperature that is fitted, a class prior that is stated."""

from typing import Any

from torch import Tensor

from kedge import catalog, metrics
from kedge.anchoring import PixelModel
from kedge.checks import unlike_classes
from kedge.data import ImageSet
from kedge.data.sets import check_set
from kedge.own_code import near_names
from kedge.postprocess import kind_of
from kedge.postprocess.temperature import fit_temperature
from kedge.rejection import by_confidence
from kedge.training.threshold import predict_logits, reject_rule

__all__ = ["calibrate", "fit_temperature", "set_anew"]


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

    The images must be such as the model was not trained on, and are not to be those that it is judged by. An earlier
    step of this name is replaced if it was fitted, and refused if it changes labels: twice is no correction.
    Confidences change, so a stored reject threshold is derived again from the same images for the same goal;
    `model.remove_step(step)` brings the old one back with the old logits. All references of the bank are used, as
    `predict` does.

    Args:
        model: a classifier of `kedge.anchor`, `kedge.plain` or `kedge.load`; changed in place.
        validation: the images, with the classes of the model in its order.
        step: the name of the step.
        batch_size: images that go through the network at a time.
        workers: processes that decode images.
        measured: logits `[N, C]` without the step, after those before it, and labels `[N]` of those images, if they are
            known already.
        stated: what the step takes, such as `prior="uniform"` and `train_prior` of "class_prior". What is None is as if
            it were left out; `train_counts` is for the steps that ask.

    Returns:
        The record of the step: value, fitted_on, images, and nll, ece (and accuracy, where labels change) before and
        after on these images.

    Raises:
        ValueError: for a regression model, other classes, no images, logits that are not finite, a step that is there
            already or that others were set after, or values that it does not take.
    """
    step = catalog.resolve("postprocess", step)
    kind = kind_of(step)
    if model.task != "classification":
        raise ValueError(f"a {step} is for classification, and the task of this model is {model.task}")
    check_set(validation, "validation images")
    if len(validation) == 0:
        raise ValueError(f"{validation.name} ({validation.split}) holds no images to set a {step} on")
    own, names = model.class_names or model.num_outputs, (validation.name, "the model")
    if (unlike := unlike_classes(validation.class_names, own, names)) is not None:
        raise ValueError(f"the classes of {validation.name} ({validation.split}) are not those of the model: {unlike}")
    takes = [name for name in catalog.arguments(kind.fit) if name not in ("cls", "logits", "labels")]
    stated = {name: value for name, value in stated.items() if value is not None}
    if "train_counts" not in takes:
        stated.pop("train_counts", None)  # the run knows it, and nobody stated it
    if wrong := [name for name in stated if name not in takes]:
        raise ValueError(f"{step} takes no {wrong[0]}: {stated[wrong[0]]!r}{near_names(wrong[0], takes)}")
    if step in model.steps and kind.changes_labels:
        raise ValueError(f"the model has a {step} already, and a second one would count twice: take that out first")
    if later := [name for name in model.steps if kind_of(name).stage > kind.stage]:
        raise ValueError(f"{later[-1]} was set on answers of the model without a new {step}: take it out first")
    if kind.changes_labels and model.reject is not None and not _goal(model.reject):
        raise ValueError(
            "the model has a reject threshold, and it is not stored what that was set for: with other labels it would "
            "say nothing. Take it out first (model.reject = None)"
        )
    earlier = dict(model.steps), model.reject
    if step in model.steps:
        model.remove_step(step)
    try:
        logits, labels = measured or predict_logits(model, validation, batch_size, workers)
        value = kind.fit(logits, labels, **stated)
        kind(value).check(model.num_outputs)
    except BaseException:
        model.steps, model.reject = earlier
        raise
    new = kind(value)(logits)
    before, after = logits.softmax(1), new.softmax(1)
    record: dict[str, Any] = {
        "fitted_on": f"{validation.name} ({validation.split})",
        "images": len(labels),
        "nll_before": float(metrics.nll(before, labels)),
        "nll_after": float(metrics.nll(after, labels)),
        "ece_before": float(metrics.calibration_error(before, labels)),
        "ece_after": float(metrics.calibration_error(after, labels)),
    }
    if kind.changes_labels:
        record["accuracy_before"] = float(metrics.accuracy(before, labels))
        record["accuracy_after"] = float(metrics.accuracy(after, labels))
    rule = model.reject
    goal = _goal(rule)
    if goal:
        record["reject_before"] = rule
        model.reject = reject_rule(new, labels, **goal)
    model.set_step(step, value, **record)
    return model.steps[step]


def set_anew(model: PixelModel, validation: ImageSet, batch_size: int = 64) -> None:
    """Set steps and reject threshold of a model anew, whose answers are no longer those that they were set on.

    What was fitted is fitted again, what was stated stays; the threshold is for the same coverage or risk.
    """
    records = dict(model.steps)
    for name in reversed(records):
        model.remove_step(name)
    goal = _goal(model.reject)
    logits, labels = predict_logits(model, validation, batch_size)
    if goal and not records:
        model.reject = reject_rule(logits, labels, **goal)
    for name, record in records.items():
        kind = kind_of(name)
        if kind.changes_labels:
            after = kind(record["value"])(logits)
            stated = {"value": record["value"], **({"reject_before": model.reject} if goal else {})}
            model.set_step(name, **stated)
            model.reject = reject_rule(after, labels, **goal) if goal else model.reject
        else:
            calibrate(model, validation, name, measured=(logits, labels))
            after = kind(model.steps[name]["value"])(logits)
        logits = after


def _goal(rule: Any) -> dict[str, Any]:
    """What a reject rule about confidence was set for, {"coverage": c} or {"risk": r}; empty if that is not known."""
    if by_confidence(rule) is None:
        return {}
    return {key: rule[key] for key in ("coverage", "risk") if rule.get(key) is not None}

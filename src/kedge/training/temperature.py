"""Temperature scaling (Guo et al., ICML 2017): one number for all logits, fitted on validation images."""

import math
import warnings
from typing import Any

import torch
from torch import Tensor

from kedge import metrics
from kedge.anchoring import PixelModel
from kedge.checks import unlike_classes
from kedge.data import ImageSet
from kedge.data.sets import check_set
from kedge.rejection import by_confidence
from kedge.training.threshold import predict_logits, reject_rule

__all__ = ["BOUNDS", "calibrate", "fit_temperature"]

BOUNDS = (0.01, 100.0)
_ROWS = 1 << 22  # values whose float64 copies are held at once


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The T > 0 for which softmax(logits / T) has the smallest mean NLL on these labels.

    `logits` `[N, C]` as the network gives them, `labels` `[N]` class indices, of images that the network was not
    trained on. The NLL is convex in 1/T; Newton's steps, kept inside a bracket, find its minimum in float64. Where
    the images cannot decide T, a warning says why and T stays 1: every answer is right (the NLL only falls as T goes
    to 0), or T changes nothing (one class, equal or saturated logits). A minimum outside 0.01..100 is cut off there,
    with a warning.

    Raises:
        ValueError: for other shapes, labels out of range, no rows, NaN or infinity.
    """
    _check(logits, labels)
    logits, labels = logits.detach().cpu(), labels.detach().cpu().long()
    own = logits.gather(1, labels[:, None])[:, 0]
    margin = own - logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    if logits.shape[1] > 1 and bool((margin >= 0).all() & (margin > 0).any()):
        warnings.warn(
            f"all {len(labels)} answers are right, so the NLL only falls as the temperature goes to 0: these images "
            "cannot decide it, and it stays 1. Take more of them, or harder ones",
            stacklevel=2,
        )
        return 1.0
    low, high = 1 / BOUNDS[1], 1 / BOUNDS[0]
    (at_low, _), (at_high, _) = _slope(logits, labels, low), _slope(logits, labels, high)
    if at_low == at_high == 0:
        warnings.warn(
            f"no temperature changes the NLL of these {len(labels)} images (one class, or equal logits): it stays 1",
            stacklevel=2,
        )
        return 1.0
    for beyond, bound in ((at_low >= 0, BOUNDS[1]), (at_high <= 0, BOUNDS[0])):
        if beyond:
            warnings.warn(
                f"the NLL of these {len(labels)} images has its minimum beyond a temperature of {bound:g}, where it is "
                "cut off: the logits are hardly better than chance, or of a strange scale",
                stacklevel=2,
            )
            return bound
    inverse = 1.0
    for _ in range(200):
        slope, curvature = _slope(logits, labels, inverse)
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        step = inverse - slope / curvature if curvature > 0 else math.nan
        new = step if low < step < high else math.sqrt(low * high)
        if abs(new - inverse) <= 1e-12 * inverse or slope == 0:
            break
        inverse = new
    return 1 / inverse


def _slope(logits: Tensor, labels: Tensor, inverse: float) -> tuple[float, float]:
    """First and second derivative of the mean NLL of softmax(logits * inverse) by `inverse`."""
    slope = curvature = 0.0
    rows = max(1, _ROWS // logits.shape[1])
    for z, y in zip(logits.split(rows), labels.split(rows), strict=True):
        z = z.double()
        z = z - z.gather(1, y[:, None])  # so that the label's own logit is 0
        p = (z * inverse).softmax(1)
        mean = (p * z).sum(1)
        slope += float(mean.sum())
        curvature += float((p * (z - mean[:, None]).square()).sum())
    return slope / len(labels), curvature / len(labels)


def _check(logits: Tensor, labels: Tensor) -> None:
    if logits.ndim != 2 or not logits.is_floating_point() or labels.shape != logits.shape[:1] or len(labels) == 0:
        raise ValueError(
            f"logits must be floating point [N, C] and labels [N], N >= 1, but they are {logits.dtype} "
            f"{list(logits.shape)} and {list(labels.shape)}"
        )
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be integer class indices, but their dtype is {labels.dtype}")
    if bool(((labels < 0) | (labels >= logits.shape[1])).any()):
        raise ValueError(
            f"labels must be in 0..{logits.shape[1] - 1}, but they are in {int(labels.min())}..{int(labels.max())}"
        )
    if broken := int((~logits.isfinite()).any(1).sum()):
        raise ValueError(f"{broken} of {len(logits)} rows of logits hold NaN or infinity: no temperature can be fitted")


def calibrate(
    model: PixelModel,
    validation: ImageSet,
    *,
    batch_size: int = 256,
    workers: int = 0,
    measured: tuple[Tensor, Tensor] | None = None,
) -> dict[str, Any]:
    """Fit a temperature on validation images, set it as a step of `model`, and set the reject threshold anew.

    The images must be such as the model was not trained on, and are not to be those that it is judged by. An earlier
    temperature is replaced. Confidences change, so a stored reject threshold is derived again from the same images for
    the same coverage or risk; `model.remove_step("temperature")` brings the old one back with the old logits. All
    references of the bank are used, as `predict` does.

    Args:
        model: a classifier of `kedge.anchor`, `kedge.plain` or `kedge.load`; changed in place.
        validation: the images, with the classes of the model in its order.
        batch_size: images that go through the network at a time.
        workers: processes that decode images.
        measured: logits `[N, C]` without a temperature and labels `[N]` of those images, if they are known already.

    Returns:
        The record of the step: value, fitted_on, images, and nll and ece before and after.

    Raises:
        ValueError: for a regression model, other classes, no images, or logits that are not finite.
    """
    if model.task != "classification":
        raise ValueError(f"a temperature is for classification, and the task of this model is {model.task}")
    check_set(validation, "validation images")
    if len(validation) == 0:
        raise ValueError(f"{validation.name} ({validation.split}) holds no images to fit a temperature on")
    own, names = model.class_names or model.num_outputs, (validation.name, "the model")
    if (unlike := unlike_classes(validation.class_names, own, names)) is not None:
        raise ValueError(f"the classes of {validation.name} ({validation.split}) are not those of the model: {unlike}")
    earlier = dict(model.steps), model.reject
    if "temperature" in model.steps:
        model.remove_step("temperature")
    try:
        logits, labels = measured or predict_logits(model, validation, batch_size, workers)
        value = fit_temperature(logits, labels)
    except BaseException:
        model.steps, model.reject = earlier
        raise
    before, after = logits.softmax(1), (logits / value).softmax(1)
    record: dict[str, Any] = {
        "fitted_on": f"{validation.name} ({validation.split})",
        "images": len(labels),
        "nll_before": float(metrics.nll(before, labels)),
        "nll_after": float(metrics.nll(after, labels)),
        "ece_before": float(metrics.calibration_error(before, labels)),
        "ece_after": float(metrics.calibration_error(after, labels)),
    }
    rule = model.reject
    wanted = {key: rule[key] for key in ("coverage", "risk") if rule and rule.get(key) is not None}
    if by_confidence(rule) is not None and wanted:
        record["reject_before"] = rule
        model.reject = reject_rule(logits / value, labels, **wanted)
    model.set_temperature(value, **record)
    return model.steps["temperature"]

"""What a model is worth on labelled images, and the reject threshold and the temperature that are set on them."""

import logging
import warnings

from torch import Tensor

from kedge import metrics
from kedge.anchoring import PixelModel
from kedge.data import ImageSet
from kedge.training.calibration import calibrate
from kedge.training.recipe import Recipe
from kedge.training.threshold import reject_rule

__all__ = ["judge", "measures"]

log = logging.getLogger("kedge")


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

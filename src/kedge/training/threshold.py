"""What a model answers to a whole set, and the reject threshold that is set by it."""

import warnings
from typing import Any

import torch

from kedge import metrics
from kedge.anchoring import PixelModel
from kedge.confidence import log_odds
from kedge.data import ImageSet
from kedge.rejection import rule_from

__all__ = ["predict_logits", "predict_set", "reject_rule"]


@torch.no_grad()
def predict_logits(
    model: PixelModel, images: ImageSet, batch_size: int = 256, workers: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits `[N, C]` and labels `[N]` of a whole set, with the model's whole bank and steps, on the CPU."""
    device = model.mean.device
    logits, labels = [], []
    for batch, target in images.batches(batch_size, workers):
        prediction = model.predict(batch.to(device).float() / 255)
        logits.append(prediction.logits.float().cpu())
        labels.append(target)
    return torch.cat(logits), torch.cat(labels)


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
    kept, accuracy = metrics.selective_accuracy(odds, correct, least)
    return {
        "score": "confidence",
        **rule_from(least, met=kept > 0),
        **({"coverage": coverage} if risk is None else {"risk": risk}),
        "validation_coverage": kept,
        "validation_accuracy": accuracy,
    }

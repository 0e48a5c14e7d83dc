"""What a prediction holds, and how K reference-wise logits become one."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kedge.anchoring.stem import at_least_float32

RECALIBRATIONS = ("exp", "divide")


@dataclass(frozen=True)
class Prediction:
    """What a model says about a batch of B images.

    Attributes:
        logits: `[B, C]`, the mean over references (recalibrated if that was asked for, else divided by the model's
            temperature if it has one).
        probs: `[B, C]`, softmax of `logits`; None for regression.
        label: `[B]` int64, the most probable class; None for regression.
        confidence: `[B]` in [0, 1], the probability of `label`; None for regression.
        uncertainty: disagreement between references, higher = less sure. Classification `[B]`: the mean over
            classes of the standard deviation over references of the sigmoid of the logits (Δ-UQ,
            arXiv 2207.07235). Regression `[B, C]`: the standard deviation over references. None with fewer than
            two references, where there is nothing to disagree.
        per_reference: `[K, B, C]` logits for each reference, if they were asked for; of no temperature.
    """

    logits: Tensor
    probs: Tensor | None
    label: Tensor | None
    confidence: Tensor | None
    uncertainty: Tensor | None
    per_reference: Tensor | None = None


def summarise(
    per_reference: Tensor,
    task: str,
    recalibrate: str | None = None,
    keep_per_reference: bool = False,
    temperature: float | None = None,
) -> Prediction:
    """Turn logits `[K, B, C]`, one set for each reference, into a `Prediction`.

    `recalibrate` is the published correction of the mean logits μ by c, the mean over classes of the standard
    deviation of the sigmoid logits: "exp" is μ / (1 + exp(c)) (the authors on CIFAR), "divide" is μ / c (on
    ImageNet). The first divides by about 2 whatever the data: a temperature chosen without validation data. It takes
    the place of `temperature`, by which μ is divided otherwise.

    Raises:
        ValueError: for an unknown `recalibrate`, fewer than two references with it, or a regression task.
    """
    # Half precision is averaged in float32.
    per_reference = per_reference.to(at_least_float32(per_reference))
    logits = per_reference.mean(0)
    spread = None
    if len(per_reference) > 1:
        values = per_reference if task == "regression" else per_reference.sigmoid()
        # torch.std warns of an empty batch, which has an empty answer.
        spread = values.std(0) if values.numel() else values[0]
        spread = spread if task == "regression" else spread.mean(-1)
    if recalibrate is not None:
        if recalibrate not in RECALIBRATIONS:
            raise ValueError(f"recalibrate must be one of {RECALIBRATIONS} or None, got {recalibrate!r}")
        if task == "regression" or spread is None:
            why = "the task is regression" if task == "regression" else "there is one reference"
            raise ValueError(f"recalibrate={recalibrate!r} needs a classifier and two or more references, but {why}")
        c = spread.unsqueeze(-1)
        logits = logits / (1 + c.exp()) if recalibrate == "exp" else logits / c.clamp_min(1e-6)
    elif temperature is not None:
        logits = logits / temperature
    kept = per_reference if keep_per_reference else None
    if task == "regression":
        return Prediction(logits, None, None, None, spread, kept)
    probs = torch.softmax(logits, -1)
    confidence, label = probs.max(-1)
    return Prediction(logits, probs, label, confidence, spread, kept)

"""What a prediction holds, and how K reference-wise logits become one."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kedge.anchoring.stem import at_least_float32
from kedge.checks import PROBABILITIES, positions, probability_like, readable
from kedge.confidence import log_odds
from kedge.postprocess import apply, undo

RECALIBRATIONS = ("exp", "divide")
Steps = Mapping[str, Mapping[str, Any]]
NONE: Steps = {}


@dataclass(frozen=True)
class Prediction:
    """What a model says about a batch of B images.

    Attributes:
        logits: `[B, C]`, the mean over references after the model's steps, a temperature for instance (recalibrated in
            its place if that was asked for).
        probs: `[B, C]`, softmax of `logits`; None for regression.
        label: `[B]` int64, the most probable class; None for regression.
        confidence: `[B]` in [0, 1], the probability of `label`; None for regression.
        uncertainty: disagreement between references, higher = less sure. Classification `[B]`: the mean over
            classes of the standard deviation over references of the sigmoid of the logits (Δ-UQ,
            arXiv 2207.07235). Regression `[B, C]`: the standard deviation over references. None with fewer than
            two references, where there is nothing to disagree.
        per_reference: `[K, B, C]` logits for each reference, if they were asked for; before any step.
        references_used: `[B]` int64, how many references each input got, where that was decided input by input
            (`references="adaptive"`); else None.
        log_odds: `[B]`, log(p / (1 - p)) of the confidence p, in the order of the confidence and beyond where that is 1
            in float32: what to rank and to reject by (see `kedge.metrics.log_odds`); None for regression.
        familiarity: `[B]`, how near the features of the pass are to the model's prototypes, higher = more familiar,
            where its rule for `unknown` is by those; else None. See `kedge.unknown`.
        warnings: what speaks against the numbers, in words: that the network seems to return probabilities.
    """

    logits: Tensor
    probs: Tensor | None
    label: Tensor | None
    confidence: Tensor | None
    uncertainty: Tensor | None
    per_reference: Tensor | None = None
    references_used: Tensor | None = None
    log_odds: Tensor | None = None
    warnings: tuple[str, ...] = ()
    familiarity: Tensor | None = None


def vetted(prediction: Prediction, steps: Steps = NONE) -> Prediction:
    """`prediction` with its warnings; `steps` are those that its logits went through. Waits for the device.

    Raises ValueError where an output is NaN: such an image has no answer, though `argmax` would name a class.
    """
    answer = prediction.logits if prediction.confidence is None else prediction.confidence
    if len(answer) == 0 or not readable(answer):
        return prediction
    lost = answer.isnan().flatten(1).any(1) if answer.ndim > 1 else answer.isnan()
    none, probabilities = torch.stack([lost.any(), probability_like(undo(steps, prediction.logits))]).tolist()
    if none:
        raise ValueError(
            f"the model has no answer: of its outputs {positions(lost)} NaN. Its weights may hold NaN, or it overflows "
            "in half precision; predict(..., check=False) gives all outputs as they are"
        )
    if prediction.confidence is None or not probabilities:
        return prediction
    return replace(prediction, warnings=(f"careful: {PROBABILITIES}",))


def summarise(
    chunks: Iterable[Tensor],
    task: str,
    recalibrate: str | None = None,
    keep_per_reference: bool = False,
    steps: Steps = NONE,
) -> Prediction:
    """Turn logits of K references, in chunks `[k, B, C]` of some of them, into a `Prediction`.

    Mean and deviation are gathered chunk by chunk (Chan, Golub & LeVeque 1979): the memory does not grow with K. For
    `recalibrate` and `steps` see `conclude`.
    """
    count, total, mean, squares, each = 0, torch.zeros(()), torch.zeros(()), torch.zeros(()), []
    for chunk in chunks:
        # Half precision is averaged in float32.
        logits = chunk.to(at_least_float32(chunk))
        values = logits if task == "regression" else logits.sigmoid()
        k, own = len(values), values.mean(0)
        off = own - mean if count else torch.zeros_like(own)
        squares = squares.to(own) + (values - own).square().sum(0) + off.square() * (count * k / (count + k))
        mean = own if count == 0 else mean + off * (k / (count + k))
        total = total.to(own) + logits.sum(0)
        count += k
        if keep_per_reference:
            each.append(logits)
    logits, spread = total / count, None
    if count > 1:
        spread = (squares / (count - 1)).sqrt()
        spread = spread if task == "regression" else spread.mean(-1)
    per_reference = torch.cat(each) if keep_per_reference else None
    return conclude(logits, spread, task, recalibrate, steps, per_reference)


def conclude(
    logits: Tensor,
    spread: Tensor | None,
    task: str,
    recalibrate: str | None = None,
    steps: Steps = NONE,
    per_reference: Tensor | None = None,
    references_used: Tensor | None = None,
) -> Prediction:
    """The `Prediction` of mean logits μ `[B, C]` and the uncertainty, None for one reference.

    `recalibrate` corrects the mean logits μ by c, the mean over classes of the standard deviation of the sigmoid
    logits. "exp" is μ / (1 + exp(c)), which the released code of Δ-UQ computes, and that of arXiv 2406.00529 on
    ImageNet; it divides by about 2 whatever the data, a temperature chosen without validation data. "divide" is μ / c,
    which their comments name for ImageNet and no code of theirs computes. None is what the code of arXiv 2406.00529
    does on CIFAR, where both divisions are commented out. A correction takes the place of those
    `steps` that calibrate, a temperature for instance, through which μ goes otherwise.

    Raises:
        ValueError: for an unknown `recalibrate`, fewer than two references with it, or a regression task.
    """
    if recalibrate is not None:
        if recalibrate not in RECALIBRATIONS:
            raise ValueError(f"recalibrate must be one of {RECALIBRATIONS} or None, got {recalibrate!r}")
        if task == "regression" or spread is None:
            why = "the task is regression" if task == "regression" else "there is one reference"
            raise ValueError(f"recalibrate={recalibrate!r} needs a classifier and two or more references, but {why}")
        c, logits = spread.unsqueeze(-1), apply(steps, logits, last=-1)
        logits = logits / (1 + c.exp()) if recalibrate == "exp" else logits / c.clamp_min(1e-6)
    logits = apply(steps, logits) if recalibrate is None else apply(steps, logits, first=1)
    if task == "regression":
        return Prediction(logits, None, None, None, spread, per_reference, references_used)
    probs = torch.softmax(logits, -1)
    label, confidence = logits.argmax(-1), probs.amax(-1)  # by logits: probabilities round to equal ones sooner
    return Prediction(logits, probs, label, confidence, spread, per_reference, references_used, log_odds(logits))

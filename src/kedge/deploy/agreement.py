"""How two files compare on the same images: their answers, and how long an image takes."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from kedge.checks import unlike_classes
from kedge.confidence import log_odds
from kedge.data import ImageSet
from kedge.deploy.onnx_file import OnnxModel
from kedge.metrics import accuracy, calibration_error, prediction_difference
from kedge.rejection import answered, by_confidence

__all__ = ["BATCH", "Agreement", "Pair", "agreement_on", "pace"]

BATCH = 32
RUNS = 7  # of a batch, to take the median time of
Pair = tuple[float, float]  # before and after


@dataclass(frozen=True)
class Agreement:
    """How the answers of the 8-bit file compare with those of the float file on a set of images.

    Attributes:
        images: how many.
        same: how many get the same label.
        difference: `prediction_difference` of the float file and the 8-bit file, in nats.
        accuracy, ece, answered: before and after, in [0, 1]: right answers, calibration error, and answers that the
            reject rule lets through; None without fitting labels, or without a rule.
    """

    images: int
    same: int
    difference: float
    accuracy: Pair | None
    ece: Pair | None
    answered: Pair | None


def agreement_on(before: OnnxModel, after: OnnxModel, images: ImageSet) -> tuple[Agreement, Tensor]:
    """The answers of both files to a set of images, and the logits `[N, C]` of the 8-bit one."""
    parts = []
    with torch.no_grad():
        for batch, _ in images.batches(BATCH):
            pixels = batch.float() / 255
            parts.append((before(pixels), after(pixels)))
    logits = [torch.cat(each) for each in zip(*parts, strict=True)]
    labels = [each.argmax(1) for each in logits]
    fits = unlike_classes(images.class_names, before.class_names or before.num_outputs) is None
    rule = by_confidence(before.reject)

    def pair(measure: Callable[[Tensor], float]) -> Pair:
        return measure(logits[0]), measure(logits[1])

    agreement = Agreement(
        images=len(images),
        same=int((labels[0] == labels[1]).sum()),
        difference=float(prediction_difference(*logits)),
        accuracy=pair(lambda x: float(accuracy(x.softmax(1), images.labels))) if fits else None,
        ece=pair(lambda x: float(calibration_error(x.softmax(1), images.labels))) if fits else None,
        answered=None
        if rule is None
        else pair(lambda x: float(answered(rule, x.softmax(1).amax(1), log_odds(x)).double().mean())),
    )
    return agreement, logits[1]


def pace(model: OnnxModel, batch: Tensor) -> float:
    """Milliseconds for an image: the median of some runs of a batch, after one that is not counted."""
    times = []
    with torch.no_grad():
        for _ in range(RUNS + 1):
            began = time.perf_counter()
            model(batch)
            times.append((time.perf_counter() - began) / len(batch))
    return 1000 * statistics.median(times[1:])

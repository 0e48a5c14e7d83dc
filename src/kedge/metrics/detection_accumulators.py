"""The detection and selective metrics that rank all samples, as `torchmetrics.Metric`."""

from typing import ClassVar

import torch
from torch import Tensor

from kedge.metrics.accumulators import _OfScores
from kedge.metrics.calibration import SUM_DTYPE
from kedge.metrics.calibration_accumulators import Kept
from kedge.metrics.detection import aupr_in, aupr_out
from kedge.metrics.selective import aurc, excess_aurc


class AUPRIn(_OfScores):
    """Area under precision against recall; in-distribution is the positive class, as `kedge.metrics.aupr_in`."""

    higher_is_better = True

    def compute(self) -> Tensor:
        """The area over all samples so far, a scalar in (0, 1]. Raises ValueError when one side is empty."""
        return aupr_in(*self._sides())


class AUPROut(_OfScores):
    """Area under precision against recall; out-of-distribution is the positive class, as `kedge.metrics.aupr_out`."""

    higher_is_better = True

    def compute(self) -> Tensor:
        """The area over all samples so far, a scalar in (0, 1]. Raises ValueError when one side is empty."""
        return aupr_out(*self._sides())


class AURC(Kept):
    """Area under the risk-coverage curve, as `kedge.metrics.aurc`, or with `excess=True` `excess_aurc`."""

    is_differentiable = False
    full_state_update = False
    higher_is_better = False
    kept: ClassVar = {"confidence": SUM_DTYPE, "correct": torch.bool}

    def __init__(self, excess: bool = False, **kwargs: object) -> None:
        super().__init__(**kwargs)
        self.excess = excess

    def update(self, confidence: Tensor, correct: Tensor) -> None:
        """Add a batch: confidences `[B]` (best as log odds; higher = surer), and bool `[B]` whether it was right."""
        if confidence.ndim != 1 or confidence.shape != correct.shape or correct.dtype != torch.bool:
            raise ValueError(
                f"confidence must be [B] and correct bool [B], but they are {list(confidence.shape)} and "
                f"{correct.dtype} {list(correct.shape)}"
            )
        self.keep(confidence=confidence, correct=correct)

    def compute(self) -> Tensor:
        """The area over all samples so far, a scalar. Raises ValueError before the first."""
        return (excess_aurc if self.excess else aurc)(self.whole("confidence"), self.whole("correct"))

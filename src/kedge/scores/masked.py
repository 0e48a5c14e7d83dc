"""How uninformative the residual is without its reference."""

import math

from torch import Tensor

from kedge.catalog import Info
from kedge.scores._base import Outputs, Score

info = Info(
    "On the Use of Anchoring for Training Vision Models", "Narayanaswamy et al.", "NeurIPS", 2024,
    "https://arxiv.org/abs/2406.00529", "own",
)  # fmt: skip


class Masked(Score):
    """Negative distance of the masked prediction from uniform, -KL(uniform ‖ softmax(logits of [0, x - r])), at most 0.

    Training with reference masking and the uniform target minimises just this distance on training images: without
    its reference the residual is to say nothing. Where a residual still does, training has not seen its like, so 0 is
    familiar. For a model trained without masking, or with the true label for it, the sign has no such ground. The
    masked pass is from "On the Use of Anchoring for Training Vision Models", arXiv 2406.00529; reading it as a score
    is this project's, and not evaluated elsewhere.
    """

    place = 7
    title = "masked-reference deviation"
    needs = ("masked",)
    uniform_masking = True

    def score(self, outputs: Outputs) -> Tensor:
        """`[B]`, at most 0. Raises ValueError for outputs without masked logits."""
        masked: Tensor = self._take(outputs, "masked").float()
        return (masked.log_softmax(dim=1).mean(dim=1) + math.log(masked.shape[1])).clamp(max=0)

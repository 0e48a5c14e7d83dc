"""The largest logit."""

from torch import Tensor

from kedge.catalog import Info
from kedge.scores._base import Outputs, Score

info = Info(
    "Scaling Out-of-Distribution Detection for Real-World Settings", "Hendrycks et al.", "ICML", 2022,
    "https://arxiv.org/abs/1911.11132", "code",
)  # fmt: skip


class MaxLogit(Score):
    """The largest logit, max_c logit_c, unbounded.

    Hendrycks et al., "Scaling Out-of-Distribution Detection for Real-World Settings", ICML 2022, arXiv 1911.11132.
    """

    place = 2
    title = "largest logit"

    def score(self, outputs: Outputs) -> Tensor:
        """`[B]`."""
        return outputs.logits.float().amax(dim=1)

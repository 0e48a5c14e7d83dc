"""The largest logit."""

from torch import Tensor

from kedge.scores.base import Score
from kedge.scores.outputs import Outputs


class MaxLogit(Score):
    """The largest logit, max_c logit_c, unbounded.

    Hendrycks et al., "Scaling Out-of-Distribution Detection for Real-World Settings", ICML 2022, arXiv 1911.11132.
    """

    name = "max_logit"
    title = "largest logit"

    def score(self, outputs: Outputs) -> Tensor:
        """`[B]`."""
        return outputs.logits.float().amax(dim=1)

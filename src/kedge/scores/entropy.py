"""Negative entropy of the prediction."""

from torch import Tensor
from torch.nn.functional import logsigmoid

from kedge.catalog import Info
from kedge.confidence import log_odds
from kedge.scores._base import Outputs, Score

info = Info(
    "Entropy Maximization and Meta Classification for Out-of-Distribution Detection in Semantic Segmentation",
    "Chan et al.", "ICCV", 2021, "https://arxiv.org/abs/2012.06575", "code",
)  # fmt: skip


class Entropy(Score):
    """Negative entropy, Σ_c p_c log p_c with p = softmax(logits), in [-log C, 0] nats: 0 is a sure answer.

    As an out-of-distribution score in Chan et al., "Entropy Maximization and Meta Classification for
    Out-of-Distribution Detection in Semantic Segmentation", ICCV 2021, arXiv 2012.06575.
    """

    place = 4
    title = "negative entropy"

    def score(self, outputs: Outputs) -> Tensor:
        """`[B]` in [-log C, 0]."""
        log_probs = outputs.logits.float().log_softmax(dim=1)
        # Close to 1 the logarithm of a probability is lost in rounding, but not that of its odds.
        top = log_probs.argmax(dim=1, keepdim=True)
        log_probs = log_probs.scatter(1, top, logsigmoid(log_odds(outputs.logits).float())[:, None])
        # A probability of 0 adds 0: its logarithm may be -inf.
        return (log_probs.exp() * log_probs.clamp(min=-1e4)).sum(dim=1)

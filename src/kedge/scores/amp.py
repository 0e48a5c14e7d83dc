"""Distance from uniform at a temperature that is the references' disagreement."""

from torch import Tensor

from kedge.catalog import Info
from kedge.scores._base import Outputs, Score

info = Info(
    "Out of Distribution Detection via Neural Network Anchoring", "Anirudh & Thiagarajan", "ACML", 2022,
    "https://arxiv.org/abs/2207.04125", "paper",
)  # fmt: skip

# Right after conversion the references agree exactly.
SMALLEST = 1e-6


class AMP(Score):
    """-(1/C) Σ_c log softmax(logits / τ)_c with τ = Σ_c std_k sigmoid(logits_kc), at least log C.

    That is the cross-entropy to the uniform distribution, log C + KL(uniform ‖ softmax(logits / τ)): log C where the
    scaled prediction says nothing. A peaked prediction raises it, and so does agreement, which sharpens: as published,
    larger = more in-distribution, and the sign needs no turning.

    "Out of Distribution Detection via Neural Network Anchoring" (AMP), ACML 2022, arXiv 2207.04125. Needs an anchored
    model with two or more references; it was published for models trained with augmented anchors.
    """

    place = 6
    title = "AMP"
    needs = ("reference_spread",)

    def score(self, outputs: Outputs) -> Tensor:
        """`[B]`, at least log C. Raises ValueError for outputs without uncertainty."""
        logits = outputs.network_logits().float()  # τ is that of the logits as the network gave them
        # The uncertainty is the mean over classes of what τ sums.
        tau = (self._take(outputs, "reference_spread").float() * logits.shape[1]).clamp(min=SMALLEST)
        return -(logits / tau[:, None]).log_softmax(dim=1).mean(dim=1)

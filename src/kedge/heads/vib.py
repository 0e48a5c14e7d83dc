"""A noisy bottleneck before the logits: a mean and a variance for each image, drawn from in training."""

import torch
from torch import Tensor, nn

from kedge.catalog import Info

info = Info(
    "Deep Variational Information Bottleneck", "Alemi et al.", "ICLR", 2017, "https://arxiv.org/abs/1612.00410",
    "derived",
)  # fmt: skip

START = -10.0  # the log of the variance at the beginning: a deviation of 0.007, which does not disturb the first steps


class VIB(nn.Module):
    """Features f `[B, D]` to logits W z + b `[B, C]`, z ~ N(μ(f), σ²(f)) `[B, D]` in train mode, μ(f) in eval mode.

    μ and ln σ² are linear in the features (the logarithm and its start are ours). What is predicted, folded and
    exported is the mean, of which the logits are linear. The noise comes from torch's generator of the device, as
    dropout's does: a run of kedge seeds it in each step. On its own the head only adds noise; `kedge.objectives.VIB`
    has the term that makes it a bottleneck.

    Args:
        features: D.
        outputs: C.

    Source: Alemi et al., "Deep Variational Information Bottleneck", ICLR 2017, arXiv 1612.00410.
    """

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.mean = nn.Linear(features, features)
        self.log_variance = nn.Linear(features, features)
        self.classifier = nn.Linear(features, outputs)
        with torch.no_grad():
            self.log_variance.bias.fill_(START)

    def forward(self, features: Tensor) -> Tensor:
        """Logits `[B, C]`."""
        mean: Tensor = self.mean(features)
        if self.training:
            deviation = (0.5 * self.log_variance(features)).exp()
            mean = mean + deviation * torch.randn_like(mean)
        logits: Tensor = self.classifier(mean)
        return logits

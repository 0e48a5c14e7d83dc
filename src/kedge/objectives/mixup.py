"""Mixup: images and targets mixed with those of another image of the batch."""

from torch import Tensor, nn

from kedge.catalog import Info
from kedge.objectives._base import soft_targets
from kedge.objectives._mixing import Mixing
from kedge.objectives._views import num_outputs

info = Info(
    "mixup: Beyond Empirical Risk Minimization", "Zhang et al.", "ICLR", 2018, "https://arxiv.org/abs/1710.09412"
)


class Mixup(Mixing):
    """Train on λ x_i + (1 - λ) x_j with targets mixed alike, λ ~ Beta(α, α) for the batch (arXiv 1710.09412).

    Outside `Anchored` the references are drawn from the mixed images, as in the authors' ImageNet recipe.
    """

    def forward(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The inner loss on mixed images and targets."""
        share, partner = self._draw(len(images), images.device)
        soft = soft_targets(targets, num_outputs(model))
        mixed = share.to(images.dtype) * images + (1 - share).to(images.dtype) * images[partner]
        return self.inner(model, mixed, share * soft + (1 - share) * soft[partner])

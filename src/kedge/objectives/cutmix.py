"""CutMix: a box of another image of the batch pasted into each image, targets mixed by area."""

import torch
from torch import Tensor, nn

from kedge.catalog import Info
from kedge.objectives._base import soft_targets
from kedge.objectives._mixing import Mixing, drawn_box
from kedge.objectives._views import num_outputs

info = Info(
    "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features", "Yun et al.", "ICCV", 2019,
    "https://arxiv.org/abs/1905.04899",
)  # fmt: skip


class CutMix(Mixing):
    """Paste a box of x_j into x_i; targets mix by the area that is left (arXiv 1905.04899).

    The box has the share 1 - λ of the image, λ ~ Beta(α, α), a uniform centre, and is cut off at the borders.
    """

    def forward(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The inner loss on pasted images and mixed targets."""
        if images.ndim != 4:
            raise ValueError(f"CutMix needs images [B, C, H, W], got {list(images.shape)}")
        share, partner = self._shares()[0].to(images.device), self._partners(len(images), images.device)
        box = drawn_box(images, share, self.generator)
        share = 1 - box.float().mean()
        soft = soft_targets(targets, num_outputs(model))
        mixed = torch.where(box, images[partner], images)
        return self.inner(model, mixed, share * soft + (1 - share) * soft[partner])

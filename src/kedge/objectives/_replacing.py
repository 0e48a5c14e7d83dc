"""What replaces some images of a batch by others: controls of reference masking, for plain models too."""

from typing import Any

import torch
from torch import Tensor, nn

from kedge.anchoring import PixelModel
from kedge.objectives._base import Objective, check_share, set_looks, soft_targets
from kedge.objectives._nesting import Wrapper, check_takes_uniform
from kedge.objectives._views import Unlabelled, num_outputs, unwrapped


class Replacing(Wrapper):
    """Base of the objectives that replace each image with probability α, and its target by the uniform one or not."""

    changes_images = True

    def __init__(self, inner: Objective, alpha: float, target: str, generator: torch.Generator | None = None) -> None:
        super().__init__(inner)
        check_share("alpha", alpha, "a probability")
        if target not in ("label", "uniform"):
            raise ValueError(f'target must be "label" or "uniform", got {target!r}')
        if alpha > 0 and target == "uniform":
            check_takes_uniform(inner, type(self).__name__, "replaced", 'target="label"')
        self.alpha = alpha
        self.target = target
        self.generator = generator

    def forward(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The inner loss with some images replaced."""
        replaced = (torch.rand(len(images), generator=self.generator) < self.alpha).to(images.device)
        where = replaced.view(-1, *[1] * (images.ndim - 1))
        set_looks(self.inner, 0)  # this objective has looked, and what it hands on may lie beyond [0, 1]
        mixed = torch.where(where, self._replacements(unwrapped(model), images), images)
        if self.target == "label":
            return self.inner(model, mixed, targets)
        classes = num_outputs(model)
        soft = torch.where(replaced[:, None], 1 / classes, soft_targets(targets, classes))
        return self.inner(Unlabelled(model, replaced), mixed, soft)

    def _replacements(self, model: nn.Module, images: Tensor) -> Tensor:
        """What stands in for each image, `[B, C, H, W]`."""
        raise NotImplementedError


def pixel_model(objective: Objective, model: Any) -> PixelModel:
    """`model` itself. Raises TypeError where it has no normalisation that `objective` could read."""
    if not isinstance(model, PixelModel):
        name = type(objective).__name__
        raise TypeError(
            f"{name} reads the normalisation of the model, and {type(model).__name__} has none; use kedge.plain"
        )
    return model

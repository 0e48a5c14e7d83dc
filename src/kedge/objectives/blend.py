"""Some images replaced by a blend with another one of the batch: a control of reference masking."""

import torch
from torch import Tensor, nn

from kedge.anchoring import derangement
from kedge.catalog import Info
from kedge.objectives._base import Objective
from kedge.objectives._replacing import Replacing, pixel_model

info = Info("Blends in place of images, a control of reference masking", checked="own")


class Blend(Replacing):
    """With probability α train on a blend of the image with another one of the batch, `own` x + `other` r.

    Zero is the model's mean colour, as for masking. With 1 and -1 it is the residual x - r that reference masking
    leaves of an image, for a plain model: what masking (`Anchored`) is without its anchor. Target "label" is then
    an augmentation by added images, "uniform" an exposure to outliers (arXiv 1812.04606) that are residuals, and with
    0.5 and 0.5 to outliers that are mixtures of two images.

    Args:
        inner: the objective that gets the images, which may lie beyond [0, 1], and targets.
        alpha: the probability.
        own: weight of the image.
        other: weight of the other one.
        target: of a blend: "label", that of the image, or "uniform".
        generator: for every draw, on the CPU; None: torch's global one.

    Raises:
        ValueError: for values out of range, or an inner objective that cannot take a uniform target.
        TypeError: when called with weights that do not sum to 1 and a model that has no mean colour.
    """

    in_repr = ("alpha", "own", "other", "target")

    def __init__(
        self,
        inner: Objective,
        alpha: float = 0.25,
        own: float = 1.0,
        other: float = -1.0,
        target: str = "label",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(inner, alpha, target, generator)
        self.own, self.other = own, other

    def _replacements(self, model: nn.Module, images: Tensor) -> Tensor:
        if len(images) < 2:
            return images  # there is no other
        partners = images[derangement(len(images), self.generator, images.device)]
        rest = 1 - self.own - self.other
        blend = self.own * images + self.other * partners
        return blend + rest * pixel_model(self, model).mean.to(images) if rest else blend

"""Some images with Gaussian noise: a control of reference masking."""

import torch
from torch import Tensor, nn

from kedge.catalog import Info
from kedge.objectives._base import Objective, check_weight
from kedge.objectives._replacing import Replacing, pixel_model

info = Info("Noise on images, a control of reference masking", checked="own")


class Noise(Replacing):
    """With probability α train on the image with Gaussian noise.

    `scale` 1 is noise as strong as another image: its deviation is that of the training images in each channel, so
    that the perturbation is as large as the reference that masking takes away.

    Args:
        inner: the objective that gets the images, which may lie beyond [0, 1], and targets.
        alpha: the probability.
        scale: the deviation, in those of the model's normalisation.
        target: of an image with noise: "label" or "uniform".
        generator: for every draw, on the CPU; None: torch's global ones.

    Raises:
        ValueError: for values out of range, or an inner objective that cannot take a uniform target.
        TypeError: when called with a model that has no normalisation.
    """

    in_repr = ("alpha", "scale", "target")

    def __init__(
        self,
        inner: Objective,
        alpha: float = 0.25,
        scale: float = 1.0,
        target: str = "label",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(inner, alpha, target, generator)
        check_weight("scale", scale, "a deviation")
        self.scale = scale

    def _replacements(self, model: nn.Module, images: Tensor) -> Tensor:
        if self.generator is None:
            noise = torch.randn_like(images)  # drawn where the images are
        else:
            noise = torch.randn(images.shape, generator=self.generator).to(images)
        return images + self.scale * pixel_model(self, model).std.to(images) * noise

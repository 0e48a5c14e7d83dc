"""Replace some images by blends of two, or by noisy ones: controls of reference masking, for plain models too."""

from typing import Any

import torch
from torch import Tensor, nn

from kedge.anchoring import PixelModel, derangement
from kedge.objectives.basic import Objective, check_inner, num_outputs, set_looks, soft_targets, unwrapped
from kedge.objectives.unlabelled import Unlabelled, check_takes_uniform


class _Replacing(Objective):
    def __init__(self, inner: Objective, alpha: float, target: str, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha is a probability, got {alpha}")
        if target not in ("label", "uniform"):
            raise ValueError(f'target must be "label" or "uniform", got {target!r}')
        if alpha > 0 and target == "uniform":
            check_takes_uniform(inner, type(self).__name__, "replaced", 'target="label"')
        self.inner = check_inner(inner, self)
        self.targets_kind = getattr(inner, "targets_kind", "soft")
        self.alpha = alpha
        self.target = target
        self.generator = generator

    def forward(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The inner loss with some images replaced."""
        replaced = (torch.rand(len(images), generator=self.generator) < self.alpha).to(images.device)
        where = replaced.view(-1, *[1] * (images.ndim - 1))
        set_looks(self.inner, 0)  # this objective has looked, and what it hands on may lie beyond [0, 1]
        shown = torch.where(where, self._replacements(unwrapped(model), images), images)
        if self.target == "label":
            return self.inner(model, shown, targets)
        classes = num_outputs(model)
        soft = torch.where(replaced[:, None], 1 / classes, soft_targets(targets, classes))
        return self.inner(Unlabelled(model, replaced), shown, soft)

    def _replacements(self, model: nn.Module, images: Tensor) -> Tensor:
        """What stands in for each image, `[B, C, H, W]`."""
        raise NotImplementedError


class Blend(_Replacing):
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

    def extra_repr(self) -> str:
        """What `repr` shows."""
        return f"alpha={self.alpha}, own={self.own}, other={self.other}, target={self.target!r}"

    def _replacements(self, model: nn.Module, images: Tensor) -> Tensor:
        if len(images) < 2:
            return images  # there is no other
        partners = images[derangement(len(images), self.generator, images.device)]
        rest = 1 - self.own - self.other
        blend = self.own * images + self.other * partners
        return blend + rest * _pixel_model(self, model).mean.to(images) if rest else blend


class Noise(_Replacing):
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

    def __init__(
        self,
        inner: Objective,
        alpha: float = 0.25,
        scale: float = 1.0,
        target: str = "label",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(inner, alpha, target, generator)
        if scale < 0:
            raise ValueError(f"scale is a deviation, 0 or more, got {scale}")
        self.scale = scale

    def extra_repr(self) -> str:
        """What `repr` shows."""
        return f"alpha={self.alpha}, scale={self.scale}, target={self.target!r}"

    def _replacements(self, model: nn.Module, images: Tensor) -> Tensor:
        if self.generator is None:
            noise = torch.randn_like(images)  # drawn where the images are
        else:
            noise = torch.randn(images.shape, generator=self.generator).to(images)
        return images + self.scale * _pixel_model(self, model).std.to(images) * noise


def _pixel_model(objective: Objective, model: Any) -> PixelModel:
    if not isinstance(model, PixelModel):
        name = type(objective).__name__
        raise TypeError(
            f"{name} reads the normalisation of the model, and {type(model).__name__} has none; use kedge.plain"
        )
    return model

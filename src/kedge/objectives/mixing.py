"""Mix images and their targets: Mixup and CutMix."""

import torch
from torch import Tensor, nn

from kedge.objectives.basic import Objective, check_inner, num_outputs, soft_targets


class _Mixing(Objective):
    mixes_targets = True

    def __init__(self, inner: Objective, alpha: float = 1.0, generator: torch.Generator | None = None) -> None:
        super().__init__()
        if alpha <= 0:
            raise ValueError(f"alpha, the parameter of the Beta distribution, must be positive, got {alpha}")
        if getattr(inner, "targets_kind", "soft") != "soft":
            raise ValueError(f"{type(inner).__name__} cannot take the mixed targets of {type(self).__name__}")
        self.inner = check_inner(inner, self)
        self.alpha = alpha
        self.generator = generator

    def extra_repr(self) -> str:
        """What `repr` shows."""
        return f"alpha={self.alpha}"

    def _draw(self, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """λ ~ Beta(α, α) and a partner for each image."""
        gammas = torch._standard_gamma(torch.full((2,), float(self.alpha)), generator=self.generator)
        share = gammas[0] / gammas.sum().clamp_min(torch.finfo(gammas.dtype).tiny)
        return share.to(device), torch.randperm(n, generator=self.generator).to(device)


class Mixup(_Mixing):
    """Train on λ x_i + (1 - λ) x_j with targets mixed alike, λ ~ Beta(α, α) for the batch (arXiv 1710.09412).

    Outside `Anchored` the references are drawn from the mixed images, as in the authors' ImageNet recipe.
    """

    def forward(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The inner loss on mixed images and targets."""
        share, partner = self._draw(len(images), images.device)
        soft = soft_targets(targets, num_outputs(model))
        mixed = share.to(images.dtype) * images + (1 - share).to(images.dtype) * images[partner]
        return self.inner(model, mixed, share * soft + (1 - share) * soft[partner])


class CutMix(_Mixing):
    """Paste a box of x_j into x_i; targets mix by the area that is left (arXiv 1905.04899).

    The box has the share 1 - λ of the image, λ ~ Beta(α, α), a uniform centre, and is cut off at the borders.
    """

    def forward(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The inner loss on pasted images and mixed targets."""
        if images.ndim != 4:
            raise ValueError(f"CutMix needs images [B, C, H, W], got {list(images.shape)}")
        share, partner = self._draw(len(images), images.device)
        centre = torch.rand(2, generator=self.generator).to(images.device)
        inside = []
        for size, middle in zip(images.shape[2:], centre, strict=True):
            half = size * (1 - share).sqrt() / 2
            position = torch.arange(size, device=images.device) + 0.5
            inside.append((position - middle * size).abs() < half)
        box = inside[0][:, None] & inside[1]
        share = 1 - box.float().mean()
        soft = soft_targets(targets, num_outputs(model))
        mixed = torch.where(box, images[partner], images)
        return self.inner(model, mixed, share * soft + (1 - share) * soft[partner])

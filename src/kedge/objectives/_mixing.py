"""What mixes images and their targets: the share and the partners."""

import torch
from torch import Tensor

from kedge.objectives._base import Objective
from kedge.objectives._nesting import Wrapper


class Mixing(Wrapper):
    """Base of the objectives that mix the images of a batch and their targets, by a share λ ~ Beta(α, α)."""

    in_repr: tuple[str, ...] = ("alpha",)
    mixes_targets = True
    changes_images = True

    def __init__(self, inner: Objective, alpha: float = 1.0, generator: torch.Generator | None = None) -> None:
        super().__init__(inner)
        check_alpha(alpha)
        if self.targets_kind != "soft":
            raise ValueError(f"{type(inner).__name__} cannot take the mixed targets of {type(self).__name__}")
        self.alpha = alpha
        self.generator = generator

    def _shares(self, points: int = 2) -> Tensor:
        """How much each of so many images counts, `[points]`."""
        return drawn_shares(self.alpha, points, self.generator)

    def _partners(self, n: int, device: torch.device) -> Tensor:
        """A partner for each image `[n]`."""
        return torch.randperm(n, generator=self.generator).to(device)


def check_alpha(alpha: float) -> None:
    """Raise ValueError unless `alpha` can be the parameter of a Beta distribution."""
    if alpha <= 0:
        raise ValueError(f"alpha, the parameter of the Beta distribution, must be positive, got {alpha}")


def drawn_shares(alpha: float, points: int = 2, generator: torch.Generator | None = None) -> Tensor:
    """Shares `[points]` ~ Dirichlet(α, ..., α), on the CPU; of two λ ~ Beta(α, α) and 1 - λ."""
    gammas = torch._standard_gamma(torch.full((points,), float(alpha)), generator=generator)
    shares = gammas[:-1] / gammas.sum().clamp_min(torch.finfo(gammas.dtype).tiny)
    return torch.cat([shares, (1 - shares.sum(0, keepdim=True)).clamp_min(0)])


def drawn_box(images: Tensor, share: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """A box `[H, W]` bool of the share 1 - `share` of images `[B, C, H, W]`, cut off at the borders.

    Its sides are √(1 - share) of the image's, its centre is uniform in the image. What is left is 1 - box.mean().
    """
    centre = torch.rand(2, generator=generator).to(images.device)
    inside = []
    for size, middle in zip(images.shape[2:], centre, strict=True):
        half = size * (1 - share).sqrt() / 2
        position = torch.arange(size, device=images.device) + 0.5
        inside.append((position - middle * size).abs() < half)
    return inside[0][:, None] & inside[1]

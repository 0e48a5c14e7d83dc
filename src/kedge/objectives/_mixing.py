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
        if alpha <= 0:
            raise ValueError(f"alpha, the parameter of the Beta distribution, must be positive, got {alpha}")
        if self.targets_kind != "soft":
            raise ValueError(f"{type(inner).__name__} cannot take the mixed targets of {type(self).__name__}")
        self.alpha = alpha
        self.generator = generator

    def _shares(self, points: int = 2) -> Tensor:
        """How much each of so many images counts, `[points]` ~ Dirichlet(α, ..., α); of two λ ~ Beta(α, α), 1 - λ."""
        gammas = torch._standard_gamma(torch.full((points,), float(self.alpha)), generator=self.generator)
        shares = gammas[:-1] / gammas.sum().clamp_min(torch.finfo(gammas.dtype).tiny)
        return torch.cat([shares, (1 - shares.sum(0, keepdim=True)).clamp_min(0)])

    def _partners(self, n: int, device: torch.device) -> Tensor:
        """A partner for each image `[n]`."""
        return torch.randperm(n, generator=self.generator).to(device)

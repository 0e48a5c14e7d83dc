"""What mixes images and their targets: the share and the partners."""

import torch
from torch import Tensor

from kedge.objectives._base import Objective
from kedge.objectives._nesting import Wrapper


class Mixing(Wrapper):
    """Base of the objectives that mix the images of a batch and their targets, by a share λ ~ Beta(α, α)."""

    in_repr = ("alpha",)
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

    def _draw(self, n: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """λ ~ Beta(α, α) and a partner for each image."""
        gammas = torch._standard_gamma(torch.full((2,), float(self.alpha)), generator=self.generator)
        share = gammas[0] / gammas.sum().clamp_min(torch.finfo(gammas.dtype).tiny)
        return share.to(device), torch.randperm(n, generator=self.generator).to(device)

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from kedge.data import TensorSet

NAMES = ["cat", "dog", "owl", "pig", "ram", "yak"]


class Prototypes(nn.Module):
    """A classifier that needs no training: similarity to one fixed image per class; dropout and batch norm as bait."""

    def __init__(self, prototypes: torch.Tensor, sharpness: float = 30.0) -> None:
        super().__init__()
        self.prototypes = nn.Parameter(prototypes)
        self.sharpness = sharpness
        self.drop = nn.Dropout(0.5)
        self.norm = nn.BatchNorm2d(prototypes.shape[1], affine=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert not torch.is_grad_enabled()
        x = self.norm(self.drop(x))
        return -self.sharpness * (x[:, None] - self.prototypes).square().mean(dim=(2, 3, 4))


@pytest.fixture
def prototypes() -> torch.Tensor:
    return torch.rand(6, 3, 8, 8, generator=torch.Generator().manual_seed(7))


@pytest.fixture
def data(prototypes) -> TensorSet:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % 6
    images = prototypes[labels] + 0.4 * torch.randn(90, 3, 8, 8, generator=generator)
    pixels = (images.clamp(0, 1) * 255).round().to(torch.uint8)
    return TensorSet(pixels, labels, NAMES, name="beasts", split="test", paths=[f"far/off/{i}.png" for i in range(90)])


@pytest.fixture
def noise() -> TensorSet:
    pixels = torch.randint(0, 256, (40, 1, 12, 10), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return TensorSet(pixels, torch.zeros(40, dtype=torch.long), ["noise"], name="static")


@pytest.fixture
def network(prototypes) -> Iterator[Prototypes]:
    net = Prototypes(prototypes.clone())
    net.train()
    return net

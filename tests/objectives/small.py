"""What the tests of objectives share: draws by seed, a network of one convolution, an objective that looks."""

import torch
import torch.nn.functional as F
from torch import nn

from kedge.objectives import Objective


def generator(seed: int = 0) -> torch.Generator:
    """Draws that follow from a seed."""
    return torch.Generator().manual_seed(seed)


def one_convolution(classes: int = 4, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    """A network of colour images of any size."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), activation(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, classes)
    )


class Spy(Objective):
    """Records what a wrapper hands inward."""

    def forward(self, model, images, targets):
        self.seen = model, images, targets
        return F.cross_entropy(model(images), targets)

import pytest
import torch
from torch import nn


class SmallNet(nn.Module):
    """A convolution with padding, batch norm with lived-in statistics, and a linear head."""

    def __init__(self, channels=3, classes=5, bias=True):
        super().__init__()
        self.stem = nn.Conv2d(channels, 8, 3, stride=2, padding=1, bias=bias)
        self.norm = nn.BatchNorm2d(8)
        self.head = nn.Linear(8, classes)
        nn.init.normal_(self.norm.running_mean)
        nn.init.uniform_(self.norm.running_var, 0.5, 2)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        return self.head(torch.tanh(x).mean((2, 3)))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture
def net():
    return SmallNet().eval()


def disturb(model, scale=0.3):
    """Give the two halves of the first layer different weights, as training does."""
    with torch.no_grad():
        for parameter in model.stem.parameters():
            parameter.add_(scale * torch.randn_like(parameter))
    return model

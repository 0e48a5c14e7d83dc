import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import kedge


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


class SmallNet(nn.Module):
    """A convolution, batch norm and dropout as bait, and a linear head."""

    def __init__(self, channels=3, classes=5):
        super().__init__()
        self.stem = nn.Conv2d(channels, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, classes)
        nn.init.normal_(self.norm.running_mean, std=0.3)

    def forward(self, x):
        return self.head(self.drop(torch.tanh(self.norm(self.stem(x))).mean((2, 3)) * 5))


@pytest.fixture
def net():
    return SmallNet().eval()


@pytest.fixture
def anchored():
    """An anchored model whose answers depend on the reference, with a bank of seven."""
    model = kedge.anchor(SmallNet(), example=(3, 8, 8))
    with torch.no_grad():
        for parameter in model.stem.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.references = torch.rand(7, 3, 8, 8)
    return model.eval()


@pytest.fixture
def batch():
    return torch.rand(12, 3, 8, 8), torch.arange(12) % 5


@pytest.fixture(scope="session")
def digits():
    """Images `[N, 1, 8, 8]` in [0, 1] and labels: for training, and for testing."""
    found = load_digits()
    images = torch.tensor(found.images / 16, dtype=torch.float32)[:, None]
    labels = torch.tensor(found.target)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images, labels = images[order], labels[order]
    return (images[:1200], labels[:1200]), (images[1200:1500], labels[1200:1500])


@pytest.fixture(scope="session")
def trained(digits):
    """A small network that reads the digits."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2, padding=1), nn.ReLU(),
        nn.Flatten(), nn.Linear(512, 10),
    )  # fmt: skip
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    (images, labels), _ = digits
    for _ in range(12):
        for some in torch.randperm(len(images)).split(100):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images[some]), labels[some]).backward()
            optimizer.step()
    return network.eval()

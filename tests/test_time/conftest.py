"""A small network with batch norm that tells the digits 0 to 6 apart, and streams with digits that it does not know."""

import pytest
import torch
from torch import Tensor, nn

import kedge
from kedge import data
from kedge.test_time import Brake

KNOWN, UNKNOWN = list("0123456"), list("789")


def block(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())


def pixels(images) -> Tensor:
    return torch.cat([part for part, _ in images.batches(500)])


@pytest.fixture(scope="package")
def known():
    """(training images, kept images, test images) of the known digits."""
    train, test = (data.load("digits", part).only_classes(KNOWN) for part in ("train", "test"))
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    return train.subset(order[200:]), train.subset(order[:200]), test


@pytest.fixture(scope="package")
def model(known):
    """A plain model, trained for eight epochs: 99 % right."""
    images, labels = pixels(known[0]).float() / 255, known[0].labels
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            block(1, 16), block(16, 32), nn.MaxPool2d(2), block(32, 32), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
            nn.Linear(128, 7),
        )  # fmt: skip
        optimizer = torch.optim.Adam(network.parameters(), 3e-3)
        for _ in range(8):
            for places in torch.randperm(len(images)).split(32):
                optimizer.zero_grad()
                nn.functional.cross_entropy(network(images[places]), labels[places]).backward()
                optimizer.step()
    plain = kedge.plain(network.eval(), mean=0.0, std=1.0, example=(1, 8, 8))
    plain.class_names = KNOWN
    return plain


@pytest.fixture
def brake(known, model):
    return Brake.of(known[1], model)


@pytest.fixture(scope="package")
def streams(known):
    """By (noise, order): images and labels, -1 for the unknown ones: as many again, and twice."""
    unknown = torch.cat([pixels(data.load("digits", part).only_classes(UNKNOWN)) for part in ("train", "test")])
    together = torch.cat([pixels(known[2]), unknown]).float() / 255
    truth = torch.cat([known[2].labels, torch.full((len(unknown),), -1)])

    def stream(noise: float, order: str = "mixed") -> tuple[Tensor, Tensor]:
        draws = torch.Generator().manual_seed(1)
        noisy = (together + noise * torch.randn(together.shape, generator=draws)).clamp(0, 1)
        mixed = torch.randperm(len(noisy), generator=draws)
        places = mixed if order == "mixed" else torch.where(truth < 0, 7, truth).argsort(stable=True)
        return noisy[places], truth[places]

    return stream

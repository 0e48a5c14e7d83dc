import pytest
import torch
from torch import nn

import kedge
from kedge import networks


def disturbed(network, seed):
    """The same network after a "training": every float entry of its state moved a little."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                value.add_(0.1 * torch.rand(value.shape, generator=generator).to(value) - 0.05)
            elif name.endswith("num_batches_tracked"):
                value.add_(seed)
    return network


@pytest.fixture
def resnets():
    """Two small residual networks with batch norm, of one start."""

    def make(seed):
        torch.manual_seed(0)
        return disturbed(networks.create("kedge_resnet_small", 5, 1, 8, arguments={"width": 4}), seed)

    return make(1), make(2)


@pytest.fixture
def plains(resnets):
    return tuple(kedge.plain(network, mean=0.3, std=0.5, example=(1, 8, 8)).eval() for network in resnets)


@pytest.fixture
def anchoreds(resnets):
    made = []
    for i, network in enumerate(resnets):
        model = kedge.anchor(network, mean=0.3, std=0.5, example=(1, 8, 8)).eval()
        disturbed(model.stem.reference, 5 + i)
        model.references = torch.rand(3 + i, 1, 8, 8, generator=torch.Generator().manual_seed(i))
        made.append(model)
    return tuple(made)


@pytest.fixture
def normed():
    """Batch norm alone, over two channels."""
    return nn.Sequential(nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3))

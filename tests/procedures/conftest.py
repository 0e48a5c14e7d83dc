import pytest
import torch

import kedge
from kedge import data, networks
from kedge.anchoring import anchor


@pytest.fixture
def body():
    """An untrained network of seven classes with batch norm, whose statistics are not those of a fresh one."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = networks.create("kedge_resnet_small", 7, 1, 8, arguments={"width": 4})
        network(torch.rand(64, 1, 8, 8))
    return kedge.plain(network, mean=0.3, std=0.5, example=(1, 8, 8)).eval()


@pytest.fixture
def anchored(body):
    """The same, anchored, with a first layer that minds its reference."""
    made = anchor(body)
    with torch.no_grad():
        made.stem.reference.weight.mul_(0.5)
    made.references = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    return made.eval()


@pytest.fixture(scope="session")
def digits():
    """Training, validation and test images of three digits: 61, 30 and 47 of them, no batch is whole."""
    names = ["1", "4", "7"]
    train, val, test = (data.load("digits", split).only_classes(names) for split in ("train", "val", "test"))
    return train.subset(range(61)), val.subset(range(30)), test.subset(range(47))

import builtins
import logging
import sys

import pytest
import torch
from torch import nn

from kedge.attacks import PGD, AutoAttack, Bank, distance


def test_a_clear_word_without_the_package(net, batch, monkeypatch):
    original = builtins.__import__

    def without(name, *rest, **named):
        if name.startswith("pyautoattack"):
            raise ImportError(name)
        return original(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match=r"pip install pyautoattack"):
        AutoAttack(8 / 255)(net, *batch)


def test_options():
    with pytest.raises(ValueError, match="version must be one of"):
        AutoAttack(0.1, version="plus")
    with pytest.raises(ValueError, match="pixel units"):
        AutoAttack(8)
    with pytest.raises(ValueError, match="norm must be one of"):
        AutoAttack(0.1, norm="l1")


@pytest.fixture
def _library():
    pytest.importorskip("pyautoattack")


@pytest.mark.usefixtures("_library")
@pytest.mark.parametrize("norm", ["linf", pytest.param("l2", marks=pytest.mark.slow)])
def test_linear_model_where_the_optimum_is_known(norm):
    weight = torch.randn(1, 6, 6) * 0.1
    eps = 0.05 if norm == "linf" else 0.2
    reach = eps * (weight.abs().sum() if norm == "linf" else weight.norm())
    # Scores as shares of what eps can reach: those below 1 give way, the others cannot.
    shares = torch.tensor([-1.5, -1.1, -0.9, -0.3, 0.4, 0.95, 1.05, 1.6])
    images = 0.5 + (shares * reach / weight.square().sum()).view(-1, 1, 1, 1) * weight
    labels = (shares > 0).long()

    class Half(nn.Module):
        def forward(self, x):
            score = ((x - 0.5) * weight).flatten(1).sum(1)
            return torch.stack([-score / 2, score / 2], 1)

    found = AutoAttack(eps, norm)(Half(), images, labels)
    wrong = Half()(found).argmax(1) != labels
    assert torch.equal(wrong, shares.abs() < 1)
    assert float(distance(found, images, norm).max()) <= eps + 1e-6


@pytest.mark.slow
@pytest.mark.usefixtures("_library")
@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_at_least_as_strong_as_pgd_and_leaves_everything_as_it_was(trained, digits, norm, capfd):
    images, labels = (part[:2] for part in digits[1])
    eps = 0.06 if norm == "linf" else 0.4
    trained.train()
    gradients = [p.grad.clone() for p in trained.parameters()]
    torch.manual_seed(3)
    level = logging.getLogger("auto-attack").level

    def trace(*_):
        return None

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        with torch.no_grad():
            found = AutoAttack(eps, norm, seed=1)(trained, images, labels)
        assert sys.gettrace() is trace
    finally:
        sys.settrace(before)
    assert torch.equal(torch.rand(2), torch.rand(2, generator=torch.Generator().manual_seed(3)))
    assert trained.training
    assert all(p.requires_grad for p in trained.parameters())
    assert all(torch.equal(p.grad, g) for p, g in zip(trained.parameters(), gradients, strict=True))
    assert logging.getLogger("auto-attack").level == level
    assert capfd.readouterr() == ("", "")
    trained.eval()
    weaker = PGD(eps, 20, norm=norm)(trained, images, labels)
    ours, theirs = (trained(x).argmax(1) == labels for x in (weaker, found))
    assert int(theirs.sum()) <= int(ours.sum())
    assert float(distance(found, images, norm).max()) <= eps + 1e-6
    assert 0 <= float(found.min()) <= float(found.max()) <= 1
    if norm == "linf":
        assert torch.equal(found, AutoAttack(eps, norm, seed=1)(trained, images, labels))


@pytest.mark.slow
@pytest.mark.usefixtures("_library")
def test_rand_on_an_anchored_model_and_half_precision(anchored, batch):
    images, _ = batch
    labels = anchored.predict(images).label
    for model in (anchored, Bank(anchored)):
        found = AutoAttack(0.1, version="rand")(model, images[:1], labels[:1])
        assert float(distance(found, images[:1]).max()) <= 0.1 + 1e-6
    half = images[:1].bfloat16().contiguous(memory_format=torch.channels_last)
    found = AutoAttack(8 / 255, version="rand")(anchored, half, labels[:1])
    assert found.dtype == torch.bfloat16
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert float(distance(found, half).max()) <= 8 / 255


@pytest.mark.usefixtures("_library")
@pytest.mark.parametrize("version", ["standard", "rand"])
@pytest.mark.parametrize("classes", [2, 3, 4])
def test_few_classes_and_single_images(version, classes):
    head = nn.Linear(16, classes)
    images = torch.rand(1, 1, 4, 4)
    model = nn.Sequential(nn.Flatten(), head)
    labels = model(images).argmax(1)
    # So far from the boundary that it is quickly over or quickly lost.
    found = AutoAttack(0.9, version=version)(model, images, labels)
    assert found.shape == images.shape
    assert torch.equal(AutoAttack(0.0)(model, images, labels), images)
    assert AutoAttack(0.1)(model, images[:0], labels[:0]).shape == (0, 1, 4, 4)

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax
from torch import nn

import kedge
from kedge.scores import MSP, Disagreement, Energy, Outputs, outputs_of


class Net(nn.Module):
    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(6, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(self.norm(self.conv(x)).relu().mean(dim=(2, 3))))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_against_scipy():
    logits = 3 * torch.randn(20, 7, generator=torch.Generator().manual_seed(0))
    outputs = Outputs(logits)
    np.testing.assert_allclose(MSP().score(outputs), softmax(logits.numpy(), axis=1).max(axis=1), rtol=1e-5)
    np.testing.assert_allclose(Energy().score(outputs), logsumexp(logits.numpy(), axis=1), rtol=1e-5)
    np.testing.assert_allclose(Energy(2.0).score(outputs), 2 * logsumexp(logits.numpy() / 2, axis=1), rtol=1e-5)


def test_huge_logits_stay_finite():
    outputs = Outputs(torch.tensor([[3e4, -3e4], [0.0, 0.0]]))
    assert MSP().score(outputs).tolist() == [1.0, 0.5]
    assert Energy().score(outputs).tolist() == pytest.approx([3e4, math.log(2)])


def test_disagreement_is_the_spread_with_its_sign_turned(images):
    model = kedge.anchor(Net().eval(), example=images)
    model.references = torch.rand(6, 3, 8, 8)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    prediction = model.predict(images, keep_per_reference=True)
    by_hand = 1 / (1 + np.exp(-prediction.per_reference.numpy().astype(np.float64)))
    expected = -by_hand.std(axis=0, ddof=1).mean(axis=1)
    np.testing.assert_allclose(Disagreement()(model, images), expected, rtol=1e-4, atol=1e-6)
    assert float(Disagreement()(model, images).max()) <= 0


def test_disagreement_of_a_plain_model_says_what_is_missing(images):
    with pytest.raises(ValueError, match="two or more references"):
        Disagreement()(kedge.plain(Net(), example=images), images)


@pytest.mark.parametrize("score", [MSP(), Energy()])
def test_calling_a_score_is_the_same_as_sharing_outputs(score, images):
    model = kedge.plain(Net(), example=images)
    shared = score.score(outputs_of(model, images))
    assert torch.equal(score(model, images), shared)
    assert torch.equal(score.fit(outputs_of(model, images), torch.zeros(5)).score(outputs_of(model, images)), shared)
    assert shared.shape == (5,)


def test_modes_and_gradients_are_left_alone(images):
    net = Net()
    net.norm.eval()
    before = [m.training for m in net.modules()]
    outputs = outputs_of(net, images)
    assert [m.training for m in net.modules()] == before
    assert not outputs.logits.requires_grad
    assert torch.equal(outputs.logits, outputs_of(net, images).logits)  # dropout was off


def test_any_callable_and_what_is_not_logits(images):
    assert outputs_of(lambda x: x.flatten(1)[:, :3], images).logits.shape == (5, 3)
    with pytest.raises(ValueError, match=r"\[5, 8, 8\]"):
        outputs_of(lambda x: x[:, 0], images)
    with pytest.raises(ValueError, match="tuple"):
        outputs_of(lambda x: (x, x), images)
    with pytest.raises(ValueError, match="positive"):
        Energy(0)


def test_torch_only():
    code = (
        "import sys, kedge.scores; heavy = {'torchmetrics', 'torchvision', 'timm', 'lightning', 'matplotlib'};"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

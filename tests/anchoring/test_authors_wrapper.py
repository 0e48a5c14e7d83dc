"""Anchoring as its authors' wrapper does it, by their formulas: [r, x - r] into a network of twice the channels."""

import pytest
import torch
from torch import nn

import kedge
from kedge.objectives import Anchored, Objective
from tests.anchoring.conftest import SmallNet

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.201)


class Wrapper:
    """The wrapper of arXiv 2406.00529 round a network of six channels, whose images are normalised before."""

    def __init__(self, network: nn.Module) -> None:
        self.network = network

    def __call__(self, x, r, hidden=False):
        """One pass: the reference slot first, zero where it is masked; the residual keeps the reference."""
        return self.network(torch.cat([torch.zeros_like(r) if hidden else r, x - r], 1))

    def ensemble(self, x, anchors):
        """(mean logits, standard deviation of their sigmoids), each anchor repeated for the whole batch."""
        repeated = anchors.repeat_interleave(len(x), 0)
        tiled = x.tile((len(anchors), 1, 1, 1))
        logits = self.network(torch.cat([repeated, tiled - repeated], 1)).view(len(anchors), len(x), -1)
        return logits.mean(0), logits.sigmoid().std(0)


@pytest.fixture
def wrapper():
    """Fresh weights of six channels, as the authors train from scratch: the first three are those of the reference."""
    return Wrapper(SmallNet(6).eval())


@pytest.fixture
def model(wrapper):
    """The same weights as an anchored model."""
    plain = SmallNet(3).eval()
    plain.load_state_dict({**wrapper.network.state_dict(), "stem.weight": plain.stem.weight})
    made = kedge.anchor(plain, example=(3, 16, 16), mean=MEAN, std=STD)
    with torch.no_grad():
        made.stem.reference.weight.copy_(wrapper.network.stem.weight[:, :3])
        made.stem.residual.weight.copy_(wrapper.network.stem.weight[:, 3:])
    made.references = torch.rand(7, 3, 16, 16)
    return made.eval()


def normalised(images):
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (images - mean) / std


IMAGES = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(1))


def close(ours, theirs):
    assert float((ours - theirs).detach().abs().max()) < 1e-5


def test_one_pass_with_the_reference_and_without(model, wrapper):
    references = torch.rand(6, 3, 16, 16)
    x, r = normalised(IMAGES), normalised(references)
    close(model(IMAGES, references), wrapper(x, r))
    close(model(IMAGES, references, torch.ones(6).bool()), wrapper(x, r, hidden=True))
    assert float((wrapper(x, r) - wrapper(x, r, hidden=True)).detach().abs().max()) > 0.01


def test_the_mean_over_references_and_their_disagreement(model, wrapper):
    mean, deviation = wrapper.ensemble(normalised(IMAGES), normalised(model.references))
    prediction = model.predict(IMAGES)
    close(prediction.logits, mean)
    close(prediction.uncertainty, deviation.mean(1))
    close(model.predict(IMAGES, recalibrate="exp").logits, mean / (1 + deviation.mean(1, keepdim=True).exp()))


def test_one_reference_folded_away(model, wrapper):
    expected = wrapper(normalised(IMAGES), normalised(model.references[2:3]).expand(6, -1, -1, -1))
    close(model.fold(2)(IMAGES), expected)


class Recording(Objective):
    """Cross-entropy that keeps the logits and targets of the step."""

    def forward(self, model, images, targets):
        self.view, self.logits, self.targets = model, model(images), targets
        return nn.functional.cross_entropy(self.logits, targets)


@pytest.mark.parametrize("target", ["uniform", "label"])
@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_a_training_step(model, wrapper, alpha, target):
    model.train()
    wrapper.network.train()
    labels, step = torch.tensor([0, 1, 2, 3, 4, 0]), Recording()
    loss = Anchored(step, alpha, target, mask_per="batch")(model, IMAGES, labels)
    x, r = normalised(IMAGES), normalised(step.view.references)
    theirs = wrapper(x, r, hidden=alpha == 1)
    close(step.logits, theirs)
    uniform = torch.full((6, 5), 0.2)
    wanted = uniform if alpha == 1 and target == "uniform" else labels
    close(loss, nn.functional.cross_entropy(theirs, wanted))

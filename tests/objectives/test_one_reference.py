import pytest
import torch
import torch.nn.functional as F
from scipy.stats import entropy
from torch import nn

import kedge
from kedge.objectives import OneReference


@pytest.fixture
def model():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )
    made = kedge.anchor(net, example=(3, 8, 8), mean=0.5, std=0.25)
    made.references = torch.rand(6, 3, 8, 8)
    return made


IMAGES = torch.rand(32, 3, 8, 8, generator=torch.Generator().manual_seed(1))
TARGETS = torch.randint(4, (32,), generator=torch.Generator().manual_seed(2))


def test_where_references_agree_there_is_nothing_to_learn(model):
    objective = OneReference()
    objective.prepare(model)
    loss = objective(model, IMAGES, TARGETS)
    probs = model(IMAGES).detach().double().softmax(1).numpy()
    assert float(loss.detach()) == pytest.approx(entropy(probs, axis=1).mean(), rel=1e-5)  # KL is 0
    loss.backward()
    assert max(float(p.grad.abs().max()) for p in model.parameters() if p.grad is not None) < 1e-6


def test_one_reference_learns_to_stand_for_all_and_the_teacher_stays(model):
    with torch.no_grad():
        model.stem.reference.weight.add_(torch.randn_like(model.stem.reference.weight))
    objective = OneReference()
    objective.prepare(model)
    wanted = model.eval().predict(IMAGES).probs
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    assert not any(p.requires_grad for p in objective.parameters())

    def apart():
        return float(F.kl_div(model.fold()(IMAGES).log_softmax(1), wanted, reduction="batchmean"))

    before = apart()
    for _ in range(60):
        optimizer.zero_grad()
        objective(model.train(), IMAGES, TARGETS).backward()
        optimizer.step()
    assert apart() < before / 5
    assert torch.equal(objective.teacher.predict(IMAGES).probs, wanted)


def test_the_share_of_the_labels_and_the_cost(model):
    objective = OneReference(weight=0.0)
    assert objective.passes == 1
    objective.prepare(model)
    expected = F.cross_entropy(model(IMAGES, references=model.references[:1]), TARGETS)
    assert torch.allclose(objective(model, IMAGES, TARGETS), expected)
    assert objective.passes == 3  # six forward passes cost about two forward and backward


def test_what_cannot_be_is_refused(model):
    with pytest.raises(ValueError, match="a share"):
        OneReference(2.0)
    with pytest.raises(RuntimeError, match="prepare"):
        OneReference()(model, IMAGES, TARGETS)
    with pytest.raises(TypeError, match=r"kedge\.anchor"):
        OneReference().prepare(nn.Linear(3, 4))

"""What layers put out is recorded with its gradients; distillation of features against the formula."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kedge
from kedge.objectives import Anchored, CrossEntropy, Distill, FeatureDistill, OutlierExposure, recording, set_streams


def network(width=6, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 4),
    )  # fmt: skip


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(6, 3, 8, 8, generator=generator), torch.randint(4, (6,), generator=generator)


def test_recording_gives_what_a_layer_puts_out_with_its_gradient(batch):
    images, _ = batch
    model = kedge.plain(network(), example=(3, 8, 8)).train()
    with recording(model, ["2", "network.4"]) as features:
        logits = model(images)
    assert features["2"].shape == (6, 6, 8, 8)
    assert torch.allclose(features["network.4"], features["2"].mean((2, 3)))
    assert torch.equal(model.network[5](features["network.4"]), logits)
    weight = model.network[0].weight
    (one,) = torch.autograd.grad(features["2"].square().sum(), weight, retain_graph=True)
    by_hand = network().train()
    (other,) = torch.autograd.grad(by_hand[:3](model.normalise(images)).square().sum(), by_hand[0].weight)
    torch.testing.assert_close(one, other)
    assert not any(module._forward_hooks for module in model.modules())


def test_recording_sees_through_views(batch):
    images, labels = batch
    model = kedge.anchor(network(), example=(3, 8, 8)).train()
    seen = []

    class Spy(CrossEntropy):
        def forward(self, view, x, y):
            with recording(view, ["2"]) as features:
                loss = super().forward(view, x, y)
            seen.append((features["2"], loss))
            return loss

    Anchored(Spy(), alpha=0.5)(model, images, labels)
    set_streams(objective := OutlierExposure(Anchored(Spy(), alpha=0)), outliers=images.flip(0))
    objective(model, images, labels)
    assert [len(features) for features, _ in seen] == [6, 6]  # the outliers are not its own
    for features, _ in seen:
        (gradient,) = torch.autograd.grad(features.square().sum(), next(model.parameters()))
        assert gradient.abs().sum() > 0


def test_recording_says_what_layers_there_are(batch):
    model = kedge.plain(network(), example=(3, 8, 8))
    with pytest.raises(ValueError, match="no layer 'layer3'; it has 0, 1, 2"), recording(model, ["layer3"]):
        pass
    with pytest.raises(ValueError, match="compiled"), recording(torch.compile(model), ["2"]):
        pass


@pytest.mark.parametrize("layer", ["2", "4"])
def test_the_loss_is_the_formula_and_its_projection_learns(batch, layer):
    images, labels = batch
    model, teacher = (kedge.plain(network(w, s), example=(3, 8, 8)) for w, s in ((6, 0), (9, 1)))
    objective = FeatureDistill(CrossEntropy(), teacher, layer, weight=3.0, seed=5)
    objective.prepare(model.train())
    assert model.training
    assert sum(p.numel() for p in objective.parameters()) == 6 * 9 + 9
    loss = objective(model, images, labels)
    loss.backward()
    own = network().train()[: int(layer) + 1](model.normalise(images))
    theirs = network(9, 1).eval()[: int(layer) + 1](model.normalise(images))
    weight, bias = objective.projection.weight.flatten(1), objective.projection.bias
    projected = torch.einsum("oc,bc...->bo...", weight, own) + bias.view(1, -1, *[1] * (own.ndim - 2))
    expected = 1.5 * (projected - theirs).square().mean()
    logits = network().train()(model.normalise(images))
    assert float(loss) == pytest.approx(float(expected + F.cross_entropy(logits, labels)), rel=1e-5)
    assert objective.projection.weight.grad.abs().sum() > 0
    again = FeatureDistill(CrossEntropy(), teacher, layer, seed=5)
    again.prepare(model)
    assert torch.equal(again.projection.weight, objective.projection.weight)
    assert set(objective.state_dict()) == {"projection.weight", "projection.bias"}


def test_a_teacher_of_other_sizes_and_other_layers(batch):
    images, labels = batch
    wide = nn.Sequential(nn.MaxPool2d(2), *network(9, 1))
    objective = FeatureDistill(CrossEntropy(), wide, "0", "3")
    model = kedge.plain(network(), example=(3, 8, 8)).train()
    objective.prepare(model)
    with pytest.raises(ValueError, match="two layers with features"):
        FeatureDistill(CrossEntropy(), wide, "0", "6").prepare(model)
    with pytest.raises(RuntimeError, match="prepare"):
        FeatureDistill(CrossEntropy(), wide, "0", "3")(model, images, labels)
    larger = FeatureDistill(CrossEntropy(), network(9, 1), "0")  # 8 x 8 to 4 x 4
    small = kedge.plain(wide, example=(3, 8, 8)).train()
    larger = FeatureDistill(CrossEntropy(), network(9, 1), "1", "0")
    larger.prepare(small)
    assert larger(small, images, labels).isfinite()


def test_weight_0_is_the_inner_objective_and_it_nests(batch):
    images, labels = batch
    model = kedge.plain(network(), example=(3, 8, 8)).train()
    objective = FeatureDistill(CrossEntropy(), network(9, 1), "2", weight=0)
    objective.prepare(model)
    assert not list(objective.parameters())
    assert torch.equal(objective(model, images, labels), CrossEntropy()(model, images, labels))
    anchored = kedge.anchor(network(), example=(3, 8, 8)).train()
    both = Anchored(FeatureDistill(Distill(CrossEntropy(), network(9, 1)), network(9, 1), "2"), alpha=0.5)
    for each in both.modules():
        if isinstance(each, kedge.objectives.Objective):
            each.prepare(anchored)
    with torch.autocast("cpu", torch.bfloat16):
        loss = both(anchored, images, labels)
    assert loss.dtype == torch.float32
    loss.backward()
    assert both.inner.projection.weight.grad.abs().sum() > 0

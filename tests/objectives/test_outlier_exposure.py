"""Outlier exposure against the authors' line of code, and what an anchored model makes of it."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kedge
from kedge import attacks, objectives
from kedge.objectives import (
    AAER,
    CURE,
    DBAT,
    TRADES,
    Anchored,
    CrossEntropy,
    DivDis,
    KeepFeatures,
    MixOE,
    Noise,
    OutlierExposure,
    set_streams,
)
from kedge.objectives.outlier_exposure import to_uniform


def network(norm=True):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6) if norm else nn.Identity(), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4),
    )  # fmt: skip


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(1)
    images, outliers = torch.rand(2, 6, 3, 8, 8, generator=generator)
    return images, torch.randint(4, (6,), generator=generator), outliers


def exposed(objective, outliers):
    set_streams(objective, outliers=outliers)
    return objective


def test_it_is_the_authors_loss(batch):
    """Of their train.py: the logits of both in one batch, cross-entropy of the first half, 0.5 times the line below."""
    images, labels, outliers = batch
    loss = exposed(OutlierExposure(CrossEntropy()), outliers)(network().train(), images, labels)
    x = network().train()(torch.cat([images, outliers]))
    expected = F.cross_entropy(x[:6], labels)
    expected += 0.5 * -(x[6:].mean(1) - torch.logsumexp(x[6:], dim=1)).mean()
    assert float(loss) == pytest.approx(float(expected), rel=1e-6)


def test_it_is_cross_entropy_to_the_uniform_distribution(batch):
    images, labels, outliers = batch
    model = network(norm=False)
    loss = exposed(OutlierExposure(CrossEntropy(), 2.0), outliers)(model, images, labels)
    uniform = F.cross_entropy(model(outliers), torch.full((6, 4), 0.25))
    assert float(loss) == pytest.approx(float(F.cross_entropy(model(images), labels) + 2 * uniform), rel=1e-6)
    assert float(to_uniform(torch.zeros(3, 4))) == pytest.approx(math.log(4))


def test_weight_0_is_the_inner_objective_statistics_too(batch):
    images, labels, _ = batch
    models = [network().train() for _ in range(2)]
    one = OutlierExposure(CrossEntropy(), 0.0)(models[0], images, labels)
    assert torch.equal(one, CrossEntropy()(models[1], images, labels))
    assert all(map(torch.equal, models[0].state_dict().values(), models[1].state_dict().values()))


def test_running_statistics_are_those_of_both(batch):
    images, labels, outliers = batch
    model, other = network().train(), network().train()
    exposed(OutlierExposure(CrossEntropy()), outliers)(model, images, labels)
    other(torch.cat([images, outliers]))
    assert torch.equal(model[1].running_mean, other[1].running_mean)


@pytest.mark.parametrize("order", ["anchored outside", "anchored inside", "no Anchored"])
def test_references_are_training_images_in_every_order(batch, order):
    images, labels, outliers = batch
    outliers = outliers - 5  # told apart by their values
    seen = []
    model = kedge.anchor(network(norm=False), example=(3, 8, 8)).train()
    forward = model.forward

    def spy(x, references=None, mask=None, **more):
        seen.append((x, references, mask))
        return forward(x, references, mask, **more)

    model.forward = spy
    objective = {
        "anchored outside": lambda: Anchored(OutlierExposure(CrossEntropy()), alpha=0.5),
        "anchored inside": lambda: OutlierExposure(Anchored(CrossEntropy(), alpha=0.5)),
        "no Anchored": lambda: OutlierExposure(CrossEntropy()),
    }[order]()
    torch.manual_seed(0)
    set_streams(objective, outliers=outliers)
    objectives.set_looks(objective, 0)
    loss = objective(model, images, labels)
    ((x, references, mask),) = seen
    assert torch.equal(x, torch.cat([images, outliers]))
    known = {image.numpy().tobytes() for image in images}
    assert all(reference.numpy().tobytes() in known for reference in references)
    assert torch.equal(references[:6], references[6:])
    if mask is not None:
        assert torch.equal(mask[:6], mask[6:])
    logits = forward(x, references, mask)
    targets = F.one_hot(labels, 4).float()
    targets = targets if mask is None else torch.where(mask[:6, None], 0.25, targets)
    uniform = F.cross_entropy(logits[6:], torch.full((6, 4), 0.25))
    assert float(loss) == pytest.approx(float(F.cross_entropy(logits[:6], targets) + 0.5 * uniform), rel=1e-5)


def test_an_attack_inside_or_outside_sees_no_outliers(batch):
    images, labels, outliers = batch
    sizes = []
    model = network().train()
    model.register_forward_hook(lambda module, inputs, output: sizes.append((module.training, len(inputs[0]))))
    attack = attacks.PGD(0.1, 2)
    for make in (
        lambda: objectives.Adversarial(OutlierExposure(CrossEntropy()), attack),
        lambda: OutlierExposure(objectives.Adversarial(CrossEntropy(), attack)),
    ):
        sizes.clear()
        exposed(make(), outliers)(copy.deepcopy(model), images, labels)
        assert {size for training, size in sizes if not training} == {6}
        assert [size for training, size in sizes if training] == [12]


def test_a_batch_of_one(batch):
    images, labels, outliers = batch
    model = kedge.anchor(network(norm=False), example=(3, 8, 8)).train()
    objective = exposed(Anchored(OutlierExposure(CrossEntropy()), alpha=0.5), outliers[:1])
    assert objective(model, images[:1], labels[:1]).isfinite()


def test_without_outliers_it_says_what_to_do(batch):
    images, labels, outliers = batch
    objective = Anchored(OutlierExposure(CrossEntropy()), alpha=0)
    model = kedge.anchor(network(), example=(3, 8, 8)).train()
    with pytest.raises(RuntimeError, match=r"set_streams\(objective, outliers=images\).*extra: {outliers: FOLDER}"):
        objective(model, images, labels)
    with pytest.raises(ValueError, match="as many and as large as the images"):
        exposed(objective, outliers[:3])(model, images, labels)
    with pytest.raises(ValueError, match="0 or more, got -1"):
        OutlierExposure(CrossEntropy(), -1)


def test_half_precision(batch):
    images, labels, outliers = batch
    objective = exposed(OutlierExposure(CrossEntropy()), outliers)
    with torch.autocast("cpu", torch.bfloat16):
        loss = objective(network().train(), images, labels)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(float(objective(network().train(), images, labels)), rel=0.03)


PGD = attacks.PGD(0.1, steps=1, random_start=True)


@pytest.mark.parametrize("outer", [
    lambda inner: TRADES(inner, PGD), lambda inner: CURE(inner, PGD),
    lambda inner: AAER(inner, attacks.FGSM(8 / 255, variant="rs")), lambda inner: objectives.Distill(inner, network()),
], ids=["TRADES", "CURE", "AAER", "Distill"])  # fmt: skip
@pytest.mark.parametrize("inner", [
    lambda: OutlierExposure(CrossEntropy()), lambda: DBAT(CrossEntropy(), network()), lambda: MixOE(CrossEntropy()),
    lambda: Noise(CrossEntropy()), lambda: KeepFeatures(CrossEntropy(), network()),
], ids=["OutlierExposure", "DBAT", "MixOE", "Noise", "KeepFeatures"])  # fmt: skip
def test_what_compares_answers_for_its_images_takes_nothing_inside_that_calls_the_model_with_others(outer, inner):
    name = type(inner()).__name__
    with pytest.raises(ValueError, match=rf"{name} inside (\w+) would .*; put it outside: {name}\(\1"):
        outer(inner())
    with pytest.raises(ValueError, match=r"DivDis inside \w+ would .*; leave one of the two out"):
        outer(DivDis())

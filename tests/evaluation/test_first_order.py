"""Accuracy against epsilon from one backward pass: exact where the model is linear, near PGD where it nearly is."""

import json

import pytest
import torch
from torch import nn

import kedge
from kedge.attacks import PGD
from kedge.data import TensorSet
from kedge.evaluation import Attacks, evaluate, first_order_curve, first_order_radius, predictor
from kedge.reporting import as_csv
from kedge.reporting.page import page

QUICK = {"shift": (), "resamples": 0, "examples": 0}


class Linear(nn.Module):
    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(classes, 108, generator=generator))

    def forward(self, images):
        return (images - 0.5).flatten(1) @ self.weight.T


@pytest.fixture
def images() -> torch.Tensor:
    return 0.3 + 0.4 * torch.rand(200, 3, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("norm", "order"), [("linf", 1), ("l2", 2)])
def test_is_exact_for_two_linear_classes(images, norm, order):
    model = Linear()
    logits = model(images).detach()
    labels = logits.argmax(1)
    labels[::4] = 1 - labels[::4]
    away = model.weight[0] - model.weight[1]
    expected = (logits[:, 0] - logits[:, 1]).abs() / away.norm(p=order)
    expected[::4] = -1
    radius = first_order_radius(model, images, labels, norm)
    torch.testing.assert_close(radius, expected.detach(), rtol=1e-4, atol=1e-6)
    # The best attack is known: along the sign of the difference, or the difference itself.
    step = away.sign() if norm == "linf" else away / away.norm()
    eps = float(expected[expected > 0].median()) * 1.001
    towards = torch.where(labels == 0, -1.0, 1.0)[:, None] * step
    broken = model(images + eps * towards.view_as(images)).argmax(1) != labels
    curve = first_order_curve(radius, [eps], norm)
    assert curve["points"][1]["accuracy"]["value"] == pytest.approx(1 - float(broken.double().mean()), abs=1e-9)
    assert curve["points"][0]["accuracy"]["value"] == 0.75
    assert curve["points"][1]["accuracy"]["low"] < curve["points"][1]["accuracy"]["value"]


def test_of_several_linear_classes_it_is_the_way_to_the_second(images):
    model = Linear(5)
    labels = model(images).argmax(1)
    radius = first_order_radius(model, images, labels)
    first, second = model(images).topk(2).indices.unbind(1)
    ways = model.weight[first] - model.weight[second]
    margins = (images - 0.5).flatten(1).mul(ways).sum(1)
    torch.testing.assert_close(radius, (margins / ways.abs().sum(1)).detach(), rtol=1e-4, atol=1e-6)


def test_an_anchored_model_is_asked_as_it_predicts(images):
    model = kedge.anchor(
        nn.Sequential(nn.Conv2d(3, 6, 5, 2), nn.Tanh(), nn.Flatten(), nn.Linear(216, 3)), example=(3, 16, 16)
    )
    model.references = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    batch = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(3))
    labels = model.predict(batch).label
    radius = first_order_radius(predictor(model), batch, labels)
    assert bool((radius > 0).all())
    leaf = batch.clone().requires_grad_()
    logits = torch.stack([model.eval()(leaf, references=r[None]) for r in model.references]).mean(0)
    first, second = logits.topk(2).values.unbind(1)
    (gradient,) = torch.autograd.grad((first - second).sum(), leaf)
    expected = (first - second) / gradient.flatten(1).abs().sum(1)
    torch.testing.assert_close(radius, expected.detach(), rtol=1e-3, atol=1e-6)


def test_what_has_no_gradient_is_marked_or_refused(images):
    labels = torch.zeros(200, dtype=torch.long)

    class Flat(nn.Module):
        def forward(self, images):
            level = (images.mean((1, 2, 3)) > 0.1).float()
            return torch.stack([level, 1 - level], 1) + 0 * images.sum((1, 2, 3))[:, None]

    radius = first_order_radius(Flat(), images, labels)
    assert bool(radius.isinf().all())
    curve = first_order_curve(radius, [0.1], "linf")
    assert "200 of 200 images have no gradient" in curve["note"]
    with pytest.raises(ValueError, match="carry no gradient"):
        first_order_radius(lambda x: Linear()(x).detach(), images, labels)
    with pytest.raises(ValueError, match="two classes"):
        first_order_radius(Linear(1), images, labels)
    with pytest.raises(ValueError, match="norm must be"):
        first_order_radius(Linear(), images, labels, "l1")
    for radii, grid in ((torch.ones(0), [0.1]), (torch.ones(2), [-0.1])):
        with pytest.raises(ValueError, match=r"none|0 or more"):
            first_order_curve(radii, grid, "linf")


class Detached(nn.Module):
    def forward(self, images):
        return torch.stack([images.mean((1, 2, 3)), 0 * images.mean((1, 2, 3)) + 0.5], 1).detach()


def blind(model, images, labels):
    """An attack without gradients."""
    return images


blind.eps, blind.norm = 0.1, "linf"


def shown(images: torch.Tensor) -> TensorSet:
    pixels = (images * 255).round().to(torch.uint8)
    labels = Linear()(pixels.float() / 255).argmax(1)
    return TensorSet(pixels, labels, ["cat", "dog"], "animals", "test")


def test_it_stands_beside_the_attacks(images):
    attacks = Attacks({"PGD-10": PGD(0.01, 10)}, images=120, cross_checks=False)
    results = evaluate(Linear(), shown(images), **QUICK, attacks=attacks)
    own = results["models"]["model"]
    assert own["first_order"]["images"] == 120
    at = {point["eps"]: point["accuracy"]["value"] for point in own["first_order"]["points"]}
    assert at[0.01] == pytest.approx(own["attacks"]["PGD-10"]["accuracy"]["value"], abs=0.01)
    assert max(at) == 0.02
    json.dumps(results, allow_nan=False)
    text = page(results)
    assert "predicted from one backward pass" in text
    assert "Dashed: what one backward pass predicts" in text
    assert "1711.02846" in text
    assert any(line.startswith("model,first order,eps 0.01,,,accuracy,") for line in as_csv(results).splitlines())


def test_a_model_without_gradients_has_no_curve_and_no_error(images):
    attacks = Attacks({"blind": blind}, images=50, cross_checks=False)
    results = evaluate(Detached(), shown(images), **QUICK, attacks=attacks)
    own = results["models"]["model"]["first_order"]
    assert own["points"] == []
    assert "carry no gradient" in own["note"]
    assert results["complete"]
    assert "carry no gradient" in page(results)


def test_without_attacks_there_is_none(images):
    assert evaluate(Linear(), shown(images), **QUICK)["models"]["model"]["first_order"] is None

"""Every kind of model in half precision, through prediction, folding and the suite."""

import copy

import pytest
import torch
from torch import nn

import kedge
from kedge.data import TensorSet
from kedge.evaluation import evaluate

HALVES = [torch.float16, torch.bfloat16]
SHAPE = (3, 12, 12)


def network(stem):
    torch.manual_seed(0)
    layers = [stem, nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4)]
    return nn.Sequential(*layers).eval()


def anchored(stem):
    model = kedge.anchor(network(stem), mean=0.5, std=0.25, example=SHAPE).eval()
    with torch.no_grad():
        for weight in model.stem.reference.parameters():
            weight.add_(0.2 * torch.randn_like(weight))
    model.references = torch.rand(4, *SHAPE)
    model.residuals = 0.1 * torch.randn(5, *SHAPE)
    return model


def conv():
    return nn.Conv2d(3, 8, 3, padding=1)


def tempered(model):
    model.set_temperature(1.7)
    return model


KINDS = {
    "plain": lambda: kedge.plain(network(conv()), mean=0.5, std=0.25, example=SHAPE).eval(),
    "plain, temperature": lambda: tempered(KINDS["plain"]()),
    "anchored": lambda: anchored(conv()),
    "anchored, temperature": lambda: tempered(KINDS["anchored"]()),
    "anchored, two copies": lambda: anchored(nn.utils.parametrizations.weight_norm(conv())),
    "folded": lambda: kedge.deploy.folded(anchored(conv())),
}


@pytest.fixture(scope="module")
def images():
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 256, (12, *SHAPE), dtype=torch.uint8, generator=generator)
    return TensorSet(pixels, torch.arange(12) % 4, ["a", "b", "c", "d"], "toy", "test")


def near(one, other, half):
    return torch.allclose(one.float(), other, atol=0.02 if half == torch.float16 else 0.1)


@pytest.mark.parametrize("half", HALVES, ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_half_precision_answers_nearly_as_single(kind, half, images):
    model = KINDS[kind]()
    pixels = images.images.float() / 255
    expected = model.predict(pixels)
    halved = copy.deepcopy(model).to(half)
    assert near(halved.predict(pixels).logits, expected.logits, half)
    with torch.no_grad():
        one = model.predict(pixels, references=1).logits if isinstance(model, kedge.AnchoredModel) else expected.logits
        assert near(halved(pixels.to(half)), one, half)
        # Folded, half precision takes the normalisation into the weights and rounds those.
        assert near(halved.fold()(pixels.to(half)), one, half)
    results = evaluate(halved, images, shift=(), batch_size=5, resamples=10)["models"]["model"]
    label = halved.predict(pixels).label
    assert results["clean"]["accuracy"]["value"] == pytest.approx(float((label == images.labels).float().mean()))


@pytest.mark.parametrize("half", HALVES, ids=str)
@pytest.mark.parametrize("references", ["blt", "adaptive", 2])
def test_every_way_to_ask_references_in_half_precision(half, references, images):
    model = KINDS["anchored"]()
    pixels = images.images.float() / 255
    expected = model.predict(pixels, references=references)
    answer = copy.deepcopy(model).to(half).predict(pixels, references=references)
    if references != "blt":  # which reference is nearest may be another after rounding
        assert near(answer.logits, expected.logits, half)
    assert answer.logits.isfinite().all()
    assert evaluate(copy.deepcopy(model).to(half), images, shift=(), references=references, resamples=10)


@pytest.mark.parametrize("half", HALVES, ids=str)
def test_scores_attacks_and_corruptions_in_half_precision(half, images):
    model = KINDS["anchored"]().to(half)
    far = TensorSet(images.images // 3, images.labels, images.class_names, "dark", "test")
    attacks = kedge.evaluation.Attacks({"PGD": kedge.attacks.PGD(2 / 255, 2)}, cross_checks=False)
    settings = {"shift": ("gaussian_noise",), "severities": (3,), "ood": far, "attacks": attacks, "resamples": 10}
    results = evaluate(model, images, **settings)["models"]["model"]
    assert set(results) >= {"clean", "shift", "ood", "attacks"}

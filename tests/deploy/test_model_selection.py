import pytest
import torch
from torch import nn

import kedge
from kedge.data import TensorSet
from kedge.deploy import choose_folded


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (30, 3, 6, 6), dtype=torch.uint8, generator=generator)
    return TensorSet(pixels, torch.arange(30) % 4, ["a", "b", "c", "d"], "toy", "val")


def anchored(tail):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 8, 3), tail, nn.Flatten(), nn.Linear(128, 4)).eval()
    model = kedge.anchor(network, mean=0.5, std=0.2, example=(3, 6, 6)).eval()
    with torch.no_grad():
        model.stem.reference.weight.add_(0.3 * torch.randn_like(model.stem.reference.weight))
    model.references = torch.rand(5, 3, 6, 6)
    return model


def divergences(model, images):
    """By definition: KL of the answers with each image, and with the mean of all, from those of the bank."""
    pixels = images.images.float() / 255
    bank = [*model.references, model.references.mean(0)]
    with torch.no_grad():
        logits = torch.stack([model(pixels, references=reference[None]) for reference in bank]).double()
    whole = logits[:-1].mean(0).softmax(1)
    return [float(nn.functional.kl_div(z.log_softmax(1), whole, reduction="batchmean")) for z in logits]


@pytest.mark.parametrize("tail", [nn.ReLU(), nn.Tanh(), nn.Sigmoid()], ids=str)
def test_the_nearest_to_the_bank_is_chosen(tail, images):
    model = anchored(tail)
    expected = divergences(model, images)
    best = min(range(6), key=lambda i: expected[i])
    choice = choose_folded(model, images, batch_size=7)
    assert choice.name == ("the mean of the bank" if best == 5 else f"reference {best + 1} of 5")
    assert torch.allclose(choice.reference, [*model.references, model.references.mean(0)][best])
    assert choice.divergence == pytest.approx(expected[best], rel=1e-3, abs=1e-7)
    assert choice.first == pytest.approx(expected[0], rel=1e-3)
    prediction = model.predict(images.images.float() / 255)
    assert torch.equal(choice.label, prediction.label)
    assert torch.equal(choice.right, prediction.label == images.labels)


def test_of_a_linear_network_the_mean_is_the_bank(images):
    model = anchored(nn.Identity())
    choice = choose_folded(model, images)
    assert choice.name == "the mean of the bank"
    assert choice.divergence < 1e-9 < choice.first


def test_a_temperature_and_the_order_of_the_bank_change_nothing(images):
    model = anchored(nn.ReLU())
    before = choose_folded(model, images)
    model.set_temperature(3.0)
    model.references = model.references.flip(0)
    after = choose_folded(model, images)
    assert torch.equal(before.reference, after.reference) or before.name == after.name == "the mean of the bank"
    assert after.divergence == pytest.approx(before.divergence, rel=1e-4)


def test_what_cannot_be_chosen_is_refused(images):
    with pytest.raises(ValueError, match="on images, got classification and 0"):
        choose_folded(anchored(nn.ReLU()), images.subset([]))

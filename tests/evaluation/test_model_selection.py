import pytest
import torch
from torch import nn

import kedge
from kedge.attacks import PGD
from kedge.data.corruptions import corrupt
from kedge.evaluation.model_selection import Measure, best


@pytest.fixture
def images():
    return kedge.data.load("digits", "val").subset(range(50))


@pytest.fixture
def model():
    torch.manual_seed(0)
    return kedge.plain(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), example=(1, 8, 8)).eval()


def right(model, pixels, labels):
    with torch.no_grad():
        return float((model(pixels).argmax(1) == labels).double().mean())


def test_each_number_is_what_a_loop_finds_whatever_the_batches(images, model):
    pixels, labels = images.images.float() / 255, images.labels
    with torch.no_grad():  # a classifier worth attacking: the nearest mean
        means = torch.stack([pixels[labels == c].mean(0).flatten() for c in range(10)])
        model.network[1].weight.copy_(10 * means)
        model.network[1].bias.copy_(-5 * means.square().sum(1))
    attack = PGD(0.1, 3, seed=1)
    measure = Measure(images, shift=["gaussian_noise", "fog"], severity=2, attack=attack, batch_size=17, seed=4)
    found = measure(model)
    assert found["clean"] == pytest.approx(right(model, pixels, labels))
    assert found["clean"] > 0.7
    for name in ("gaussian_noise", "fog"):
        changed = corrupt(pixels, name, 2, indices=torch.arange(50), seed=4)
        assert found[name] == pytest.approx(right(model, changed, labels))
    assert found["shifted"] == pytest.approx((found["gaussian_noise"] + found["fog"]) / 2)
    with torch.no_grad():
        clean = model(pixels).argmax(1) == labels
    places = clean.nonzero()[:, 0]
    made = attack(model, pixels[clean], labels[clean], indices=places)
    assert found["pgd"] == pytest.approx(right(model, made, labels[clean]) * float(clean.double().mean()))
    assert found["pgd"] < found["clean"]
    assert found["mean"] == pytest.approx((found["clean"] + found["shifted"] + found["pgd"]) / 3)
    assert measure.names() == ["clean", "shifted", "pgd", "mean"]
    low, high = measure.intervals(found)["clean"]
    assert low < found["clean"] < high


def test_only_what_is_asked_for(images, model):
    measure = Measure(images)
    assert list(measure(model)) == measure.names() == ["clean"]
    assert measure.about_attack("PGD") is None


def test_at_most_so_many_are_attacked(images, model):
    measure = Measure(images, attack=PGD(0.1, 1), attack_images=7)
    assert measure.about_attack("PGD-1")["images"] == 7
    assert 7 * measure(model)["pgd"] == pytest.approx(round(7 * measure(model)["pgd"]))


def test_bad_input(images):
    with pytest.raises(ValueError, match="is empty"):
        Measure(images.subset([]))
    with pytest.raises(ValueError, match="severities are 1 to 5, got 0"):
        Measure(images, shift=["fog"], severity=0)
    with pytest.raises(ValueError, match="no corruption called 'frog'; did you mean"):
        Measure(images, shift=["frog"])


def test_the_best_row_is_unique():
    rows = [
        {"alpha": 0.0, "clean": 0.9, "pgd": 0.1, "mean": 0.5},
        {"alpha": 0.3, "clean": 0.9, "pgd": 0.5, "mean": 0.7},
        {"alpha": 0.6, "clean": 0.9, "pgd": 0.1 + 0.2 + 0.2, "mean": 0.7},
        {"alpha": 1.0, "clean": 0.6, "pgd": 0.6, "mean": 0.6},
    ]
    assert best(rows, "pgd")["alpha"] == 1.0
    assert best(rows, "clean")["alpha"] == 0.6  # among equals the mean decides, then the second model's share
    assert best(rows, "mean")["alpha"] == 0.6
    with pytest.raises(ValueError, match="cannot pick by shifted: what was measured is clean, pgd, mean"):
        best(rows, "shifted")

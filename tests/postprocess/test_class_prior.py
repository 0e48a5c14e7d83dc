"""The class prior against Bayes' rule, and what it does to a threshold."""

import numpy as np
import pytest
import torch
from scipy.stats import norm
from torch import nn

import kedge
from kedge import data
from kedge.postprocess.class_prior import ClassPrior, shares
from kedge.training import calibrate
from kedge.training.calibration import set_anew

from .test_steps_room import small

TRAIN, TARGET = np.array([0.9, 0.08, 0.02]), np.array([0.1, 0.3, 0.6])
CENTRES = np.array([-1.0, 0.0, 1.5])


def posterior(x: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """p(y | x) of three normal classes with these shares."""
    joint = norm.pdf(x[:, None], CENTRES) * prior
    return joint / joint.sum(1, keepdims=True)


def test_it_is_bayes_rule_with_the_other_shares():
    x = np.linspace(-4, 5, 200)
    logits = torch.from_numpy(np.log(posterior(x, TRAIN))) + torch.randn(200, 1, dtype=torch.float64)
    step = ClassPrior(ClassPrior.fit(logits, torch.zeros(200), (7 * TARGET).tolist(), train_counts=[900, 80, 20]))
    step.check(3)
    np.testing.assert_allclose(step(logits).softmax(1), posterior(x, TARGET), rtol=1e-9)
    np.testing.assert_allclose(step(logits.float()).softmax(1), posterior(x, TARGET), atol=1e-6)


def test_uniform_is_the_post_hoc_adjustment_of_menon():
    logits = torch.randn(30, 3, dtype=torch.float64)
    step = ClassPrior(ClassPrior.fit(logits, torch.zeros(30), "uniform", TRAIN.tolist()))
    adjusted = logits - torch.from_numpy(np.log(TRAIN))
    torch.testing.assert_close(step(logits).softmax(1), adjusted.softmax(1))
    assert str(step) == "class prior uniform"


def test_it_raises_the_accuracy_on_images_with_those_shares():
    generator = np.random.default_rng(0)
    y = generator.choice(3, 20_000, p=TARGET)
    logits = torch.from_numpy(np.log(posterior(generator.normal(CENTRES[y]), TRAIN)))
    step = ClassPrior(ClassPrior.fit(logits, torch.zeros(1), TARGET.tolist(), TRAIN.tolist()))
    before, after = (float((z.argmax(1).numpy() == y).mean()) for z in (logits, step(logits)))
    best = posterior_accuracy()
    assert after == pytest.approx(best, abs=0.01)
    assert after > before + 0.1


def posterior_accuracy() -> float:
    """Of the Bayes classifier on the target shares, by quadrature."""
    x = np.linspace(-8, 9, 40_001)
    return float(np.trapezoid((norm.pdf(x[:, None], CENTRES) * TARGET).max(1), x))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0.5, 0.5], "one number for each of 3 classes, got 2 values"),
        ([1, 2, 0], "positive finite numbers.*got 0"),
        ([1, 2, float("nan")], "got nan"),
        ([1, 2, True], "got True"),
        ("half", "uniform or one number"),
        (3.0, "one number for each of 3 classes, got 3.0"),
    ],
)
def test_what_are_no_shares_is_refused(values, words):
    with pytest.raises(ValueError, match=words):
        ClassPrior.fit(torch.zeros(2, 3), torch.zeros(2), values, train_counts=[1, 1, 1])


def test_stored_shares_are_checked():
    good = {"target": [0.5, 0.5], "train": [0.1, 0.9]}
    ClassPrior(good).check(2)
    for bad in (1.0, {"target": [1.0]}, good | {"train": [0.2, 0.9]}, good | {"train": [1.0]}, good | {"more": 1}):
        with pytest.raises(ValueError, match="class_prior"):
            ClassPrior(bad).check(2)
    with pytest.raises(ValueError, match="class shares of the training images"):
        ClassPrior.fit(torch.zeros(2, 3), torch.zeros(2))
    assert shares([2, 6], 2, "x", rescale=True) == [0.25, 0.75]


def loud(kind: str = "anchored"):
    """The small model, with logits that say something and are twice too large."""
    model = small(kind)
    with torch.no_grad():
        model.network.conv.weight.mul_(20) if kind == "plain" else model.stem.residual.weight.mul_(20)
        model.network.head.weight.mul_(6)
    return model


@pytest.fixture
def validation():
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(256, (300, 3, 1, 1), generator=draw, dtype=torch.uint8).expand(300, 3, 6, 6).contiguous()
    logits = loud().predict(images.float() / 255).logits
    labels = torch.multinomial((logits / 2).softmax(1), 1, generator=draw)[:, 0]
    return data.TensorSet(images, labels, list("abc"), "specks", "val")


def test_the_threshold_is_set_anew_and_comes_back(validation):
    model = loud()
    model.reject = old = {"score": "confidence", "threshold": 0.4, "coverage": 0.8}
    counts = [800, 150, 50]
    calibrate(model, validation)
    tempered = model.reject
    record = calibrate(model, validation, "class_prior", train_counts=counts)
    assert list(model.steps) == ["temperature", "class_prior"]
    assert record["accuracy_after"] != record["accuracy_before"]
    prediction = model.predict(validation.images.float() / 255)
    answered = kedge.rejection.answered(model.reject, prediction.confidence, prediction.log_odds)
    assert 0.8 <= float(answered.float().mean()) < 0.83
    with pytest.raises(ValueError, match="class_prior already"):
        calibrate(model, validation, "class_prior", train_counts=counts)
    with pytest.raises(ValueError, match="class_prior was set on answers"):
        calibrate(model, validation)
    with pytest.raises(ValueError, match="take that out before temperature"):
        model.remove_step("temperature")
    model.remove_step("class_prior")
    assert model.reject == tempered
    model.remove_step("temperature")
    assert model.reject == old


def test_a_threshold_that_nobody_knows_the_goal_of_is_refused(validation):
    model = small("plain")
    model.reject = {"score": "confidence", "threshold": 0.4}
    with pytest.raises(ValueError, match="not stored what that was set for"):
        calibrate(model, validation, "class_prior", train_prior=[1, 2, 3])
    assert model.steps == {}
    with pytest.raises(ValueError, match="temperature takes no prior"):
        calibrate(model, validation, prior="uniform")


def test_set_anew_fits_what_was_fitted_and_keeps_what_was_stated(validation):
    model = loud()
    model.reject = {"score": "confidence", "threshold": 0.4, "coverage": 0.8}
    calibrate(model, validation)
    calibrate(model, validation, "class_prior", prior=[1, 1, 2], train_counts=[800, 150, 50])
    value, temperature = model.steps["class_prior"]["value"], model.temperature
    with torch.no_grad():
        for parameter in model.network.head.parameters():
            parameter.mul_(3)
    set_anew(model, validation)
    assert model.temperature == pytest.approx(3 * temperature, rel=1e-3)
    assert model.steps["class_prior"]["value"] == value
    prediction = model.predict(validation.images.float() / 255)
    answered = kedge.rejection.answered(model.reject, prediction.confidence, prediction.log_odds)
    assert 0.8 <= float(answered.float().mean()) < 0.83
    assert isinstance(model.network.head, nn.Linear)

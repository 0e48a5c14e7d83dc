import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from torch import nn
from torch.nn import functional as F

import kedge
from kedge import data, metrics
from kedge.postprocess.temperature import BOUNDS
from kedge.training import calibrate, fit, fit_temperature


def sample(n: int, classes: int, truth: float, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and labels drawn from softmax(logits / truth)."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(n, classes, generator=generator)
    return logits, torch.multinomial((logits / truth).softmax(1), 1, generator=generator)[:, 0]


def by_scipy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    z, y = logits.double().numpy(), labels.numpy()

    def nll(log_temperature: float) -> float:
        return -log_softmax(z / math.exp(log_temperature), axis=1)[np.arange(len(y)), y].mean()

    found = minimize_scalar(nll, bounds=tuple(map(math.log, BOUNDS)), method="bounded", options={"xatol": 1e-9})
    return math.exp(found.x)


@settings(max_examples=30, deadline=None)
@given(
    n=st.integers(30, 300),
    classes=st.integers(2, 8),
    truth=st.floats(0.3, 5),
    scale=st.sampled_from([0.5, 1.0, 4.0]),
    seed=st.integers(0, 999),
    dtype=st.sampled_from([torch.float32, torch.float64]),
)
@pytest.mark.filterwarnings("ignore:the NLL of these")
def test_agrees_with_scipy(n: int, classes: int, truth: float, scale: float, seed: int, dtype: torch.dtype):
    logits, labels = sample(n, classes, truth, seed)
    logits = (logits * scale).to(dtype)
    if bool((logits.argmax(1) == labels).all()):
        return
    assert fit_temperature(logits, labels) == pytest.approx(by_scipy(logits, labels), rel=1e-4)


@settings(max_examples=20, deadline=None)
@given(n=st.integers(30, 200), classes=st.integers(2, 8), smoothing=st.floats(0.01, 0.5), seed=st.integers(0, 999))
@pytest.mark.filterwarnings("ignore:the NLL of these")
def test_with_smoothed_labels_it_agrees_with_scipy_also_where_all_are_right(n, classes, smoothing, seed):
    logits, labels = sample(n, classes, 1.0, seed)
    for answers in (labels, logits.argmax(1)):

        def loss(log_t, answers=answers):
            return float(F.cross_entropy(logits.double() / math.exp(log_t), answers, label_smoothing=smoothing))

        theirs = minimize_scalar(loss, bounds=tuple(map(math.log, BOUNDS)), method="bounded", options={"xatol": 1e-9})
        assert fit_temperature(logits, answers, smoothing) == pytest.approx(math.exp(theirs.x), rel=1e-4)


def test_a_smoothing_out_of_range_is_said():
    with pytest.raises(ValueError, match=r"smoothing must be in \[0, 1\), got 1"):
        fit_temperature(torch.eye(2), torch.tensor([0, 1]), 1)


@pytest.mark.parametrize("truth", [0.5, 1.0, 2.5])
def test_finds_the_temperature_that_drew_the_labels(truth: float):
    logits, labels = sample(40_000, 10, truth)
    assert fit_temperature(logits, labels) == pytest.approx(truth, rel=0.03)


def test_two_classes_are_a_logistic_regression_without_intercept():
    from sklearn.linear_model import LogisticRegression

    logits, labels = sample(2000, 2, 1.8)
    gap = (logits[:, 1] - logits[:, 0])[:, None].double().numpy()
    slope = LogisticRegression(fit_intercept=False, C=np.inf, tol=1e-10).fit(gap, labels.numpy()).coef_[0, 0]
    assert fit_temperature(logits, labels) == pytest.approx(1 / slope, rel=1e-4)


def test_scaling_logits_scales_the_temperature_and_pieces_change_nothing(monkeypatch):
    logits, labels = sample(500, 5, 2.0)
    found = fit_temperature(logits, labels)
    assert fit_temperature(7 * logits, labels) == pytest.approx(7 * found, rel=1e-6)
    assert fit_temperature(logits + 100, labels) == pytest.approx(found, rel=1e-4)
    monkeypatch.setattr("kedge.postprocess.temperature._ROWS", 5 * 33)
    assert fit_temperature(logits, labels.to(torch.int32)) == pytest.approx(found, rel=1e-10)


@pytest.mark.parametrize(
    ("logits", "labels", "value", "words"),
    [
        (1e4 * torch.eye(3), [0, 1, 2], 1.0, "all 3 answers are right"),
        (torch.eye(3), [0, 1, 2], 1.0, "all 3 answers are right"),
        (torch.randn(5, 1), [0] * 5, 1.0, "no temperature changes"),
        (torch.ones(4, 3), [0, 1, 2, 0], 1.0, "no temperature changes"),
        (1e4 * torch.eye(3), [1, 2, 0], BOUNDS[1], "beyond a temperature of 100"),
        (1e-6 * torch.eye(3)[[0, 1, 2, 0, 0, 0, 0]], [0, 1, 2, 0, 0, 0, 1], BOUNDS[0], "beyond a temperature of 0.01"),
    ],
)
def test_what_cannot_be_decided_is_said_and_bounded(logits, labels, value: float, words: str):
    with pytest.warns(UserWarning, match=words):
        assert fit_temperature(logits, torch.tensor(labels)) == value


@pytest.mark.parametrize(
    ("logits", "labels", "words"),
    [
        (torch.tensor([[0.0, float("nan")], [1, 2]]), torch.tensor([0, 1]), "1 of 2 rows of logits hold NaN"),
        (torch.tensor([[0.0, float("inf")]]), torch.tensor([0]), "NaN or infinity"),
        (torch.zeros(0, 3), torch.zeros(0, dtype=torch.long), "N >= 1"),
        (torch.zeros(2, 3), torch.tensor([0, 3]), r"labels must be in 0\.\.2, but they are in 0\.\.3"),
        (torch.zeros(2, 3), torch.tensor([0.0, 1.0]), "integer"),
        (torch.zeros(2, 3), torch.tensor([0]), r"\[2, 3\] and \[1\]"),
    ],
)
def test_bad_input_is_said(logits, labels, words: str):
    with pytest.raises(ValueError, match=words):
        fit_temperature(logits, labels)


class Loud(nn.Module):
    """Fixed logits by the brightness of an image, three times too large."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 4)

    def forward(self, x):
        return 3 * self.conv(x).flatten(1)


@pytest.fixture
def validation():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (400, 1, 4, 4), generator=generator, dtype=torch.uint8)
    return data.TensorSet(images, torch.randint(4, (400,), generator=generator), list("abcd"), "specks", "val")


@pytest.fixture(params=["anchored", "plain"])
def model(request, validation):
    torch.manual_seed(0)
    if request.param == "plain":
        made = kedge.plain(Loud().eval(), example=(1, 4, 4))
    else:
        made = kedge.anchor(Loud().eval(), example=(1, 4, 4))
        nn.init.normal_(made.stem.reference.weight, std=0.2)
        made.references = validation.images[:5].float() / 255
    made.class_names = list("abcd")
    # Labels that the model is right about, but for every third.
    with torch.no_grad():
        answers = made.predict(validation.images.float() / 255).label
    validation.labels[:] = torch.where(torch.arange(400) % 3 > 0, answers, validation.labels)
    return made


def test_calibrate_sets_the_step_and_the_threshold_anew(model, validation):
    images = validation.images.float() / 255
    before = model.predict(images)
    old = {"score": "confidence", "threshold": 0.99, "coverage": 0.8}
    model.reject = old
    record = calibrate(model, validation)
    assert record is model.steps["temperature"]
    assert model.temperature == pytest.approx(by_scipy(before.logits, validation.labels), rel=1e-4)
    after = model.predict(images)
    assert torch.equal(after.label, before.label)
    assert (record["fitted_on"], record["images"]) == ("specks (val)", 400)
    assert record["nll_after"] < record["nll_before"]
    assert record["nll_before"] == pytest.approx(float(metrics.nll(before.probs, validation.labels)), rel=1e-5)
    assert record["nll_after"] == pytest.approx(float(metrics.nll(after.probs, validation.labels)), rel=1e-5)
    assert record["ece_after"] == pytest.approx(
        float(metrics.calibration_error(after.probs, validation.labels)), abs=1e-5
    )
    assert model.reject["threshold"] != 0.99
    assert model.reject["coverage"] == 0.8
    kept = metrics.selective_accuracy(after.confidence, after.label == validation.labels, model.reject["threshold"])
    assert kept[0] == pytest.approx(0.8, abs=0.01)
    model.remove_step("temperature")
    assert model.reject == old
    assert torch.equal(model.predict(images).logits, before.logits)


def test_a_threshold_for_a_risk_is_set_anew_for_that_risk(model, validation):
    model.reject = {"score": "confidence", "threshold": 0.99, "risk": 0.3}
    calibrate(model, validation)
    after = model.predict(validation.images.float() / 255)
    correct = after.label == validation.labels
    assert model.reject["risk"] == 0.3
    assert "coverage" not in model.reject
    expected = metrics.threshold_for_risk(after.confidence, correct, 0.3)
    assert (model.reject["threshold"], model.reject["validation_coverage"]) == pytest.approx(expected)


def test_calibrating_again_starts_from_the_logits_of_the_network(model, validation):
    model.reject = {"score": "confidence", "threshold": 0.5, "coverage": 0.9}
    first = calibrate(model, validation)
    again = calibrate(model, validation, batch_size=33)
    for name in ("value", "nll_before", "nll_after", "ece_before", "ece_after"):
        assert again[name] == pytest.approx(first[name], rel=1e-5)
    assert again["reject_before"] == first["reject_before"]
    model.remove_step("temperature")
    assert model.reject["threshold"] == 0.5


def test_a_model_without_a_rule_gets_none(model, validation):
    calibrate(model, validation)
    assert model.reject is None
    assert "reject_before" not in model.steps["temperature"]


def test_what_cannot_be_calibrated_is_said(model, validation):
    with pytest.raises(ValueError, match=r"the classes of specks .* are not those of the model"):
        calibrate(model, data.TensorSet(validation.images, validation.labels, list("abdc"), "specks"))
    with pytest.raises(ValueError, match="holds no images"):
        calibrate(model, validation.subset([]))
    vectors = kedge.plain(nn.Linear(3, 2), example=(3,), task="regression")
    with pytest.raises(ValueError, match="for classification"):
        calibrate(vectors, validation)
    broken = kedge.plain(Loud().eval(), example=(1, 4, 4))
    with torch.no_grad():
        broken.network.conv.bias.fill_(torch.nan)
    with pytest.raises(ValueError, match="hold NaN"):
        calibrate(broken, validation)
    assert broken.steps == {}
    broken.set_temperature(2.0)
    with pytest.raises(ValueError, match="hold NaN"):
        calibrate(broken, validation)
    assert broken.temperature == 2


@pytest.mark.usefixtures("no_report")
def test_a_recipe_can_ask_for_it(tiny):
    bare = fit(tiny(name="bare"), progress=False)
    found = fit(tiny(name="scaled", temperature=True), progress=False)
    assert bare.model.steps == {}
    record = found.model.steps["temperature"]
    assert found.validation["nll"] == pytest.approx(record["nll_after"], rel=1e-5)
    assert bare.validation["nll"] == pytest.approx(record["nll_before"], rel=1e-5)
    assert found.validation["accuracy"] == bare.validation["accuracy"]
    assert record["reject_before"] == bare.model.reject
    loaded = kedge.load(found.folder)
    assert loaded.steps == found.model.steps
    assert loaded.reject == found.model.reject

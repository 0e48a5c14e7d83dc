import math

import numpy as np
import pytest
import torch
from scipy.special import logit, logsumexp, softmax
from scipy.stats import entropy
from torch import nn

import kedge
from kedge.scores import (
    AMP,
    MSP,
    SCORES,
    Disagreement,
    Energy,
    Entropy,
    Masked,
    MaxLogit,
    Outputs,
    Score,
    outputs_of,
    usable,
)


class Net(nn.Module):
    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(6, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(self.norm(self.conv(x)).relu().mean(dim=(2, 3))))


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def test_against_scipy():
    logits = 3 * torch.randn(20, 7, generator=torch.Generator().manual_seed(0))
    outputs = Outputs(logits)
    confidence = softmax(logits.double().numpy(), axis=1).max(axis=1)
    np.testing.assert_allclose(MSP().score(outputs), logit(confidence), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(Energy().score(outputs), logsumexp(logits.numpy(), axis=1), rtol=1e-5)
    np.testing.assert_allclose(Energy(2.0).score(outputs), 2 * logsumexp(logits.numpy() / 2, axis=1), rtol=1e-5)


def test_huge_logits_stay_finite():
    outputs = Outputs(torch.tensor([[3e4, -3e4], [0.0, 0.0]]))
    assert MSP().score(outputs).tolist() == [6e4, 0.0]
    assert Energy().score(outputs).tolist() == pytest.approx([3e4, math.log(2)])


def test_disagreement_is_the_spread_with_its_sign_turned(images):
    model = kedge.anchor(Net().eval(), example=images)
    model.references = torch.rand(6, 3, 8, 8)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    prediction = model.predict(images, keep_per_reference=True)
    by_hand = 1 / (1 + np.exp(-prediction.per_reference.numpy().astype(np.float64)))
    expected = -by_hand.std(axis=0, ddof=1).mean(axis=1)
    np.testing.assert_allclose(Disagreement()(model, images), expected, rtol=1e-4, atol=1e-6)
    assert float(Disagreement()(model, images).max()) <= 0


def test_disagreement_of_a_plain_model_says_what_is_missing(images):
    with pytest.raises(ValueError, match="two or more references"):
        Disagreement()(kedge.plain(Net(), example=images), images)


@pytest.mark.parametrize("score", [MSP(), Energy()])
def test_calling_a_score_is_the_same_as_sharing_outputs(score, images):
    model = kedge.plain(Net(), example=images)
    shared = score.score(outputs_of(model, images))
    assert torch.equal(score(model, images), shared)
    assert torch.equal(score.fit(outputs_of(model, images), torch.zeros(5)).score(outputs_of(model, images)), shared)
    assert shared.shape == (5,)


def test_modes_and_gradients_are_left_alone(images):
    net = Net()
    net.norm.eval()
    before = [m.training for m in net.modules()]
    outputs = outputs_of(net, images)
    assert [m.training for m in net.modules()] == before
    assert not outputs.logits.requires_grad
    assert torch.equal(outputs.logits, outputs_of(net, images).logits)  # dropout was off


def test_any_callable_and_what_is_not_logits(images):
    assert outputs_of(lambda x: x.flatten(1)[:, :3], images).logits.shape == (5, 3)
    with pytest.raises(ValueError, match=r"\[5, 8, 8\]"):
        outputs_of(lambda x: x[:, 0], images)
    with pytest.raises(ValueError, match="tuple"):
        outputs_of(lambda x: (x, x), images)
    with pytest.raises(ValueError, match="positive"):
        Energy(0)


def logits_of(n: int = 20, c: int = 7, seed: int = 0) -> torch.Tensor:
    return 3 * torch.randn(n, c, generator=torch.Generator().manual_seed(seed))


def test_max_logit_and_entropy_against_numpy():
    logits = logits_of()
    np.testing.assert_array_equal(MaxLogit().score(Outputs(logits)), logits.numpy().max(axis=1))
    np.testing.assert_allclose(
        Entropy().score(Outputs(logits)), -entropy(softmax(logits.numpy(), axis=1), axis=1), atol=1e-6
    )
    sure = Entropy().score(Outputs(torch.tensor([[500.0, 0.0], [0.0, 0.0], [float("-inf"), 0.0]])))
    assert sure.tolist() == pytest.approx([0, -math.log(2), 0])


def test_amp_is_its_formula_and_larger_where_references_agree():
    logits, uncertainty = logits_of(), torch.linspace(0.01, 0.4, 20)
    tau = 7 * uncertainty.numpy().astype(np.float64)
    expected = -np.log(softmax(logits.numpy() / tau[:, None], axis=1)).mean(axis=1)
    np.testing.assert_allclose(AMP().score(Outputs(logits, uncertainty)), expected, rtol=1e-5)
    same = logits[:1].expand(20, 7)
    falling = AMP().score(Outputs(same, uncertainty))  # less agreement
    assert bool((falling.diff() < 0).all())
    flatter = AMP().score(Outputs(torch.linspace(1, 0, 20)[:, None] * same, uncertainty[:1].expand(20)))
    assert bool((flatter.diff() < 0).all())
    assert float(flatter[-1]) == pytest.approx(math.log(7))  # a flat prediction: the least there is
    assert AMP().score(Outputs(logits, torch.zeros(20))).isfinite().all()  # right after conversion


def test_masked_is_the_divergence_from_uniform_with_its_sign_turned():
    masked = logits_of()
    expected = [-entropy(np.full(7, 1 / 7), softmax(row)) for row in masked.double().numpy()]
    np.testing.assert_allclose(Masked().score(Outputs(masked, masked=masked)), expected, rtol=1e-4)
    assert float(Masked().score(Outputs(masked, masked=torch.full((20, 7), 3.0))).abs().max()) < 1e-6
    with pytest.raises(ValueError, match="masked=True"):
        Masked().score(Outputs(masked))
    with pytest.raises(ValueError, match="two or more references"):
        AMP().score(Outputs(masked))


def test_the_order_of_tables_and_what_each_score_needs():
    logits = logits_of()
    of_logits, of_references = ["msp", "max_logit", "energy", "entropy"], ["disagreement", "amp"]

    def names(**fields: torch.Tensor) -> list[str]:
        known = [*of_logits, *of_references, "masked", "knn", "mahalanobis", "vim"]
        every = [score() for score in SCORES.values()]
        return [s.name for s in usable(every, Outputs(logits, **fields)) if s.name in known]

    assert names() == of_logits
    assert names(uncertainty=logits[:, 0]) == [*of_logits, *of_references]
    assert names(features=logits) == [*of_logits, "knn", "mahalanobis"]
    assert {name for name, score in SCORES.items() if score.fits} >= {"knn", "mahalanobis", "vim"}
    assert len({score.title for score in SCORES.values()}) == len(SCORES)


def test_a_score_is_called_like_its_file_where_it_does_not_say_otherwise():
    class Own(Score):
        pass

    class Named(Score):
        name = "mine"

    class Warmer(Energy):
        pass

    assert {name: score.name for name, score in SCORES.items()} == {name: name for name in SCORES}
    assert (Own.name, Named.name, Warmer.name) == ("test_scores", "mine", "energy")


@pytest.mark.parametrize("name", SCORES)
def test_every_score_on_a_model_in_one_call(name, images):
    model = kedge.anchor(Net().eval(), example=images)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    model.references = torch.rand(3, 3, 8, 8)
    anchors = torch.rand(6, 3, 8, 8), torch.arange(6) % 4
    train = outputs_of(model, torch.rand(60, 3, 8, 8), features=True, masked=True)
    more = {"anchors": anchors} if "reverse" in SCORES[name].needs else {}
    score = SCORES[name](**more).fit(train, torch.arange(60) % 4)
    found = score(model, images)
    assert found.shape == (5,)
    assert found.dtype == torch.float32
    assert found.isfinite().all()
    torch.testing.assert_close(
        found, score.score(outputs_of(model, images, features=True, masked=True, reverse=anchors))
    )


@pytest.mark.parametrize("name", ["msp", "max_logit", "energy", "entropy", "amp", "masked"])
def test_half_precision_outputs(name):
    logits = logits_of()
    score = SCORES[name]()
    whole = score.score(Outputs(logits, logits.sigmoid()[:, 0], masked=logits))
    half = score.score(Outputs(logits.half(), logits.sigmoid()[:, 0].half(), masked=logits.half()))
    np.testing.assert_allclose(half, whole, rtol=0.02, atol=0.01)
    assert score.score(Outputs(logits[:0], logits[:0, 0], masked=logits[:0])).shape == (0,)

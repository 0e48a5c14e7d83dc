import json
import math

import mpmath
import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

import kedge
from kedge import metrics
from kedge.anchoring.prediction import conclude, summarise
from kedge.confidence import CERTAIN
from kedge.rejection import answered, by_confidence, in_words, resolved, rule_at, rule_from
from kedge.scores import MSP, Entropy, Outputs

mpmath.mp.dps = 400


def odds_of(logits: list[float]) -> float:
    """log(p / (1 - p)) of the largest softmax in 400 digits, by its definition."""
    powers = [mpmath.exp(mpmath.mpf(z)) for z in logits]
    p = max(powers) / sum(powers)
    return float(mpmath.log(p / (1 - p)))


def saturated(n: int, classes: int, seed: int = 0) -> torch.Tensor:
    """Logits whose softmax is 1 in float32 for all but a few, float32."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, classes, generator=generator)
    logits[torch.arange(n), torch.randint(0, classes, (n,), generator=generator)] += torch.linspace(18, 90, n)
    return logits


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_log_odds_are_those_of_400_digits(classes: int):
    generator = torch.Generator().manual_seed(classes)
    logits = torch.cat([saturated(30, classes), 3 * torch.randn(30, classes, generator=generator)])
    expected = [odds_of(row) for row in logits.tolist()]
    assert metrics.log_odds(logits).dtype == torch.float32
    np.testing.assert_allclose(metrics.log_odds(logits), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(metrics.log_odds(logits.double()), expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(metrics.log_odds(logits.view(2, 30, classes)).flatten(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_logits_lose_nothing_more(dtype):
    logits = saturated(20, 4).to(dtype)
    expected = [odds_of(row) for row in logits.double().tolist()]
    assert metrics.log_odds(logits).dtype == torch.float32
    np.testing.assert_allclose(metrics.log_odds(logits), expected, rtol=1e-5)


def test_log_odds_at_the_edges():
    inf, nan = math.inf, math.nan
    rows = [[3.0, 1.0, -inf], [2.0, -inf, -inf], [-inf, -inf, -inf], [nan, 0.0, 0.0], [inf, 0.0, 0.0], [inf, inf, 0.0]]
    found = metrics.log_odds(torch.tensor(rows)).tolist()
    assert found[:2] == pytest.approx([2.0, CERTAIN])
    assert all(math.isnan(value) for value in found[2:])  # as the softmax is
    assert metrics.log_odds(torch.zeros(3, 1)).tolist() == pytest.approx([CERTAIN] * 3)
    assert metrics.log_odds(torch.zeros(5, 4)).tolist() == pytest.approx([-math.log(3)] * 5)
    assert metrics.log_odds(torch.zeros(0, 4)).shape == (0,)
    for bad in (torch.zeros(3, 0), torch.zeros(3, 4).long(), torch.tensor(1.0)):
        with pytest.raises(ValueError, match="floating point"):
            metrics.log_odds(bad)


def test_the_mean_over_references_is_that_of_the_averaged_probability():
    each = torch.stack([saturated(12, 5, seed) for seed in range(3)])
    each[1:] = each[0] + 0.3 * torch.randn(2, 12, 5, generator=torch.Generator().manual_seed(1))
    each[:, :4] /= 30  # some that do not saturate
    expected = []
    for row in each.double().transpose(0, 1).tolist():
        probs = [[mpmath.exp(z) / mpmath.fsum(map(mpmath.exp, logits)) for z in logits] for logits in row]
        mean = [mpmath.fsum(column) / 3 for column in zip(*probs, strict=True)]
        expected.append(float(mpmath.log(max(mean) / (1 - max(mean)))))
    assert bool((each[:, 4:].softmax(-1).mean(0).amax(-1) == 1).any())
    np.testing.assert_allclose(metrics.log_odds_of_references(each), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(metrics.log_odds_of_references(each[:1]), metrics.log_odds(each[0]), rtol=1e-5)
    with pytest.raises(ValueError, match=r"\[K, B, C\]"):
        metrics.log_odds_of_references(torch.zeros(0, 3, 2))


def test_probabilities_alone_tell_what_their_rounding_left():
    probs = torch.tensor([[1.0, 3e-9, 1e-9], [0.7, 0.2, 0.1], [1.0, 0.0, 0.0], [1.0, 1e-30, 0.0]])
    expected = [math.log(1 / 4e-9), math.log(0.7 / 0.3), CERTAIN, math.log(1e30)]
    np.testing.assert_allclose(metrics.log_odds_of_probs(probs), expected, rtol=1e-6)
    with pytest.raises(ValueError, match="for logits"):
        metrics.log_odds_of_probs(torch.tensor([[3.0, -1.0]]))


def test_the_order_is_that_of_the_confidence_where_it_does_not_saturate():
    logits = 3 * torch.randn(300, 6, generator=torch.Generator().manual_seed(4))
    confidence, odds = logits.double().softmax(1).amax(1), metrics.log_odds(logits)
    apart = confidence[:, None] - confidence > 1e-5
    assert bool((odds[:, None] > odds)[apart].all())
    np.testing.assert_allclose(odds.double().sigmoid(), confidence, rtol=1e-5)


def test_scores_rank_images_whose_confidence_is_1():
    inside, outside = saturated(200, 10, 1) + 1.0, saturated(200, 10, 2)
    outside[outside > 10] -= 3.0
    assert bool((torch.cat([inside, outside]).softmax(1).amax(1) == 1).double().mean() > 0.95)
    exact = [[odds_of(row) for row in side.double().tolist()] for side in (inside, outside)]
    expected = roc_auc_score([1] * 200 + [0] * 200, exact[0] + exact[1])
    assert expected > 0.52
    scored = [[one.score(Outputs(side)) for side in (inside, outside)] for one in (MSP(), Entropy())]
    assert float(metrics.auroc(*scored[0])) == pytest.approx(expected, abs=1e-4)
    entropies = [[-float(_entropy(row)) for row in side.double().tolist()] for side in (inside, outside)]
    np.testing.assert_allclose(scored[1][0], entropies[0], rtol=1e-4)
    np.testing.assert_allclose(scored[1][1], entropies[1], rtol=1e-4)


def _entropy(logits: list[float]) -> mpmath.mpf:
    powers = [mpmath.exp(mpmath.mpf(z)) for z in logits]
    probs = [power / sum(powers) for power in powers]
    return -sum(p * mpmath.log(p) for p in probs)


def test_a_prediction_holds_its_log_odds_after_steps_and_means():
    each = torch.stack([saturated(8, 4, seed) for seed in range(3)]).half()
    prediction = summarise([each], "classification", steps={"temperature": {"value": 1.7}})
    expected = [odds_of(row) for row in prediction.logits.double().tolist()]
    np.testing.assert_allclose(prediction.log_odds, expected, rtol=1e-5)
    assert conclude(torch.zeros(3, 2), None, "regression").log_odds is None
    model = kedge.plain(torch.nn.Linear(5, 3), example=(5,))
    images = torch.rand(4, 5)
    assert torch.equal(model.predict(images).log_odds, metrics.log_odds(model.predict(images).logits))


def test_a_rule_is_met_from_its_log_odds_on():
    odds = torch.tensor([1.0, 19.0, 21.0, 25.0, math.nan])
    confidence = odds.sigmoid()
    rule = rule_from(21.0)
    assert rule == {"threshold": pytest.approx(1 - math.exp(-21), abs=1e-15), "log_odds": 21.0}
    assert answered(json.loads(json.dumps(rule)), confidence, odds).tolist() == [False, False, True, True, False]
    # Of before: as the confidence says.
    assert answered({"threshold": 1.0}, confidence, odds).tolist() == [False, True, True, True, False]
    # Changed by hand: what people see decides.
    assert answered({**rule, "threshold": 0.5}, confidence, odds).tolist() == [True, True, True, True, False]
    assert answered({**rule, "threshold": 2.0}, confidence, odds).tolist() == [False] * 5
    assert answered({**rule, "threshold": 1.0}, confidence, odds).tolist() == [False, True, True, True, False]
    assert answered(rule_at(1 - 1e-9), confidence, odds).tolist() == [False, False, True, True, False]
    assert answered(rule_at(1.0), confidence, odds).tolist() == [False] * 5
    assert answered(rule_at(0.0), confidence, odds).tolist() == [True] * 4 + [False]
    none = rule_from(30.0, met=False)
    assert answered(none, torch.ones(2), torch.tensor([29.0, 31.0])).tolist() == [False, True]
    assert none["threshold"] > 1  # who compares confidences rejects too


def test_which_rules_are_about_confidence():
    assert by_confidence(None) is None
    assert by_confidence({"threshold": None}) is None
    assert by_confidence({"threshold": 0.5, "score": "energy"}) is None
    assert by_confidence({"threshold": 0.5}) == {"threshold": 0.5}


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        ({"threshold": 0.938}, "0.938"),
        ({"threshold": 0.99952}, "0.9995"),
        ({"threshold": 1.0}, "1.000"),
        ({"threshold": 1.0, "log_odds": 0.0}, "1.000"),
        (rule_at(0.99952), "0.9995"),
        (rule_at(1 - 3e-7), "0.9999997"),
        (rule_at(1 - 3e-9), "1 - 3e-9"),
        (rule_from(-math.log(9.7e-12)), "1 - 1e-11"),
        (rule_at(1.0), "1.000"),
        ({"threshold": 0.25, "log_odds": math.log(1 / 3)}, "0.250"),
    ],
)
def test_thresholds_are_confidences_for_people(rule, words):
    assert in_words(rule) == words
    assert in_words({"threshold": resolved(rule)}) == words or resolved(rule) == 1


def test_a_threshold_of_two_digits():
    assert in_words({"threshold": 0.974}, 2) == "0.97"
    assert in_words({"threshold": 0.997}, 2) == "0.997"

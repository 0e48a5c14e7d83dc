"""The rule for `unknown`: what meets it, what it is stored as, and the answers in words."""

import json

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax

import kedge
from kedge import unknown
from kedge.rejection import is_unknown_rule, rule_at
from kedge.training.unknown_rule import rule_anew, rule_on, threshold_for

LOGITS = torch.tensor([[4.0, 0.0, -1.0], [0.5, 0.4, 0.3], [-3.0, -2.5, -4.0], [1.5, 0.2, 0.1]])


def model_of(names=("ant", "bee", "wasp")):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, len(names)))
    model = kedge.plain(network, example=(3, 2, 2)).eval()
    model.class_names = list(names)
    return model


def test_scores_are_their_formulas_in_numpy():
    z = LOGITS.double().numpy()
    p = softmax(z, axis=1)
    expected = {
        "msp": np.log(p.max(1) / (1 - p.max(1))),
        "max_logit": z.max(1),
        "energy": logsumexp(z, axis=1),
        "entropy": (p * np.log(p)).sum(1),
    }
    assert set(expected) == set(unknown.OF_LOGITS)
    for name, values in expected.items():
        np.testing.assert_allclose(unknown.score_of(name, LOGITS).numpy(), values, rtol=1e-5)
        threshold = float(np.sort(values)[1:3].mean())
        says = unknown.foreign({"score": name, "threshold": threshold}, LOGITS)
        assert says.tolist() == (values < threshold).tolist()


def test_unknown_comes_before_unsure_and_both_before_the_label():
    model = model_of()
    prediction = kedge.anchoring.prediction.conclude(LOGITS, None, "classification")
    assert unknown.answers(model, prediction) == ["ant", "ant", "bee", "ant"]
    model.reject = rule_at(0.6)
    assert unknown.answers(model, prediction) == ["ant", "unsure", "unsure", "ant"]
    model.unknown = {"score": "energy", "threshold": 0.0}
    assert unknown.answers(model, prediction) == ["ant", "unsure", "unknown", "ant"]
    assert unknown.answers(model, prediction, answer_all=True) == ["ant", "ant", "bee", "ant"]
    model.class_names = ["unknown", "bee", "unsure"]
    assert unknown.answers(model, prediction) == ["unknown", "(unsure)", "(unknown)", "unknown"]


def test_nan_is_unknown_and_a_rule_that_is_none_is_refused():
    rule = {"score": "energy", "threshold": 0.0}
    assert unknown.foreign(rule, torch.tensor([[torch.nan, 1.0], [5.0, 1.0]])).tolist() == [True, False]
    assert unknown.foreign(None, LOGITS).tolist() == [False] * 4
    for wrong in (
        {"score": "knn", "threshold": 0.0},
        {"score": "energy"},
        {"score": "energy", "threshold": float("nan")},
        {"score": "energy", "threshold": "0"},
        {"score": "energy", "threshold": 0.0, "unknown_if": "above"},
        {"score": "energy", "threshold": 0.0, "familiar": 2},
        ["energy", 0.0],
    ):
        assert not is_unknown_rule(wrong)
        with pytest.raises(ValueError, match="a rule for unknown is one of the scores msp"):
            unknown.foreign(wrong, LOGITS)


def test_a_rule_travels_with_the_model_in_a_format_of_its_own(tmp_path):
    model = model_of()
    folder = kedge.save(model, tmp_path / "without")
    config = json.loads((folder / "config.json").read_text())
    assert config["format_version"] == 1  # as any reader knows it
    assert "unknown" not in config
    assert kedge.load(folder, model=model.network).unknown is None
    model.unknown = rule_on(LOGITS, 0.9)
    folder = kedge.save(model, tmp_path / "with")
    config = json.loads((folder / "config.json").read_text())
    assert config["format_version"] == 3  # who does not know the rule must not read it as if there were none
    assert kedge.load(folder, model=model.network).unknown == model.unknown
    (folder / "config.json").write_text(json.dumps({**config, "format_version": 2}))
    with pytest.raises(ValueError, match=r"unknown cannot be .* nothing before format 3"):
        kedge.load(folder, model=model.network)
    config["unknown"]["score"] = "os.system"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"unknown cannot be .* one of the scores msp"):
        kedge.load(folder, model=model.network)
    model.unknown = {"score": "energy", "threshold": float("inf")}
    with pytest.raises(ValueError, match="unknown cannot be"):
        kedge.save(model, tmp_path / "broken")


@pytest.mark.parametrize("count", [12, 40, 333])
def test_the_promised_share_is_what_new_images_get(count):
    """Of scores of one kind, whatever their law: simulated over many draws."""
    draws = torch.Generator().manual_seed(count)
    shares, promised = [], 0.0
    for _ in range(2000):
        scores = torch.randn(count + 200, generator=draws).exp()
        threshold, promised = threshold_for(scores[:count], 0.95)
        shares.append(float((scores[count:] >= threshold).double().mean()))
    error = np.std(shares) / np.sqrt(len(shares))
    assert abs(np.mean(shares) - promised) < 4 * error
    assert promised >= 0.95 or count < 19


def test_a_rule_is_set_anew_for_other_logits():
    logits = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    rule = rule_on(logits, 0.95, "max_logit", chosen={"by": "hand"})
    assert rule["kept"] == pytest.approx(0.95, abs=0.01)
    anew = rule_anew(rule, 2 * logits)
    assert anew == {**rule, "threshold": pytest.approx(2 * rule["threshold"])}
    assert rule_on(logits[:0], 0.95) is None
    assert rule_on(torch.full((3, 2), torch.nan), 0.95) is None

"""A model whose confidence is exactly 1 on every image: what ranks and rejects must go by the log odds."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

import kedge
from kedge.anchoring.prediction import conclude
from kedge.data import TensorSet
from kedge.evaluation import evaluate
from kedge.evaluation.model_summary import selective_summary
from kedge.evaluation.runner import measure
from kedge.reporting import summary
from kedge.training.calibration import predict_logits, reject_rule


class Sure(nn.Module):
    """Always answers 0, with a gap of 18 to 43 that the first pixel decides."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        gap = 18 + 25 * images.flatten(1)[:, 0]
        return torch.stack([gap, torch.zeros_like(gap)], 1)


def a_set(gaps: torch.Tensor, labels: torch.Tensor, name: str) -> TensorSet:
    pixels = gaps.to(torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2).contiguous()
    return TensorSet(pixels, labels, ["right", "wrong"], name=name)


@pytest.fixture
def images() -> TensorSet:
    """200 images with gaps in rising order; the 58 lowest are wrong."""
    place = torch.arange(200)
    return a_set(place, (place < 58).long(), "sure")


@pytest.fixture
def model() -> kedge.PlainModel:
    return kedge.plain(Sure(), example=(1, 2, 2)).eval()


def test_evaluate_ranks_beyond_a_confidence_of_1(images, model):
    strange = a_set(torch.arange(0, 240, 3), torch.zeros(80).long(), "strange")
    logits, labels = predict_logits(model, images)
    assert bool((logits.softmax(1).amax(1) == 1).all())
    model.reject = reject_rule(logits, labels, risk=0.02)
    results = evaluate(model, images, shift=(), ood={"strange": strange}, scores=[kedge.scores.MSP()], risk=0.02)
    about = results["models"]["model"]
    found = about["selective"]
    # Answered from the surest down, two mistakes among 144 are within 2 %, three among 145 are not.
    assert found["at_risk"]["coverage"] == pytest.approx(144 / 200)
    assert found["clean"] == {"coverage": pytest.approx(144 / 200), "accuracy": pytest.approx(142 / 144)}
    # Every mistake comes after all right answers.
    assert found["excess_aurc"]["value"] == 0
    risks = np.cumsum(np.arange(200) >= 142) / np.arange(1, 201)
    assert found["aurc"]["value"] == pytest.approx(risks.mean())
    inside, outside = np.arange(200), np.arange(0, 240, 3)
    area = roc_auc_score([1] * 200 + [0] * 80, np.concatenate([inside, outside]))
    assert about["ood"]["strange"]["scores"]["msp"]["auroc"]["value"] == pytest.approx(area)
    assert about["ood"]["strange"]["accepted"] == pytest.approx(float((outside >= 56).mean()))
    wrong, places = np.concatenate([inside < 58, np.ones(80, bool)]), np.concatenate([inside, outside])
    # Of two equals, one of each set, either may come first: the mean of both orders.
    orders = [np.lexsort([first, -places]) for first in (np.arange(280), -np.arange(280))]
    joint = [(np.cumsum(wrong[order]) / np.arange(1, 281)).mean() for order in orders]
    assert found["joint"]["strange"]["aurc"] == pytest.approx(np.mean(joint))
    assert [image["index"] for image in about["images"]["most_certain"][:3]] == [199, 198, 197]
    assert [image["index"] for image in about["images"]["confident_mistakes"][:2]] == [57, 56]
    sentences = " ".join(summary.about("model", about, results))
    assert "above a confidence of 1 - 6e-11" in sentences  # the gap of place 56 is 18 + 25 * 56 / 255
    assert "No threshold" not in sentences


def test_a_threshold_of_a_folder_of_before_is_met_as_it_was(images, model):
    model.reject = {"score": "confidence", "threshold": 1.0, "coverage": 0.95}
    found = evaluate(model, images, shift=())["models"]["model"]["selective"]
    assert (found["threshold"], found["log_odds"]) == (1.0, None)
    assert found["clean"] == {"coverage": 1.0, "accuracy": pytest.approx(142 / 200)}


def test_thresholds_for_a_coverage_and_for_none(images, model):
    logits, labels = predict_logits(model, images)
    rule = reject_rule(logits, labels, coverage=0.3)
    assert (rule["validation_coverage"], rule["validation_accuracy"]) == (0.3, 1.0)
    assert rule["threshold"] == pytest.approx(1.0)
    assert rule["log_odds"] == pytest.approx(18 + 25 * 140 / 255)
    with pytest.warns(UserWarning, match="no threshold"):
        rule = reject_rule(logits, 1 - labels, risk=0.02)
    assert (rule["validation_coverage"], rule["validation_accuracy"]) == (0.0, None)
    assert rule["threshold"] > 1


def test_a_temperature_sets_the_threshold_on_what_it_leaves(images, model):
    model.reject = {"score": "confidence", "threshold": 1.0, "risk": 0.02}
    kedge.training.calibrate(model, images)
    odds = model.predict(images.images / 255).log_odds
    kept = kedge.rejection.answered(model.reject, model.predict(images.images / 255).confidence, odds)
    assert float(kept.double().mean()) == pytest.approx(144 / 200)
    assert odds.tolist() == pytest.approx(((18 + 25 * torch.arange(200) / 255) / model.temperature).tolist(), rel=1e-5)
    model.remove_step("temperature")
    assert model.reject == {"score": "confidence", "threshold": 1.0, "risk": 0.02}


def test_estimates_without_labels_threshold_the_log_odds(images, model):
    target = a_set(torch.arange(20, 120), torch.zeros(100).long(), "target")
    entry = kedge.evaluation.estimate_accuracy(model, images, target, resamples=0)["model"]
    found = entry["sets"]["target"]["estimates"]
    # 142 of 200 are right, so the threshold is at place 58; 62 of the target's 100 are at or above it.
    assert found["atc"]["value"] == pytest.approx(0.62)
    assert found["atc_entropy"]["value"] == pytest.approx(0.62)
    assert found["doc"]["value"] == pytest.approx(142 / 200)  # confidences are on the scale of an accuracy


def test_parts_without_log_odds_are_measured_anew(images, model, tmp_path, monkeypatch):
    from kedge.evaluation import cache, runner

    settings = {"shift": ["contrast"], "severities": (1,), "parts": tmp_path, "resamples": 0}
    monkeypatch.setattr(cache, "PROTOCOL", 2)
    with monkeypatch.context() as old:
        keep = runner.measure
        old.setattr(runner, "measure", lambda *a: {k: v for k, v in keep(*a).items() if k != "log_odds"})
        with pytest.raises(KeyError):
            evaluate(model, images, **settings)
    monkeypatch.undo()
    assert len(list(tmp_path.iterdir())) == 2
    assert evaluate(model, images, **settings)["parts_found"] == 0


def test_a_summary_of_a_model_without_a_rule():
    columns = measure(torch.randn(30, 3, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 3)
    found = selective_summary(None, {}, columns, [], {}, columns)
    assert (found["threshold"], found["log_odds"], found["wanted_coverage"], found["clean"]) == (None,) * 4


def test_the_answer_is_the_class_of_rank_0_also_where_probabilities_are_equal():
    """Logits of a collapsed network, so close that their probabilities round to the same: one answer everywhere."""
    logits = 1e-8 * torch.randn(200, 5, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(200) % 5
    columns = measure(logits, labels)
    assert torch.equal(columns["predicted"] == labels, columns["rank"] == 0)
    assert torch.equal(conclude(logits, None, "classification").label, columns["predicted"])

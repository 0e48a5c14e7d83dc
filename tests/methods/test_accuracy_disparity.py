"""Class disparity against counting, its interval against simulation, and the closed form of its claim."""

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.metrics import recall_score

from kedge import metrics
from kedge.attacks import FGSM
from kedge.claims import accuracy_disparity as claim
from kedge.data import TensorSet
from kedge.evaluation import Attacks, evaluate
from kedge.reporting import as_csv, table
from kedge.reporting.page import page

# Gaps in points, at a distance of 1.5: ratio to those at eps 0, 0.5 and 1.
TABLE = {1: (0, 0, 0), 2: (6.05, 9.20, 19.6), 5: (14.7, 23.3, 54.3), 10: (22.0, 36.0, 78.9)}


def test_is_the_best_recall_less_the_worst():
    rng = np.random.default_rng(0)
    labels, predicted = (torch.tensor(rng.integers(0, 5, 200)) for _ in range(2))
    labels[labels == 3] = 2  # a class without images is none
    own = metrics.class_disparity(labels == predicted, labels)
    recalls = recall_score(labels, predicted, labels=[0, 1, 2, 4], average=None)
    assert own.value == pytest.approx(recalls.max() - recalls.min())
    assert (own.best, own.worst) == ([0, 1, 2, 4][recalls.argmax()], [0, 1, 2, 4][recalls.argmin()])
    assert own.low <= own.value <= own.high


@pytest.mark.parametrize("accuracies", [[0.8] * 10, [0.95, 0.9, 0.9, 0.6], [0.5, 0.99]])
def test_the_interval_holds_the_true_gap(accuracies):
    rng, held, truth = np.random.default_rng(1), 0, max(accuracies) - min(accuracies)
    labels = torch.arange(len(accuracies)).repeat_interleave(50)
    for _ in range(200):
        correct = torch.tensor(rng.random(len(labels)) < np.repeat(accuracies, 50))
        own = metrics.class_disparity(correct, labels)
        held += own.low <= truth <= own.high
    assert held >= 190


def test_one_class_has_no_gap_and_nothing_is_refused():
    assert metrics.class_disparity(torch.ones(3), torch.full((3,), 2)).value is None
    for correct, labels in ((torch.ones(0), torch.ones(0)), (torch.ones(3), torch.ones(2))):
        with pytest.raises(ValueError, match="as many answers as labels"):
            metrics.class_disparity(correct, labels)


def test_the_closed_form_is_the_table_and_scipys():
    for ratio, row in TABLE.items():
        for eps, gap in zip(claim.RADII, row, strict=True):
            own = 100 * claim.disparity(ratio, eps)
            assert own == pytest.approx(gap, abs=0.051)
            moved = np.log(ratio) / (2 * (1.5 - eps))
            assert own == pytest.approx(100 * (norm.cdf(1.5 + moved) - norm.cdf(1.5 - moved)), abs=1e-9)
            assert own == pytest.approx(100 * claim.searched(ratio, eps), abs=0.01)
    with pytest.raises(ValueError, match="below the distance"):
        claim.disparity(2, 1.5)
    with pytest.raises(ValueError, match="ratio"):
        claim.disparity(0.5, 0)


def test_robust_logistic_regression_comes_near_it():
    measured = claim.AccuracyDisparity().run("5 : 1", 0)
    assert measured["off the simulation"] < 2
    assert measured["off the search"] < 0.01


def test_a_seed_gives_the_same_points(monkeypatch):
    monkeypatch.setattr(claim, "DRAWN", 2000)
    first, again, other = (claim.simulated(2.0, 0.5, seed) for seed in (0, 0, 1))
    assert first == again != other


@pytest.fixture
def results():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (60, 3, 8, 8), generator=generator, dtype=torch.uint8)
    weights = torch.randn(192, 3, generator=generator) * 0.1
    data = TensorSet(pixels, torch.arange(60) % 3, ["cat", "dog", "hen"], "animals", "test")

    class Linear(torch.nn.Module):
        def forward(self, images):
            return images.flatten(1) @ weights

    attacks = Attacks({"FGSM": FGSM(0.1)}, images=40, cross_checks=False)
    return evaluate(Linear(), data, shift=["contrast"], severities=(1, 3), attacks=attacks, resamples=50, examples=0)


def test_it_stands_clean_corrupted_and_under_attack(results):
    own = results["models"]["model"]
    by_class = own["clean"]["accuracy_by_class"]["accuracy"]
    clean = own["clean"]["class_disparity"]
    assert clean["value"] == pytest.approx(max(by_class) - min(by_class))
    rows = [row["class_disparity"] for row in own["shift"]["conditions"]]
    mean = own["shift"]["mean"]["class_disparity"]
    assert mean["value"] == pytest.approx(np.mean([row["value"] for row in rows]))
    assert mean["high"] == pytest.approx(np.mean([row["high"] for row in rows]))
    attacked = own["attacks"]["FGSM"]
    assert {"value", "low", "high", "best", "worst"} == set(attacked["class_disparity"])
    assert attacked["clean_class_disparity"]["value"] is not None
    assert "best class above worst" in table(results, 160)
    assert "best class above worst, under attack" in page(results)
    lines = as_csv(results).splitlines()
    for place in ("clean,,,,", "shift,mean,,,", "attack,FGSM,,,"):
        assert any(line.startswith(f"model,{place}class_disparity,") for line in lines)

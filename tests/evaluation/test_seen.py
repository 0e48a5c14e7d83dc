"""Out-of-distribution sets that were seen in pre-training: named so, and how separable they are."""

import pytest
import torch
from torch import nn

from kedge.data import TensorSet
from kedge.evaluation import evaluate
from kedge.reporting import as_csv, table
from kedge.reporting.page import page
from kedge.scores import KNN, MSP

QUICK = {"shift": (), "resamples": 0, "examples": 0}


@pytest.fixture
def sets():
    """Test and training images, images of the same kind, and darker ones."""
    generator = torch.Generator().manual_seed(0)

    def made(count, low, high, name, classes=3):
        pixels = torch.randint(low, high, (count, 3, 6, 6), generator=generator, dtype=torch.uint8)
        return TensorSet(pixels, torch.arange(count) % classes, [f"c{i}" for i in range(classes)], name, "test")

    return made(80, 0, 256, "ours"), made(90, 0, 256, "ours"), made(60, 0, 256, "same", 1), made(60, 0, 60, "dark", 1)


@pytest.fixture
def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(108, 12), nn.Linear(12, 3))


def test_separability_stands_beside_the_scores(network, sets):
    test, train, same, dark = sets
    results = evaluate(network, test, ood=[same, dark], train=train, seen=["same"], scores=[MSP(), KNN()], **QUICK)
    own = results["models"]["model"]["ood"]
    assert own["dark"]["separability"]["value"] > 0.98
    assert own["same"]["separability"]["low"] <= 0.55
    assert abs(own["same"]["separability"]["value"] - 0.5) < 0.15
    assert [results["ood_sets"][name]["seen"] for name in ("same", "dark")] == [True, False]
    text = page(results)
    assert "seen in pre-training" in text
    assert "told from familiar images by a linear classifier on features" in text
    assert "2310.00847" in text
    assert "same, seen in pre-training" in table(results, 160)
    assert any(line.startswith("model,ood,dark,,,linear_separability,") for line in as_csv(results).splitlines())


def test_knn_does_not_change_with_the_probe_and_confidence_does(network, sets):
    test, train, _, dark = sets
    other = nn.Sequential(nn.Flatten(), network[1], nn.Linear(12, 3))
    results = evaluate(
        {"a": network, "b": other}, test, ood=[dark], train=train, seen=["dark"], scores=[MSP(), KNN()], **QUICK
    )
    a, b = (results["models"][name]["ood"]["dark"] for name in ("a", "b"))
    assert a["separability"]["value"] == pytest.approx(b["separability"]["value"])
    assert a["scores"]["knn"]["auroc"] == b["scores"]["knn"]["auroc"]
    assert a["scores"]["msp"]["auroc"] != b["scores"]["msp"]["auroc"]


def test_models_without_features_and_small_sets_are_marked(network, sets):
    test, _, same, dark = sets
    results = evaluate(
        {"net": network, "call": lambda x: network(x)}, test, ood={"few": same.subset(range(5)), "dark": dark},
        seen=["few"], scores=[MSP()], **QUICK,
    )  # fmt: skip
    net, call = results["models"]["net"], results["models"]["call"]
    assert call["ood"]["dark"]["separability"] is None
    assert "no features" in call["skipped_scores"]["linear separability"]
    assert net["ood"]["few"]["separability"] is None
    assert net["ood"]["dark"]["separability"] is not None
    assert "10 images of each side" in net["skipped_scores"]["linear separability"]
    page(results)


def test_without_it_nothing_is_fitted_and_a_wrong_name_is_refused(network, sets):
    test, _, same, _ = sets
    results = evaluate(network, test, ood=same, scores=[MSP()], **QUICK)
    assert results["models"]["model"]["ood"]["same"].get("separability") is None
    assert results["ood_sets"]["same"]["seen"] is None
    with pytest.raises(ValueError, match="no out-of-distribution set 'other'; there are: same"):
        evaluate(network, test, ood=same, seen=["other"], **QUICK)

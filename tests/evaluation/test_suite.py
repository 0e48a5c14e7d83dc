import json

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score

import kedge
from kedge import metrics
from kedge.data import TensorSet
from kedge.data.corruptions import corrupt
from kedge.evaluation import evaluate
from kedge.evaluation.evaluated_model import Subject
from kedge.evaluation.sets import fit_images

QUICK = {"shift": ["gaussian_noise", "contrast"], "severities": (1, 5), "batch_size": 32, "resamples": 50}


def logits_by_hand(network: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
    network.eval()
    with torch.no_grad():
        return network(images)


def test_clean_numbers_against_scikit_learn(network, data):
    found = evaluate(network, data, shift=(), batch_size=32)["models"]["model"]
    probs = logits_by_hand(network, data.images.float() / 255).double().softmax(dim=1)
    clean = found["clean"]
    assert clean["accuracy"]["value"] == pytest.approx(accuracy_score(data.labels, probs.argmax(dim=1)))
    assert clean["nll"]["value"] == pytest.approx(log_loss(data.labels, probs.numpy()), rel=1e-4)
    assert clean["brier"]["value"] == pytest.approx(float(metrics.brier(probs, data.labels)), rel=1e-5)
    assert clean["ece"]["value"] == pytest.approx(float(metrics.calibration_error(probs, data.labels)), abs=1e-6)
    assert clean["top5"]["value"] == pytest.approx(float(metrics.accuracy(probs, data.labels, top_k=5)))
    for name in ("accuracy", "nll", "brier", "ece"):
        assert clean[name]["low"] <= clean[name]["value"] <= clean[name]["high"]
    assert sum(clean["reliability"]["count"]) == 90
    assert found["shift"] is None


def test_shifted_numbers_are_those_of_the_corrupted_images(network, data):
    shift = evaluate(network, data, **QUICK, seed=3)["models"]["model"]["shift"]
    rows = {(r["corruption"], r["severity"]): r for r in shift["conditions"]}
    assert list(rows) == [("gaussian_noise", 1), ("gaussian_noise", 5), ("contrast", 1), ("contrast", 5)]
    by_hand = {}
    for name, severity in rows:
        shown = corrupt(data.images.float() / 255, name, severity, indices=torch.arange(90), seed=3)
        probs = logits_by_hand(network, shown).softmax(dim=1)
        by_hand[name, severity] = float(metrics.accuracy(probs, data.labels))
        assert rows[name, severity]["accuracy"]["value"] == pytest.approx(by_hand[name, severity])
        error = float(metrics.calibration_error(probs, data.labels))
        assert rows[name, severity]["ece"]["value"] == pytest.approx(error, abs=1e-5)
    assert shift["mean"]["accuracy"]["value"] == pytest.approx(np.mean(list(by_hand.values())))
    hardest = np.mean([by_hand["gaussian_noise", 5], by_hand["contrast", 5]])
    assert shift["by_severity"][1]["severity"] == 5
    assert shift["by_severity"][1]["accuracy"]["value"] == pytest.approx(hardest)
    assert sum(shift["reliability"]["count"]) == 4 * 90


def test_batch_size_changes_nothing(network, data, noise):
    one, other = (
        evaluate(network, data, **{**QUICK, "batch_size": size}, ood=noise)["models"]["model"] for size in (7, 90)
    )
    assert one["clean"]["accuracy"] == other["clean"]["accuracy"]
    assert one["clean"]["ece"]["value"] == pytest.approx(other["clean"]["ece"]["value"], abs=1e-5)
    for a, b in zip(one["shift"]["conditions"], other["shift"]["conditions"], strict=True):
        assert a["accuracy"] == b["accuracy"]
    area = [m["ood"]["static"]["scores"]["msp"]["auroc"]["value"] for m in (one, other)]
    assert area[0] == pytest.approx(area[1], abs=1e-3)


def test_out_of_distribution_against_scikit_learn_and_the_conversion_is_said(network, data, noise):
    results = evaluate(network, data, shift=(), ood=noise)
    shown = noise.images.float().div(255).expand(-1, 3, -1, -1)
    shown = torch.nn.functional.interpolate(shown, size=(10, 8), mode="bilinear", antialias=True)[:, :, 1:9]
    scored = [
        logits_by_hand(network, x).softmax(dim=1).amax(dim=1) for x in (data.images.float() / 255, shown.clamp(0, 1))
    ]
    found = results["models"]["model"]["ood"]["static"]
    truth = np.r_[np.ones(90), np.zeros(40)]
    expected = roc_auc_score(truth, torch.cat(scored).numpy())
    assert found["scores"]["msp"]["auroc"]["value"] == pytest.approx(expected, abs=1e-6)
    assert found["scores"]["msp"]["fpr95"]["value"] == pytest.approx(float(metrics.fpr95(*scored)), abs=1e-6)
    assert set(found["scores"]) == {
        name for name, score in kedge.scores.SCORES.items() if score.needs in ((), ("unnormalised",))
    }
    skipped = results["models"]["model"]["skipped_scores"]
    assert "not anchored" in skipped["disagreement"]
    assert "features" in skipped["knn"]
    assert results["ood_sets"]["static"]["conversion"] == {"model": "grey to colour, 12×10 resized to 8×8"}
    histogram = results["models"]["model"]["scores"]["msp"]
    assert sum(histogram["inside"]) == 90
    assert sum(found["scores"]["msp"]["outside"]) == 40
    assert len(histogram["edges"]) == len(histogram["inside"]) + 1


def test_modes_are_left_as_they_were(network, data):
    network.norm.eval()
    before = [m.training for m in network.modules()]
    evaluate(network, data, shift=())
    assert [m.training for m in network.modules()] == before


def test_kedge_models_side_by_side(network, data, noise):
    example = data.images[:4].float() / 255
    plain = kedge.plain(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 6)), example=example)
    anchored = kedge.anchor(torch.nn.Sequential(torch.nn.Conv2d(3, 6, 8), torch.nn.Flatten()), example=example)
    anchored.references = example
    with torch.no_grad():
        for parameter in anchored.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    anchored.reject = {"score": "confidence", "threshold": 0.3, "coverage": 0.95}
    results = evaluate({"plain": plain, "anchored": anchored, "mine": network}, data, **QUICK, ood={"far": noise})
    kinds = {name: m["kind"] for name, m in results["models"].items()}
    assert kinds == {"plain": "plain", "anchored": "anchored", "mine": "callable"}
    assert "disagreement" in results["models"]["anchored"]["ood"]["far"]["scores"]
    assert "disagreement" not in results["models"]["plain"]["ood"]["far"]["scores"]
    assert results["models"]["anchored"]["references"] == 4
    confidence = anchored.predict(data.images.float() / 255).confidence
    selective = results["models"]["anchored"]["selective"]
    assert selective["clean"]["coverage"] == pytest.approx(float((confidence >= 0.3).float().mean()))
    assert 0 <= results["models"]["anchored"]["ood"]["far"]["accepted"] <= 1
    assert results["models"]["plain"]["selective"]["threshold"] is None
    assert results["models"]["plain"]["selective"]["clean"] is None
    assert results["models"]["anchored"]["images"]["least_certain"][0]["uncertainty"] is not None


def test_one_reference_has_no_disagreement(data, noise):
    example = data.images[:4].float() / 255
    model = kedge.anchor(torch.nn.Sequential(torch.nn.Conv2d(3, 6, 8), torch.nn.Flatten()), example=example)
    results = evaluate(model, data, shift=(), ood=noise, references=1)
    assert "disagreement" not in results["models"]["model"]["ood"]["static"]["scores"]


def test_adaptive_references(data, noise):
    example = data.images[:6].float() / 255
    model = kedge.anchor(torch.nn.Sequential(torch.nn.Conv2d(3, 6, 8), torch.nn.Flatten()), example=example)
    model.references = example
    with torch.no_grad():
        model.stem.reference.weight.mul_(0.8)
    found = evaluate(model, data, **QUICK, ood=noise, references="adaptive")["models"]["model"]
    prediction = model.predict(data.images.float() / 255, "adaptive")
    assert found["references"] == "adaptive"
    assert found["clean"]["accuracy"]["value"] == float((prediction.label == data.labels).double().mean())
    scores = found["ood"]["static"]["scores"]
    assert "disagreement" in scores
    assert "knn" not in scores


def test_results_are_plain_json_and_reproducible(network, data, noise):
    first, second = (evaluate(network, data, **QUICK, ood=noise, limit=40, seed=5) for _ in range(2))
    text = json.dumps(first, allow_nan=False)
    assert json.loads(text)["format_version"] == 2
    for results in (first, second):
        for key in ("created", "seconds", "peak_memory_mb"):
            results.pop(key)
        results["models"]["model"].pop("timing")
    assert first == second


def test_a_limited_run_says_so_and_keeps_the_images_places(network, data, noise):
    full = evaluate(network, data, shift=())
    assert full["data"]["limited"] is False
    results = evaluate(network, data, **QUICK, limit=20, seed=1, ood=noise)
    assert results["data"] == {**full["data"], "images": 20, "of": 90, "limited": True}
    assert results["ood_sets"]["static"]["limited"] is True
    where = torch.randperm(90, generator=torch.Generator().manual_seed(1))[:20].sort().values
    for entry in results["models"]["model"]["images"]["most_certain"]:
        assert entry["index"] in where
    shown = corrupt(data.images[where].float() / 255, "gaussian_noise", 5, indices=where, seed=1)
    by_hand = float(metrics.accuracy(logits_by_hand(network, shown).softmax(dim=1), data.labels[where]))
    rows = results["models"]["model"]["shift"]["conditions"]
    assert rows[1]["accuracy"]["value"] == pytest.approx(by_hand)


def test_example_images(network, data):
    images = evaluate(network, data, shift=(), examples=5)["models"]["model"]["images"]
    probs = logits_by_hand(network, data.images.float() / 255).softmax(dim=1)
    confidence, predicted = probs.max(dim=1)
    assert [e["confidence"] for e in images["most_certain"]] == sorted(
        (e["confidence"] for e in images["most_certain"]), reverse=True
    )
    least = images["least_certain"][0]
    assert least["index"] == int(confidence.argmin())
    assert least["predicted"] == data.class_names[int(predicted[least["index"]])]
    assert least["label"] == data.class_names[int(data.labels[least["index"]])]
    assert least["path"] == f"off/{least['index']}.png"
    assert least["thumbnail"].startswith("data:image/png;base64,")
    assert all(not e["correct"] and e["label"] != e["predicted"] for e in images["confident_mistakes"])


def test_progress_counts_to_its_end(network, data, noise):
    steps: list[tuple[int, int]] = []
    evaluate({"a": network, "b": network}, data, **QUICK, ood=noise, progress=lambda *step: steps.append(step))
    assert steps[-1][0] == steps[-1][1] == 2 * (90 * 5 + 40)
    assert [done for done, _ in steps] == sorted(done for done, _ in steps)


def test_a_model_of_another_size_is_given_its_own(network, data):
    model = kedge.plain(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 6)), example=(1, 4, 4))
    results = evaluate({"small": model}, data, shift=())
    assert results["models"]["small"]["conversion"] == "colour to grey, 8×8 resized to 4×4"


@pytest.mark.parametrize("images", [1, 3])
def test_very_few_images(network, data, noise, images: int):
    results = evaluate(network, data.subset(list(range(images))), **QUICK, ood=noise.subset([0]))
    json.dumps(results, allow_nan=False)


def test_a_limit_limits_the_training_images_of_scores_too(network, data, noise):
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 256, (1500, 3, 8, 8), generator=generator, dtype=torch.uint8)
    train = TensorSet(pixels, torch.arange(1500) % 6, data.class_names, name="beasts", split="train")

    def fitted(limit):
        said, sizes = [], []

        def forward(module, args):
            sizes.append(len(args[0]))

        with network.register_forward_pre_hook(forward):
            results = evaluate(
                network, data, shift=(), ood=noise, train=train, limit=limit, batch_size=1500, notice=said.append,
                resamples=0, examples=0,
            )  # fmt: skip
        number = results["settings"]["fit_images"]
        assert number in sizes
        return number, [words for words in said if "scores that learn" in words]

    assert fitted(None) == (1500, [])
    assert fitted(40) == (
        1000,
        ["scores that learn are fitted on 1,000 training images, as limit is 40; else on 1,500"],
    )


@pytest.mark.parametrize(
    ("limit", "features", "classes", "most"),
    [
        (None, 9, 2, 5000),
        (30, 9, 2, 1000),
        (1200, 9, 2, 1200),
        (30, 2048, 2, 4096),
        (30, 9, 200, 2000),
        (9000, 9, 2, 5000),
    ],
)
def test_how_many_training_images_a_covariance_needs(limit, features, classes, most):
    head = torch.zeros(classes, features), torch.zeros(classes)
    subject = Subject("a", None, torch.device("cpu"), torch.float32, (3, 8, 8), None, head=head)
    assert fit_images(limit, [subject], classes) == most

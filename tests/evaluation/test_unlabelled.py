import json

import numpy as np
import pytest
import torch

import kedge
from kedge import evaluation, metrics
from kedge.data import TensorSet
from kedge.evaluation import estimate_accuracy
from kedge.reporting import as_csv, table
from kedge.reporting.page import page

CLASSES = ["a", "b", "c"]


def image_set(count, seed, name="photos", noise=0.5):
    """Images whose three pixels are logits: the label is the largest of them before noise was added."""
    generator = torch.Generator().manual_seed(seed)
    plain = torch.rand(count, 3, 1, 1, generator=generator)
    seen = (plain + noise * torch.rand(count, 3, 1, 1, generator=generator)).clamp(0, 1)
    images = (seen * 255).round().to(torch.uint8).expand(-1, -1, 2, 2).contiguous()
    return TensorSet(images, plain.flatten(1).argmax(1), CLASSES, name, "val")


def by_pixels(images):
    """A callable: the mean of each channel, spread out, as logits."""
    return 8 * images.mean(dim=(2, 3))


def without_labels(images, name="new"):
    return TensorSet(images.images, torch.zeros(len(images), dtype=torch.long), ["unlabelled"], name, "all")


@pytest.fixture(scope="module")
def anchored():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 1), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(32, 3))
    model = kedge.anchor(network, example=(3, 2, 2))
    model.references, model.class_names = torch.rand(4, 3, 2, 2), CLASSES
    with torch.no_grad():
        model.stem.reference.weight.mul_(0.3)
    return model.eval()


def test_the_estimates_are_those_of_the_formulae():
    val, new = image_set(400, 0), image_set(300, 1, noise=1.0)
    entry = estimate_accuracy({"m": by_pixels}, val, {"new": without_labels(new)}, resamples=200)["m"]
    logits, away = (by_pixels(s.images.float() / 255) for s in (val, new))
    probs, others = logits.softmax(1).numpy().astype(np.float64), away.softmax(1).numpy().astype(np.float64)
    right = (logits.argmax(1) == val.labels).numpy()
    assert entry["validation"]["accuracy"]["value"] == pytest.approx(right.mean())
    found = entry["sets"]["new"]
    expected = {"doc": right.mean() + others.max(1).mean() - probs.max(1).mean()}
    for key, score in (("atc", lambda p: p.max(1)), ("atc_entropy", lambda p: (p * np.log(p)).sum(1))):
        threshold = np.sort(score(probs))[::-1][right.sum() - 1]
        expected[key] = (score(others) >= threshold).mean()
    assert set(found["estimates"]) == set(expected)
    for key, value in expected.items():
        one = found["estimates"][key]
        assert one["value"] == pytest.approx(value, abs=0.011)  # 8-bit pixels: ties
        assert 0 <= one["low"] <= one["value"] <= one["high"] <= 1
    assert found["headline"] in found["estimates"]
    assert found["unlike"] is None  # a callable has no features
    assert json.loads(json.dumps(entry)) == entry


def test_labels_are_not_looked_at_and_the_result_is_the_same_again(anchored):
    val, new = image_set(120, 0), image_set(80, 1)
    first = estimate_accuracy({"m": anchored}, val, {"new": new}, resamples=100)
    assert first == estimate_accuracy({"m": anchored}, val, {"new": without_labels(new)}, resamples=100)
    assert first != estimate_accuracy({"m": anchored}, val, {"new": new}, resamples=100, seed=1)


def test_an_anchored_model_is_also_estimated_by_its_references(anchored):
    val, new = image_set(150, 0), image_set(90, 1, noise=1.0)
    found = estimate_accuracy(anchored, val, new, resamples=50)["model"]["sets"]["photos"]
    ours, theirs = (anchored.predict(s.images.float() / 255) for s in (val, new))
    value = metrics.average_thresholded_confidence(-ours.uncertainty, ours.label == val.labels, -theirs.uncertainty)
    assert found["estimates"]["disagreement"]["value"] == pytest.approx(float(value), abs=1e-6)
    assert 0 <= found["unlike"]["low"] <= found["unlike"]["value"] <= 1
    one = estimate_accuracy(anchored, val, new, resamples=0, references=1)["model"]["sets"]["photos"]
    assert "disagreement" not in one["estimates"]
    assert one["estimates"]["atc"]["low"] is None


def test_source_images_give_the_source_accuracy_and_a_warning(anchored):
    val = image_set(200, 3)
    entry = estimate_accuracy(anchored, val, {"same": without_labels(val)}, resamples=0)["model"]
    for one in entry["sets"]["same"]["estimates"].values():
        assert one["value"] == pytest.approx(entry["validation"]["accuracy"]["value"], abs=1e-6)
    assert any("200 of these images are validation images" in words for words in entry["sets"]["same"]["warnings"])


@pytest.mark.parametrize("count", [1, 3])
def test_few_images_have_no_bootstrap_and_a_warning(count):
    found = estimate_accuracy(by_pixels, image_set(100, 0), image_set(count, 1))["model"]["sets"]["photos"]
    assert all(one["low"] is None for one in found["estimates"].values())
    assert any(f"only {count} of these images" in words for words in found["warnings"])


def test_warnings_of_what_cannot_be_estimated():
    sure, unsure = image_set(200, 0, noise=0.0), image_set(200, 1)
    unsure.images = (unsure.images.float() * 0.02 + 120).to(torch.uint8)
    said = " ".join(estimate_accuracy(by_pixels, sure, unsure, resamples=0)["model"]["sets"]["photos"]["warnings"])
    assert "the model is wrong on only" in said
    assert "get a lower confidence than all but 1 %" in said
    wrong = TensorSet(sure.images, (sure.labels + 1) % 3, CLASSES, "off", "val")
    found = estimate_accuracy(by_pixels, wrong, image_set(60, 2), resamples=50)["model"]
    assert found["validation"]["accuracy"]["value"] < 0.05
    assert found["sets"]["photos"]["estimates"]["atc"]["value"] < 0.2
    assert any("right on only" in words for words in found["sets"]["photos"]["warnings"])


def test_bad_input_is_refused_before_any_work():
    val, empty = image_set(30, 0), image_set(0, 0, "nothing")
    with pytest.raises(ValueError, match="the set 'nothing' is empty"):
        estimate_accuracy(by_pixels, val, empty)
    with pytest.raises(ValueError, match="images is empty"):
        estimate_accuracy(by_pixels, val, {})
    with pytest.raises(ValueError, match="no validation images for 'b'"):
        estimate_accuracy({"a": by_pixels, "b": by_pixels}, {"a": val}, val)
    with pytest.raises(ValueError, match="not finite"):
        estimate_accuracy(
            lambda x: by_pixels(x) / (x.mean(dim=(1, 2, 3)) > 2)[:, None].float() * float("nan"), val, val
        )


def test_results_table_page_and_csv_have_the_estimates(anchored):
    val, new = image_set(150, 0), image_set(90, 1, noise=1.0)
    results = evaluation.evaluate({"mine": anchored}, val, shift=(), resamples=50, examples=0)
    plain = table(results, width=100)
    found = estimate_accuracy({"mine": anchored}, val, {"<new>": without_labels(new)}, resamples=50)
    results = evaluation.with_estimates(results, found)
    assert json.loads(json.dumps(results))["models"]["mine"]["unlabelled"] == found["mine"]
    headline = found["mine"]["sets"]["<new>"]["estimates"]["atc_entropy"]
    value = f"{100 * headline['value']:.0f} % ("
    text, html = table(results, width=100), page(results)
    assert "Without labels" not in plain
    assert "Without labels: <new>" in text
    for shown in (text, html):
        assert f"expected accuracy about {value}" in shown.replace("\n", " ").replace("\N{NO-BREAK SPACE}", " ")
        assert "of sampling alone" in shown
    assert "&lt;new&gt;" in html
    assert "<new>" not in html
    lines = [line for line in as_csv(results).splitlines() if ",unlabelled," in line]
    assert len(lines) == 1 + len(found["mine"]["sets"]["<new>"]["estimates"]) + 1
    assert any(
        line.startswith(f"mine,unlabelled,<new>,,atc_entropy,expected accuracy,{headline['value']}") for line in lines
    )
    assert any("2201.04234" in cite["url"] for cite in results["citations"])

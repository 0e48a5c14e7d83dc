"""Coverage and size of prediction sets in an evaluation, against sets that are counted one by one."""

import math

import pytest
import torch
from torch import nn

import kedge
from kedge.data import TensorSet
from kedge.data.corruptions import corrupt
from kedge.evaluation import estimate_accuracy, evaluate, with_estimates
from kedge.metrics import accuracy_interval
from kedge.rejection import rule_at
from kedge.reporting import as_csv, table
from kedge.reporting.page import page
from kedge.training import calibrate


class Sees(nn.Module):
    """Logits that know the label as well as noise in the picture lets them."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("weights", 0.4 * torch.randn(48, 4, generator=torch.Generator().manual_seed(0)))

    def forward(self, images):
        return images.flatten(1) @ self.weights


def pictures(n, split, seed):
    """Images whose class a linear map knows, up to noise."""
    draws = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (n, 3, 4, 4), generator=draws, dtype=torch.uint8)
    logits = Sees()((pixels.float() / 255 - 0.5) / 0.25)
    labels = torch.multinomial((1.5 * logits).softmax(1), 1, generator=draws)[:, 0]
    return TensorSet(pixels, labels, ["cat", "dog", "cow", "hen"], "animals", split)


@pytest.fixture(scope="module")
def val():
    return pictures(200, "val", 1)


@pytest.fixture(scope="module")
def test():
    return pictures(160, "test", 2)


def model_with_sets(val, **stated):
    model = kedge.plain(Sees().eval(), mean=0.5, std=0.25, example=(3, 4, 4)).eval()
    model.class_names = list(val.class_names)
    calibrate(model, val)
    calibrate(model, val, "prediction_sets", coverage=0.9, **stated)
    return model


def counted(model, images, labels):
    sets = model.set_rule().sets(model.predict(images))
    return sets.gather(1, labels[:, None])[:, 0], sets.sum(1)


def run(model, test, **settings):
    quick = {"shift": ["contrast", "gaussian_noise"], "severities": (1, 5), "resamples": 100, "examples": 0}
    return evaluate({"mine": model}, test, **{**quick, **settings})


def test_the_numbers_are_those_that_are_counted_one_by_one(val, test, tmp_path):
    model = model_with_sets(val, sets="aps")
    results = run(model, test, parts=tmp_path)
    own = results["models"]["mine"]["prediction_sets"]
    shown = test.images.float() / 255
    hit, size = counted(model, shown, test.labels)
    clean = own["clean"]
    low, high = accuracy_interval(int(hit.sum()), 160)
    assert clean["coverage"] == {"value": float(hit.double().mean()), "low": low, "high": high}
    assert clean["size"]["value"] == float(size.double().mean())
    assert clean["size"]["low"] < clean["size"]["value"] < clean["size"]["high"]
    assert (own["score"], own["coverage"], own["by_class"], own["calibration_images"]) == ("aps", 0.9, False, 200)
    for k, each in enumerate(clean["classes"]):
        of_k = test.labels == k
        assert each["images"] == int(of_k.sum())
        assert each["coverage"]["value"] == float(hit[of_k].double().mean())
        assert each["size"]["value"] == float(size[of_k].double().mean())
    conditions = {(row["corruption"], row["severity"]): row for row in own["shift"]["conditions"]}
    hits = {}
    for (name, severity), row in conditions.items():
        worse = corrupt(shown, name, severity, indices=torch.arange(160), seed=0)
        hits[name, severity], size = counted(model, worse, test.labels)
        assert row["coverage"] == pytest.approx(float(hits[name, severity].double().mean()), abs=0.007)
        assert row["size"] == pytest.approx(float(size.double().mean()), abs=0.02)
    every = torch.stack(list(hits.values())).double()
    assert own["shift"]["coverage"]["value"] == pytest.approx(float(every.mean()), abs=0.007)
    worst = next(row for row in own["shift"]["by_severity"] if row["severity"] == 5)
    assert worst["coverage"]["low"] < worst["coverage"]["value"] < worst["coverage"]["high"]
    again = run(model, test, parts=tmp_path)
    assert again["models"]["mine"]["prediction_sets"] == own
    assert again["parts_found"] == 5


def test_another_threshold_is_not_answered_from_what_was_stored(val, test, tmp_path):
    first = run(model_with_sets(val), test, parts=tmp_path)["models"]["mine"]["prediction_sets"]
    model = model_with_sets(val)
    calibrate(model, val, "prediction_sets", coverage=0.5)
    second = run(model, test, parts=tmp_path)["models"]["mine"]["prediction_sets"]
    assert second["shift"]["coverage"]["value"] < first["shift"]["coverage"]["value"] - 0.1


def test_table_page_and_csv_say_what_is_promised_and_what_was_held(val, test):
    results = run(model_with_sets(val, by_class=True), test)
    text = " ".join(table(results, 110).split())
    assert "Prediction sets of 90 % coverage" in text
    assert "true class in the set, corrupted, %" in text
    shown = page(results)
    assert 'id="prediction-sets"' in shown
    assert "promise 90\N{NO-BREAK SPACE}% of each class (set on 200 images)" in shown
    lines = [line for line in as_csv(results).splitlines() if line.startswith("mine,prediction sets,")]
    places = {line.split(",")[2] for line in lines}
    assert places >= {"promised", "clean", "corrupted", "class cat", "class hen", "contrast", "gaussian_noise"}
    lost = results["models"]["mine"]["prediction_sets"]["shift"]
    assert lost["coverage"]["value"] < 0.85
    assert "do not hold there, they are promised for images like the calibration images alone" in shown


def test_a_model_without_sets_has_none_and_one_asked_otherwise_says_why(val, test):
    plain = kedge.plain(Sees().eval(), mean=0.5, std=0.25, example=(3, 4, 4)).eval()
    results = run(plain, test)
    assert results["models"]["mine"]["prediction_sets"] is None
    assert "prediction sets" not in as_csv(results)
    assert 'id="prediction-sets"' not in page(results)
    other = model_with_sets(val)
    other.steps["prediction_sets"]["references"] = 4
    results = run(other, test)
    assert results["models"]["mine"]["prediction_sets"] is None
    assert any("set on answers with 4 references" in words for words in results["models"]["mine"]["warnings"])


def test_images_without_labels_come_with_what_they_say_of_the_promise(val, test):
    model = model_with_sets(val)
    dark = TensorSet(test.images // 8 + 112, test.labels, test.class_names, "dark", "all")
    same = pictures(400, "all", 9)
    same.name = "same"
    entries = estimate_accuracy({"mine": model}, val, {"dark": dark, "same": same}, resamples=0)
    sets = entries["mine"]["sets"]
    assert sets["dark"]["prediction_sets"]["broken"]
    assert not sets["same"]["prediction_sets"]["broken"]
    estimate = sets["same"]["estimates"]["atc_entropy"]["value"]
    assert sets["same"]["prediction_sets"]["expected_accuracy"] == pytest.approx(estimate, abs=0.01)
    assert not math.isnan(sets["dark"]["prediction_sets"]["unfamiliar"])
    results = with_estimates(run(model, test), entries)
    for text in (" ".join(table(results, 110).split()), page(results)):
        words = " ".join(text.replace("\N{NO-BREAK SPACE}", " ").split())
        assert "mine, dark, prediction sets: careful: the coverage of 90 % is not to be relied on" in words
        assert "mine, same, prediction sets: nothing speaks against the coverage of 90 %" in words


class Dazzled(Sees):
    """What answers nothing where an image is bright."""

    def forward(self, images):
        return super().forward(images).where(images.mean((1, 2, 3), keepdim=True).flatten(1) < 0.8, torch.nan)


def test_no_number_of_corrupted_images_is_of_those_alone_that_could_be_measured(val, test):
    model = kedge.plain(Dazzled().eval(), mean=0.5, std=0.25, example=(3, 4, 4)).eval()
    model.class_names = list(val.class_names)
    model.reject = rule_at(0.4)
    calibrate(model, val, "prediction_sets", coverage=0.9)
    results = evaluate({"mine": model}, test, shift=["brightness", "gaussian_noise"], severities=(1, 5), resamples=50)
    own = results["models"]["mine"]
    assert [error["part"] for error in own["errors"]] == ["brightness 5"]
    assert own["shift"]["mean"]["accuracy"]["value"] is None
    assert own["shift"]["reliability"] is None
    assert own["selective"]["shift"] is own["selective"]["curve"]["shift"] is None
    sets = own["prediction_sets"]["shift"]
    assert sets["coverage"]["value"] is sets["size"]["value"] is None
    first, last = sets["by_severity"]
    assert (first["severity"], last["severity"]) == (1, 5)
    assert first["coverage"]["value"] is not None
    assert last["coverage"]["value"] is last["size"]["value"] is None
    assert {(row["corruption"], row["severity"]) for row in sets["conditions"]} == {
        ("brightness", 1), ("gaussian_noise", 1), ("gaussian_noise", 5),
    }  # fmt: skip
    shown = page(results).replace("\N{NO-BREAK SPACE}", " ")
    assert "brightness 5 could not be measured" in shown
    assert "On corrupted images the sets hold" not in shown
    corrupted = [line for line in table(results, 120).splitlines() if "corrupted" in line]
    assert not any(digit.isdigit() for line in corrupted for digit in line.split("corrupted")[1])
    as_csv(results)


def test_sets_of_members_are_said_not_to_be_measured(val, test):
    results = run(kedge.Ensemble([model_with_sets(val), model_with_sets(val, sets="aps")]), test, shift=())
    own = results["models"]["mine"]
    assert own["prediction_sets"] is None
    assert any("by whose majority kedge predict --sets answers" in words for words in own["warnings"])
    without = run(kedge.Ensemble([model_with_sets(val), kedge.plain(Sees(), example=(3, 4, 4)).eval()]), test, shift=())
    assert not any("majority" in words for words in without["models"]["mine"]["warnings"])


def test_thresholds_of_the_whole_bank_for_some_references_come_with_a_warning(test):
    network = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(64, 4))
    model = kedge.anchor(network, references=test.images[:6].float() / 255).eval()
    assert run(model, test, shift=(), references=2)["models"]["mine"]["warnings"] == []
    model.reject = rule_at(0.5)
    (words,) = run(model, test, shift=(), references=2)["models"]["mine"]["warnings"]
    assert "threshold for unsure was set on answers with 6 references, and is met here by answers with 2" in words
    assert run(model, test, shift=())["models"]["mine"]["warnings"] == []

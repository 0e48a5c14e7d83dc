"""The first screen: what it claims, and of what; and what it says of a training."""

import copy
import re

import pytest
import torch

from kedge.evaluation.verdict import verdict
from kedge.reporting.formats import upgrade
from kedge.reporting.page import page
from kedge.reporting.sections import decision, training

CLASSES = ["ant", "bee", "<cat>"]


def part(images: int, wrong: int) -> dict:
    return {"images": images, "wrong": wrong, "low": 0.0, "high": 1.0}


@pytest.fixture
def results() -> dict:
    """One model on 100 images, 30 of them wrong."""
    model = {
        "kind": "plain", "network": "resnet18", "parameters": 11_173_962,
        "clean": {
            "accuracy": {"value": 0.7, "low": 0.6, "high": 0.78},
            "accuracy_by_class": {
                "value": 0.4, "low": 0.2, "high": 0.7, "worst": 1, "images": [50, 20, 30], "accuracy": [0.8, 0.4, 0.7],
                "lows": [0.7, 0.2, 0.5], "highs": [0.9, 0.7, 0.9],
            },
            "confusion": {
                "value": 0.1, "counts": [[40, 5, 5], [10, 8, 2], [4, 4, 22]],
                "largest": [{"label": 1, "predicted": 0, "count": 10, "of": 20}],
            },
        },
        "shift": {"conditions": [
            {"corruption": "fog", "severity": 3, "accuracy": {"value": 0.5, "low": 0.4, "high": 0.6}},
            {"corruption": "motion_blur", "severity": 5, "accuracy": {"value": 0.22, "low": 0.1, "high": 0.3}},
        ]},
        "selective": {"at_risk": {"risk": 0.05, "coverage": 0.075, "threshold": 0.9, "log_odds": 2.2}},
        "verdict": {"kind": "none", "risk": 0.05, "half": part(50, 9), "all": part(100, 30)},
        "training": {
            "folder": "runs/my pets", "data": "pets", "images": 90, "validation_images": 10, "classes": [60, 20, 10],
            "repeated": 2, "seconds": 150.0, "finished": "2026-01-02T03:04:05+0000",
            "recipe": {"model": "resnet18", "epochs": 3, "lr": 0.0003}, "probe": {"accuracy": 0.6},
            "validation": {"accuracy": 0.65},
            "curve": {"epoch": [1, 2, 3], "lr": [0.1, 0.05, 0.0], "train_loss": [2.0, None, 1.0],
                      "val_accuracy": [0.3, 0.5, 0.65]},
        },
    }  # fmt: skip
    data = {"name": "pets", "split": "test", "images": 100, "of": 100, "class_names": CLASSES, "repeated": 0}
    return {"format_version": 2, "data": data, "models": {"mine": model}, "settings": {"corruptions": ["fog"]}}


def first(results: dict) -> tuple[dict, dict[str, dict]]:
    """The verdict on the only model, and its lines by label."""
    (entry,) = decision.section(upgrade(results), 0)["entries"]
    return entry, {line["label"]: line for line in entry["facts"]}


def test_what_decides_is_said_with_its_numbers(results):
    entry, lines = first(results)
    assert entry["words"] == "At 5 % wrong it answers 7.5 % of images; the rest go to a person"
    assert entry["tail"] == "not usable yet"
    assert entry["ground"] == "Wrong on 9 of the 50 images it is most certain of, and on 30 of all 100."
    assert lines["How good"]["text"] == "right on 70.0 % of 100 images (95 % interval 60.0–78.0)"
    assert "Always answering ant: 50.0 %;" in lines["How good"]["note"]
    assert "before training: 60.0 % of 10 validation images." in lines["How good"]["note"]
    assert lines["Worst class"]["text"] == "bee: right on 40.0 % of 20 (20.0–70.0)"
    assert "picked as the lowest" in lines["Worst class"]["note"]
    assert lines["Worst confusion"]["text"] == "bee taken for ant: 10 of 20"
    assert lines["Worst corruption"]["text"] == "motion blur, severity 5: right on 22.0 % (lowest of 2 kinds)"
    assert lines["To deploy it"]["code"] == "kedge export 'runs/my pets' --to onnx"
    results["models"]["mine"]["training"]["photos"] = True
    assert first(results)[1]["To deploy it"]["code"] == "kedge export 'runs/my pets' --input photo"


def test_the_majority_is_that_of_training(results):
    training_of = results["models"]["mine"]["training"]
    training_of["classes"] = [10, 10, 70]
    assert decision.majority(upgrade(results)["models"]["mine"], results) == ("<cat>", 0.3)
    training_of["classes"] = None
    assert decision.majority(upgrade(results)["models"]["mine"], results) == ("ant", 0.5)


@pytest.mark.parametrize(
    ("low", "high", "words"), [(0.4, 0.6, "do not show it to beat"), (0.3, 0.45, "which is better"), (0.6, 0.8, "")]
)
def test_a_model_that_is_no_better_than_one_answer_is_called_so(results, low, high, words):
    results["models"]["mine"]["clean"]["accuracy"] |= {"low": low, "high": high}
    note = first(results)[1]["How good"]["note"].partition(";")[0]
    assert words in note
    assert ("which" in note) == bool(words)


@pytest.mark.parametrize(
    ("kind", "coverage", "words", "tail"),
    [
        ("all", 1.0, "At no more than 5 % wrong it answers every image", "usable on its own"),
        ("half", 0.8, "At 5 % wrong it answers 80.0 % of images", "usable with a person for the rest"),
        ("unclear", 0.55, "At 5 % wrong it answers 55.0 %", "too few images to say"),
        ("none", 0.0, "It can answer none of these images with at most 5 % wrong", "not usable yet"),
        ("none", None, "It can answer none of these images", "not usable yet"),
        ("few", None, "100 images say nothing", "no verdict"),
    ],
)
def test_every_verdict_in_words(results, kind, coverage, words, tail):
    model = results["models"]["mine"]
    model["verdict"]["kind"], model["selective"]["at_risk"]["coverage"] = kind, coverage
    entry, _ = first(results)
    assert entry["words"].startswith(words)
    assert entry["tail"].startswith(tail)


@pytest.mark.parametrize(("half", "every", "images"), [(1, 8, 200), (0, 2, 60), (5, 20, 120)])
def test_how_many_images_would_tell_is_how_many_do(results, half, every, images):
    """As many more at the same rates make the verdict clear, some fewer do not."""
    own = of_counts(half, every, images)
    assert own["kind"] == "unclear"
    results["models"]["mine"]["verdict"] = own
    count = int(re.search(r"About ([\d,]+) images would tell", first(results)[0]["ground"])[1].replace(",", ""))
    more = of_counts(round(half * count / images), round(every * count / images), count)
    assert more["kind"] in ("all", "half", "none")
    fewer = count * 4 // 5
    assert of_counts(round(half * fewer / images), round(every * fewer / images), fewer)["kind"] == "unclear"


def of_counts(half, every, images):
    """The verdict on images of which so many are wrong, `half` of them among the more certain half."""
    correct = torch.ones(images, dtype=torch.bool)
    correct[:half] = False
    correct[images - (every - half) :] = False
    return verdict(torch.linspace(5, -5, images), correct, 0.05)


def test_how_images_of_no_class_fare_is_said(results):
    _, lines = first(results)
    assert lines["Images of no class"]["code"] == "kedge evaluate 'runs/my pets' --ood FOLDER"
    shares = {"near": (0.3, 0.2, 0.4), "far": (0.1, 0.05, 0.2)}
    model = results["models"]["mine"]
    model["refusal"] = {
        "rule": "energy below 3", "score": "energy", "threshold": 3.0, "clean": {},
        "ood": {
            name: {"answered": {"value": value, "low": low, "high": high}, "unknown": {"value": 1 - value}}
            for name, (value, low, high) in shares.items()
        },
    }  # fmt: skip
    line = first(results)[1]["Images of no class"]
    assert line["text"] == "30.0 % of near are answered with a label (20.0–40.0), the most of 2 sets"


def test_what_was_trained_on_gets_no_verdict(results):
    results["models"]["mine"]["trained_on"] = 40
    entry, _ = first(results)
    assert (entry["words"], entry["tail"]) == ("It was trained on 40 of these images", "no verdict")


def test_without_corruptions_it_is_said_how_to_measure_them(results):
    results["models"]["mine"]["shift"], results["settings"]["corruptions"] = None, []
    assert first(results)[1]["Worst corruption"]["code"] == "kedge evaluate 'runs/my pets'"


def test_a_foreign_model_has_no_run_to_speak_of(results):
    results["models"]["mine"]["training"] = None
    _, lines = first(results)
    assert not {"To deploy it", "Gate"} & lines.keys()
    assert training.section(upgrade(results), 0) is None


def test_the_training_in_words_and_curves(results):
    results["models"]["mine"]["trained_on"] = 0
    own = training.section(upgrade(results), 0)
    (model,) = own["models"]
    assert model["sentences"] == [
        "Trained on 90 images of pets, 10 held out to validate.",
        "3 epochs in 2 min, finished 2026-01-02.",
        "Right on 65.0 % of the validation images at its end.",
        "A linear probe of the network as it was before training: 60.0 % of the validation images.",
        "2 training images repeat another one, bit for bit.",
        "No test image repeats another one, bit for bit.",
        "None of the images of this page were training images.",
        "Near duplicates are not looked for here: kedge audit does.",
    ]
    assert [plot["title"] for plot in own["plots"]] == [
        "Accuracy on validation images", "Training loss", "Learning rate",
    ]  # fmt: skip
    assert ("lr", "0.0003") in model["recipe"]


def test_a_training_of_which_little_is_known(results):
    results["models"]["mine"]["training"] = {"folder": "runs/old"}
    own = training.section(upgrade(results), 0)
    assert own["plots"] == []
    assert own["models"][0]["recipe"] == []


def test_many_models_are_sorted_by_verdict(two):
    results = copy.deepcopy(two)
    for kind, model in zip(("half", "none"), results["models"].values(), strict=True):
        model["verdict"] = {"kind": kind, "risk": 0.05, "half": part(50, 9), "all": part(100, 30)}
    text = page(results)
    assert text.index("Usable with a person for the rest</b>") < text.index("Not usable yet</b>")


def test_the_gate_of_its_recipe_is_judged_on_the_first_screen(results):
    (model,) = results["models"].values()
    _, lines = first(results)
    assert "kedge check" in lines["Gate"]["code"]
    model["gate"] = {"min_accuracy": 0.5}
    assert first(results)[1]["Gate"]["text"].startswith("pass: accuracy 70 % (")
    assert first(results)[1]["Gate"]["text"].endswith(", at least 50 % is asked")
    model["gate"] = {"min_accuracy": 0.9, "worst_class": 0.1}
    text = first(results)[1]["Gate"]["text"]
    assert text.startswith("fail: ")
    assert "accuracy" in text

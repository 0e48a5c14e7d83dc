"""The same on what `evaluate` really gives: small untrained networks on noise."""

import json

import pytest
import torch
from torch import nn

import kedge
from kedge.attacks import PGD
from kedge.data import TensorSet
from kedge.evaluation import Attacks, evaluate
from kedge.reporting import as_csv, comparison, read_results, table, write_results
from kedge.reporting.page import page
from tests.reporting.conftest import NASTY
from tests.reporting.test_page import Reader


@pytest.fixture(scope="module")
def results():
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(70) % len(NASTY)
    pixels = torch.randint(0, 256, (70, 3, 8, 8), generator=generator, dtype=torch.uint8)
    data = TensorSet(pixels, labels, NASTY, name="<i>photos</i>", split="test")
    away = TensorSet(pixels[:40, :1], labels[:40] * 0, ["x"], name="<u>grey</u>")
    other = TensorSet(255 - pixels[:30], labels[:30] * 0, ["x"], name="other")
    example = pixels[:3].float() / 255
    torch.manual_seed(0)
    models = {}
    for name in ("a1", "a2", "b1", "b2"):
        network = nn.Sequential(nn.Conv2d(3, len(NASTY), 8), nn.Flatten())
        models[name] = kedge.plain(network, example=example)
        if name.startswith("b"):
            models[name] = kedge.anchor(network, example=example)
            models[name].references = example
            models[name].reject = {"score": "confidence", "threshold": 0.2, "coverage": 0.95}
    return evaluate(
        models,
        data,
        shift=["gaussian_noise", "contrast"],
        severities=(1, 3),
        ood=[away, other],
        near=["other"],
        attacks=Attacks({"PGD-3": PGD(8 / 255, steps=3)}, images=20, curve=(1 / 255, 4 / 255)),
        groups={"plain": ["a1", "a2"], "anchored": ["b1", "b2"]},
        resamples=40,
    )


def test_goes_through_json_unchanged(results, tmp_path):
    path = write_results(results, tmp_path / "results.json")
    again = json.loads(path.read_text())
    read = read_results(path)
    for model in again["models"].values():
        model["timing"].setdefault("seconds", None)
    assert {key: read[key] for key in again} == again
    assert page(read) == page(results)


def test_everything_is_shown(results):
    text = table(results, 160)
    for words in ("near (other)", "far (<u>grey</u>)", "Under attack: PGD-3", "AURC", "Corrupted (mean of 2 × 2)"):
        assert words in text
    read = Reader(page(results))
    said = "".join(read.words)
    for words in ("When images get worse", "Is its confidence honest?", "Does it notice", "answers only when confident",
                  "Under attack", "Over seeds", "Paired tests", "What the changes look like"):  # fmt: skip
        assert words in said
    assert {line.split(",")[1] for line in as_csv(results).splitlines()} >= {
        "clean", "shift", "ood", "ood mean", "selective", "attack", "attack curve", "cost", "seeds", "comparison",
    }  # fmt: skip


def test_methods_are_claimed_about_over_seeds(results):
    said = dict(comparison(results))
    assert "Accuracy, clean images, mean over seeds" in said
    assert "Welch t over seeds" in said["Accuracy, clean images, mean over seeds"]

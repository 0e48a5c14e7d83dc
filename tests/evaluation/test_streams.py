"""Models that adapt while they are evaluated: each set anew, in an order on record, and nothing stored."""

import json

import pytest
import torch

import kedge
from kedge.anchoring.prototypes import nearest
from kedge.attacks import FGSM
from kedge.evaluation import Attacks, evaluate
from kedge.reporting import render
from kedge.reporting.formats import upgrade
from kedge.reporting.page import page
from kedge.test_time import Adapting, Brake
from kedge.training.unknown_choice import prototypes_of
from kedge.training.unknown_rule import rule_on

SHIFT = {"shift": ["gaussian_noise", "fog"], "severities": [1, 3], "resamples": 0, "batch_size": 32}


def test_each_set_is_answered_by_a_model_that_was_reset(data, network):
    adapting, seen = Adapting(network, "batch_statistics"), []
    ask, reset = adapting._next, adapting.reset

    def noted_ask(images, *more):
        seen.append(len(images))
        return ask(images, *more)

    def noted_reset():
        seen.append("reset")
        reset()

    adapting._next, adapting.reset = noted_ask, noted_reset
    results = evaluate({"as it is": network, "adapting": adapting}, data, **SHIFT)
    measured = seen[len(seen) - 5 * 4 :]
    assert measured == ["reset", 32, 32, 26] * 5
    own = results["models"]["adapting"]["test_time"]
    assert (own["method"], own["order"]) == ("batch_statistics", {"mixed": True, "seed": 0})
    assert list(own["sets"]) == ["clean", "gaussian_noise 1", "gaussian_noise 3", "fog 1", "fog 3"]
    assert all(each["images"] == 90 and each["batches"] == 3 for each in own["sets"].values())
    assert results["models"]["as it is"]["test_time"] is None
    assert any("Schneider" in cite["cite"] for cite in results["citations"])
    json.dumps(results)


def test_the_numbers_are_those_of_the_order_that_is_on_record(data, network):
    from kedge.seeds import generator

    adapting = Adapting(network, "batch_statistics")
    results = evaluate(adapting, data, shift=(), batch_size=32, resamples=0, seed=5)
    order = torch.randperm(90, generator=generator(5, "order of the stream"))
    fresh, images = Adapting(network, "batch_statistics"), data.subset(order)
    logits = torch.cat([fresh.answers(pixels / 255)[0] for pixels, _ in images.batches(32)])
    expected = float((logits.argmax(1) == images.labels).double().mean())
    assert results["models"]["model"]["clean"]["accuracy"]["value"] == pytest.approx(expected)
    again = evaluate(adapting, data, shift=(), batch_size=32, resamples=0, seed=5)
    assert again["models"]["model"]["clean"] == results["models"]["model"]["clean"]


def test_what_the_rule_by_prototypes_refuses_is_counted_in_the_stream():
    own = kedge.data.load("digits", "test")
    layers = [torch.nn.Conv2d(1, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.Flatten(), torch.nn.Linear(288, 10)]
    torch.manual_seed(0)
    model = kedge.plain(torch.nn.Sequential(*layers), example=(1, 8, 8)).eval()
    adapting = Adapting(model, "batch_statistics")
    features = adapting.outputs(own.images / 255, features=True).features
    model.prototypes = prototypes_of(features, own.labels)
    rule = rule_on(nearest(features, model.prototypes), 0.9, "prototypes")
    model.unknown, model.class_names = rule, own.class_names
    whole = {"shift": (), "batch_size": len(own), "resamples": 0}
    entry = evaluate(Adapting(model, "batch_statistics"), own, **whole)["models"]["model"]["refusal"]
    assert entry["clean"]["unknown"]["value"] == pytest.approx(0.1, abs=1.5 / len(own))
    assert entry["score"] == "prototypes"


def test_a_model_that_does_not_adapt_is_measured_as_alone(data, network):
    beside = evaluate({"a": network, "b": Adapting(network, "batch_statistics")}, data, **SHIFT)
    alone = evaluate({"a": network}, data, **SHIFT)
    for part in ("clean", "shift"):
        one, other = (json.loads(json.dumps(r["models"]["a"][part])) for r in (beside, alone))
        for key, cell in (other if part == "clean" else other["mean"]).items():
            if isinstance(cell, dict) and "value" in cell and cell["value"] is not None:
                mine = (one if part == "clean" else one["mean"])[key]
                assert mine["value"] == pytest.approx(cell["value"], abs=1e-5), key


def test_nothing_of_it_is_stored(data, network, tmp_path):
    adapting = Adapting(network, "batch_statistics")
    for _ in range(2):
        results = evaluate({"a": network, "b": adapting}, data, parts=tmp_path, **SHIFT)
    assert results["parts_found"] == 5  # those of the model as it is
    assert len(list(tmp_path.glob("*.safetensors"))) == 5


def test_the_table_and_the_page_show_both_and_say_where_the_brake_held(data, network):
    order = data.labels.argsort()
    kept = torch.stack([data[int(i)][0] for i in range(60)])
    strict = Brake(kept, data.labels[:60], statistics=0.0)
    strict.costs = lambda *more: 0.25
    adapting = Adapting(network, "batch_statistics", strict)
    results = evaluate({"as it is": network, "adapting": adapting}, data.subset(order), **SHIFT)
    (words,) = results["models"]["adapting"]["warnings"]
    assert words.startswith(
        "the brake held on 5 of 5 sets, first on clean, at batch 1: statistics of 32 images cost 25.0"
    )
    text = render(results, "table")
    assert "as it is" in text
    assert "the brake held on 5 of 5 sets" in " ".join(text.split())
    assert "the brake held on 5 of 5 sets" in page(results)
    one, other = (results["models"][name]["clean"]["accuracy"] for name in ("as it is", "adapting"))
    assert one == other  # the model as it was answered all


def test_results_of_before_lack_nothing(data, network):
    results = evaluate(network, data, shift=(), resamples=0)
    del results["models"]["model"]["test_time"]
    assert upgrade(results)["models"]["model"]["test_time"] is None


def test_what_an_adapting_model_cannot_be_asked_is_refused(data, noise, network):
    adapting = Adapting(network, "batch_statistics")
    with pytest.raises(ValueError, match="leave out the out-of-distribution sets"):
        evaluate(adapting, data, shift=(), ood=noise)
    with pytest.raises(ValueError, match=r"leave out the attacks|without adaptation"):
        evaluate(adapting, data, shift=(), attacks=Attacks({"fgsm": FGSM(0.1)}))
    with pytest.raises(ValueError, match="one image has no statistics"):
        evaluate(adapting, data, shift=(), batch_size=1)

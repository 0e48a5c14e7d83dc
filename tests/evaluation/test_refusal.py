"""What becomes of own and of foreign images by both rules of a model, beside its answers one by one."""

import pytest
import torch

import kedge
from kedge import evaluation, reporting, unknown
from kedge.anchoring.prototypes import nearest
from kedge.data import TensorSet
from kedge.gate import verdicts
from kedge.rejection import rule_at
from kedge.reporting.page import page
from kedge.training.unknown_choice import prototypes_of


@pytest.fixture(scope="module")
def sets():
    digits = kedge.data.load("digits", "test")
    own, others = (digits.only_classes([str(c) for c in part]) for part in (range(5), range(5, 10)))
    return own, others


def trained(sets):
    torch.manual_seed(0)
    own, _ = sets
    model = kedge.plain(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 5)), example=(1, 8, 8))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(own.images / 255), own.labels).backward()
        optimizer.step()
    model.class_names = own.class_names
    model.reject = rule_at(0.5)
    return model.eval()


@pytest.mark.parametrize("score", unknown.OF_LOGITS)
def test_shares_are_those_of_the_answers_one_by_one(sets, score):
    model, (own, others) = trained(sets), sets
    scores = unknown.score_of(score, model.predict(own.images / 255).logits)
    model.unknown = {"score": score, "threshold": float(scores.quantile(0.2))}
    results = evaluation.evaluate({"m": model}, own, shift=(), ood={"others": others}, resamples=0)
    entry = results["models"]["m"]["refusal"]
    for images, shares in ((own, entry["clean"]), (others, entry["ood"]["others"])):
        answers = unknown.answers(model, model.predict(images.images / 255))
        for word in ("unknown", "unsure"):
            if word in shares:
                assert shares[word]["value"] == pytest.approx(answers.count(word) / len(images))
        labels = [own.class_names[label] for label in images.labels] if images is own else []
        named = [a for a in answers if a not in ("unknown", "unsure")]
        assert shares["answered"]["value"] == pytest.approx(len(named) / len(images))
        assert shares["answered"]["low"] < shares["answered"]["value"] < shares["answered"]["high"]
        if labels:
            right = sum(a == b for a, b in zip(answers, labels, strict=True)) / len(named)
            assert shares["accuracy"]["value"] == pytest.approx(right)
    (judged,) = verdicts(results, {"max_unknown_answered": 0.5})
    assert judged.value == pytest.approx(entry["ood"]["others"]["answered"]["value"])
    assert "others" in reporting.table(results)
    assert "are unknown" in page(results)


def test_with_adaptive_references_it_is_the_familiarity_of_predict(sets):
    own, others = sets
    layers = [torch.nn.Conv2d(1, 8, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(288, 5)]
    torch.manual_seed(2)
    model = kedge.anchor(torch.nn.Sequential(*layers), references=own.images[:4] / 255).eval()
    model.class_names = own.class_names
    features = model.outputs(own.images / 255, 1, features=True).features
    model.prototypes = prototypes_of(features[:50], own.labels[:50])
    model.unknown = {"score": "prototypes", "threshold": float(nearest(features, model.prototypes).quantile(0.3))}
    how = {"shift": (), "ood": {"others": others}, "resamples": 0, "references": "adaptive"}
    entry = evaluation.evaluate({"m": model}, own, **how)["models"]["m"]
    prediction = model.predict(own.images / 255, "adaptive")
    expected = unknown.foreign(model.unknown, prediction.logits, prediction.familiarity)
    assert 0 < int(expected.sum()) < len(own)
    assert entry["answers"]["unknown"] == expected.int().tolist()
    assert entry["refusal"]["clean"]["unknown"]["value"] == pytest.approx(float(expected.double().mean()))


def test_without_a_rule_there_is_nothing_to_say(sets):
    own, others = sets
    results = evaluation.evaluate({"m": trained(sets)}, own, shift=(), ood={"others": others}, resamples=0)
    assert results["models"]["m"]["refusal"] is None


@pytest.mark.parametrize("photo", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_file_is_judged_by_the_familiarity_that_it_gives(photo, tmp_path):
    """As the model that it came from is by its features: the same shares, the same column, the same verdict."""
    pytest.importorskip("onnxruntime")
    from kedge.deploy import export, export_photo, load_onnx

    torch.manual_seed(1)
    pixels = torch.randint(0, 256, (120, 3, 16, 16), dtype=torch.uint8)
    own = TensorSet(pixels[:60], torch.arange(60) % 3, ["a", "b", "c"], name="own")
    others = TensorSet(pixels[60:], torch.zeros(60, dtype=torch.long), ["x"], name="others")
    layers = [torch.nn.Conv2d(3, 8, 3, 2), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(392, 3)]
    model = kedge.plain(torch.nn.Sequential(*layers), example=(3, 16, 16)).eval()
    model.class_names, model.reject = own.class_names, rule_at(0.35)
    features = model.outputs(own.images / 255, features=True).features
    model.prototypes = prototypes_of(features[:9], own.labels[:9])
    near = nearest(features, model.prototypes).sort().values
    model.unknown = {"score": "prototypes", "threshold": float(near[20] + near[21]) / 2}
    path = (export_photo if photo else export)(model, tmp_path / "m.onnx", "onnx").path
    models = {"model": model, "file": load_onnx(path)}
    parts = {"parts": tmp_path / "parts"}
    for _ in range(2):  # measured, and read again
        results = evaluation.evaluate(models, own, shift=(), ood={"others": others}, resamples=0, **parts)
        entries = results["models"]
        assert entries["file"]["refusal"] == entries["model"]["refusal"]
        assert entries["file"]["refusal"]["clean"]["unknown"]["value"] == pytest.approx(21 / 60)
        assert entries["file"]["answers"]["unknown"] == entries["model"]["answers"]["unknown"]
        one, other = verdicts(results, {"max_unknown_answered": 0.5})
        assert one.value == other.value == entries["file"]["refusal"]["ood"]["others"]["answered"]["value"]
    assert results["parts_found"] == 4
    other_prototypes = prototypes_of(features[9:18], own.labels[9:18])
    model.prototypes = other_prototypes
    again = (export_photo if photo else export)(model, tmp_path / "n.onnx", "onnx").path
    entry = evaluation.evaluate({"file": load_onnx(again)}, own, shift=(), resamples=0, **parts)["models"]["file"]
    expected = nearest(features, other_prototypes) < model.unknown["threshold"]
    assert entry["answers"]["unknown"] == expected.int().tolist()  # not what was measured of the other file

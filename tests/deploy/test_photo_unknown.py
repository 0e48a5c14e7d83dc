"""The rule for unknown in files that take photos: they answer as the model does, and as kedge predict says."""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import kedge
from kedge import unknown
from kedge.cli.file_answers import predict_files
from kedge.data import TensorSet
from kedge.deploy import export, export_photo, load_onnx, photo_file, quantise, with_photo_input
from kedge.deploy.card import FORMAT_VERSION
from kedge.rejection import rule_at
from kedge.scores import outputs_of
from kedge.training.unknown_choice import prototypes_of
from tests.deploy.test_photo_export import picture

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

SIZES = ((64, 48), (48, 64), (40, 40), (203, 90), (17, 23), (300, 301), (1700, 40), (9, 400), (90, 91), (55, 41))
NAMES = ["glass", "unknown", "プラ", "trash"]  # a class is called like an answer that is none


@pytest.fixture(scope="module")
def images():
    return [picture(*size, seed=3) for size in SIZES]


@pytest.fixture(scope="module")
def views(images):
    return torch.stack([photo_file.view_of(photo_file.as_photo(each), (3, 40, 40)) for each in images]).float() / 255


def model_of(score, views, anchored=False):
    """A model that says of some of the views unknown, of some unsure, and of others a label."""
    torch.manual_seed(3)
    network = nn.Sequential(nn.Conv2d(3, 8, 5, 4), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.Flatten(), nn.Linear(128, 4))
    bare = {"mean": [0.5, 0.4, 0.3], "std": [0.02, 0.03, 0.025]}
    if anchored:
        model = kedge.anchor(network, references=views[:1], **bare).eval()
    else:
        model = kedge.plain(network, example=(3, 40, 40), **bare).eval()
    model.class_names = NAMES
    model.set_temperature(1.7)
    prediction = model.predict(views)
    model.reject = rule_at(float(prediction.confidence.median()) + 1e-4)
    if score == "prototypes":
        features = outputs_of(model, views[:4], features=True).features
        model.prototypes = prototypes_of(features, torch.arange(4))
        model.unknown = {"score": score, "threshold": 0.0}
        scores = model.predict(views).familiarity
    else:
        scores = unknown.score_of(score, prediction.logits)
    ranked = scores.sort().values
    model.unknown = {"score": score, "threshold": float((ranked[2] + ranked[3]) / 2)}
    return model


@pytest.fixture(scope="module")
def exported(images, views, tmp_path_factory):
    """Of a score, the model and the ONNX file that takes photos, which is written once; nothing changes either."""

    @functools.cache
    def export_once(score, anchored=False):
        model, photos = model_of(score, views, anchored), [photo_file.as_photo(each) for each in images]
        return model, export_photo(model, tmp_path_factory.mktemp("file") / "m.onnx", "onnx", photos).path

    return export_once


@pytest.mark.parametrize(
    ("score", "anchored"),
    [
        ("energy", False),
        ("prototypes", True),
        *(pytest.param(name, False, marks=pytest.mark.slow) for name in ("msp", "max_logit", "entropy", "prototypes")),
    ],
)
def test_the_file_answers_as_the_model_and_as_predict(score, anchored, images, views, exported, tmp_path):
    model, path = exported(score, anchored)
    photos = [photo_file.as_photo(each) for each in images]
    expected = unknown.answers(model, model.predict(views))
    assert {"(unknown)", "unsure"} < set(expected)  # in brackets where a class is called so
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [session.run(["answer"], {"photo": each.numpy()})[0][0] for each in photos] == expected
    page = (Path(__file__).parents[2] / "docs" / "deploy.md").read_text(encoding="utf-8")
    named = [*session.get_inputs(), *session.get_overridable_initializers(), *session.get_outputs()]
    assert [each.name for each in named if f"`{each.name}`" not in page] == []
    card = json.loads(session.get_modelmeta().custom_metadata_map["kedge"])
    assert (card["format_version"], card["unknown"]) == (FORMAT_VERSION, model.unknown)
    assert card["answers"] == [*NAMES, "unsure", "(unknown)"]
    assert card["thresholds"]["unknown_threshold"] == pytest.approx(model.unknown["threshold"], abs=1e-6)
    assert "unknown" not in card["formulas"]

    loaded = load_onnx(path)
    assert unknown.answers(loaded, loaded.predict_photos(photos)) == expected  # of the whole file
    assert unknown.answers(loaded, loaded.predict(views)) == expected  # of the network in it
    paths = [tmp_path / f"{i}.png" for i in range(len(images))]
    for image, own in zip(images, paths, strict=True):
        image.save(own)
    ours, theirs = (list(predict_files(each, paths, model.reject)) for each in (loaded, model))
    for key in ("answer", "label", "unknown", "reject", "error"):
        assert [row[key] for row in ours] == [row[key] for row in theirs]
    assert [row["unknown"] for row in ours].count(True) >= 3

    strictest, none = (np.array([value], np.float32) for value in (3e38, -3e38))
    photo = {"photo": photos[0].numpy()}
    assert session.run(["answer"], {**photo, "unknown_threshold": strictest})[0][0] == "(unknown)"
    always = session.run(["answer"], {**photo, "unknown_threshold": none, "reject_threshold": none})[0][0]
    assert always == NAMES[int(loaded.predict_photos(photos[:1]).label)]


@pytest.mark.slow
@pytest.mark.parametrize("score", ["energy", "prototypes"])
def test_a_torch_file_answers_as_the_model(score, images, views, tmp_path):
    model = model_of(score, views)
    photos = [photo_file.as_photo(each) for each in images]
    done = export_photo(model, tmp_path / "m.pt2", "torch", photos)
    texts = {"kedge.json": ""}
    program = torch.export.load(done.path, extra_files=texts).module()
    card = json.loads(texts["kedge.json"])
    thresholds = [torch.tensor([value]) for value in card["thresholds"].values()]
    said = [card["answers"][int(program(photo, *thresholds)["place"])] for photo in photos]
    assert said == unknown.answers(model, model.predict(views))
    torch.testing.assert_close(done.load()(views), model(views), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_an_8_bit_file_goes_by_the_rule_that_was_set_anew(views, images, tmp_path):
    model = model_of("prototypes", views)
    pixels = torch.randint(0, 256, (2, 64, 3, 40, 40), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    known, other = (TensorSet(each, torch.arange(64) % 4, NAMES) for each in pixels)
    plain = export(model, tmp_path / "plain.onnx", check_images=views)
    small = quantise(plain.path, tmp_path / "small.onnx", known, other, bound=10)
    photos = [photo_file.as_photo(each) for each in [*images, *other.images]]
    loaded = load_onnx(with_photo_input(small.path, tmp_path / "photo.onnx", photos).path)
    assert loaded.precision is not None
    assert loaded.unknown != model.unknown
    answers = unknown.answers(loaded, loaded.predict_photos(photos))
    assert [loaded.answer(photo)["answer"][0] for photo in photos] == answers
    assert "(unknown)" in answers
    before = load_onnx(small.path)
    assert answers == unknown.answers(before, before.predict(torch.cat([views, other.images / 255])))


@pytest.mark.slow
def test_a_file_with_another_familiarity_is_not_left(views, images, tmp_path, monkeypatch):
    model = model_of("prototypes", views)
    plain = export(model, tmp_path / "plain.onnx", check_images=views)
    honest = type(load_onnx(plain.path).network).both
    monkeypatch.setattr(
        "kedge.deploy.onnx_file.OnnxSession.both",
        lambda self, images: (lambda logits, more: (logits, more + 0.01))(*honest(self, images)),
    )
    with pytest.raises(RuntimeError, match="the file's score is not what its logits say"):
        with_photo_input(plain.path, tmp_path / "photo.onnx", [photo_file.as_photo(images[0])])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plain.onnx"]


def test_a_photo_file_without_the_score_of_its_rule_is_refused(exported, tmp_path):
    _, path = exported("energy", False)
    proto = onnx.load(path)
    kept = [each for each in proto.graph.output if each.name != "score"]
    del proto.graph.output[:]
    proto.graph.output.extend(kept)
    onnx.save(proto, tmp_path / "lies.onnx")
    with pytest.raises(ValueError, match="it was changed; export the model again"):
        load_onnx(tmp_path / "lies.onnx")

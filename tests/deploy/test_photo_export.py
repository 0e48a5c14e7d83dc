"""Files that take a photo: what is in them against Pillow, the model and kedge predict; what they refuse."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import kedge
from kedge.cli.file_answers import predict_files, read
from kedge.deploy import as_photo, export, export_photo, load_onnx, photo_file, photo_graph, with_photo_input
from kedge.deploy.answering import Answering
from kedge.deploy.photo_view import PhotoView
from kedge.rejection import rule_at

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

SIZES = (
    (1, 1), (2, 1), (1, 300), (700, 3), (8, 8), (9, 8), (31, 47), (96, 96), (97, 50), (192, 192), (219, 219),
    (220, 220), (341, 256), (440, 440), (600, 500), (1203, 801), (53, 1999),
    (300, 600), (300, 601), (256, 513), (3, 60), (3, 61), (3, 65), (2, 333), (901, 7), (4001, 9), (33, 1200),
)  # fmt: skip


def picture(width, height, seed=0):
    """Detail at every scale: a rough picture and noise."""
    generator = np.random.default_rng(seed + 7 * width + height)
    rough = Image.fromarray(generator.integers(0, 256, (9, 13, 3), dtype=np.uint8)).resize((width, height))
    noise = generator.integers(-40, 40, (height, width, 3))
    return Image.fromarray((np.asarray(rough, int) + noise).clip(0, 255).astype(np.uint8))


def by_pillow(image, channels, side):
    """The evaluation view, written out with Pillow alone."""
    shorter = round(side / 0.875) if side >= 192 else side
    inner = [min(n, 20 * min(image.size)) for n in image.size]
    cut = [round((n - kept) / 2) for n, kept in zip(image.size, inner, strict=True)]
    image = image.crop((*cut, *(c + kept for c, kept in zip(cut, inner, strict=True))))
    width, height = (shorter * n // min(image.size) for n in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = round((width - side) / 2), round((height - side) / 2)
    levels = np.asarray(image.crop((left, top, left + side, top + side)), np.float64)
    if channels == 1:
        levels = (levels @ [0.299, 0.587, 0.114])[..., None]
    return levels.transpose(2, 0, 1)


@pytest.mark.parametrize(("channels", "side"), [(3, 8), (3, 97), (3, 192), (1, 28)])
@pytest.mark.parametrize("by", ["onnx", "torch"])
def test_the_view_in_the_file_is_pillows_to_the_level(channels, side, by):
    shape = (channels, side, side)
    if by == "onnx":
        graph = photo_graph.view_graph(shape)
        onnx.checker.check_model(graph, full_check=True)
        session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
        view = lambda photo: session.run(None, {"photo": photo})[0]  # noqa: E731
    else:
        module = PhotoView(shape)
        view = lambda photo: module(torch.from_numpy(photo)).numpy()  # noqa: E731
    for size in SIZES:
        image = picture(*size)
        got = view(np.array(image))
        assert got.shape == (1, *shape)
        assert got.dtype == np.float32
        # Of grey Pillow's levels are of RGB, and half a level is how far rounding goes.
        apart = np.abs(got[0].astype(np.float64) * 255 - by_pillow(image, channels, side)).max()
        assert apart <= (1e-4 if channels == 3 else 0.5001), size
        levels = photo_file.view_of(as_photo(image), shape)
        assert np.array_equal(got[0], levels.numpy().astype(np.float32) / np.float32(255)), size


def test_flat_photos_stay_flat_and_every_corner_counts():
    """White stays 255 although weights are rounded; of a photo that is the view, every pixel comes through."""
    graph = photo_graph.view_graph((3, 31, 31))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    for size in ((1, 1), (31, 31), (333, 777), (1500, 40)):
        white = np.full((*size, 3), 255, np.uint8)
        assert (session.run(None, {"photo": white})[0] == 1).all()
    same = np.array(picture(31, 31))
    assert np.array_equal((session.run(None, {"photo": same})[0][0] * 255).round(), same.transpose(2, 0, 1))


def small_model():
    torch.manual_seed(3)
    network = nn.Sequential(nn.Conv2d(3, 8, 5, 4), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.Flatten(), nn.LazyLinear(4))
    made = kedge.plain(network, mean=[0.5, 0.4, 0.3], std=[0.02, 0.03, 0.025], example=(3, 40, 40)).eval()
    made.class_names = ["glass", "Pappe", "プラ", "trash"]
    made.set_temperature(1.7)
    made.reject = rule_at(0.55)
    return made


@pytest.fixture
def model():
    return small_model()


@pytest.fixture(scope="module")
def photos():
    return [as_photo(picture(*size)) for size in ((64, 48), (48, 64), (40, 40), (203, 90), (17, 23), (300, 301))]


@pytest.fixture(scope="module")
def exported(photos, tmp_path_factory):
    return export_photo(small_model(), tmp_path_factory.mktemp("once") / "m.onnx", "onnx", photos)


def test_the_file_takes_photos_as_they_are_and_answers(exported, model, photos):
    onnx.checker.check_model(onnx.load(exported.path), full_check=True)
    assert "takes a photo of any size, checked on 6 photos of 6 sizes and 6 of noise" in str(exported)
    session = onnxruntime.InferenceSession(str(exported.path), providers=["CPUExecutionProvider"])
    (taken,) = session.get_inputs()
    assert (taken.name, taken.type, taken.shape) == ("photo", "tensor(uint8)", ["height", "width", 3])
    names = [node.name for node in session.get_outputs()]
    assert names == ["answer", "label", "confidence", "probabilities", "log_odds", "logits"]
    card = json.loads(session.get_modelmeta().custom_metadata_map["kedge"])
    assert card["takes"] == "photo"
    assert card["answers"] == [*model.class_names, "unsure", "unknown"]
    answers = set()
    for photo in photos:
        said = dict(zip(names, session.run(None, {"photo": photo.numpy()}), strict=True))
        expected = model.predict(photo_file.view_of(photo, model.input_shape)[None].float() / 255)
        assert said["label"].tolist() == expected.label.tolist()
        assert np.abs(said["probabilities"] - expected.probs.numpy()).max() < 1e-5
        assert said["confidence"][0] == pytest.approx(float(expected.confidence), abs=1e-5)
        assert said["log_odds"][0] == pytest.approx(float(expected.log_odds), abs=1e-3)
        sure = bool(expected.confidence >= 0.55)
        assert said["answer"][0] == (model.class_names[int(expected.label)] if sure else "unsure")
        answers.add(said["answer"][0])
    assert len(answers) > 1
    assert "unsure" in answers


def test_the_threshold_is_an_optional_input_in_log_odds(exported, photos):
    session = onnxruntime.InferenceSession(str(exported.path), providers=["CPUExecutionProvider"])
    assert [node.name for node in session.get_overridable_initializers()] == ["reject_threshold"]

    def answer(**more):
        return session.run(["answer"], {"photo": photos[0].numpy(), **more})[0][0]

    (odds,) = session.run(["log_odds"], {"photo": photos[0].numpy()})
    label = answer(reject_threshold=np.array([-100], np.float32))
    assert label != "unsure"
    assert answer(reject_threshold=odds) == label
    assert answer(reject_threshold=np.nextafter(odds, np.float32(np.inf))) == "unsure"
    assert answer(reject_threshold=np.array([np.nan], np.float32)) == "unsure"


@pytest.mark.slow
def test_a_threshold_that_is_1_in_float32_still_tells_answers_apart(model, photos, tmp_path):
    with torch.no_grad():
        model.network[-1].weight *= 200
    rows = [photo_file.view_of(photo, model.input_shape).float() / 255 for photo in photos]
    odds = model.predict(torch.stack(rows)).log_odds
    least = float(odds.sort().values[3])
    assert least > 20  # a confidence of 1 in float32
    model.reject = {"threshold": 1.0, "log_odds": least + 1e-9 * least}
    path = export_photo(model, tmp_path / "m.onnx", "onnx", photos).path
    answers = [load_onnx(path).answer(photo)["answer"][0] for photo in photos]
    assert answers.count("unsure") in (3, 4)  # that at the threshold itself may fall to either side by rounding


def test_kedge_predict_says_of_files_what_it_says_of_the_model(exported, model, tmp_path):
    """Photos with alpha, grey, on their side, and large JPEGs, which kedge decodes smaller."""
    folder = tmp_path / "photos"
    folder.mkdir()
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(150, 101).save(folder / "side.jpg", exif=exif)
    picture(131, 100).convert("RGBA").save(folder / "alpha.png")
    picture(131, 100).convert("L").save(folder / "grey.png")
    picture(1300, 900).save(folder / "large.jpg")
    picture(90, 33).save(folder / "plain.png")
    (folder / "damaged.png").write_bytes(b"nothing")
    paths = sorted(folder.iterdir())
    ours = list(predict_files(load_onnx(exported.path), paths, model.reject))
    theirs = list(predict_files(model, paths, model.reject))
    for own, other in zip(ours, theirs, strict=True):
        assert {**own, "confidence": 0, "log_odds": 0} == {**other, "confidence": 0, "log_odds": 0}
        if own["error"] is None:
            assert own["confidence"] == pytest.approx(other["confidence"], abs=1e-5)
    assert [row["path"].rpartition("/")[2] for row in ours if row["error"]] == ["damaged.png"]
    assert read(folder / "side.jpg", model.input_shape, whole=True).shape == (150, 101, 3)


def test_its_network_alone_takes_batches_of_images(exported, model, photos):
    loaded = load_onnx(exported.path)
    assert loaded.takes_photos
    assert (loaded.class_names, loaded.reject, loaded.input_shape) == (model.class_names, model.reject, (3, 40, 40))
    assert loaded.describe_steps() == ["temperature 1.7"]
    images = torch.rand(5, 3, 40, 40)
    torch.testing.assert_close(loaded.predict(images).logits, model.predict(images).logits, atol=1e-4, rtol=1e-4)
    together = loaded.predict_photos(photos)
    views = torch.stack([photo_file.view_of(photo, model.input_shape) for photo in photos]).float() / 255
    torch.testing.assert_close(together.logits, loaded(views), atol=1e-4, rtol=1e-4)
    assert together.label.tolist() == model.predict(views).label.tolist()


def test_neither_photos_nor_paths_of_this_machine_are_inside(exported, photos, tmp_path):
    content = exported.path.read_bytes()
    assert b"site-packages" not in content
    assert str(tmp_path).encode() not in content
    assert all(photo.numpy().tobytes()[:64] not in content for photo in photos)


@pytest.mark.slow
def test_a_torch_file_takes_photos_of_any_size(model, photos, tmp_path):
    done = export_photo(model, tmp_path / "m.pt2", "torch", photos)
    texts = {"kedge.json": ""}
    program = torch.export.load(done.path, extra_files=texts).module()
    card = json.loads(texts["kedge.json"])
    least = torch.tensor([card["thresholds"]["reject_threshold"]])
    for photo in [*photos, as_photo(picture(1, 1)), as_photo(picture(500, 3))]:
        said = program(photo, least)
        expected = model.predict(photo_file.view_of(photo, model.input_shape)[None].float() / 255)
        torch.testing.assert_close(said["probabilities"], expected.probs, atol=1e-5, rtol=0)
        sure = bool(expected.confidence >= 0.55)
        answer = card["answers"][int(said["place"])]
        assert answer == (model.class_names[int(expected.label)] if sure else "unsure")
    views = torch.rand(3, 3, 40, 40)
    torch.testing.assert_close(done.load()(views), model(views), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("to", "name"), [("onnx", "m.onnx"), ("torch", "m.pt2")])
def test_a_file_that_prepares_photos_otherwise_is_not_left(model, photos, tmp_path, monkeypatch, to, name):
    path = tmp_path / name
    path.write_bytes(b"the last good one")
    for module in ("photo_graph", "photo_view"):
        monkeypatch.setattr(f"kedge.deploy.{module}.shorter_side", lambda side: side + 1)
    with pytest.raises(RuntimeError, match=r"disagrees with the model on 6 photos and 6 of noise: .* allowed is"):
        export_photo(model, path, to, photos)
    assert path.read_bytes() == b"the last good one"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.slow
def test_a_file_whose_answer_is_not_that_of_its_logits_is_not_left(model, photos, tmp_path, monkeypatch):
    honest = Answering.forward

    def other(self, *arguments):
        said = honest(self, *arguments)
        return {**said, "place": (said["place"] + 1) % 4}

    monkeypatch.setattr(Answering, "forward", other)
    with pytest.raises(RuntimeError, match="the file's answer is not what its logits say"):
        export_photo(model, tmp_path / "m.onnx", "onnx", photos)
    assert list(tmp_path.iterdir()) == []


CARD = {"task": "classification", "num_outputs": 3, "class_names": None, "reject": None, "steps": {}}


def test_unknown_comes_before_unsure():
    card = {**CARD, "reject": rule_at(0.9), "unknown": {"score": "energy", "threshold": 2.0}}
    answering = Answering(card)
    assert answering.answers == ["0", "1", "2", "unsure", "unknown"]
    defaults = answering.defaults()
    assert float(defaults["unknown_threshold"]) == 2
    for logits, answer in (
        ([9.0, 0.0, 0.0], "0"),
        ([2.5, 2.0, 0.0], "unsure"),
        ([-1.0, -1.5, -2.0], "unknown"),
        ([1.0, -9.0, -9.0], "unknown"),  # sure, and of no kind that was trained on
        ([float("nan"), 0.0, 0.0], "unknown"),
    ):
        said = answering(torch.tensor([logits]), *defaults.values())
        assert answering.answers[int(said["place"])] == answer
    expected = kedge.scores.Energy().score(kedge.scores.Outputs(torch.tensor([[2.5, 2.0, 0.0]])))
    said = answering(torch.tensor([[2.5, 2.0, 0.0]]), *defaults.values())
    torch.testing.assert_close(said["score"], expected)


def test_without_rules_every_answer_is_a_label():
    answering = Answering(CARD)
    for logits in ([0.0, 0.0, 0.0], [-1e30, 0.0, 1.0], [-torch.inf, -torch.inf, 0.0]):
        said = answering(torch.tensor([logits]), *answering.defaults().values())
        assert int(said["place"]) == int(torch.tensor(logits).argmax())
    said = answering(torch.tensor([[torch.nan, 0.0, 0.0]]), *answering.defaults().values())
    assert answering.answers[int(said["place"])] == "unsure"
    by_hand = Answering({**CARD, "reject": {"threshold": 0.5}})
    assert float(by_hand.defaults()["reject_threshold"]) == 0


def test_what_cannot_be(model, photos, tmp_path):
    with pytest.raises(ValueError, match=r"none that kedge knows: .*knn"):
        Answering({**CARD, "unknown": {"score": "knn", "threshold": 1.0}})
    oblong = kedge.plain(nn.Sequential(nn.Flatten(), nn.Linear(99 * 3, 2)), example=(3, 9, 11))
    with pytest.raises(ValueError, match=r"made into a square .* takes \[3, 9, 11\]"):
        export_photo(oblong, tmp_path / "m.onnx")
    numbers = kedge.plain(nn.Sequential(nn.Flatten(), nn.Linear(75, 2)), example=(3, 5, 5), task="regression")
    with pytest.raises(ValueError, match="answers with classes, and this is a regression"):
        export_photo(numbers, tmp_path / "m.onnx")
    with pytest.raises(ValueError, match=r"must end in \.onnx, got 'm\.pt2'"):
        export_photo(model, tmp_path / "m.pt2")
    assert list(tmp_path.iterdir()) == []


def test_a_card_that_lies_about_a_photo_file_is_refused(exported, photos, tmp_path):
    with pytest.raises(ValueError, match="takes photos already"):
        with_photo_input(exported.path, tmp_path / "again.onnx", photos)
    proto = onnx.load(exported.path)
    (entry,) = (each for each in proto.metadata_props if each.key == "kedge")
    right = json.loads(entry.value)
    for change, message in (
        ({"num_outputs": 3, "class_names": ["a", "b", "c"]}, "answers with one of 3 classes"),
        ({"takes": "images"}, "has 1 inputs and 6 outputs"),
        ({"format_version": 99}, "reads up to 2"),
    ):
        entry.value = json.dumps({**right, **change})
        onnx.save(proto, tmp_path / "lies.onnx")
        with pytest.raises(ValueError, match=message):
            load_onnx(tmp_path / "lies.onnx")


@pytest.mark.slow
def test_weights_beside_a_large_file_go_with_it(model, photos, tmp_path, monkeypatch):
    from torch.onnx._internal.exporter import _onnx_program

    monkeypatch.setattr(_onnx_program, "_LARGE_MODEL_THRESHOLD", 0)
    done = export_photo(model, tmp_path / "m.onnx", "onnx", photos)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["m.onnx", "m.onnx.data"]
    assert done.weights == tmp_path / "m.onnx.data"
    loaded = load_onnx(done.path)
    images = torch.rand(2, 3, 40, 40)
    torch.testing.assert_close(loaded(images), model(images), atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_an_exported_file_becomes_one_that_takes_photos(model, photos, tmp_path):
    plain = export(model, tmp_path / "plain.onnx", check_images=torch.rand(2, 3, 40, 40))
    done = with_photo_input(plain.path, tmp_path / "photo.onnx", photos)
    assert done.largest_difference < 1e-4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photo.onnx", "plain.onnx"]

"""The whole way of a folder of photos, as the README tells it: each command reads what those before it wrote."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

import kedge
from kedge.cli.flags import call
from kedge.demo.answering import Answering
from tests.cli.test_demo import at_work, send
from tests.test_real_weights import NAME, lite0, picture

onnxruntime = pytest.importorskip("onnxruntime")

OF_CLASS = {"brick": "brick.png", "cats": "chelsea.png", "coffee": "coffee.png"}
PARTS = {"train": (0, 50, 40), "test": (50, 100, 30)}  # from and to, in % of the height of the picture; photos
FOREIGN = "grass.png"


def crops(folder, source, part, seed):
    """Photos of 60 to 140 pixels from one part of a picture, as JPEG, one in three of them lying on its side."""
    top, bottom, count = PARTS[part]
    whole, draw = picture(source), np.random.default_rng(seed)
    whole = whole.crop((0, whole.height * top // 100, whole.width, whole.height * bottom // 100))
    folder.mkdir(parents=True)
    for i in range(count):
        width, height = (int(n) for n in draw.integers(60, 140, 2))
        x, y = (int(draw.integers(n)) for n in (whole.width - width, whole.height - height))
        photo, exif = whole.crop((x, y, x + width, y + height)), Image.Exif()
        if i % 3 == 0:
            photo, exif[0x0112] = photo.transpose(Image.Transpose.ROTATE_90), 6  # to be turned clockwise by readers
        photo.save(folder / f"{i}.jpg", quality=90, exif=exif)


@pytest.fixture
def photos(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for seed, (name, source) in enumerate(OF_CLASS.items()):
        for part in PARTS:
            crops(tmp_path / "photos" / part / name, source, part, seed)
    crops(tmp_path / "others", FOREIGN, "test", 9)
    (tmp_path / "photos" / "train" / "cats" / "broken.jpg").write_bytes(b"not a photo")
    lite0(tmp_path)


def runs(command, *arguments, status=0):
    assert call(command, [str(each) for each in arguments]) == status, (command, *arguments)


def answered(model):
    """What `kedge predict` says of the test photos and the others, by path."""
    out = f"{Path(model).stem}.json"
    runs("predict", model, "photos/test", "others", "--out", out)
    with open(out) as file:
        return {row["path"]: row for row in json.load(file)}


@pytest.mark.slow
def test_from_a_folder_to_a_file_that_is_judged_and_answers(photos, tmp_path, capsys):
    runs("check-data", "photos", status=3)
    assert "broken.jpg" in capsys.readouterr().out
    (tmp_path / "photos" / "train" / "cats" / "broken.jpg").unlink()
    runs("check-data", "photos")

    trained = ["--weights", "lite0.safetensors", "--image_size", 64, "--epochs", 2, "--references", 2]
    runs("train", "--data", "photos", "--name", "mine", "--model", NAME, *trained, "--device", "cpu")
    assert "linear probe of the frozen network" in capsys.readouterr().out
    runs("calibrate", "mine")
    runs("evaluate", "mine", "--shift", "gaussian_noise", "--severities", 3, "--ood", "others")
    results = json.loads((tmp_path / "runs" / "mine" / "evaluation" / "results.json").read_text())
    (measured,) = results["models"].values()
    assert measured["clean"]["accuracy"]["value"] > 0.9  # the other half of pictures that are not alike
    shares = measured["refusal"]["ood"]["others"]
    assert 1 - shares["answered"]["value"] > measured["refusal"]["clean"]["unknown"]["value"]
    page = (tmp_path / "runs" / "mine" / "evaluation" / "report.html").read_text()
    assert "kedge export runs/mine --input photo" in page

    runs("check", "mine", "--min_accuracy", 0.7, "--junit", "gate.xml")
    runs("check", "mine", "--min_accuracy", 0.99, status=3)  # 90 images cannot tell

    answers = answered("mine")
    assert len(answers) == 3 * 30 + 30
    runs("export", "mine", "--input", "photo")
    (file,) = (tmp_path / "runs" / "mine").glob("*.onnx")
    of_file = answered(file)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    for path, row in of_file.items():
        upright = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        said = dict(zip(names, session.run(None, {"photo": np.asarray(upright)}), strict=True))
        assert said["answer"].item() == row["answer"], path
        assert said["confidence"].item() == pytest.approx(row["confidence"], abs=1e-6)
        # The file holds one reference of the two that the run asks.
        assert row["label"] == answers[path]["label"]
        assert row["confidence"] == pytest.approx(answers[path]["confidence"], abs=0.01)

    model = kedge.load(tmp_path / "runs" / "mine")
    with at_work(Answering(model, "mine")) as server:
        for path, row in list(answers.items())[::10]:
            status, said = send(server, "/answer", (tmp_path / path).read_bytes())
            assert (status, said["answer"]) == (200, row["answer"]), path

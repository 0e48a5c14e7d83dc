import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import kedge
from kedge.cli.file_answers import read

PAGE = Path(__file__).parents[2] / "docs" / "deploy.md"


def snippet(taken="images"):
    """The program on the page that runs a file that takes images, or a photo, without kedge."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    (program,) = [block for block in blocks if f'{{"{taken}": ' in block]
    assert "kedge." not in program
    return program


def photo(width, height, mode="RGB"):
    """A picture with detail at every scale, so that another view of it has other pixels."""
    generator = np.random.default_rng(width)
    rough = Image.fromarray(generator.integers(0, 256, (9, 13, 3), dtype=np.uint8)).resize((width, height))
    noise = generator.integers(-20, 20, (height, width, 3))
    return Image.fromarray((np.asarray(rough, int) + noise).clip(0, 255).astype(np.uint8)).convert(mode)


PHOTOS = {
    "landscape": ({"width": 213, "height": 160}, {"format": "JPEG", "quality": 95}),
    "portrait": ({"width": 97, "height": 200}, {"format": "PNG"}),
    "square": ({"width": 80, "height": 80}, {"format": "PNG"}),
    "of a screen": ({"width": 1203, "height": 901}, {"format": "PNG"}),
    "of a camera": ({"width": 1203, "height": 801}, {"format": "JPEG"}),
    "small": ({"width": 41, "height": 30}, {"format": "PNG"}),
    "on its side": ({"width": 150, "height": 101}, {"format": "JPEG", "exif": 6}),
    "grey": ({"width": 131, "height": 100, "mode": "L"}, {"format": "JPEG"}),
    "with alpha": ({"width": 131, "height": 100, "mode": "RGBA"}, {"format": "PNG"}),
}


def after(program, shape, options):
    """The names that the program of a page leaves, with such a photo beside it."""
    options = dict(options)
    if "exif" in options:
        exif = Image.Exif()
        exif[0x0112] = options["exif"]
        options["exif"] = exif
    photo(**shape).save("photo.jpg", **options)
    names = {}
    exec(program, names)
    return names


@pytest.mark.parametrize(
    ("channels", "side", "rule"),
    [
        (3, 191, {"threshold": 0.3}),
        (3, 192, {"threshold": 0.3}),
        (1, 32, {"threshold": 0.3, "log_odds": -0.8472978603872037}),
    ],
)
def test_the_snippet_prepares_photos_as_evaluation_does(channels, side, rule, tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    model = kedge.plain(
        nn.Sequential(nn.Conv2d(channels, 8, 5, 4), nn.Flatten(), nn.LazyLinear(4)), example=(channels, side, side)
    )
    model.class_names, model.reject = ["glass", "metal", "paper", "trash"], rule
    kedge.deploy.export(model, tmp_path / "litter.onnx")
    monkeypatch.chdir(tmp_path)
    program = compile(snippet(), str(PAGE), "exec")
    for name, (shape, options) in PHOTOS.items():
        names = after(program, shape, options)
        expected = read(Path("photo.jpg"), model.input_shape)
        apart = np.abs((names["pixels"][0] * 255).round() - expected.numpy()).max()
        assert apart <= (0 if channels == 3 else 1), name  # of grey the luma is rounded in another way
        answer = model.predict(expected[None].float() / 255)
        assert names["label"] == model.class_names[int(answer.label)]
        assert names["confidence"] == pytest.approx(float(answer.confidence), abs=1e-5 if channels == 3 else 1e-3)
        assert names["reject"] == bool(answer.confidence < 0.3)


def test_the_snippet_for_files_that_take_photos_answers_as_predict_does(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    model = kedge.plain(nn.Sequential(nn.Conv2d(3, 8, 5, 4), nn.Flatten(), nn.LazyLinear(4)), example=(3, 72, 72))
    model.class_names, model.reject = ["glass", "metal", "paper", "trash"], {"threshold": 0.29}
    kedge.deploy.export_photo(model, tmp_path / "litter-photo.onnx")
    monkeypatch.chdir(tmp_path)
    program = compile(snippet("photo"), str(PAGE), "exec")
    for name, (shape, options) in PHOTOS.items():
        names = after(program, shape, options)
        # Decoded whole, as the program does: kedge decodes large photos smaller, or reduces them.
        expected = kedge.deploy.photo_file.view_of(torch.from_numpy(names["photo"].copy()), model.input_shape)
        answer = model.predict(expected[None].float() / 255)
        assert int(names["said"]["label"][0]) == int(answer.label), name
        assert names["said"]["confidence"][0] == pytest.approx(float(answer.confidence), abs=1e-5)
        sure = bool(answer.confidence >= 0.29)
        assert names["said"]["answer"][0] == (model.class_names[int(answer.label)] if sure else "unsure")
        if name not in ("of a camera", "of a screen"):
            assert torch.equal(expected, read(Path("photo.jpg"), model.input_shape)), name

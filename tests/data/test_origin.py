import io

import pytest
import torch
from PIL import Image

import kedge.data as kd
from kedge.data.origin import Origin, of_encoded

from .conftest import picture
from .test_loading import Pairs


def encoded(kind: str, **options) -> bytes:
    file = io.BytesIO()
    picture(1, 40, 50).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("quality", [1, 10, 35, 50, 75, 90, 95, 100])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_the_quality_of_a_jpeg_is_read_from_its_tables(quality, mode, tmp_path):
    file = tmp_path / "a.jpg"
    picture(1, 40, 50, mode).save(file, quality=quality)
    assert of_encoded(str(file)) == ("JPEG", (40, 50), quality)


@pytest.mark.parametrize(
    ("kind", "options", "word"),
    [
        ("PNG", {}, "PNG"),
        ("WEBP", {"lossless": True}, "WEBP lossless"),
        ("WEBP", {"quality": 80}, "WEBP lossy"),
        ("WEBP", {"lossless": True, "icc_profile": b"x" * 31}, "WEBP lossless"),  # the extended form, an odd chunk
        ("WEBP", {"quality": 80, "exif": b"Exif\x00\x00"}, "WEBP lossy"),
        ("BMP", {}, "BMP"),
        ("TIFF", {"compression": "jpeg"}, "JPEG"),
        ("TIFF", {}, "TIFF"),
    ],
)
def test_formats_by_content(kind, options, word, tmp_path):
    data = encoded(kind, **options)
    assert of_encoded(data)[:2] == (word, (40, 50))
    (tmp_path / "no-suffix").write_bytes(data)
    assert of_encoded(str(tmp_path / "no-suffix"))[0] == word


@pytest.mark.parametrize("size", [24, 90])
def test_origin_of_a_folder_is_kept_by_its_parts(make_folder, size):
    root = make_folder({"cat": 4, "dog": 3}, size=(size, size), kind="jpg")
    picture(8, size + 2, size).save(root / "dog" / "tall.png")
    images = kd.load(root)
    assert images.origin.formats == {"JPEG": 7, "PNG": 1}
    assert images.origin.sizes == ((size, size), (size + 2, size))
    assert images.origin.jpeg_quality == 75  # PIL's default
    assert images.origin.lossy == 7 / 8
    assert images.subset([0, 1]).origin == images.origin
    assert images.only_classes(["dog"]).origin == images.origin
    assert images.origin.words() == f"88% JPEG of quality 75, 12% PNG, {size}×{size} to {size + 2}×{size}"


def test_sideways_photos_have_the_size_that_is_seen(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(1, 40, 50).save(tmp_path / "a.jpg", exif=exif)
    assert of_encoded(str(tmp_path / "a.jpg"))[1] == (50, 40)


def test_pixels_without_files():
    assert kd.load("digits").origin == Origin({"array": 1259}, ((8, 8), (8, 8)))
    assert kd.load("digits").origin.lossy is None
    images = [picture(i) for i in range(3)]
    assert kd.from_dataset(Pairs(images, [0, 1, 2])).origin == Origin({"array": 3}, ((24, 24), (24, 24)))
    tensors = kd.TensorSet(torch.zeros(2, 1, 5, 6, dtype=torch.uint8), torch.zeros(2), ["a1"])
    assert tensors.origin.sizes == ((5, 6), (5, 6))


def test_two_hundred_of_many_are_looked_at(make_folder):
    root = make_folder({"cat": 150, "dog": 149}, size=(8, 8))
    picture(8, 20, 8).save(root / "dog" / "zz-tall.png")
    first, second = kd.load(root).origin, kd.load(root).origin
    assert first == second
    assert sum(first.formats.values()) == 200
    assert first.sizes == ((8, 8), (20, 8))  # of all: they were decoded


@pytest.mark.slow
def test_the_packs_are_what_their_notes_say(packs):
    said = {
        "cifar10": Origin({"WEBP lossless": 200}, ((32, 32), (32, 32))),
        "mnist": Origin({"PNG": 200}, ((28, 28), (28, 28))),
        "tiny_imagenet32_jpeg": Origin({"JPEG": 200}, ((32, 32), (32, 32)), 75),
        "textures10_64": Origin({"JPEG": 200}, ((64, 64), (64, 64)), 95),
    }
    for name, origin in said.items():
        assert kd.load(name, "test").origin == origin

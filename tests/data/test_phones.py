"""HEIC, AVIF and JPEG 2000: upright by what the standard says, read by content, and named where they cannot be read."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageOps

import kedge.data as kd
from kedge.data import UnreadableImage, read_image
from kedge.data.decode import check, header
from kedge.data.formats import PLUGINS
from kedge.data.origin import of_encoded

from .conftest import picture

CORNERS = np.zeros((64, 96, 3), np.uint8)
CORNERS[:32, :48], CORNERS[:32, 48:], CORNERS[32:, :48] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
KINDS = {"HEIF": {"quality": 95}, "AVIF": {"quality": 95, "speed": 9}, "JPEG2000": {}}


@pytest.fixture(autouse=True, scope="module")
def _encoders():
    for plugin in PLUGINS:
        plugin.prepare()


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **{**KINDS.get(kind, {}), **options})
    return file.getvalue()


def turned(kind: str, orientation: int) -> bytes:
    """The picture with an EXIF tag, which the encoders also write as boxes `irot` and `imir`."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(Image.fromarray(CORNERS), kind, exif=exif.tobytes())


def error(data: bytes, expected: np.ndarray) -> float:
    """Mean difference of the decoded image from the expected one [H, W, 3]."""
    seen = read_image(data).permute(1, 2, 0).numpy()
    assert seen.shape == expected.shape
    assert header(data)[0] == check(data)[0] == of_encoded(data)[1] == expected.shape[:2]
    return float(np.abs(seen.astype(int) - expected).mean())


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
def test_photos_are_turned_once(kind, orientation):
    png = Image.open(io.BytesIO(turned("PNG", orientation)))  # Pillow's own rotation is the judge
    assert error(turned(kind, orientation), np.asarray(ImageOps.exif_transpose(png))) < 3


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
def test_the_box_turns_and_not_the_exif_tag_beside_it(kind):
    """ISO/IEC 23008-12, 6.5.10: `irot` holds quarter turns anticlockwise; the tag, here always 6, only informs."""
    data = bytearray(turned(kind, 6))
    angle = data.index(b"irot") + 4
    for quarters in range(4):
        data[angle] = quarters
        assert error(bytes(data), np.rot90(CORNERS, quarters)) < 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["a.jpg", "a.heic", "a.jp2"])
def test_what_is_in_a_file_decides_and_not_its_name(tmp_path, kind, name):
    path = tmp_path / name
    path.write_bytes(encoded(picture(1, 40, 60), kind))
    assert read_image(path, 32).shape == (3, 32, 32)


@pytest.mark.parametrize("kind", ["HEIF", "AVIF"])
def test_a_brand_of_containers_alone_does_not_tell_the_kind(kind):
    data = bytearray(encoded(Image.fromarray(CORNERS), kind))
    data[8:12] = b"mif1"
    assert error(bytes(data), CORNERS) < 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_that_lacks_its_end_is_found_when_the_set_is_loaded(tmp_path, kind):
    data = encoded(picture(1, 90, 120), kind)
    for read in (read_image, check):
        with pytest.raises(UnreadableImage):
            read(data[: len(data) * 2 // 3])
    assert check(data + b"what a phone appends") == header(data) == ((90, 120), 3)


def test_phones_photos_are_checked_without_decoding_them(monkeypatch):
    files = [encoded(picture(1, 90, 120), kind) for kind in ("HEIF", "AVIF")]
    monkeypatch.setattr("PIL.Image.Image.frombytes", lambda *arguments: pytest.fail("decoded"))
    monkeypatch.setattr("PIL.AvifImagePlugin.AvifImageFile.load", lambda self: pytest.fail("decoded"))
    assert [check(data) for data in files] == [((90, 120), 3)] * 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_bomb_is_refused_by_its_header(monkeypatch, kind):
    data = encoded(picture(1, 300, 300), kind)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(UnreadableImage, match="decompression bomb"):
        read_image(data)


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("RGBA", 3), ("LA", 1)])
@pytest.mark.parametrize("kind", KINDS)
def test_grey_and_transparent(kind, mode, channels):
    image = picture(5, 40, 40).convert(mode)
    # HEIC and AVIF with transparency are colour images, whatever is in them
    seen = read_image(encoded(image, kind))
    assert seen.shape[1:] == (40, 40)
    assert seen.shape[0] in {channels, 3}
    grey = np.asarray(image.convert("L"), dtype=int)
    assert np.abs(read_image(encoded(image, kind), channels=1)[0].numpy().astype(int) - grey).mean() < 4


def test_ten_bits_become_eight():
    values = np.linspace(0, 65535, 64 * 64).reshape(64, 64).astype(np.uint16)
    seen = read_image(encoded(Image.fromarray(values), "HEIF"))
    assert seen.shape == (1, 64, 64)
    assert np.abs(seen[0].numpy().astype(int) - values / 257).mean() < 2


def test_a_folder_of_all_kinds_is_read(tmp_path):
    for name, kind in (
        ("cat/1.HEIC", "HEIF"),
        ("cat/2.avif", "AVIF"),
        ("dog/1.jp2", "JPEG2000"),
        ("dog/2.jpg", "JPEG"),
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded(picture(7, 100, 120), kind))
    images = kd.load(tmp_path)
    assert len(images) == len(kd.load_unlabelled(tmp_path)) == 4
    assert images.report.summary() == "4 images"
    assert images.origin.formats == {"HEIF": 1, "AVIF": 1, "JPEG2000": 1, "JPEG": 1}
    assert images.origin.lossy == 1


def test_without_the_package_photos_are_named_with_what_to_install(tmp_path):
    """In a process of its own, for which the package is not there."""
    picture(1).save(tmp_path / "1.png")
    for name in ("2.heic", "3.png"):
        (tmp_path / name).write_bytes(encoded(picture(1), "HEIF"))
    code = (
        "import sys; sys.modules['pillow_heif'] = None\n"
        "import kedge.data as kd\n"
        "try: kd.read_image(sys.argv[1] + '/3.png')\n"
        "except kd.UnreadableImage as error: print(error)\n"
        "from kedge.data.image_files import *; from pathlib import Path\n"
        "print(*about_unread(files_under(Path(sys.argv[1]))[1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True)
    damaged, left_out = done.stdout.splitlines()
    install = "HEIC is read after pip install pillow-heif"
    assert damaged.endswith(f"3.png: it holds HEIC. {install}")
    assert "1 image file is of a kind that is not read and left out: 1 .heic, such as" in left_out
    assert left_out.endswith(f"2.heic. {install}")

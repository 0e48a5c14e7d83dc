"""What of files is not read is counted as sets are loaded, by formats that Pillow writes and one put together here."""

import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

import kedge.data as kd
from kedge.data.decode import check, header, open_image
from kedge.data.traits import ANIMATED, DEEP, INKS, TRANSPARENT, Traits
from tests.photo_folder import write_photos


def photo(seed=0, side=40):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def several(path, how=None):
    first, *others = (photo(seed) for seed in range(3))
    first.save(path, save_all=True, append_images=others, **(how or {}))


def deep_colour(path):
    """A PNG of 16 bits a channel, which Pillow reads and does not write."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + row.tobytes() for row in np.random.default_rng(0).integers(0, 256, (4, 24), dtype=np.uint8))
    about = struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)
    png = chunk(b"IHDR", about) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + png)


def half_clear(path, mode="RGBA"):
    image = photo().convert(mode)
    image.putalpha(100)
    image.save(path)


def clear_palette(path):
    photo().convert("P").save(path, transparency=3)


def deep_grey(path):
    Image.fromarray(np.arange(1600, dtype=np.uint16).reshape(40, 40)).save(path)


def deep_pnm(sign, channels):
    return lambda path: path.write_bytes(sign + b"\n40 30\n1023\n" + bytes(2 * 40 * 30 * channels))


FILES = {
    "moves.gif": (several, [ANIMATED]),
    "moves.webp": (several, [ANIMATED]),
    "moves.png": (several, [ANIMATED]),
    "pages.tif": (several, [ANIMATED]),
    "clear.png": (half_clear, [TRANSPARENT]),
    "clear.webp": (half_clear, [TRANSPARENT]),
    "grey.png": (lambda path: half_clear(path, "L"), [TRANSPARENT]),
    "palette.png": (clear_palette, [TRANSPARENT]),
    "deep.png": (deep_grey, [DEEP]),
    "deep.tif": (deep_grey, [DEEP]),
    "colour.png": (deep_colour, [DEEP]),
    "deep.pgm": (deep_pnm(b"P5", 1), [DEEP]),
    "deep.ppm": (deep_pnm(b"P6", 3), [DEEP]),
    "inks.jpg": (lambda path: photo().convert("CMYK").save(path), [INKS]),
    "inks.tif": (lambda path: photo().convert("CMYK").save(path), [INKS]),
    "turned.jpg": (lambda path: photo().save(path, exif=_turned()), []),
    **{
        f"plain.{kind}": (lambda path: photo().save(path), [])
        for kind in ("jpg", "png", "bmp", "tif", "webp", "gif", "ppm")
    },
    "grey.jpg": (lambda path: photo().convert("L").save(path), []),
    "wide.bmp": (lambda path: photo(side=160).save(path), []),
}


def _turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


@pytest.mark.parametrize("name", FILES)
def test_traits_of_a_file_are_told_by_whatever_opens_it(name, tmp_path):
    write, expected = FILES[name]
    write(tmp_path / name)
    for read in (header, check, open_image, kd.read_image):
        traits: list[str] = []
        read(tmp_path / name, traits=traits)
        assert traits == expected, read.__name__


def test_the_first_frame_is_read_though_it_was_asked_whether_there_are_more(tmp_path):
    several(tmp_path / "moves.gif")
    assert torch.equal(kd.read_image(tmp_path / "moves.gif"), kd.read_image(tmp_path / "moves.gif", traits=[]))


@pytest.fixture
def photos(tmp_path):
    write_photos(tmp_path / "photos", each=3)
    several(tmp_path / "photos" / "ant" / "moves.gif")
    half_clear(tmp_path / "photos" / "bee" / "clear.png")
    half_clear(tmp_path / "photos" / "bee" / "clear2.png")
    return tmp_path / "photos"


EXPECTED = (
    "1 animated or of several pages (the first image is read), such as {0}/ant/moves.gif; 2 with an alpha channel "
    "(left out: what is transparent shows the colour stored there), such as {0}/bee/clear.png"
)


@pytest.mark.parametrize("size", [16, 96])
@pytest.mark.parametrize("decode", [True, False])
def test_a_set_counts_them_as_it_is_loaded_and_opens_no_file_once_more(photos, size, decode, monkeypatch):
    from kedge.data import formats

    reads = []
    whole = formats.encoded_bytes
    monkeypatch.setattr("kedge.data.decode.encoded_bytes", lambda source: reads.append(source) or whole(source))
    images = kd.load(photos, "all", image_size=size, decode=decode)
    assert images.report.traits.line() == EXPECTED.format(photos)
    assert EXPECTED.format(photos) in images.report.summary().splitlines()
    assert len(reads) == (len(images) if size == 96 and decode else 0)  # by check, each once; else none is read whole


def test_nothing_is_said_where_there_is_nothing(tmp_path):
    images = kd.load(write_photos(tmp_path / "photos", each=2), "all")
    assert not images.report.traits
    assert images.report.summary() == "6 images"
    assert Traits().line() == ""


def test_a_part_says_how_many_are_used(tmp_path):
    report = kd.load(write_photos(tmp_path / "photos", each=4), "all", image_size=6).report
    assert report.summary(12) == report.summary() == "12 images, 12 resized"
    assert report.summary(3) == "3 images are used, of 12 that were read, 12 resized"

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from kedge import data
from kedge.data.decode import check, convert_channels, evaluation_view, header, read_image, to_tensor
from kedge.data.report import UnreadableImage

from .conftest import picture


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def pixels(image: Image.Image) -> torch.Tensor:
    array = np.array(image)
    return torch.from_numpy(array if array.ndim == 3 else array[:, :, None]).permute(2, 0, 1)


@pytest.mark.parametrize(("kind", "options"), [("PNG", {}), ("WEBP", {"lossless": True}), ("BMP", {})])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_lossless_images_come_back_exactly(kind, options, mode):
    image = picture(1, 20, 30, mode)
    data = encoded(image, kind, **options)
    expected = pixels(image.convert("RGB") if kind == "WEBP" else image)
    assert torch.equal(read_image(data), expected)
    assert header(data)[0] == (20, 30)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_every_mode_becomes_grey_or_colour(mode, tmp_path):
    image = picture(2, mode="RGB").convert(mode)
    kind = {"CMYK": "tif", "YCbCr": "tif", "HSV": "tif"}.get(mode, "png")
    if mode == "HSV":
        pytest.importorskip("PIL")
        image = image.convert("RGB")
    image.save(tmp_path / f"a.{kind}")
    tensor = read_image(tmp_path / f"a.{kind}")
    assert tensor.dtype == torch.uint8
    assert tensor.shape == (1 if mode in ("1", "L", "LA") else 3, 24, 24)


def test_sixteen_bit_grey_keeps_its_range():
    values = np.linspace(0, 65535, 64).reshape(8, 8).astype(np.uint16)
    tensor = read_image(encoded(Image.fromarray(values), "PNG"))
    np.testing.assert_allclose(tensor[0].numpy(), values / 257, atol=0.51)


@pytest.mark.parametrize("kind", [b"P5", b"P2"])
@pytest.mark.parametrize("most", [1023, 4095, 65535])
def test_grey_pnm_of_more_than_8_bits_keeps_its_range(kind, most, tmp_path):
    values = np.linspace(0, most, 96).round().astype(np.uint16).reshape(8, 12)
    content = values.astype(">u2").tobytes() if kind == b"P5" else b" ".join(b"%d" % v for v in values.flatten())
    (tmp_path / "a.pgm").write_bytes(kind + b"\n12 8\n%d\n" % most + content)
    tensor = read_image(tmp_path / "a.pgm")
    np.testing.assert_allclose(tensor[0].numpy(), values / most * 255, atol=0.51)
    assert header(tmp_path / "a.pgm") == check(tmp_path / "a.pgm") == ((8, 12), 1)


def test_grey_of_unknown_range_is_refused(tmp_path):
    (tmp_path / "a.pgm").write_bytes(b"Pf\n2 2\n-1.0\n" + bytes(16))
    Image.fromarray(np.full((4, 4), 70_000, np.int32)).save(tmp_path / "a.tif")
    for name in ("a.pgm", "a.tif"):
        for read in (header, check, read_image):
            with pytest.raises(UnreadableImage, match="32-bit image of unknown range"):
                read(tmp_path / name)


def test_photo_is_turned_upright_by_its_exif_tag():
    image = picture(3, 16, 32)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned 90 degrees clockwise
    data = encoded(image, "JPEG", exif=exif, quality=95)
    assert header(data)[0] == (32, 16)
    upright = image.transpose(Image.Transpose.ROTATE_270)
    assert (read_image(data).float() - pixels(upright)).abs().mean() < 8
    assert (read_image(data).float() - pixels(upright.rotate(180))).abs().mean() > 30


def test_large_jpeg_decoded_small_looks_the_same():
    data = encoded(picture(4, 1200, 1600), "JPEG", quality=95)
    fast = read_image(data, image_size=112)
    slow = to_tensor(evaluation_view(Image.open(io.BytesIO(data)), 112))
    assert fast.shape == (3, 112, 112)
    assert (fast.float() - slow.float()).abs().mean() < 2


def test_evaluation_view_is_centred_and_keeps_an_eighth_off_photos():
    image = torch.zeros(1, 256, 400, dtype=torch.uint8)
    image[:, 16:240, 88:312] = 255  # the central 224 x 224
    assert evaluation_view(image, 224).min() == 255
    wide = torch.arange(300).remainder(251).to(torch.uint8).expand(1, 192, 300).contiguous()
    assert torch.equal(evaluation_view(wide[:, :191], 191), wide[:, :191, 54:245])  # all of the shorter side, as it is
    assert not torch.equal(evaluation_view(wide, 192), wide[:, :, 54:246])
    small = torch.arange(48, dtype=torch.uint8).expand(1, 32, 48).contiguous()
    assert torch.equal(evaluation_view(small, 32), small[:, :, 8:40])


@pytest.mark.parametrize(
    "data",
    [b"", b"not an image", encoded(picture(1, 90, 90), "PNG")[:-200], encoded(picture(1, 90, 90), "JPEG")[:-200]],
    ids=["empty", "text", "cut png", "cut jpeg"],
)
def test_damaged_images_are_named(data, tmp_path):
    path = tmp_path / "broken.jpg"
    path.write_bytes(data)
    for read in (read_image, header):
        with pytest.raises(UnreadableImage, match=r"broken\.jpg"):
            read(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(UnreadableImage, match=r"gone\.png: no such file"):
        read_image(tmp_path / "gone.png")


def test_bytes_behind_a_whole_jpeg_are_no_fault():
    data = encoded(picture(1), "JPEG") + b"maker's notes" * 20
    assert header(data) == ((24, 24), 3)


def test_floats_are_rounded_and_checked():
    image = torch.tensor([[[0.0, 0.5, 1.0]]])
    assert to_tensor(image).tolist() == [[[0, 128, 255]]]
    with pytest.raises(ValueError, match=r"\[-1, 0.5\]"):
        to_tensor(image * 1.5 - 1)
    with pytest.raises(TypeError, match="int64"):
        to_tensor(torch.zeros(1, 2, 2, dtype=torch.long))


def test_arrays_are_height_width_channels():
    array = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    assert torch.equal(to_tensor(array), torch.from_numpy(array).permute(2, 0, 1))
    assert to_tensor(array[:, :, 0]).shape == (1, 2, 4)


def test_conversion_between_grey_and_colour_is_pillows():
    image = picture(5)
    grey = convert_channels(pixels(image), 1)
    assert (grey.int() - pixels(image.convert("L")).int()).abs().max() <= 1
    assert torch.equal(convert_channels(grey, 3), grey.expand(3, -1, -1))
    with pytest.raises(ValueError, match="4 channels"):
        convert_channels(torch.zeros(4, 2, 2, dtype=torch.uint8), 3)


def png_of_16_bits(values: np.ndarray) -> bytes:
    """A PNG of 16-bit RGB [H, W, 3], which Pillow cannot write."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    size = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_sixteen_bit_colour_keeps_its_range():
    values = np.random.default_rng(1).integers(0, 65536, (8, 9, 3))
    seen = read_image(png_of_16_bits(values)).permute(1, 2, 0).numpy()
    assert np.abs(seen - values / 257).max() < 1


def test_cmyk_of_printers_is_not_inverted():
    image = picture(6, 40, 60).convert("CMYK")
    seen = read_image(encoded(image, "JPEG", quality=95))  # written as Adobe does, with all values inverted
    assert (seen.float() - pixels(image.convert("RGB"))).abs().mean() < 4


@pytest.mark.parametrize("transparency", [3, bytes(range(0, 160, 10))], ids=["a colour", "shares"])
def test_a_palette_with_transparency_has_its_colours_and_no_warning(transparency, recwarn):
    image = picture(7, 40, 60).quantize(16)
    seen = read_image(encoded(image, "PNG", transparency=transparency))
    assert torch.equal(seen, pixels(image.convert("RGB")))
    assert not recwarn


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "AVIF", "JPEG2000"])
def test_an_image_of_one_pixel(kind):
    data = encoded(Image.new("RGB", (1, 1), (10, 200, 30)), kind)
    assert header(data) == ((1, 1), 3)
    seen = read_image(data, 224)
    assert seen.shape == (3, 224, 224)
    assert (seen.float() - torch.tensor([10.0, 200, 30]).view(3, 1, 1)).abs().max() <= 2


@pytest.mark.parametrize("size", [(1, 50_000), (50_000, 1)])
def test_a_line_of_pixels_does_not_fill_the_memory(size):
    """Enlarged as a whole it would be 12 gigapixels."""
    image = torch.zeros((1, *size), dtype=torch.uint8)
    image.view(-1)[25_000 - 2 : 25_000 + 2] = 200
    seen = evaluation_view(image, 224)
    assert seen.shape == (1, 224, 224)
    assert seen.min() == 200
    assert read_image(encoded(Image.fromarray(image[0].numpy()), "PNG"), 224).shape == (1, 224, 224)


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "AVIF", "TIFF"])
def test_of_several_frames_the_first_is_read(kind):
    frames = [Image.new("RGB", (20, 20), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    seen = read_image(encoded(frames[0], kind, save_all=True, append_images=frames[1:]))
    assert (seen[:, 10, 10].float() - torch.tensor([255.0, 0, 0])).abs().max() <= 3


@pytest.mark.parametrize("side", [32, 64, 96])
@pytest.mark.parametrize("in_memory", [True, False])
def test_prediction_sees_the_pixels_that_training_and_evaluation_saw(tmp_path, monkeypatch, side, in_memory):
    """Sharp photos whose longer side is no multiple of what a reduced image is divided by, in two kinds of file."""
    if not in_memory:
        monkeypatch.setattr("kedge.data.build._IN_MEMORY", 0)
    draws = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        for i in range(2):
            sharp = Image.fromarray(draws.integers(0, 256, (50, 75, 3), dtype=np.uint8))
            sharp.resize((400, 600 + i), Image.Resampling.BICUBIC).save(tmp_path / name / f"{i}.png")
            sharp.convert("L").resize((601, 398)).save(tmp_path / name / f"{i}.jpg")
    images = data.load(tmp_path, "train", side, 3)
    for i, path in enumerate(images.paths):
        assert torch.equal(read_image(path, side, 3), images[i][0])

"""Images that cannot be decoded, though their headers can: left out, counted and named wherever sets are read."""

import io
import logging
import random
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import kedge.data as kd
from kedge.anchoring import choose_references, choose_residuals
from kedge.data.build import Listing, build
from kedge.data.decode import check, header, open_image
from kedge.data.file_sets import FileSet, Undecoded
from kedge.data.formats import PLUGINS
from kedge.data.items import FileItems
from kedge.data.report import DataError, UnreadableImage
from kedge.data.statistics import NormBatches
from kedge.evaluation.sets import limited

from .conftest import picture

SIZE = 72  # above 64 px: read from files each time


def damage(path: Path) -> None:
    """Other bytes in the middle: header and end stay whole."""
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(data[:middle] + random.Random(0).randbytes(400) + data[middle + 400 :])


def float_tiff(path: Path) -> None:
    Image.fromarray(np.random.default_rng(0).random((SIZE, SIZE), dtype=np.float32)).save(path, "TIFF")


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """240 photos of two classes; one PNG damaged in the middle, and one float TIFF."""
    root = tmp_path_factory.mktemp("damaged") / "photos"
    for folder, count in (("cat", 120), ("dog", 119)):
        (root / folder).mkdir(parents=True)
        for i in range(count):
            picture(i, SIZE, SIZE, "L" if folder == "dog" else "RGB").save(root / folder / f"{i:03d}.png")
    damage(root / "cat" / "037.png")
    float_tiff(root / "dog" / "float.tif")
    return root


def encodings(count: int):
    """Damaged images: bytes that are zeroed, changed, cut out or put in, of every kind that is read."""
    image = picture(3, 120, 160)
    noisy = np.asarray(image).astype(int) + np.random.default_rng(0).integers(-20, 20, (120, 160, 3))
    image = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
    kinds = {
        "jpeg": ("JPEG", {"quality": 90}), "progressive": ("JPEG", {"quality": 90, "progressive": True}),
        "restarts": ("JPEG", {"quality": 70, "restart_marker_blocks": 4}), "png": ("PNG", {}),
        "webp": ("WEBP", {}), "tiff": ("TIFF", {}), "gif": ("GIF", {}), "bmp": ("BMP", {}), "ppm": ("PPM", {}),
        "heic": ("HEIF", {"quality": 60}), "avif": ("AVIF", {"speed": 9}), "jpeg 2000": ("JPEG2000", {}),
    }  # fmt: skip
    for plugin in PLUGINS:
        plugin.prepare()
    for name, (kind, options) in kinds.items():
        file = io.BytesIO()
        image.save(file, kind, **options)
        for seed in range(count):
            draw, data = random.Random(seed), bytearray(file.getvalue())
            at, width = draw.randrange(20, len(data) - 10), draw.choice((16, 64, 512))
            if seed % 4 == 0:
                data[at : at + width] = bytes(len(data[at : at + width]))
            elif seed % 4 == 1:
                data[at : at + width] = draw.randbytes(len(data[at : at + width]))
            elif seed % 4 == 2:
                del data[at : at + width]
            else:
                data[at:at] = bytes([0xFF, draw.randrange(256)])
            yield name, bytes(data)


def test_the_check_says_what_decoding_would_say():
    """The decoder is the judge: what it refuses, and nothing else, is refused without decoding most images."""
    missed, refused = [], 0
    for name, data in encodings(40):
        try:
            open_image(data, least=80)
            decodes = True
        except UnreadableImage:
            decodes, refused = False, refused + 1
        try:
            check(data)
            assert decodes or name in ("jpeg", "progressive", "restarts", "heic", "avif"), name
            missed += [] if decodes else [name]
        except UnreadableImage:
            assert not decodes, name
    assert refused > 100
    # tables of a JPEG that are damaged between right markers, and what HEIC and AVIF hold between right boxes
    assert len(missed) <= 5


def test_whole_images_are_not_decoded_to_be_checked(monkeypatch):
    progressive = io.BytesIO()
    picture(1, 90, 90).save(progressive, "JPEG", progressive=True)
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = io.BytesIO()
    picture(2, 90, 70).save(turned, "JPEG", exif=exif)
    png = io.BytesIO()
    picture(3, 70, 90).save(png, "PNG")
    expected = [((90, 90), 3), ((70, 90), 3), ((70, 90), 3)]
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda self: pytest.fail("decoded"))
    assert [check(file.getvalue()) for file in (progressive, turned, png)] == expected


def test_bytes_behind_a_whole_image_and_a_wrong_checksum_that_nobody_reads_are_no_damage():
    file = io.BytesIO()
    picture(1).save(file, "PNG")
    data = file.getvalue()
    chunk = b"tEXtnote\0" + b"some words"
    wrong = len(b"note\0some words").to_bytes(4) + chunk + (zlib.crc32(chunk) ^ 1).to_bytes(4)
    assert check(data + b"maker's notes") == ((24, 24), 3)
    assert check(data[:-12] + wrong + data[-12:]) == header(data)


def test_a_photo_damaged_in_the_middle_and_a_float_image_are_skipped_when_a_set_is_loaded(root, caplog):
    images = kd.load(root, image_size=SIZE)
    assert isinstance(images, FileSet)
    assert (len(images), images.report.total) == (238, 240)
    assert {Path(path).name for path, _ in images.report.skipped} == {"037.png", "float.tif"}
    assert "float.tif: 32-bit image of unknown range: convert it to 8 bits" in images.report.summary()
    assert "2 unreadable images skipped" in caplog.text
    assert sum(len(labels) for _, labels in images.batches(32)) == 238
    again, places = images.readable()
    assert again is images
    assert places.tolist() == list(range(238))


def test_more_than_a_hundredth_is_an_error_that_names_them(make_folder):
    root = make_folder({"cat": 51, "dog": 50}, size=(SIZE, SIZE))
    for name in ("003", "030", "050"):
        damage(root / "cat" / f"{name}.png")
    with pytest.raises(
        DataError, match=r"3 of 101(?s:.*)003\.png(?s:.*)030\.png(?s:.*)050\.png(?s:.*)Repair or remove"
    ):
        kd.load(root, image_size=SIZE)


def test_a_folder_of_float_images_says_why(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
        float_tiff(tmp_path / name / "1.tif")
    with pytest.raises(DataError, match=r"none of 2 images(?s:.*)a.1\.tif: 32-bit image of unknown range"):
        kd.load(tmp_path)


@pytest.mark.parametrize("size", [SIZE, 24])
def test_of_a_part_only_its_images_are_checked_and_the_places_of_the_others_stay(root, size, monkeypatch):
    """What `kedge evaluate --limit` does: the same images as of the whole set less those that cannot be read."""
    whole = kd.load(root, image_size=size)
    lazy = kd.load(root, image_size=size, decode=False)
    assert type(lazy) is (FileSet if size == SIZE else Undecoded)
    damaged = lazy.paths.index(str(root / "cat" / "037.png"))
    assert len(lazy) == 239  # what is no image to its header is left out at once
    chosen, positions = limited(lazy, 120, 4)
    drawn = torch.randperm(239, generator=torch.Generator().manual_seed(4))[:120].sort().values
    assert damaged in drawn.tolist()
    assert positions.tolist() == [i for i in drawn.tolist() if i != damaged]
    assert chosen.paths == [lazy.paths[i] for i in positions.tolist()]
    known = {path: i for i, path in enumerate(whole.paths)}
    for i in (0, 50, 118):
        assert torch.equal(chosen[i][0], whole[known[chosen.paths[i]]][0])
    assert {Path(path).name for path, _ in lazy.report.skipped} == {"037.png", "float.tif"}
    assert len(lazy.first(40)) == 40  # 037 among them


def test_sets_that_loading_cannot_check_as_a_whole(root, monkeypatch, caplog):
    """Of very many images only some are opened; the others are passed over wherever they are met."""
    monkeypatch.setattr("kedge.data.build._CHECKED", 100)
    monkeypatch.setattr("kedge.data.build._SAMPLED", 3)  # neither of the two
    images = kd.load(root, image_size=SIZE, channels=3)
    assert not images.checked
    assert len(images) == 240
    bad = {images.paths.index(str(root / "cat" / "037.png")), images.paths.index(str(root / "dog" / "float.tif"))}
    read = [i for i in range(240) if i not in bad]
    checked, places = images.readable()
    assert places.tolist() == read
    assert checked.checked
    for how in ("random", "stratified", "mean", "kcenter"):
        bank = choose_references(images, 4, how, seed=1)
        assert bank.shape == (4, 3, SIZE, SIZE)
    order = torch.randperm(240, generator=torch.Generator().manual_seed(5)).tolist()
    expected = torch.stack([images[i][0] for i in order if i not in bad][:238]).float() / 255
    assert torch.equal(choose_references(images, 238, "random", seed=5), expected)
    with pytest.raises(UnreadableImage, match=r"037\.png|float\.tif"):
        choose_references(images, 239, "random", seed=5)
    assert choose_residuals(images, bank, 238, seed=0).shape[0] == 238
    batches = kd.training_batches(images, 40, seed=0, augment="none", workers=0)
    with caplog.at_level(logging.WARNING):
        seen = list(batches)
    assert sum(len(labels) for _, labels in seen) == 240
    assert {Path(path).name for path in batches.failed} == {"037.png", "float.tif"}
    for index, (shown, labels) in zip(batches.indices(), seen, strict=True):
        assert torch.equal(labels, images.labels[index])
        for i, image in zip(index.tolist(), shown, strict=True):
            stand_in = i if i not in bad else (i + 1 if i + 1 < 240 else 120)  # the next one of its class
            assert torch.equal(image, images[stand_in][0])
    assert sum(len(labels) for _, labels in NormBatches(images, 40, "none", workers=0)) == 240


def test_a_set_of_small_images_leaves_them_out_too(root):
    for decode in (True, False):
        images, _ = kd.load(root, image_size=24, decode=decode).readable()
        assert len(images) == 238


def test_rows_of_a_table_are_checked(root, tmp_path):
    paths = [str(path) for path in sorted((root / "cat").iterdir())]
    made = build(Listing(FileItems(paths), [0] * 120, ["cat"], "cats", "all"), SIZE)
    assert len(made) == 119
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [{"bytes": Path(path).read_bytes(), "path": Path(path).name} for path in paths]
    pq.write_table(pa.table({"image": rows, "label": [i % 2 for i in range(120)]}), tmp_path / "cats.parquet")
    table = kd.load(tmp_path / "cats.parquet", image_size=SIZE)
    assert len(table) == 119
    assert [path for path, _ in table.report.skipped] == ["cats:037.png"]

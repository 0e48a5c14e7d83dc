"""Photos that are kept as they were decoded: the same pixels, whatever happens to the folder."""

import multiprocessing
import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from kedge import data
from kedge.data import with_cache
from kedge.data.decode import open_image
from kedge.data.items import FileItems
from kedge.data.photo_cache import CachedItems, PhotoCache
from kedge.data.report import DataError, UnreadableImage
from tests.data.conftest import picture

SIDE = 96


@pytest.fixture
def photos(tmp_path):
    """Photos of several formats and sizes; one that is turned by its EXIF tag, one grey."""
    for label, kind in enumerate(("cat", "dog")):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for i in range(4):
            picture(4 * label + i, 500 + 40 * i, 400).save(tmp_path / "photos" / kind / f"{i}.jpg", quality=95)
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(9, 420, 300).save(tmp_path / "photos" / "cat" / "turned.jpg", exif=exif)
    picture(8, 640, 420, mode="L").save(tmp_path / "photos" / "dog" / "grey.png")
    picture(7, 640, 400).save(tmp_path / "photos" / "dog" / "large.webp")
    return data.load(tmp_path / "photos", image_size=SIDE)


@pytest.fixture
def decoded(monkeypatch):
    """The positions of the images that were decoded, in turn."""
    positions = []
    image = FileItems.image

    def counted(self, i, least=None):
        positions.append(i)
        return image(self, i, least)

    monkeypatch.setattr(FileItems, "image", counted)
    return positions


def entries(folder):
    return sorted(folder.glob("??/*.pixels"))


def assert_same(one, other):
    for i in range(len(one)):
        assert torch.equal(one[i][0], other[i][0])
        assert one[i][1] == other[i][1]
        a, b = one.uncropped(i), other.uncropped(i)
        assert a.mode == b.mode
        assert np.array_equal(np.asarray(a), np.asarray(b))


def test_the_pixels_are_those_of_decoding_and_each_photo_is_decoded_once(photos, decoded, tmp_path):
    cached = with_cache(photos, tmp_path / "cache")
    assert isinstance(cached, data.FileSet)
    assert_same(photos, cached)
    assert len(entries(tmp_path / "cache")) == len(photos)
    decoded.clear()
    again = with_cache(data.load(tmp_path / "photos", image_size=SIDE), tmp_path / "cache")
    views, whole = [again[i][0] for i in range(len(again))], [again.uncropped(i) for i in range(len(again))]
    assert not decoded
    assert all(torch.equal(view, photos[i][0]) for i, view in enumerate(views))
    assert [image.size for image in whole] == [photos.uncropped(i).size for i in range(len(photos))]
    assert (again.keys(), again.fingerprint()) == (photos.keys(), photos.fingerprint())


@pytest.mark.parametrize("workers", [0, 2])
def test_training_crops_are_the_same(photos, decoded, workers, tmp_path):
    plain, cached = (
        data.training_batches(images, 4, seed=3, workers=workers)
        for images in (photos, with_cache(photos, tmp_path / "cache"))
    )
    for epoch in (0, 1):
        decoded.clear()
        plain.set_epoch(epoch)
        cached.set_epoch(epoch)
        for (x, labels), (y, others) in zip(plain, cached, strict=True):
            assert torch.equal(x, y)
            assert torch.equal(labels, others)
    assert not [path for path in (tmp_path / "cache").iterdir() if path.name.endswith(".tmp")]
    if workers == 0:
        assert len(decoded) == len(photos)  # those of the set without a cache


def _flipped(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize(
    "damage",
    [
        _flipped,
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(path.read_bytes() + b"more"),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"kedgepx1" + bytes(16)),
        lambda path: path.write_bytes(bytes(200)),
    ],
    ids=["a bit", "cut off", "longer", "empty", "no pixels", "something else"],
)
def test_a_damaged_entry_is_decoded_and_written_again(photos, decoded, damage, tmp_path):
    cached = with_cache(photos, tmp_path / "cache")
    right = [cached[i][0] for i in range(len(cached))]
    before = {path: path.read_bytes() for path in entries(tmp_path / "cache")}
    for path in before:
        damage(path)
    decoded.clear()
    assert all(torch.equal(cached[i][0], image) for i, image in enumerate(right))
    assert sorted(decoded) == list(range(len(photos)))
    assert {path: path.read_bytes() for path in entries(tmp_path / "cache")} == before


def test_an_entry_is_of_what_a_file_holds_not_of_its_name(photos, tmp_path):
    cached = with_cache(photos, tmp_path / "cache")
    before = cached[0][0]
    path = photos.paths[0]
    picture(77, 500, 400).save(path, quality=95)
    after = with_cache(data.load(tmp_path / "photos", image_size=SIDE), tmp_path / "cache")[0][0]
    assert not torch.equal(before, after)
    assert torch.equal(after, data.load(tmp_path / "photos", image_size=SIDE)[0][0])


def test_a_photo_changed_in_place_is_decoded_anew(photos, tmp_path):
    path = Path(photos.paths[0])
    noise = np.random.default_rng(0).integers(0, 256, (400, 500, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path, quality=95)
    before, times = with_cache(photos, tmp_path / "cache")[0][0], path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1  # of 300 kB: far from the beginning, the middle and the end
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    again = data.load(tmp_path / "photos", image_size=SIDE)
    after = with_cache(again, tmp_path / "cache")[0][0]
    assert not torch.equal(before, after)
    assert torch.equal(after, again[0][0])


def test_another_size_or_another_version_has_entries_of_its_own(photos, tmp_path, monkeypatch):
    cache = PhotoCache(tmp_path / "cache")
    key, image = photos.keys()[0], picture(1, 30, 20)
    cache.write(key, 192, image)
    assert np.array_equal(np.asarray(cache.read(key, 192)), np.asarray(image))
    assert cache.read(key, 448) is None
    assert cache.read(photos.keys()[1], 192) is None
    monkeypatch.setattr("PIL.__version__", "0.0")
    assert cache.read(key, 192) is None


def test_it_holds_no_more_than_it_may(photos, tmp_path, caplog):
    one = 24 + 3 * 200 * 250
    cached = with_cache(photos, tmp_path / "cache", gigabytes=3.5 * one / 1e9)
    assert_same(photos, cached)
    size = sum(path.stat().st_size for path in entries(tmp_path / "cache"))
    assert 0 < size <= 3.5 * one
    assert sum("decoded each time" in record.message for record in caplog.records) == 1
    full = PhotoCache(tmp_path / "cache", gigabytes=size / 1e9)
    assert full.taken() == size
    full.write(b"other", 192, picture(3, 10, 10))
    assert full.read(b"other", 192) is None


def test_a_disk_that_is_full_stops_the_cache_and_not_the_run(photos, tmp_path, monkeypatch, caplog):
    cached = with_cache(photos, tmp_path / "cache")
    cached[0]

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert_same(photos, cached)
    assert len(entries(tmp_path / "cache")) == 1
    assert "No space left on device; further photos are decoded each time" in caplog.text
    assert not [path for path in (tmp_path / "cache").iterdir() if path.name.endswith(".tmp")]


def test_a_folder_that_cannot_be_written_is_an_error_in_words(photos, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cache .*file: .*Name a folder that can be written"):
        with_cache(photos, tmp_path / "file")


@pytest.mark.parametrize(
    "place", ["photos", "photos/decoded", "photos/cat/decoded", "link/decoded", "photos/../photos"]
)
def test_a_folder_within_the_data_is_refused(photos, tmp_path, place):
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    before = sorted((tmp_path / "photos").rglob("*"))
    for images in (photos, data.load(tmp_path / "link", image_size=SIDE).subset([0])):
        with pytest.raises(DataError, match=r"cache .* lies in the data folder .*: .*Name a folder outside of it"):
            with_cache(images, tmp_path / place)
    with pytest.raises(DataError, match="lies in the data folder"):
        with_cache(data.load_unlabelled(tmp_path / "photos", image_size=SIDE), tmp_path / place)
    assert sorted((tmp_path / "photos").rglob("*")) == before


def test_a_folder_beside_the_data_or_its_parts_is_not_refused(photos, tmp_path):
    with_cache(photos, tmp_path / "photos-decoded")
    (tmp_path / "all").mkdir()
    (tmp_path / "photos").rename(tmp_path / "all" / "train")
    with_cache(data.load(tmp_path / "all" / "train", image_size=SIDE), tmp_path / "all" / "decoded")
    with pytest.raises(DataError, match="lies in the data folder"):
        with_cache(data.load(tmp_path / "all", image_size=SIDE), tmp_path / "all" / "decoded")


def test_a_photo_that_cannot_be_read_stays_so(photos, tmp_path):
    cached = with_cache(photos, tmp_path / "cache")
    os.truncate(photos.paths[0], 300)
    with pytest.raises(UnreadableImage, match=r"0\.jpg"):
        cached.uncropped(0)
    os.unlink(photos.paths[1])
    with pytest.raises(UnreadableImage, match="no such file"):
        cached.uncropped(1)
    assert not entries(tmp_path / "cache")


def _fill(folder, cache, barrier):
    cached = with_cache(data.load(folder, image_size=SIDE), cache)
    barrier.wait()
    for i in range(len(cached)):
        cached[i]


def test_several_processes_fill_one_folder(photos, tmp_path):
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(3)
    processes = [context.Process(target=_fill, args=(tmp_path / "photos", tmp_path / "cache", barrier)) for _ in "123"]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert len(entries(tmp_path / "cache")) == len(photos)
    assert_same(photos, with_cache(photos, tmp_path / "cache"))


def test_sets_that_need_none_stay_as_they_are(photos, tmp_path):
    small = data.load(tmp_path / "photos", image_size=32)
    assert with_cache(small, tmp_path / "cache") is small
    assert with_cache(photos, None) is photos
    cached = with_cache(photos, tmp_path / "cache")
    assert with_cache(cached, tmp_path / "other") is cached
    part = cached.subset([3, 1])
    assert isinstance(part.items, CachedItems)
    assert torch.equal(part[0][0], photos[3][0])


def test_large_images_that_are_no_jpeg_are_brought_down_by_whole_factors(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (420, 630, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "large.png")
    small = np.asarray(open_image(tmp_path / "large.png", least=140))
    blocks = pixels.reshape(140, 3, 210, 3, 3).astype(np.float64).mean((1, 3))
    assert small.shape == (140, 210, 3)
    assert np.abs(small - blocks).max() < 0.6  # rounded in integers
    assert np.array_equal(np.asarray(open_image(tmp_path / "large.png", least=211)), pixels)
    assert open_image(tmp_path / "large.png", least=20).size == (79, 53)  # a factor of 8 at most, as of a JPEG


def test_another_version_of_what_reads_heic_has_entries_of_its_own(photos, tmp_path, monkeypatch):
    key, image = photos.keys()[0], picture(1, 30, 20)

    def cache(version):
        installed = None if version is None else object()
        monkeypatch.setattr("kedge.data.photo_cache.find_spec", lambda name: installed)
        monkeypatch.setattr("kedge.data.photo_cache.version", lambda package: {"pillow-heif": version}[package])
        return PhotoCache(tmp_path / "cache")

    cache("1.0").write(key, 192, image)
    assert [cache(version).read(key, 192) is not None for version in ("1.0", "1.1", None)] == [True, False, False]


def test_the_room_on_a_disk_is_known_without_statvfs(photos, tmp_path, monkeypatch):
    monkeypatch.delattr("os.statvfs")  # as on Windows
    key, image = photos.keys()[0], picture(1, 30, 20)
    for free, there in ((1 << 20, False), (1 << 40, True)):
        monkeypatch.setattr("shutil.disk_usage", lambda folder, free=free: SimpleNamespace(free=free))
        cache = PhotoCache(tmp_path / "cache")
        cache.write(key, 192, image)
        assert (cache.read(key, 192) is not None) is there

import shutil

import pytest
import torch
from PIL import Image

import kedge.data as kd
from kedge.data import DataError, TensorSet
from kedge.data.fingerprints import key_of_bytes, key_of_file, sampled_rows
from kedge.data.overlap import check_apart, shared_images

from .conftest import picture
from .test_loading import Pairs
from .test_tables import rows, write


def pixels(count: int, seed: int = 0, size: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)


def test_a_fingerprint_is_of_what_is_in_the_set():
    images = TensorSet(pixels(5), torch.arange(5), list("abcde"), "one", "test")
    assert len(images.fingerprint()) == 64
    assert int(images.fingerprint(), 16) > 0
    same = TensorSet(pixels(5), torch.arange(5), list("abcde"), "two", "val", paths=["x"] * 5)
    assert images.fingerprint() == same.fingerprint()
    others = [
        TensorSet(pixels(5) ^ torch.eye(6, dtype=torch.uint8), torch.arange(5), list("abcde")),
        TensorSet(pixels(5), torch.arange(5).flip(0), list("abcde")),
        TensorSet(pixels(5), torch.arange(5), list("abcdf")),
        TensorSet(pixels(5).reshape(5, 1, 18, 6), torch.arange(5), list("abcde")),
        images.subset([0, 1, 2, 3]),
        images.subset([1, 0, 2, 3, 4]),
    ]
    assert len({images.fingerprint(), *(o.fingerprint() for o in others)}) == 7
    assert images.subset(range(5)).fingerprint() == images.fingerprint()


def test_of_files_the_bytes_count_not_the_place(make_folder):
    root = make_folder({"cat": 3, "dog": 2}, size=(90, 90))
    copy = root.with_name("elsewhere")
    shutil.copytree(root, copy)
    assert kd.load(root).fingerprint() == kd.load(copy).fingerprint()
    assert kd.load(root).fingerprint() != kd.load(root, image_size=80).fingerprint()
    picture(77, 90, 90).save(copy / "cat" / "001.png")
    assert kd.load(root).fingerprint() != kd.load(copy).fingerprint()
    assert shared_images(kd.load(root), kd.load(copy)) == 4
    assert shared_images(kd.load(root), kd.load(copy, image_size=80)) == 4  # on disk: whatever the view


def test_long_files_are_told_by_length_and_pieces(tmp_path):
    data = bytes(range(256)) * 300
    for change in (None, 0, len(data) // 2, len(data) - 1):
        changed = bytearray(data)
        if change is not None:
            changed[change] ^= 1
        (tmp_path / "x").write_bytes(changed)
        assert key_of_file(str(tmp_path / "x")) == key_of_bytes(bytes(changed))
        assert (key_of_bytes(bytes(changed)) == key_of_bytes(data)) == (change is None)
    assert key_of_bytes(data + b"x") != key_of_bytes(data)
    assert key_of_file(str(tmp_path / "gone")) == b""


@pytest.mark.parametrize("kind", ["bmp", "tif", "ppm"])
def test_pictures_without_compression_are_told_by_all_that_is_in_them(tmp_path, kind):
    # 256x256x3 bytes; a dot in rows 60 to 80 is in none of the three pieces of 8 KiB at 0, 98304 and 188416.
    paths = [tmp_path / f"{i}.{kind}" for i in range(2)]
    for i, path in enumerate(paths):
        white = Image.new("RGB", (256, 256), "white")
        white.paste("black", (60 + 40 * i, 60, 80 + 40 * i, 80))
        white.save(path)
    first, second = (key_of_file(str(path)) for path in paths)
    assert first != second
    assert [first, second] == [key_of_bytes(path.read_bytes()) for path in paths]


def test_parquet_and_folder_hold_the_same_files(tmp_path):
    encoded = rows(4, size=90)
    write(tmp_path / "set" / "test.parquet", encoded, [0, 1, 0, 1], ["no", "yes"])
    for i, row in enumerate(encoded):
        place = tmp_path / "folder" / ("yes" if i % 2 else "no")
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{i}.png").write_bytes(row["bytes"])
    table, folder = kd.load(tmp_path / "set", "test"), kd.load(tmp_path / "folder", "all")
    assert shared_images(table, folder) == 4
    pairs = Pairs([picture(i, 90, 90) for i in range(4)], [0, 1, 0, 1])
    assert kd.from_dataset(pairs).fingerprint() == kd.from_dataset(pairs, name="x").fingerprint()


def test_test_images_under_another_name_are_refused():
    inside = TensorSet(pixels(200), torch.zeros(200), ["a1"], "photos", "test")
    again = TensorSet(pixels(200).flip(0), torch.ones(200), ["x1", "y1"], "strange", "all")
    with pytest.raises(DataError, match=r"'strange' is the test set itself: all of its 200 images are test images"):
        check_apart(inside, again)
    with pytest.raises(DataError, match="the test set itself"):
        check_apart(inside, inside)
    with pytest.raises(DataError, match="part of the test set 'photos'"):
        check_apart(inside, again.subset(range(20)))
    with pytest.raises(DataError, match="empty"):
        check_apart(inside, again.subset([]))


def test_a_large_overlap_is_said_with_its_count():
    inside = TensorSet(pixels(200), torch.zeros(200), ["a1"], "photos")
    mixed = TensorSet(torch.cat([pixels(200, 1), pixels(200)[:30]]), torch.zeros(230), ["a1"], "strange")
    assert check_apart(inside, mixed) == ("30 of 230 images of 'strange' are also test images: its numbers mean little")
    assert check_apart(inside, mixed.subset(range(202))) is None  # two duplicates of 202 are nobody's mistake
    assert check_apart(inside, TensorSet(pixels(9, 3, 8), torch.zeros(9), ["a1"])) is None


def test_a_part_of_many_is_read():
    assert sampled_rows(50_000) == range(50_000)
    assert len(sampled_rows(50_001)) == 25_001
    assert len(sampled_rows(1_281_167)) > 25_000

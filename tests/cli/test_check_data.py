"""kedge check-data: planted faults, each found and said, and clean folders of which nothing is said."""

import csv
import io
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from kedge.auditing.checking import check_data
from kedge.auditing.checking_words import mend, table
from kedge.auditing.looks import look
from kedge.data.near import near_duplicates


def photo(seed: int, side: tuple[int, int] = (120, 160)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (*side, 3), dtype=np.uint8))


@pytest.fixture
def photos(tmp_path):
    """12 photos of two classes in two parts, nothing wrong with them."""
    root = tmp_path / "photos"
    for number, place in enumerate(("train/cat", "train/dog", "test/cat", "test/dog")):
        (root / place).mkdir(parents=True)
        for i in range(3):
            photo(10 * number + i).save(root / place / f"{i}.jpg", quality=95)
    return root


def words(root, **others) -> str:
    return "\n".join(line for what, files in mend(check_data(str(root), **others)) for line in (what, *files))


def test_a_sound_folder(command, photos):
    code, out, err = command("check-data", photos)
    assert (code, err) == (0, "")
    assert "photos: 12 images (6 train, 6 test), 2 classes, each decoded once in" in out
    rows = [line.split() for line in out.splitlines()[2:6]]
    assert rows == [
        ["class", "train", "test", "in", "all"],
        ["cat", "3", "3", "6"],
        ["dog", "3", "3", "6"],
        ["in", "all", "6", "6", "12"],
    ]
    assert "12 JPEG; 160x120" in out
    assert "nothing to mend" in out


def test_photos_that_differ_in_one_bit_are_no_copies_bit_for_bit(photos):
    photo(0, (400, 500)).save(photos / "train" / "cat" / "0.jpg", quality=95)
    content = bytearray((photos / "train" / "cat" / "0.jpg").read_bytes())
    (photos / "test" / "cat" / "copy.jpg").write_bytes(content)
    content[len(content) // 3] ^= 1  # of 300 kB: far from the beginning, the middle and the end
    (photos / "test" / "dog" / "changed.jpg").write_bytes(content)
    checked = check_data(str(photos))
    assert [[Path(checked.pool.file(i)).name for i in own] for own in checked.copies] == [["0.jpg", "copy.jpg"]]
    pairs, _ = near_duplicates(look(checked.pool)[0])
    assert [(pair.first, pair.second) for pair in pairs if pair.kind == "exact"] == checked.copies


def test_everything_that_can_be_wrong_is_said(command, photos, tmp_path):
    cat, dog = photos / "train" / "cat", photos / "train" / "dog"
    (cat / "empty.jpg").touch()
    (cat / "text.png").write_text("no image")
    whole = (cat / "1.jpg").read_bytes()
    (cat / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    shutil.copy(cat / "0.jpg", photos / "test" / "cat" / "again.jpg")
    shutil.copy(dog / "1.jpg", cat / "dog.jpg")
    shutil.copy(dog / "2.jpg", dog / "twice.jpg")
    photo(77, (16, 20)).save(dog / "icon.png")
    shutil.copy(dog / "2.jpg", dog / "IMG_0001")
    (dog / "raw.dng").write_bytes(b"x")
    (dog / "notes.txt").write_text("x")
    photo(78).save(photos / "train" / "loose.jpg")
    (photos / "train" / "rare").mkdir()
    photo(79).save(photos / "train" / "rare" / "0.jpg")
    frames = [photo(80 + i, (80, 80)) for i in range(3)]
    frames[0].save(dog / "moves.gif", save_all=True, append_images=frames[1:])
    clear = photo(90)
    clear.putalpha(100)
    clear.save(dog / "clear.png")

    code, out, err = command("check-data", photos, "--out", tmp_path / "mend.csv")
    assert (code, err) == (3, "")
    for said in (
        "3 images are unreadable: repair or remove them",
        "empty.jpg: not an image, or empty",
        "text.png: not an image, or empty",
        "1 image is in several parts, bit for bit",
        f"{cat / '0.jpg'} = {photos / 'test' / 'cat' / 'again.jpg'}",
        "1 image is in several classes, bit for bit",
        "1 image is tiny beside the others",
        "icon.png: 20x16",
        "1 file holds an image and is not read, being called like none",
        "IMG_0001",
        "1 class has fewer than two different images",
        "1 image file is of a kind that is not read and left out: 1 .dng",
        "lie in no class folder and are not used, such as loose.jpg",
        "1 image is there once more in the same class and part",
        "1 animated or of several pages (the first image is read), such as",
        "1 with an alpha channel (left out: what is transparent shows the colour stored there), such as",
        "1 further file is no images and left alone: 1 .txt",
    ):
        assert said in out, said
    rows = list(csv.DictReader(io.StringIO((tmp_path / "mend.csv").read_text())))
    assert sorted(row["finding"] for row in rows) == [
        "in several classes", "in several parts", "not called like an image", "tiny", *3 * ["unreadable"]
    ]  # fmt: skip
    (copy,) = [row for row in rows if row["finding"] == "in several parts"]
    assert copy["other file"] == str(cat / "0.jpg")


def test_parts_in_folders_elsewhere(photos, tmp_path):
    shutil.move(photos / "test", tmp_path / "elsewhere")
    shutil.copy(photos / "train" / "cat" / "0.jpg", tmp_path / "elsewhere" / "cat" / "new.jpg")
    assert "in several parts" in words(photos / "train", test=str(tmp_path / "elsewhere"))
    assert words(photos / "train") == ""


def test_a_folder_within_a_folder_of_its_name(photos, tmp_path):
    shutil.move(photos / "train", tmp_path / "outer" / "photos")
    said = words(tmp_path / "outer")
    assert "there is one class, photos: a classifier needs two or more" in said
    assert f"holds one folder, photos, and that holds the folders cat, dog: if those are meant, give {tmp_path}" in said


def test_images_without_classes(command, photos):
    code, out, _ = command("check-data", photos / "train" / "cat")
    assert code == 0
    assert "3 images without classes" in out


def test_many_classes_are_a_short_table_and_their_order_is_said(command, tmp_path):
    for name in range(60):
        (tmp_path / "many" / str(name)).mkdir(parents=True)
        for i in range(2 + name // 30 + 30 * (name == 7)):
            photo(100 * name + i, (8, 8)).save(tmp_path / "many" / str(name) / f"{i}.png")
    lines = table(check_data(str(tmp_path / "many")))
    assert len(lines) == 1 + 20 + 1 + 1
    assert "... 40 more classes ..." in lines
    assert any(line.split() == ["7", "32"] for line in lines)
    code, out, _ = command("check-data", tmp_path / "many")
    assert code == 0
    assert "in the order of their names as text, 0, 1, 10, 11, ..., and not by value (0, 1, 2, 3, ...)" in out
    assert "the largest class, 7, has 16 times as many images as the smallest, 0" in out


def test_small_images_are_not_tiny_among_small_ones_and_sets_without_files_are_counted(command):
    code, out, _ = command("check-data", "digits")
    assert code == 0
    assert "1,797 images" in out
    assert "1,797 array; 8x8" in out


def test_threads_find_the_same_in_the_same_order(photos):
    (photos / "train" / "cat" / "x.jpg").touch()
    one, eight = (check_data(str(photos), threads=n) for n in (1, 8))
    assert one.seen == eight.seen
    assert one.pool.unreadable == eight.pool.unreadable


def test_files_of_rows_are_decoded_too(tmp_path):
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    stream = io.BytesIO()
    photo(1, (20, 20)).save(stream, "PNG")
    rows = [{"bytes": b"x" if i == 3 else stream.getvalue(), "path": f"{i}.png"} for i in range(6)]
    pq.write_table(pa.table({"image": rows, "label": [i % 2 for i in range(6)]}), tmp_path / "train.parquet")
    checked = check_data(str(tmp_path / "train.parquet"))
    assert [reason for _, reason in checked.pool.unreadable] == ["not an image, or empty"]
    assert checked.contradicting == [(0, 1, 2, 3, 4)]


def test_several_threads_decode_at_the_same_time(photos, monkeypatch):
    """Waiting for a disk takes no core: images are waited for together."""

    def waits(source, name):
        time.sleep(0.2)
        return real(source, name)

    from kedge.auditing import checking

    real = checking._decoded
    monkeypatch.setattr(checking, "_decoded", waits)
    began = time.perf_counter()
    assert len(check_data(str(photos), threads=6).seen) == 12
    assert time.perf_counter() - began < 12 * 0.2 * 0.75


def test_a_class_without_images_is_named_beside_everything_else(command, tmp_path):
    for i, name in enumerate(("cat", "cat", "dog", "dog")):
        (tmp_path / name).mkdir(exist_ok=True)
        Image.effect_noise((30, 30), 60.0).save(tmp_path / name / f"{i}.png")
    (tmp_path / "fox").mkdir()
    (tmp_path / "dog" / "broken.png").write_text("no image")
    code, out, err = command("check-data", tmp_path)
    assert (code, err) == (3, "")
    assert "1 image is unreadable" in out
    assert f"a class has no images: fox; {tmp_path / 'fox'} holds no files" in out

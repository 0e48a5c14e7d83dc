import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import kedge.data as kd
from kedge.data import DataError, FileSet, TensorSet

from .conftest import picture


def test_flat_folder(make_folder):
    root = make_folder({"cat": 3, "dog": 2})
    images = kd.load(root)
    assert isinstance(images, TensorSet)
    assert (images.name, images.split, images.class_names) == ("photos", "all", ["cat", "dog"])
    assert images.labels.tolist() == [0, 0, 0, 1, 1]
    assert images.image_shape == (3, 24, 24)
    for i in range(5):
        image, label = images[i]
        expected = torch.from_numpy(__import__("numpy").array(Image.open(images.paths[i]))).permute(2, 0, 1)
        assert torch.equal(image, expected)
        assert label == images.labels[i]
        assert Path(images.paths[i]).parent.name == images.class_names[label]
    assert kd.splits(root) == ["all"]


@pytest.mark.parametrize("held", ["val", "valid", "validation", "test"])
def test_split_folders(make_folder, held):
    root = make_folder({"train/cat": 3, "train/dog": 2, f"{held}/cat": 1, f"{held}/dog": 1})
    name = "test" if held == "test" else "val"
    assert kd.splits(root) == ["train", name]
    assert len(kd.load(root)) == 5
    assert len(kd.load(root, held)) == 2
    assert kd.load(root, held).split == name


def test_a_class_called_train_is_no_split(make_folder):
    root = make_folder({"bus": 2, "train": 2, "car": 2})
    assert kd.load(root).class_names == ["bus", "car", "train"]


def test_hidden_and_foreign_files_are_ignored_and_subfolders_read(make_folder):
    root = make_folder({"cat": 2, "dog/indoors": 2, ".thumbnails": 2})
    (root / "cat" / "notes.txt").write_text("x")
    (root / "cat" / "._000.png").write_text("x")
    images = kd.load(root)
    assert images.class_names == ["cat", "dog"]
    assert len(images) == 4


def test_larger_images_stay_on_disk(make_folder):
    root = make_folder({"cat": 3, "dog": 2}, size=(90, 120), kind="jpg")
    images = kd.load(root, image_size=80)
    assert isinstance(images, FileSet)
    assert images[0][0].shape == images.image_shape == (3, 80, 80)
    batches = list(images.batches(2))
    assert [len(b) for b, _ in batches] == [2, 2, 1]
    assert torch.equal(torch.cat([x for x, _ in batches]), torch.stack([images[i][0] for i in range(5)]))
    assert torch.cat([y for _, y in batches]).tolist() == images.labels.tolist()
    assert kd.load(root).image_shape == (3, 224, 224)
    assert isinstance(kd.load(root, image_size=32), TensorSet)


def test_mixed_small_sizes_become_squares_of_the_largest(make_folder):
    root = make_folder({"a1": 3}, size=(20, 20))
    picture(7, 40, 28).save(root / "a1" / "tall.png")
    images = kd.load(root)
    assert images.image_shape == (3, 40, 40)
    assert images.report.resized == 4
    assert "4 resized" in images.report.summary()


def test_one_uniform_oblong_size_is_kept(make_folder):
    assert kd.load(make_folder({"a1": 3}, size=(20, 32))).image_shape == (3, 20, 32)


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_stray_image_among_oblong_ones_is_cut_to_their_shape(make_folder, monkeypatch, in_memory):
    root = make_folder({"a1": 300}, size=(8, 12))
    picture(7, 16, 12).save(root / "a1" / "001.png")  # not among the headers that are looked at first
    monkeypatch.setattr("kedge.data.build._PROBED", 100)
    if not in_memory:
        monkeypatch.setattr("kedge.data.build._IN_MEMORY", 0)
    images = kd.load(root)
    assert images.image_shape == (3, 8, 12)
    assert torch.equal(images[1][0], kd.read_image(root / "a1" / "001.png")[:, 4:12])


@pytest.mark.parametrize("size", [(20, 40), (90, 60)])
def test_images_in_an_oblong_size_cover_it_and_stay_whole_where_they_have_it(make_folder, size):
    root = make_folder({"cat": 3, "dog": 2}, size=size)
    Image.new("RGB", (300, 1)).save(root / "dog" / "line.png")
    picture(9, 160, 160).save(root / "dog" / "square.png")
    images = kd.load(root, image_size=size)
    assert images.image_shape == (3, *size)
    assert torch.equal(images[0][0], kd.read_image(images.paths[0]))
    assert {tuple(images[i][0].shape) for i in range(len(images))} == {(3, *size)}
    for i, path in enumerate(images.paths):
        assert torch.equal(images[i][0], kd.read_image(path, size))
    whole = Image.open(images.paths[-1]).resize((max(size),) * 2, Image.Resampling.BILINEAR)
    edges = [(max(size) - side) // 2 for side in size]
    expected = torch.tensor(np.array(whole))[edges[0] : edges[0] + size[0], edges[1] : edges[1] + size[1]]
    assert torch.equal(images[len(images) - 1][0], expected.permute(2, 0, 1))


def test_grey_image_in_a_colour_set_is_converted_and_counted(make_folder):
    root = make_folder({"cat": 4, "dog": 4})
    picture(9, mode="L").save(root / "cat" / "grey.png")
    images = kd.load(root)
    assert images.image_shape[0] == 3
    assert images.report.converted_grey == 1
    assert "1 grey converted to RGB" in images.report.summary()


@pytest.mark.parametrize("size", [24, 90])
def test_colour_image_in_a_grey_set_and_an_all_grey_set(make_folder, size):
    root = make_folder({"cat": 4, "dog": 4}, size=(size, size), mode="L")
    assert kd.load(root).image_shape[0] == 1
    assert kd.load(root).report.converted_grey == 0
    picture(9, size, size).save(root / "cat" / "colour.png")
    images = kd.load(root)
    assert images.report.converted_colour == 1
    assert {images[i][0].shape[0] for i in range(9)} == {1}
    assert kd.load(root, channels=3).report.converted_grey == 8


@pytest.mark.parametrize("size", [24, 90])
def test_a_few_unreadable_images_are_skipped_and_named(make_folder, size, caplog):
    root = make_folder({"cat": 60, "dog": 59}, size=(size, size))
    (root / "dog" / "broken.png").write_bytes(b"nothing")
    images = kd.load(root)
    assert len(images) == 119
    assert images.report.total == 120
    [(path, reason)] = images.report.skipped
    assert path.endswith("broken.png")
    assert "not an image" in reason
    assert path in images.report.summary()
    assert "1 unreadable and skipped" in images.report.summary()
    assert "broken.png" in caplog.text
    assert not any(p.endswith("broken.png") for p in images.paths)
    assert images.labels.tolist() == [0] * 60 + [1] * 59
    assert images[119 - 1][1] == 1


@pytest.mark.parametrize("size", [24, 90])
def test_more_than_a_hundredth_unreadable_is_an_error(make_folder, size):
    root = make_folder({"cat": 20, "dog": 20}, size=(size, size))
    for name in ("x.png", "y.png"):
        whole = (root / "cat" / "000.png").read_bytes()
        (root / "dog" / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"2 of 42 images cannot be read(?s:.*)x\.png"):
        kd.load(root)


def test_class_without_images(make_folder):
    root = make_folder({"cat": 2, "dog": 2, "fox": 0})
    with pytest.raises(DataError, match=r"a class has no images: fox\n.* or move the folder out of .*"):
        kd.load(root)
    (root / "fox" / "a.dng").write_text("x")
    with pytest.raises(DataError, match=r"\.dng"):
        kd.load(root)


def test_class_lists_that_differ(make_folder):
    root = make_folder({"train/cat": 2, "train/dog": 2, "val/cat": 1, "val/Dog": 1})
    with pytest.raises(DataError, match=r"'train' lacks: Dog(?s:.*)In 'train' but not in 'val': dog"):
        kd.load(root, "val")


def test_split_that_lacks_a_class_keeps_the_training_labels(make_folder):
    root = make_folder({"train/ant": 2, "train/bee": 2, "train/cat": 1, "test/cat": 2})
    images = kd.load(root, "test")
    assert images.class_names == ["ant", "bee", "cat"]
    assert images.labels.tolist() == [2, 2]
    assert "ant, bee" in images.report.summary()


def test_empty_and_misshapen_folders(tmp_path, make_folder):
    with pytest.raises(DataError, match="no files"):
        kd.load(tmp_path)
    (tmp_path / "cat").mkdir()
    with pytest.raises(DataError, match="no images under"):
        kd.load(tmp_path)
    picture(1).save(tmp_path / "a.png")
    shutil.rmtree(tmp_path / "cat")
    with pytest.raises(DataError, match="1 images but no class folders"):
        kd.load(tmp_path)
    with pytest.raises(DataError, match="one image"):
        kd.load(tmp_path / "a.png")
    (tmp_path / "a.zip").write_text("x")
    with pytest.raises(DataError, match="unpack"):
        kd.load(tmp_path / "a.zip")


def test_an_image_that_goes_bad_after_loading_is_named_in_evaluation(make_folder):
    root = make_folder({"cat": 3, "dog": 2}, size=(90, 90))
    images = kd.load(root, image_size=70)
    Path(images.paths[3]).write_bytes(b"")
    for workers in (0, 1):
        with pytest.raises(DataError, match=r"dog.000\.png(?s:.*)could be read when the set was loaded"):
            list(images.batches(2, workers=workers))


def test_a_test_split_that_does_not_fit_is_said_when_the_training_images_are_loaded(make_folder):
    root = make_folder({"train/cat": 3, "train/dog": 3, "test/cat": 2, "test/fox": 2})
    with pytest.raises(DataError, match=r"'test' has classes that 'train' lacks: fox"):
        kd.load(root, "train")


@pytest.mark.parametrize("size", [24, 90])
def test_one_unreadable_image_among_few_is_skipped_and_all_are_refused(make_folder, size):
    root = make_folder({"cat": 6, "dog": 6}, size=(size, size))
    (root / "dog" / "broken.png").write_bytes(b"nothing")
    images = kd.load(root)
    assert (len(images), images.report.total) == (12, 13)
    assert "12 images, 1 unreadable and skipped" in images.report.summary()
    for path in root.rglob("*.png"):  # their headers can be read
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for load in (kd.load, kd.load_unlabelled):
        with pytest.raises(DataError, match=r"can(not)? be read"):
            load(root)


def test_accents_are_one_letter_however_the_system_writes_them(make_folder):
    composed, apart = "caf\u00e9", "cafe\u0301"
    root = make_folder({f"train/{composed}": 3, "train/zoo": 2, f"test/{apart}": 1, "test/zoo": 1})
    images, test = kd.load(root), kd.load(root, "test")
    assert images.class_names == test.class_names == [composed, "zoo"]
    assert test.labels.tolist() == [0, 1]
    assert [Path(path).parent.name for path in test.paths] == [apart, "zoo"]


def test_two_folders_of_one_name_are_refused(make_folder):
    root = make_folder({"caf\u00e9": 2, "cafe\u0301": 2, "zoo": 2})
    with pytest.raises(DataError, match="two folders that are called caf\u00e9, one with accents"):
        kd.load(root)


def test_runs_of_kedge_among_the_classes_are_no_class(make_folder):
    """`kedge train --data .` in a folder of photos writes its runs there."""
    root = make_folder({"cat": 3, "dog": 2, "runs/mine/model": 0, "single/model": 0})
    (root / "runs" / "mine" / "recipe.yaml").write_text("data: .")
    (root / "runs" / "log.txt").write_text("x")
    (root / "single" / "recipe.yaml").write_text("data: .")
    images = kd.load(root)
    assert images.class_names == ["cat", "dog"]
    assert len(images) == 5

"""Layouts of data that people have: read as they are meant, or refused in words."""

import numpy as np
import pytest

import kedge.data as kd
from kedge.data import DataError
from kedge.data.folders import about_order
from kedge.training.images import check_classes

from .conftest import picture
from .test_tables import rows, write


def flat(root, name: str, count: int = 3, seed: int = 0) -> None:
    (root / name).mkdir(parents=True, exist_ok=True)
    for i in range(count):
        picture(seed + i).save(root / name / f"{i}.jpg")


@pytest.mark.parametrize("names", [("train", "test"), ("train", "val"), ("Train", "Validation"), ("train",)])
def test_parts_without_classes_are_no_classes(tmp_path, names):
    for name in names:
        flat(tmp_path, name)
    for split in ("train", "test", "all"):
        with pytest.raises(
            DataError, match=r"(?i)(train|test|val\w*) holds 3 images but no class folders(?s:.*)--unlabelled"
        ):
            kd.load(tmp_path, split)


def test_parts_without_classes_beside_a_class_are_refused_too(tmp_path):
    for name in ("train", "test", "cat"):
        flat(tmp_path, name)
    with pytest.raises(DataError, match="no class folders"):
        kd.load(tmp_path)


@pytest.mark.parametrize("name", ["test", "val", "Eval"])
def test_a_lone_part_without_classes_beside_classes_is_no_class(make_folder, name):
    root = make_folder({"cat": 2, "dog": 2})
    flat(root, name)
    with pytest.raises(DataError, match=rf"{name} holds 3 images but no class folders"):
        kd.load(root)


@pytest.mark.parametrize("name", ["test", "valid", "train"])
def test_a_part_with_the_classes_that_lie_beside_it_is_no_class(make_folder, name):
    root = make_folder({"cat": 2, "dog": 2, f"{name}/cat": 1, f"{name}/dog": 1})
    if name == "train":  # the parts are then those of train, and the rest is said
        assert "not read: cat, dog" in kd.load(root).report.summary()
        return
    with pytest.raises(
        DataError, match=rf"{name} holds folders of classes that also lie beside it \(cat, dog\)(?s:.*)train"
    ):
        kd.load(root)


def test_training_images_without_classes_beside_test_images_with(make_folder):
    root = make_folder({"test/cat": 2, "test/dog": 2})
    flat(root, "train")
    with pytest.raises(DataError, match=r"train holds 3 images but no class folders"):
        kd.load(root, "test")


def test_test_images_without_classes_are_said_and_not_read(make_folder):
    root = make_folder({"train/cat": 2, "train/dog": 2})
    flat(root, "test")
    assert kd.splits(root) == ["train"]
    assert "test holds 3 images but no class folders" in kd.load(root).report.summary()
    with pytest.raises(DataError, match=r"test holds 3 images but no class folders"):
        kd.load(root, "test")


@pytest.mark.parametrize("name", ["eval", "evaluation", "validation", "valid", "val", "dev", "Eval"])
def test_names_of_validation_images(make_folder, name):
    root = make_folder({"train/cat": 3, "train/dog": 2, f"{name}/cat": 1, f"{name}/dog": 1})
    assert kd.splits(root) == ["train", "val"]
    assert len(kd.load(root, "val")) == len(kd.load(root, name)) == 2


def test_two_names_of_one_part_are_refused(make_folder, tmp_path):
    root = make_folder({"train/cat": 3, "train/dog": 2, "val/cat": 1, "dev/cat": 1})
    with pytest.raises(DataError, match=r"dev and val, which both mean 'val'"):
        kd.load(root)
    for name in ("val", "dev"):
        write(tmp_path / "tables" / f"{name}.parquet", rows(2), [0, 1], ["a1", "b1"])
    with pytest.raises(DataError, match=r"dev and val, which both mean 'val'"):
        kd.load(tmp_path / "tables", "val")


def test_images_that_belong_to_nothing_are_counted(make_folder):
    root = make_folder({"train/cat": 3, "train/dog": 2, "holdout/cat": 4, "extra": 1})
    picture(1).save(root / "train" / "loose.png")
    summary = kd.load(root).report.summary()
    assert "5 images in folders called neither train, val nor test are not read: extra, holdout" in summary
    assert "1 images in " in summary
    assert "lie in no class folder and are not used, such as loose.png" in summary


def test_images_of_kinds_that_are_not_read_are_counted_and_named(make_folder):
    root = make_folder({"cat": 3, "dog/indoors": 2})
    for name in ("cat/a.dng", "cat/b.DNG", "dog/indoors/c.jxl", "dog/.hidden.dng"):
        (root / name).write_bytes(b"x")
    (root / "cat" / "notes.txt").write_text("x")
    for images in (kd.load(root), kd.load_unlabelled(root)):
        assert len(images) == 5
        summary = images.report.summary()
        assert "3 image files are of a kind that is not read and left out: 2 .dng, 1 .jxl, such as" in summary
        assert "a.dng" in summary
        assert "Convert them to JPEG or PNG" in summary
    assert "of a kind" not in kd.load(make_folder({"cat": 1}, name="other")).report.summary()


def test_a_folder_of_kinds_that_are_not_read(tmp_path):
    (tmp_path / "a.dng").write_bytes(b"x")
    with pytest.raises(DataError, match=r"no images in(?s:.*)1 image file is of a kind that is not read(?s:.*)1 \.dng"):
        kd.load_unlabelled(tmp_path)


def test_text_labels_of_a_part_that_lacks_a_class(tmp_path):
    """The classes are those of the training images, or a test label would be another class's number."""
    write(tmp_path / "train.parquet", rows(4), ["cat", "dog", "fox", "dog"])
    write(tmp_path / "test.parquet", rows(3), ["fox", "dog", "fox"])
    test = kd.load(tmp_path, "test")
    assert test.class_names == kd.load(tmp_path).class_names == ["cat", "dog", "fox"]
    assert [test.class_names[label] for label in test.labels] == ["fox", "dog", "fox"]
    assert "no images of 1 classes in 'test': cat" in test.report.summary()


def test_numbers_of_a_part_that_lacks_the_last_class(tmp_path):
    write(tmp_path / "train.parquet", rows(4), [0, 1, 2, 1])
    write(tmp_path / "test.parquet", rows(2), [0, 1])
    assert kd.load(tmp_path, "test").class_names == ["0", "1", "2"]


@pytest.mark.parametrize(("labels", "extra"), [((["cat", "dog"], ["dog", "elk"]), "elk"), (([0, 1], [1, 2]), "2")])
def test_a_class_that_training_lacks_is_said_before_training(tmp_path, labels, extra):
    for name, values in zip(("train", "test"), labels, strict=True):
        write(tmp_path / f"{name}.parquet", rows(2), values)
    for split in ("train", "test"):
        with pytest.raises(DataError, match=f"the split 'test' has classes that 'train' lacks: {extra}"):
            kd.load(tmp_path, split)


@pytest.mark.parametrize("place", ["", "default"])
def test_tables_in_folders_called_like_parts(tmp_path, place):
    """What the hub makes of every data set: CONFIGURATION/SPLIT/0000.parquet."""
    for seed, split in enumerate(("train", "validation", "test")):
        for part in range(2):
            write(
                tmp_path / place / split / f"{part:04d}.parquet", rows(2, seed=10 * seed + part), [0, 1], ["a1", "b1"]
            )
    assert sorted(kd.splits(tmp_path)) == ["test", "train", "val"]
    assert [len(kd.load(tmp_path, split)) for split in ("train", "val", "test")] == [4, 4, 4]
    assert len(kd.load(tmp_path / place / "test")) == 4


def test_several_configurations_are_named(tmp_path):
    for place in ("plain", "other"):
        write(tmp_path / place / "train" / "0000.parquet", rows(1), [0], ["a1"])
    with pytest.raises(DataError, match=r"several parquet sets \(other, plain\)"):
        kd.load(tmp_path)


def test_files_of_a_set_that_are_missing(tmp_path):
    write(tmp_path / "data-00000-of-00002.parquet", rows(2), [0, 1], ["a1", "b1"])
    for path in (tmp_path, tmp_path / "data-00000-of-00002.parquet"):
        with pytest.raises(DataError, match=r"1 of the 2 files(?s:.*)data-00001-of-00002\.parquet(?s:.*)Copy"):
            kd.load(path)
    write(tmp_path / "data-00001-of-00002.parquet", rows(1), [1], ["a1", "b1"])
    assert kd.splits(tmp_path) == ["all"]
    assert len(kd.load(tmp_path)) == 3
    write(tmp_path / "test-00001-of-00003.parquet", rows(1), [1], ["a1", "b1"])
    with pytest.raises(DataError, match=r"1 of the 3 files of test(?s:.*)test-00000-of-00003\.parquet, test-00002"):
        kd.load(tmp_path)


@pytest.fixture
def dataset():
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(image=datasets.Image(), label=datasets.Value("string"))
    values = {"image": [picture(i) for i in range(4)], "label": ["b1", "a1", "b1", "a1"]}
    return datasets.Dataset.from_dict(values, features=features)


@pytest.mark.parametrize("kind", ["transform", "torch", "numpy"])
def test_columns_are_read_whatever_a_hugging_face_set_makes_of_them(dataset, kind):
    def transform(batch):
        return {"pixel_values": [np.asarray(image) / 255 for image in batch["image"]], "label": batch["label"]}

    changed = dataset.with_transform(transform) if kind == "transform" else dataset.with_format(kind)
    images, plain = kd.from_dataset(changed), kd.from_dataset(dataset)
    assert images.images.equal(plain.images)
    assert images.labels.tolist() == plain.labels.tolist() == [1, 0, 1, 0]
    assert images.class_names == ["a1", "b1"]
    assert ("with_transform is not applied" in images.report.summary()) == (kind == "transform")


def test_text_labels_are_looked_up_in_the_class_names(dataset):
    images = kd.from_dataset(dataset, ["b1", "c1", "a1"])
    assert images.class_names == ["b1", "c1", "a1"]
    assert images.labels.tolist() == [0, 2, 0, 2]
    with pytest.raises(DataError, match="not among its classes: 'b1'"):
        kd.from_dataset(dataset, ["a1", "c1"])


def test_streams_and_several_sets_are_refused_in_words(dataset):
    import datasets
    import torch

    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter(())

    for stream in (dataset.to_iterable_dataset(), Stream()):
        with pytest.raises(DataError, match=r"gives its items in turn(?s:.*)streaming=True"):
            kd.from_dataset(stream)
    parts = datasets.DatasetDict(train=dataset, test=dataset)
    with pytest.raises(DataError, match="several data sets, train, test"):
        kd.from_dataset(parts)


def test_the_hubs_text_labels_have_the_classes_of_training(monkeypatch):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(image=datasets.Image(), label=datasets.Value("string"))
    parts = {
        split: datasets.Dataset.from_dict(
            {"image": [picture(i) for i in range(len(labels))], "label": labels}, features
        )
        for split, labels in (("train", ["cat", "dog", "fox"]), ("validation", ["fox", "dog"]))
    }
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda *arguments: list(parts))
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config, split: parts[split])
    val = kd.load("somebody/animals", "val")
    assert val.class_names == ["cat", "dog", "fox"]
    assert val.labels.tolist() == [2, 1]


def test_a_folder_in_a_folder_is_named_where_it_stops_training(make_folder):
    root = make_folder({"photos/cat": 2, "photos/dog": 2})
    assert f"if those are meant, give {root / 'photos'}" in kd.load(root).report.summary()
    with pytest.raises(ValueError, match=r"has one class(?s:.*)holds the folders cat, dog(?s:.*)give .*photos"):
        check_classes(kd.load(root), str(root))
    alone = make_folder({"cat/indoors": 2}, name="alone")
    assert "if those are" not in kd.load(alone).report.summary()


@pytest.mark.parametrize(
    ("names", "said"), [(["1", "10", "2"], True), (["01", "02", "10"], False), (["1", "b"], False)]
)
def test_classes_called_by_numbers_are_said_to_go_by_text(names, said):
    sentence = about_order(names)
    assert (sentence is not None) == said
    if said:
        assert "as text, 1, 10, 2, ..., and not by value (1, 2, 10, ...)" in sentence

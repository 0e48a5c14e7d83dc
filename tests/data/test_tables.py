import io
import json
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

import kedge.data as kd
from kedge.data import DataError, FileSet, TensorSet
from kedge.data.tables import Hub

from .conftest import picture
from .test_decode import pixels


def rows(count: int, size: int = 24, seed: int = 0, kind: str = "PNG") -> list[dict]:
    out = []
    for i in range(count):
        file = io.BytesIO()
        picture(seed + i, size, size).save(file, kind)
        out.append({"bytes": file.getvalue(), "path": f"img/{i}.png"})
    return out


def write(path, images, labels, names=None, image="image", label="label"):
    table = pa.table({image: images, label: labels})
    if names is not None:
        features = {image: {"_type": "Image"}, label: {"names": names, "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def test_parts_of_a_split_are_joined_in_order(tmp_path):
    for part in range(2):
        write(tmp_path / f"train-{part:05d}-of-00002.parquet", rows(3, seed=10 * part), [0, 1, part], ["no", "yes"])
    write(tmp_path / "validation-00000-of-00001.parquet", rows(2, seed=50), [1, 0], ["no", "yes"])
    assert kd.splits(tmp_path) == ["train", "val"]
    train = kd.load(tmp_path)
    assert isinstance(train, TensorSet)
    assert train.labels.tolist() == [0, 1, 0, 0, 1, 1]
    assert train.class_names == ["no", "yes"]
    for i, seed in enumerate([0, 1, 2, 10, 11, 12]):
        assert torch.equal(train.images[i], pixels(picture(seed)))
    assert train.paths[4] == f"{tmp_path.name}:img/1.png"
    assert kd.load(tmp_path, "valid").labels.tolist() == [1, 0]


@pytest.mark.parametrize("pattern", ["{}", "cifar10_{}", "my-{}-images", "{}-of-my-test-images", "crash-test-{}"])
def test_a_name_says_its_split_wherever_the_word_stands(tmp_path, pattern):
    """Joined as one set, test images would be trained on."""
    write(tmp_path / f"{pattern.format('train')}.parquet", rows(3), [0, 1, 0], ["no", "yes"])
    write(tmp_path / f"{pattern.format('validation')}.parquet", rows(2, seed=50), [1, 0], ["no", "yes"])
    assert kd.splits(tmp_path) == ["train", "val"]
    assert (len(kd.load(tmp_path)), len(kd.load(tmp_path, "val"))) == (3, 2)


def test_layouts_of_the_hub(tmp_path):
    write(tmp_path / "one" / "data" / "test-00000-of-00001.parquet", rows(2), [0, 1], ["a1", "b1"])
    assert len(kd.load(tmp_path / "one", "test")) == 2
    write(tmp_path / "two.parquet", rows(2), [0, 1], ["a1", "b1"])
    assert kd.load(tmp_path / "two.parquet").split == "all"
    write(tmp_path / "three" / "a" / "test.parquet", rows(1), [0], ["a1"])
    write(tmp_path / "three" / "b" / "test.parquet", rows(1), [0], ["a1"])
    with pytest.raises(DataError, match="several parquet sets \\(a, b\\)"):
        kd.load(tmp_path / "three", "test")


def test_columns_without_features(tmp_path):
    write(tmp_path / "a.parquet", rows(3), ["dog", "cat", "dog"], image="img", label="fine_label")
    images = kd.load(tmp_path / "a.parquet")
    assert images.class_names == ["cat", "dog"]
    assert images.labels.tolist() == [1, 0, 1]
    write(tmp_path / "b.parquet", [r["bytes"] for r in rows(3)], [0, 2, 1])
    assert kd.load(tmp_path / "b.parquet").class_names == ["0", "1", "2"]


def test_larger_images_stay_encoded_and_survive_workers(tmp_path):
    write(tmp_path / "train.parquet", rows(6, size=100, kind="JPEG"), [0, 1] * 3, ["no", "yes"])
    images = kd.load(tmp_path, image_size=80)
    assert isinstance(images, FileSet)
    alone = [x for x, _ in images.batches(4)]
    shared = [x for x, _ in images.batches(4, workers=1)]
    assert all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))


def test_sets_too_large_for_memory_are_mapped(tmp_path, monkeypatch):
    monkeypatch.setattr("kedge.data.tables._IN_MEMORY", 0)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    write(tmp_path / "set" / "train.parquet", rows(4), [0, 1, 1, 0], ["no", "yes"])
    images = kd.load(tmp_path / "set")
    assert images.labels.tolist() == [0, 1, 1, 0]
    assert torch.equal(images.images[3], pixels(picture(3)))


@pytest.fixture(params=["absolute", "relative"])
def not_to_be_written(request, tmp_path, monkeypatch):
    """The cache of Hugging Face, where a file is in the way of it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    folder = tmp_path if request.param == "absolute" else Path()
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "file" / "cache")
    return f"{tmp_path / 'file' / 'cache'}, .*cannot be written .*Set HF_DATASETS_CACHE to a folder that can be"


def test_a_cache_that_cannot_be_written_is_not_the_fault_of_the_data(tmp_path, monkeypatch, not_to_be_written):
    monkeypatch.setattr("kedge.data.tables._IN_MEMORY", 0)
    write(tmp_path / "set" / "train.parquet", rows(4), [0, 1, 1, 0], ["no", "yes"])
    with pytest.raises(DataError, match=not_to_be_written):
        kd.load(tmp_path / "set")
    with pytest.raises(DataError, match=not_to_be_written):
        kd.stream(f"stream:{tmp_path / 'set'}", None, 0.1, 0)


def test_a_cache_that_cannot_be_written_is_not_the_fault_of_the_network(monkeypatch, not_to_be_written):
    monkeypatch.setattr("datasets.get_dataset_split_names", lambda *_: ["train"])
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: datasets.config.HF_DATASETS_CACHE.mkdir())
    with pytest.raises(DataError, match=not_to_be_written):
        Hub("owner/name").listing("train")


def test_damage_within_a_set_that_is_mapped_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr("kedge.data.tables._IN_MEMORY", 0)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    path = tmp_path / "set" / "train.parquet"
    write(path, rows(40), [0, 1] * 20, ["no", "yes"])
    content = bytearray(path.read_bytes())
    content[len(content) // 3 : len(content) // 3 + 2000] = bytes(2000)
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"cannot read .*train\.parquet as parquet: "):
        kd.load(tmp_path / "set")


def test_unreadable_rows_are_named(tmp_path):
    images = rows(150)
    images[3]["bytes"] = b"junk"
    write(tmp_path / "train.parquet", images, [0] * 150, ["a1"])
    loaded = kd.load(tmp_path)
    assert len(loaded) == 149
    assert loaded.report.skipped[0][0].endswith("img/3.png")
    images[4] = {"bytes": None, "path": None}
    write(tmp_path / "train.parquet", images, [0] * 150, ["a1"])
    with pytest.raises(DataError, match="holds no image"):
        kd.load(tmp_path)


def test_faults_of_tables(tmp_path):
    path = tmp_path / "x.parquet"
    path.write_bytes(b"PAR1 but not really")
    with pytest.raises(DataError, match="as parquet"):
        kd.load(path)
    write(path, rows(2), [0, None], ["a1"])
    with pytest.raises(DataError, match="1 of 2 rows have no label"):
        kd.load(path)
    write(path, rows(2), [0, 4], ["a1", "b1"])
    with pytest.raises(DataError, match="labels run from 0 to 4, but there are 2 class names"):
        kd.load(path)
    write(path, rows(2), [0, 1], label="score")
    with pytest.raises(DataError, match="no label column among image, score"):
        kd.load(path)
    write(tmp_path / "s" / "train.parquet", rows(1), [0], ["a1", "b1"])
    write(tmp_path / "s" / "test.parquet", rows(1), [0], ["a1", "c1"])
    with pytest.raises(DataError, match=r"classes of .* differ .*: b1, c1"):
        kd.load(tmp_path / "s")


@pytest.mark.slow
def test_real_packs(packs):
    train, test = kd.load("cifar10"), kd.load("cifar10", "test")
    assert (len(train), len(test)) == (50_000, 10_000)
    assert train.image_shape == (3, 32, 32)
    assert torch.bincount(train.labels).tolist() == [5000] * 10
    assert train.class_names[:3] == ["airplane", "automobile", "bird"]
    # the channel means that every CIFAR-10 recipe carries
    mean = train.images.float().mean((0, 2, 3)) / 255
    assert torch.allclose(mean, torch.tensor([0.4914, 0.4822, 0.4465]), atol=2e-4)
    digits = kd.load("mnist", "test", image_size=32, channels=3)
    assert digits.image_shape == (3, 32, 32)
    assert digits.report.converted_grey == 10_000
    assert not digits.mirror
    signs = kd.load("traffic_signs43_64", "test")
    assert signs.image_shape == (3, 64, 64)
    assert torch.bincount(signs.labels).tolist() == [50] * 43
    trash = kd.load("trashnet160")
    assert isinstance(trash, FileSet)
    assert torch.bincount(trash.labels).tolist() == [302, 374, 307, 446, 360, 103]
    assert next(trash.batches(4))[0].shape == (4, 3, 224, 224)


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        (b"not json", "is not JSON"),
        (b"\xff\xfe", "is not text in UTF-8"),
        (b'{"info": ' + b"[" * 100_000, "nested deeper than 64"),
        (b"[]", "a list where a mapping"),
        (b'{"info": [1]}', "info is no mapping"),
        (b'{"info": {"features": "x"}}', "features is no mapping"),
        (b'{"info": {"features": {"label": [1]}}}', "label is no mapping"),
        (b'{"info": {"features": {"label": {"_type": "ClassLabel", "names": 7}}}}', "no list of texts"),
        (b'{"info": {"features": {"label": {"_type": "ClassLabel", "names": [1, 2]}}}}', "no list of texts"),
        (b'{"info": {"features": {"label": 1, "label": 2}}}', "there twice"),
    ],
)
def test_metadata_that_describes_nothing_names_the_file(tmp_path, metadata, words):
    table = pa.table({"image": rows(2), "label": [0, 1]}).replace_schema_metadata({"huggingface": metadata})
    pq.write_table(table, tmp_path / "train.parquet")
    with pytest.raises(DataError, match=rf"train\.parquet.*{words}"):
        kd.load(tmp_path / "train.parquet")


def test_labels_without_names_are_numbers_of_classes(tmp_path):
    """A label of 10^12 must not become 10^12 classes, as names or as a range."""
    for name in ("alone", "both"):
        write(tmp_path / name / "train.parquet", rows(2), [0, 10**12])
    write(tmp_path / "both" / "test.parquet", rows(2), [0, 1])
    for name in ("alone", "both"):
        with pytest.raises(DataError, match="a label is 1000000000000, and nothing names the classes"):
            kd.load(tmp_path / name)
    pictures = [(torch.zeros(3, 8, 8, dtype=torch.uint8), label) for label in (0, 10**12)]
    with pytest.raises(DataError, match="a label is 1000000000000"):
        kd.from_dataset(pictures, name="own")
    with pytest.raises(DataError, match="a label is 1" + "0" * 30):  # more than 64 bits hold
        kd.from_dataset([(pictures[0][0], 10**30)], name="own")


@pytest.mark.parametrize(
    ("labels", "words"),
    [([b"a", b"b"], "labels are numbers or text, got bytes"), ([[1], [2]], "labels are numbers or text, got list")],
)
def test_labels_of_other_kinds(tmp_path, labels, words):
    write(tmp_path / "train.parquet", rows(2), labels)
    with pytest.raises(DataError, match=words):
        kd.load(tmp_path / "train.parquet")


@pytest.mark.parametrize("column", [["a.png", "b.png"], [1, 2], [{"bytes": "x", "path": 3}, {"bytes": "y", "path": 4}]])
def test_rows_that_hold_no_image(tmp_path, column):
    write(tmp_path / "train.parquet", column, [0, 1])
    with pytest.raises(DataError, match="the row holds no image"):
        kd.load(tmp_path / "train.parquet")


def test_parquet_files_that_are_none(tmp_path):
    import os

    (tmp_path / "train.parquet").write_bytes(b"PAR1 cut off")
    with pytest.raises(DataError, match=r"cannot read .*train\.parquet as parquet"):
        kd.load(tmp_path / "train.parquet")
    (tmp_path / "train.parquet").unlink()
    os.mkfifo(tmp_path / "train.parquet")
    with pytest.raises(DataError, match="a named pipe, not a file"):
        kd.load(tmp_path)


@pytest.mark.parametrize("stream", [False, True])
def test_a_row_names_no_image_outside_of_its_folder(tmp_path, stream):
    """Of a stranger's file, which else would bring any photo of this machine into a report."""
    picture(7, 24, 24).save(tmp_path / "private.png")
    (tmp_path / "set").mkdir()
    picture(8, 24, 24).save(tmp_path / "set" / "own.png")
    images = rows(300)
    images[3] = {"bytes": None, "path": str(tmp_path / "private.png")}
    images[4] = {"bytes": None, "path": "../private.png"}
    images[5] = {"bytes": None, "path": "own.png"}
    write(tmp_path / "set" / "train.parquet", images, [0, 1] * 150, ["a", "b"])
    if stream:
        from kedge.data.loading import stream as in_turn

        train, _ = in_turn(f"stream:{tmp_path / 'set'}", None, 0.1, 0)
        paths = [sample.source for sample in train.pieces.read(0) if isinstance(sample.source, str)]
        assert paths == [str(tmp_path / "set" / "own.png")]
        return
    loaded = kd.load(tmp_path / "set")
    assert len(loaded) == 298
    assert torch.equal(loaded.images[3], pixels(picture(8, 24, 24)))
    assert any("not below" in reason for _, reason in loaded.report.skipped)


def test_a_file_of_the_cache_that_is_gone_is_not_called_one_that_cannot_be_written(monkeypatch, tmp_path):
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    monkeypatch.setattr("datasets.get_dataset_split_names", lambda *_: ["train"])
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: (tmp_path / "gone").read_bytes())
    with pytest.raises(DataError, match=r"loading it from the Hugging Face hub failed: .*No such file"):
        Hub("owner/name").listing("train")

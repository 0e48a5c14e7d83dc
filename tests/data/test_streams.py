"""Sets that are read in turn: shards and streams give each image once an epoch, in any number of processes."""

import io
import json
import os
import tarfile

import pytest
import torch
from PIL import Image

from kedge import data
from kedge.data import DataError
from kedge.data.shards import Shards
from kedge.data.splitting import split_validation
from kedge.training import Recipe, fit
from tests.data.conftest import picture

SIZE = 12
CLASSES = ("cat", "dog", "fox")


def _encoded(i, size=SIZE, kind="png"):
    file = io.BytesIO()
    picture(i, size, size).save(file, kind)
    return file.getvalue()


def _add(tar, name, content):
    about = tarfile.TarInfo(name)
    about.size = len(content)
    tar.addfile(about, io.BytesIO(content))


@pytest.fixture
def shards(tmp_path):
    """make(shards, images each, word, label(i)) -> folder with word-000000.tar, ..."""
    folder = tmp_path / "shards"

    def make(count=5, each=9, word="train", label=lambda i: CLASSES[i % 3], size=SIZE, first=0):
        folder.mkdir(exist_ok=True)
        for shard in range(count):
            with tarfile.open(folder / f"{word}-{shard:06d}.tar", "w") as tar:
                for i in range(first + shard * each, first + (shard + 1) * each):
                    _add(tar, f"some/{i:05d}.png", _encoded(i, size))
                    _add(tar, f"some/{i:05d}.cls", str(label(i)).encode())
        return folder

    return make


def _hashes(images):
    return sorted(hash(image.numpy().tobytes()) for image in images)


@pytest.mark.parametrize("wrong", [None, [1], "rows.jsonl"])
def test_what_is_no_stream_is_named(wrong):
    with pytest.raises(TypeError, match="from_stream takes a Hugging Face IterableDataset, got"):
        data.from_stream(wrong)


@pytest.mark.parametrize("wrong", [[0], float("nan"), float("inf"), 0.5, None])
def test_a_label_of_a_stream_that_is_no_label_is_named(wrong):
    import datasets

    rows = {"image": [{"bytes": _encoded(i), "path": None} for i in range(4)], "label": [wrong] * 4}
    stream = datasets.Dataset.from_dict(rows).to_iterable_dataset()
    with pytest.raises(DataError, match="a whole number or a name is needed"):
        data.from_stream(stream)


def _lying(size=None, kind=tarfile.REGTYPE, **headers):
    """A member that says of itself what is not so."""
    about = tarfile.TarInfo("z.png")
    about.size, about.type, about.pax_headers = 4 if size is None else size, kind, headers
    return about.tobuf(tarfile.PAX_FORMAT if headers else tarfile.GNU_FORMAT) + b"\0" * 512


@pytest.mark.parametrize(
    "tail",
    [
        _lying(2**43),
        _lying(2**20),
        _lying(**{"GNU.sparse.map": "0,4", "GNU.sparse.size": str(2**43), "GNU.sparse.name": "z.png"}),
        _lying(2**43, tarfile.XHDTYPE),
        _lying(0, tarfile.XHDTYPE) * 3000,
    ],
    ids=["large", "cut off", "holes", "a large header", "headers"],
)
def test_a_shard_that_lies_is_refused(shards, tail):
    (path,) = shards(count=1).iterdir()
    with tarfile.open(path) as tar:
        end = tar.getmembers()[-1].offset_data + 512  # of a .cls
    path.write_bytes(path.read_bytes()[:end] + tail)
    with pytest.raises(DataError, match=r"train-000000\.tar"):
        data.load(path.parent, "train")
    with pytest.raises(DataError, match=r"train-000000\.tar"):
        Shards(str(path.parent)).stream("train", None, 0.1, 0)


def test_nothing_waits_for_a_pipe_that_is_called_like_a_shard(shards):
    folder = shards(count=1)
    os.mkfifo(folder / "train-000001.tar")
    with pytest.raises(DataError, match="is a named pipe, not a file"):
        data.load(folder, "train")


def test_names_and_numbers_of_shards_are_within_bounds(shards):
    folder = shards(count=1, label=lambda i: 999_999_999)
    with pytest.raises(DataError, match="a label is 999999999, and nothing names the classes"):
        data.load(folder, "train")
    with pytest.raises(DataError, match="names 1,000,000,000,000 shards"):
        Shards(str(folder / "train-{000000..999999}{000000..999999}.tar"))
    (folder / "classes.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(DataError, match=r"classes\.txt is not text in UTF-8"):
        data.load(folder, "train")


def test_shards_are_listed_where_images_are_asked_for_by_position(shards):
    folder = shards()
    whole = data.load(folder, "train")
    assert (len(whole), whole.class_names, whole.image_shape) == (45, list(CLASSES), (3, SIZE, SIZE))
    for i in (0, 13, 44):
        pixels = torch.from_numpy(__import__("numpy").array(picture(i, SIZE, SIZE))).permute(2, 0, 1)
        assert torch.equal(whole[i][0], pixels)
        assert whole[i][1] == i % 3
    assert whole.paths[10] == f"{folder}/train-000001.tar:some/00010.png"
    assert data.splits(folder / "train-{000001..000003}.tar") == ["train"]
    assert len(data.load(f"{folder}/train-{{000001..000003}}.tar")) == 27
    assert len(data.load(f"{folder}/train-00000[34].tar")) == 18
    with pytest.raises(DataError, match=r"2 of the 4 shards .* are not there: .*train-000005\.tar"):
        data.load(f"{folder}/train-{{000003..000006}}.tar")


def test_what_a_stream_holds_out_is_what_a_listed_set_would(shards):
    folder = shards()
    train, val = data.stream(folder, None, 0.2, 3)
    listed, held = split_validation(data.load(folder), 0.2, 3)
    assert train.keys() == listed.keys()
    assert torch.equal(train.labels, listed.labels)
    assert val.keys() == held.keys()
    assert torch.equal(val.images, held.images)


def test_a_class_of_a_stream_keeps_an_image_to_train_on(shards):
    folder = shards(4, 10, label=lambda i: f"c{i // 2:02d}")  # two images each: with half held out many would give both
    train, val = data.stream(folder, None, 0.5, 0)
    listed, held = split_validation(data.load(folder), 0.5, 0)
    assert torch.bincount(train.labels, minlength=20).min() == 1
    assert set(train.keys()) >= set(listed.keys())
    assert set(val.keys()) <= set(held.keys())


@pytest.mark.parametrize(("world", "workers"), [(1, 0), (3, 0), (2, 2)])
def test_an_epoch_has_each_image_once_in_all_processes(shards, world, workers):
    train, _ = data.stream(shards(), None, 0.2, 0)
    everything = _hashes(image for image, _ in data.load(train.pieces._shards[0].parent).readable()[0])
    epochs = []
    for epoch in (0, 1):
        seen, labels = [], []
        for rank in range(world):
            batches = data.training_batches(train, 4, 0, rank, world, augment="none", workers=workers)
            batches.set_epoch(epoch)
            own = list(batches)
            assert len(own) == len(batches)
            seen += [image for images, _ in own for image in images]
            labels += [label for _, some in own for label in some.tolist()]
        share = len(train) // world
        dropped = world if share % 4 == 1 else 0  # a last batch of a single image
        assert len(seen) == share * world - dropped
        hashes = _hashes(seen)
        assert len(set(hashes)) == len(hashes)
        assert set(hashes) <= set(everything)
        epochs.append([hash(image.numpy().tobytes()) for image in seen])
    assert epochs[0] != epochs[1]


@pytest.mark.slow
def test_batches_are_the_same_whatever_reads_and_whatever_came_before(shards, monkeypatch):
    monkeypatch.setattr("kedge.data.streams.BUFFER", 7)
    folder = shards(size=80)
    train, _ = data.stream(folder, None, 0.2, 0)
    assert train.image_shape == (3, 224, 224)
    train, _ = data.stream(folder, 72, 0.2, 0)
    first, second = (data.training_batches(train, 8, 1, workers=workers) for workers in (0, 2))
    list(first)
    for batches in (first, second):
        batches.set_epoch(3)
    for (a, la), (b, lb) in zip(first, second, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(la, lb)


def test_a_damaged_image_of_a_stream_is_replaced_by_one_of_its_class(shards):
    folder = shards(6, 30)
    with tarfile.open(folder / "train-000006.tar", "w") as tar:
        _add(tar, "x.png", b"no image")
        _add(tar, "x.cls", b"dog")
    train, _ = data.stream(folder, None, 0.1, 0)
    batches = data.training_batches(train, 8, 0, augment="none")
    labels = torch.cat([labels for _, labels in batches])
    assert list(batches.failed) == [f"{folder}/train-000006.tar:x.png"]
    assert int((labels == 1).sum()) <= int((train.labels == 1).sum())


def test_classes_by_a_file_and_in_words_where_there_is_none(shards):
    folder = shards(2, label=lambda i: i % 3)
    train, _ = data.stream(folder, None, 0.2, 0)
    assert train.class_names == ["0", "1", "2"]
    assert "labels are numbers and nothing names them: classes are called 0 to 2 (a file " in train.report.notes[0]
    (folder / "classes.txt").write_text("cat\ndog\nfox\nowl\n")
    train, _ = data.stream(folder, None, 0.2, 0)
    assert train.class_names == ["cat", "dog", "fox", "owl"]
    assert data.load(folder).class_names == ["cat", "dog", "fox", "owl"]
    (folder / "classes.txt").write_text("cat\ndog\n")
    with pytest.raises(DataError, match="labels run from 0 to 2, but there are 2 class names"):
        data.stream(folder, None, 0.2, 0)


def test_shards_that_cannot_be_read_are_named(tmp_path):
    with tarfile.open(tmp_path / "train-0.tar", "w") as tar:
        _add(tar, "cat/1.png", _encoded(1))
    with pytest.raises(DataError, match=r"has no \.cls beside it.* Is it an archive of an image folder"):
        data.load(tmp_path)
    (tmp_path / "train-0.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(DataError, match="cannot be read as a tar file"):
        data.load(tmp_path)


@pytest.mark.slow
def test_a_run_on_shards_resumes_to_the_same_weights(shards, tmp_path, monkeypatch):
    monkeypatch.setattr("kedge.data.streams.BUFFER", 10)
    folder = shards(6, 16)
    recipe = {
        "data": f"{folder}/train-{{000000..000005}}.tar", "model": "kedge_resnet_small", "arguments": {"width": 4},
        "epochs": 2, "batch_size": 16, "references": 4, "val_fraction": 0.2, "runs": str(tmp_path / "runs"),
        "device": "cpu", "class_weights": "balanced",
    }  # fmt: skip
    whole = fit({**recipe, "name": "whole"}, progress=False, report=False)
    from kedge.training.epochs import LastCheckpoint

    write = LastCheckpoint.on_train_epoch_end

    def killed(self, trainer, module):
        write(self, trainer, module)
        if trainer.current_epoch == 0:
            raise RuntimeError("killed")

    monkeypatch.setattr(LastCheckpoint, "on_train_epoch_end", killed)
    with pytest.raises(RuntimeError, match="killed"):
        fit({**recipe, "name": "part"}, progress=False, report=False)
    monkeypatch.setattr(LastCheckpoint, "on_train_epoch_end", write)
    part = fit(resume=tmp_path / "runs" / "part", progress=False, report=False)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(value, part.model.state_dict()[name]), name
    from kedge.training.held_out import RunImages

    images = RunImages(tmp_path / "runs" / "part")
    assert len(images.val) == part.images
    assert len(images.train) + len(images.val) == 96
    with pytest.raises(DataError, match="leave label_noise out"):
        fit({**recipe, "name": "noise", "label_noise": 0.2}, progress=False, report=False)
    with pytest.raises(DataError, match="leave train_images, classes and imbalance out"):
        fit({**recipe, "name": "few", "train_images": 20}, progress=False, report=False)


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_small_views_in_training_are_of_whole_images_as_everywhere(tmp_path, kind):
    """Images that are reduced as they are decoded are others: a model would be judged on pixels unlike these."""
    with tarfile.open(tmp_path / "train-000000.tar", "w") as tar:
        for i in range(6):
            _add(tar, f"{i:05d}.{kind}", _encoded(i, 107, kind))
            _add(tar, f"{i:05d}.cls", str(i % 3).encode())
    images, _ = data.stream(str(tmp_path), 16, 0, 0)
    views = [image for batch, _ in data.training_batches(images, 3, 0, augment="none") for image in batch]
    plain = [data.read_image(_encoded(i, 107, kind), 16) for i in range(6)]
    assert _hashes(views) == _hashes(plain)


def test_a_shard_says_its_part_wherever_the_word_stands(shards):
    folder = shards(2, 6, "imagenet-train")
    shards(1, 4, "imagenet-val", first=100)
    assert data.splits(folder) == ["train", "val"]
    assert [len(files) for files in Shards(str(folder)).splits.values()] == [2, 1]


def test_a_part_val_of_shards_is_the_validation_set(shards, tmp_path):
    folder = shards(3, 12)
    shards(1, 12, "val", first=100)
    assert data.splits(folder) == ["train", "val"]
    result = fit(
        Recipe(data=str(folder), model="kedge_resnet_small", arguments={"width": 4}, epochs=1, batch_size=12,
               references=2, runs=str(tmp_path / "runs"), device="cpu"),
        progress=False, report=False,
    )  # fmt: skip
    assert result.images == 12
    assert len(Shards(str(folder)).splits["train"]) == 3


def test_streams_of_hugging_face(tmp_path):
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(CLASSES))})
    for part, name in enumerate(("train-00000-of-00002", "train-00001-of-00002")):
        rows = [{"image": picture(i, SIZE, SIZE), "label": i % 3} for i in range(part * 20, part * 20 + 20)]
        datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / f"{name}.parquet")
    train, val = data.stream(f"stream:{tmp_path}", None, 0.2, 0)
    listed, held = split_validation(data.load(tmp_path), 0.2, 0)
    assert train.class_names == list(CLASSES)
    assert train.keys() == listed.keys()
    assert val.keys() == held.keys()
    assert len(train.pieces) == 2
    images = [image for batch, _ in data.training_batches(train, 5, 0, augment="none") for image in batch]
    assert _hashes(images) == _hashes(listed.images)

    # JSON lines that name files, without features: labels are names
    for i in range(12):
        Image.Image.save(picture(i, SIZE, SIZE), tmp_path / f"{i}.png")
    lines = [json.dumps({"image": str(tmp_path / f"{i}.png"), "label": CLASSES[i % 3]}) for i in range(12)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    rows = datasets.load_dataset("json", data_files=str(tmp_path / "rows.jsonl"), split="train", streaming=True)
    train, none = data.from_stream(rows, val_fraction=0)
    assert none is None
    assert train.class_names == list(CLASSES)
    images = [image for batch, _ in data.training_batches(train, 5, 0, augment="none") for image in batch]
    assert len(set(_hashes(images))) == 12
    with pytest.raises(DataError, match="read in turn"):
        train.subset([0])

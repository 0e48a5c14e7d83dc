import numpy as np
import pytest
import torch
from PIL import Image

import kedge.data as kd
from kedge.data import DataError, FileSet, TensorSet

from .conftest import picture


def test_digits_are_scikit_learns_in_a_fixed_split():
    from sklearn.datasets import load_digits

    truth = load_digits()
    parts = {split: kd.load("digits", split) for split in kd.splits("digits")}
    assert [len(parts[s]) for s in ("train", "val", "test")] == [1259, 179, 359]
    rows = torch.cat([p.images.flatten(1) for p in parts.values()])
    labels = torch.cat([p.labels for p in parts.values()])
    original = torch.from_numpy(truth.data * 255 / 16).round().to(torch.uint8)
    ours = sorted(map(tuple, torch.cat([rows, labels[:, None].to(torch.uint8)], 1).tolist()))
    theirs = torch.cat([original, torch.from_numpy(truth.target)[:, None].to(torch.uint8)], 1).tolist()
    assert ours == sorted(map(tuple, theirs))  # every image exactly once
    for part in parts.values():
        share = torch.bincount(part.labels) / torch.from_numpy(np.bincount(truth.target))
        assert share.max() - share.min() < 0.01
    # fixed for good: a change here changes every recorded result
    assert parts["test"].labels[:12].tolist() == [6, 7, 8, 2, 4, 8, 9, 5, 4, 1, 7, 5]
    assert kd.load("digits", "validation").split == "val"
    assert not parts["train"].mirror


def test_digits_in_another_size_and_depth():
    images = kd.load("digits", image_size=32, channels=3)
    assert images.image_shape == (3, 32, 32)
    with pytest.raises(DataError, match="it has: train, val, test"):
        kd.load("digits", "all")


def test_names_are_looked_up_in_order(make_folder, tmp_path, monkeypatch):
    make_folder({"cat": 1, "dog": 1}, name="room/pets")
    make_folder({"cat": 2, "dog": 2}, name="here/pets")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KEDGE_DATA", str(tmp_path / "room"))
    assert len(kd.load("pets")) == 2
    monkeypatch.chdir(tmp_path / "here")
    assert len(kd.load("pets")) == 4  # an existing path comes first
    make_folder({"cat": 1}, name="here/digits")
    assert len(kd.load("digits")) == 1259


def test_wrong_names_get_suggestions(make_folder, tmp_path, monkeypatch):
    root = make_folder({"cat": 1, "dog": 1})
    monkeypatch.setenv("KEDGE_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for wrong, near in [("digit", "digits"), ("photo", "photos"), (str(root)[:-1], "photos"), ("./fotos", "photos")]:
        with pytest.raises(DataError, match=rf"did you mean .*{near}"):
            kd.load(wrong)
    with pytest.raises(DataError, match=r"folder .*nowhere does not exist"):
        kd.load(tmp_path / "nowhere" / "deep" / "photos")
    with pytest.raises(DataError, match="empty"):
        kd.load(" ")
    monkeypatch.setenv("KEDGE_DATA", str(tmp_path / "gone"))
    with pytest.raises(DataError, match=r"gone\) is not a folder"):
        kd.load("imagnet")
    monkeypatch.delenv("KEDGE_DATA")
    with pytest.raises(DataError, match="KEDGE_DATA is not set"):
        kd.load("imagnet")


def test_split_that_is_not_there(make_folder):
    flat = make_folder({"cat": 1, "dog": 1})
    with pytest.raises(DataError, match=r"not divided into splits.*split_validation"):
        kd.load(flat, "test")
    divided = make_folder({"train/cat": 1, "val/cat": 1}, name="divided")
    with pytest.raises(DataError, match="it has: train, val"):
        kd.load(divided, "test")


def test_bad_sizes(make_folder):
    root = make_folder({"cat": 1})
    with pytest.raises(DataError, match="image_size must be at least 1"):
        kd.load(root, image_size=0)
    with pytest.raises(DataError, match="channels must be 1"):
        kd.load(root, channels=2)


def test_hub_out_of_reach_says_what_to_do(monkeypatch):
    import datasets
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"someone/some-set(?s:.*)hf download --repo-type dataset someone/some-set"):
        kd.load("someone/some-set")


class Pairs(torch.utils.data.Dataset):
    def __init__(self, images, labels):
        self.images, self.labels_ = images, labels

    def __len__(self):
        return len(self.images)

    def __getitem__(self, i):
        return self.images[i], self.labels_[i]


@pytest.mark.parametrize("kind", ["pil", "uint8", "float", "array"])
def test_any_dataset_of_pairs(kind):
    pictures = [picture(i) for i in range(6)]
    truth = torch.stack([torch.from_numpy(np.array(p)).permute(2, 0, 1) for p in pictures])
    images = {
        "pil": pictures,
        "uint8": list(truth),
        "float": list(truth / 255),
        "array": [np.array(p) for p in pictures],
    }[kind]
    wrapped = kd.from_dataset(Pairs(images, [0, 1, 2, 0, 1, 2]), class_names=["a1", "b1", "c1"])
    assert isinstance(wrapped, TensorSet)
    assert torch.equal(wrapped.images, truth)
    assert wrapped.labels.tolist() == [0, 1, 2, 0, 1, 2]
    assert wrapped.paths is None


def test_larger_dataset_is_read_as_needed():
    images = [picture(i, 100, 130) for i in range(4)]
    wrapped = kd.from_dataset(Pairs(images, torch.tensor([0, 1, 1, 0])), image_size=72)
    assert isinstance(wrapped, FileSet)
    assert wrapped.class_names == ["0", "1"]
    assert next(wrapped.batches(4))[0].shape == (4, 3, 72, 72)
    assert len(list(kd.training_batches(wrapped, 2, seed=0, workers=0))) == 2


def test_dataset_attributes_are_used_and_other_depths_kept():
    images = torch.randint(0, 256, (5, 4, 12, 12), dtype=torch.uint8)
    dataset = Pairs(images, [1, 1, 1, 0, 0])
    dataset.targets = [1, 1, 1, 0, 0]
    dataset.classes = ["x1", "y1"]
    wrapped = kd.from_dataset(dataset)
    assert wrapped.class_names == ["x1", "y1"]
    assert wrapped.labels.tolist() == [1, 1, 1, 0, 0]
    assert torch.equal(wrapped.images, images)


def test_dataset_faults():
    with pytest.raises(DataError, match="empty"):
        kd.from_dataset(Pairs([], []))
    with pytest.raises(DataError, match="0 to 3, but there are 2"):
        kd.from_dataset(Pairs([picture(0)] * 2, [0, 3]), class_names=["a1", "b1"])
    with pytest.raises(DataError, match=r"an item is a Tensor, not a pair \(image, label\): labels are needed"):
        kd.from_dataset(torch.rand(4, 3, 8, 8))
    with pytest.raises(DataError, match="an item is a tuple, not a pair"):
        kd.from_dataset(torch.utils.data.TensorDataset(torch.rand(4, 3, 8, 8)))
    with pytest.raises(DataError, match="a label is None; labels are whole numbers"):
        kd.from_dataset(Pairs([picture(0)] * 2, [0, None]))
    with pytest.raises(DataError, match=r"a label is of shape \[10\]"):
        kd.from_dataset(Pairs([picture(0)] * 2, [torch.zeros(10)] * 2))


def test_hugging_face_dataset():
    import datasets

    features = datasets.Features({"img": datasets.Image(), "label": datasets.ClassLabel(names=["no", "yes"])})
    pictures = [picture(i) for i in range(4)]
    dataset = datasets.Dataset.from_dict({"img": pictures, "label": [0, 1, 1, 0]}, features=features)
    wrapped = kd.from_dataset(dataset)
    assert wrapped.class_names == ["no", "yes"]
    assert wrapped.labels.tolist() == [0, 1, 1, 0]
    assert torch.equal(wrapped.images[2], torch.from_numpy(np.array(pictures[2])).permute(2, 0, 1))


def test_image_kinds_in_one_folder(make_folder):
    root = make_folder({"cat": 1})
    for kind in ("jpg", "webp", "bmp", "gif", "tif", "ppm"):
        picture(1).save(root / "cat" / f"a.{kind}")
    assert len(kd.load(root)) == 7
    assert Image.open(root / "cat" / "a.gif").mode == "P"

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import kedge.data as kd
from kedge.data import DataError, FileSet, TensorSet
from kedge.data.label_spaces import CIFAR10, CIFAR100, imagenet

from .conftest import picture

CORRUPTIONS = ["fog", "gaussian_noise", "speckle_noise"]


def cifar_c(root, n=4, names=CORRUPTIONS, labels=None, seed=0):
    """A small copy of CIFAR-10-C: n images, five severities; returns {name: array [5 n, 32, 32, 3]}."""
    rng = np.random.default_rng(seed)
    root.mkdir(parents=True, exist_ok=True)
    arrays = {name: rng.integers(0, 256, (5 * n, 32, 32, 3), dtype=np.uint8) for name in names}
    for name, array in arrays.items():
        np.save(root / f"{name}.npy", array)
    np.save(root / "labels.npy", np.tile(np.arange(n) % 10, 5) if labels is None else labels)
    return arrays


def tree(root, folders, count=2, size=(224, 224), name="image_{}.JPEG"):
    """Class folders of random photos: {"noise/fog/1": ["n01440764", ...]}."""
    for f, (folder, classes) in enumerate(folders.items()):
        for c, wnid in enumerate(classes):
            (root / folder / wnid).mkdir(parents=True, exist_ok=True)
            for i in range(count):
                picture(100 * f + 10 * c + i, *size).save(root / folder / wnid / name.format(i))
    return root


WNIDS = [imagenet()[i] for i in (1, 7, 200, 933)]


def test_cifar_10_c(tmp_path):
    arrays = cifar_c(tmp_path / "CIFAR-10-C")
    made = kd.published(tmp_path / "CIFAR-10-C")
    assert (made.name, made.kind) == ("CIFAR-10-C", "corruptions")
    assert made.conditions == [(name, s) for name in CORRUPTIONS for s in range(1, 6)]
    assert made.class_names == list(CIFAR10)
    assert made.classes is None
    lacking, further = made.notes
    assert lacking.startswith("13 of the 15 corruptions that published means of CIFAR-10-C are over are lacking here: ")
    assert further.startswith("means here are also over 1 of the 4 further corruptions (")
    for name, severity in made.conditions:
        images = made.load((name, severity))
        assert isinstance(images, TensorSet)
        rows = arrays[name][4 * (severity - 1) : 4 * severity]
        assert torch.equal(images.images, torch.from_numpy(rows).permute(0, 3, 1, 2))
        assert images.labels.tolist() == [0, 1, 2, 3]
    assert (images.name, images.split) == ("CIFAR-10-C", "speckle_noise 5")
    assert images.origin.words() == "array, 32×32"
    assert made.load(("fog", 1), image_size=24, channels=1).image_shape == (1, 24, 24)
    with pytest.raises(DataError, match=r"no condition frog 1; there are fog 1, fog 2"):
        made.load(("frog", 1))
    with pytest.raises(DataError, match="several conditions: say which"):
        made.load()


def test_larger_views_of_arrays_survive_workers(tmp_path):
    arrays = cifar_c(tmp_path / "c")
    images = kd.published(tmp_path / "c").load(("fog", 2), image_size=96)
    assert isinstance(images, FileSet)
    alone, shared = (torch.cat([x for x, _ in images.batches(2, workers=w)]) for w in (0, 1))
    assert torch.equal(alone, shared)
    assert alone.shape == (4, 3, 96, 96)
    again = pickle.loads(pickle.dumps(images))
    assert len(pickle.dumps(images.items)) < 5000 < arrays["fog"].nbytes
    assert torch.equal(again[0][0], images[0][0])
    assert len(images.fingerprint()) == 64


def test_cifar_100_c_by_its_labels_or_its_name(tmp_path):
    cifar_c(tmp_path / "some", n=20, labels=np.tile(np.arange(20) * 5, 5).astype(np.uint8))
    made = kd.published(tmp_path / "some")
    assert made.name == "CIFAR-100-C"
    assert made.class_names == list(CIFAR100)
    assert made.load(("fog", 3)).labels.tolist() == list(range(0, 100, 5))
    cifar_c(tmp_path / "CIFAR-100-C")
    assert kd.published(tmp_path / "CIFAR-100-C").name == "CIFAR-100-C"


def test_labels_once_or_five_times(tmp_path):
    cifar_c(tmp_path / "c", labels=np.array([3, 1, 4, 1]))
    made = kd.published(tmp_path / "c")
    assert made.load(("fog", 5)).labels.tolist() == [3, 1, 4, 1]


def test_labels_of_all_rows_are_those_of_the_five_severities(tmp_path):
    """A file of one severity with its own labels is none of five."""
    labels = np.random.default_rng(0).integers(0, 10, 20)
    cifar_c(tmp_path / "own", labels=labels)
    with pytest.raises(DataError, match=r"labels\.npy has 20 labels, but not the same ones five times.*rows 4 to 7"):
        kd.published(tmp_path / "own")
    cifar_c(tmp_path / "published", labels=np.tile(labels[:4], 5))
    assert kd.published(tmp_path / "published").load(("fog", 5)).labels.tolist() == labels[:4].tolist()


@pytest.mark.slow
def test_the_cifar_names_are_those_of_the_packs(packs):
    assert kd.load("cifar100", "test").class_names == list(CIFAR100)
    assert kd.load("cifar10", "test").class_names == list(CIFAR10)


def test_arrays_that_are_not_what_they_should_be(tmp_path):
    root = tmp_path / "c"

    def broken(match, **files):
        cifar_c(root)
        for name, content in files.items():
            file = root / f"{name}.npy"
            if isinstance(content, bytes):
                file.write_bytes(content)
            else:
                np.save(file, content, allow_pickle=True)
        with pytest.raises(DataError, match=match):
            kd.published(root)

    whole = (cifar_c(root), (root / "fog.npy").read_bytes())[1]
    broken(r"fog\.npy cannot be read.*cut off", fog=whole[: len(whole) // 2])
    broken("cannot be read", fog=b"")
    broken("cannot be read", fog=b"\x93NUMPY nonsense")
    broken("Python objects", fog=pickle.dumps([1, 2]))
    broken("Python objects, which are never loaded", fog=np.array([{"a": 1}, None], dtype=object))
    broken("Python objects", labels=np.array([1, "x"], dtype=object))
    broken(r"float64 of shape \[20, 32, 32, 3\]; expected uint8", fog=np.zeros((20, 32, 32, 3)))
    broken(r"shape \[20, 3, 32, 32\]", fog=np.zeros((20, 3, 32, 32), np.uint8))
    broken("holds 19 images, which five", fog=np.zeros((19, 32, 32, 3), np.uint8))
    broken("holds 0 images", fog=np.zeros((0, 32, 32, 3), np.uint8))
    broken("10 images, 2 at each of five severities, but labels.npy has 20", fog=np.zeros((10, 32, 32, 3), np.uint8))
    broken("one whole number per image", fog=np.zeros((20, 32, 32, 3), np.uint8), labels=np.zeros((20, 10)))
    broken("labels from -1 to 0", labels=np.full(20, -1) * (np.arange(20) % 2))
    broken("labels from 100 to 100", labels=np.full(20, 100))
    broken("no labels", labels=np.zeros(0, int))
    np.savez(root / "x.npz", a=np.zeros(3))
    broken("archive of arrays", fog=(root / "x.npz").read_bytes())
    (root / "labels.npy").unlink()
    with pytest.raises(DataError, match=r"3 \.npy files.*but no labels\.npy"):
        kd.published(root)
    (tmp_path / "d").mkdir()
    np.save(tmp_path / "d" / "labels.npy", np.zeros(3, int))
    with pytest.raises(DataError, match=r"no <corruption>\.npy"):
        kd.published(tmp_path / "d")


def test_cifar_10_1(tmp_path):
    rng = np.random.default_rng(0)
    for version, count in (("v4", 6), ("v6", 5)):
        np.save(tmp_path / f"cifar10.1_{version}_data.npy", rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8))
        np.save(tmp_path / f"cifar10.1_{version}_labels.npy", np.arange(count, dtype=np.int32))
    made = kd.published(tmp_path)
    assert (made.name, made.kind, made.conditions) == ("CIFAR-10.1", "renditions", [("v4", None), ("v6", None)])
    assert len(made.load(("v4", None))) == 6
    assert made.load(("v6", None)).labels.tolist() == [0, 1, 2, 3, 4]
    np.save(tmp_path / "cifar10.1_v6_labels.npy", np.arange(4))
    with pytest.raises(DataError, match=r"holds 5 images, but cifar10\.1_v6_labels\.npy has 4"):
        kd.published(tmp_path)
    (tmp_path / "cifar10.1_v6_labels.npy").unlink()
    with pytest.raises(DataError, match="without labels"):
        kd.published(tmp_path)


@pytest.mark.parametrize("family", ["", "blur/", "imagenet-c/noise/"])
def test_imagenet_c(tmp_path, family):
    root = tree(tmp_path / "in-c", {f"{family}{c}/{s}": WNIDS for c in ("fog", "snow") for s in (1, 3)})
    made = kd.published(root if not family.startswith("imagenet-c") else root / "imagenet-c")
    assert (made.name, made.kind) == ("ImageNet-C", "corruptions")
    assert made.conditions == [("fog", 1), ("fog", 3), ("snow", 1), ("snow", 3)]
    assert made.classes.tolist() == [1, 7, 200, 933]
    assert "published with 1000 classes; here there are 4" in made.notes[0]
    assert "2 of 2 corruptions lack some of the five severities: fog (2, 4, 5), snow (2, 4, 5)" in made.notes
    images = made.load(("snow", 3))
    assert isinstance(images, FileSet)
    assert images.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    assert images.class_names == WNIDS
    stored = np.array(Image.open(images.paths[3]))
    assert torch.equal(images[3][0], torch.from_numpy(stored).permute(2, 0, 1))  # as it was stored: not cropped again
    assert torch.equal(images.subset([3])[0][0], images[3][0])
    assert images.paths[3].endswith(f"snow/3/{WNIDS[1]}/image_1.JPEG")
    assert made.load(("fog", 1), image_size=32).image_shape == (3, 32, 32)


def test_one_corruption_alone_and_one_that_is_there_twice(tmp_path):
    tree(tmp_path, {f"a/fog/{s}": WNIDS[:2] for s in range(1, 6)}, count=1, size=(8, 8))
    made = kd.published(tmp_path / "a" / "fog")
    assert made.conditions == [("fog", s) for s in range(1, 6)]
    tree(tmp_path, {"b/fog/5": WNIDS[:2]}, count=1, size=(8, 8))
    with pytest.raises(DataError, match="fog severity 5 is there twice"):
        kd.published(tmp_path)


def test_imagenet_c_bar(tmp_path):
    tree(tmp_path / "x", {f"sparkles/{s}": WNIDS for s in range(1, 6)}, count=1, size=(8, 8))
    assert kd.published(tmp_path / "x").name == "ImageNet-C-bar"
    # as the program that makes it writes it: folders named after the parameter
    tree(tmp_path / "y", {f"brownish_noise/{s}": WNIDS for s in ("2.00", "3.50", "10.00")}, count=1, size=(8, 8))
    made = kd.published(tmp_path / "y")
    assert made.conditions == [("brownish_noise", s) for s in (1, 2, 3)]
    assert "/10.00/" in made.load(("brownish_noise", 3)).paths[0]


def test_renditions_bring_their_classes(tmp_path):
    for folder, name in (
        ("imagenet-r", "ImageNet-R"),
        ("imagenet-a", "ImageNet-A"),
        ("sketch", "ImageNet-Sketch"),
        ("mine", "mine"),
    ):
        made = kd.published(tree(tmp_path / folder, {"": WNIDS}, size=(300, 260), name="x_{}.jpg"))
        assert (made.name, made.kind, made.conditions) == (name, "renditions", [(name, None)])
        assert made.classes.tolist() == [1, 7, 200, 933]
        expected = {"ImageNet-R": "200 classes; here there are 4", "mine": "this set's 4 of ImageNet's 1000 classes"}
        assert expected.get(name, "here there are 4") in made.notes[0]
        images = made.load()
        assert images.image_shape == (3, 224, 224)
        assert images.labels.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
        as_photos = kd.load(tmp_path / folder, "all")
        assert torch.equal(images[5][0], as_photos[5][0])  # the usual view of photographs


def test_a_whole_imagenet_r_is_known_by_its_classes(tmp_path):
    from kedge.data.label_spaces import published_wnids

    for letter, classes in (("R", published_wnids("r")), ("A", published_wnids("a"))):
        assert len(classes) == 200
        for wnid in classes:
            (tmp_path / letter / "data" / wnid).mkdir(parents=True)
        made = kd.published(tmp_path / letter)
        assert made.name == f"ImageNet-{letter}"
        assert made.notes == []
        assert [imagenet()[i] for i in made.classes] == sorted(classes) == made.class_names
        with pytest.raises(DataError, match="no images under"):
            made.load()


@pytest.mark.slow
def test_imagenet_v2_is_numbered(tmp_path):
    """Folders 0 to 999 are outputs of a model; in alphabetical order 10 would come before 2."""
    root = tree(tmp_path / "imagenetv2-top-images-format-val", {"": ["0", "2", "10", "999"]}, count=1, size=(230, 230))
    made = kd.published(root)
    assert (made.name, made.classes.tolist()) == ("ImageNet-V2", [0, 2, 10, 999])
    images = made.load()
    assert [p.split("/")[-2] for p in images.paths] == ["0", "2", "10", "999"]
    assert images.labels.tolist() == [0, 1, 2, 3]
    assert made.class_names == [imagenet()[i] for i in (0, 2, 10, 999)]
    for i in range(1000):
        (root / str(i)).mkdir(exist_ok=True)
    made = kd.published(root)
    assert made.notes == []
    assert made.classes is None
    assert made.load().labels.tolist() == [0, 2, 10, 999]


def test_masks_follow_the_model(tmp_path):
    made = kd.published(tree(tmp_path / "imagenet-r", {"": WNIDS}, count=1, size=(8, 8)))
    assert made.mask_for(num_outputs=1000).tolist() == [1, 7, 200, 933]
    assert made.mask_for(list(imagenet()), 1000).tolist() == [1, 7, 200, 933]
    assert made.mask_for(list(imagenet())[::-1]).tolist() == [998, 992, 799, 66]
    assert made.mask_for(WNIDS) is None
    assert made.mask_for(WNIDS[::-1]).tolist() == [3, 2, 1, 0]
    assert made.mask_for(["n99999999", *WNIDS]).tolist() == [1, 2, 3, 4]
    from timm.data import ImageNetInfo
    from torchvision.models import ResNet18_Weights

    assert made.mask_for(ResNet18_Weights.DEFAULT.meta["categories"]).tolist() == [1, 7, 200, 933]
    long_names = ImageNetInfo().label_descriptions()
    assert made.mask_for(long_names).tolist() == [1, 7, 200, 933]
    assert made.mask_for(["goldfish", "Cock", "Tibetan terrier, chrysanthemum dog", "cheeseburger", "x"]).tolist() == [
        0, 1, 2, 3,
    ]  # fmt: skip
    with pytest.raises(DataError, match=r"ImageNet-R: the model has 200 outputs and no class names"):
        made.mask_for(num_outputs=200)
    with pytest.raises(DataError, match=r"lacks 4 of the data's 4 classes, such as n01443537.*\n.*cat, dog"):
        made.mask_for(["cat", "dog"])
    with pytest.raises(DataError, match="3 outputs but 4 class names"):
        made.mask_for(WNIDS, 3)


def test_a_few_classes_in_another_place_are_found_there():
    from kedge.data.label_spaces import class_mask, imagenet

    names = list(imagenet())
    names[10], names[500] = names[500], names[10]
    wanted = [imagenet()[10], imagenet()[500], imagenet()[7]]
    mask = class_mask(wanted, imagenet(), names, 1000)
    assert mask is not None
    assert mask.tolist() == [500, 10, 7]


def test_a_name_of_two_classes_is_not_guessed(tmp_path):
    crane, machine = imagenet()[134], imagenet()[517]
    made = kd.published(tree(tmp_path / "birds", {"": [crane, machine]}, count=1, size=(8, 8)))
    with pytest.raises(DataError, match="lacks 2"):
        made.mask_for(["crane", "crane", "tench"])
    assert made.mask_for([machine, crane]).tolist() == [1, 0]


def test_masks_of_cifar(tmp_path):
    cifar_c(tmp_path / "c")
    made = kd.published(tmp_path / "c")
    assert made.mask_for(num_outputs=10) is None
    assert made.mask_for(list(CIFAR10)) is None
    assert made.mask_for(["Airplane", *CIFAR10[1:]]) is None
    assert made.mask_for(list(CIFAR10)[::-1]).tolist() == list(range(9, -1, -1))
    with pytest.raises(DataError, match="lacks 2 of the data's 10 classes, such as airplane, automobile"):
        made.mask_for(["plane", "car", *CIFAR10[2:]])
    with pytest.raises(DataError, match="7 outputs"):
        made.mask_for(num_outputs=7)


def test_classes_called_by_numbers_are_those_numbers_in_whatever_order(tmp_path):
    """Folders called by numbers are sorted as text, and 10 comes before 2."""
    from kedge.data.label_spaces import CIFAR100, class_mask

    as_text = sorted(map(str, range(100)))
    mask = class_mask(CIFAR100, CIFAR100, as_text, 100)
    assert [as_text[i] for i in mask.tolist()] == [str(i) for i in range(100)]
    assert class_mask(CIFAR100, CIFAR100, [f"{i:02}" for i in range(100)], 100) is None
    as_text = sorted(map(str, range(1000)))
    mask = class_mask(WNIDS, imagenet(), as_text, 1000)
    assert [as_text[i] for i in mask.tolist()] == ["1", "7", "200", "933"]
    cifar_c(tmp_path / "c")
    ten = kd.published(tmp_path / "c")
    assert ten.mask_for(list("0123456789"), 10) is None
    for names in (list(map(str, range(1, 11))), list("01234567"), list("0123456788"), ["00", *"012345678"]):
        called = f"the model's {len(names)} classes are called by numbers, {', '.join(names[:3])}, ..., which"
        with pytest.raises(DataError, match=rf"-10-C: {called} .* only where they are 0 to 9, each once\. .* airplane"):
            ten.mask_for(names, len(names))


def test_what_is_no_published_set(make_folder, tmp_path, monkeypatch):
    photos = make_folder({"cat": 2, "dog": 2})
    assert not kd.is_published(photos)
    assert not kd.is_published(make_folder({str(i): 1 for i in range(10)}, name="mnist"))
    assert not kd.is_published(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no published set that is known; expected one of: labels\.npy with"):
        kd.published(photos)
    with pytest.raises(DataError, match="is not a folder"):
        kd.published(tmp_path / "nowhere")
    cifar_c(tmp_path / "room" / "CIFAR-10-C")
    monkeypatch.setenv("KEDGE_DATA", str(tmp_path / "room"))
    assert kd.is_published("CIFAR-10-C")
    assert kd.published("CIFAR-10-C").name == "CIFAR-10-C"
    tree(tmp_path / "imagenet", {"train": WNIDS, "val": WNIDS}, count=1, size=(8, 8))
    with pytest.raises(DataError, match=r"several sets \(train, val\)"):
        kd.published(tmp_path / "imagenet")
    tree(tmp_path / "odd", {"": [*WNIDS, "n99999999"]}, count=1, size=(8, 8))
    with pytest.raises(
        DataError, match=r"1 of 5 class folders are not among ImageNet's 1000 classes, such as n99999999"
    ):
        kd.published(tmp_path / "odd")


def test_corrupted_images_are_not_loaded_as_classes(tmp_path):
    cifar_c(tmp_path / "c")
    tree(tmp_path / "in-c", {f"noise/{c}/{s}": WNIDS for c in ("fog", "snow") for s in (1, 3)}, count=1, size=(8, 8))
    for root in (tmp_path / "c", tmp_path / "in-c", tmp_path / "in-c" / "noise", tmp_path / "in-c" / "noise" / "fog"):
        with pytest.raises(DataError, match=r"published set of corrupted images.*--shift"):
            kd.load(root)
    assert len(kd.load(tmp_path / "in-c" / "noise" / "fog" / "1")) == 4  # one condition is an image folder


def test_a_number_beyond_the_thousand_classes_is_none(tmp_path):
    from kedge.data.label_spaces import classes_of

    with pytest.raises(DataError, match=r"x: there is no class 1000 among ImageNet's, 0 to 999"):
        classes_of({Path("x"): ["0", "1000"]})

from dataclasses import dataclass, field

import pytest
import torch

import kedge
from kedge import metrics
from kedge.data import DataError, TensorSet, published
from kedge.data.corruptions import NAMES
from kedge.evaluation import evaluate
from kedge.evaluation.sets import shifts


@dataclass
class Published:
    """What `kedge.data.published` gives, in memory."""

    sets: dict
    name: str = "BEASTS-C"
    kind: str = "corruptions"
    classes: torch.Tensor | None = None
    class_names: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def mask_for(self, class_names=None, num_outputs=None):
        if self.class_names and not set(self.class_names) <= set(class_names):
            raise DataError(f"{self.name}: the model lacks {self.class_names[0]}")
        return self.classes

    @property
    def conditions(self):
        return list(self.sets)

    def load(self, condition, image_size=None, channels=None):
        return self.sets[condition]


def darker(data: TensorSet, by: int) -> TensorSet:
    return TensorSet(data.images // by, data.labels, data.class_names, name="darker")


def test_nothing_asked_means_all_nineteen():
    found = shifts(None, (1, 3))
    assert found.corruptions == list(NAMES)
    assert len(found.conditions) == 38
    assert found.source == "generated"
    assert shifts((), (1,)).conditions == []
    assert set(shifts("noise", (2,)).names()) == {"gaussian_noise", "shot_noise", "impulse_noise"}


def test_published_corruptions_take_the_place_of_those_made_here(network, data):
    given = Published({("dark", 1): darker(data, 2), ("dark", 5): darker(data, 6)}, class_names=data.class_names)
    results = evaluate(network, data, shift=[given], resamples=20)
    assert results["settings"]["corruptions"] == ["dark"]
    assert results["settings"]["shift_source"] == "BEASTS-C"
    rows = results["models"]["model"]["shift"]["conditions"]
    network.eval()
    with torch.no_grad():
        probs = network(darker(data, 6).images.float() / 255).softmax(dim=1)
    assert rows[1]["accuracy"]["value"] == pytest.approx(float(metrics.accuracy(probs, data.labels)))
    with pytest.raises(ValueError, match="evaluate twice"):
        evaluate(network, data, shift=["contrast", given])
    with pytest.raises(ValueError, match="no images of severity 3"):
        evaluate(network, data, shift=[given], severities=(3,))


def test_a_rendition_of_some_classes_is_answered_among_them(network, data):
    kept = torch.tensor([1, 4])
    index = (data.labels[:, None] == kept).any(dim=1)
    labels = (data.labels[index] == 4).long()
    some = TensorSet(data.images[index] // 2, labels, ["dog", "ram"], name="BEASTS-R")
    given = Published({("BEASTS-R", None): some}, "BEASTS-R", "renditions", kept, ["dog", "ram"])
    results = evaluate(network, data, shift=[given], resamples=20)
    network.eval()
    with torch.no_grad():
        logits = network(some.images.float() / 255)
    found = results["models"]["model"]["shift_sets"]["BEASTS-R"]
    probs = logits[:, kept].softmax(dim=1)
    assert found["accuracy"]["value"] == pytest.approx(float(metrics.accuracy(probs, labels)))
    assert found["nll"]["value"] == pytest.approx(float(metrics.nll(probs, labels)), rel=1e-5)
    assert results["shift_sets"]["BEASTS-R"]["classes"] == 2
    assert results["shift_sets"]["BEASTS-R"]["note"] == "answers are looked for among its 2 classes"
    assert results["models"]["model"]["shift"] is None


def test_classes_that_do_not_fit_are_refused_before_work(network, data):
    given = Published({("x", None): data}, "BEASTS-S", "renditions", None, ["a", "b"])
    with pytest.raises(ValueError, match="BEASTS-S: the model lacks a"):
        evaluate(network, data, shift=[given])


def test_frost_textures_are_told_by_their_content(data, tmp_path):
    from PIL import Image

    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 6))
    textures, parts = tmp_path / "textures", tmp_path / "parts"
    textures.mkdir()
    found, values = [], []
    quick = {"severities": (3,), "resamples": 0, "examples": 0, "frost_textures": textures}
    for grey in (30, 30, 220):
        Image.new("RGB", (64, 64), (grey, grey, grey)).save(textures / "frost.png")
        results = [evaluate(model, data, shift=["frost"], **quick, parts=place) for place in (parts, None)]
        found.append(results[0]["parts_found"])
        values.append([r["models"]["model"]["shift"]["mean"]["nll"]["value"] for r in results])
    assert found == [0, 2, 1]
    assert all(kept == fresh for kept, fresh in values)
    assert values[0] == values[1] != values[2]


def copied(folder, pixels, labels):
    """A folder laid out as CIFAR-10-C, whose images are the given ones at each severity."""
    import numpy as np

    np.save(folder / "labels.npy", np.tile(labels.numpy(), 5))
    np.save(folder / "contrast.npy", np.tile(pixels.permute(0, 2, 3, 1).numpy(), (5, 1, 1, 1)))
    return published(folder)


@pytest.mark.parametrize("beside", [False, True])
def test_published_images_are_read_like_the_test_images(data, tmp_path, beside):
    """A "published" set of the test images themselves must give the clean numbers, whatever the models take."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (60, 3, 32, 32), generator=generator, dtype=torch.uint8)
    labels = torch.arange(60) % 10
    shifted = copied(tmp_path, pixels, labels)
    images = TensorSet(pixels, labels, list(shifted.class_names), name="cifar10", split="test")
    torch.manual_seed(1)

    def model(side: int) -> torch.nn.Module:
        net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * side * side, 10))
        return kedge.plain(net, example=(3, side, side))

    models = {"small": model(32), **({"big": model(80)} if beside else {})}
    results = evaluate(models, images, shift=[shifted], severities=(2,), resamples=0, examples=0)
    for found in results["models"].values():
        assert found["shift"]["mean"]["nll"]["value"] == pytest.approx(found["clean"]["nll"]["value"], abs=1e-6)


def test_classes_called_by_numbers_are_those_numbers(tmp_path):
    """Folders called 0 to 99 are sorted as text: taken by their places, nearly all labels were wrong."""
    pixels = torch.randint(0, 256, (200, 3, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    labels, names = torch.arange(200) % 100, sorted(map(str, range(100)))
    shifted = copied(tmp_path, pixels, labels)
    places = torch.tensor([names.index(str(label)) for label in labels.tolist()])
    images = TensorSet(pixels, places, names, name="photos", split="test")
    torch.manual_seed(1)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 32 * 32, 100))
    lines: list[str] = []
    results = evaluate(model, images, shift=[shifted], severities=(2,), resamples=0, examples=0, notice=lines.append)
    measured = results["models"]["model"]
    assert measured["shift"]["mean"]["nll"]["value"] == pytest.approx(measured["clean"]["nll"]["value"], abs=1e-6)
    assert (
        "CIFAR-100-C: the classes are called by numbers, which are taken for places in the published order: 0 for "
        "apple, 1 for aquarium_fish, ..., 99 for worm. If they are other classes, what is measured on this set means "
        "nothing"
    ) in lines
    (number_words,) = [note for note in results["shift_notes"]["CIFAR-100-C"] if "called by numbers" in note]
    assert f"CIFAR-100-C: {number_words}" in lines
    (doubt,) = measured["warnings"]
    assert doubt.startswith(
        "it does not name its outputs, so they are taken for the data's classes in turn (model.class_names says which "
        "they are): classes are in the order of their names as text, 0, 1, 10, 11, ..., and not by value (0, 1, 2, 3, "
    )
    assert f"careful, model: {doubt}" in lines
    named = kedge.plain(model, example=(3, 32, 32))
    named.class_names = names
    quick = {"shift": (), "resamples": 0, "examples": 0}
    assert evaluate(named, images, **quick)["models"]["model"]["warnings"] == []
    in_turn = TensorSet(pixels, labels, [f"{i:02}" for i in range(100)], name="photos", split="test")
    assert evaluate(model, in_turn, **quick)["models"]["model"]["warnings"] == []


def test_numbers_are_told_of_in_the_record_of_a_set(network, data):
    lines: list[str] = []
    digits = TensorSet(data.images, data.labels, list("012345"), name="digits")
    own = Published({("x", None): digits}, "DIGITS-R", "renditions", None, list("012345"))
    results = evaluate(network, digits, shift=[own], resamples=0, notice=lines.append)
    assert results["shift_sets"]["DIGITS-R"]["note"] is None  # called by numbers itself
    own.space = ("ant", "bat", "cat", "dog", "eel", "fox")
    results = evaluate(network, digits, shift=[own], resamples=0, notice=lines.append)
    assert (
        "places in the published order: 0 for ant, 1 for bat, ..., 5 for fox. "
        in (results["shift_sets"]["DIGITS-R"]["note"])
    )


def test_sets_of_another_size_than_the_clean_one(network, data):
    fewer = darker(data.subset(range(40)), 2)
    given = Published({("dark", 1): darker(data, 2), ("dark", 5): fewer}, class_names=data.class_names)
    shift = evaluate(network, data, shift=[given], resamples=30)["models"]["model"]["shift"]
    assert shift["mean"]["accuracy"]["low"] <= shift["mean"]["accuracy"]["value"] <= shift["mean"]["accuracy"]["high"]


def test_versions_of_a_published_set_stay_apart(network, data):
    versions = {("v4", None): darker(data, 2), ("v6", None): darker(data.subset(range(30)), 4)}
    given = Published(versions, "BEASTS.1", "renditions", None, data.class_names)
    results = evaluate(network, data, shift=[given], resamples=0)
    assert {name: s["images"] for name, s in results["shift_sets"].items()} == {"BEASTS.1 v4": 90, "BEASTS.1 v6": 30}
    assert set(results["models"]["model"]["shift_sets"]) == {"BEASTS.1 v4", "BEASTS.1 v6"}
    with pytest.raises(ValueError, match=r"two published sets are called BEASTS\.1"):
        evaluate(network, data, shift=[given, given])


def test_what_published_images_lack_is_in_the_results(network, data):
    """One sentence for each reason, and not for each of many conditions."""
    part = darker(data.only_classes(["cat", "dog"]), 2)
    part.class_names = data.class_names
    part.report.total = 3200
    part.report.notes = ["2 image files are of a kind that is not read and left out: 2 .svg, such as a.svg"]
    part.report.skipped = [("a.png", "cut off"), ("b.png", "cut off")]
    lines: list[str] = []
    sets = {("dark", 1): darker(data, 2), **{(name, 2): part for name in "abcdefghijk"}}
    own = Published(sets, class_names=data.class_names, notes=["14 of the 15 corruptions are lacking"])
    quick = {"resamples": 0, "examples": 0}
    notes = evaluate(network, data, shift=[own], **quick, notice=lines.append)["shift_notes"]["BEASTS-C"]
    assert [note.partition(": a 2")[0] for note in notes] == [
        "14 of the 15 corruptions are lacking",
        "classes without images",
        "images that cannot be read are left out",
        "image files of a kind that is not read are left out",
    ]
    assert notes[1].startswith("classes without images: a 2 (4 of 6), b 2 (4 of 6), ")
    assert notes[2].endswith("h 2 (2 of 3,200) and 3 more")
    assert {f"BEASTS-C: {note}" for note in notes[1:]} <= set(lines)
    own = Published({("BEASTS-R", None): part}, "BEASTS-R", "renditions", None, data.class_names, ["small"])
    results = evaluate(network, data, shift=[own], **quick)
    assert results["shift_notes"] == {}
    assert results["shift_sets"]["BEASTS-R"]["note"].startswith("small; classes without images: BEASTS-R (4 of 6); ")

from dataclasses import dataclass, field

import pytest
import torch

from kedge import metrics
from kedge.data import DataError, TensorSet
from kedge.data.corruptions import NAMES
from kedge.evaluation import evaluate
from kedge.evaluation.shifts import shifts


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
    found = []
    for grey in (30, 30, 220):
        Image.new("RGB", (64, 64), (grey, grey, grey)).save(textures / "frost.png")
        quick = {"severities": (3,), "resamples": 0, "examples": 0, "parts": parts, "frost_textures": textures}
        found.append(evaluate(model, data, shift=["frost"], **quick)["parts_found"])
    assert found == [0, 2, 1]

"""The room of steps: what every step does, and one that is dropped in."""

import copy
import json
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from torch import nn

import kedge
from kedge import catalog, data, postprocess
from kedge.anchoring.adaptive import stages
from kedge.attacks import Bank
from kedge.postprocess import _base
from kedge.scores import AMP, Masked, outputs_of
from kedge.training import calibrate
from tests.dropping import from_docs

VALUES = {
    "stable_max": None,
    "temperature": 1.7,
    "class_prior": {"target": [0.2, 0.3, 0.5], "train": [0.7, 0.2, 0.1]},
    "prediction_sets": {
        "score": "lac",
        "coverage": 0.9,
        "by_class": False,
        "thresholds": [0.7],
        "images": [50],
        "penalty": 0.1,
        "free": 1,
        "usual": {"accuracy": 0.8, "entropy": -0.4, "energy": 1.0},
    },
}


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return self.head(torch.tanh(self.conv(x)).mean((2, 3)))


def small(kind: str = "anchored") -> kedge.anchoring.PixelModel:
    torch.manual_seed(0)
    if kind == "plain":
        model = kedge.plain(Small().eval(), example=(3, 6, 6), mean=0.4, std=0.2)
    else:
        model = kedge.anchor(Small().eval(), example=(3, 6, 6), mean=0.4, std=0.2)
        nn.init.normal_(model.stem.reference.weight)
        model.references = torch.rand(4, 3, 6, 6)
    model.class_names = ["a", "b", "c"]
    return model


@pytest.fixture(params=["anchored", "plain"])
def model(request):
    return small(request.param)


@pytest.fixture
def images():
    return torch.rand(16, 3, 6, 6, generator=torch.Generator().manual_seed(1))


def test_every_step_of_the_room_says_where_it_comes_from_and_has_a_row_here():
    assert set(catalog.names("postprocess")) == set(VALUES)
    for name in catalog.names("postprocess"):
        assert catalog.info("postprocess", name).cite
        assert catalog.get("postprocess", name).sentence


@pytest.mark.parametrize("name", VALUES)
def test_a_step_is_undone_and_keeps_the_dtype(name):
    step = catalog.get("postprocess", name)(VALUES[name])
    logits = torch.randn(50, 3, dtype=torch.float64)
    torch.testing.assert_close(step.undo(step(logits)), logits)
    for dtype in (torch.float32, torch.bfloat16):
        assert step(logits.to(dtype)).dtype == dtype
    assert bool((step(logits).argmax(1) != logits.argmax(1)).any()) == step.changes_labels


@pytest.mark.parametrize("first", [*VALUES, "both"])
def test_every_way_through_a_model_does_the_steps_once(model, images, first, tmp_path):
    names = list(VALUES) if first == "both" else [first]
    network, before = model.network_logits(images), model.predict(images)
    masked = outputs_of(model, images, masked=True).masked
    for name in reversed(names):
        model.set_step(name, VALUES[name])
    assert list(model.steps) == names  # calibrated first, whatever was set first
    steps = [catalog.get("postprocess", name)(VALUES[name]) for name in names]

    def through(logits):
        for step in steps:
            logits = step(logits)
        return logits

    torch.testing.assert_close(model(images), through(network))
    prediction = model.predict(images)
    torch.testing.assert_close(prediction.logits, through(before.logits))
    assert torch.equal(prediction.label, prediction.probs.argmax(1))
    torch.testing.assert_close(postprocess.undo(model.steps, prediction.logits), before.logits)
    outputs = outputs_of(model, images, features=True, masked=True)
    torch.testing.assert_close(outputs.network_logits(), before.logits)
    weight, bias = outputs.head
    torch.testing.assert_close(outputs.features @ weight.T + bias, before.logits, atol=1e-5, rtol=1e-4)
    faced = model.for_attack()(images.clone().requires_grad_())
    torch.testing.assert_close(faced, prediction.logits)
    assert faced.requires_grad
    if model.count():
        torch.testing.assert_close(outputs.masked, masked)
        assert isinstance(model.for_attack(), Bank)
        for score in (AMP(), Masked()):
            torch.testing.assert_close(
                score.score(outputs),
                score.score(outputs_of(_without(model), images, masked=True)),
            )
    torch.testing.assert_close(model.fold()(images), model(images), atol=1e-5, rtol=1e-5)
    loaded = kedge.load(kedge.save(model, tmp_path / "saved"), model=Small())
    assert list(loaded.steps) == names
    assert torch.equal(loaded(images), model(images))
    twin = copy.deepcopy(model)
    for name in names:
        twin.steps.pop(name)
    assert torch.equal(twin(images), network)


def _without(model):
    twin = copy.deepcopy(model)
    twin.steps = {}
    return twin


@pytest.mark.parametrize("to", ["torch", "onnx"])
def test_an_exported_file_does_them(model, images, to, tmp_path):
    if to == "onnx" and find_spec("onnxscript") is None:
        pytest.skip("no onnxscript")
    for name, value in VALUES.items():
        model.set_step(name, value)
    done = kedge.deploy.export(model, tmp_path / f"m{kedge.deploy.FORMATS[to]}", to=to, check_images=images)
    torch.testing.assert_close(done.load()(images), model(images).detach(), atol=1e-5, rtol=1e-5)
    if to == "onnx":
        file = kedge.deploy.load_onnx(done.path)
        assert (
            file.describe_steps()
            == model.describe_steps()
            == [
                "StableMax",
                "temperature 1.7",
                "class prior 0.2, 0.3, 0.5",
                "prediction sets (lac) of 90 % coverage",
            ]
        )
        with pytest.raises(TypeError, match="exported file"):
            kedge.save(file, tmp_path / "again")


def test_adaptive_references_ask_on_where_the_moved_answer_is_not_settled():
    """The margin that counts is that of the classes after the prior: a prior can settle every input, or unsettle it."""
    model = small()
    model.references = torch.rand(12, 3, 6, 6, generator=torch.Generator().manual_seed(2))
    images = torch.rand(64, 3, 6, 6, generator=torch.Generator().manual_seed(3))
    sure = {"target": [1 - 2e-30, 1e-30, 1e-30], "train": [1 / 3] * 3}
    model.set_step("class_prior", sure)
    assert (model.predict(images, references="adaptive").references_used == stages(12)[0]).all()
    # The moved leading classes level on average: nothing is settled by chance alone.
    mean = _without(model).predict(images[:1]).logits[0].double()
    gap = float(mean[0] - mean[1])
    share = torch.tensor([0.0, gap, -60.0], dtype=torch.float64).softmax(0).tolist()
    model.remove_step("class_prior")
    model.set_step("class_prior", {"target": share, "train": [1 / 3] * 3})
    moved = model.predict(images[:1], references="adaptive")
    assert moved.references_used.item() > stages(12)[0]


def test_threads_predict_with_steps_at_once(model, images):
    """In training mode, where the model called as a function takes no steps."""
    for name, value in VALUES.items():
        model.set_step(name, value)
    expected = model.predict(images).logits
    model.train()
    with ThreadPoolExecutor(4) as pool:
        for answer in pool.map(lambda _: model.predict(images).logits, range(16)):
            torch.testing.assert_close(answer, expected)
    assert model.training


def test_a_step_of_a_stranger_names_no_code(tmp_path, model):
    folder = kedge.save(model, tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    config |= {"format_version": 2, "steps": {"os:system": {"value": 1.0}}}
    (folder / "config.json").write_text(json.dumps(config))
    with kedge.own_code.allow_code(), pytest.raises(ValueError, match="no step 'os:system'"):
        kedge.load(folder, model=Small())


def test_a_new_step_is_a_file(drop, tmp_path, monkeypatch, model, images):
    drop("postprocess", "own_scale", from_docs("calibration.md", "class OwnScale"))
    monkeypatch.setattr(_base, "_KINDS", dict(_base._KINDS))
    labels = torch.arange(16) % 3
    validation = data.TensorSet((images * 255).byte(), labels, ["a", "b", "c"], "specks", "val")
    before = model.predict(validation.images.float() / 255).logits
    record = calibrate(model, validation, "own-scale")
    assert record["value"] == pytest.approx(before.std(0).tolist(), rel=1e-5)
    assert "accuracy_after" in record
    loaded = kedge.load(kedge.save(model, tmp_path / "m"), model=Small())
    shown = validation.images.float() / 255
    torch.testing.assert_close(loaded.predict(shown).logits, before / before.std(0), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(loaded.fold()(shown), loaded(shown), atol=1e-5, rtol=1e-5)
    assert loaded.describe_steps() == ["own scale of 3"]
    done = kedge.deploy.export(loaded, tmp_path / "m.pt2", to="torch")
    torch.testing.assert_close(done.load()(shown), loaded(shown).detach(), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="own_scale takes no prior"):
        calibrate(loaded, validation, "own_scale", prior="uniform")


def test_the_file_that_is_listed_is_a_file_of_the_room():
    folder = Path(postprocess.__file__).parent
    assert {p.stem for p in folder.glob("[a-z]*.py")} == set(VALUES)
    assert postprocess.ClassPrior is catalog.get("postprocess", "class_prior")
    assert {"ClassPrior", "Temperature"} <= set(dir(postprocess))

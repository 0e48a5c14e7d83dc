import json
import shutil
import zipfile

import numpy as np
import pytest
import torch
from torch import nn

import kedge
from kedge.deploy import OnnxModel, export, exporting, load_onnx

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")


def small_network(channels=3, outputs=4):
    return nn.Sequential(
        nn.Conv2d(channels, 6, 3, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Linear(24, outputs),
    )


def anchored():
    torch.manual_seed(5)
    made = kedge.anchor(small_network().eval(), mean=[0.5, 0.4, 0.3], std=[0.2, 0.3, 0.25], example=(3, 9, 11))
    with torch.no_grad():
        made.stem.reference.weight.add_(0.3 * torch.randn_like(made.stem.reference.weight))
    made.references = torch.rand(3, 3, 9, 11)
    made.class_names = ["glass", "Pappe", "プラ", "trash"]
    made.reject = {"score": "confidence", "threshold": 0.6, "coverage": 0.95}
    return made.eval()


@pytest.fixture
def model():
    return anchored()


@pytest.fixture
def images():
    return torch.rand(7, 3, 9, 11, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The model in an ONNX file, checked on the images; nothing writes to it."""
    images = torch.rand(7, 3, 9, 11, generator=torch.Generator().manual_seed(1))
    return export(anchored(), tmp_path_factory.mktemp("exported") / "new" / "m.onnx", check_images=images)


def test_onnx_file_is_ordinary_and_equal_to_the_model(model, images, exported):
    done = exported
    onnx.checker.check_model(onnx.load(done.path))
    session = onnxruntime.InferenceSession(str(done.path), providers=["CPUExecutionProvider"])
    (taken,) = session.get_inputs()
    assert (taken.name, taken.shape[1:]) == ("images", [3, 9, 11])
    assert isinstance(taken.shape[0], str)  # any batch size
    with torch.no_grad():
        expected = model(images)
    largest = 0.0
    for size in (1, 2, 7):
        (logits,) = session.run(["logits"], {"images": images[:size].numpy()})
        largest = max(largest, float(np.abs(logits - expected[:size].numpy()).max()))
    assert largest < 1e-5
    assert done.largest_difference == pytest.approx(largest, abs=1e-6)
    assert (done.images, done.real) == (7, True)
    assert "7 images" in str(done)
    assert [p.name for p in done.path.parent.iterdir()] == ["m.onnx"]


def test_torch_file_loads_back_with_any_batch_size(model, images, tmp_path):
    done = export(model, tmp_path / "m.pt2", to="torch", check_images=images)
    card = {"kedge.json": ""}
    program = torch.export.load(done.path, extra_files=card).module()
    for size in (1, 3, 7):
        assert torch.allclose(program(images[:size]), model(images[:size]), atol=1e-5)
    assert json.loads(card["kedge.json"])["class_names"] == model.class_names


def test_the_card_travels_in_the_onnx_file(model, images, exported, tmp_path):
    found = load_onnx(exported.path)
    assert isinstance(found, OnnxModel)
    assert found.class_names == model.class_names
    assert found.reject == model.reject
    assert (found.input_shape, found.num_outputs, found.task) == ((3, 9, 11), 4, "classification")
    expected = model.predict(images, references=1)
    got = found.predict(images)
    assert torch.allclose(got.probs, expected.probs, atol=1e-5)
    assert torch.equal(got.label, expected.label)
    assert got.uncertainty is None
    with pytest.raises(ValueError, match="folded already"):
        found.fold()
    with pytest.raises(ValueError, match="exported file already"):
        export(found, tmp_path / "again.onnx")
    properties = {p.key: p.value for p in onnx.load(exported.path).metadata_props}
    assert json.loads(properties["kedge"])["kedge_version"] == kedge.__version__


@pytest.mark.parametrize("to", ["onnx", "torch"])
def test_neither_images_nor_paths_of_this_machine_are_inside(model, images, exported, tmp_path, to):
    path = exported.path
    if to == "torch":
        path = export(model, tmp_path / "m.pt2", to=to, check_images=images).path
    content = path.read_bytes()
    if to == "torch":
        with zipfile.ZipFile(path) as archive:
            content = b"".join(archive.read(n) for n in archive.namelist())
    assert b"site-packages" not in content
    assert str(path.parent).encode() not in content
    for image in [*model.references, *images]:
        assert image.numpy().tobytes()[:64] not in content


@pytest.mark.parametrize("to", ["onnx", "torch"])
def test_vectors_regression_and_plain_models(to, tmp_path):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))
    model = kedge.plain(network, mean=0.1, std=2.0, example=(5,), task="regression").double()
    values = torch.rand(4, 5)
    done = export(model, tmp_path / f"m{exporting.FORMATS[to]}", to=to, check_images=values)
    assert done.largest_difference < 1e-5
    if to == "onnx":
        found = load_onnx(done.path)
        assert found.task == "regression"
        expected = network.float()((values - 0.1) / 2.0)
        assert torch.allclose(found.predict(values).logits, expected, atol=1e-5)


def test_export_leaves_the_callers_model_alone_and_takes_uint8(model, tmp_path):
    model.train()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    images = torch.randint(0, 256, (3, 3, 9, 11), dtype=torch.uint8)
    export(model, tmp_path / "m.pt2", to="torch", check_images=images)
    assert model.training
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize(("to", "name", "damage"), [("onnx", "m.onnx", float("nan")), ("torch", "m.pt2", 0.01)])
def test_a_file_that_disagrees_is_not_left(model, images, tmp_path, monkeypatch, to, name, damage):
    path = tmp_path / name
    path.write_bytes(b"the last good one")
    writer = f"_write_{to}"
    honest = getattr(exporting, writer)

    def damaged(folded, *rest):
        with torch.no_grad():
            folded.get_submodule("5").bias.add_(damage)
        honest(folded, *rest)

    monkeypatch.setattr(exporting, writer, damaged)
    with pytest.raises(RuntimeError, match=r"disagrees .* allowed is"):
        export(model, path, to=to, check_images=images)
    assert path.read_bytes() == b"the last good one"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_exported_says_so(tmp_path):
    class Sneaky(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x):
            return self.layer(x) * (2 if float(x.sum()) > 0 else 1)

    model = kedge.plain(Sneaky(), example=(3,))
    with pytest.raises(RuntimeError, match=r"Sneaky.* could not be exported to torch"):
        export(model, tmp_path / "m.pt2", to="torch")
    assert list(tmp_path.iterdir()) == []


def test_wrong_arguments_are_explained(model, images, tmp_path):
    with pytest.raises(ValueError, match="to must be one of onnx, torch, got 'tflite'"):
        export(model, tmp_path / "m.onnx", to="tflite")
    with pytest.raises(ValueError, match=r"must end in \.onnx, got 'm\.pt2'; for \.pt2 use to='torch'"):
        export(model, tmp_path / "m.pt2")
    with pytest.raises(ValueError, match=r"kedge\.plain"):
        export(nn.Linear(2, 2), tmp_path / "m.onnx")
    with pytest.raises(ValueError, match=r"\[N, 3, 9, 11\], got \[7, 3, 9, 10\]"):
        export(model, tmp_path / "m.onnx", check_images=images[..., :10])
    with pytest.raises(ValueError, match="check_images is empty"):
        export(model, tmp_path / "m.onnx", check_images=images[:0])
    assert list(tmp_path.iterdir()) == []


def test_missing_extra_says_what_to_install(model, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(ImportError, match=r"onnxscript.*pip install onnx onnxruntime onnxscript"):
        export(model, tmp_path / "m.onnx")


def test_files_that_are_not_ours_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="no such file"):
        load_onnx(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(ValueError, match="not an ONNX file"):
        load_onnx(tmp_path / "text.onnx")
    foreign = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> f (float[N] x) => (float[N] y) { y = Abs(x) }'
    )
    onnx.save(foreign, tmp_path / "foreign.onnx")
    with pytest.raises(ValueError, match="not written by kedge export"):
        load_onnx(tmp_path / "foreign.onnx")


GOOD = {
    "format_version": 1,
    "kedge_version": "0.1.0",
    "task": "classification",
    "input_shape": [3, 9, 11],
    "num_outputs": 2,
    "class_names": ["a", "b"],
    "reject": None,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format_version": 99}, "reads up to 2"),
        ({"format_version": None}, "no format_version"),
        ({"input_shape": []}, "input_shape"),
        ({"input_shape": [3, -1, 2]}, "input_shape"),
        ({"num_outputs": True}, "num_outputs"),
        ({"task": "magic"}, "task"),
        ({"class_names": ["a"]}, "class_names has 1 names, but num_outputs is 2"),
        ({"reject": {"threshold": "0.5"}}, "threshold"),
        ({"reject": {"threshold": 0.5, "log_odds": "0"}}, "log_odds"),
        ({"reject": {"threshold": float("nan")}}, "NaN is no number"),
        ({"reject": {"threshold": -1}}, "a confidence between 0 and 1"),
        ({"reject": {"threshold": 1e308, "log_odds": -1e308}}, "a confidence between 0 and 1"),
        ({"input_shape": [3, 200_000, 200_000]}, "input_shape"),
        ({"input_shape": [3, 9, 10**12]}, "input_shape"),
        ({"num_outputs": 10**12, "class_names": None}, "num_outputs"),
        ({"steps": {"temperature": {"value": float("inf")}}}, "Infinity is no number"),
        ({"steps": [1]}, "steps"),
    ],
)
def test_a_tampered_card_is_refused(change, message):
    from kedge.deploy.card import read_card

    assert read_card(json.dumps(GOOD), "file")["num_outputs"] == 2
    with pytest.raises(ValueError, match=message):
        read_card(json.dumps(GOOD | change), "file")
    with pytest.raises(ValueError, match="not JSON"):
        read_card("{", "file")


@pytest.mark.parametrize("to", ["onnx", "torch"])
def test_a_temperature_is_in_the_file_and_only_once(model, images, tmp_path, to):
    plain = model(images)
    model.set_temperature(1.6, fitted_on="rubbish (val)")
    path = export(model, tmp_path / f"m{exporting.FORMATS[to]}", to=to, check_images=images).path
    if to == "torch":
        torch.testing.assert_close(torch.export.load(path).module()(images), plain / 1.6, atol=1e-5, rtol=1e-4)
        return
    loaded = load_onnx(path)
    torch.testing.assert_close(loaded(images), plain / 1.6, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(loaded.predict(images).logits, plain / 1.6, atol=1e-5, rtol=1e-4)
    assert loaded.describe_steps() == ["temperature 1.6"]
    assert loaded.inside["temperature"]["fitted_on"] == "rubbish (val)"
    assert loaded.steps == {}


def test_an_onnx_file_above_torchs_threshold_keeps_its_weights(model, images, exported, tmp_path, monkeypatch):
    from torch.onnx._internal.exporter import _onnx_program

    assert exported.weights is None
    monkeypatch.setattr(_onnx_program, "_LARGE_MODEL_THRESHOLD", 0)
    (tmp_path / "new").mkdir()
    done = export(model, tmp_path / "new" / "m.onnx", check_images=images)
    assert sorted(path.name for path in done.path.parent.iterdir()) == ["m.onnx", "m.onnx.data"]
    assert done.weights == done.path.with_name("m.onnx.data")
    assert "m.onnx with m.onnx.data, without which it does not run" in str(done)
    moved = done.path.parent.rename(tmp_path / "elsewhere") / "m.onnx"
    assert torch.equal(load_onnx(moved)(images), load_onnx(exported.path)(images))
    moved.with_name("m.onnx.data").unlink()
    with pytest.raises(FileNotFoundError, match=r"keeps its weights in m\.onnx\.data, which is not beside it"):
        load_onnx(moved)


LIES = (
    (lambda card: {**card, "num_outputs": 3, "class_names": ["a", "b", "c"]}, r"returns .* but says of itself \[3\]"),
    (lambda card: {**card, "input_shape": [3, 90, 110]}, r"takes .* but says of itself \[3, 90, 110\]"),
    (lambda card: {**card, "input_shape": [9, 11]}, "takes"),
    (lambda card: {**card, "reject": {"threshold": float("nan")}}, "NaN is no number"),
    (lambda card: {**card, "reject": {"threshold": -0.5}}, "reject cannot be"),
    (lambda card: "[" * 100_000, "nested deeper than 64"),
    (lambda card: "[]", "a list where a mapping"),
)


def test_a_card_that_lies_about_its_network_is_refused(exported, images, tmp_path):
    path = shutil.copy(exported.path, tmp_path / "m.onnx")
    proto = onnx.load(path)
    (entry,) = (each for each in proto.metadata_props if each.key == "kedge")
    right = entry.value
    for change, message in LIES:
        changed = change(json.loads(right))
        entry.value = changed if isinstance(changed, str) else json.dumps(changed)
        onnx.save(proto, path)
        with pytest.raises(ValueError, match=message) as caught:
            load_onnx(path)
        assert str(path) in str(caught.value)
    entry.value = right
    onnx.save(proto, path)
    loaded = load_onnx(path)
    assert loaded(images).shape == (7, 4)
    # A graph may leave the number of its outputs open: then only its answers tell.
    loaded.network.num_outputs = 9
    with pytest.raises(ValueError, match="says of itself that it has 9 outputs"):
        loaded(images)

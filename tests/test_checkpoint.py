import json
import os
import pickle
import shutil
import warnings

import pytest
import timm
import torch
from torch import Tensor, nn

import kedge
from kedge import checkpoint, networks
from kedge.regular import file_digest


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def small_anchored(classes=4, **kwargs):
    model = kedge.anchor(timm.create_model("test_resnet", num_classes=classes, **kwargs).eval())
    with torch.no_grad():
        model.stem.reference.weight.add_(0.05 * torch.randn_like(model.stem.reference.weight))
    model.references = torch.rand(3, *model.input_shape)
    model.class_names = [f"class {i}" for i in range(classes)]
    model.reject = {"score": "confidence", "threshold": 0.6, "coverage": 0.95}
    return model


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    torch.manual_seed(0)
    model = small_anchored()
    return model, kedge.save(model, tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture
def folder(saved, tmp_path):
    return shutil.copytree(saved[1], tmp_path / "model")


def edit(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    config.update(changes)
    (folder / "config.json").write_text(json.dumps(config))


def test_what_is_saved_is_what_is_loaded(saved):
    model, folder = saved
    assert sorted(os.listdir(folder)) == ["config.json", "model.safetensors"]
    loaded = kedge.load(folder)
    images = torch.rand(3, *model.input_shape)
    assert torch.equal(loaded(images), model(images))
    assert torch.equal(loaded.predict(images).uncertainty, model.predict(images).uncertainty)
    assert loaded.class_names == model.class_names
    assert loaded.reject == model.reject
    assert not loaded.training


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("test_vit", {"img_size": 64}),
        ("test_nfnet", {"in_chans": 1}),
        ("test_efficientnet", {"drop_rate": 0.1}),
        ("kedge_resnet_small", {"width": 8}),
        ("kedge_resnet_small", {"width": 8, "in_chans": 1}),
    ],
)
@pytest.mark.parametrize("kind", ["anchored", "plain"])
def test_timm_names_need_nothing_else(tmp_path, name, arguments, kind):
    import kedge.networks

    network = timm.create_model(name, num_classes=3, **arguments).eval()
    model = {"anchored": kedge.anchor, "plain": kedge.plain}[kind](network)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        loaded = kedge.load(kedge.save(model, tmp_path))
    images = torch.rand(2, *model.input_shape)
    assert torch.equal(loaded(images), model.eval()(images))
    assert type(loaded) is type(model)


def test_torchvision_names_need_nothing_else(tmp_path):
    from kedge.networks import create

    model = kedge.anchor(create("torchvision/squeezenet1_1", 3).eval(), example=(3, 64, 64))
    loaded = kedge.load(kedge.save(model, tmp_path))
    images = torch.rand(2, 3, 64, 64)
    assert torch.allclose(loaded(images), model(images))


def test_a_replaced_head_is_saved_with_its_real_class_count(tmp_path):
    network = timm.create_model("test_resnet", num_classes=10)
    network.reset_classifier(3)
    assert kedge.load(kedge.save(kedge.plain(network), tmp_path)).num_outputs == 3


def own_network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


def test_other_networks_load_into_one_that_is_given(tmp_path):
    model = kedge.anchor(own_network().eval(), example=(3, 8, 8), mean=0.4, std=0.2)
    model.references = torch.rand(5, 3, 8, 8)
    with pytest.warns(UserWarning, match="Sequential has no name in timm"):
        kedge.save(model, tmp_path)
    with pytest.raises(ValueError, match=r"pass it, kedge\.load\(folder, model=Sequential"):
        kedge.load(tmp_path)
    loaded = kedge.load(tmp_path, model=own_network())
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(loaded(images), model(images))
    wrong = own_network()
    wrong[4] = nn.Linear(4, 7)
    with pytest.raises(ValueError, match="has 7 outputs, but the saved one has 2"):
        kedge.load(tmp_path, model=wrong)
    with pytest.raises(ValueError, match="before anchoring"):
        kedge.load(tmp_path, model=model)
    deeper = nn.Sequential(*list(own_network())[:4], nn.Linear(4, 2), nn.Linear(2, 2))
    with pytest.raises(ValueError, match=r"do not fit the model.*5\.weight"):
        kedge.load(tmp_path, model=deeper)


def test_a_network_changed_after_its_name_says_so(tmp_path):
    network = timm.create_model("test_resnet", num_classes=3).eval()
    network.fc = nn.Sequential(nn.Linear(network.num_features, 8), nn.ReLU(), nn.Linear(8, 3))
    with pytest.warns(UserWarning, match="test_resnet rebuilt by name is not this network"):
        kedge.save(kedge.plain(network), tmp_path)
    with pytest.raises(ValueError, match="model=ResNet"):
        kedge.load(tmp_path)


def test_other_users_may_read_what_the_umask_lets_them(saved):
    modes = {oct((saved[1] / name).stat().st_mode & 0o777) for name in ("config.json", "model.safetensors")}
    assert len(modes) == 1


def test_half_precision_survives(tmp_path):
    model = small_anchored().half()
    loaded = kedge.load(kedge.save(model, tmp_path))
    assert loaded.mean.dtype == torch.float16
    assert torch.equal(loaded.references, model.references)


def test_saving_again_replaces_and_a_failed_save_keeps_the_old(folder, monkeypatch):
    before = (folder / "config.json").read_bytes(), (folder / "model.safetensors").read_bytes()

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="No space left"):
        kedge.save(small_anchored(), folder)
    monkeypatch.undo()
    assert ((folder / "config.json").read_bytes(), (folder / "model.safetensors").read_bytes()) == before
    assert sorted(os.listdir(folder)) == ["config.json", "model.safetensors"]
    other = small_anchored(classes=2)
    kedge.save(other, folder)
    assert kedge.load(folder).num_outputs == 2


def test_weights_that_are_not_finite_are_not_saved(tmp_path):
    model = small_anchored()
    model.stem.residual.weight.data[0] = torch.nan
    with pytest.raises(ValueError, match=r"residual\.weight"):
        kedge.save(model, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_only_kedge_models_are_saved(tmp_path):
    with pytest.raises(TypeError, match=r"kedge\.plain\(network"):
        kedge.save(nn.Linear(2, 2), tmp_path)


class Evil:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return open, (self.marker, "w")


def rehash(folder):
    edit(folder, weights_sha256=file_digest(folder / "model.safetensors"))


@pytest.mark.parametrize("how", ["pickle", "torch", "text", "cut"])
def test_weights_that_are_not_safetensors_are_refused_and_run_nothing(folder, tmp_path, how):
    marker = tmp_path / "executed"
    path = folder / "model.safetensors"
    if how == "pickle":
        path.write_bytes(pickle.dumps(Evil(str(marker))))
    elif how == "torch":
        torch.save({"weight": Evil(str(marker))}, path)
    elif how == "text":
        path.write_text("weights")
    else:
        path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"is not the file that config\.json was written for"):
        kedge.load(folder)
    rehash(folder)
    with pytest.raises(ValueError, match="not a safetensors file"):
        kedge.load(folder)
    assert not marker.exists()


def named(name, library="timm", **arguments):
    return {"architecture": {"library": library, "name": name, "arguments": arguments}}


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"format": "pickle"}, "not a kedge config"),
        ({"format_version": 4}, "upgrade kedge"),
        ({"format_version": "1"}, "format_version cannot be"),
        ({"kind": "os.system"}, "kind cannot be"),
        ({"kind": ["anchored"]}, "kind cannot be"),
        ({"architecture": [1]}, "architecture cannot be"),
        (named("test_resnet", num_classes=None), "None outputs|num_classes"),
        ({"reject": {"threshold": -1.0}}, "reject cannot be"),
        ({"num_outputs": 10**12, "class_names": None}, "num_outputs cannot be"),
        ({"steps": {"temperature": {"value": 10**400}}}, "a number of 401 digits is too large"),
        ({"num_outputs": 5}, "class_names has 4 names, but num_outputs is 5"),
        ({"num_outputs": 5, "class_names": None}, "has 4 outputs, but the saved one has 5"),
        ({"class_names": ["a", "b", "c", 4]}, "class_names"),
        ({"input_shape": [3, -1, 8]}, "input_shape cannot be"),
        ({"first_layer": "fc"}, "fc"),
        ({"first_layer": "__class__"}, "not a module"),
        ({"dtype": "load"}, "dtype cannot be"),
        ({"reject": {"threshold": "high"}}, "reject cannot be"),
        ({"reject": {"threshold": True}}, "reject cannot be"),
        ({"reject": {"threshold": 0.5, "log_odds": "high"}}, "reject cannot be"),
        ({"reject": {"threshold": float("nan")}}, "NaN is no number"),
        ({"input_shape": [3, 200_000, 200_000]}, "input_shape cannot be"),
        ({"weights_sha256": "../../secret"}, "weights_sha256 cannot be"),
        (named("system", "os"), "architecture"),
        (named("hf-hub:evil/model"), "evil"),
        (named("local-dir:/srv"), "local-dir"),
        (
            {"architecture": {"library": "timm", "name": "test_resnet", "arguments": {"checkpoint_path": "x"}}},
            "checkpoint_path",
        ),
        (named("test_resnet", pretrained=True), "pretrained"),
        (
            {"architecture": {"library": "timm", "name": "kedge_resnet_small", "arguments": {"width": 4096}}},
            "it was changed",
        ),
        (named("test_resnet2", num_classes=4), "resnet|fit"),
        (named("test_resnet", num_classes=9), "9"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_a_tampered_config_is_refused(folder, changes, match):
    edit(folder, **changes)
    with pytest.raises(ValueError, match=match):
        kedge.load(folder)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"num_outputs": 7, "class_names": None}, "has 4 outputs, but the saved one has 7"),
        ({"input_shape": [5, 64, 64]}, "mean|run|channels"),
    ],
)
def test_a_plain_model_that_does_not_fit_its_config_is_refused(tmp_path, changes, match):
    kedge.save(kedge.plain(timm.create_model("test_resnet", num_classes=4)), tmp_path)
    edit(tmp_path, **changes)
    with pytest.raises(ValueError, match=match):
        kedge.load(tmp_path)


def rewrite(folder, **tensors):
    from safetensors.torch import load_file, save_file

    save_file({**load_file(folder / "model.safetensors"), **tensors}, folder / "model.safetensors")
    rehash(folder)


@pytest.mark.parametrize(
    ("tensors", "match"),
    [
        ({"references": torch.rand(0, 3, 8, 8)}, "K >= 1"),
        ({"references": torch.rand(2, 5, 8, 8)}, "references must have shape"),
        ({"references": torch.ones(2, 3, 8, 8, dtype=torch.int64)}, "floating-point"),
        ({"references": torch.full((2, 3, 8, 8), torch.nan)}, "finite"),
        ({"residuals": torch.rand(2, 5, 8, 8)}, "residuals must have shape"),
    ],
    ids=["empty", "channels", "integers", "NaN", "residuals"],
)
def test_a_tampered_bank_is_refused(folder, tensors, match):
    rewrite(folder, **tensors)
    with pytest.raises(ValueError, match=match):
        kedge.load(folder)


@pytest.mark.parametrize("name", ["class_names", "reject", "architecture", "first_layer"])
def test_a_config_that_lacks_what_may_be_null_is_incomplete(folder, name):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config[name]
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"does not say {name}"):
        kedge.load(folder)


def test_weights_with_nan_are_refused(folder):
    from safetensors.torch import load_file

    state = load_file(folder / "model.safetensors")
    name = next(name for name in state if name.endswith("residual.weight"))
    rewrite(folder, **{name: torch.full_like(state[name], torch.nan)})
    with pytest.raises(ValueError, match="NaN or infinity"):
        kedge.load(folder)


def test_a_config_nested_without_end_is_refused(folder):
    (folder / "config.json").write_text("[" * 200_000)
    with pytest.raises(ValueError, match="nested deeper than 64"):
        kedge.load(folder)


@pytest.mark.parametrize("stop", [1, 2, 3, 4])
def test_a_save_broken_off_at_any_rename_leaves_a_model(folder, monkeypatch, stop):
    real, calls = os.replace, []

    def replace(*args):
        calls.append(args)
        if len(calls) == stop:
            raise KeyboardInterrupt
        real(*args)

    new = small_anchored(classes=2)
    monkeypatch.setattr(checkpoint.os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        kedge.save(new, folder)
    monkeypatch.undo()
    assert kedge.load(folder).num_outputs == (2 if stop == 4 else 4)
    kedge.save(new, folder)
    assert kedge.load(folder).num_outputs == 2
    assert sorted(os.listdir(folder)) == ["config.json", "model.safetensors"]


def test_an_anchored_layer_on_its_own(tmp_path):
    model = kedge.anchor(nn.Linear(6, 3), example=(6,)).eval()
    with pytest.warns(UserWarning, match="no name"):
        kedge.save(model, tmp_path)
    x = torch.rand(2, 6)
    assert torch.allclose(kedge.load(tmp_path, model=nn.Linear(6, 3))(x), model(x))


def test_saving_over_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(FileExistsError, match="writes a folder"):
        kedge.save(small_anchored(), tmp_path / "file")


def test_missing_and_wrong_places(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder"):
        kedge.load(tmp_path / "nowhere")
    with pytest.raises(ValueError, match="is a file"):
        kedge.load(folder / "config.json")
    with pytest.raises(FileNotFoundError, match="not a model"):
        kedge.load(tmp_path.parent)
    assert kedge.load(folder.parent).num_outputs == 4  # a run folder holds model/
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="not JSON"):
        kedge.load(folder)
    (folder / "config.json").write_text("[]")
    with pytest.raises(ValueError, match="holds a list where a mapping"):
        kedge.load(folder)


def test_missing_weights(folder):
    os.remove(folder / "model.safetensors")
    with pytest.raises(FileNotFoundError, match=r"no model\.safetensors"):
        kedge.load(folder)


def test_tensors_missing_from_the_weights(folder):
    from safetensors.torch import load_file, save_file

    state: dict[str, Tensor] = load_file(folder / "model.safetensors")
    for gone in ("mean", next(name for name in state if name.endswith("bias"))):
        save_file({n: v for n, v in state.items() if n != gone}, folder / "model.safetensors")
        rehash(folder)
        with pytest.raises(ValueError, match=gone):
            kedge.load(folder)


@pytest.mark.parametrize("kind", ["anchored", "plain"])
def test_a_temperature_is_saved_by_name_and_can_be_taken_out_again(tmp_path, kind):
    make = {"anchored": kedge.anchor, "plain": kedge.plain}[kind]
    model = make(timm.create_model("test_resnet", num_classes=4)).eval()
    images = torch.rand(2, *model.input_shape)
    before = model(images)
    model.set_temperature(1.25, fitted_on="flowers (val)", images=40, nll_before=1.5, nll_after=1.2)
    loaded = kedge.load(kedge.save(model, tmp_path / "model"))
    assert loaded.steps == model.steps
    assert torch.equal(loaded(images), before / 1.25)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["format_version"] == 2
    loaded.remove_step("temperature")
    again = kedge.load(kedge.save(loaded, tmp_path / "model"))
    assert again.steps == {}
    assert torch.equal(again(images), before)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["format_version"] == 1


def test_folders_from_before_there_were_steps_load(saved, folder):
    config = json.loads((folder / "config.json").read_text())
    del config["steps"]
    (folder / "config.json").write_text(json.dumps(config))
    assert kedge.load(folder).steps == {}


@pytest.mark.parametrize(
    "steps",
    [
        {"temperature": {"value": 0}},
        {"temperature": {"value": -1.0}},
        {"temperature": {"value": "2"}},
        {"temperature": {}},
        {"temperature": 2.0},
        {"code": {"value": 1.0}},
        [1.0],
        "temperature",
    ],
)
def test_steps_that_cannot_be_applied_are_not_loaded(folder, steps):
    edit(folder, steps=steps, format_version=2)
    with pytest.raises(ValueError, match="steps cannot be"):
        kedge.load(folder)


def test_steps_that_cannot_be_applied_are_not_saved_and_the_old_model_stays(saved, folder):
    model = kedge.load(folder)
    model.steps = {"temperature": {"value": float("nan")}}
    with pytest.raises(ValueError, match="positive finite number, got nan"):
        kedge.save(model, folder)
    model.steps = {"temperature": {"value": 2.0, "nll_before": float("nan")}}
    with pytest.raises(ValueError, match="JSON"):
        kedge.save(model, folder)
    assert kedge.load(folder).steps == {}
    assert sorted(os.listdir(folder)) == ["config.json", "model.safetensors"]


@pytest.mark.parametrize("wrap", [kedge.plain, kedge.anchor])
@pytest.mark.parametrize("name", ["kedge_resnet_small", "test_vit", "test_nfnet"])
def test_a_saved_model_was_checked_and_is_not_run_again(tmp_path, monkeypatch, name, wrap):
    torch.manual_seed(0)
    network = networks.create(name, 4, 3, 32, arguments={"width": 4} if name == "kedge_resnet_small" else None)
    model = wrap(network, mean=[0.4, 0.5, 0.6], std=0.25, example=(3, 32, 32)).eval()
    if wrap is kedge.anchor:
        with torch.no_grad():
            for weight in model.stem.reference.parameters():
                weight.add_(0.1 * torch.randn_like(weight))
        model.references = torch.rand(3, 3, 32, 32)
    images = torch.rand(2, 3, 32, 32)
    expected = model.predict(images).logits
    kedge.save(model, tmp_path)

    def run(*_):
        raise AssertionError("loading runs the network")

    with monkeypatch.context() as patched:
        patched.setattr(type(network), "forward", run)
        loaded = kedge.load(tmp_path)
    assert torch.allclose(loaded.predict(images).logits, expected, atol=1e-6)
    assert (loaded.input_shape, loaded.num_outputs, loaded.task) == ((3, 32, 32), 4, "classification")
    assert not any(module.training for module in loaded.modules())
    assert all(parameter.requires_grad for parameter in loaded.parameters())


@pytest.mark.parametrize("name", ["kedge_resnet_small", "test_vit", "test_convnext"])
def test_loading_draws_nothing(name, tmp_path):
    model = kedge.plain(networks.create(name, 3, 3, 32 if name.startswith("kedge") else None), example=EXAMPLE[name])
    folder = kedge.save(model.eval(), tmp_path / "model")
    before = torch.get_rng_state()
    loaded = kedge.load(folder)
    assert torch.equal(before, torch.get_rng_state())
    images = torch.rand(2, *EXAMPLE[name], generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded(images), model(images))


EXAMPLE = {"kedge_resnet_small": (3, 32, 32), "test_vit": (3, 160, 160), "test_convnext": (3, 160, 160)}

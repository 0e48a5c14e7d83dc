import shutil

import pytest
import torch

import kedge
from kedge import networks
from kedge.cli.foreign import load_timm
from kedge.cli.resolve_model import find, find_groups
from kedge.networks import PretrainedUnavailable


def test_a_run_is_found_by_folder_by_name_and_by_its_model(run_folder, monkeypatch):
    source = find(str(run_folder))
    assert (source.name, source.run, source.path) == ("first", run_folder, run_folder / "model")
    assert source.recipe()["data"] == "digits"
    assert find(str(run_folder / "model")).run.name == "first"
    assert find(str(run_folder / "model" / "config.json")).name == "first"
    monkeypatch.chdir(run_folder.parent.parent)
    assert find("first").load("cpu").num_outputs == 10
    (run_folder.parent.parent / "first" / "cat").mkdir(parents=True)  # photos that are called as the run
    assert find("first").load("cpu").num_outputs == 10


def test_a_model_folder_belongs_to_no_run(model_folder):
    source = find(str(model_folder))
    assert (source.name, source.run) == ("digit-model", None)
    assert source.recipe() == {}


def test_several_models_get_names_of_their_own(model_folder, run_folder):
    names = list(find_groups([str(model_folder), str(run_folder), str(model_folder)])[0])
    assert names == ["digit-model", "first", "digit-model (2)"]


def test_what_is_no_model_says_what_to_give(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no model at 'nowhere'.*none here"):
        find("nowhere")
    (tmp_path / "runs" / "some").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="there are: some"):
        find("nowhere")
    with pytest.raises(FileNotFoundError, match="a folder without a model"):
        find("some")
    (tmp_path / "runs" / "some" / "recipe.yaml").write_text("data: digits")
    with pytest.raises(FileNotFoundError, match=r"kedge train --resume runs.some"):
        find("some")
    for name, hint in (("last.ckpt", "run folder"), ("m.pt2", "ONNX"), ("m.pth", "not a model that kedge reads")):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(ValueError, match=hint):
            find(name)


def test_an_exported_file_keeps_its_suffix_beside_its_run(run_folder):
    (run_folder / "first.onnx").write_bytes(b"")
    assert list(find_groups([str(run_folder), str(run_folder / "first.onnx")])[0]) == ["first", "first.onnx"]


@pytest.fixture
def runs(run_folder, monkeypatch):
    """Runs first, second, lr=0.1 and a,b in runs/, which is here."""
    for name in ("second", "lr=0.1", "a,b"):
        shutil.copytree(run_folder, run_folder.with_name(name))
    monkeypatch.chdir(run_folder.parent.parent)


def test_groups_and_names(runs, model_folder):
    sources, groups = find_groups(["plain=digit-model", "anchored=first,runs/second", "first"])
    assert list(sources) == ["plain", "first", "second", "first (2)"]
    assert groups == {"anchored": ["first", "second"]}
    assert sources["plain"].name == "plain"
    assert find_groups(["first", "second"])[1] == {}
    assert list(find_groups(["anchored=first,second"])[0]) == ["first", "second"]


def test_a_path_that_exists_is_a_path(runs):
    assert find_groups(["lr=0.1", "a,b", "runs/lr=0.1/model"])[1] == {}
    sources, groups = find_groups(["both=lr=0.1,first", "odd=a,b,second,runs/a,b/../lr=0.1", "one=a,b"])
    assert groups == {"both": ["lr=0.1", "first"], "odd": ["a,b", "second", "lr=0.1 (2)"]}
    assert list(sources)[-1] == "one"
    with pytest.raises(FileNotFoundError, match=r"no model at 'runs/lr=0.2'.*did you mean runs/lr=0.1"):
        find_groups(["runs/lr=0.2"])


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (["x=first", "x=second"], "two models or groups are called 'x'"),
        (["x=first,runs/first"], "the group x holds runs/first twice"),
        (["first,second"], "need a name, NAME=first,second; else use spaces"),
        (["lr=0.1,second"], "need a name"),
        (["x="], "has no model"),
        (["x=,"], "has no model"),
        (["=first"], "has no name"),
        (["x=first,,second"], "a comma too many"),
        ([""], "empty"),
    ],
)
def test_groups_that_are_none(runs, given, match):
    with pytest.raises(ValueError, match=match):
        find_groups(given)


def test_near_names(runs):
    with pytest.raises(FileNotFoundError, match=r"did you mean second\?"):
        find("secnd")
    with pytest.raises(FileNotFoundError, match=r"did you mean runs/second\?"):
        find_groups(["x=first,runs/secnd"])
    with pytest.raises(FileNotFoundError, match=r"a published network of timm is written timm/resnet50"):
        find("resnet50")


MINE = """
import timm, torch
from torch import nn
import kedge

class Net(nn.Module):
    def forward(self, images):
        return images.flatten(1)[:, :10]

def classify(images):
    return images.flatten(1)[:, :10]

def make():
    return Net()

def make_timm():
    return timm.create_model("test_resnet", num_classes=7)

def make_kedge():
    return kedge.plain(timm.create_model("test_resnet", num_classes=7))

def broken():
    raise KeyError("weights.pt")

net = Net()
number = 3
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    (tmp_path / "my_models_of_kedge.py").write_text(MINE)
    (tmp_path / "fails_of_kedge.py").write_text("import not_there_at_all")
    (tmp_path / "wrong_of_kedge.py").write_text("1 / 0")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return "my_models_of_kedge"


def test_python_callables(mine):
    images = torch.rand(2, 3, 32, 32)
    for given, name in (("classify", "classify"), ("net", "net"), ("make()", "make"), ("Net()", "Net")):
        source = find(f"{mine}:{given}", python=True)
        assert (source.name, source.path, source.recipe()) == (name, None, {})
        model = source.load("cpu")
        assert torch.equal(model(images), images.flatten(1)[:, :10])
        assert not getattr(model, "training", False)
    network = find(f"{mine}:make_timm()", python=True).load("cpu")
    assert isinstance(network, kedge.anchoring.PlainModel)  # behind timm's normalisation
    assert network.mean.flatten().tolist() == [0.5, 0.5, 0.5]
    assert (network.num_outputs, network.training) == (7, False)
    assert find(f"{mine}:make_kedge()", python=True).load("cpu").num_outputs == 7
    sources, groups = find_groups([f"seeds={mine}:make(),{mine}:net", f"{mine}:net"])
    assert (list(sources), groups) == (["make", "net", "net (2)"], {"seeds": ["make", "net"]})


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ("my_models_of_kedg:net", "no module 'my_models_of_kedg' here.*did you mean my_models_of_kedge"),
        ("my_models_of_kedge.deep:net", "no module 'my_models_of_kedge.deep'"),
        ("my_models_of_kedge:nett", "has no 'nett'; did you mean net"),
        ("my_models_of_kedge:Net", r"is a class: my_models_of_kedge:Net\(\)"),
        ("my_models_of_kedge:make", r"takes no images; if it makes a model, write my_models_of_kedge:make\(\)"),
        ("my_models_of_kedge:number", "is a int, not a model"),
        ("my_models_of_kedge:number()", "cannot be called"),
        ("my_models_of_kedge:broken()", "failed: KeyError: 'weights.pt'"),
        ("my_models_of_kedge:classify()", "failed: TypeError"),
        ("fails_of_kedge:x", "importing fails_of_kedge failed: No module named 'not_there_at_all'"),
        ("wrong_of_kedge:x", "importing wrong_of_kedge failed: ZeroDivisionError"),
    ],
)
def test_python_that_is_no_model(mine, given, match):
    with pytest.raises(ValueError, match=match):
        find(given, python=True).load("cpu")


def test_python_is_only_run_where_it_is_asked_for(mine):
    with pytest.raises(ValueError, match="only kedge evaluate takes"):
        find("wrong_of_kedge:x")
    assert find("wrong_of_kedge:x", python=True).name == "x"  # not imported yet
    with pytest.raises(ValueError, match=r"is a Python file; give my_models_of_kedge:NAME"):
        find("my_models_of_kedge.py")


def test_a_published_network_of_timm(monkeypatch):
    import timm

    asked = []

    def create(name, num_outputs, pretrained):
        asked.append((name, num_outputs, pretrained))
        return timm.create_model("test_resnet", num_classes=num_outputs)

    monkeypatch.setattr("kedge.networks.create", create)
    source = find("timm/test_resnet.r160_in1k")
    assert (source.name, source.path, source.run) == ("test_resnet.r160_in1k", None, None)
    model = source.load("cpu")
    assert asked == [("timm/test_resnet.r160_in1k", 1000, True)]
    assert (model.num_outputs, model.class_names[0], model.training) == (1000, "n01440764", False)
    assert find_groups(["small=timm/test_resnet.r160_in1k"])[0]["small"].written == "timm/test_resnet.r160_in1k"


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ("timm/resnet5", "timm has no network 'resnet5'; did you mean resnet50"),
        ("timm/resnet50.a1_in2k", "no weights 'a1_in2k' for resnet50; did you mean resnet50.a1_in1k"),
        ("timm/kedge_resnet18", "no weights were published for 'timm/kedge_resnet18'"),
        ("timm/vit_base_patch14_dinov2.lvd142m", "gives features, not classes"),
    ],
)
def test_timm_names_without_weights(given, match):
    with pytest.raises(ValueError, match=match):
        find(given).load("cpu")


def test_weights_out_of_reach(monkeypatch):
    import huggingface_hub

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(
        PretrainedUnavailable, match=r"the published weights of 'test_resnet.r160_in1k' could not be had"
    ):
        find("timm/test_resnet.r160_in1k").load("cpu")


def test_a_file_of_weights_says_what_its_head_is_taken_for_and_none_will_do_where_it_is_replaced(tmp_path, capsys):
    given = "timm/kedge_resnet_small"
    state = networks.create(given, 6).state_dict()
    torch.save(state, tmp_path / "six.pth")
    assert load_timm(given, str(tmp_path / "six.pth")).num_outputs == 6
    said = capsys.readouterr().err
    assert "its 6 outputs have no names in the file: taken for the classes of the data, in its order" in said
    torch.save({k: v for k, v in state.items() if not k.startswith("fc.")}, tmp_path / "body.pth")
    with pytest.raises(ValueError, match=r"has no head .* kedge train and kedge adapt give it one"):
        load_timm(given, str(tmp_path / "body.pth"))
    capsys.readouterr()
    model = load_timm(given, str(tmp_path / "body.pth"), headless=True)
    assert "head fresh" in capsys.readouterr().err
    assert torch.equal(model.network.stem.weight, state["stem.weight"])


def test_a_run_without_a_model_is_trained_at_this_moment_or_was_broken_off(tmp_path, monkeypatch):
    from kedge.training.folder import RunFolder

    run = tmp_path / "begun"
    run.mkdir()
    (run / "recipe.yaml").write_text("data: digits\n")
    with (
        RunFolder(run).claimed(),
        pytest.raises(FileNotFoundError, match=r"begun has no model yet: it is being trained at this moment; wait"),
    ):
        find(str(run))
    with pytest.raises(FileNotFoundError, match=f"it was broken off; finish it with kedge train --resume {run}"):
        find(str(run))
    with RunFolder(run).claimed():  # asking leaves no lock
        pass
    monkeypatch.setattr("kedge.named_model.is_locked", lambda path: None)  # where there are no locks
    with pytest.raises(FileNotFoundError, match="it is being trained, or was broken off; wait for it, or go on with"):
        find(str(run))

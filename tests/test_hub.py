import json

import pytest
import torch

import kedge
from kedge import networks
from kedge.hub import LARGEST, HubError, split_name
from tests.hub_stand_in import TOKEN


def make(seed=0, **plain):
    torch.manual_seed(seed)
    model = kedge.anchor(networks.create("kedge_resnet_small", 3, 1, 8, arguments={"width": 8}), example=(1, 8, 8))
    with torch.no_grad():
        model.stem.reference.weight.mul_(0.5)
    model.references = torch.rand(4, 1, 8, 8)
    model.class_names = ["a", "b", "c"]
    return model.eval()


@pytest.fixture
def published(hub, tmp_path):
    """(the stand-in, the model that ada/digits holds)."""
    model = make()
    folder = kedge.save(model, tmp_path / "saved")
    hub.commit("ada/digits", {path.name: path.read_bytes() for path in folder.iterdir()})
    hub.commit("ada/digits", {"train.py": b"raise SystemExit", "pytorch_model.bin": b"\x80\x04 pickle"})
    return hub, model


@pytest.mark.parametrize("name", ["ada/digits", "hf-hub:ada/digits", "ada/digits@main"])
def test_the_model_that_was_saved_comes_back(published, name):
    hub, model = published
    images = torch.rand(3, 1, 8, 8)
    assert torch.equal(kedge.from_pretrained(name)(images), model(images))
    fetched = {line.rpartition("/")[2] for line in hub.asked if "/resolve/" in line}
    assert fetched == {"config.json", "model.safetensors"}


def test_a_commit_names_one_model_for_ever(published, tmp_path):
    hub, model = published
    old = hub.sha("ada/digits")
    folder = kedge.save(make(1), tmp_path / "second")
    hub.commit("ada/digits", {path.name: path.read_bytes() for path in folder.iterdir()})
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(kedge.from_pretrained("ada/digits", revision=old)(images), model(images))
    assert not torch.equal(kedge.from_pretrained("ada/digits")(images), model(images))


def test_the_second_time_nothing_is_downloaded_and_without_a_network_the_cache_serves(published, monkeypatch):
    from huggingface_hub import constants

    hub, model = published
    kedge.from_pretrained("ada/digits")
    hub.asked.clear()
    kedge.from_pretrained("ada/digits")
    assert not [line for line in hub.asked if line.startswith("GET") and "/resolve/" in line]
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(kedge.from_pretrained("ada/digits")(images), model(images))
    with pytest.raises(HubError, match=r"ada/other is not in the cache.*cannot be reached \(.*look at the net"):
        kedge.from_pretrained("ada/other")


def test_the_hub_switched_off(hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE is set"):
        kedge.from_pretrained("ada/digits")


def test_what_the_hub_refuses(published):
    hub, _ = published
    with pytest.raises(HubError, match="no repository ada/none, or it is private: for your own log in"):
        kedge.from_pretrained("ada/none")
    with pytest.raises(HubError, match="no repository ada/none, or it is private and the token is not allowed"):
        kedge.from_pretrained("ada/none", token=TOKEN)
    with pytest.raises(HubError, match="has no revision 'v9'"):
        kedge.from_pretrained("ada/digits", revision="v9")
    with pytest.raises(HubError, match=r"does not know this token \(401\)"):
        kedge.from_pretrained("ada/digits", token="hf_wrong")
    hub.gated.add("ada/digits")
    with pytest.raises(HubError, match=r"ada/digits is gated.*https://huggingface.co/ada/digits"):
        kedge.from_pretrained("ada/digits")
    hub.gated.clear()
    hub.private.add("ada/digits")
    with pytest.raises(HubError, match="or it is private"):
        kedge.from_pretrained("ada/digits")
    assert kedge.from_pretrained("ada/digits", token=TOKEN).num_outputs == 3


@pytest.mark.parametrize(
    ("files", "match"),
    [
        ({"README.md": b""}, "it has no config.json"),
        (
            {"config.json": b"{}", "pytorch_model.bin": b"x"},
            r"no model.safetensors \(pytorch_model.bin is there",
        ),
        ({"config.json": b"{}", "model.safetensors": b"x"}, "has no format 'kedge'"),
        ({"config.json": b"{", "model.safetensors": b"x"}, "its config.json is not JSON"),
        ({"config.json": b"\xff", "model.safetensors": b"x"}, "its config.json is not text in UTF-8"),
        ({"config.json": b"[1]", "model.safetensors": b"x"}, "its config.json holds a list"),
    ],
)
def test_repositories_that_are_not_ours_cost_no_download_of_weights(hub, files, match):
    hub.commit("ada/else", files)
    with pytest.raises(HubError, match=match):
        kedge.from_pretrained("ada/else")
    assert not [line for line in hub.asked if line.endswith("model.safetensors")]


@pytest.mark.parametrize(
    ("repo", "match"),
    [
        ("timm/resnet18.a1_in1k", "a network of timm .resnet18., not a model of kedge: .*timm/resnet18.a1_in1k"),
        ("ada/tuned", "timm.create_model"),
    ],
)
def test_a_repository_of_timm_is_said_to_be_one(hub, repo, match):
    config = {"architecture": "resnet18", "num_classes": 1000, "pretrained_cfg": {}}
    hub.commit(repo, {"config.json": json.dumps(config).encode(), "model.safetensors": b"x"})
    with pytest.raises(HubError, match=match):
        kedge.from_pretrained(repo)


@pytest.mark.parametrize("name", LARGEST)
def test_files_that_are_too_large_are_not_fetched(published, name):
    hub, _ = published
    hub.sizes[name] = LARGEST[name] + 1
    with pytest.raises(HubError, match=f"its {name} has .* bytes, more than"):
        kedge.from_pretrained("ada/digits")
    assert not [line for line in hub.asked if "/resolve/" in line]


def test_changed_weights_are_noticed(published):
    hub, _ = published
    hub.commit("ada/digits", {"model.safetensors": b"something else"})
    with pytest.raises(ValueError, match=r"is not the file that config.json was written for"):
        kedge.from_pretrained("ada/digits")


def test_names(tmp_path, monkeypatch):
    assert split_name("hf-hub:a/b.c-1@v1.0") == ("a/b.c-1", "v1.0")
    for wrong in ("digits", "hf-hub:digits"):
        with pytest.raises(ValueError, match="has no owner: write owner/name"):
            split_name(wrong)
    for wrong in ("", "a/b/c", "a/", "../b", "a/..", "a b/c", "a/b@", "a/b\n", "https://huggingface.co/a/b"):
        with pytest.raises(ValueError, match=r"is not owner/name|has no owner"):
            split_name(wrong)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    with pytest.raises(ValueError, match=r"a folder here, which kedge.load reads"):
        kedge.from_pretrained("runs")


def test_training_starts_from_the_hub(published, monkeypatch, tmp_path):
    from kedge.training.start_from import find_start

    monkeypatch.chdir(tmp_path)
    folder = find_start("hf-hub:ada/digits")
    assert (folder / "config.json").is_file()
    assert torch.equal(kedge.load(folder).references, published[1].references)

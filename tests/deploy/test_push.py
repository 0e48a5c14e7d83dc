import json
import warnings

import pytest
import torch

import kedge
from kedge import networks
from kedge.hub import HubError
from tests.hub_stand_in import READER, TOKEN


@pytest.fixture
def model():
    torch.manual_seed(0)
    made = kedge.anchor(networks.create("kedge_resnet_small", 3, 1, 8, arguments={"width": 8}), example=(1, 8, 8))
    with torch.no_grad():
        made.stem.reference.weight.mul_(0.5)
    made.references = torch.rand(12, 1, 8, 8)
    made.class_names = ["a", "b", "c"]
    return made.eval()


@pytest.fixture
def run(model, tmp_path):
    """A run with everything that must stay at home."""
    folder = tmp_path / "secret-project" / "runs" / "mine"
    kedge.save(model, folder / "model")
    data = tmp_path / "secret-project" / "photos"
    (folder / "recipe.yaml").write_text(f"name: mine\ndata: {data}\nanchored: true\nruns: {folder.parent}\nseed: 3\n")
    (folder / "run.json").write_text(json.dumps({"command": [str(folder)], "data": {"train": 90, "val": 10}}))
    (folder / "metrics.csv").write_text(str(folder))
    (folder / "last.ckpt").write_bytes(b"pickle")
    return folder


def test_there_and_back(hub, model):
    images = torch.rand(5, 1, 8, 8)
    address = kedge.push_to_hub(model, "ada/digits", photos="keep", token=TOKEN)
    assert "/ada/digits/commit/" in address
    again = kedge.from_pretrained("ada/digits")
    assert torch.equal(again(images), model(images))
    assert torch.equal(again.predict(images).uncertainty, model.predict(images).uncertainty)
    assert again.class_names == ["a", "b", "c"]


def test_nothing_of_the_run_goes_but_three_files(hub, run, tmp_path):
    kedge.push_to_hub(run, "ada/digits", photos="keep", token=TOKEN, private=True)
    sent = hub.files("ada/digits")
    assert set(sent) == {".gitattributes", "config.json", "model.safetensors", "README.md"}
    assert "ada/digits" in hub.private
    for content in sent.values():
        assert b"secret-project" not in content
        assert str(tmp_path).encode() not in content
    card = sent["README.md"].decode()
    assert "Trained on 90 images of photos; 10 were held out" in card
    assert "datasets" not in card
    with pytest.raises(HubError, match="or it is private"):
        kedge.from_pretrained("ada/digits")
    kedge.from_pretrained("ada/digits", token=TOKEN)


def test_photos_do_not_go_unasked(hub, model, run):
    for given in (model, run, run / "model"):
        with pytest.raises(ValueError, match=r"not pushed: the bank holds 12 photos.*photos='mean'.*photos='keep'"):
            kedge.push_to_hub(given, "ada/digits", token=TOKEN)
    with pytest.raises(ValueError, match="can be made out in it"):
        kedge.push_to_hub(model, "ada/digits", folded=True, token=TOKEN)
    model.residuals = torch.randn(5, 1, 8, 8)
    with pytest.raises(ValueError, match="12 photos and 5 residuals"):
        kedge.push_to_hub(model, "ada/digits", token=TOKEN)
    with pytest.raises(ValueError, match="photos must be refuse, keep or mean, got 'yes'"):
        kedge.push_to_hub(model, "ada/digits", photos="yes", token=TOKEN)
    assert hub.asked == []  # refused before anything was asked of the hub


def test_a_bank_of_means_and_a_plain_model_go_without_a_word(hub, model, run):
    plain = kedge.plain(networks.create("kedge_resnet_small", 3, 1, 8, arguments={"width": 8}), example=(1, 8, 8))
    kedge.push_to_hub(plain.eval(), "ada/plain", token=TOKEN)
    recipe = "data: digits\nanchored: true\nchoose: mean\nreferences: 12\n"
    (run / "recipe.yaml").write_text(recipe)
    (run / "run.json").write_text(json.dumps({"data": {"train": 1200, "val": 10}}))
    kedge.push_to_hub(run, "ada/means", token=TOKEN)
    assert "as the mean of many images" in hub.files("ada/means")["README.md"].decode()
    (run / "run.json").write_text(json.dumps({"data": {"train": 1199, "val": 10}}))  # 99 images each
    with pytest.raises(ValueError, match="not pushed"):
        kedge.push_to_hub(run, "ada/means", token=TOKEN)
    (run / "run.json").write_text(json.dumps({"data": {"train": 1200}}))
    (run / "recipe.yaml").write_text(f"{recipe}init_from: other\n")  # whose bank it is cannot be told
    with pytest.raises(ValueError, match="not pushed"):
        kedge.push_to_hub(run, "ada/means", token=TOKEN)


def test_folded_models_and_mean_references(hub, model):
    images = torch.rand(4, 1, 8, 8)
    kedge.push_to_hub(model, "ada/folded", folded=True, photos="keep", token=TOKEN)
    again = kedge.from_pretrained("ada/folded")
    assert isinstance(again, kedge.PlainModel)
    assert torch.allclose(again(images), model.predict(images, references=1).logits, atol=1e-5)

    mean = torch.rand(1, 8, 8)
    kedge.push_to_hub(model, "ada/mean", photos="mean", mean=mean, token=TOKEN)
    again = kedge.from_pretrained("ada/mean")
    assert torch.equal(again.references[0], mean)
    assert torch.allclose(again(images), model.predict(images, references=mean[None]).logits, atol=1e-6)

    with pytest.warns(UserWarning, match="the mean of the 12 images of the bank keeps something of each"):
        kedge.push_to_hub(model, "ada/both", photos="mean", folded=True, token=TOKEN)
    again = kedge.from_pretrained("ada/both")
    expected = model.predict(images, references=model.references.mean(0, keepdim=True)).logits
    assert torch.allclose(again(images), expected, atol=1e-5)
    model.references = model.references[:9]
    with pytest.raises(ValueError, match="the bank holds 9 images, and their mean shows them"):
        kedge.push_to_hub(model, "ada/both", photos="mean", token=TOKEN)


def test_what_the_hub_refuses(hub, model):
    push = {"photos": "keep"}
    with pytest.raises(ValueError, match="'digits' has no owner: write owner/name"):
        kedge.push_to_hub(model, "digits", **push)
    with pytest.raises(ValueError, match="leave out what follows @"):
        kedge.push_to_hub(model, "ada/digits@v1", **push)
    with pytest.raises(HubError, match="pushing needs an account: log in with hf auth login"):
        kedge.push_to_hub(model, "ada/digits", **push)
    with pytest.raises(HubError, match=r"does not know this token \(401\)"):
        kedge.push_to_hub(model, "ada/digits", token="hf_wrong", **push)
    with pytest.raises(HubError, match=r"may not do this with ada/digits \(403\): it needs the right to write"):
        kedge.push_to_hub(model, "ada/digits", token=READER, **push)
    assert hub.repos == {}
    kedge.push_to_hub(model, "ada/digits", token=TOKEN, **push)
    before = hub.sha("ada/digits")
    with pytest.raises(HubError, match="there already and is public"):
        kedge.push_to_hub(model, "ada/digits", token=TOKEN, private=True, **push)
    assert hub.sha("ada/digits") == before


def test_an_interrupted_push_leaves_the_old_model_and_can_be_repeated(hub, model):
    kedge.push_to_hub(model, "ada/digits", photos="keep", token=TOKEN)
    images, old = torch.rand(2, 1, 8, 8), model(torch.zeros(1, 1, 8, 8))
    with torch.no_grad():
        next(model.network.parameters()).add_(0.1)
    hub.fail = [503]
    with pytest.raises(HubError, match="cannot be reached"):
        kedge.push_to_hub(model, "ada/digits", photos="keep", token=TOKEN)
    assert torch.equal(kedge.from_pretrained("ada/digits")(torch.zeros(1, 1, 8, 8)), old)
    kedge.push_to_hub(model, "ada/digits", photos="keep", token=TOKEN)
    assert torch.equal(kedge.from_pretrained("ada/digits")(images), model(images))


def test_a_readme_that_kedge_did_not_write_stays(hub, run, model):
    kedge.push_to_hub(run, "ada/digits", photos="keep", token=TOKEN, license="mit")
    assert b"license: mit" in hub.files("ada/digits")["README.md"]
    hub.commit("ada/digits", {"README.md": b"# written on the website"})
    with pytest.warns(UserWarning, match=r"has a README.md that kedge did not write"):
        kedge.push_to_hub(run, "ada/digits", photos="keep", token=TOKEN)
    assert hub.files("ada/digits")["README.md"] == b"# written on the website"
    (run / "model" / "README.md").write_text("# my own words")
    kedge.push_to_hub(run, "ada/other", photos="keep", token=TOKEN)
    assert hub.files("ada/other")["README.md"] == b"# my own words"
    (run / "model" / "README.md").write_text(f"trained in {run.resolve()}")
    with pytest.raises(ValueError, match=r"README.md names a folder of this machine"):
        kedge.push_to_hub(run, "ada/third", photos="keep", token=TOKEN)
    assert "ada/third" not in hub.repos


def test_a_network_without_a_name_needs_its_code(hub):
    class Own(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = torch.nn.Conv2d(1, 4, 3), torch.nn.Linear(4, 2)

        def forward(self, x):
            return self.head(self.conv(x).mean((2, 3)))

    model = kedge.plain(Own(), example=(1, 8, 8)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kedge.push_to_hub(model, "ada/own", token=TOKEN)
    assert 'from_pretrained("ada/own", model=network)' in hub.files("ada/own")["README.md"].decode()
    with pytest.raises(ValueError, match="model=Own"):
        kedge.from_pretrained("ada/own")
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(kedge.from_pretrained("ada/own", model=Own())(images), model(images))

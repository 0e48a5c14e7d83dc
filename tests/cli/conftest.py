import pytest
import torch

import kedge
from kedge import networks
from kedge.cli.flags import call


@pytest.fixture
def command(capsys):
    """Run a command in this process: (exit code, standard output, standard error)."""

    def called(name, *arguments):
        code = call(name, [str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return called


@pytest.fixture
def digit_model():
    """An untrained anchored model of the ten digits, with names, a bank and a threshold."""
    torch.manual_seed(0)
    model = kedge.anchor(networks.create("kedge_resnet_small", 10, 1, 8, arguments={"width": 8}), example=(1, 8, 8))
    with torch.no_grad():
        model.stem.reference.weight.mul_(0.5)
    model.references = torch.rand(4, 1, 8, 8)
    model.class_names = [str(i) for i in range(10)]
    model.reject = {"score": "confidence", "threshold": 0.15, "coverage": 0.9}
    return model.eval()


@pytest.fixture
def model_folder(digit_model, tmp_path):
    return kedge.save(digit_model, tmp_path / "digit-model")


@pytest.fixture
def run_folder(digit_model, tmp_path):
    """A run as training leaves it: recipe.yaml and model/."""
    from kedge.training import Recipe

    folder = tmp_path / "runs" / "first"
    kedge.save(digit_model, folder / "model")
    (folder / "recipe.yaml").write_text(Recipe(name="first", data="digits", image_size=8).to_yaml())
    return folder


@pytest.fixture
def photos(tmp_path):
    """Ten readable digits in folders, two files that are no images, one that is not meant."""
    from PIL import Image
    from sklearn.datasets import load_digits

    folder = tmp_path / "photos"
    (folder / "deep" / ".hidden").mkdir(parents=True)
    for i, image in enumerate(load_digits().images[:10]):
        place = folder if i < 6 else folder / "deep"
        kind = "L" if i % 2 else "RGB"
        Image.fromarray((image * 255 / 16).round().astype("uint8")).convert(kind).save(place / f"d{i}.png")
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff not really")
    (folder / "empty.png").write_bytes(b"")
    (folder / "notes.txt").write_text("not an image")
    (folder / "deep" / ".hidden" / "d0.png").write_bytes(b"")
    return folder

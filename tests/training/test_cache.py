"""A run whose photos are kept as they were decoded is the run that decodes them."""

import pytest
import torch
from tests.data.conftest import picture

from kedge.data.items import FileItems
from kedge.training import Recipe, fit


@pytest.fixture
def recipe(tmp_path):
    """Of twenty photos, which are trained on in a second."""
    for number, kind in enumerate(("cat", "dog")):
        (tmp_path / "photos" / kind).mkdir(parents=True)
        for i in range(10):
            picture(10 * number + i, 120, 100).save(tmp_path / "photos" / kind / f"{i}.jpg")
    settings = {"data": str(tmp_path / "photos"), "image_size": 72, "model": "kedge_resnet_small"}
    settings |= {"arguments": {"width": 4}, "pretrained": False, "epochs": 2, "batch_size": 8, "references": 2}
    settings |= {"workers": 0, "folds": 0, "val_fraction": 0.3, "device": "cpu", "runs": str(tmp_path / "runs")}
    return lambda **fields: Recipe(**{**settings, **fields})


def test_the_weights_are_the_same_and_a_second_run_decodes_nothing(recipe, tmp_path, monkeypatch):
    plain = fit(recipe(name="plain"), progress=False, report=False)
    cache = str(tmp_path / "cache")
    first = fit(recipe(name="first", cache=cache), progress=False, report=False)

    def decoded(*_):
        raise AssertionError("a photo was decoded")

    monkeypatch.setattr(FileItems, "image", decoded)
    second = fit(recipe(name="second", cache=cache), progress=False, report=False)
    for result in (first, second):
        for name, value in plain.model.state_dict().items():
            assert torch.equal(value, result.model.state_dict()[name]), name

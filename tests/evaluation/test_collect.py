"""A set too large to be held is decoded once for all severities of a corruption, and gives the same numbers."""

import pytest
import torch
from PIL import Image

import kedge
from kedge import data
from kedge.evaluation import collect, evaluate


@pytest.fixture
def photos(tmp_path):
    draws = torch.Generator().manual_seed(0)
    for i in range(12):
        place = tmp_path / "photos" / f"c{i % 3}"
        place.mkdir(parents=True, exist_ok=True)
        pixels = torch.randint(0, 256, (70, 70, 3), generator=draws, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(place / f"{i}.png")
    return data.load(tmp_path / "photos", image_size=68)


def test_what_is_not_held_is_decoded_once_for_each_corruption(photos, monkeypatch):
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.AvgPool2d(17), torch.nn.Flatten(), torch.nn.Linear(48, 3))
    model = kedge.plain(network, example=(3, 68, 68)).eval()
    asked = {
        "shift": ("brightness", "contrast"),
        "severities": (1, 2, 3),
        "resamples": 0,
        "batch_size": 5,
        "examples": 0,
    }
    decoded = []
    read = data.FileSet.__getitem__

    def counted(self, i):
        decoded.append(i)
        return read(self, i)

    monkeypatch.setattr(data.FileSet, "__getitem__", counted)
    held = evaluate(model, photos, **asked)
    few = len(decoded)
    decoded.clear()
    monkeypatch.setattr(collect, "IN_MEMORY", 0)
    again = evaluate(model, photos, **asked)
    assert len(decoded) - few == 12  # clean, then one pass for each of two corruptions in place of one for all
    assert again["models"]["model"]["shift"] == held["models"]["model"]["shift"]
    assert again["models"]["model"]["clean"] == held["models"]["model"]["clean"]


def test_images_are_held_once_while_they_are_gathered(photos):
    kept = collect.in_memory(photos, 2, 0, 5)
    assert isinstance(kept, data.TensorSet)
    assert torch.equal(kept.images, torch.cat([images for images, _ in photos.batches(5)]))
    assert collect.in_memory(photos, 1, 0, 5) is photos

"""Copies of the model from the way, and runs on the first training images alone."""

import pytest
import torch

import kedge
from kedge.training import fit
from kedge.training.images import load_sets
from kedge.training.recipe import Recipe

pytestmark = pytest.mark.usefixtures("no_report")


def test_copies_from_the_way_are_models_and_change_nothing(tiny):
    plain = fit(tiny(epochs=4))
    watched = fit(tiny(epochs=4, name="watched", snapshots=2))
    folders = sorted(path.name for path in (watched.folder / "snapshots").iterdir())
    assert folders == ["epoch-0002", "epoch-0004"]
    assert not (plain.folder / "snapshots").exists()
    half, end = (kedge.load(watched.folder / "snapshots" / name) for name in folders)
    two = fit(tiny(epochs=4, name="again"))  # the same seed, the same run
    for name, weight in watched.model.state_dict().items():
        assert torch.equal(weight, plain.model.state_dict()[name]), name
        assert torch.equal(weight, end.state_dict()[name]), name
        assert torch.equal(weight, two.model.state_dict()[name]), name
    assert any(not torch.equal(w, end.state_dict()[n]) for n, w in half.state_dict().items() if w.is_floating_point())


def test_the_first_images_alone(tiny):
    recipe = tiny(train_images=90)
    recipe = recipe if isinstance(recipe, Recipe) else Recipe.from_dict(recipe)
    whole, _ = load_sets(Recipe.from_dict({**vars(recipe), "train_images": None}))
    few, _ = load_sets(recipe)
    assert whole.name == few.name
    assert len(few) <= 90 < len(whole)
    with pytest.raises(ValueError, match="train_images is 1000000"):
        load_sets(Recipe.from_dict({**vars(recipe), "train_images": 1_000_000}))

"""Images that are all of one small oblong size keep it in every set that a run and its commands load beside them."""

from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from kedge.cli.export import check_set
from kedge.cli.export_int8 import _sets
from kedge.training import Recipe
from kedge.training.images import load_extra, load_pool
from kedge.training.objective import images_of

SHAPE = (3, 24, 40)


@pytest.fixture
def oblong(tmp_path):
    draws = np.random.default_rng(0)
    for place in ("photos/train/ant", "photos/train/bee", "photos/val/ant", "photos/val/bee", "extra/fly"):
        (tmp_path / place).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(draws.integers(0, 256, (*SHAPE[1:], 3), dtype=np.uint8)).save(tmp_path / place / f"{i}.png")
    return tmp_path


def test_validation_images_and_further_ones_have_the_shape_of_the_training_images(oblong):
    recipe = Recipe.from_dict({"data": str(oblong / "photos"), "extra": {"more": str(oblong / "extra")}})
    train, val = load_pool(recipe)
    assert train.image_shape == val.image_shape == SHAPE
    assert load_extra(recipe, train, val)["more"].image_shape == SHAPE
    assert images_of(train, str(oblong / "extra")).image_shape == SHAPE


def test_an_export_is_checked_on_images_of_the_shape_that_the_model_takes(oblong):
    source, place = SimpleNamespace(record=lambda: None, members=(), name="mine"), str(oblong / "photos")
    assert check_set(source, place, SHAPE).image_shape == SHAPE
    assert [images.image_shape for images in _sets(source, place, SHAPE)] == [SHAPE] * 2

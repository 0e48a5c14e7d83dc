"""Runs on fewer images of some classes: which images, said where, and the same when a run goes on."""

import pytest
import torch

import kedge
from kedge.data import imbalance, imbalanced
from kedge.training import Recipe, fit, recipe_checks
from kedge.training.held_out import RunImages
from kedge.training.images import load_pool, load_sets

pytestmark = pytest.mark.usefixtures("no_report")


def test_the_images_of_a_run_are_those_of_the_function(tiny, capsys):
    result = fit(tiny(epochs=1, train_images=None, imbalance={"ratio": 10, "kind": "step"}, seed=3))
    whole = kedge.data.load("digits", "train").only_classes(result.recipe.classes)
    expected = imbalanced(whole, 10, "step", 3)
    pool, _ = load_pool(result.recipe)
    assert torch.equal(pool.images, expected.images)
    train, _ = load_sets(result.recipe)
    assert sorted(RunImages(result.folder).train.keys()) == sorted(train.keys())
    counts = torch.bincount(train.labels).tolist()
    assert f"imbalance: step, {max(counts)} training images of" in capsys.readouterr().out


def test_of_some_classes_those_are_imbalanced(tiny):
    recipe = tiny(train_images=None, classes=["1", "5"], imbalance={"ratio": 4, "order": ["5", "1"]})
    pool, _ = load_pool(recipe)
    few, many = torch.bincount(pool.labels).tolist()
    assert many // 4 == few


def test_a_resumed_run_has_the_same_images(tiny, break_off):
    recipe = {"epochs": 2, "train_images": None, "imbalance": {"ratio": 20}}
    break_off(tiny(**recipe))
    resumed = fit(resume=tiny().runs + "/run", progress=False)
    whole = fit(tiny(name="whole", **recipe), progress=False)
    states = [torch.load(r.folder / "last.ckpt", weights_only=True)["state_dict"] for r in (resumed, whole)]
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())


def test_kinds_are_those_of_the_function():
    assert recipe_checks.KINDS == imbalance.KINDS


@pytest.mark.parametrize(
    ("imbalance", "words"),
    [
        ({"kind": "step"}, r"imbalance needs the ratio .* not None"),
        ({"ratio": 0.1}, r"1 or more.* not 0\.1"),
        ({"ratio": 2, "kind": "stepp"}, "long-tailed, linear, step, not 'stepp'"),
        ({"ratio": 2, "kinds": "step"}, "imbalance has no 'kinds'"),
    ],
)
def test_what_cannot_be(imbalance, words):
    with pytest.raises(ValueError, match=words):
        Recipe.from_dict({"imbalance": imbalance})


def test_images_that_were_handed_over_are_not_changed(tiny):
    sets = load_sets(tiny())
    with pytest.raises(ValueError, match=r"handed over: hand over what kedge.data.imbalanced leaves"):
        fit(tiny(imbalance={"ratio": 2}), sets=sets, progress=False)

import re
from dataclasses import replace

import pytest
import timm
import torch
from torch import nn

from kedge.data import Origin, TensorSet
from kedge.training import Recipe
from kedge.training.resolve import reasons, resolve_data, resolve_device, resolve_network, unused_weights
from kedge.training.start_from import inherit

PHOTO, SMALL = (3, 224, 224), (3, 32, 32)


def started(**fields):
    return inherit(Recipe(**fields))


def test_small_images_start_from_scratch():
    recipe = resolve_data(started(device="cpu"), 50_000, SMALL)
    assert (recipe.model, recipe.pretrained, recipe.batch_size, recipe.image_size) == (
        "kedge_resnet_small",
        False,
        128,
        32,
    )
    assert recipe.objective == [{"Anchored": {"alpha": 0.25, "mask_target": "label"}}, "CrossEntropy"]
    assert resolve_data(started(device="cuda"), 50_000, SMALL).model == "kedge_resnet18"


def test_photos_start_from_published_weights():
    recipe = resolve_data(started(device="cpu", anchored=False), 2000, PHOTO)
    assert (recipe.model, recipe.pretrained, recipe.batch_size) == ("resnet18", True, 32)
    assert recipe.objective == [{"CrossEntropy": {"label_smoothing": 0.1}}]
    recipe = resolve_network(recipe, timm.create_model("test_resnet"), 2000, PHOTO)
    assert (recipe.optimizer, recipe.lr, recipe.weight_decay, recipe.epochs) == ("adamw", 3e-4, 0.05, 6)
    assert (recipe.head, recipe.head_lr, recipe.batch_norm, recipe.crop) == ("probe", 5.0, "frozen", 0.4)
    assert reasons({}, recipe, 2000) == (
        "chosen for 2000 images and published weights: 6 epochs (378 steps; 200 where 6 to 50 epochs give them), "
        "lr 0.0003 (from 100 images), batch norm with its published statistics"
    )
    few = resolve_network(resolve_data(started(device="cpu"), 60, PHOTO), nn.Linear(1, 1), 60, PHOTO)
    assert (few.batch_size, few.epochs, few.optimizer) == (32, 50, "adamw")
    assert few.lr == 1e-4
    assert reasons({"epochs": 3, "lr": 0.1, "batch_norm": "train"}, few, 60) is None
    assert reasons({}, resolve_data(started(device="cpu", pretrained=False), 60, PHOTO), 60) is None


def photo_set(side, original):
    images = TensorSet(torch.zeros(4, 3, side, side, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]), ["a1", "b1"])
    images.origin = Origin({"JPEG": 4}, ((original, original), (original, original)))
    return images


def test_published_weights_that_are_asked_for_are_had_at_any_size():
    recipe = resolve_data(started(device="cpu", pretrained=True), 2000, SMALL)
    assert (recipe.model, recipe.pretrained) == ("resnet18", True)
    assert resolve_network(recipe, timm.create_model("resnet10t", num_classes=2), 2000, SMALL).epochs == 13


@pytest.mark.parametrize(
    ("fields", "side", "original", "words"),
    [
        ({}, 32, 300, r"small network is trained from random weights: --pretrained true takes a resnet18"),
        ({"model": "resnet18"}, 64, 300, r"the published weights of resnet18 are not used.*--pretrained true"),
        ({"model": "resnet18"}, 32, 32, r"the published weights of resnet18 are not used"),
        ({}, 32, 32, None),
        ({"model": "kedge_resnet18"}, 32, 300, None),
        ({"pretrained": False}, 32, 300, None),
        ({"pretrained": True}, 32, 300, None),
        ({"pretrained": False, "model": "resnet18"}, 32, 300, None),
    ],
)
def test_weights_that_are_left_out_for_the_size_are_said(fields, side, original, words):
    recipe = started(device="cpu", **fields)
    said = unused_weights(fields, resolve_data(recipe, 2000, (3, side, side)), photo_set(side, original))
    assert said is None if words is None else re.search(words, said)


@pytest.mark.parametrize(("model", "pretrained"), [("kedge_resnet18", False), ("torchvision/resnet18", True)])
def test_weights_nobody_published_are_not_asked_for(model, pretrained):
    assert resolve_data(started(model=model), 2000, PHOTO).pretrained is pretrained


@pytest.mark.parametrize(("count", "batch"), [(3000, 128), (1000, 32), (100, 8), (20, 8)])
def test_a_small_set_gets_small_batches(count, batch):
    assert resolve_data(started(), count, SMALL).batch_size == batch


def test_what_is_set_stays():
    given = Recipe(
        model="resnet10t", batch_size=50, pretrained=False, lr=0.3, epochs=7, optimizer="adamw", weight_decay=0.0
    )
    recipe = resolve_network(resolve_data(given, 2000, PHOTO), nn.Linear(1, 1), 2000, PHOTO)
    for name in ("model", "batch_size", "pretrained", "lr", "epochs", "optimizer", "weight_decay"):
        assert getattr(recipe, name) == getattr(given, name)


def test_transformers_get_adamw_and_convolutions_sgd():
    start = resolve_data(started(pretrained=False), 2000, PHOTO)
    assert resolve_network(start, timm.create_model("test_vit"), 2000, PHOTO).optimizer == "adamw"
    recipe = resolve_network(start, timm.create_model("test_resnet"), 2000, PHOTO)
    assert recipe.optimizer == "sgd"
    assert recipe.lr == pytest.approx(0.1 * 32 / 128)
    assert (recipe.head, recipe.head_lr, recipe.batch_norm, recipe.crop) == ("leave", 1.0, "train", 0.08)


@pytest.mark.parametrize("settings", [{}, {"lr": 6e-4}])
def test_published_weights_are_tuned_with_adamw_whatever_the_rate(settings):
    start = resolve_data(started(pretrained=True, **settings), 2000, PHOTO)
    recipe = resolve_network(start, timm.create_model("test_resnet"), 2000, PHOTO)
    assert (recipe.optimizer, recipe.lr) == ("adamw", settings.get("lr", 3e-4))


def test_a_rate_of_another_optimizer_is_pointed_out():
    start = resolve_data(started(pretrained=True, lr=0.01), 2000, PHOTO)
    recipe = resolve_network(start, timm.create_model("test_resnet"), 2000, PHOTO)
    assert "adamw (careful: lr 0.01 is 33 times its usual 0.0003)" in reasons({"lr": 0.01}, recipe, 2000)
    assert "careful" not in reasons({"lr": 1e-3}, replace(recipe, lr=1e-3), 2000)
    assert "careful" not in reasons({"lr": 0.01, "optimizer": "adamw"}, recipe, 2000)


def test_nothing_is_left_open():
    recipe = resolve_network(resolve_data(resolve_device(started()), 500, SMALL), nn.Linear(1, 1), 2000, SMALL)
    open_fields = {k for k, v in vars(recipe).items() if v is None or v == "auto"}
    assert open_fields == {
        "cache",
        "name",
        "classes",
        "negatives",
        "folds",
        "workers",
        "clip",
        "ema",
        "risk",
        "split_seed",
        "split_by",
        "ordered",
        "eps",
        "init_from",
        "train_images",
        "weights",
        "average",
        "selection",
    }


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"references": 600}, "only 500 training images"),
        ({"residuals": 600}, "only 500 training images"),
        ({"batch_size": 512}, "only 500 training images"),
        ({"anchored": False, "objective": ["Anchored", "CrossEntropy"]}, "needs an anchored model"),
    ],
)
def test_what_does_not_fit_the_data(fields, words):
    with pytest.raises(ValueError, match=words):
        resolve_data(started(**fields), 500, SMALL)


def test_which_augmentations_fit_which_images():
    for augment in ("none", "crop-flip", "trivial", "randaugment", "pixmix"):
        assert resolve_data(started(augment=augment), 500, SMALL).augment == augment
        if augment != "pixmix":
            assert resolve_data(started(augment=augment), 500, (3, 96, 96)).augment == augment
    with pytest.raises(ValueError, match="pixmix is for images up to 64 px, and these have 96; take trivial"):
        resolve_data(started(augment="pixmix"), 500, (3, 96, 96))
    with pytest.raises(ValueError, match="randaugment is for grey or colour images, not for 2 channels"):
        resolve_data(started(augment="randaugment"), 500, (2, 32, 32))


def test_a_milestone_beyond_the_resolved_epochs():
    with pytest.raises(ValueError, match="milestone 500 is never reached in 30 epochs"):
        resolve_network(resolve_data(started(milestones=[500.0]), 500, SMALL), nn.Linear(1, 1), 2000, SMALL)


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="device cuda is not available here; there is"):
        resolve_device(Recipe(device="cuda"))
    with pytest.raises(ValueError, match="precision 16 needs a GPU"):
        resolve_device(Recipe(device="cpu", precision="16"))
    assert resolve_device(Recipe(device="cpu")).precision == "32"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)
    assert (resolve_device(Recipe()).device, resolve_device(Recipe()).precision) == ("cuda", "bf16")
    with pytest.raises(ValueError, match="there are 1 GPUs"):
        resolve_device(Recipe(devices=2))


def test_ones_own_subclass_counts_as_what_it_is_made_of(tmp_path, monkeypatch, own_code_allowed):
    (tmp_path / "own_objectives.py").write_text(
        "from kedge.objectives import Adversarial, Anchored\n"
        "class Mine(Adversarial):\n    pass\n"
        "class Held(Anchored):\n    pass\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    attack = {"attack": {"PGD": {"eps": "8/255", "steps": 2}}}
    for name in ("Adversarial", "own_objectives:Mine"):
        recipe = resolve_data(started(device="cpu", objective=[{name: attack}, "CrossEntropy"]), 50_000, SMALL)
        # An attack sees the references of the step only inside of Anchored.
        assert recipe.objective == [{"Anchored": {"alpha": 0.0}}, {name: attack}, "CrossEntropy"]
        plain = started(device="cpu", anchored=False, pretrained=True, objective=recipe.objective[1:])
        plain = resolve_network(resolve_data(plain, 50_000, SMALL), nn.Linear(1, 1), 50_000, SMALL)
        assert plain.lr == 0.1  # as from scratch: attacked images have as much to teach
    for name in ("Anchored", "own_objectives:Held"):
        around = [{name: {"alpha": 0.0}}, {"own_objectives:Mine": attack}, "CrossEntropy"]
        assert resolve_data(started(device="cpu", objective=around), 50_000, SMALL).objective == around
        with pytest.raises(ValueError, match="needs an anchored model"):
            resolve_data(started(device="cpu", anchored=False, objective=around), 50_000, SMALL)

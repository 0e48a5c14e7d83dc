"""The experiments that ship with kedge: each variant at each scale is a recipe, and each file starts."""

from contextlib import nullcontext
from dataclasses import replace
from importlib import resources

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from kedge import data
from kedge.data import training_batches
from kedge.experiments.experiment import experiment_names, load_experiment
from kedge.experiments.running import plan, train_one
from kedge.training.build import make_optimizer
from kedge.training.objective import make_objective
from kedge.training.prepare import begin
from kedge.training.resolve import resolve_device, resolve_network
from kedge.training.start_from import inherit

NAMES = experiment_names()
LOADED = {name: load_experiment(name) for name in NAMES}
# One variant of each, the one that asks for most beside cifar10-masking.
STARTED = {
    "cifar10-alpha": "alpha-0.75",
    "cifar10-augmentation": "masked-pixmix",
    "cifar10-better": "target-by-share",
    "cifar10-controls": "standard-residual-outlier",
    "cifar10-converged": "masked-label-sample",
    "cifar10-inference": "masked-blt",
    "cifar10-label-noise": "masked-20",
    "cifar10-masking": "masked-label-batch",
    "cifar10-masking-wrn": "masked-uniform-sample",
    "cifar10-reference-set": "masked-5",
    "cifar10-resnet20": "label-25",
    "cifar100-augmentation": "standard-randaugment",
    "cifar100-inference": "anchored-10",
    "cifar100-label-noise": "standard-20",
    "cifar100-masking": "masked-uniform-batch",
    "cifar100-masking-wrn": "standard",
    "cifar100-reference-set": "anchored-5",
    "digits-controls": "standard-residual",
    "digits-masking": "masked-uniform-batch-group",
    "imagenet": "swin-t-masked",
    "photos-anchored": "uniform-10",
}


def made_up(folder, classes, images, size, kind):
    """A folder of noise."""
    draws = torch.Generator().manual_seed(0)
    for c in range(classes):
        place = folder / "train" / f"class {c}"
        place.mkdir(parents=True)
        for i in range(images):
            pixels = torch.randint(256, (size, size, 3), generator=draws, dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).save(place / f"{i}.{kind}")
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return made_up(tmp_path_factory.mktemp("small"), classes=10, images=3, size=32, kind="png")


@pytest.mark.parametrize("name", NAMES)
def test_every_variant_at_every_scale_is_a_recipe(name):
    experiment = LOADED[name]
    # What no paper did has no scale of one.
    first, *_ = scales = list(experiment.scales)
    assert scales[:3] == ["paper", "gpu-hour", "laptop"] if "arXiv" in experiment.source else first == "laptop"
    assert [v.name for v in experiment.variants_at(first)] == list(experiment.variants)
    for scale in experiment.scales:
        for planned in plan(experiment, scale, [0], resources.files("kedge"), "somewhere"):
            recipe, variant = planned.recipe, planned.variant
            names = [entry if isinstance(entry, str) else next(iter(entry)) for entry in recipe.objective]
            assert names[-1] in ("CrossEntropy", "ConfidencePenalty", "OneReference")
            anchors = {"Anchored", "OneReference"} & set(names)  # OneReference draws none: it has its own
            assert (recipe.anchored is False) == (not anchors) == ("standard" in variant.name)
            if variant.evaluation.get("references") == "blt":
                assert recipe.residuals > 0
            assert recipe.references >= (variant.evaluation["references"] if variant.name.endswith("-10") else 1)
    for figures in experiment.expected.values():
        assert all(0 < value < 100 for value in figures.values())


@pytest.mark.parametrize("name", NAMES)
def test_the_header_says_where_it_comes_from_and_what_it_costs(name):
    text = resources.files("kedge").joinpath("recipes", "paper", f"{name}.yaml").read_text(encoding="utf-8")
    header = text[: text.index("title:")]
    assert all(line.startswith("#") for line in header.splitlines())
    for words in ("Source:", "Hardware and cost:", "2406.00529"):
        assert words in header
    if "cifar100" in name:
        assert "not run" in header


@pytest.mark.parametrize("name", NAMES)
def test_every_experiment_starts(name, small, tmp_path, monkeypatch):

    monkeypatch.setattr("kedge.run_page.write_run_report", lambda *arguments: None)  # takes longer than the run
    few = {"epochs": 1, "batch_size": 8, "val_fraction": 0.34, "references": 5, "device": "cpu"}
    few |= {"classes": None, "warmup": 0.0, "workers": 0, "train_images": None}
    if name == "imagenet":
        few["image_size"] = 32
    if "inference" in name:
        few["residuals"] = 10
    base = LOADED[name].base
    if "weights" in base:  # of the published file no more is here than its names and shapes
        few |= {"weights": str(tmp_path / "weights.safetensors"), "image_size": 32}
        save_file(timm.create_model(base["model"]).state_dict(), few["weights"])
    (planned,) = plan(LOADED[name], "laptop", [0], tmp_path, str(small), [STARTED[name]], few)
    with pytest.warns(UserWarning, match="reference set of 5") if STARTED[name] == "masked-5" else nullcontext():
        train_one(planned)
    assert planned.trained


def test_a_reference_set_larger_than_the_data_is_refused(small, tmp_path):
    changes = {"epochs": 1, "batch_size": 8, "device": "cpu"}
    (planned,) = plan(LOADED["cifar10-reference-set"], "laptop", [0], tmp_path, str(small), ["masked-5000"], changes)
    with pytest.raises(data.DataError, match=r"asked for 5000 reference images, there are 2\d"):
        train_one(planned)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "arguments"),
    [
        ("swin-t-masked", {}),  # at its size; the others narrower, as at theirs they take a minute
        ("swin-b-standard", {"embed_dim": 24}),  # S differs from it in width alone
        ("vit-b-masked", {"embed_dim": 96, "num_heads": 3}),
    ],
)
def test_the_networks_of_imagenet_take_steps_at_their_resolution(variant, arguments, tmp_path):
    folder = made_up(tmp_path / "photos", classes=2, images=3, size=280, kind="jpg")
    changes = {"batch_size": 2, "device": "cpu", "epochs": 1, "warmup": 0.0, "references": 2, "workers": 0}
    (planned,) = plan(LOADED["imagenet"], "paper", [0], tmp_path, str(folder), [variant], changes)
    recipe = resolve_device(inherit(planned.recipe))
    recipe = replace(recipe, arguments={**recipe.arguments, **arguments})
    train = data.load(folder, "train", recipe.image_size)
    model, recipe = begin(recipe, train)
    recipe = resolve_network(recipe, model.network, len(train), train.image_shape)
    objective, optimizer = make_objective(recipe, train), make_optimizer(recipe, model)
    head = "network.head.weight" if "vit" in variant else "network.head.fc.weight"
    before = model.state_dict()[head].clone()
    for images, labels in list(training_batches(train, 2, 0, augment=recipe.augment, workers=0))[:2]:
        loss = objective(model.train(), images.float() / 255, labels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
        optimizer.step()
        assert loss.isfinite()
    assert not torch.equal(before, model.state_dict()[head])

"""Features that stay: zero for the model itself, no gradient to it, references of the step, and what is refused."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kedge
from kedge.objectives import Anchored, CrossEntropy, KeepFeatures, OutlierExposure, recording, set_streams
from kedge.training import fit
from tests.settings import HOUSE, TINY

IMAGES, FURTHER = torch.rand(2, 6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
LABELS = torch.randint(4, (6,), generator=torch.Generator().manual_seed(2))


def network(seed=0, width=6, classes=4):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(4 * width, classes),
    )  # fmt: skip


def plain(seed=0, **more):
    return kedge.plain(network(seed, **more), example=(3, 8, 8)).train()


def anchored(seed=0):
    torch.manual_seed(3)
    return kedge.anchor(network(seed), references=IMAGES[:3]).train()


def loss_of(objective, model, images=IMAGES, labels=LABELS, further=FURTHER):
    objective.prepare(model)
    for each in objective.modules():
        if isinstance(each, KeepFeatures):
            each.prepare(model)
    set_streams(objective, auxiliary=further, outliers=further)
    return objective(model, images, labels)


@pytest.mark.parametrize("make", [plain, anchored])
def test_the_start_model_itself_has_not_moved(make):
    model = make()
    objective = KeepFeatures(CrossEntropy(), model)
    torch.manual_seed(0)
    loss = loss_of(objective, model)
    assert float(objective.logged["features_moved"]) == pytest.approx(0, abs=1e-6)
    torch.manual_seed(0)
    set_streams(objective, auxiliary=FURTHER)
    torch.testing.assert_close(loss, CrossEntropy()(model, IMAGES, LABELS) if make is plain else loss)


def test_it_is_one_minus_the_cosine_of_what_the_last_layer_reads():
    model, start = plain(0), plain(1)
    features = [each.network[:4](each.normalise(FURTHER)) for each in (model, start)]
    away = 1 - (F.normalize(features[0]) * F.normalize(features[1])).sum(1)
    expected = F.cross_entropy(model(IMAGES), LABELS) + 3 * away.mean()
    torch.testing.assert_close(loss_of(KeepFeatures(CrossEntropy(), start, weight=3.0), model), expected)
    named = loss_of(KeepFeatures(CrossEntropy(), start, layer="3", weight=3.0), model)
    torch.testing.assert_close(named, expected)


def test_weight_0_is_the_inner_objective_and_needs_no_images():
    objective = KeepFeatures(CrossEntropy(), plain(1), weight=0.0)
    objective.prepare(plain())
    assert torch.equal(objective(plain(), IMAGES, LABELS), CrossEntropy()(plain(), IMAGES, LABELS))
    assert objective.passes == 1
    assert KeepFeatures(CrossEntropy(), plain(1)).passes == pytest.approx(7 / 3)


def test_no_gradient_reaches_the_start_model_and_none_of_it_is_saved():
    model, start = plain(0), plain(1)
    before = copy.deepcopy(start.state_dict())
    objective = KeepFeatures(CrossEntropy(), start)
    loss_of(objective, model).backward()
    inside = objective.start.model
    assert all(parameter.grad is None for parameter in inside.parameters())
    assert all(torch.equal(value, before[name]) for name, value in inside.state_dict().items())
    assert not objective.state_dict()
    assert not list(objective.parameters())
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("order", ["outside", "inside", "none"])
def test_both_models_see_the_references_of_training_images(order):
    model, start, seen = anchored(0), anchored(1), {}

    objective = KeepFeatures(CrossEntropy(), start)
    whole = {
        "outside": lambda: Anchored(objective, alpha=0.5),
        "inside": lambda: KeepFeatures(Anchored(CrossEntropy(), alpha=0.5), start),
        "none": lambda: objective,
    }[order]()
    keeping = objective if order != "inside" else whole
    for name, each in (("own", model), ("before", keeping.start.model)):
        seen[name] = []

        def spy(x, references=None, mask=None, *, _forward=each.forward, _name=name, **more):
            seen[_name].append((x, references, mask))
            return _forward(x, references, mask, **more)

        each.forward = spy
    loss = loss_of(whole, model)
    own, before = (next(row for row in reversed(seen[name]) if torch.equal(row[0], FURTHER)) for name in seen)
    assert torch.equal(own[1], before[1])
    known = {image.numpy().tobytes() for image in IMAGES}
    assert all(reference.numpy().tobytes() in known for reference in own[1])
    assert (own[2] is not None) == (order == "outside")
    assert own[2] is None or torch.equal(own[2], before[2])
    masked = next(row for row in seen["own"] if torch.equal(row[0], IMAGES))[2]
    assert (masked is not None) == (order != "none")
    assert loss.isfinite()


def test_inside_of_outlier_exposure_it_sees_its_own_images_alone():
    model, start = plain(0), plain(1)
    alone = KeepFeatures(CrossEntropy(), start)
    inside = KeepFeatures(CrossEntropy(), start)
    loss_of(alone, model)
    loss_of(OutlierExposure(inside), model)
    torch.testing.assert_close(inside.logged["features_moved"], alone.logged["features_moved"])


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("make", [plain, anchored])
def test_small_batches_soft_targets_and_half_precision(count, make):
    soft = torch.full((count, 4), 0.25)
    for labels in (torch.zeros(count, dtype=torch.long), soft):
        loss = loss_of(KeepFeatures(CrossEntropy(), make(1)), make(0), IMAGES[:count], labels, FURTHER[:count])
        assert loss.isfinite()
    objective, model = KeepFeatures(CrossEntropy(), make(1)), make(0)
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(objective, model, IMAGES[:count], soft, FURTHER[:count])
    assert loss.dtype == torch.float32


def test_what_a_layer_reads_can_be_recorded():
    model = plain()
    with recording(model, ["4"], inputs=True) as features:
        model(IMAGES)
    torch.testing.assert_close(features["4"], model.network[:4](model.normalise(IMAGES)))


def test_what_it_cannot_take():
    with pytest.raises(ValueError, match="starts from new weights: say init_from"):
        KeepFeatures(CrossEntropy())
    with pytest.raises(ValueError, match="0 or more, got -1"):
        KeepFeatures(CrossEntropy(), plain(), weight=-1)
    with pytest.raises(ValueError, match="24 features and the start model 32"):
        KeepFeatures(CrossEntropy(), plain(1, width=8)).prepare(plain())
    with pytest.raises(ValueError, match="no layer 'nowhere'"):
        KeepFeatures(CrossEntropy(), plain(), layer="nowhere").prepare(plain())
    headless = kedge.plain(nn.Sequential(network(), nn.ReLU()), example=(3, 8, 8))
    with pytest.raises(ValueError, match=r"no linear last layer.*say layer"):
        KeepFeatures(CrossEntropy(), headless).prepare(headless)
    objective = KeepFeatures(CrossEntropy(), plain())
    with pytest.raises(RuntimeError, match=r"call objective\.prepare"):
        objective(plain(), IMAGES, LABELS)
    with pytest.raises(ValueError, match="as many and as large as the images"):
        loss_of(objective, plain(), further=FURTHER[:3])
    objective.prepare(plain())
    objective._streams = {}
    with pytest.raises(RuntimeError, match=r"KeepFeatures needs auxiliary in each step.*extra: {auxiliary: FOLDER}"):
        objective(plain(), IMAGES, LABELS)


def test_recipes_without_auxiliary_images_or_a_start_are_refused(tmp_path):
    values = {**TINY, "runs": str(tmp_path), "objective": ["anchored", "keep_features", "cross_entropy"]}
    with pytest.raises(ValueError, match="objective KeepFeatures needs auxiliary beside the training images"):
        fit({**values, "data": str(tmp_path / "nowhere")}, progress=False)
    with pytest.raises(ValueError, match="starts from new weights"):
        fit({**values, "extra": {"auxiliary": "digits"}}, progress=False)
    assert (HOUSE / "masked" / "model").is_dir()

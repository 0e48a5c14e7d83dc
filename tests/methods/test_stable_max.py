"""StableMax: its values, what it nests with, and that what is trained through it predicts through it everywhere."""

import json

import pytest
import torch
from PIL import Image
from torch import nn

import kedge
from kedge import postprocess
from kedge.attacks import PGD
from kedge.objectives import (
    AAER,
    CURE,
    TRADES,
    Adversarial,
    Anchored,
    Brier,
    ConditionalTC,
    CriticTC,
    CrossEntropy,
    Distill,
    DivDis,
    DiverseExperts,
    Levi,
    Mixup,
    Objective,
    OutlierExposure,
    SquaredError,
    StableMax,
    set_streams,
)
from kedge.training import calibrate, fit
from kedge.training.calibration import set_anew
from kedge.training.held_out import RunImages
from kedge.weights import interpolate_models

DRAWS = torch.Generator().manual_seed(1)
IMAGES = torch.rand(15, 3, 6, 6, generator=DRAWS)
TARGETS = torch.randint(3, (15,), generator=DRAWS)
LOGITS = 5 * torch.randn(15, 3, generator=DRAWS, dtype=torch.float64)


class Fixed(nn.Module):
    """Logits for any images."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, images):
        return self.logits


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 6, 3), nn.Linear(6, 3)

    def forward(self, x):
        return 9 * self.head(torch.relu(self.conv(x)).mean((2, 3)))


def published(logits):
    """s(z) and its shares, as the authors' code has them."""
    s = torch.where(logits >= 0, logits + 1, 1 / (1 - logits))
    return s / s.sum(-1, keepdim=True)


def small(kind="anchored"):
    torch.manual_seed(0)
    model = {"anchored": kedge.anchor, "plain": kedge.plain}[kind](Net(), example=(3, 6, 6), mean=0.4, std=0.2)
    if kind == "anchored":
        nn.init.normal_(model.stem.reference.weight)
        model.references = IMAGES[:4]
    model.class_names = ["a", "b", "c"]
    return model


def probs_of(logits):
    return postprocess.StableMax(None)(logits).softmax(-1)


def test_the_published_values():
    assert probs_of(torch.tensor([1.0, 0.0, -1.0])).tolist() == pytest.approx([4 / 7, 2 / 7, 1 / 7])
    assert probs_of(torch.zeros(5)).tolist() == pytest.approx([0.2] * 5)
    loss = StableMax(CrossEntropy())(Fixed(torch.tensor([[1.0, 0.0, -1.0]])), IMAGES[:1], torch.tensor([0]))
    assert float(loss) == pytest.approx(0.559616, abs=1e-6)


def test_it_is_the_stablemax_of_the_authors():
    torch.testing.assert_close(probs_of(LOGITS), published(LOGITS), atol=1e-15, rtol=0)
    expected = -published(LOGITS).log()[torch.arange(15), TARGETS].mean()
    assert float(StableMax(CrossEntropy())(Fixed(LOGITS), IMAGES, TARGETS)) == pytest.approx(float(expected), rel=1e-12)
    assert torch.equal(probs_of(LOGITS).argmax(1), LOGITS.argmax(1))
    assert (probs_of(LOGITS + 1) - probs_of(LOGITS)).abs().max() > 0.01  # unlike softmax


@pytest.mark.parametrize("at", [0.0, 1e-30, -1e-30])
def test_its_slope_at_zero_is_one_from_both_sides(at):
    z = torch.tensor(at, requires_grad=True)
    postprocess.StableMax(None)(z).exp().backward()
    assert z.grad.item() == pytest.approx(1)


def collapse(objective, first, dtype):
    logits = torch.tensor([[first, 0.0, 0.0]], dtype=dtype, requires_grad=True)
    loss = objective(Fixed(logits), IMAGES[:1], torch.tensor([0]))
    loss.backward()
    return float(loss.detach()), float(logits.grad[0, 0])


@pytest.mark.parametrize(("first", "dtype"), [(20.0, torch.float32), (38.0, torch.float64)])
def test_where_softmax_collapses_it_does_not(first, dtype):
    assert collapse(CrossEntropy(), first, dtype) == (0, 0)
    objective = StableMax(CrossEntropy())
    loss, gradient = collapse(objective, first, dtype)
    assert loss > 0.04
    assert gradient < 0
    assert objective.logged["collapsed"] == 0


@pytest.mark.parametrize(("first", "dtype"), [(10.0, torch.float32), (36.0, torch.float64)])
def test_below_softmax_does_not_collapse(first, dtype):
    loss, gradient = collapse(CrossEntropy(), first, dtype)
    assert loss > 0 > gradient


def test_the_share_of_losses_of_zero_is_logged():
    far = torch.tensor([[1e9, -1e9, -1e9], [1e9, -1e9, -1e9], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    objective = StableMax(CrossEntropy())
    objective(Fixed(far), IMAGES[:4], torch.tensor([0, 1, 1, 1]))
    assert float(objective.logged["collapsed"]) == 0.25


def test_soft_targets_one_image_and_half_precision():
    objective, soft = StableMax(CrossEntropy()), nn.functional.one_hot(TARGETS, 3).float()
    same = [objective(Fixed(LOGITS.float()), IMAGES, targets) for targets in (TARGETS, soft)]
    torch.testing.assert_close(*same)
    assert torch.isfinite(objective(Fixed(LOGITS[:1].float()), IMAGES[:1], TARGETS[:1]))
    half = objective(Fixed(LOGITS.bfloat16()), IMAGES, TARGETS)
    assert half.dtype == torch.float32
    assert torch.equal(half, objective(Fixed(LOGITS.bfloat16().float()), IMAGES, TARGETS))


@pytest.mark.parametrize("nesting", [
    lambda: Anchored(StableMax(CrossEntropy()), alpha=0.5),
    lambda: StableMax(Anchored(CrossEntropy(), alpha=0.5)),
    lambda: StableMax(Anchored(Brier(), alpha=0.5)),
    lambda: StableMax(Anchored(OutlierExposure(CrossEntropy()), alpha=0)),
    lambda: StableMax(OutlierExposure(Anchored(CrossEntropy(), alpha=0))),
    lambda: Mixup(Anchored(StableMax(CrossEntropy()))),
    lambda: Anchored(Adversarial(StableMax(CrossEntropy()), PGD(0.1, steps=2, random_start=True)), alpha=0),
    lambda: Anchored(StableMax(TRADES(CrossEntropy(), PGD(0.1, steps=2, random_start=True))), alpha=0),
    lambda: Anchored(StableMax(CURE(CrossEntropy(), PGD(0.1, steps=2, random_start=True))), alpha=0),
    lambda: Anchored(StableMax(Distill(CrossEntropy(), small())), alpha=0.5),
])  # fmt: skip
def test_it_nests(nesting):
    model, objective = small().train(), nesting()
    for each in objective.modules():
        if isinstance(each, Objective):
            each.prepare(model)
    set_streams(objective, outliers=IMAGES.flip(0))
    torch.manual_seed(0)
    loss = objective(model, IMAGES, TARGETS)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(p.grad is not None for p in model.parameters())
    assert model.steps == {"stable_max": {"value": None}}
    torch.manual_seed(0)
    assert torch.equal(loss, objective(model, IMAGES, TARGETS))


def test_both_ways_round_of_anchored_are_one_loss():
    losses = []
    for objective in (Anchored(StableMax(CrossEntropy())), StableMax(Anchored(CrossEntropy()))):
        torch.manual_seed(0)
        losses.append(objective(small().train(), IMAGES, TARGETS))
    assert torch.equal(*losses)


@pytest.mark.parametrize("outside", [True, False])
def test_an_attack_sees_the_map_once(outside):
    seen = []

    def attack(model, images, targets):
        was = model.training
        seen.append(model.eval()(images))
        model.train(was)
        return images

    objective = Adversarial(CrossEntropy(), attack)
    objective = StableMax(objective) if outside else Adversarial(StableMax(CrossEntropy()), attack)
    model = small("plain").train()
    StableMax(CrossEntropy()).prepare(model)
    objective(model, IMAGES, TARGETS)
    torch.testing.assert_close(seen[-1], postprocess.StableMax(None)(model.network_logits(IMAGES)))


def test_what_reads_logits_too_is_refused_round_it():
    pgd, inner = PGD(0.1, steps=2, random_start=True), StableMax(CrossEntropy())
    fgsm = kedge.attacks.FGSM(8 / 255, variant="rs")
    for make in (
        lambda: Distill(inner, Net()),
        lambda: TRADES(inner, pgd),
        lambda: CURE(inner, pgd),
        lambda: AAER(inner, fgsm),
        lambda: OutlierExposure(Mixup(inner)),
    ):
        with pytest.raises(ValueError, match=r"StableMax inside \w+.* put it outside: StableMax\("):
            make()


@pytest.mark.parametrize("make", [
    lambda: DiverseExperts(prior=[3, 2, 1]), DivDis, ConditionalTC, CriticTC, Levi,
    lambda: Adversarial(DivDis(), PGD(0.1, steps=2, random_start=True)),
])  # fmt: skip
def test_what_takes_its_logits_from_layers_is_refused_inside(make):
    """The map would be in none of its losses, and the model would predict through it."""
    inner = make()
    with pytest.raises(ValueError, match=r"^\w+ inside StableMax takes its logits from .* leave StableMax out"):
        StableMax(inner)


def test_such_a_run_is_refused_before_there_is_a_folder(tmp_path):
    recipe = {**TINY, "arguments": {"width": 4, "heads": 3}, "objective": ["stable_max", "diverse_experts"]}
    with pytest.raises(ValueError, match="DiverseExperts inside StableMax"):
        fit({**recipe, "anchored": False, "runs": str(tmp_path / "runs"), "name": "run"}, progress=False, report=False)
    assert not (tmp_path / "runs").exists()


def test_regression_is_refused():
    with pytest.raises(ValueError, match="StableMax is for classification"):
        StableMax(SquaredError())


@pytest.mark.parametrize("kind", ["anchored", "plain"])
def test_a_loop_that_does_not_prepare_trains_a_model_that_predicts_so_too(kind, tmp_path):
    model = small(kind).train()
    objective = StableMax(CrossEntropy())
    (Anchored(objective) if kind == "anchored" else objective)(model, IMAGES, TARGETS).backward()
    model.eval()
    raw = model.network_logits(IMAGES)
    torch.testing.assert_close(model(IMAGES).softmax(1), published(raw))
    one = {"references": 1} if kind == "anchored" else {}
    torch.testing.assert_close(model.predict(IMAGES, **one).probs, published(raw))
    torch.testing.assert_close(model.fold()(IMAGES).softmax(1), published(raw), atol=1e-6, rtol=1e-5)
    loaded = kedge.load(kedge.save(model, tmp_path / "m"), model=Net())
    assert torch.equal(loaded(IMAGES), model(IMAGES))
    done = kedge.deploy.export(model, tmp_path / "m.pt2", to="torch", check_images=IMAGES)
    torch.testing.assert_close(done.load()(IMAGES), model(IMAGES).detach(), atol=1e-5, rtol=1e-5)


def validation():
    return kedge.data.TensorSet((IMAGES * 255).byte(), TARGETS, ["a", "b", "c"], "specks", "val")


def test_it_stays_where_what_was_fitted_goes():
    model = small("plain").eval()
    StableMax(CrossEntropy()).prepare(model)
    calibrate(model, validation())
    assert list(model.steps) == ["stable_max", "temperature"]
    fitted = model.temperature
    set_anew(model, validation())
    assert list(model.steps) == ["stable_max", "temperature"]
    assert model.temperature == fitted
    half = interpolate_models(small("plain"), model, 0.5)
    assert half.steps == {"stable_max": {"value": None}}
    with pytest.raises(ValueError, match="stable_max is set on no images"):
        calibrate(small("plain"), validation(), "stable_max")
    with pytest.raises(ValueError, match=r"has no value, got 1\.5"):
        model.set_step("stable_max", 1.5)


def test_a_recalibration_takes_the_place_of_the_temperature_alone():
    model = small().eval()
    before = model.predict(IMAGES)
    StableMax(CrossEntropy()).prepare(model)
    model.set_temperature(3.0)
    mapped = postprocess.StableMax(None)(before.logits)
    expected = mapped / (1 + before.uncertainty[:, None].exp())
    torch.testing.assert_close(model.predict(IMAGES, recalibrate="exp").logits, expected)
    torch.testing.assert_close(model.predict(IMAGES).logits, mapped / 3)
    torch.testing.assert_close(model.predict(IMAGES).uncertainty, before.uncertainty)


TINY = {
    "data": "digits", "model": "kedge_resnet_small", "arguments": {"width": 4}, "train_images": 160, "batch_size": 40,
    "epochs": 1, "references": 3, "device": "cpu", "seed": 0,
}  # fmt: skip


def test_a_run_saves_it_with_the_model(tmp_path):
    recipe = {**TINY, "objective": ["anchored", "stable_max", "cross_entropy"], "ema": 0.5}
    result = fit({**recipe, "runs": str(tmp_path), "name": "run"}, progress=False, report=False)
    assert list(result.model.steps) == ["stable_max"]
    assert list(kedge.load(tmp_path / "run").steps) == ["stable_max"]
    assert "collapsed" in result.history[0]
    # Trained on it keeps its map, and no temperature.
    more = {k: v for k, v in TINY.items() if k not in ("model", "arguments", "references")}
    more |= {"init_from": str(tmp_path / "run"), "runs": str(tmp_path)}
    assert list(fit({**more, "name": "other"}, progress=False, report=False).model.steps) == ["stable_max"]
    result.model.set_temperature(3.0)
    again = fit({**more, "name": "again"}, start=result.model, progress=False, report=False)
    assert list(again.model.steps) == ["stable_max"]


def test_folds_judge_through_it(tmp_path):
    digits = kedge.data.load("digits", "train").subset(range(60))
    folder = tmp_path / "photos"
    for number, (image, label) in enumerate(zip(digits.images, digits.labels.tolist(), strict=True)):
        (folder / f"class {label}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(folder / f"class {label}" / f"{number}.png")
    recipe = {k: v for k, v in TINY.items() if k != "train_images"}
    recipe |= {"data": str(folder), "folds": 2, "objective": ["stable_max", "cross_entropy"], "anchored": False}
    result = fit({**recipe, "runs": str(tmp_path), "name": "run"}, progress=False, report=False)
    assert list(result.model.steps) == ["stable_max"]
    folds = [kedge.load(tmp_path / "run" / "folds" / number / "model") for number in "12"]
    assert all(list(each.steps) == ["stable_max"] for each in folds)
    # The NLL of the run is that of the folds' mapped answers for the images of each.
    facts = json.loads((tmp_path / "run" / "folds" / "1" / "run.json").read_text())["validation"]
    train, judged = RunImages(tmp_path / "run" / "folds" / "1").train, RunImages(tmp_path / "run" / "folds" / "1").val
    assert len(train) + len(judged) == 60
    answers = folds[0].predict(judged.images.float() / 255).probs
    expected = float(-answers[torch.arange(len(judged)), judged.labels].log().mean())
    assert facts["nll"] == pytest.approx(expected, rel=1e-4)

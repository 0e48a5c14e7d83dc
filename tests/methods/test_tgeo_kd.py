"""The learned share of a teacher: its value, its gradient against differences, and that nothing else sees the step."""

import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torch import nn
from torch.func import functional_call

import kedge
from kedge import data
from kedge.objectives import (
    Anchored,
    Brier,
    CrossEntropy,
    Distill,
    FeatureDistill,
    Mixup,
    OutlierExposure,
    TGeoKD,
    set_streams,
)
from kedge.training import Recipe, fit
from tests.settings import TEACHER, TINY

DRAWS = torch.Generator().manual_seed(0)
IMAGES, META = torch.rand(2, 6, 3, 8, 8, generator=DRAWS)
LABELS, META_LABELS = torch.randint(4, (2, 6), generator=DRAWS)


class Logits(nn.Module):
    """A model whose logits are a parameter."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(torch.as_tensor(logits, dtype=torch.float64))
        self.num_outputs = self.logits.shape[1]

    def forward(self, images):
        return self.logits


def small(seed, classes=4, norm=True):
    torch.manual_seed(seed)
    layers = [nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6) if norm else nn.Identity(), nn.Tanh()]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, classes))
    network.num_outputs = classes
    return network


def prepared(model, teacher, count=6, **settings):
    objective = TGeoKD(CrossEntropy(), teacher, **{"temperature": 1.5, **settings})
    objective.prepare(model)
    set_streams(objective, meta=META[:count], meta_labels=META_LABELS[:count])
    return objective


def always(objective, share):
    """The MLP that says the same share of every image."""
    with torch.no_grad():
        objective.share_of[-1].weight.zero_()
        objective.share_of[-1].bias.fill_(math.log(share / (1 - share)))
    return objective


def test_the_worked_example():
    """s = (1, 0, 0), t = (2, 1, 0), T 1.5, label 1 and a share of a quarter: 1.181949."""
    student = Logits([[1.0, 0.0, 0.0]])
    objective = always(prepared(student, Logits([[2.0, 1.0, 0.0]]), 1, look_ahead=0), 0.25)
    assert float(objective(student, IMAGES[:1], torch.tensor([1])).detach()) == pytest.approx(1.181949, abs=1e-6)


@pytest.mark.parametrize("share", [1e-6, 0.5, 1 - 1e-6])
def test_the_same_share_everywhere_is_a_fixed_one(share):
    student, teacher = small(0), small(1)
    fixed = Distill(CrossEntropy(), teacher, 1.5, share)(student, IMAGES, LABELS)
    student = small(0)
    loss = always(prepared(student, teacher), share)(student, IMAGES, LABELS)
    torch.testing.assert_close(loss, fixed, atol=1e-5, rtol=1e-5)


def test_the_state_of_an_image():
    """Nine times as many numbers as classes, by hand, in the order of the docstring."""
    student, teacher = Logits([[1.0, 0.0, 0.0]] * 2), Logits([[2.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    objective = prepared(student, teacher, 2, look_ahead=0)
    states = []
    objective.share_of[0].register_forward_pre_hook(lambda layer, read: states.append(read[0]))
    objective(student, IMAGES[:2], torch.tensor([1, 1]))
    own, other = (np.exp(z) / np.exp(z).sum(1, keepdims=True) for z in (student.logits.detach().numpy(),
                                                                      teacher.logits.detach().numpy()))  # fmt: skip
    truth, usual = np.eye(3)[[1, 1]], other.mean(0)[None].repeat(2, 0)
    squares = [(own - usual), (own - truth), (own - other), (other - truth), (usual - truth)]
    expected = np.concatenate([own, other, truth, usual, *(each**2 for each in squares)], 1)
    np.testing.assert_allclose(states[0].numpy(), expected, atol=1e-6)
    # Another batch: the mean answer of a class is that to all images until now, not to those of masked ones.
    objective(student, IMAGES[:2], torch.tensor([0, 1]))
    np.testing.assert_allclose(states[1][1, 9:12].numpy(), (2 * usual[0] + other[1]) / 3, atol=1e-6)
    np.testing.assert_allclose(states[1][0, 9:12].numpy(), other[0], atol=1e-6)


@pytest.mark.parametrize("norm", [False, True])
def test_the_gradient_of_the_share_is_that_of_finite_differences(norm):
    """CE of meta images at θ'(φ), whose φ are moved one by one, in float64; θ itself gets the loss's gradient alone."""
    torch.set_default_dtype(torch.float64)
    try:
        student, teacher = small(0, norm=norm).double(), small(1).double()
        objective = TGeoKD(CrossEntropy(), teacher, 1.5, look_ahead=0.3)
        objective.prepare(student)
        images, meta = IMAGES.double(), META.double()
        set_streams(objective, meta=meta, meta_labels=META_LABELS)
        objective(student, images, LABELS).backward()
        with torch.no_grad():
            taught = teacher.eval()(images)

        def share(logits):
            seen, answers = torch.eye(4)[LABELS], taught.softmax(1)
            usual = seen @ (seen.T @ answers / seen.sum(0).clamp(min=1e-9)[:, None])
            own = logits.detach().softmax(1)
            squares = [own - usual, own - seen, own - answers, answers - seen, usual - seen]
            state = torch.cat([own, answers, seen, usual, *(each**2 for each in squares)], 1)
            return objective.share_of(state)[:, 0].sigmoid()

        def loss(weights):
            logits = functional_call(student, weights, (images,))
            kl = 1.5**2 * F.kl_div((logits / 1.5).log_softmax(1), (taught / 1.5).softmax(1), reduction="none").sum(1)
            a = share(logits).detach()
            return ((1 - a) * F.cross_entropy(logits, LABELS, reduction="none") + a * kl).mean()

        weights = {name: value.detach().clone().requires_grad_() for name, value in student.named_parameters()}
        slopes = torch.autograd.grad(loss(weights), list(weights.values()))
        for (name, value), slope in zip(student.named_parameters(), slopes, strict=True):
            torch.testing.assert_close(value.grad, slope, msg=name)

        def aim():
            slopes = torch.autograd.grad(loss(weights), list(weights.values()))
            moved = {n: v.detach() - 0.3 * s for (n, v), s in zip(weights.items(), slopes, strict=True)}
            return float(F.cross_entropy(functional_call(student, moved, (meta,)), META_LABELS))

        # BatchNorm with batch statistics: what the calls above add to the running ones changes no answer in train mode.
        draws = torch.Generator().manual_seed(1)
        for parameter in objective.share_of.parameters():
            flat, slope = parameter.data.view(-1), parameter.grad.reshape(-1)
            for place in torch.randint(len(flat), (4,), generator=draws).tolist():
                before, step = float(flat[place]), 1e-4
                ends = []
                for sign in (1, -1):
                    flat[place] = before + sign * step
                    ends.append(aim())
                flat[place] = before
                assert float(slope[place]) == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-6, rel=1e-5)
        assert float(objective.share_of[-1].bias.grad.abs()) > 1e-5
    finally:
        torch.set_default_dtype(torch.float32)


def test_without_a_look_ahead_the_share_gets_no_gradient():
    student = small(0)
    objective = prepared(student, small(1), look_ahead=0)
    objective(student, IMAGES, LABELS).backward()
    assert all(p.grad is None for p in objective.share_of.parameters())
    assert student[0].weight.grad.abs().sum() > 0


def test_a_student_like_its_teacher_has_nothing_to_learn_of_it():
    logits = torch.randn(6, 3, generator=DRAWS).double()
    model = Logits(logits)
    objective = always(prepared(model, Logits(logits), look_ahead=0), 1 - 1e-7)
    assert float(objective(model, IMAGES, LABELS % 3).detach()) == pytest.approx(0, abs=1e-5)


def test_statistics_and_weights_are_those_of_the_step_alone():
    student, plain = small(0), small(0)
    prepared(student, small(1))(student, IMAGES, LABELS)
    plain(IMAGES)
    assert all(torch.equal(v, plain.state_dict()[k]) for k, v in student.state_dict().items())


@pytest.mark.parametrize("anchored", [False, True])
def test_what_objectives_outside_record_is_of_the_step(anchored):
    """Outliers, and the features that a layer of a teacher is compared with: with the look-ahead as without."""

    def losses(look_ahead):
        made = {"mean": 0.5, "std": 0.3, "example": (3, 8, 8)}
        network = nn.Sequential(*small(0))
        if anchored:
            model = kedge.anchor(network, references=IMAGES[:3], **made).train()
        else:
            model = kedge.plain(network, **made).train()
        teacher = kedge.plain(small(1), **made)
        inner = TGeoKD(CrossEntropy(), teacher, 1.5, look_ahead)
        layers = {"layer": "network.5", "teacher_layer": "network.5"}
        objective = OutlierExposure(FeatureDistill(inner, teacher, **layers))
        if anchored:
            objective = Anchored(objective, alpha=0.3)
        for each in (inner, objective):
            each.prepare(model)
        for each in objective.modules():
            if isinstance(each, FeatureDistill):
                each.prepare(model)
        set_streams(objective, outliers=1 - META, meta=META, meta_labels=META_LABELS)
        torch.manual_seed(3)
        loss = objective(model, IMAGES, LABELS)
        loss.backward()
        return loss.detach(), [p.grad for p in model.parameters()]

    with_it, without = losses(0.5), losses(0.0)
    assert torch.equal(with_it[0], without[0])
    for one, other in zip(with_it[1], without[1], strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("rows", [[0], [0, 1, 2], [0, 1, 2, 3, 4, 5]])
def test_edge_batches_soft_targets_and_half_precision(rows):
    student = small(0, norm=False)
    objective = prepared(student, small(1), len(rows))
    hard = objective(student, IMAGES[rows], LABELS[rows])
    objective = prepared(student, small(1), len(rows))
    soft = objective(student, IMAGES[rows], F.one_hot(LABELS[rows], 4).float())
    torch.testing.assert_close(hard, soft)
    with torch.autocast("cpu", torch.bfloat16):
        half = objective(student, IMAGES[rows], torch.zeros(len(rows), dtype=torch.long))
    half.backward()
    assert half.isfinite()
    assert all(p.grad.isfinite().all() for p in objective.share_of.parameters())


def test_the_seed_decides_the_first_weights():
    one, other, third = (prepared(small(0), small(1), seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.share_of[0].weight, other.share_of[0].weight)
    assert not torch.equal(one.share_of[0].weight, third.share_of[0].weight)


def test_it_learns_to_leave_a_teacher_that_is_wrong():
    """A teacher that is sure of the wrong class everywhere: after some steps its share is small."""
    student = small(0)
    teacher = Logits(torch.zeros(6, 4))
    teacher.logits.data[torch.arange(6), (LABELS + 1) % 4] = 6
    objective = prepared(student, teacher, look_ahead=1.0)
    set_streams(objective, meta=IMAGES, meta_labels=LABELS)
    optimizer = torch.optim.Adam([*student.parameters(), *objective.parameters()], 0.02)
    shares = []
    for _ in range(60):
        optimizer.zero_grad()
        objective(student, IMAGES, LABELS).backward()
        optimizer.step()
        shares.append(float(objective.logged["teacher_share"]))
    assert shares[-1] < 0.2 < shares[0]


# What is refused


def test_what_cannot_be():
    with pytest.raises(ValueError, match="temperature is a number above 0, got 0"):
        TGeoKD(CrossEntropy(), small(1), 0)
    with pytest.raises(ValueError, match="look_ahead is a number, 0 or more, got -1"):
        TGeoKD(CrossEntropy(), small(1), look_ahead=-1)
    with pytest.raises(ValueError, match=r"Mixup inside TGeoKD would change the images"):
        TGeoKD(Mixup(CrossEntropy()), small(1))
    with pytest.raises(ValueError, match=r"a share for each image, and Brier has one loss for all: put CrossEntropy"):
        TGeoKD(Brier(), small(1))
    objective = TGeoKD(CrossEntropy(), small(1))
    with pytest.raises(RuntimeError, match="no network for the share yet"):
        objective(small(0), IMAGES, LABELS)
    objective.prepare(small(0))
    with pytest.raises(RuntimeError, match=r"extra: \{meta: FOLDER\}"):
        objective(small(0), IMAGES, LABELS)
    set_streams(objective, meta=META[:3], meta_labels=META_LABELS)
    with pytest.raises(ValueError, match="meta images are as many and as large"):
        objective(small(0), IMAGES, LABELS)
    set_streams(objective, meta=META, meta_labels=META_LABELS[:3])
    with pytest.raises(ValueError, match=r"meta_labels are class indices \[6\], got \[3\]"):
        objective(small(0), IMAGES, LABELS)


# In a run


@pytest.fixture
def folder(tmp_path):
    """Digits that TINY does not train on, by class."""
    images = data.load("digits", "test").subset(range(60))
    for i, (label, pixels) in enumerate(zip(images.labels.tolist(), images.images, strict=True)):
        path = tmp_path / "meta" / images.class_names[label] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[0].numpy(), "L").save(path)
    return str(tmp_path / "meta")


OBJECTIVE = [{"tgeo_kd": {"teacher": TEACHER}}, "cross_entropy"]


def test_a_run_with_it(folder, tmp_path):
    recipe = {**TINY, "anchored": False, "objective": OBJECTIVE, "extra": {"meta": folder}, "runs": str(tmp_path)}
    result = fit({**recipe, "name": "run"}, progress=False, report=False)
    assert 0 < result.history[-1]["teacher_share"] < 1
    with pytest.raises(ValueError, match=r"TGeoKD is for one process .* compile: leave one of the two out"):
        fit({**recipe, "name": "compiled", "compile": True}, progress=False)
    with pytest.raises(ValueError, match=r"TGeoKD is for one process .* 2 devices: leave one of the two out"):
        fit({**recipe, "name": "two", "devices": 2}, progress=False)
    with pytest.raises(ValueError, match=r"needs meta beside the training images.*--extra '\{meta: FOLDER\}'"):
        fit({**recipe, "name": "none", "extra": {}}, progress=False)
    assert Recipe(**{**recipe, "name": "x"}).extra == {"meta": folder}


def test_meta_images_are_of_the_classes_and_not_trained_on(folder, tmp_path):
    recipe = {**TINY, "anchored": False, "objective": OBJECTIVE, "runs": str(tmp_path), "name": "run"}
    with pytest.raises(ValueError, match=r"160 of the .* images of meta are training images too"):
        fit({**recipe, "extra": {"meta": "digits"}}, progress=False)
    with pytest.raises(ValueError, match=r"reads the labels of meta.*: the training set also has 8, 9"):
        fit({**recipe, "extra": {"meta": _without(folder, "8", "9")}}, progress=False)


def _without(folder, *classes):
    for name in classes:
        shutil.rmtree(Path(folder) / name)
    return folder

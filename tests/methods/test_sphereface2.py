import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kedge
from kedge import heads, networks
from kedge.heads.cosine import bent
from kedge.objectives import TRADES, Anchored, CrossEntropy, Mixup, SphereFace2
from kedge.objectives.sphereface2 import binary_losses, first_bias, head_of
from kedge.probing.heads import find_head
from kedge.scores import Mahalanobis, MaxLogit, last_layer, outputs_of, usable
from kedge.training import fit
from tests.settings import TINY

DRAWS = torch.Generator().manual_seed(1)
IMAGES = torch.rand(7, 1, 8, 8, generator=DRAWS)
LABELS = torch.randint(5, (7,), generator=DRAWS)


def network(head="cosine", classes=5):
    torch.manual_seed(0)
    arguments = {"width": 4} if head is None else {"width": 4, "head": head}
    return networks.create("kedge_resnet_small", classes, 1, 8, arguments=arguments)


def fixed(logits):
    return lambda images: logits


@pytest.mark.parametrize(("power", "values"), [(3, [-1, -0.75, -0.15625, 1]), (1, [-1, 0, 0.5, 1])])
def test_the_map_of_the_cosines(power, values):
    assert bent(torch.tensor([-1.0, 0, 0.5, 1]), power).tolist() == pytest.approx(values, abs=1e-7)


def test_the_worked_example():
    """K 2, cos (0.5, -0.2), y 0, λ 0.7, r 10, m 0.2, t 3, b 0: 0.251369."""
    objective = SphereFace2(0.7, 10, 0.2, 3)
    logits = 10 * bent(torch.tensor([[0.5, -0.2]]), 3)
    assert float(objective(fixed(logits), IMAGES[:1], torch.tensor([0]))) == pytest.approx(0.251369, abs=1e-6)


@pytest.mark.parametrize(
    ("classes", "scale", "margin", "bias"),
    [(10, 40, 0.4, 12.950178), (10, 10, 0.2, 4.441634), (1000, 40, 0.4, 7.942882)],
)
def test_the_first_bias(classes, scale, margin, bias):
    value = first_bias(classes, 0.7, scale, margin, 3.0)
    assert value == pytest.approx(bias, abs=1e-6)
    logits = torch.full((1, classes), scale * -0.75 + value, dtype=torch.float64, requires_grad=True)
    one_hot = F.one_hot(torch.tensor([0]), classes)
    (binary_losses(logits, one_hot, 0.7, scale, margin).sum() / scale).backward()
    assert abs(float(logits.grad.sum())) < 1e-12


@pytest.mark.parametrize(("classes", "lam", "scale", "margin"), [(2, 0.99, 10, 0.4), (2, 0.7, 500, 2), (3, 0.5, 1, 0)])
def test_the_first_bias_is_a_zero_where_one_class_weighs_more_than_all_others(classes, lam, scale, margin):
    value = first_bias(classes, lam, scale, margin, 3.0)
    assert math.isfinite(value)
    logits = torch.full((1, classes), scale * -0.75 + value, dtype=torch.float64, requires_grad=True)
    binary_losses(logits, F.one_hot(torch.tensor([0]), classes), lam, scale, margin).sum().backward()
    assert abs(float(logits.grad.sum())) < 1e-9


def test_it_is_the_loss_of_the_authors_code():
    """Their lines, of the cosines of a head in train mode, divided by `lw` = 50; the gradients too."""
    lam, scale, margin, power = 0.7, 20.0, 0.4, 3.0
    head = heads.Cosine(6, 5).train()
    objective = SphereFace2(lam, scale, margin, power)
    objective.prepare(head)
    x, y = torch.randn(9, 6, generator=DRAWS), torch.randint(5, (9,), generator=DRAWS)
    w = F.normalize(head.weight.detach(), dim=-1).requires_grad_()
    b = head.bias.detach().clone().requires_grad_()
    cos_theta = F.normalize(x, dim=-1) @ w.T
    one_hot = F.one_hot(y, 5).float()
    with torch.no_grad():
        g = 2.0 * ((cos_theta + 1.0) / 2.0).pow(power) - 1.0
        d_theta = g - margin * (2.0 * one_hot - 1.0) - cos_theta
    logits = scale * (cos_theta + d_theta) + b
    weight = 50 * 5 / scale * (lam * one_hot + (1.0 - lam) * (1.0 - one_hot))
    expected = F.binary_cross_entropy_with_logits(logits, one_hot, weight=weight) / 50
    loss = objective(head, x, y)
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    expected.backward()
    loss.backward()
    torch.testing.assert_close(head.bias.grad, b.grad)
    along = (w.grad * w.detach()).sum(1, keepdim=True) * w.detach()  # what their next normalisation undoes
    torch.testing.assert_close(head.weight.grad * head.weight.detach().norm(dim=1, keepdim=True), w.grad - along)


def test_the_gradient_of_a_cosine_is_the_weighted_error_of_its_classifier():
    """ω_k (σ(logit_k) - [k = y]) / B, in which r cancels: of logits r c + b it is r times that of the logit."""
    cosines = torch.rand(4, 3, generator=DRAWS).requires_grad_()
    labels = torch.tensor([0, 1, 2, 1])
    for scale in (10.0, 40.0):
        logits = scale * cosines + 0.3
        (gradient,) = torch.autograd.grad(SphereFace2(0.7, scale, 0.2)(fixed(logits), IMAGES[:4], labels), cosines)
        one_hot = F.one_hot(labels, 3)
        with_margin = logits.detach() - scale * 0.2 * (2 * one_hot - 1)
        expected = torch.where(one_hot == 1, 0.7, 0.3) * (with_margin.sigmoid() - one_hot) / 4
        torch.testing.assert_close(gradient, expected)


def test_without_margin_and_map_it_is_half_of_one_vs_rest():
    head = heads.Cosine(6, 5)
    objective = SphereFace2(0.5, 10, 0, 1)
    objective.prepare(head)
    x = torch.randn(4, 6, generator=DRAWS)
    logits = 10 * F.normalize(x) @ F.normalize(head.weight).T + head.bias
    one_hot = F.one_hot(torch.tensor([0, 4, 2, 2]), 5).float()
    expected = 0.5 / 10 * F.binary_cross_entropy_with_logits(logits, one_hot, reduction="none").sum(1).mean()
    assert float(objective(head, x, one_hot.argmax(1)).detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_the_length_of_features_and_weights_changes_nothing():
    head = heads.Cosine(6, 5).eval()
    x = torch.randn(4, 6, generator=DRAWS)
    before = head(x)
    with torch.no_grad():
        head.weight *= torch.tensor([2.0, 0.1, 7, 1, 30])[:, None]
    torch.testing.assert_close(head(3 * x), before)


def test_in_train_mode_the_gradient_is_that_of_a_linear_map_and_in_eval_mode_its_own():
    head, x = heads.Cosine(6, 5), torch.randn(4, 6, generator=DRAWS)
    head.power.fill_(3.0)
    torch.testing.assert_close(head.train()(x), head.eval()(x))
    with torch.no_grad():
        cosines = F.normalize(x) @ F.normalize(head.weight).T
    gradients = [torch.autograd.grad(head.train(mode)(x).sum(), head.weight)[0] for mode in (True, False)]
    plain = heads.Cosine(6, 5).train()
    plain.load_state_dict({**head.state_dict(), "power": torch.ones(1)})
    plain(x).sum().backward()
    torch.testing.assert_close(gradients[0], plain.weight.grad)
    slope = 3 * ((cosines + 1) / 2) ** 2
    linear = torch.autograd.grad((10 * slope * (F.normalize(x) @ F.normalize(plain.weight).T)).sum(), plain.weight)[0]
    torch.testing.assert_close(gradients[1], linear)


def test_prepare_sets_the_head_and_leaves_a_trained_bias():
    model, objective = kedge.plain(network(), example=(1, 8, 8)), SphereFace2(scale=20, power=2)
    objective.prepare(model)
    head = head_of(model)
    assert (float(head.scale), float(head.power)) == (20, 2)
    assert float(head.bias.detach()) == pytest.approx(first_bias(5, 0.7, 20, 0.2, 2))
    with torch.no_grad():
        head.bias.fill_(1.5)
    objective.prepare(model)
    assert float(head.bias.detach()) == 1.5


@pytest.mark.parametrize("anchored", [False, True])
def test_it_is_saved_loaded_and_folded(tmp_path, anchored):
    model = network()
    model = kedge.anchor(model, references=IMAGES[:2]) if anchored else kedge.plain(model, example=(1, 8, 8))
    SphereFace2(scale=30).prepare(model)
    model.eval()
    loaded = kedge.load(kedge.save(model, tmp_path / "model"))
    assert float(loaded.network.fc.scale) == 30
    with torch.no_grad():
        assert torch.equal(loaded(IMAGES), model(IMAGES))
        torch.testing.assert_close(model.fold().eval()(IMAGES), model(IMAGES), rtol=1e-4, atol=1e-4)


def test_it_nests_in_anchored_and_with_an_attack():
    model = kedge.anchor(network(), references=IMAGES[:3]).train()
    inner = SphereFace2()
    inner.prepare(model)
    label = Anchored(inner, alpha=0.5, mask_target="label")
    attack = kedge.attacks.PGD(0.1, steps=1, random_start=True)
    attacked = Anchored(kedge.objectives.Adversarial(inner, attack), alpha=0.0)
    for objective in (Anchored(inner, alpha=0.0), label, attacked):
        loss = objective(model, IMAGES, LABELS)
        loss.backward()
        assert loss.isfinite()
    assert Anchored(TRADES(CrossEntropy(), attack), alpha=0.0)(model, IMAGES, LABELS).isfinite()


def test_one_image_one_class_and_half_precision():
    model = network().train()
    for module in model.modules():  # a batch of one has no variance
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    whole = SphereFace2()(model, IMAGES, LABELS)
    single = [SphereFace2()(model, IMAGES[i : i + 1], LABELS[i : i + 1]) for i in range(7)]
    torch.testing.assert_close(torch.stack(single).mean(), whole)
    assert SphereFace2()(model, IMAGES, 0 * LABELS).isfinite()
    half = SphereFace2()(model.bfloat16(), IMAGES.bfloat16(), LABELS)
    assert half.dtype == torch.float32
    assert float(half.detach()) == pytest.approx(float(whole.detach()), rel=0.05)


def test_what_it_cannot_take():
    soft = torch.full((7, 5), 0.2)
    with pytest.raises(ValueError, match=r"SphereFace2 takes class indices \[7\], not probabilities \[7, 5\]"):
        SphereFace2()(network(), IMAGES, soft)
    with pytest.raises(ValueError, match=r"SphereFace2 takes class indices, .*alpha=0"):
        Anchored(SphereFace2())
    with pytest.raises(ValueError, match="SphereFace2 cannot take the mixed targets of Mixup"):
        Mixup(SphereFace2())
    with pytest.raises(
        ValueError, match=r"one last layer of cosines, and this one has none: say arguments \{head: cos"
    ):
        SphereFace2().prepare(network(None))
    with pytest.raises(ValueError, match="this one has 2"):
        SphereFace2().prepare(nn.ModuleList([network(), network()]))
    with pytest.raises(ValueError, match="two classes or more"):
        SphereFace2().prepare(network(classes=1))
    for name, value, words in (
        ("lam", 1, "lam is above 0 and below 1, got 1"),
        ("lam", 1.5, "lam is the share of the true class, 0 to 1, got 1.5"),
        ("scale", 0, "scale is a number above 0, got 0"),
        ("power", math.nan, "power is a number above 0, got nan"),
        ("margin", -0.1, r"margin is a number, 0 or more, got -0\.1"),
    ):
        with pytest.raises(ValueError, match=words):
            SphereFace2(**{name: value})


def test_scores_and_heads_of_an_affine_last_layer_say_why_there_is_none():
    model = kedge.plain(network(), example=(1, 8, 8)).eval()
    assert last_layer(model, IMAGES) is None
    outputs = outputs_of(model, IMAGES, features=True)
    assert [score.name for score in usable([Mahalanobis(), MaxLogit()], outputs)] == ["max_logit"]
    with pytest.raises(ValueError, match=r"mahalanobis needs features: .* of a network whose last layer is affine"):
        Mahalanobis().fit(outputs, LABELS)
    with pytest.raises(ValueError, match=r"no head was found.*W·features \+ b"):
        find_head(model)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"objective": ["SphereFace2"], "temperature": True, "anchored": False}, "one last layer of cosines"),
        ({"objective": ["SphereFace2"], "anchored": False}, "softmax of what SphereFace2 trains is no probability"),
        ({"objective": ["Anchored", "SphereFace2"], "temperature": True}, "SphereFace2 takes class indices"),
    ],
)
def test_runs_that_cannot_be_are_refused_before_they_have_a_folder(tmp_path, fields, words):
    recipe = {**TINY, "runs": str(tmp_path), "name": "run", "arguments": {"width": 4}}
    with pytest.raises(ValueError, match=words):
        fit({**recipe, **fields}, progress=False, report=False)
    assert not (tmp_path / "run").exists()


def test_in_mixed_precision_cosines_are_not_rounded():
    draws = torch.Generator().manual_seed(0)
    head = heads.cosine.Cosine(64, 10).eval()
    features = head.weight.detach() + 0.01 * torch.randn(10, 64, generator=draws)
    head.scale.fill_(40.0)
    expected = head(features)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(head(features), expected)

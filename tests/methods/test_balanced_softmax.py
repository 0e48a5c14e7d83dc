import pytest
import torch
from torch import nn

import kedge
from kedge.objectives import Anchored, BalancedSoftmax, CrossEntropy
from kedge.training.objective import check_objective, make_objective
from kedge.training.recipe import Recipe

PRIOR = [0.6, 0.3, 0.1]
IMAGES = torch.rand(20, 3, 4, 4, generator=torch.Generator().manual_seed(1))
TARGETS = torch.arange(20) % 3


def fixed(logits):
    return lambda images: logits


@pytest.fixture
def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 3))


@pytest.mark.parametrize(("label", "value"), [(2, 2.302585), (0, 0.510826)])
def test_the_published_values_at_zero_logits(label, value):
    """-log π_y, as the three losses of SADE have it for the second expert."""
    loss = BalancedSoftmax(PRIOR)(fixed(torch.zeros(1, 3)), IMAGES[:1], torch.tensor([label]))
    assert float(loss) == pytest.approx(value, abs=1e-6)


def test_it_is_the_published_softmax(net):
    """Ren et al., equation 3: n_y e^z_y / Σ_c n_c e^z_c, written out in float64."""
    counts = torch.tensor([60.0, 30.0, 10.0], dtype=torch.float64)
    weighed = counts * net(IMAGES).detach().double().exp()
    expected = -(weighed[torch.arange(20), TARGETS] / weighed.sum(1)).log().mean()
    labels = torch.repeat_interleave(torch.arange(3), counts.long())
    for objective in (BalancedSoftmax(PRIOR), BalancedSoftmax(labels=labels, num_classes=3)):
        assert float(objective(net, IMAGES, TARGETS).detach()) == pytest.approx(float(expected), rel=1e-6)


def test_equal_shares_and_no_correction_are_cross_entropy(net):
    plain = CrossEntropy()(net, IMAGES, TARGETS)
    for objective in (BalancedSoftmax([1, 1, 1]), BalancedSoftmax(PRIOR, tau=0.0)):
        torch.testing.assert_close(objective(net, IMAGES, TARGETS), plain)


def test_the_best_logits_are_the_posterior_of_equal_classes():
    """Under a posterior (.8, .2) of images with shares (.9, .1) the loss is least at (.3077, .6923)."""
    q, logits = torch.tensor([0.8, 0.2], dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64).requires_grad_()
    objective = BalancedSoftmax([0.9, 0.1])
    rule = torch.optim.LBFGS([logits], max_iter=100, tolerance_grad=1e-12, tolerance_change=1e-14)

    def closure():
        rule.zero_grad()
        loss = sum(q[c] * objective(fixed(logits), IMAGES[:1], torch.tensor([c])) for c in range(2))
        loss.backward()
        return loss

    rule.step(closure)
    assert logits.softmax(1)[0].tolist() == pytest.approx([0.307692, 0.692308], abs=1e-5)


def test_it_agrees_with_the_step_class_prior(net):
    """softmax(z + log π) is what was trained; the step from π to equal shares gives softmax(z) back."""
    from kedge.postprocess.class_prior import ClassPrior

    logits = net(IMAGES)
    trained = logits + torch.tensor(PRIOR).log()
    step = ClassPrior({"target": [1 / 3] * 3, "train": PRIOR})
    torch.testing.assert_close(step(trained).softmax(1), logits.softmax(1))


def test_batches_of_one_of_one_class_soft_targets_and_half_precision(net):
    objective = BalancedSoftmax(PRIOR)
    whole = objective(net, IMAGES, TARGETS)
    soft = nn.functional.one_hot(TARGETS, 3).float()
    torch.testing.assert_close(objective(net, IMAGES, soft), whole)
    single = [objective(net, IMAGES[i : i + 1], TARGETS[i : i + 1]) for i in range(20)]
    torch.testing.assert_close(torch.stack(single).mean(), whole)
    assert torch.isfinite(objective(net, IMAGES[:3], torch.zeros(3).long()))
    half = net(IMAGES).detach().bfloat16()
    loss = objective(fixed(half), IMAGES, TARGETS)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, objective(fixed(half.float()), IMAGES, TARGETS))


def test_masked_images_are_to_answer_evenly():
    """All masked, target uniform: the least loss is at equal logits, log C, whatever the shares."""
    model = kedge.anchor(nn.Sequential(nn.Flatten(), nn.Linear(48, 3)), references=IMAGES[:4])
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    loss = Anchored(BalancedSoftmax(PRIOR), alpha=1.0, mask_target="uniform")(model, IMAGES, TARGETS)
    loss.backward()
    assert float(loss.detach()) == pytest.approx(1.098612, abs=1e-6)
    assert max(float(p.grad.abs().max()) for p in model.parameters() if p.grad is not None) < 1e-6
    kept = Anchored(BalancedSoftmax(PRIOR), alpha=0.0)(model, IMAGES[:1], torch.tensor([2]))
    assert float(kept.detach()) == pytest.approx(2.302585, abs=1e-6)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({}, "needs the shares of the classes"),
        ({"prior": [0.5, 0.0, 0.5]}, "prior must be above 0"),
        ({"prior": [1.0]}, "two classes or more"),
        ({"labels": torch.tensor([0, 0, 2]), "num_classes": 3}, r"number of training images.*\[2.0, 0.0, 1.0\]"),
        ({"prior": [1, 2], "tau": -1.0}, "tau"),
    ],
)
def test_shares_that_are_none_are_refused(arguments, words):
    with pytest.raises(ValueError, match=words):
        BalancedSoftmax(**arguments)


def test_another_number_of_outputs_is_refused(net):
    with pytest.raises(ValueError, match="shares of 2 classes, but the model has 3 outputs"):
        BalancedSoftmax([1, 2])(net, IMAGES, TARGETS)


def test_a_run_hands_over_the_labels_and_refuses_weights_on_top():
    train = kedge.data.imbalanced(kedge.data.load("digits", "train"), 10)
    objective = make_objective(Recipe(objective=["BalancedSoftmax"]), train)
    counts = torch.bincount(train.labels).double()
    torch.testing.assert_close(objective.shift.double(), (counts / counts.sum()).log(), atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="class_weights is balanced, and nothing in the objective"):
        check_objective(Recipe(objective=["BalancedSoftmax"], class_weights="balanced"))

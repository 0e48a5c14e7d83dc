"""The head of a probe against scikit-learn's logistic regression, a second solver of the same problem."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from kedge.adaptation import ProbeData, adapt, fit_probe
from kedge.probing.features import drawn_features, features
from kedge.probing.probe import STRENGTHS, choose_strength, solve


@pytest.fixture
def points():
    """60 points in 5 dimensions, three overlapping classes, unlike scales and an offset."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    x = torch.randn(60, 5, generator=generator) + labels[:, None] * torch.tensor([1.0, 0, -1, 0, 0.5])
    return x * torch.tensor([1.0, 5, 1, 0.1, 1]) + 7, labels


@pytest.mark.parametrize("strength", [1.0, 0.01, 1e-4])
def test_the_head_is_that_of_scikit_learn(points, strength):
    x, labels = points
    probe = fit_probe(ProbeData(x[None], labels, 3), strength=strength)
    scale = (x - x.mean(0)).square().mean().sqrt()
    scaled = ((x - x.mean(0)) / scale).double().numpy()
    # scikit-learn's objective is C Σ loss + |W|² / 2, ours mean loss + λ |W|² / 2: C = 1 / (λ N).
    other = LogisticRegression(C=1 / (strength * 60), tol=1e-10, max_iter=10000).fit(scaled, labels.numpy())
    ours = (x @ probe.weight.T + probe.bias).softmax(1)
    np.testing.assert_allclose(ours, other.predict_proba(scaled), atol=2e-4)
    np.testing.assert_allclose(probe.weight * scale, other.coef_, atol=5e-3 * np.abs(other.coef_).max())


@pytest.mark.parametrize("images", [12, 59, 90])
def test_fewer_images_than_features_have_the_same_head(images):
    """Solved in what they span, which the minimum lies in."""
    draw = torch.Generator().manual_seed(images)
    labels = torch.arange(images) % 3
    x = torch.randn(images, 60, generator=draw).double() + labels[:, None]
    x[1] = x[0]  # and of less than full rank
    labels[1] = labels[0]
    probe = fit_probe(ProbeData(x[None], labels, 3), strength=0.05)
    scale = float((x - x.mean(0)).square().mean().sqrt())
    other = LogisticRegression(C=1 / (0.05 * images), tol=1e-10, max_iter=10000).fit((x - x.mean(0)) / scale, labels)
    assert torch.allclose(probe.weight.double() * scale, torch.from_numpy(other.coef_), atol=1e-4)
    judged = torch.randn(40, 60, generator=draw).double()
    logits = judged @ probe.weight.double().T + probe.bias
    expected = torch.from_numpy(other.predict_log_proba(((judged - x.mean(0)) / scale).numpy()))
    assert torch.allclose(logits.log_softmax(1), expected, atol=1e-3)


def test_the_minimum_is_one_by_autograd(points):
    x, labels = points
    targets = torch.full((60, 3), 1 / 3, dtype=torch.float64)
    targets[:40] = torch.nn.functional.one_hot(labels[:40], 3).double()
    weights = torch.arange(1, 61).double() / 1830
    state = solve(x.double(), targets, weights, 0.01).requires_grad_()
    loss = -(weights[:, None] * targets * (x.double() @ state[:, :-1].T + state[:, -1]).log_softmax(1)).sum()
    (loss + 0.005 * state[:, :-1].square().sum()).backward()
    assert float(state.grad.abs().max()) < 1e-5


def test_a_head_without_a_bias(points):
    x, labels = points
    probe = fit_probe(ProbeData(x[None], labels, 3), strength=0.1, intercept=False)
    assert probe.bias is None
    scale = x.square().mean().sqrt()
    other = LogisticRegression(C=1 / 6, fit_intercept=False, tol=1e-10, max_iter=10000).fit(x / scale, labels)
    np.testing.assert_allclose((x @ probe.weight.T).softmax(1), other.predict_proba(x / scale), atol=2e-4)


def test_the_strength_is_the_best_on_validation_images(points):
    x, labels = points
    data = ProbeData(x[None, :30], labels[:30], 3)
    probe = fit_probe(data, (x[30:], labels[30:]))
    assert "30 validation images" in probe.chosen
    by_hand = {}
    for strength in list(probe.nll):
        fixed = fit_probe(data, strength=strength)
        logits = x[30:] @ fixed.weight.T + fixed.bias
        by_hand[strength] = float(torch.nn.functional.cross_entropy(logits, labels[30:]))
        assert by_hand[strength] == pytest.approx(probe.nll[strength], abs=2e-3)
    assert probe.strength == min(probe.nll, key=probe.nll.get)
    # It stopped early only where it got worse.
    assert set(probe.nll) <= set(STRENGTHS)


def test_few_images_choose_among_themselves_and_one_does_not(points):
    x, labels = points
    several = fit_probe(ProbeData(x[None, :12], labels[:12], 3))
    assert "4-fold cross-validation of the 12 images" in several.chosen.replace("5-fold", "4-fold")
    one = fit_probe(ProbeData(x[None, :3], labels[:3], 3))
    assert one.strength == pytest.approx(1 / 3)
    assert one.nll == {}


def test_constant_features_and_wrong_ones():
    flat = fit_probe(ProbeData(torch.ones(1, 6, 4), torch.arange(6) % 2, 2))
    assert flat.weight.abs().max() < 1e-6
    with pytest.raises(ValueError, match="NaN"):
        fit_probe(ProbeData(torch.full((1, 6, 4), torch.nan), torch.arange(6) % 2, 2))
    with pytest.raises(ValueError, match="there is 1"):
        fit_probe(ProbeData(torch.rand(1, 6, 4), torch.zeros(6).long(), 1))


def test_masking_weighs_as_sampling_would(points):
    """Rows of an anchored probe: the expectation of the loss that Anchored(CrossEntropy) draws."""
    _, labels = points
    generator = torch.Generator().manual_seed(3)
    seen, hidden = torch.randn(2, 2, 60, 5, generator=generator)
    rows, targets, weights = ProbeData(seen, labels, 3, hidden, 0.4).rows()
    head = torch.randn(3, 5, generator=generator).double()
    ours = -(weights[:, None] * targets * (rows @ head.T).log_softmax(1)).sum()
    logs = (seen.double() @ head.T).log_softmax(-1)
    clean = -logs[:, torch.arange(60), labels].mean()
    even = -(hidden.double() @ head.T).log_softmax(-1).mean()
    assert float(ours) == pytest.approx(float(0.6 * clean + 0.4 * even))
    assert float(weights.sum()) == pytest.approx(1)


@torch.no_grad()
def test_features_are_what_the_head_reads(body, anchored, digits):
    train = digits[0]
    pixels = train.images.float() / 255
    found = features(body, "fc", train, batch_size=16)
    torch.testing.assert_close(body.network.fc(found), body(pixels))
    # Of an anchored model the mean over the bank, as in predict.
    found = features(anchored, "fc", train, batch_size=16)
    torch.testing.assert_close(anchored.network.fc(found), anchored.predict(pixels).logits, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_an_image_of_the_bank_does_not_meet_itself(anchored, digits):
    train = digits[0].subset(range(9))
    pixels = train.images.float() / 255
    anchored.references = pixels[[2, 5, 7]]
    found = features(anchored, "fc", train, batch_size=4, others=True)
    for i in range(9):
        bank = [r for r in (2, 5, 7) if r != i]
        logits = anchored(pixels[i : i + 1].expand(len(bank), -1, -1, -1), references=pixels[bank]).mean(0)
        torch.testing.assert_close(anchored.network.fc(found[i]), logits, rtol=1e-4, atol=1e-5)
    # A bank of one: that image gets another, the rest meet the bank.
    anchored.references = pixels[:1]
    found = features(anchored, "fc", train, batch_size=4, others=True)
    partners = pixels[[1] + [0] * 8]
    torch.testing.assert_close(anchored.network.fc(found), anchored(pixels, references=partners), rtol=1e-4, atol=1e-5)
    # One image in all has no other.
    alone = train.subset([0])
    torch.testing.assert_close(
        features(anchored, "fc", alone, others=True), features(anchored, "fc", alone), rtol=1e-4, atol=1e-5
    )


def test_a_linear_probe_is_fitted_on_images_with_others(anchored, digits):
    made = adapt(anchored, *digits[:2], references=2, strength=0.1, device="cpu").model
    seen = features(made, "fc", digits[0], others=True)
    probe = fit_probe(ProbeData(seen[None], digits[0].labels, 3), strength=0.1)
    torch.testing.assert_close(made.network.fc.weight, probe.weight, rtol=1e-3, atol=1e-4)
    seen = features(made, "fc", digits[0])
    with_itself = fit_probe(ProbeData(seen[None], digits[0].labels, 3), strength=0.1)
    assert not torch.allclose(made.network.fc.weight, with_itself.weight, rtol=1e-3, atol=1e-4)


@torch.no_grad()
def test_drawn_features_are_of_other_images_and_of_hidden_ones(anchored, digits):
    train = digits[0].subset(range(9))
    pixels = train.images.float() / 255
    seen, hidden = drawn_features(anchored, "fc", train, 2, True, seed=5, batch_size=4)
    assert seen.shape == hidden.shape == (2, 9, 16)
    mask = torch.ones(9, dtype=torch.bool)
    for draw in range(2):
        # Each image's features are found again with exactly one other image as its reference.
        for i in range(9):
            x, others = pixels[i : i + 1].expand(9, -1, -1, -1), pixels
            every = anchored(x, references=others)
            own = anchored.network.fc(seen[draw, i])
            near = (every - own).abs().amax(1)
            assert int(near.argmin()) != i
            assert float(near.min()) < 1e-5
            masked = anchored(x, references=others, mask=mask)
            near = (masked - anchored.network.fc(hidden[draw, i])).abs().amax(1)
            assert float(near.min()) < 1e-5
    assert not torch.equal(seen[0], seen[1])
    again, _ = drawn_features(anchored, "fc", train, 2, False, seed=5, batch_size=9)
    torch.testing.assert_close(again, seen)


def test_choose_strength_skips_what_a_part_did_not_reach(points):
    x, labels = points
    data = ProbeData(x[None], labels, 3)
    parts = [(None, x, labels), (torch.arange(0, 60, 2), x, labels)]
    found = choose_strength(data, parts)
    assert found
    assert all(value > 0 for value in found.values())

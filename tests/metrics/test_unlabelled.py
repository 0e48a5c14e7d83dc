import numpy as np
import pytest
import torch

from kedge import metrics


def reference_atc(source, correct, target):
    """ATC by trying every threshold, for scores without ties."""
    right, best = correct.sum(), None
    for threshold in np.concatenate([np.sort(source), [np.inf]]):
        if (source >= threshold).sum() == right:
            best = (target >= threshold).mean()
    return best


def drawn(n, seed, power=0.4):
    """Confidences that are calibrated by construction, and whether the answers are right."""
    generator = torch.Generator().manual_seed(seed)
    confidence = torch.rand(n, generator=generator, dtype=torch.float64) ** power
    return confidence, torch.rand(n, generator=generator, dtype=torch.float64) < confidence


@pytest.mark.parametrize("seed", range(5))
def test_atc_is_that_of_trying_every_threshold(seed):
    (source, correct), (target, _) = drawn(83, seed), drawn(37, seed + 100, power=0.8)
    theirs = reference_atc(source.numpy(), correct.numpy(), target.numpy())
    assert float(metrics.average_thresholded_confidence(source, correct, target)) == pytest.approx(theirs, abs=1e-12)
    order = torch.randperm(83, generator=torch.Generator().manual_seed(seed))
    again = metrics.average_thresholded_confidence(source[order], correct[order], target.flip(0))
    assert float(again) == pytest.approx(theirs, abs=1e-12)


@pytest.mark.parametrize("estimate", [metrics.average_thresholded_confidence, metrics.difference_of_confidences])
@pytest.mark.parametrize("ties", [False, True])
def test_on_the_source_itself_it_is_the_source_accuracy(estimate, ties):
    for n in (1, 2, 7, 200):
        scores, correct = drawn(n, n)
        scores = (scores * 4).round() / 4 if ties else scores
        assert float(estimate(scores, correct, scores)) == pytest.approx(float(correct.double().mean()), abs=1e-12)
        assert float(estimate(scores.float(), correct, scores.float())) == pytest.approx(
            float(correct.double().mean()), abs=1e-6
        )


def test_atc_is_exact_where_a_score_above_a_threshold_means_a_right_answer():
    source, target = torch.rand(5000), torch.rand(3000) ** 3
    estimate = float(metrics.average_thresholded_confidence(source, source > 0.3, target))
    assert estimate == pytest.approx(float((target > 0.3).double().mean()), abs=2e-3)
    one, monotone = (f(source.log(), source > 0.3, target.log()) for f in [metrics.average_thresholded_confidence] * 2)
    assert float(one) == float(monotone) == estimate  # only the order of the scores counts


def test_doc_is_exact_for_calibrated_confidences():
    (source, correct), (target, right) = drawn(40_000, 0), drawn(40_000, 1, power=1.0)
    estimate = float(metrics.difference_of_confidences(source, correct, target))
    assert estimate == pytest.approx(float(right.double().mean()), abs=0.01)
    gap = np.mean(correct.numpy()) - np.mean(source.numpy()) + np.mean(target.numpy())
    assert estimate == pytest.approx(gap, abs=1e-12)


def test_ends():
    scores, target = torch.tensor([0.2, 0.6, 0.4]), torch.tensor([0.1, 0.3, 0.9, 0.95])
    all_right, all_wrong = torch.ones(3, dtype=torch.bool), torch.zeros(3, dtype=torch.bool)
    atc = metrics.average_thresholded_confidence
    assert float(atc(scores, all_right, target)) == 0.75  # below the lowest of the source: wrong
    assert float(atc(scores, all_wrong, target)) == 0.0
    assert float(metrics.difference_of_confidences(scores, all_right, target)) == 1.0  # clipped
    assert float(metrics.difference_of_confidences(scores, all_wrong, torch.tensor([0.1]))) == 0.0
    low, high = metrics.average_thresholded_confidence_interval(scores, all_wrong, target)
    assert (low, high) == (0.0, 1.0)  # the rule of three, of three images
    same = torch.full((300,), 0.5)
    low, high = metrics.difference_of_confidences_interval(same, same > 0, same)
    assert (low, high) == pytest.approx((0.99, 1.0))


@pytest.mark.parametrize(
    ("estimate", "power", "truth"),
    [
        (metrics.average_thresholded_confidence_interval, 0.4, 1 / 1.4),
        (metrics.difference_of_confidences_interval, 0.4, 1 / 1.4),
        (metrics.difference_of_confidences_interval, 0.8, 1 / 1.8),
    ],
)
def test_intervals_hold_the_truth_where_the_assumption_holds(estimate, power, truth):
    hits = []
    for trial in range(60):
        source, correct = drawn(300, 2 * trial)
        low, high = estimate(source, correct, drawn(200, 2 * trial + 1, power)[0], n=200, seed=trial)
        hits.append(low <= truth <= high)
    assert 0.83 <= np.mean(hits) <= 1.0


def test_intervals_are_seeded_and_agree_with_a_plain_bootstrap(monkeypatch):
    (source, correct), (target, _) = drawn(120, 0), drawn(90, 1, power=0.8)
    for value, function in [
        (metrics.average_thresholded_confidence, metrics.average_thresholded_confidence_interval),
        (metrics.difference_of_confidences, metrics.difference_of_confidences_interval),
    ]:
        ours = function(source, correct, target, n=2000, seed=3)
        assert ours == function(source, correct, target, n=2000, seed=3)
        assert function(source, correct, target, n=50, seed=3) != function(source, correct, target, n=50, seed=5)
        generator, draws = torch.Generator().manual_seed(9), []
        for _ in range(2000):
            i, j = (torch.randint(n, (n,), generator=generator) for n in (120, 90))
            draws.append(float(value(source[i], correct[i], target[j])))
        middle = float(value(source, correct, target))
        low, high = 2 * middle - np.quantile(draws, [0.975, 0.025])
        assert ours == pytest.approx((low, high), abs=0.02)
    monkeypatch.setattr("kedge.metrics._unlabelled._AT_ONCE", 500)
    assert metrics.average_thresholded_confidence_interval(source, correct, target, n=2000, seed=3) == pytest.approx(
        (lambda f: f(source, correct, target, n=2000, seed=3))(metrics.average_thresholded_confidence_interval)
    )


def test_agreement_counts_the_references_that_give_the_answer():
    logits = torch.tensor([[[3.0, 0, 0], [0, 1, 0]], [[2.0, 0, 0], [2, 0, 0]], [[0.0, 1, 0], [0, 1.5, 0]]])
    assert metrics.agreement_of_references(logits).tolist() == pytest.approx([2 / 3, 2 / 3])
    assert metrics.agreement_of_references(logits, torch.tensor([2, 0])).tolist() == pytest.approx([0, 1 / 3])
    with pytest.raises(ValueError, match=r"two or more references, but its shape is \[1, 2, 3\]"):
        metrics.agreement_of_references(logits[:1])


@pytest.mark.parametrize("estimate", [metrics.average_thresholded_confidence, metrics.difference_of_confidences])
def test_what_cannot_be_estimated_is_refused(estimate):
    scores, correct = torch.rand(4), torch.ones(4, dtype=torch.bool)
    with pytest.raises(ValueError, match="target_scores must be"):
        estimate(scores, correct, torch.empty(0))
    with pytest.raises(ValueError, match="source_scores must be"):
        estimate(scores[:0], correct[:0], scores)
    with pytest.raises(ValueError, match="1 of 4 target_scores are NaN"):
        estimate(scores, correct, torch.tensor([0.1, float("nan"), 0.2, 0.3]))
    with pytest.raises(ValueError, match="source_correct must be bool"):
        estimate(scores, correct.float(), scores)
    with pytest.raises(ValueError, match="source_correct must be bool"):
        estimate(scores, correct[:3], scores)

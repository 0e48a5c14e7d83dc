"""RCAL's Gaussians against numpy, closed-form weights and the moments of many draws."""

import numpy as np
import pytest
import torch

import kedge
from kedge import data
from kedge.adaptation import ProbeData, adapt, fit_probe
from kedge.procedures.rcal import GaussianClasses, filled_up, inliers, weights_of
from kedge.seeds import generator

COUNTS = (60, 40, 30, 8, 5)
LABELS = torch.tensor([label for label, count in enumerate(COUNTS) for _ in range(count)])
CENTRES = torch.tensor([[0.0, 0, 0], [4, 0, 0], [0, 6, 0], [2, 2, 0], [0, 0, 9]], dtype=torch.float64)
MIX = torch.tensor([[1.0, 0.5, 0], [0, 1, 0.3], [0, 0, 0.7]], dtype=torch.float64)
POINTS = torch.randn(143, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) @ MIX + CENTRES[LABELS]


def own(label):
    return POINTS[label == LABELS].numpy()


def moments(classes, label, count=200_000):
    """Mean and covariance of many draws, with their standard errors."""
    drawn = classes.sample(label, count, generator(7, "test"))
    mean, covariance = drawn.mean(0), drawn.T.cov()
    deviations = covariance.diagonal().sqrt()
    errors = ((covariance.square() + torch.outer(deviations, deviations).square()) / count).sqrt()
    return mean.numpy(), covariance.numpy(), (deviations / count**0.5).numpy(), errors.numpy()


def assert_moments(classes, label, mean, covariance):
    m, s, mean_errors, errors = moments(classes, label)
    assert (np.abs(m - mean) <= 5 * mean_errors + 1e-12).all()
    assert (np.abs(s - covariance) <= 5 * errors + 1e-12).all()


def test_the_published_weights():
    weights = weights_of([400, 300, 200], [1, 2, 4], [7, 3, 5])
    assert weights == pytest.approx({7: 0.666667, 3: 0.25, 5: 0.083333}, abs=1e-6)
    assert weights_of([9, 9], [2, 2], [0, 1]) == {0: 0.5, 1: 0.5}
    assert weights_of([9, 9], [0, 2], [0, 1]) == pytest.approx({0: 1, 1: 0})


def test_rare_are_classes_below_the_median_and_borrow_from_the_nearest():
    classes = GaussianClasses.fit(POINTS, LABELS, outliers=0, borrow=2, gamma=0.2)
    assert set(classes.sources) == {3, 4}
    far = {c: np.linalg.norm(own(c).mean(0) - own(3).mean(0)) for c in range(3)}
    near = sorted(far, key=far.get)[:2]
    raw = {c: COUNTS[c] / far[c] for c in near}
    assert classes.sources[3] == pytest.approx({c: raw[c] / sum(raw.values()) for c in near})


@pytest.mark.parametrize("label", [0, 3])
def test_without_borrowing_draws_have_the_moments_of_the_class(label):
    classes = GaussianClasses.fit(POINTS, LABELS, outliers=0, gamma=0)
    assert_moments(classes, label, own(label).mean(0), np.cov(own(label).T))


@pytest.mark.parametrize("gamma", [0.2, 1.0])
def test_with_borrowing_draws_have_the_mixed_moments(gamma):
    classes = GaussianClasses.fit(POINTS, LABELS, outliers=0, borrow=3, gamma=gamma)
    weights = classes.sources[3]
    mean = gamma * sum(w * own(c).mean(0) for c, w in weights.items()) + (1 - gamma) * own(3).mean(0)
    covariance = gamma**2 * sum(w * np.cov(own(c).T) for c, w in weights.items()) + (1 - gamma) ** 2 * np.cov(own(3).T)
    assert_moments(classes, 3, mean, covariance)


def test_a_class_of_one_image_has_the_covariance_of_those_it_borrows_from():
    points, labels = torch.cat([POINTS[:130], POINTS[130:131]]), LABELS[:131]
    classes = GaussianClasses.fit(points, labels, outliers=0, borrow=2, gamma=0.2)
    weights = classes.sources[3]
    mean = 0.2 * sum(w * own(c).mean(0) for c, w in weights.items()) + 0.8 * points[130].numpy()
    assert_moments(classes, 3, mean, sum(w * np.cov(own(c).T) for c, w in weights.items()))
    # Where all classes have one image there is no covariance to be had: copies.
    alone = GaussianClasses.fit(POINTS[:2], torch.tensor([0, 1]))
    assert torch.equal(alone.sample(0, 3, generator(0, "x")), POINTS[:1].repeat(3, 1))


def test_one_far_point_moves_the_mean_but_not_where_outliers_are_left_out():
    far = torch.full((1, 3), 500.0, dtype=torch.float64)
    points, labels = torch.cat([POINTS, far]), torch.cat([LABELS, torch.tensor([1])])
    with_all = GaussianClasses.fit(points, labels, outliers=0).parts[1].mean(0)
    clean = GaussianClasses.fit(POINTS, LABELS).parts[1].mean(0)
    without = GaussianClasses.fit(points, labels).parts[1].mean(0)
    assert float((with_all - POINTS[LABELS == 1].mean(0)).norm()) > 10
    assert float((without - clean).norm()) < 0.5
    assert not inliers(points[labels == 1], None)[-1]


def test_the_share_of_outliers():
    rows = POINTS[LABELS == 0]
    assert int(inliers(rows, 0.3).sum()) == 42
    assert inliers(rows, 0).all()
    assert inliers(rows[:2], 0.5).all()  # of two neither is unlike the others
    assert GaussianClasses.fit(POINTS, LABELS, outliers=0).left_out == 0


def test_rows_are_balanced_real_ones_first_and_draws_are_those_of_the_seed():
    rows, labels = filled_up(POINTS.float(), LABELS, seed=1)
    assert torch.equal(rows[:143], POINTS.float())
    assert labels.bincount().tolist() == [60] * 5
    assert rows.dtype == torch.float32
    assert torch.equal(rows, filled_up(POINTS.float(), LABELS, seed=1)[0])
    assert not torch.equal(rows, filled_up(POINTS.float(), LABELS, seed=2)[0])


def test_balanced_classes_are_left_as_they_are():
    even = torch.arange(30) % 3
    rows, labels = filled_up(POINTS[:30], even)
    assert torch.equal(rows, POINTS[:30])
    assert torch.equal(labels, even)


def test_it_fits_a_head_with_and_without_validation_images():
    data = ProbeData(POINTS[None], LABELS, 5, balanced=True, resampled=filled_up)
    for validation in (None, (POINTS, LABELS)):
        head = fit_probe(data, validation)
        right = (POINTS.float() @ head.weight.T + head.bias).argmax(1) == LABELS
        assert min(float(right[label == LABELS].float().mean()) for label in range(5)) > 0.6


def test_its_pull_is_the_objective_feature_distill():
    """0 before the first step, where the teacher is the start: RCAL's individual calibration."""
    from kedge import networks
    from kedge.objectives import CrossEntropy, FeatureDistill

    network = networks.create("kedge_resnet_small", 3, 1, 8, arguments={"width": 4})
    model = kedge.plain(network, example=(1, 8, 8)).eval()
    objective = FeatureDistill(CrossEntropy(), model, "network.blocks.0")
    objective.prepare(model)
    objective.projection.weight.data = torch.eye(4).reshape(objective.projection.weight.shape)
    if objective.projection.bias is not None:
        objective.projection.bias.data.zero_()
    images, targets = torch.rand(6, 1, 8, 8), torch.arange(6) % 3
    plain = CrossEntropy()(model, images, targets)
    assert float(objective(model, images, targets).detach() - plain.detach()) == pytest.approx(0, abs=1e-6)


# As a way to adapt


@pytest.fixture(scope="module")
def three():
    """A network of three digits, 40, 12 and 3 images of them, and validation images."""
    from kedge import networks

    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = networks.create("kedge_resnet_small", 3, 1, 8, arguments={"width": 4})
    names = ["1", "4", "7"]
    train, val = (data.load("digits", split).only_classes(names) for split in ("train", "val"))
    rows = torch.cat([(train.labels == k).nonzero()[:n, 0] for k, n in enumerate((40, 12, 3))])
    return kedge.plain(network, mean=0.3, std=0.5, example=(1, 8, 8)).eval(), train.subset(rows), val


def test_the_body_stays_the_head_is_new_and_the_record_says_who_lent(three, tmp_path):
    model, train, val = three
    ask = {"how": "rcal", "device": "cpu", "outliers": 0.25, "borrow": 1, "out": tmp_path}
    made = adapt(model, train, val, **ask)
    before, after = model.state_dict(), made.model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items() if ".fc." not in key)
    assert set(made.record["borrows"]) == {"7"}
    assert made.record["borrows"]["7"] in ({"1": 1.0}, {"4": 1.0})
    assert made.record["left_out"] == 10 + 3 + 0
    assert torch.equal(kedge.load(tmp_path / "rcal").network.fc.weight, after["network.fc.weight"])
    with pytest.raises(ValueError, match=r"gamma is 0.2 there, 0.5 here"):
        adapt(model, train, val, gamma=0.5, **ask)


def test_settings_that_cannot_be(three):
    model, train, val = three
    for setting, value, words in (("outliers", 0.6, "0 to 0.5"), ("gamma", 1.5, "0 to 1"), ("borrow", 0, "1 or more")):
        with pytest.raises(ValueError, match=words):
            adapt(model, train, val, how="rcal", **{setting: value})

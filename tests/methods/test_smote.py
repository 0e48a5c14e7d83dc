"""SMOTE against its definition, geometry by brute force, and the refit against oversampling."""

import warnings

import pytest
import torch

import kedge
from kedge import data
from kedge.adaptation import ProbeData, adapt, fit_probe
from kedge.data import TensorSet
from kedge.procedures.smote import between, filled_up, nearest

LABELS = torch.tensor([0] * 30 + [1] * 12 + [2] * 4 + [4] * 1)  # class 3 has none
POINTS = torch.randn(47, 3, generator=torch.Generator().manual_seed(0)) + 3 * LABELS[:, None]


def test_the_published_point():
    assert between(torch.zeros(1, 2), torch.tensor([[2.0, 0.0]]), torch.tensor([[0.25]])).tolist() == [[0.5, 0]]


def test_real_rows_come_first_unchanged_and_counts_are_equal_after():
    rows, labels = filled_up(POINTS, LABELS, seed=3)
    assert torch.equal(rows[:47], POINTS)
    assert torch.equal(labels[:47], LABELS)
    assert labels.bincount().tolist() == [30, 30, 30, 0, 30]
    assert (labels[47:] != 0).all()  # none of the largest class
    assert rows.dtype == POINTS.dtype


def test_every_new_row_lies_on_a_segment_from_a_row_to_one_of_its_nearest():
    rows, labels = filled_up(POINTS, LABELS, neighbours=2, seed=1)
    for row, label in zip(rows[47:].double(), labels[47:].tolist(), strict=True):
        own = POINTS[label == LABELS].double()
        close = []
        for i, start in enumerate(own):
            order = sorted((j for j in range(len(own)) if j != i), key=lambda j: float((own[j] - own[i]).norm()))
            for j in order[:2] or [i]:
                way = own[j] - start
                u = float((row - start) @ way / (way @ way).clamp(min=1e-12))
                close.append(float((start + min(max(u, 0), 1) * way - row).norm()))
        assert min(close) < 1e-5


def test_in_one_dimension_a_new_value_lies_within_its_class():
    rows, labels = filled_up(POINTS[:, :1], LABELS, seed=2)
    for label in (1, 2):
        own, new = POINTS[label == LABELS, 0], rows[47:][labels[47:] == label, 0]
        assert own.min() <= new.min() <= new.max() <= own.max()
        assert len(new.unique()) > len(own)


def test_without_reach_it_is_oversampling_each_row_equally_often():
    rows, labels = filled_up(POINTS, LABELS, seed=5, reach=0)
    for label in (1, 2, 4):
        values, times = rows[labels == label].unique(dim=0, return_counts=True)
        assert len(values) == int((label == LABELS).sum())
        assert int(times.max() - times.min()) <= 1


def test_one_image_is_copied_and_a_few_are_all_neighbours():
    rows, labels = filled_up(POINTS, LABELS, neighbours=5)
    assert (rows[labels == 4] == POINTS[46]).all()
    assert nearest(POINTS[42:46], 3).sort(1).values.tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]
    twins = torch.zeros(3, 2)
    assert all(i not in row for i, row in enumerate(nearest(twins, 2).tolist()))


def test_what_is_balanced_stays_as_it_is_and_nothing_is_nothing():
    even = torch.arange(12) % 3
    rows, labels = filled_up(POINTS[:12], even)
    assert torch.equal(rows, POINTS[:12])
    assert torch.equal(labels, even)
    assert len(filled_up(POINTS[:0], LABELS[:0])[0]) == 0


def test_draws_are_those_of_the_seed():
    one, two, other = (filled_up(POINTS, LABELS, seed=seed)[0] for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


def test_a_head_on_oversampled_rows_is_the_head_with_class_weights():
    """Where each row of a class is there equally often, the two are one problem."""
    labels = torch.tensor([0] * 24 + [1] * 12 + [2] * 4)
    points = POINTS[:40]
    again = ProbeData(points[None], labels, 3, resampled=lambda x, y: filled_up(x, y, reach=0))
    ours = fit_probe(again, strength=0.01)
    weighed = fit_probe(ProbeData(points[None], labels, 3, balanced=True), strength=0.01)
    torch.testing.assert_close(ours.weight, weighed.weight, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(ours.bias, weighed.bias, atol=1e-4, rtol=1e-3)


def test_in_cross_validation_rows_are_made_of_the_other_folds_alone():
    labels, points = LABELS[:46], POINTS[:46]
    fitted_on = []

    def resampled(features, labels):
        fitted_on.append({int((points == row).all(1).nonzero()) for row in features})
        return filled_up(features, labels)

    fit_probe(ProbeData(points[None], labels, 3, balanced=True, resampled=resampled))
    left_out = [set(range(46)) - rows for rows in fitted_on[:-1]]  # the last fit is of all images
    assert sorted(i for part in left_out for i in part) == list(range(46))
    assert len(fitted_on[-1]) == 46


def test_synthetic_rows_do_not_go_with_hidden_references():
    with pytest.raises(ValueError, match="one row for each image"):
        ProbeData(POINTS[None], LABELS, 5, masked=POINTS[None], alpha=0.4, resampled=filled_up)


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


@pytest.mark.parametrize("anchored", [False, True])
@pytest.mark.parametrize("validated", [False, True])
def test_the_body_stays_and_the_head_is_new(three, tmp_path, anchored, validated):
    model, train, val = three
    model = kedge.anchor(model, references=train.images[:3].float() / 255) if anchored else model
    ask = {"how": "smote", "device": "cpu", "seed": 4}
    made = adapt(model, train, val if validated else None, out=tmp_path, **ask)
    head = {key for key in made.model.state_dict() if ".fc." in key}
    before, after = model.state_dict(), made.model.state_dict()
    assert all(torch.equal(after[k], v) for k, v in before.items() if k not in head and k != "references")
    assert not torch.equal(after["network.fc.weight"], before["network.fc.weight"])
    assert made.record["synthetic"] == 28 + 37
    again = adapt(model, train, val if validated else None, **ask)
    assert torch.equal(again.model.network.fc.weight, made.model.network.fc.weight)
    assert torch.equal(kedge.load(tmp_path / "smote").network.fc.weight, made.model.network.fc.weight)
    with pytest.raises(ValueError, match="neighbours is 5 there, 2 here"):
        adapt(model, train, val if validated else None, out=tmp_path, neighbours=2, **ask)


def test_a_class_of_one_image_is_said(three):
    model, train, val = three
    with pytest.warns(UserWarning, match="of 7 there is one image"):
        record = adapt(model, train.subset(range(53)), val, how="smote", strength=0.1, device="cpu").record
    assert record["copied"] == ["7"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        adapt(model, train, val, how="smote", strength=0.1, device="cpu")


def test_settings_that_cannot_be(three):
    model, train, val = three
    with pytest.raises(ValueError, match="neighbours must be 1 or more, got 0"):
        adapt(model, train, val, how="smote", neighbours=0)
    single = TensorSet(train.images[:5], torch.zeros(5, dtype=torch.long), ["1"])
    with pytest.raises(ValueError, match="class"):
        adapt(model, single, how="smote")


def test_a_folder_of_before_the_setting_was_there_is_handed_back(three, tmp_path):
    import json

    model, train, val = three
    ask = {"how": "smote", "device": "cpu", "strength": 0.1, "out": tmp_path}
    made = adapt(model, train, val, **ask)
    path = tmp_path / "adapted.json"
    known = json.loads(path.read_text())
    del known["smote"]["neighbours"]
    path.write_text(json.dumps(known))
    assert torch.equal(adapt(model, train, val, **ask).model.network.fc.weight, made.model.network.fc.weight)

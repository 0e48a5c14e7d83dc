"""What members of an ensemble, or references, get right and wrong together."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

import kedge
from kedge import evaluation, metrics, reporting
from kedge.data import TensorSet
from kedge.metrics import error_correlation, oracle_at, wrong_in_all

DRAWS = torch.Generator().manual_seed(0)


def guesses(members=4, images=60, classes=3):
    return torch.randint(classes, (members, images), generator=DRAWS), torch.randint(
        classes, (images,), generator=DRAWS
    )


def test_the_worked_correlations():
    """Errors (1,1,0,0) and (1,0,0,0): 0.577; equal ones: 1."""
    labels = torch.zeros(4, dtype=torch.long)
    assert float(error_correlation(torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0]]), labels)) == pytest.approx(3**-0.5)
    assert float(error_correlation(torch.tensor([[1, 1, 0, 0], [2, 1, 0, 0]]), labels)) == pytest.approx(1)
    assert float(error_correlation(torch.tensor([[1, 1, 0, 0], [0, 0, 1, 1]]), labels)) == pytest.approx(-1)


def test_it_is_the_mean_of_numpys_correlations():
    predictions, labels = guesses()
    table = np.corrcoef((predictions != labels).double().numpy())
    expected = table[np.triu_indices(4, 1)].mean()
    assert float(error_correlation(predictions, labels)) == pytest.approx(expected, abs=1e-12)


def test_the_oracle_is_the_mean_over_all_choices():
    predictions, labels = guesses()
    right = predictions == labels
    last = 0.0
    for n in range(1, 5):
        choices = itertools.combinations(range(4), n)
        expected = np.mean([right[list(some)].any(0).double().mean() for some in choices])
        value = float(oracle_at(predictions, labels, n))
        assert value == pytest.approx(expected, abs=1e-12)
        assert value >= last
        last = value
    assert float(oracle_at(predictions, labels, 1)) == pytest.approx(float(right.double().mean()))
    assert last == float(oracle_at(predictions, labels)) == 1 - float(wrong_in_all(predictions, labels))


def test_what_they_cannot_take():
    predictions, labels = guesses()
    for measure in (oracle_at, error_correlation, wrong_in_all):
        with pytest.raises(ValueError, match=r"class indices \[M, N\].*argmax\(-1\)"):
            measure(torch.rand(4, 60), labels)
        with pytest.raises(ValueError, match="60 predictions of each member for 59 labels"):
            measure(predictions, labels[:-1])
        with pytest.raises(ValueError, match="no images"):
            measure(predictions[:, :0], labels[:0])
    with pytest.raises(ValueError, match="n is a number of members, 1 to 4, not 5"):
        oracle_at(predictions, labels, 5)
    with pytest.raises(ValueError, match="two members or more"):
        error_correlation(predictions[:1], labels)
    predictions[2] = labels
    with pytest.raises(ValueError, match="member 2 makes no error on these 60 images"):
        error_correlation(predictions, labels)
    predictions[2] = labels + 1
    with pytest.raises(ValueError, match="member 2 makes errors alone"):
        error_correlation(predictions, labels)


def network(seed):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
    with torch.no_grad():
        net[-1].weight.mul_(5)
    return net


@pytest.fixture(scope="module")
def images():
    draws = torch.Generator().manual_seed(5)
    pixels = (torch.rand(80, 1, 8, 8, generator=draws) * 255).byte()
    return TensorSet(pixels, torch.randint(3, (80,), generator=draws), ["a", "b", "c"], "drawn", "test")


def anchored(images, count):
    torch.manual_seed(0)
    return kedge.anchor(network(7), references=images.images[:count] / 255).eval()


def test_an_evaluation_has_them_of_ensembles_and_of_references(images, tmp_path):
    members = [kedge.plain(network(seed), example=(1, 8, 8)).eval() for seed in range(3)]
    bank = anchored(images, 5)
    models = {"three": kedge.Ensemble(members), "bank": bank, "one": members[0], "single": anchored(images, 1)}
    how = {"shift": (), "resamples": 100, "parts": tmp_path / "parts"}
    results = evaluation.evaluate(models, images, **how)
    pixels = images.images / 255
    each = {
        "three": torch.stack([member.predict(pixels).label for member in members]),
        "bank": bank.predict(pixels, keep_per_reference=True).per_reference.argmax(-1),
    }
    for name, predictions in each.items():
        clean = results["models"][name]["clean"]
        assert clean["oracle_at"]["value"] == pytest.approx(float(oracle_at(predictions, images.labels)))
        expected = [float(oracle_at(predictions, images.labels, n + 1)) for n in range(len(predictions))]
        assert clean["oracle_at"]["at"] == pytest.approx(expected)
        correlation = clean["error_correlation"]
        assert correlation["value"] == pytest.approx(float(error_correlation(predictions, images.labels)))
        assert correlation["low"] <= correlation["value"] <= correlation["high"]
    assert results["models"]["three"]["clean"]["oracle_at"]["of"] == "members"
    assert results["models"]["bank"]["clean"]["oracle_at"]["of"] == "references"
    for name in ("one", "single"):
        assert results["models"][name]["clean"]["oracle_at"] is None
        assert results["models"][name]["clean"]["error_correlation"] is None
    text = reporting.render(results)
    assert "wrong in all of them" in text
    assert "of 5 references" in text
    again = evaluation.evaluate(models, images, **how)
    assert again["parts_found"] == 4
    assert again["models"]["bank"]["clean"]["oracle_at"] == results["models"]["bank"]["clean"]["oracle_at"]


def test_outputs_with_members_are_those_without(images):
    pixels = images.images[:9] / 255
    for model in (anchored(images, 5), kedge.Ensemble([anchored(images, 2), anchored(images, 3)])):
        plain, each = model.outputs(pixels), model.outputs(pixels, members=True)
        torch.testing.assert_close(each.logits, plain.logits)
        torch.testing.assert_close(each.uncertainty, plain.uncertainty)
        assert plain.members is None
        assert each.members.shape == (9, 5 if model.count() else 2)
    assert anchored(images, 5).outputs(pixels, references="adaptive", members=True).members is None


def test_a_member_without_errors_leaves_the_correlation_out(images):
    right = TensorSet(
        images.images, anchored(images, 3).predict(images.images / 255).label, ["a", "b", "c"], "d", "test"
    )
    results = evaluation.evaluate(
        {"bank": anchored(images, 1), "more": anchored(images, 3)}, right, shift=(), resamples=0
    )
    clean = results["models"]["more"]["clean"]
    predictions = anchored(images, 3).predict(images.images / 255, keep_per_reference=True).per_reference.argmax(-1)
    wrong = (predictions != right.labels).any(1)
    assert (clean["error_correlation"] is None) == (not bool(wrong.all()))
    assert metrics.wrong_in_all(predictions, right.labels) <= 1

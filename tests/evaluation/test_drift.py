"""Drift between two sets of images: profiles with a known answer, planted changes, and what cannot be compared."""

import json

import pytest
import torch

import kedge
from kedge import data, networks
from kedge.data import DataError, TensorSet
from kedge.data.corruptions import corrupt
from kedge.evaluation import measure_drift
from kedge.evaluation.drift import NONE, UNLIKE, joint_p
from kedge.evaluation.drift_profiles import Profiles, Whitening
from kedge.evaluation.drift_seen import Asker, Embedding

FEW = {"corruptions": ["fog", "gaussian_noise", "contrast", "defocus_blur"], "severities": (1, 3, 5)}
QUICK = {**FEW, "profile_images": 60, "permutations": 199, "resamples": 40}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    network = networks.create("kedge_resnet_small", 10, 1, 8, arguments={"width": 8})
    return kedge.plain(network, example=(1, 8, 8)).eval()


def in_any_order():
    """The training digits, which are in the order of their writers, at random."""
    images = data.load("digits", "train")
    return images.subset(torch.randperm(len(images), generator=torch.Generator().manual_seed(0)))


@pytest.fixture(scope="module")
def digits():
    return in_any_order().subset(range(300))


@pytest.fixture(scope="module")
def others():
    return in_any_order().subset(range(300, 450))


def worse(images, name, severity):
    changed = (corrupt(images.images / 255, name, severity, seed=5) * 255).round().byte()
    return TensorSet(changed, images.labels, images.class_names, f"{name} {severity}")


def paths(dimensions=6, images=400, seed=0):
    """Profiles of two corruptions that move the mean along axes of their own: 1, 2, 3 units, and 2, 4, 6."""
    clean = torch.randn(images, dimensions, generator=torch.Generator().manual_seed(seed))
    moves = torch.zeros(2, 3, dimensions)
    moves[0, :, 0], moves[1, :, 1] = torch.tensor([1.0, 2, 3]), torch.tensor([2.0, 4, 6])
    return Profiles(clean, clean + moves[:, :, None], [1, 3, 5])


def test_a_change_on_a_path_is_that_corruption_at_its_severity():
    change = torch.zeros(4, 6)
    change[0, 0], change[1, 1], change[2, 0], change[3, 1] = 2.0, 6.0, 2.5, 1.0
    answer = paths().nearest(change, noise=0.0)
    assert answer.corruption.tolist() == [0, 1, 0, 1]
    assert answer.severity.tolist() == pytest.approx([3, 5, 4, 0.5], abs=1e-6)  # in between is interpolated
    assert answer.residual.max() < 1e-9


def test_a_change_across_all_paths_is_left_unexplained_and_beyond_the_end_is_the_end():
    change = torch.zeros(2, 6)
    change[0, 5], change[1, 0] = 3.0, 30.0
    answer = paths().nearest(change, noise=0.0)
    assert answer.residual[0] == pytest.approx(1, abs=0.03)
    assert answer.severity[1] == 5


def test_distances_do_not_depend_on_the_units():
    change, scale = torch.rand(5, 6, generator=torch.Generator().manual_seed(1)), torch.tensor([1, 5, 0.1, 9, 1, 2.0])
    covariance = torch.cov(torch.randn(6, 50, generator=torch.Generator().manual_seed(2)).double())
    lengths = Whitening(covariance)(change).norm(dim=1)
    again = Whitening(covariance * scale.double()[:, None] * scale.double())(change * scale).norm(dim=1)
    torch.testing.assert_close(lengths, again)


def test_the_whitened_length_is_that_of_mahalanobis_but_for_the_ridge():
    covariance = torch.diag(torch.tensor([4.0, 0.25, 1.0], dtype=torch.float64))
    change = torch.tensor([[2.0, 0.5, 0.0]])
    assert float(Whitening(covariance)(change).square().sum()) == pytest.approx(2 / 1.02)
    covariance[2, 2] = 0  # never varies: tells nothing
    assert float(Whitening(covariance)(torch.tensor([[0.0, 0.0, 9.0]])).norm()) == 0


def test_the_simulation_knows_what_is_easy_and_what_cannot_be_told():
    easy = paths().simulate(0)
    assert easy.right == 1
    assert easy.severity_error < 0.3
    clean = torch.randn(400, 6, generator=torch.Generator().manual_seed(0))
    same = (clean + torch.tensor([1.0, 0, 0, 0, 0, 0]))[None, None].expand(2, 1, 400, 6)
    alike = Profiles(clean, same, [3]).simulate(0)
    assert alike.named.sum(1).tolist() == [1, 1]
    assert alike.right == pytest.approx(0.5)
    assert [place for place, _ in alike.trust(0)] == [0, 1]


@pytest.mark.parametrize(("name", "severity"), [("fog", 3), ("gaussian_noise", 3), ("contrast", 5)])
def test_a_planted_corruption_is_named_with_its_severity(model, digits, others, name, severity):
    results = measure_drift(model, digits, worse(others, name, severity), **QUICK)
    assert results["drift"]["changed"]
    assert results["drift"]["looks_like"] == results["nearest"]["corruption"] == name
    assert results["nearest"]["severity"]["value"] == pytest.approx(severity, abs=0.6)
    assert results["nearest"]["candidates"][0]["explained"] > 0.85
    assert results["nearest"]["truly"][0]["corruption"] == name


def test_other_changes_are_none_of_them(model, digits, others):
    mirrored = TensorSet(255 - others.images, others.labels, others.class_names, "negatives")
    results = measure_drift(model, digits, mirrored, **QUICK)
    assert results["drift"]["changed"]
    assert results["drift"]["looks_like"] == UNLIKE


def test_like_images_have_not_drifted(model, digits, others):
    results = measure_drift(model, digits, others, validation=None, **QUICK)
    assert not results["drift"]["changed"]
    assert results["drift"]["looks_like"] == NONE
    assert results["classes"]["p"] > 0.01
    assert results["beyond"]["share"]["low"] < 0.05 + 0.03
    assert results["accuracy"] is None
    assert "none were named" in results["no_accuracy"]


def test_false_alarms_are_as_many_as_alpha_says(model, digits):
    """Halves of the same images, 200 times: a tenth of the p values is below 0.1, whatever the embedding does."""
    asker = Asker(model, digits)
    seen = asker.set_seen(digits, 300, 0, lambda count: None)
    draws, alarms = torch.Generator().manual_seed(0), 0
    for trial in range(200):
        order = torch.randperm(len(seen), generator=draws)
        a, b = seen.at(order[:60]), seen.at(order[60:100])
        embed = Embedding(a, b)
        alarms += joint_p(embed(a), embed(b), 99, trial) <= 0.1
    assert 8 <= alarms <= 36  # 20, within 3.7 standard deviations


def test_the_numbers_are_those_of_the_images(model, digits, others):
    darker = TensorSet((others.images * 0.6).byte(), others.labels, others.class_names, "darker")
    results = measure_drift(model, digits, darker, **{**QUICK, "corruptions": ()})
    assert results["nearest"] is None
    entry = next(each for each in results["numbers"] if each["key"] == "brightness")
    assert entry["reference"] == pytest.approx(float(digits.images.float().mean() / 255), abs=1e-4)
    assert entry["new"] == pytest.approx(float(darker.images.float().mean() / 255), abs=1e-4)
    ours, theirs = (each.images.float().mean((1, 2, 3)) for each in (digits, darker))
    brute = (theirs[:, None] > ours).float().mean() + 0.5 * (theirs[:, None] == ours).float().mean()
    assert entry["higher"]["value"] == pytest.approx(float(brute), abs=1e-3)
    assert entry["p"] == pytest.approx(1 / 200)
    answers = [model.predict(each.images / 255).label for each in (digits, darker)]
    for number, each in enumerate(results["classes"]["classes"]):
        shares = [float((one == number).double().mean()) for one in answers]
        assert (each["reference"], each["new"]) == pytest.approx(shares)
        assert each["difference"]["low"] <= each["difference"]["value"] <= each["difference"]["high"]
    assert len(results["images"]) == len(others)


def test_the_expected_accuracy_is_that_of_estimate_accuracy(model, digits, others):
    from kedge.evaluation import estimate_accuracy

    validation = data.load("digits", "val")
    results = measure_drift(model, digits, others, validation=validation, **{**QUICK, "corruptions": ()})
    expected = estimate_accuracy(model, validation, {"new": others}, resamples=40)["model"]["sets"]["new"]
    assert results["accuracy"]["new"]["estimates"] == expected["estimates"]


def test_the_same_call_gives_the_same_results_and_they_are_json(model, digits, others):
    shown = []
    for _ in range(2):
        results = measure_drift(model, digits, worse(others, "fog", 1), **QUICK)
        results.pop("created")
        shown.append(json.dumps(results, allow_nan=False))
    assert shown[0] == shown[1]


def test_a_model_without_features_is_compared_by_pixels_and_answers(digits, others):
    def bright(images):
        level = images.mean((1, 2, 3))
        return torch.stack([level * (each + 1) for each in range(3)], 1)

    results = measure_drift(bright, digits, worse(others, "fog", 5), **QUICK)
    assert results["drift"]["looks_like"] == "fog"
    assert not results["model"]["features"]
    assert any("no features" in words for words in results["warnings"])
    assert results["beyond"]["score"] == "confidence (MSP)"


def test_images_of_another_size_and_of_colour_are_brought_to_the_model(model, digits, others):
    large = torch.nn.functional.interpolate(others.images.float(), scale_factor=3).byte().expand(-1, 3, -1, -1)
    results = measure_drift(model, digits, TensorSet(large, others.labels, others.class_names, "large"), **QUICK)
    assert any("24×24 resized to 8×8" in words for words in results["warnings"])
    assert "colour to grey" in " ".join(results["warnings"])


def test_the_same_images_are_refused_and_shared_ones_counted_and_left_out(model, digits, others):
    for same in (digits, digits.subset(range(100)), TensorSet(digits.images.clone(), digits.labels, ["x"] * 10, "b")):
        with pytest.raises(DataError, match="are also in"):
            measure_drift(model, digits, same, **QUICK)
    both = TensorSet(torch.cat([others.images, digits.images[:40]]), torch.zeros(190).long(), ["?"], "both")
    results = measure_drift(model, digits, both, **{**QUICK, "corruptions": ()})
    assert results["new"]["shared"] == 40
    assert len(results["images"]) == 150
    assert any(words.startswith("40 images of both are also in") for words in results["warnings"])
    with pytest.raises(ValueError, match="10 images to compare beside 40 shared ones"):
        measure_drift(model, digits, both.subset(range(140, 190)), **QUICK)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"alpha": 0.0}, "between 0 and 1"),
        ({"alpha": 0.001}, "10000 permutations will do"),
        ({"profile_images": 5}, "20 or more, got 5"),
        ({"severities": (6,)}, "severities are 1 to 5"),
        ({"corruptions": ["fogg"]}, "did you mean fog"),
        ({"resamples": 0}, "1 or more"),
    ],
)
def test_settings_that_cannot_be_are_said_before_anything_is_measured(model, digits, others, change, words):
    def never(images):
        raise AssertionError("asked before the settings were looked at")

    with pytest.raises(ValueError, match=words):
        measure_drift(never, digits, others, **{**QUICK, **change})


def test_sets_and_models_that_cannot_be_compared(model, digits, others):
    with pytest.raises(ValueError, match="has 1 image to compare, and 20 are the fewest"):
        measure_drift(model, digits, others.subset([3]), **QUICK)
    with pytest.raises(ValueError, match="is empty"):
        measure_drift(model, digits, others.subset([]), **QUICK)
    with pytest.raises(TypeError, match="image set"):
        measure_drift(model, digits, others.images, **QUICK)
    with pytest.raises(ValueError, match="not finite"):
        measure_drift(lambda images: images.flatten(1) * float("nan"), digits, others, **QUICK)
    with pytest.raises(ValueError, match="failed on 8 images"):
        measure_drift(lambda images: [][0], digits, others, **QUICK)
    vectors = kedge.plain(torch.nn.Linear(4, 2), example=(4,))
    with pytest.raises(ValueError, match="not images"):
        measure_drift(vectors, digits, others, **QUICK)


def test_an_anchored_model_and_few_images(digits, others):
    torch.manual_seed(0)
    network = networks.create("kedge_resnet_small", 10, 1, 8, arguments={"width": 8})
    model = kedge.anchor(network, example=(1, 8, 8)).eval()
    model.references = digits.images[:3] / 255
    results = measure_drift(model, digits.subset(range(25)), others.subset(range(21)), references=2, **QUICK)
    assert results["settings"]["profile_images"] == 25
    assert results["model"]["references"] == 2
    assert sum("only strong changes show" in words for words in results["warnings"]) == 2

"""The rule for `unknown`: what meets it, what it is stored as, and the answers in words."""

import copy
import json

import numpy as np
import pytest
import torch
from scipy.special import logsumexp, softmax

import kedge
from kedge import unknown
from kedge.rejection import is_unknown_rule, rule_at
from kedge.scores import Prototypes, outputs_of
from kedge.training.calibration import calibrate
from kedge.training.unknown_choice import choose_rule, outputs_on, prototypes_of, shuffled
from kedge.training.unknown_rule import rule_anew, rule_on, threshold_for

LOGITS = torch.tensor([[4.0, 0.0, -1.0], [0.5, 0.4, 0.3], [-3.0, -2.5, -4.0], [1.5, 0.2, 0.1]])


def model_of(names=("ant", "bee", "wasp")):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, len(names)))
    model = kedge.plain(network, example=(3, 2, 2)).eval()
    model.class_names = list(names)
    return model


def test_scores_are_their_formulas_in_numpy():
    z = LOGITS.double().numpy()
    p = softmax(z, axis=1)
    expected = {
        "msp": np.log(p.max(1) / (1 - p.max(1))),
        "max_logit": z.max(1),
        "energy": logsumexp(z, axis=1),
        "entropy": (p * np.log(p)).sum(1),
    }
    assert set(expected) == set(unknown.OF_LOGITS)
    for name, values in expected.items():
        np.testing.assert_allclose(unknown.score_of(name, LOGITS).numpy(), values, rtol=1e-5)
        threshold = float(np.sort(values)[1:3].mean())
        says = unknown.foreign({"score": name, "threshold": threshold}, LOGITS)
        assert says.tolist() == (values < threshold).tolist()


def test_unknown_comes_before_unsure_and_both_before_the_label():
    model = model_of()
    prediction = kedge.anchoring.prediction.conclude(LOGITS, None, "classification")
    assert unknown.answers(model, prediction) == ["ant", "ant", "bee", "ant"]
    model.reject = rule_at(0.6)
    assert unknown.answers(model, prediction) == ["ant", "unsure", "unsure", "ant"]
    model.unknown = {"score": "energy", "threshold": 0.0}
    assert unknown.answers(model, prediction) == ["ant", "unsure", "unknown", "ant"]
    assert unknown.answers(model, prediction, answer_all=True) == ["ant", "ant", "bee", "ant"]
    model.class_names = ["unknown", "bee", "unsure"]
    assert unknown.answers(model, prediction) == ["unknown", "(unsure)", "(unknown)", "unknown"]


def test_nan_is_unknown_and_a_rule_that_is_none_is_refused():
    rule = {"score": "energy", "threshold": 0.0}
    assert unknown.foreign(rule, torch.tensor([[torch.nan, 1.0], [5.0, 1.0]])).tolist() == [True, False]
    assert unknown.foreign(None, LOGITS).tolist() == [False] * 4
    for wrong in (
        {"score": "knn", "threshold": 0.0},
        {"score": "energy"},
        {"score": "energy", "threshold": float("nan")},
        {"score": "energy", "threshold": "0"},
        {"score": "energy", "threshold": 0.0, "unknown_if": "above"},
        {"score": "energy", "threshold": 0.0, "familiar": 2},
        ["energy", 0.0],
    ):
        assert not is_unknown_rule(wrong)
        with pytest.raises(ValueError, match="a rule for unknown is one of the scores msp"):
            unknown.foreign(wrong, LOGITS)


def test_a_rule_travels_with_the_model_in_a_format_of_its_own(tmp_path):
    model = model_of()
    folder = kedge.save(model, tmp_path / "without")
    config = json.loads((folder / "config.json").read_text())
    assert config["format_version"] == 1  # as any reader knows it
    assert "unknown" not in config
    assert kedge.load(folder, model=model.network).unknown is None
    model.unknown = rule_on(unknown.score_of("energy", LOGITS), 0.9, "energy")
    folder = kedge.save(model, tmp_path / "with")
    config = json.loads((folder / "config.json").read_text())
    assert config["format_version"] == 3  # who does not know the rule must not read it as if there were none
    assert kedge.load(folder, model=model.network).unknown == model.unknown
    (folder / "config.json").write_text(json.dumps({**config, "format_version": 2}))
    with pytest.raises(ValueError, match=r"unknown cannot be .* nothing before format 3"):
        kedge.load(folder, model=model.network)
    config["unknown"]["score"] = "os.system"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"unknown cannot be .* one of the scores msp"):
        kedge.load(folder, model=model.network)
    model.unknown = {"score": "energy", "threshold": float("inf")}
    with pytest.raises(ValueError, match="unknown cannot be"):
        kedge.save(model, tmp_path / "broken")


@pytest.mark.parametrize("count", [12, 40, 333])
def test_the_promised_share_is_what_new_images_get(count):
    """Of scores of one kind, whatever their law: simulated over many draws."""
    draws = torch.Generator().manual_seed(count)
    shares, promised = [], 0.0
    for _ in range(2000):
        scores = torch.randn(count + 200, generator=draws).exp()
        threshold, promised = threshold_for(scores[:count], 0.95)
        shares.append(float((scores[count:] >= threshold).double().mean()))
    error = np.std(shares) / np.sqrt(len(shares))
    assert abs(np.mean(shares) - promised) < 4 * error
    assert promised >= 0.95 or count < 19


def test_a_rule_is_set_anew_for_other_logits():
    logits = torch.randn(200, 3, generator=torch.Generator().manual_seed(0))
    rule = rule_on(logits.amax(1), 0.95, "max_logit", chosen={"by": "hand"})
    assert rule["kept"] == pytest.approx(0.95, abs=0.01)
    anew = rule_anew(rule, 2 * logits)
    assert anew == {**rule, "threshold": pytest.approx(2 * rule["threshold"])}
    assert rule_on(logits[:0, 0], 0.95, "energy") is None
    assert rule_on(torch.full((3,), torch.nan), 0.95, "energy") is None
    assert rule_anew({**rule, "score": "prototypes"}, logits) is None  # there is no familiarity to set it by


@pytest.fixture(scope="module")
def digits():
    """A model of the digits 0 to 5 with a rule chosen for it, its images, and digits that it does not know."""
    torch.manual_seed(0)
    train = kedge.data.load("digits", "train")
    known = train.only_classes([str(i) for i in range(6)])
    train, val = kedge.data.split_validation(known, 0.3, 0)
    network = kedge.networks.create("kedge_resnet_small", 6, 1, 8, arguments={"width": 8})
    model = kedge.anchor(network, example=(1, 8, 8))
    model.references = train.first(3).float() / 255
    rate = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(4):
        for images, labels in train.batches(64):
            rate.zero_grad()
            torch.nn.functional.cross_entropy(model(images.float() / 255), labels).backward()
            rate.step()
    model.eval().class_names = list(train.class_names)
    choose_rule(model, train, val, 0.95)
    test = kedge.data.load("digits", "test")
    strange = test.subset([i for i, label in enumerate(test.labels.tolist()) if label > 5])
    return model, train, val, test.only_classes(train.class_names), strange


def _pixels(images):
    return images.first(len(images)).float() / 255


def test_the_chosen_rule_tells_unknown_digits_and_refuses_few_own(digits):
    model, _, val, own, strange = digits
    rule = model.unknown
    assert rule["score"] in (*unknown.OF_LOGITS, "prototypes")
    assert set(rule["chosen"]["auroc"][rule["score"]]) == {"shuffled", "left-out classes"}
    means = {name: np.mean(list(kinds.values())) for name, kinds in rule["chosen"]["auroc"].items()}
    assert means[rule["score"]] == max(means.values())
    refused, found = (
        np.mean([word == "unknown" for word in unknown.answers(model, model.predict(_pixels(images)))])
        for images in (own, strange)
    )
    assert refused < 0.2 < 0.5 < found
    assert rule["images"] == len(val)


def test_the_familiarity_is_of_the_features_of_the_same_pass(digits):
    """With any references, and as the score of the room says, from the features that `outputs_of` gives."""
    model, train, _, own, _ = digits
    model = copy.deepcopy(model)
    features = outputs_on(model, train, references=1).features
    model.prototypes = prototypes_of(features, train.labels)
    model.unknown = rule_on(torch.rand(50), 0.95, "prototypes")
    images = _pixels(own)[:7]
    score = Prototypes()
    score.directions = model.prototypes
    for references in (None, 2):
        prediction = model.predict(images, references, max_rows=5)
        expected = score.score(outputs_of(model, images, references, features=True))
        torch.testing.assert_close(prediction.familiarity, expected, rtol=1e-4, atol=1e-5)
        assert torch.equal(prediction.logits, model.predict(images, references, max_rows=5).logits)
    first = model.predict(images, 1).familiarity
    torch.testing.assert_close(model.predict(images, "adaptive").familiarity, first, rtol=1e-4, atol=1e-5)
    assert model.predict(images[:0]).familiarity.shape == (0,)
    model.unknown = None
    assert model.predict(images).familiarity is None


def test_prototypes_are_saved_with_their_rule_and_not_without(digits, tmp_path):
    model, train, _, own, _ = digits
    model = copy.deepcopy(model)
    model.prototypes = prototypes_of(outputs_on(model, train, references=1).features, train.labels)
    model.unknown = rule_on(torch.linspace(0.7, 1, 50), 0.95, "prototypes")
    images = _pixels(own)[:5]
    folder = kedge.save(model, tmp_path / "with")
    again = kedge.load(folder)
    assert unknown.answers(again, again.predict(images)) == unknown.answers(model, model.predict(images))
    torch.testing.assert_close(again.predict(images).familiarity, model.predict(images).familiarity)
    config = json.loads((folder / "config.json").read_text())
    config["unknown"]["score"] = "energy"
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match="disagree about prototypes"):
        kedge.load(folder)
    kept, model.prototypes = model.prototypes, None
    with pytest.raises(ValueError, match=r"model\.prototypes is None"):
        kedge.save(model, tmp_path / "none")
    with pytest.raises(ValueError, match="has no familiarity"):
        unknown.answers(model, model.predict(images))
    model.prototypes, model.unknown = kept, None
    folder = kedge.save(model, tmp_path / "without")
    assert json.loads((folder / "config.json").read_text())["format_version"] == 1
    assert kedge.load(folder).prototypes is None


def test_an_exported_file_gives_the_same_answers(digits, tmp_path):
    pytest.importorskip("onnxruntime")
    model, train, _, own, strange = digits
    model = copy.deepcopy(model)
    model.references = model.references[:1]
    model.prototypes = prototypes_of(outputs_on(model, train, references=1).features, train.labels)
    model.unknown = rule_on(model_scores(model, own), 0.9, "prototypes")
    model.set_temperature(1.5)
    images = torch.cat([_pixels(own)[:20], _pixels(strange)[:20]])
    exported = kedge.deploy.export(model, tmp_path / "d.onnx", check_images=images)
    said = kedge.deploy.load_onnx(exported.path)
    answer = said.predict(images)
    torch.testing.assert_close(answer.familiarity, model.predict(images).familiarity, rtol=1e-4, atol=1e-4)
    assert unknown.answers(said, answer) == unknown.answers(model, model.predict(images))
    assert "unknown" in unknown.answers(said, answer)


def model_scores(model, images):
    """Familiarity of a set, by the prototypes that the model has."""
    model.unknown = {"score": "prototypes", "threshold": 0.0}
    return model.predict(_pixels(images)).familiarity


def test_steps_change_rules_of_logits_and_no_rule_of_features(digits):
    model, train, val, own, _ = digits
    model = copy.deepcopy(model)
    images = _pixels(own)
    model.prototypes = prototypes_of(outputs_on(model, train, references=1).features, train.labels)
    for score in ("energy", "prototypes"):
        values = model_scores(model, val)
        if score == "energy":
            values = unknown.score_of(score, model.predict(_pixels(val)).logits)
        model.unknown = before = rule_on(values, 0.95, score)
        says = unknown.answers(model, model.predict(images))
        calibrate(model, val)
        assert (model.unknown == before) is (score == "prototypes")
        kept = np.mean([word != "unknown" for word in unknown.answers(model, model.predict(_pixels(val)))])
        assert kept >= 0.95
        model.remove_step("temperature")
        assert model.unknown == before
        assert unknown.answers(model, model.predict(images)) == says


def test_shuffled_images_are_the_same_squares_elsewhere():
    images = torch.arange(2 * 3 * 9 * 9, dtype=torch.float32).reshape(2, 3, 9, 9)
    moved = shuffled(images, torch.Generator().manual_seed(0))
    assert moved.shape == images.shape
    assert torch.equal(moved[:, :, 8:], images[:, :, 8:])  # what is left over
    assert torch.equal(moved.flatten(1).sort().values, images.flatten(1).sort().values)
    corners = {float(images[0, 0, i, j]) for i in range(0, 8, 2) for j in range(0, 8, 2)}
    assert {float(moved[0, 0, i, j]) for i in range(0, 8, 2) for j in range(0, 8, 2)} == corners
    assert not torch.equal(moved, images)


def test_a_network_without_features_has_a_rule_of_its_logits(digits):
    _, train, val, own, _ = digits

    class Two(torch.nn.Module):
        """Two heads, whose mean no single layer explains."""

        def __init__(self):
            super().__init__()
            self.a, self.b = torch.nn.Linear(64, 6), torch.nn.Linear(64, 6)

        def forward(self, x):
            return (self.a(x.flatten(1)) + self.b(x.flatten(1)).relu()) / 2

    torch.manual_seed(0)
    model = kedge.plain(Two(), example=(1, 8, 8)).eval()
    model.class_names = list(train.class_names)
    rule = choose_rule(model, train, val, 0.95)
    assert rule["score"] in unknown.OF_LOGITS
    assert model.prototypes is None
    assert set(unknown.answers(model, model.predict(_pixels(own)))) - {"unknown"}
    few = val.subset(range(5))  # too few to choose by
    assert choose_rule(model, train, few, 0.95)["score"] == "energy"
    assert choose_rule(model, train, val.subset([]), 0.95) is None


def test_held_out_negatives_are_not_trained_on():
    from kedge.training import Recipe
    from kedge.training.negatives import STREAM, held_out_negatives

    images = kedge.data.load("digits", "train")
    extra, held = held_out_negatives({STREAM: images}, Recipe())
    assert len(extra[STREAM]) + len(held) == len(images)
    assert 0.1 < len(held) / len(images) < 0.3
    assert not set(extra[STREAM].keys()) & set(held.keys())
    assert held_out_negatives({STREAM: images.subset(range(50))}, Recipe())[1] is None


@pytest.mark.parametrize("sizes", [(1,), (2, 5), (9, 40, 60)])
def test_no_prototype_is_the_features_of_one_image_where_a_class_has_more(sizes):
    draws = torch.Generator().manual_seed(0)
    features = torch.randn(sum(sizes), 6, generator=draws)
    features[-1] = 40 * torch.ones(6)  # alone in its corner: a cluster of its own
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    directions = prototypes_of(features, labels)
    z = torch.nn.functional.normalize(features)
    alone = sum(size == 1 for size in sizes)
    assert ((directions @ z.T).amax(1) > 1 - 1e-6).sum() <= alone
    assert len(sizes) <= len(directions) <= sum(max(1, size // 3) for size in sizes)


def test_images_too_small_for_squares_stay_and_few_validation_images_are_said(capsys):
    tiny = torch.rand(2, 3, 3, 8)
    assert torch.equal(shuffled(tiny, torch.Generator()), tiny)
    assert shuffled(torch.rand(0, 3, 8, 8), torch.Generator()).shape == (0, 3, 8, 8)
    model = model_of()
    model.unknown = rule_on(torch.rand(14), 0.95, "energy")
    assert "14 images are too few" in " ".join(unknown.about_unknown(model))
    model.unknown = rule_on(torch.rand(100), 0.95, "energy")
    assert "too few" not in " ".join(unknown.about_unknown(model))

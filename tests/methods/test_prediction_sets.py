"""Prediction sets: thresholds, scores and coverage against MAPIE, closed forms, brute force and simulation."""

import json
import math
import warnings

import numpy as np
import pytest
import torch
from scipy.stats import beta
from torch import nn

import kedge
from kedge import postprocess
from kedge.data import TensorSet
from kedge.deploy.card import write_card
from kedge.postprocess import (
    PredictionSets,
    conformal_threshold,
    coverage_of_members,
    coverage_range,
    images_needed,
    majority,
    merged_scores,
    set_scores,
)
from kedge.training import calibrate
from kedge.training.calibration import set_anew

SCORES = ("lac", "aps", "raps")


def drawn(n, classes=5, seed=0, scale=1.5):
    """Logits, and labels that are drawn from their softmax, but for a temperature that the model does not know."""
    draws = torch.Generator().manual_seed(seed)
    logits = scale * torch.randn(n, classes, generator=draws)
    labels = torch.multinomial((logits / 1.7).softmax(1), 1, generator=draws)[:, 0]
    return logits, labels


def fitted(logits, labels, **stated):
    step = PredictionSets(PredictionSets.fit(logits, labels, **stated))
    step.check(logits.shape[1])
    return step


def covered(step, logits, labels):
    return step.sets(logits).gather(1, labels[:, None])[:, 0]


# Thresholds.


def test_the_threshold_is_the_stated_order_statistic():
    scores = torch.arange(1, 10, dtype=torch.float64) / 10
    assert conformal_threshold(scores, 0.8) == 0.8
    assert conformal_threshold(scores.flip(0), 0.8) == 0.8
    assert conformal_threshold(scores, 0.95) == math.inf
    assert conformal_threshold(scores, 0.9) == 0.9
    # 0.07 · 100 is 7.000000000000001 in floating point: the seventh of 99, not the eighth.
    assert conformal_threshold(torch.arange(1.0, 100.0), 0.07) == 7


@pytest.mark.parametrize("coverage", [0.5, 0.8, 0.9, 0.95, 0.99, 0.07, 0.29, 1 / 3])
def test_how_many_images_are_needed_is_the_smallest_number_with_a_threshold(coverage):
    n = images_needed(coverage)
    assert math.isfinite(conformal_threshold(torch.zeros(n), coverage))
    assert n == 1 or conformal_threshold(torch.zeros(n - 1), coverage) == math.inf
    assert {0.9: 9, 0.95: 19, 0.99: 99}.get(coverage, n) == n


def test_the_spread_of_the_coverage_is_a_beta_distribution():
    low, high = coverage_range(300, 0.9)
    assert (round(low, 4), round(high, 4)) == (0.8705, 0.9271)
    assert round(beta(271, 30).mean(), 4) == 0.9003
    hits = []
    for seed in range(400):
        scores = torch.rand(100, generator=torch.Generator().manual_seed(seed))
        hits.append(conformal_threshold(scores, 0.9))  # of uniform scores the threshold is the coverage
    assert abs(np.mean(hits) - 91 / 101) < 0.005
    assert abs(np.std(hits) - beta(91, 10).std()) < 0.003


@pytest.mark.parametrize("coverage", [0, 1, 1.2, -0.1, True, "0.9", math.nan])
def test_a_coverage_that_is_no_share_is_refused(coverage):
    with pytest.raises(ValueError, match=r"coverage is a share of images above 0 and below 1"):
        images_needed(coverage)


# Scores.


def brute(probs, score, penalty=0.1, free=1):
    rows = []
    for row in probs.tolist():
        before = [sum(q for q in row if q > p) for p in row]
        rank = [1 + sum(q > p for q in row) for p in row]
        rows.append({
            "lac": [1 - p for p in row],
            "aps": before,
            "raps": [b + penalty * max(0, r - free) for b, r in zip(before, rank, strict=True)],
        }[score])  # fmt: skip
    return torch.tensor(rows, dtype=torch.float64)


@pytest.mark.parametrize("score", SCORES)
def test_scores_are_those_of_the_definition_also_of_equal_probabilities(score):
    logits = torch.randn(60, 6, generator=torch.Generator().manual_seed(0)).double()
    logits[:20] = logits[:20].round()  # ties
    logits[0] = 0
    probs = logits.softmax(1)
    torch.testing.assert_close(set_scores(logits, score), brute(probs, score), atol=1e-12, rtol=0)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    torch.testing.assert_close(set_scores(logits[:, order], score), set_scores(logits, score)[:, order])


def test_scores_of_saturated_logits_and_of_one_class_are_numbers():
    for logits in (torch.tensor([[1e4, -1e4, 0.0]]), torch.zeros(3, 1), torch.full((2, 4), -1e30)):
        for score in SCORES:
            assert set_scores(logits, score).isfinite().all()


def mapie(probs, labels, score, coverage):
    """MAPIE's classifier of the first images `[n]` and its sets of the others, for a model that gives these `probs`."""
    classification = pytest.importorskip("mapie.classification")
    from sklearn.base import BaseEstimator, ClassifierMixin

    class Stated(ClassifierMixin, BaseEstimator):
        classes_ = np.arange(probs.shape[1])

        def fit(self, x, y):
            return self

        def __sklearn_is_fitted__(self):
            return True

        def predict_proba(self, x):
            return probs[np.asarray(x)[:, 0].astype(int)]

        def predict(self, x):
            return self.predict_proba(x).argmax(1)

    rows = np.arange(len(probs))[:, None]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        own = classification.SplitConformalClassifier(Stated(), coverage, score, prefit=True, random_state=0)
        own.conformalize(rows[: len(labels)], labels)
        _, sets = own.predict_set(rows[len(labels) :])
    return own._mapie_classifier, sets[:, :, 0]


@pytest.mark.parametrize("coverage", [0.8, 0.9, 0.95])
def test_lac_and_its_threshold_are_those_of_mapie(coverage):
    logits, labels = drawn(700)
    own, sets = mapie(logits.double().softmax(1).numpy(), labels[:400].numpy(), "lac", coverage)
    step = fitted(logits[:400], labels[:400], coverage=coverage)
    assert step.value["thresholds"] == pytest.approx(own.quantiles_.tolist(), abs=1e-12)
    assert np.array_equal(step.sets(logits[400:]).numpy(), sets)


def test_lac_by_class_is_that_of_mapie_on_the_images_of_each_class():
    logits, labels = drawn(900)
    known = torch.arange(900) < 600
    step = fitted(logits[known], labels[known], coverage=0.9, by_class=True)
    for k in range(5):
        of_k = known & (labels == k)
        # To MAPIE a class and the rest, whose score of class k is that of ours: two columns.
        p = logits.double().softmax(1)[torch.cat([of_k.nonzero()[:, 0], (~known).nonzero()[:, 0]]), k]
        own, sets = mapie(torch.stack([1 - p, p], 1).numpy(), np.ones(int(of_k.sum()), int), "lac", 0.9)
        assert step.value["thresholds"][k] == pytest.approx(float(own.quantiles_[0]), abs=1e-12)
        assert np.array_equal(step.sets(logits[~known])[:, k].numpy(), sets[:, 1])
        assert step.value["images"][k] == int(of_k.sum())


@pytest.mark.parametrize("coverage", [0.8, 0.9])
def test_aps_with_draws_has_the_scores_of_mapie(coverage):
    logits, labels = drawn(400)
    own, _ = mapie(logits.double().softmax(1).numpy(), labels.numpy(), "aps", coverage)
    draws = torch.from_numpy(np.random.RandomState(0).uniform(size=400))
    scores = set_scores(logits, "aps", draws).gather(1, labels[:, None])[:, 0]
    np.testing.assert_allclose(np.ravel(own.conformity_scores_), scores.numpy(), atol=1e-7)
    assert conformal_threshold(scores, coverage) == pytest.approx(float(own.quantiles_[0]), abs=1e-7)


# Sets.


@pytest.mark.parametrize("score", SCORES)
def test_sets_grow_with_the_coverage_and_hold_the_answer_where_they_hold_anything(score):
    logits, labels = drawn(500)
    before = torch.zeros(500, 5, dtype=torch.bool)
    for coverage in (0.3, 0.6, 0.8, 0.9, 0.99):
        step = fitted(logits, labels, coverage=coverage, sets=score)
        sets = step.sets(logits)
        assert bool((before <= sets).all())
        top = sets.gather(1, logits.argmax(1)[:, None])[:, 0]
        assert bool((top == sets.any(1)).all())
        assert score == "lac" or bool(top.all())  # aps and raps are never empty
        assert covered(step, logits, labels).double().mean() >= coverage
        before = sets


def test_lac_holds_every_class_with_a_probability_of_1_less_the_threshold():
    logits, labels = drawn(300)
    step = fitted(logits, labels, coverage=0.9)
    least = 1 - step.value["thresholds"][0]
    assert torch.equal(step.sets(logits), logits.double().softmax(1) >= least - 1e-15)


@pytest.mark.parametrize("score", SCORES)
def test_ties_cover_more_and_never_less(score):
    """Equal logits, a network that says the same of all, and one that is right and sure: thresholds of ties."""
    labels = torch.arange(200) % 4
    same = fitted(torch.zeros(200, 4), labels, coverage=0.9, sets=score)
    assert bool(same.sets(torch.zeros(3, 4)).all())  # no class fits better than another
    sure = 1e4 * torch.nn.functional.one_hot(labels, 4).float()
    step = fitted(sure, labels, coverage=0.9, sets=score)
    assert torch.equal(step.sets(sure), torch.nn.functional.one_hot(labels, 4).bool())
    rounded, truth = drawn(3000, seed=1)
    rounded = (2 * rounded).round() / 2
    for seed in range(5):
        order = torch.randperm(3000, generator=torch.Generator().manual_seed(seed))
        step = fitted(rounded[order[:1000]], truth[order[:1000]], coverage=0.8, sets=score)
        assert covered(step, rounded[order[1000:]], truth[order[1000:]]).double().mean() > 0.77


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("by_class", [False, True])
def test_the_coverage_of_other_images_is_the_stated_one(score, by_class):
    """Over 60 draws of 300 calibration images, in all and, by class, of each class; aps without draws covers more."""
    logits, labels = drawn(40_000, classes=4, scale=1.0)
    hits, of_each = [], []
    for seed in range(60):
        order = torch.randperm(40_000, generator=torch.Generator().manual_seed(seed))
        step = fitted(logits[order[:300]], labels[order[:300]], coverage=0.9, sets=score, by_class=by_class)
        hit = covered(step, logits[order[300:4300]], labels[order[300:4300]]).double()
        hits.append(float(hit.mean()))
        of_each.append([float(hit[labels[order[300:4300]] == k].mean()) for k in range(4)])
    expected = 271 / 301
    assert np.mean(hits) > expected - 0.008
    assert np.mean(hits) < expected + 0.02
    if by_class:
        assert np.mean(of_each, 0).min() > 0.9 - 0.01


def test_draws_make_aps_exact_where_it_covers_more_without():
    logits, labels = drawn(30_000, classes=4, scale=4.0)  # three quarters of the answers are right
    plain, random = [], []
    for seed in range(40):
        order = torch.randperm(30_000, generator=torch.Generator().manual_seed(seed))[:2300]
        draws = torch.rand(2300, generator=torch.Generator().manual_seed(seed))
        for hits, scores in (
            (plain, set_scores(logits[order], "aps")),
            (random, set_scores(logits[order], "aps", draws)),
        ):
            own = scores.gather(1, labels[order][:, None])[:, 0]
            hits.append(float((own[300:] <= conformal_threshold(own[:300], 0.6)).double().mean()))
    assert np.mean(plain) > 0.65  # the answer alone covers that
    assert abs(np.mean(random) - 181 / 301) < 0.012


# Several models.


def views(n=6000, members=5, seed=0):
    """Logits of members that see the truth through noise of their own and noise that they share."""
    draws = torch.Generator().manual_seed(seed)
    labels = torch.randint(4, (n,), generator=draws)
    truth = 2.0 * torch.nn.functional.one_hot(labels, 4) + torch.randn(n, 4, generator=draws)
    return truth + torch.randn(members, n, 4, generator=draws), labels


@pytest.mark.parametrize("how", ["mean", "median", 0.0, 0.8, 1.0])
def test_merged_scores_cover_what_was_stated_whatever_merges_them(how):
    logits, labels = views()
    own = merged_scores(set_scores(logits, "lac"), how).gather(1, labels[:, None])[:, 0]
    hits = []
    for seed in range(100):
        order = torch.randperm(6000, generator=torch.Generator().manual_seed(seed))
        threshold = conformal_threshold(own[order[:300]], 0.9)
        hits.append(float((own[order[300:]] <= threshold).double().mean()))
    assert abs(np.mean(hits) - 271 / 301) < 0.006


def test_merged_scores_are_order_statistics_and_means():
    scores = torch.tensor([[[0.4]], [[0.1]], [[0.3]], [[0.2]]])
    assert merged_scores(scores, "mean").item() == pytest.approx(0.25)
    for how, value in (("median", 0.2), (0, 0.1), (0.25, 0.1), (0.26, 0.2), (1.0, 0.4)):
        assert merged_scores(scores, how).item() == pytest.approx(value)
    for bad in ("mode", 1.5, True, -0.1):
        with pytest.raises(ValueError, match="how is mean, median or a number"):
            merged_scores(scores, bad)
    with pytest.raises(ValueError, match=r"\[M, ..., C\]"):
        merged_scores(torch.zeros(0, 3))


def test_a_majority_covers_what_it_promises_and_at_its_worst_no_more():
    """Members that miss 2a of the images together, half of them each time: the bound is met exactly."""
    assert coverage_of_members(0.9) == 0.95
    n, miss = 1000, 100  # each of 4 members misses 100 of 1000: two members 200 images, the other two the same
    sets = torch.ones(4, n, 1, dtype=torch.bool)
    sets[:2, :miss] = False
    sets[2:, :miss] = False
    assert majority(sets)[:, 0].double().mean() == 1 - miss / n
    worst = torch.ones(2, n, 1, dtype=torch.bool)
    worst[0, :miss] = False
    worst[1, miss : 2 * miss] = False
    assert majority(worst)[:, 0].double().mean() == 1 - 2 * miss / n
    logits, labels = views()
    hits, each = [], []
    for seed in range(40):
        order = torch.randperm(6000, generator=torch.Generator().manual_seed(seed))
        sets = torch.stack([
            fitted(z[order[:400]], labels[order[:400]], coverage=0.95).sets(z[order[400:]]) for z in logits
        ])  # fmt: skip
        true = labels[order[400:]][:, None]
        hits.append(float(majority(sets).gather(1, true).double().mean()))
        each.append(float(sets[0].gather(1, true).double().mean()))
    assert np.mean(hits) > 0.9
    assert np.mean(hits) > np.mean(each) - 0.01
    with pytest.raises(ValueError, match=r"bool \[M, ..., C\]"):
        majority(torch.ones(2, 3))


def test_sorting_crossed_quantiles_never_makes_them_worse():
    """The lemma of Fakoor et al., section 4: quantiles of several levels that cross, and their pinball losses."""
    levels = np.array([0.1, 0.5, 0.9])

    def loss(quantiles, y):
        return np.maximum(levels * (y - quantiles), (levels - 1) * (y - quantiles)).sum(-1)

    crossed = np.array([2.0, 1.0, 3.0])
    assert loss(crossed, 1.5) == pytest.approx(0.85)
    assert loss(np.sort(crossed), 1.5) == pytest.approx(0.45)
    random = np.random.default_rng(0)
    quantiles, y = random.normal(size=(20_000, 3)), random.normal(size=(20_000, 1))
    assert (loss(np.sort(quantiles, -1), y) <= loss(quantiles, y) + 1e-12).all()


# Refused.


def test_too_few_images_are_refused_with_the_number_that_it_takes():
    logits, labels = drawn(18)
    with pytest.raises(
        ValueError, match=r"coverage of 0.95 needs 19 calibration images or more, and there are 18: .*infinite"
    ):
        PredictionSets.fit(logits, labels, coverage=0.95)
    fitted(*drawn(19), coverage=0.95)
    logits, labels = drawn(200)
    labels[labels == 2] = 1
    labels[0], labels[1] = 2, 2
    with pytest.raises(
        ValueError, match=r"of each class needs 9 calibration images of each class or more, and class 2 has 2"
    ):
        PredictionSets.fit(logits, labels, coverage=0.9, by_class=True)


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ({}, "need the coverage that they promise"),
        ({"coverage": 1.0}, "above 0 and below 1"),
        ({"coverage": 0.9, "sets": "thr"}, "one of lac, aps, raps, got 'thr'"),
        ({"coverage": 0.9, "sets": "raps", "penalty": -1.0}, "penalty is a number of 0 or more"),
        ({"coverage": 0.9, "sets": "raps", "free": 1.5}, "free is how many classes"),
    ],
)
def test_what_cannot_be_fitted_is_refused(stated, words):
    with pytest.raises(ValueError, match=words):
        PredictionSets.fit(*drawn(50), **stated)


def test_logits_without_an_answer_and_foreign_labels_are_refused():
    logits, labels = drawn(50)
    logits[3, 1] = math.nan
    with pytest.raises(ValueError, match="1 of 50 rows of logits hold NaN"):
        PredictionSets.fit(logits, labels, coverage=0.9)
    with pytest.raises(ValueError, match=r"labels must be in 0..4"):
        PredictionSets.fit(drawn(50)[0], labels + 3, coverage=0.9)
    with pytest.raises(ValueError, match="lac has nothing to draw"):
        set_scores(torch.zeros(2, 3), "lac", torch.zeros(2))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("score", "thr"), ("coverage", 1.0), ("thresholds", [math.inf]), ("thresholds", []), ("thresholds", [0.5, 0.5]),
        ("by_class", 1), ("images", [3]), ("images", [True]), ("penalty", -1), ("free", 1.5), ("usual", {}),
        ("usual", {"accuracy": 1, "entropy": math.nan, "energy": 0}),
    ],
)  # fmt: skip
def test_a_changed_file_is_refused(key, value):
    good = PredictionSets.fit(*drawn(60), coverage=0.9)
    PredictionSets(good).check(5)
    with pytest.raises(ValueError):
        PredictionSets({**good, key: value}).check(5)
    with pytest.raises(ValueError, match="has score"):
        PredictionSets({k: v for k, v in good.items() if k != key}).check(5)


# With a model.


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        return 6 * self.head(torch.tanh(self.conv(x)).mean((2, 3)))


def images(n=120, seed=0):
    draws = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (n, 3, 6, 6), generator=draws, dtype=torch.uint8)
    return TensorSet(pixels, torch.randint(3, (n,), generator=draws), ["a", "b", "c"], "noise", "val")


def small(kind="plain", seed=0):
    torch.manual_seed(seed)
    if kind == "plain":
        model = kedge.plain(Small().eval(), example=(3, 6, 6), mean=0.4, std=0.2)
    else:
        model = kedge.anchor(Small().eval(), example=(3, 6, 6), mean=0.4, std=0.2)
        nn.init.normal_(model.stem.reference.weight)
        model.references = torch.rand(4, 3, 6, 6, generator=torch.Generator().manual_seed(3))
    model.class_names = ["a", "b", "c"]
    return model


@pytest.mark.parametrize("kind", ["plain", "anchored"])
def test_sets_are_saved_loaded_and_folded_and_change_no_logit(kind, tmp_path):
    model, val = small(kind), images()
    calibrate(model, val)
    shown = val.images.float() / 255
    before, rule = model.predict(shown), {"threshold": 0.5}
    model.reject = rule
    record = calibrate(model, val, "prediction_sets", coverage=0.9, sets="raps", by_class=True)
    assert list(model.steps) == ["temperature", "prediction_sets"]
    assert model.reject is rule
    assert record["images"] == 120
    assert record["references"] == model.count()
    prediction = model.predict(shown)
    assert torch.equal(prediction.logits, before.logits)
    sets = model.set_rule(0.9).sets(prediction)
    assert record["size"] == pytest.approx(float(sets.sum(1).double().mean()))
    assert sets.gather(1, val.labels[:, None]).double().mean() >= 0.9
    loaded = kedge.load(kedge.save(model, tmp_path / "m"), model=Small())
    assert loaded.steps == model.steps
    assert torch.equal(loaded.set_rule().sets(loaded.predict(shown)), sets)
    torch.testing.assert_close(model.fold()(shown), model(shown), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="prediction_sets was set on answers with temperature in force"):
        model.remove_step("temperature")
    with pytest.raises(ValueError, match="prediction_sets was set on answers of the model without a new temperature"):
        calibrate(model, val)
    model.remove_step("prediction_sets")
    assert list(model.steps) == ["temperature"]


def test_sets_are_set_anew_for_other_answers_and_refused_for_those_of_fewer_references():
    model, val = small("anchored"), images()
    model.reject = {"score": "confidence", "threshold": 0.4, "coverage": 0.9}
    calibrate(model, val, "prediction_sets", coverage=0.8, sets="aps")
    old = model.steps["prediction_sets"]["value"]["thresholds"]
    shown = val.images.float() / 255
    for references, words in ((2, "with 2"), ("adaptive", "with references='adaptive'")):
        with pytest.raises(ValueError, match=f"set on answers with 4 references, and say nothing of answers {words}"):
            model.set_rule(0.8, references)
    model.references = model.references[:1]
    with pytest.raises(ValueError, match="with 4 references"):
        model.set_rule(0.8)
    set_anew(model, val)
    assert model.steps["prediction_sets"]["value"]["thresholds"] != old
    assert model.reject["threshold"] != 0.4  # also without a step that changes confidences
    sets = model.set_rule(0.8).sets(model.predict(shown))
    assert sets.gather(1, val.labels[:, None]).double().mean() >= 0.8
    with pytest.raises(
        ValueError, match=r"for a coverage of 0.8, and 0.95 has another: kedge calibrate MODEL --coverage 0.95"
    ):
        model.set_rule(0.95)
    model.remove_step("prediction_sets")
    with pytest.raises(ValueError, match=r"has no prediction sets: kedge calibrate MODEL --coverage 0\.9 sets"):
        model.set_rule(0.9)


def by_formula(card, logits):
    """The sets as a program makes them that has numpy, the logits of the exported file, and what is written in it."""
    value = card["steps"]["prediction_sets"]["value"]
    z = logits.astype(np.float64)
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    larger = p[:, None, :] > p[:, :, None]
    before, count = (larger * p[:, None, :]).sum(2), larger.sum(2)
    longer = value["penalty"] * np.maximum(0, 1 + count - value["free"])
    return {"lac": 1 - p, "aps": before, "raps": before + longer}[value["score"]] <= np.array(value["thresholds"])


def test_a_program_with_onnxruntime_alone_makes_the_same_sets(tmp_path):
    pytest.importorskip("onnxscript")
    runtime = pytest.importorskip("onnxruntime")
    model, val = small(), images()
    calibrate(model, val)
    calibrate(model, val, "prediction_sets", coverage=0.8, sets="raps", by_class=True)
    others = images(50, seed=1).images.float() / 255
    prediction = model.predict(others)
    expected = model.set_rule().sets(prediction).numpy()
    done = kedge.deploy.export(model, tmp_path / "m.onnx", check_images=others)

    session = runtime.InferenceSession(str(done.path), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"images": others.numpy()})
    card = json.loads(session.get_modelmeta().custom_metadata_map["kedge"])
    assert np.array_equal(by_formula(card, logits), expected)
    assert card["formulas"]["prediction_sets"].startswith("p = softmax(logits)")

    file = kedge.deploy.load_onnx(done.path)
    assert np.array_equal(file.set_rule(0.8).sets(file.predict(others)).numpy(), expected)
    assert file.describe_steps() == model.describe_steps()
    for score in SCORES:
        for by_class in (False, True):
            calibrate(model, val, "prediction_sets", coverage=0.8, sets=score, by_class=by_class)
            sets = by_formula(json.loads(write_card(model)), logits)
            assert np.array_equal(sets, model.set_rule().sets(prediction).numpy())


def test_a_pt2_file_holds_threshold_and_formula_too(tmp_path):
    model, val = small(), images()
    calibrate(model, val, "prediction_sets", coverage=0.8)
    done = kedge.deploy.export(model, tmp_path / "m.pt2", to="torch")
    extra = {"kedge.json": ""}
    torch.export.load(done.path, extra_files=extra)
    card = json.loads(extra["kedge.json"])
    assert card["steps"]["prediction_sets"]["value"] == model.steps["prediction_sets"]["value"]
    assert "1 - p[k]" in card["formulas"]["prediction_sets"]


def test_a_file_of_one_reference_is_not_written_with_the_sets_of_four(tmp_path):
    model = small("anchored")
    calibrate(model, images(), "prediction_sets", coverage=0.8)
    with pytest.raises(ValueError, match="set on answers with 4 references, and the file keeps one"):
        kedge.deploy.export(model, tmp_path / "m.pt2", to="torch")
    assert not (tmp_path / "m.pt2").exists()


def test_members_of_an_ensemble_vote_or_the_ensemble_has_its_own():
    members, val = [small(seed=seed) for seed in range(3)], images()
    ensemble = kedge.Ensemble(members)
    shown = val.images.float() / 255
    with pytest.raises(
        ValueError, match=r"member 0 .*no prediction sets: .*\(for 0.8 of their majority, each needs 0.9\)"
    ):
        ensemble.set_rule(0.8)
    for member in members:
        calibrate(member, val, "prediction_sets", coverage=0.9)
    rule = ensemble.set_rule(0.8)
    assert (rule.coverage, rule.of_members, ensemble.set_rule().coverage) == (0.8, True, pytest.approx(0.8))
    prediction = ensemble.predict(shown, keep_per_reference=True)
    single = torch.stack([member.set_rule().sets(member.predict(shown)) for member in members])
    assert torch.equal(rule.sets(prediction), single.sum(0) >= 2)
    with pytest.raises(ValueError, match=r"for a coverage of 0.9, and 0.95 has another"):
        ensemble.set_rule(0.9)
    calibrate(ensemble, val, "prediction_sets", coverage=0.9)
    own = ensemble.set_rule(0.9)
    assert not own.of_members
    assert own.sets(prediction).gather(1, val.labels[:, None]).double().mean() >= 0.9


def test_a_step_that_moves_logits_is_refused_under_sets_and_other_arguments_are_named():
    model, val = small(), images()
    with pytest.raises(ValueError, match="prediction sets need the coverage"):
        calibrate(model, val, "prediction_sets")
    with pytest.raises(ValueError, match=r"temperature takes no coverage: 0\.9"):
        calibrate(model, val, coverage=0.9)
    calibrate(model, val, "prediction_sets", coverage=0.9)
    calibrate(model, val, "prediction_sets", coverage=0.95)
    assert list(model.steps) == ["prediction_sets"]
    assert model.steps["prediction_sets"]["value"]["coverage"] == 0.95
    with pytest.raises(ValueError, match="needs 199 calibration images or more, and there are 120"):
        calibrate(model, val, "prediction_sets", coverage=0.995)
    assert model.steps["prediction_sets"]["value"]["coverage"] == 0.95  # the earlier one is still there


# When the promise no longer holds.


def test_the_outlook_is_good_for_images_like_those_of_calibration_and_bad_for_others():
    logits, labels = drawn(6000)
    step = fitted(logits[:1000], labels[:1000], coverage=0.9)
    alarms = 0
    for seed in range(100):
        some = torch.randperm(5000, generator=torch.Generator().manual_seed(seed))[:200] + 1000
        right, unfamiliar = (int(flags.sum()) for flags in step.usual(logits[some]))
        outlook = step.outlook(200, right, unfamiliar)
        alarms += outlook.broken
    assert alarms <= 2
    flat = 0.3 * logits[1000:]
    right, unfamiliar = (int(flags.sum()) for flags in step.usual(flat))
    outlook = step.outlook(5000, right, unfamiliar)
    assert outlook.broken
    assert outlook.expected < outlook.accuracy - 0.2
    assert "the coverage of 90 % is not to be relied on for these images" in str(outlook)
    few = step.outlook(49, 10, 49)
    assert not few.broken
    assert "cannot be told: that takes 50 or more" in str(few)


def test_on_calibration_images_the_outlook_repeats_what_was_measured_there():
    logits, labels = drawn(400)
    step = fitted(logits, labels, coverage=0.9)
    right, unfamiliar = step.usual(logits)
    assert right.double().mean() == pytest.approx(step.value["usual"]["accuracy"])
    assert unfamiliar.double().mean() == pytest.approx(0.05, abs=0.003)
    from kedge.metrics import average_thresholded_confidence
    from kedge.scores import Entropy, Outputs

    others, _ = drawn(500, seed=5, scale=1.0)
    theirs = average_thresholded_confidence(
        Entropy().score(Outputs(logits)), logits.argmax(1) == labels, Entropy().score(Outputs(others))
    )
    assert step.usual(others)[0].double().mean() == pytest.approx(float(theirs), abs=0.004)


def test_the_room_exports_what_the_pages_name():
    for name in ("PredictionSets", "set_scores", "conformal_threshold", "images_needed", "majority", "merged_scores"):
        assert hasattr(postprocess, name)

import math
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.metrics import roc_auc_score

from kedge.data.groups import Groups
from kedge.evaluation import evaluate
from kedge.evaluation.comparing import (
    Measured,
    Number,
    bootstrap_p,
    compare,
    compared_numbers,
    group_table,
    mcnemar,
)
from kedge.evaluation.ood import compared_outside
from kedge.metrics._base import Answers, metrics
from kedge.metrics._base import metric as metric_called
from kedge.metrics._summary import numbers
from kedge.rejection import rule_at


def measured(correct: torch.Tensor) -> Measured:
    """Metrics that are all the share of right answers, with their resamples."""
    generator = torch.Generator().manual_seed(5)
    drawn = torch.randint(len(correct), (400, len(correct)), generator=generator)
    value, draws = float(correct.double().mean()), correct.float()[drawn].mean(dim=1)
    known = {
        (name, where): Number(value, value, draws, name.endswith("ece"), name == "accuracy")
        for where in ("clean", "corrupted")
        for name in ("accuracy", "nll", "ece", "smooth_ece")
    }
    return Measured(known, {"clean": correct, "PGD": correct})


@pytest.fixture
def right() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    a = torch.rand(500, generator=generator) < 0.8
    return a, a & (torch.rand(500, generator=generator) < 0.9)


def test_mcnemar_is_the_sign_test_of_those_that_differ(right):
    a, b = right
    only_a, only_b = int((a & ~b).sum()), int((~a & b).sum())
    tail = sum(math.comb(only_a + only_b, k) for k in range(min(only_a, only_b) + 1)) / 2 ** (only_a + only_b)
    assert mcnemar(a, b) == pytest.approx(min(1.0, 2 * tail))
    assert mcnemar(a, a) == 1.0


def test_two_models_are_paired_on_their_images(right):
    a, b = (measured(c) for c in right)
    found = compare({"a": a, "b": b}, {})
    clean = next(r for r in found if (r["where"], r["metric"]) == ("clean", "accuracy"))
    gap = float(right[0].double().mean() - right[1].double().mean())
    assert clean["test"] == "McNemar exact"
    assert clean["difference"]["value"] == pytest.approx(gap)
    each = (right[0].double() - right[1].double()).numpy()
    low, high = scipy.stats.norm.interval(0.95, loc=each.mean(), scale=scipy.stats.sem(each))
    assert clean["difference"]["low"] == pytest.approx(low, abs=1e-4)
    assert clean["difference"]["high"] == pytest.approx(high, abs=1e-4)
    nll = next(r for r in found if (r["where"], r["metric"]) == ("corrupted", "nll"))
    assert nll["test"] == "paired bootstrap"
    # Paired: the interval of the difference is that of the differences, not of two independent samples.
    assert nll["difference"]["low"] == pytest.approx(low, abs=0.01)
    assert nll["p"] <= 0.01
    assert nll["n"] == 500
    assert next(r for r in found if r["where"] == "PGD")["p"] == clean["p"]


def test_a_model_does_not_differ_from_itself(right):
    found = compare({"a": measured(right[0]), "b": measured(right[0])}, {})
    assert found
    assert all(r["p"] == 1.0 and r["difference"]["value"] == 0 for r in found)


def test_the_bootstrap_p_of_a_mean_is_that_of_the_t_test():
    rng = np.random.default_rng(0)
    values = torch.tensor(rng.normal(0.15, 1, 300))
    drawn = values[torch.randint(300, (20_000, 300), generator=torch.Generator().manual_seed(0))].mean(dim=1)
    expected = scipy.stats.ttest_1samp(values.numpy(), 0).pvalue
    assert bootstrap_p(float(values.mean()), drawn) == pytest.approx(expected, abs=0.01)


def test_groups_of_seeds(right):
    generator = torch.Generator().manual_seed(1)
    models = {f"a{i}": measured(right[0] ^ (torch.rand(500, generator=generator) < 0.02)) for i in range(3)}
    models |= {f"b{i}": measured(right[1] ^ (torch.rand(500, generator=generator) < 0.02)) for i in range(3)}
    groups = {"a": ["a0", "a1", "a2"], "b": ["b0", "b1", "b2"]}
    found = compare(models, groups)
    assert {(r["a"], r["b"]) for r in found} == {("a", "b")}
    alone = {
        name: replace(one, numbers={key: replace(number, draws=None) for key, number in one.numbers.items()})
        for name, one in models.items()
    }
    welch = next(r for r in compare(alone, groups) if r["test"] == "Welch t over seeds" and r["where"] == "clean")
    values = [[float(models[n].correct["clean"].double().mean()) for n in names] for names in groups.values()]
    expected = scipy.stats.ttest_ind(*values, equal_var=False)
    assert welch["p"] == pytest.approx(expected.pvalue)
    interval = expected.confidence_interval()
    assert welch["difference"]["low"] == pytest.approx(interval.low)
    assert welch["difference"]["high"] == pytest.approx(interval.high)
    # Seeds that are tested on the same images share their chance: with it, the interval is wider.
    both = next(r for r in found if r["test"] == "Welch t over seeds and images" and r["where"] == "clean")
    drawn = [
        torch.stack([models[n].numbers["accuracy", "clean"].draws for n in names]).mean(dim=0)
        for names in groups.values()
    ]
    variance = sum(np.var(v, ddof=1) / 3 for v in values) + float((drawn[0] - drawn[1]).var())
    freedom = variance**2 / sum((np.var(v, ddof=1) / 3) ** 2 / 2 for v in values)
    expected = 2 * scipy.stats.t.sf(abs(np.mean(values[0]) - np.mean(values[1])) / variance**0.5, freedom)
    assert both["p"] == pytest.approx(expected, rel=1e-4)
    table = group_table(models, groups)
    assert table["a"]["accuracy, clean"] == {
        "mean": pytest.approx(np.mean(values[0])),
        "sd": pytest.approx(np.std(values[0], ddof=1)),
        "n": 3,
    }
    assert "accuracy, PGD" in table["b"]


def test_two_calibrated_models_with_other_confidences_do_not_differ():
    """Both errors are 0 by the way that labels are drawn; the plug-in errors differ by 1 to 3 points."""
    generator = torch.Generator().manual_seed(0)
    wrong = 0
    for seed in range(12):
        models, plain = {}, []
        for name, low in (("a", 0.9), ("b", 0.3)):
            confidence = low + (1 - low) * torch.rand(2000, generator=generator)
            right = torch.rand(2000, generator=generator) < confidence
            columns = {"confidence": confidence, "rank": (~right).long(), "nll": confidence, "brier": confidence}
            answers = Answers(columns, n=200, seed=seed)
            of = [metric_called(name) for name in ("accuracy", "nll", "ece", "smooth_ece")]
            known = numbers([answers], of)
            plain.append(float(known.values[0, 2]))
            assert known.results()["ece"]["corrected"] == pytest.approx(float(known.centers[0, 2]))
            models[name] = Measured(compared_numbers(known, numbers([answers, answers], of)), {"clean": right})
        assert plain[1] > plain[0]
        found = [r for r in compare(models, {}) if r["metric"] in ("ece", "smooth_ece")]
        assert {(r["metric"], r["where"]) for r in found} == {
            (m, w) for m in ("ece", "smooth_ece") for w in ("clean", "corrupted")
        }
        first = found[0]
        assert first["reported"] == pytest.approx(plain[0] - plain[1])
        wrong += any(r["p"] < 0.05 for r in found)
    assert wrong <= 3


def test_many_models_are_compared_with_the_first(right):
    found = compare({str(i): measured(right[0]) for i in range(8)}, {})
    assert {r["a"] for r in found} == {"0"}
    assert {r["b"] for r in found} == {str(i) for i in range(1, 8)}


def test_in_the_results(network, data):
    class Other(torch.nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :6]

    quick = {"shift": ["contrast"], "severities": (3,), "resamples": 50}
    models = {"good": network, "bad 0": Other(), "bad 1": Other()}
    results = evaluate(models, data, **quick, groups={"bad": ["bad 0", "bad 1"]})
    assert results["groups"] == {"bad": ["bad 0", "bad 1"]}
    clean = [r for r in results["comparisons"] if (r["where"], r["metric"]) == ("clean", "accuracy")]
    assert {(r["a"], r["b"]) for r in clean} == {("bad", "good")}
    assert results["group_table"]["bad"]["accuracy, corrupted"]["sd"] == 0
    assert evaluate(network, data, **quick)["comparisons"] == []


@pytest.mark.parametrize("images", [1, 3])
def test_few_images_that_all_differ_are_no_proof(images):
    right, wrong = torch.ones(images, dtype=torch.bool), torch.zeros(images, dtype=torch.bool)
    models = {"a0": measured(right), "a1": measured(right), "b0": measured(wrong), "b1": measured(wrong)}
    found = compare(models, {"a": ["a0", "a1"], "b": ["b0", "b1"]})
    under = next(r for r in found if r["where"] == "PGD")
    assert under["p"] == pytest.approx(min(1.0, 2 * 0.5**images))
    assert under["difference"]["low"] is None
    assert "sign test" in under["test"]


def scores(seed: int, shift: float = 0.0, images: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Log odds of 200 familiar and 60 unfamiliar images: each image its own, each seed a little noise on each."""
    own = torch.Generator().manual_seed(images)
    noise = torch.Generator().manual_seed(1000 + seed)
    inside, outside = (torch.randn(n, generator=own) for n in (200, 60))
    inside, outside = (x + 0.7 * torch.randn(len(x), generator=noise) for x in (inside, outside))
    return inside + 1.0 + shift + 0.2 * float(torch.randn((), generator=noise)), outside


def shares(inside: torch.Tensor, outside: torch.Tensor) -> dict:
    """As `evaluate` makes them, from logits of two classes."""
    familiar, away = (torch.stack([x, torch.zeros_like(x)], dim=1) for x in (inside, outside))
    return compared_outside(familiar, {"far": away}, rule_at(0.7))


def of_groups(first: list[int], second: list[int], shift: float = 0.0, images: int = 0) -> dict:
    models = {f"a{i}": scores(i, 0.0, images) for i in first} | {f"b{i}": scores(i, shift, images) for i in second}
    known = {name: Measured({}, {"clean": torch.ones(0)}, shares(*each)) for name, each in models.items()}
    groups = {g: [name for name in known if name[0] == g] for g in "ab"}
    return {r["metric"]: r for r in compare(known, groups)}, group_table(known, groups), models


def test_groups_are_compared_on_images_of_other_kinds():
    found, table, models = of_groups([1, 2, 3], [4, 5, 6], shift=1.0)
    probability = {n: [torch.sigmoid(side.abs()).numpy() for side in each] for n, each in models.items()}
    area = {
        n: roc_auc_score([1] * 200 + [0] * 60, np.concatenate([inside, outside]))
        for n, (inside, outside) in probability.items()
    }
    assert table["a"]["auroc, far"]["mean"] == pytest.approx(np.mean([area[f"a{i}"] for i in (1, 2, 3)]))
    taken = [float((probability[f"b{i}"][1] >= 0.7).mean()) for i in (4, 5, 6)]
    assert table["b"]["answered, far"] == {
        "mean": pytest.approx(np.mean(taken)), "sd": pytest.approx(np.std(taken, ddof=1)), "n": 3,
    }  # fmt: skip
    # The variance over images is that of resampled images, which all seeds share.
    rng = np.random.default_rng(0)
    drawn = []
    for _ in range(2000):
        rows = rng.integers(200, size=200), rng.integers(60, size=60)
        each = {n: fast_area(i[rows[0]], o[rows[1]]) for n, (i, o) in probability.items()}
        drawn.append(np.mean([each[f"a{i}"] for i in (1, 2, 3)]) - np.mean([each[f"b{i}"] for i in (4, 5, 6)]))
    values = [[area[n] for n in area if n[0] == g] for g in "ab"]
    spread = [np.var(v, ddof=1) / 3 for v in values]
    error = math.sqrt(sum(spread) + np.var(drawn))
    freedom = error**4 / sum(s**2 / 2 for s in spread)
    difference = np.mean(values[0]) - np.mean(values[1])
    assert found["auroc"]["test"] == "Welch t over seeds and images"
    assert found["auroc"]["difference"]["value"] == pytest.approx(difference)
    assert found["auroc"]["p"] == pytest.approx(2 * scipy.stats.t.sf(abs(difference) / error, freedom), rel=0.1)


def fast_area(inside: np.ndarray, outside: np.ndarray) -> float:
    """The rank sum of Mann and Whitney, without ties."""
    ranks = np.argsort(np.argsort(np.concatenate([inside, outside])))
    return (ranks[: len(inside)].sum() - len(inside) * (len(inside) - 1) / 2) / (len(inside) * len(outside))


def test_seeds_of_one_method_are_seldom_called_different():
    """Two groups of four seeds of the same method, each time with other images: at most one in twenty."""
    p = [of_groups([*range(8 * k, 8 * k + 4)], [*range(8 * k + 4, 8 * k + 8)], images=k)[0] for k in range(200)]
    for metric in ("auroc", "answered"):
        assert sum(each[metric]["p"] < 0.05 for each in p if metric in each) <= 18  # 0.99 of a binomial at 0.05


def test_a_single_model_is_not_compared_over_seeds():
    found, table, _ = of_groups([1], [2, 3])
    assert found == {}
    assert table["a"]["auroc, far"]["sd"] is None


NEEDED = {"n": 60, "groups": Groups("place", ["a", "b"], torch.arange(80) % 2), "risk": 0.1}


def test_every_number_that_is_compared_has_its_spread_over_images():
    """Without it the test over seeds would be of these images alone."""
    probs = torch.rand(80, 4, generator=torch.Generator().manual_seed(1)).softmax(1)
    labels, (confidence, predicted) = torch.arange(80) % 4, probs.max(dim=1)
    columns = {
        "confidence": confidence,
        "log_odds": confidence.logit(),
        "predicted": predicted,
        "rank": (predicted != labels).long(),
        "nll": -probs[torch.arange(80), labels].log(),
        "brier": torch.rand(80),
        "label": labels,
    }
    sample = Answers(columns, probs, labels, **NEEDED)
    of = [m for m in metrics() if "clean" in m.compared and m.applies(sample)]
    chosen = compared_numbers(numbers([sample], of), None)
    assert {"accuracy", "accuracy_by_class", "accuracy_by_group", "ece"} <= {name for name, _ in chosen}
    assert [name for (name, _), number in chosen.items() if number.draws is None] == []


def test_worst_classes_of_equal_methods_are_seldom_called_different():
    """Seeds are tested on the same images: by their spread alone half of such pairs were called different."""
    of, classes, images, pairs = [metric_called("accuracy_by_class")], 5, 200, 60
    labels = torch.arange(images) % classes
    generator = torch.Generator().manual_seed(0)
    called = {"Welch t over seeds and images": 0, "paired bootstrap, seeds averaged": 0}
    for _ in range(pairs):
        models, groups = {}, {"a": [], "b": []}
        for group, names in groups.items():
            right = torch.rand(images, generator=generator) < 0.8
            for seed in range(3):
                again = torch.rand(images, generator=generator) < 0.03
                own = torch.where(again, torch.rand(images, generator=generator) < 0.8, right)
                columns = {"rank": (~own).long(), "predicted": torch.where(own, labels, (labels + 1) % classes)}
                sample = Answers(columns, torch.full((images, classes), 0.2), labels, n=200)
                names.append(f"{group}-{seed}")
                models[names[-1]] = Measured(compared_numbers(numbers([sample], of), None), {"clean": own})
        for record in compare(models, groups):
            called[record["test"]] += record["p"] < 0.05
    assert max(called.values()) <= 0.1 * pairs, called

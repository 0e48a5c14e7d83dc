"""Accuracy under an attack that failed its own checks decides nothing."""

from kedge.reporting.claims import comparison
from kedge.reporting.formats import upgrade
from kedge.reporting.sections import attack, comparing
from tests.reporting import synthetic
from tests.reporting.test_text import estimate, rows_of


def attacked(*accuracies):
    """Models with these accuracies under PGD-20; the one that is best fails a check and is weaker on transfer."""
    results = synthetic.results([f"m{i}" for i in range(len(accuracies))], sets={}, corruptions=(), published=())
    for model, value in zip(results["models"].values(), accuracies, strict=True):
        pgd = {**model["attacks"]["pgd"], "accuracy": estimate(value, 0.02)}
        model["attacks"], model["sanity"] = {"PGD-20": pgd}, []
    best = results["models"][f"m{max(range(len(accuracies)), key=accuracies.__getitem__)}"]
    best["attacks"]["PGD-20: from another model"] = {**pgd, "kind": "transfer", "accuracy": estimate(0.1, 0.02)}
    best["attacks"]["wider"] = {**pgd, "eps": 16 / 255, "accuracy": estimate(0.0, 0.02)}  # another question
    best["sanity"] = [{"check": "more steps", "ok": True, "detail": ""}, {"check": "x", "ok": False, "detail": ""}]
    results["settings"]["attacks"] = ["PGD-20"]
    results["comparisons"] = []
    return results


def test_no_winner_by_an_attack_that_failed_its_checks():
    results = attacked(0.1, 0.9)
    said = dict(comparison(results))["Accuracy under PGD-20"]
    assert said == (
        "not believable: the checks of the attack failed for m1. At this strength the lowest of the attacks leaves m1 "
        "right on 10.0 % (PGD-20: from another model). Without m1: m0 10.0 %."
    )
    results["models"]["m1"]["sanity"][1]["ok"] = True
    assert dict(comparison(results))["Accuracy under PGD-20"].startswith("m1 is best")


def test_the_others_may_be_told_apart_by_an_attack_that_failed_on_one():
    said = dict(comparison(attacked(0.1, 0.9, 0.4)))["Accuracy under PGD-20"]
    assert said.startswith("not believable: the checks of the attack failed for m1.")
    assert said.endswith("Without m1: m2 is best (m2 40.0 %, m0 10.0 %).")


def test_an_attack_that_failed_its_checks_marks_no_winner():
    results = attacked(0.1, 0.9)
    group = "Under attack: PGD-20 (ℓ∞ 8/255, 1,000 images)"
    assert rows_of(results)[group, "accuracy"].best is None
    assert attack.section(upgrade(results), 0)["attacks"][0][1][0].best is None
    results["comparisons"] = [
        {"a": "m1", "b": "m0", "metric": "accuracy", "where": where, "difference": estimate(0.8, 0.1), "p": 1e-9,
         "test": "McNemar exact", "n": 1000}
        for where in ("clean", "PGD-20")
    ]  # fmt: skip
    assert [t["marked"] for t in comparing.section(upgrade(results), 0)["tests"]] == [True, False]
    results["models"]["m1"]["sanity"] = []
    assert rows_of(results)[group, "accuracy"].best == 1
    assert attack.section(upgrade(results), 0)["attacks"][0][1][0].best == 1
    assert [t["marked"] for t in comparing.section(upgrade(results), 0)["tests"]] == [True, True]

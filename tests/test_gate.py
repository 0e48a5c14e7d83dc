"""The gate: verdicts by exact intervals, against an independent computation of them; how many images would tell."""

import itertools
import json
from inspect import signature
from xml.etree import ElementTree

import pytest
from scipy.stats import binomtest

from kedge.cli import check
from kedge.gate import CRITERIA, FAIL, PASS, UNDECIDED, UNMEASURED, as_gate, measuring, overall, verdicts
from kedge.reporting.verdicts import as_json, as_junit, verdict_lines
from kedge.training import Recipe
from tests.reporting import synthetic


def results(images=100, names=("mine",), **entry):
    """Results with what a test speaks of, and nothing else."""
    models = {
        name: {"clean": None, "shift": None, "ood": {}, "attacks": {}, "selective": None, **entry} for name in names
    }
    data = {"images": images, "class_names": ["ant", "bee", "wasp"]}
    return {"data": data, "ood_sets": {}, "models": models}


def right(count, images=100):
    return results(images, clean={"accuracy": {"value": count / images, "low": 0.0, "high": 1.0}})


def only(found):
    (one,) = found
    return one


@pytest.mark.parametrize(("count", "images"), [(0, 5), (5, 5), (90, 100), (96, 100), (181, 200), (970, 1000)])
@pytest.mark.parametrize("bar", [0.5, 0.9, 0.97])
def test_an_accuracy_is_judged_by_its_exact_interval_and_not_by_the_one_in_the_results(count, images, bar):
    truth = binomtest(count, images).proportion_ci(0.95, "exact")
    one = only(verdicts(right(count, images), {"min_accuracy": bar}))
    assert (one.low, one.high) == pytest.approx((truth.low, truth.high), abs=1e-9)
    assert one.verdict == (PASS if truth.low >= bar else FAIL if truth.high < bar else UNDECIDED)


@pytest.mark.parametrize(("count", "bar"), [(93, 0.9), (97, 0.95), (85, 0.9), (50, 0.52)])
def test_as_many_images_as_are_said_would_tell_and_clearly_fewer_would_not(count, bar):
    one = only(verdicts(right(count), {"min_accuracy": bar}))
    assert one.verdict == UNDECIDED
    rate = count / 100

    def tells(images):
        low, high = binomtest(round(rate * images), images).proportion_ci(0.95, "exact")
        return low >= bar or high < bar

    assert tells(one.needed)
    assert not tells(round(0.85 * one.needed))
    assert f"about {one.needed:,} would tell" in one.sentence


def test_of_a_rate_at_the_bar_no_number_is_promised():
    one = only(verdicts(right(90), {"min_accuracy": 0.9}))
    assert (one.verdict, one.needed) == (UNDECIDED, None)
    assert "1,000,000 would be" in one.sentence


def of_classes(*counts, images=None):
    shares = [hits / n if n else None for hits, n in counts]
    clean = {"accuracy_by_class": {"images": [n for _, n in counts], "accuracy": shares}}
    return results(sum(n for _, n in counts), clean=clean)


def test_the_worst_class_passes_where_each_does_and_fails_only_if_one_does_among_all():
    counts = [(48, 50), (45, 50), (20, 30)]
    one = only(verdicts(of_classes(*counts), {"worst_class": 0.4}))
    each = [binomtest(*pair).proportion_ci(0.95, "exact") for pair in counts]
    together = [binomtest(*pair).proportion_ci(1 - 0.05 / 3, "exact") for pair in counts]
    assert one.low == pytest.approx(min(ci.low for ci in each), abs=1e-9)
    assert one.high == pytest.approx(min(ci.high for ci in together), abs=1e-9)
    assert (one.verdict, one.note, one.value) == (PASS, "class wasp", pytest.approx(2 / 3))
    assert only(verdicts(of_classes(*counts), {"worst_class": 0.95})).verdict == FAIL


def test_a_class_without_images_lets_nothing_pass_but_another_may_fail():
    assert only(verdicts(of_classes((50, 50), (50, 50), (0, 0)), {"worst_class": 0.5})).verdict == UNDECIDED
    assert only(verdicts(of_classes((50, 50), (2, 50), (0, 0)), {"worst_class": 0.5})).verdict == FAIL


def test_groups_that_are_few_count_too():
    groups = {"day": {"value": 0.9, "images": 200, "few": False}, "fog": {"value": 0.0, "images": 3, "few": True}}
    found = results(203, clean={"accuracy_by_group": {"groups": groups}})
    one = only(verdicts(found, {"worst_group": 0.8}))
    assert one.verdict != PASS
    assert one.note == "group fog"


def test_an_error_of_calibration_is_judged_by_its_own_interval():
    ece = {"value": 0.06, "low": 0.01, "high": 0.06, "corrected": 0.03}
    bars = {0.07: PASS, 0.005: FAIL, 0.05: UNDECIDED}
    for bar, verdict in bars.items():
        one = only(verdicts(results(clean={"ece": ece}), {"max_ece": bar}))
        assert (one.verdict, one.low, one.high) == (verdict, pytest.approx(0.01), pytest.approx(0.06))
    # About the error without bias, 0.03: its end above has to come 0.02 near, where it is 0.03 away.
    assert one.needed == pytest.approx(100 * (0.03 / 0.02) ** 2, rel=0.05)


def test_of_too_few_images_for_an_interval_nothing_can_be_told():
    one = only(verdicts(results(12, clean={"ece": {"value": 0.2, "low": None, "high": None}}), {"max_ece": 0.05}))
    assert (one.verdict, one.needed) == (UNDECIDED, None)
    assert "12 images are too few" in one.sentence


def test_a_coverage_at_a_risk_counts_what_is_wrong_among_the_surest():
    curve = {"coverage": [k / 200 for k in range(1, 201)], "risk": [0.01 if k <= 160 else 0.1 for k in range(1, 201)]}
    found = results(1000, selective={"curve": {"clean": curve}})
    one = only(verdicts(found, {"min_coverage": "0.8@risk0.02"}))
    truth = binomtest(8, 800).proportion_ci(0.95, "exact")
    assert (one.value, one.at, one.bar) == (pytest.approx(0.01), 0.8, 0.02)
    assert (one.low, one.high) == pytest.approx((truth.low, truth.high), abs=1e-9)
    assert (one.verdict, only(verdicts(found, {"min_coverage": "1@.02"})).verdict) == (PASS, FAIL)


def test_every_foreign_set_must_keep_to_the_bar():
    found = results(ood={"a": {"accepted": 0.02}, "b": {"accepted": 0.4}})
    found["ood_sets"] = {"a": {"images": 500}, "b": {"images": 500}}
    one = only(verdicts(found, {"max_unknown_answered": 0.1}))
    assert (one.verdict, one.note, one.value) == (FAIL, "set b", 0.4)
    assert one.high == pytest.approx(binomtest(200, 500).proportion_ci(0.95, "exact").high, abs=1e-9)
    found["models"]["mine"]["ood"]["b"]["accepted"] = None  # without a reject rule
    assert only(verdicts(found, {"max_unknown_answered": 0.1})).verdict == UNMEASURED


def test_foreign_images_are_judged_by_both_rules_of_a_model():
    shares = {"a": {"answered": {"value": 0.01}}, "b": {"answered": {"value": 0.03}}}
    found = results(ood={"a": {"accepted": 0.02}, "b": {"accepted": 0.4}}, refusal={"ood": shares})
    found["ood_sets"] = {"a": {"images": 500}, "b": {"images": 500}}
    one = only(verdicts(found, {"max_unknown_answered": 0.1}))
    assert (one.verdict, one.note, one.value) == (PASS, "set b", 0.03)
    for own in found["models"]["mine"]["ood"].values():
        own["accepted"] = None  # a rule for unknown, and no reject rule
    assert only(verdicts(found, {"max_unknown_answered": 0.1})).value == 0.03
    del shares["a"]
    assert only(verdicts(found, {"max_unknown_answered": 0.1})).verdict == UNMEASURED


def test_few_images_that_are_all_right_under_corruptions_pass_no_high_bar():
    mean = {"value": 1.0, "low": 1.0, "high": 1.0}
    one = only(verdicts(results(30, shift={"mean": {"accuracy": mean}}), {"min_corrupted_accuracy": 0.95}))
    assert one.verdict == UNDECIDED
    assert one.low == pytest.approx(binomtest(30, 30).proportion_ci(0.95, "exact").low, abs=1e-9)


def test_the_worst_attack_counts():
    attacks = {n: {"title": n, "images": 200, "accuracy": {"value": v}} for n, v in (("FGSM", 0.6), ("PGD", 0.3))}
    assert only(verdicts(results(attacks=attacks), {"min_attacked_accuracy": 0.5})).note == "attack PGD"


def test_attacks_of_one_title_are_told_apart_by_their_names_and_the_lowest_counts():
    attacks = {
        "far": {"title": "PGD-5", "images": 60, "accuracy": {"value": 16 / 60}},
        "near": {"title": "PGD-5", "images": 60, "accuracy": {"value": 21 / 60}},
        "FGSM": {"title": "FGSM", "images": 60, "accuracy": {"value": 40 / 60}},
    }
    one = only(verdicts(results(attacks=attacks), {"min_attacked_accuracy": 0.2}))
    assert (one.value, one.note, one.verdict) == (pytest.approx(16 / 60), "attack far", UNDECIDED)
    assert one.low == pytest.approx(binomtest(16, 60).proportion_ci(0.95, "exact").low, abs=1e-9)


def test_attacks_that_broke_off_and_sets_that_could_not_be_measured_pass_nothing():
    weak = {"PGD-5": {"title": "PGD-5", "images": 200, "accuracy": {"value": 0.9}}}
    broken = [{"part": "attacks", "message": "RuntimeError: no such op"}]
    assert only(verdicts(results(attacks=weak), {"min_attacked_accuracy": 0.5})).verdict == PASS
    broke = only(verdicts(results(attacks=weak, errors=broken), {"min_attacked_accuracy": 0.5}))
    assert broke.verdict == UNMEASURED
    measured = results(ood={"a": {"accepted": 0.02}}, errors=[{"part": "ood b", "message": "logits are not finite"}])
    measured["ood_sets"] = {"a": {"images": 500}, "b": {"images": 500}}
    assert only(verdicts(measured, {"max_unknown_answered": 0.1})).verdict == UNMEASURED


def test_an_attack_that_may_have_failed_lets_nothing_pass():
    """Rounded logits have no gradient: PGD leaves everything right, and the page says not to believe it."""
    attacks = {"PGD-20": {"title": "PGD-20", "images": 200, "accuracy": {"value": 0.98}}}
    checks = [{"check": "zero gradients", "ok": False, "detail": ""}, {"check": "more steps", "ok": True, "detail": ""}]
    one = only(verdicts(results(attacks=attacks, sanity=checks), {"min_attacked_accuracy": 0.5}))
    assert (one.verdict, one.needed) == (UNDECIDED, None)
    assert one.sentence.endswith("; not to be believed: checks of the attack failed (zero gradients)")
    assert "too few" not in one.sentence
    assert 'skipped="0"' in as_junit([one], undecided_passes=True)
    missed = only(verdicts(results(attacks=attacks, sanity=checks), {"min_attacked_accuracy": 0.999}))
    assert missed.verdict == FAIL  # what a stronger attack finds is lower still


def test_real_results_have_all_that_can_be_asked_and_every_model_is_judged():
    found = synthetic.results(("old", "new"))
    asked = {c.name: "0.8@risk0.05" if c.of_risk else 0.5 for c in CRITERIA if c.name != "worst_group"}
    judged = verdicts(found, asked)
    assert [(each.model, each.criterion) for each in judged] == list(itertools.product(("old", "new"), asked))
    missing = {each.criterion for each in judged if each.verdict == UNMEASURED}
    assert missing <= {"worst_class"}  # which these results do not have


def test_a_models_own_gate_holds_where_no_other_is_said():
    found = right(90)
    found["models"]["mine"]["gate"] = {"min_accuracy": 0.5}
    found["models"]["other"] = {**found["models"]["mine"], "gate": {}}
    assert [(each.model, each.bar) for each in verdicts(found)] == [("mine", 0.5)]
    assert [each.bar for each in verdicts(found, {"min_accuracy": 0.7})] == [0.7, 0.7]


@pytest.mark.parametrize(
    ("order", "verdict"),
    [
        ((PASS, FAIL, UNDECIDED), FAIL),
        ((PASS, UNDECIDED), UNDECIDED),
        ((PASS,), PASS),
        ((FAIL, UNMEASURED), UNMEASURED),
    ],
)
def test_together_they_are_as_good_as_the_worst(order, verdict):
    one = only(verdicts(right(90), {"min_accuracy": 0.5}))
    assert overall([type(one)(**{**one.to_json(), "verdict": each}) for each in order]) == verdict


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        ({"min_accurracy": 0.9}, "did you mean 'min_accuracy'|did you mean min_accuracy"),
        ({"nothing": 1}, "it has min_accuracy, worst_class"),
        ({"min_accuracy": 90}, "shares between 0 and 1, such as 0.9, not 90"),
        ({"max_ece": True}, "not True"),
        ({"max_ece": "nan"}, "not 'nan'"),
        ({"min_coverage": 0.8}, "0.8@risk0.02"),
        ({"min_coverage": "0.8@risk2"}, "not '0.8@risk2'"),
        ({"min_coverage": "0@risk0.1"}, "a coverage of 0"),
    ],
)
def test_what_is_no_bar_is_refused_in_words(gate, said):
    with pytest.raises(ValueError, match=said):
        as_gate(gate)
    with pytest.raises(ValueError, match="gate: "):
        Recipe.from_dict({"data": "digits", "gate": gate}, "my.yaml: ")


def test_a_recipe_carries_its_gate_and_the_table_is_the_flags():
    gate = {"min_accuracy": 0.9, "min_coverage": "0.8@risk0.02"}
    recipe = Recipe.from_dict({"data": "digits", "gate": gate})
    assert recipe.gate == gate
    assert "min_coverage: 0.8@risk0.02" in recipe.to_yaml()
    flags = [name for name in signature(check.run).parameters if name.startswith(("min_", "max_", "worst_"))]
    assert sorted(flags) == sorted(criterion.name for criterion in CRITERIA)
    assert measuring({"worst_group": 0.5, "min_corrupted_accuracy": 0.5, "max_corrupted_ece": 0.1}) == (
        "--groups WAY --shift corruptions"
    )


def judged_three():
    clean = {"accuracy": {"value": 0.93}, "ece": {"value": 0.2, "low": 0.15, "high": 0.25, "corrected": 0.2}}
    counts = {"images": [40, 40, 20], "accuracy": [1.0, 1.0, 0.65]}
    found = results(100, ("a<b>\x1b",), clean={**clean, "accuracy_by_class": counts})
    return verdicts(found, {"min_accuracy": 0.8, "max_ece": 0.05, "worst_class": 0.7})


@pytest.mark.parametrize(("lenient", "errors", "skipped"), [(False, "1", "0"), (True, "0", "1")])
def test_junit_says_what_passed_failed_and_cannot_be_told(lenient, errors, skipped):
    root = ElementTree.fromstring(as_junit(judged_three(), lenient))  # our own text
    suite = only(root)
    assert suite.get("name") == r"a<b>\x1b"
    assert {k: suite.get(k) for k in ("tests", "failures", "errors", "skipped")} == {
        "tests": "3", "failures": "1", "errors": errors, "skipped": skipped,
    }  # fmt: skip
    kinds = {case.get("name"): [child.tag for child in case] for case in suite}
    assert kinds["min_accuracy"] == ["system-out"]
    assert kinds["max_ece"] == ["failure", "system-out"]
    assert kinds["worst_class"] == ["skipped" if lenient else "error", "system-out"]


def test_json_and_lines_say_the_same():
    judged = judged_three()
    read = json.loads(json.dumps(as_json(judged, "results.json", 1), allow_nan=False))
    assert (read["verdict"], read["exit_status"], len(read["criteria"])) == ("fail", 1, 3)
    lines = verdict_lines(judged)
    assert lines[-1].startswith("fail: ")
    assert all(each["sentence"] in "\n".join(lines) for each in read["criteria"])


@pytest.mark.parametrize(
    ("asked", "words"), [("0.9999", "99.99 %"), ("0.9", "90 %"), ("0.12345", "12.345 %"), ("1", "100 %")]
)
def test_a_bar_is_said_with_all_the_digits_that_were_asked_for(asked, words):
    assert f"at least {words} is asked" in only(verdicts(right(99), {"min_accuracy": asked})).sentence
    assert f"surest {words} of answers" in only(verdicts(right(99), {"min_coverage": f"{asked}@risk0.1"})).sentence

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedge.reporting.claims import compared, comparison, holm, settled
from kedge.reporting.formats import upgrade
from kedge.reporting.sections.calibration import leaning, overconfidence
from kedge.reporting.summary import about
from tests.reporting import synthetic
from tests.reporting.test_text import estimate

CLEAN = "Accuracy on clean images"


def between(accuracies, reach=0.01, tests=()):
    results = synthetic.results([f"m{i}" for i in range(len(accuracies))], attacks=False, thumbnails=0)
    for model, value in zip(results["models"].values(), accuracies, strict=True):
        model["clean"]["accuracy"] = estimate(value, reach)
    results["comparisons"] = [
        {"a": a, "b": b, "metric": "accuracy", "where": "clean", "difference": estimate(d, 0.01), "p": p,
         "test": "McNemar exact", "n": 100}
        for a, b, d, p in tests
    ]  # fmt: skip
    return dict(comparison(results))[CLEAN]


def test_sentences_claim_no_more_than_the_intervals():
    assert between([0.9, 0.8]) == "m0 is best (m0 90.0 %, m1 80.0 %)."
    assert between([0.9, 0.89]) == "too close to call (m0 90.0 %, m1 89.0 %)."
    assert "no difference is claimed" in between([0.9, 0.8], None)
    assert between([0.9, 0.5, 0.895]).startswith("m1 is behind")


def test_the_second_of_three_is_said_to_be_ahead_of_the_third():
    assert between([0.9, 0.8, 0.7]) == "m0 is best (m0 90.0 %, m1 80.0 %, m2 70.0 %); m1 is ahead of m2."
    assert between([0.9, 0.89, 0.87], 0.008).endswith("m2 is behind (m0 90.0 %, m1 89.0 %, m2 87.0 %); the others are "
                                                      "too close to call.")  # fmt: skip
    said = between([0.9, 0.89, 0.88], 0.008)
    assert said == "too close to call (m0 90.0 %, m1 89.0 %, m2 88.0 %), except that m0 is ahead of m2."
    tests = [("m0", "m1", 0.1, 1e-4), ("m0", "m2", 0.2, 1e-4), ("m1", "m2", 0.1, 1e-4)]
    assert between([0.9, 0.8, 0.7], tests=tests).endswith("; m1 is ahead of m2.")


def test_calibration_errors_of_earlier_results_are_not_judged():
    error = "Calibration error on clean images"
    results = synthetic.results(("m0", "m1"), attacks=False, thumbnails=0)
    assert "not judged" not in dict(comparison(results))[error]
    for model in results["models"].values():
        del model["clean"]["ece"]["corrected"]
    assert "evaluate again" in dict(comparison(results))[error]


def test_a_verdict_needs_the_reported_errors_to_agree():
    error = "Calibration error on clean images"
    results = synthetic.results(("m0", "m1"), attacks=False, thumbnails=0)
    test = {"a": "m0", "b": "m1", "metric": "ece", "where": "clean", "p": 0.001, "test": "bootstrap",
            "difference": {"value": -0.03, "low": -0.04, "high": -0.02}, "reported": -0.02, "n": 100}  # fmt: skip
    for model, value in zip(results["models"].values(), (0.01, 0.03), strict=True):
        model["clean"]["ece"] |= {"value": value}
    results["comparisons"] = [test]
    assert dict(comparison(results))[error].startswith("m0 is best")
    results["comparisons"] = [{**test, "reported": 0.001}]
    assert dict(comparison(results))[error].startswith("too close to call")


def test_a_paired_test_goes_before_intervals():
    said = between([0.9, 0.895], tests=[("m0", "m1", 0.005, 0.001)])
    assert said == "m0 is best (m0 90.0 %, m1 89.5 %; McNemar exact, p = 0.001)."
    turned = between([0.9, 0.895], tests=[("m1", "m0", -0.005, 0.001)])
    assert turned == said
    assert between([0.9, 0.8], tests=[("m0", "m1", 0.1, 0.2)]).startswith("too close to call")
    # A test for one pair of three does not decide among three.
    assert "McNemar" not in between([0.9, 0.8, 0.5], tests=[("m0", "m1", 0.1, 1e-9)])


def test_several_tests_are_corrected_for_their_number():
    tests = [("m0", "m1", 0.01, 0.03), ("m0", "m2", 0.01, 0.03), ("m1", "m2", 0.0, 0.9)]
    assert between([0.9, 0.89, 0.89], tests=tests).startswith("too close to call")
    tests = [("m0", "m1", 0.01, 0.01), ("m0", "m2", 0.01, 0.01), ("m1", "m2", 0.0, 0.9)]
    assert between([0.9, 0.89, 0.89], tests=tests).startswith("m0 is best")


def test_holm_against_its_definition_by_hand():
    # Sorted .005, .01, .03, .04 times 4, 3, 2, 1, made monotone: .02, .03, .06, .06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([None, 0.5]) == [None, 0.5]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_raises_never_lowers_and_keeps_the_order(p):
    adjusted = holm(p)
    assert all(p_ <= a <= 1 for p_, a in zip(p, adjusted, strict=True))
    order = sorted(range(len(p)), key=p.__getitem__)
    assert [adjusted[i] for i in order] == sorted(adjusted)


def test_correction_is_within_one_question(three):
    assert len(compared(three)) == len(three["comparisons"])
    assert all(t["adjusted"] == pytest.approx(0.006) for t in compared(three))  # two pairs, two questions


def test_methods_with_seeds_are_compared_over_seeds():
    results = synthetic.results(("a1", "a2", "b1", "b2"), groups=True)
    results["comparisons"] = [
        {"a": "first", "b": "second", "metric": "accuracy", "where": "clean", "difference": estimate(0.02, 0.1),
         "p": p, "test": test, "n": 4}
        for p, test in ((0.001, "paired bootstrap, seeds averaged"), (0.3, "Welch t over seeds"))
    ]  # fmt: skip
    results["group_table"]["second"]["accuracy, clean"]["mean"] = 0.89
    said = dict(comparison(results))
    assert said["Accuracy, clean images, mean over seeds"] == (
        "too close to call (first 91.0 %, second 89.0 %; Welch t over seeds, p = 0.300)."
    )
    results["comparisons"][1]["p"] = 0.01
    assert dict(comparison(results))["Accuracy, clean images, mean over seeds"].startswith("first is best")


def test_methods_are_compared_on_images_of_other_kinds():
    results = synthetic.results(("a1", "a2", "b1", "b2"), groups=True)
    name = next(iter(results["ood_sets"]))
    for group, (area, taken) in {"first": (0.97, 0.2), "second": (0.98, 0.1)}.items():
        for metric, value in (("auroc", area), ("answered", taken)):
            results["group_table"][group][f"{metric}, {name}"] = {"mean": value, "sd": 0.01, "n": 2}
    results["comparisons"] = [
        {"a": "first", "b": "second", "metric": metric, "where": name, "difference": estimate(value, value),
         "p": p, "test": "Welch t over seeds and images", "n": 4}
        for metric, value, p in (("auroc", -0.01, 0.2), ("answered", 0.1, 0.01))
    ]  # fmt: skip
    said = dict(comparison(results))
    assert said[f"AUROC by confidence, {name}, mean over seeds"] == (
        "too close to call (second 98.0 %, first 97.0 %; Welch t over seeds and images, p = 0.200)."
    )
    assert said[f"Answered above the stored threshold, {name}, mean over seeds"] == (  # of these fewer is better
        "second is best (second 10.0 %, first 20.0 %; Welch t over seeds and images, p = 0.010)."
    )


def test_words_about_one_model(one, bare):
    assert comparison(one) == []
    said = " ".join(about("only", one["models"]["only"], one))
    for words in ("95 % interval", "On corrupted images", "a near set (cifar100)", "times in 100 (50 is guessing)",
                  "Under the strongest of 2 attacks tried (PGD-20, ℓ∞ 8/255)", "can only find less",
                  "wrong on at most 5 %", "stored confidence threshold of 0.61"):  # fmt: skip
        assert words in said
    assert len(about("only", bare["models"]["only"], upgrade(bare))) == 3


def test_guessing_and_worse_than_guessing_are_called_so(one):
    results = copy.deepcopy(one)
    area = results["models"]["only"]["ood_groups"]["near"]["msp"]
    area["auroc"] = estimate(0.52, 0.05)
    assert "cannot be told from guessing" in " ".join(about("only", results["models"]["only"], results))
    area["auroc"] = estimate(0.3, 0.05)
    assert "worse than guessing" in " ".join(about("only", results["models"]["only"], results))


def test_doubts_about_an_attack_are_said(three):
    name, model = list(three["models"].items())[2]
    assert "not to be believed" in " ".join(about(name, model, three))


def test_failed_models_have_words_too(partial):
    results = upgrade(partial)
    said = about("hardly", results["models"]["hardly"], results)
    assert said[-1] == "hardly has no results on clean images."
    assert "not finite" in said[0]


def test_leaning():
    diagram = {"count": [0, 10, 30], "confidence": [None, 0.5, 0.9], "accuracy": [None, 0.4, 0.7]}
    assert overconfidence(diagram) == pytest.approx(0.175)
    assert leaning(diagram, 40) == ", too sure of itself on average"
    assert leaning(diagram, 10).startswith(", neither")  # 17.5 points are within the chance of ten images, 30
    assert "calibrated model may" in leaning(diagram, 40, {"value": 0.175, "low": 0.0, "high": 0.2})
    assert leaning(diagram, 40, {"value": 0.175, "low": 0.1, "high": 0.2}) == ", too sure of itself on average"
    cautious = {"count": [400], "confidence": [0.5], "accuracy": [0.6]}
    assert leaning(cautious, 400) == ", too cautious on average"
    assert leaning(None, 40) == leaning({"count": [0], "confidence": [None], "accuracy": [None]}, 40) == ""


def test_a_model_without_a_number_does_not_silence_the_others(partial):
    said = dict(comparison(partial))[CLEAN]
    assert "whole" in said
    assert said.endswith("No number for hardly.")


def test_what_a_claim_is_worth_is_less_between_groups_of_other_numbers_of_seeds():
    assert "at most one of twenty" in settled({"a": ["a1", "a2"], "b": ["b1", "b2"]})
    assert "different numbers of seeds" not in settled({"a": ["a1", "a2"], "b": ["b1", "b2"]})
    assert settled({"a": ["a1", "a2"], "b": ["b1", "b2", "b3"]}).endswith("it may be one in nine.")

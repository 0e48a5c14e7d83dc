import numpy as np
import pytest
from scipy import stats

from kedge.experiments.comparing import comparison, mean_interval, verdict, welch_interval
from kedge.experiments.experiment import Experiment


def records(values):
    return {seed: {"measures": {"clean accuracy": value}} for seed, value in enumerate(values)}


def test_intervals_are_those_of_scipy():
    rng = np.random.default_rng(0)
    a, b = rng.normal(70, 2, 5).tolist(), rng.normal(72, 1, 3).tolist()
    wanted = stats.ttest_1samp(a, 0).confidence_interval()
    assert mean_interval(a) == pytest.approx((wanted.low, wanted.high))
    wanted = stats.ttest_ind(a, b, equal_var=False).confidence_interval()
    assert welch_interval(a, b) == pytest.approx((wanted.low, wanted.high))
    assert mean_interval([1.0]) is None
    assert welch_interval(a, [1.0]) is None
    assert welch_interval([2.0, 2.0], [1.0, 1.0]) == (1.0, 1.0)


def test_rows_gains_and_contrasts(experiment):
    ours = {"standard": [80.0, 82.0, 84.0], "masked": [90.0, 91.0, 92.0]}
    found = comparison(experiment, ["standard", "masked"], {name: records(v) for name, v in ours.items()})
    standard, masked = found["rows"]
    assert standard["measure"] == "clean accuracy"
    assert (standard["paper"], standard["ours"], standard["sd"], standard["seeds"]) == (90, 82.0, 2.0, 3)
    assert standard["difference"] == -8.0
    low, high = stats.ttest_1samp(ours["standard"], 90).confidence_interval()
    assert standard["difference_interval"] == pytest.approx([low - 90, high - 90])
    assert masked["paper"] == 95.5
    (gain,) = found["gains"]
    assert (gain["paper"], gain["difference"]) == (5.5, 9.0)
    wanted = stats.ttest_ind(ours["masked"], ours["standard"], equal_var=False).confidence_interval()
    assert gain["interval"] == pytest.approx([wanted.low, wanted.high])
    assert gain["verdict"] == "better, as in the paper"  # 5.5 lies in 9 ± 3.7
    (contrast,) = found["contrasts"]
    assert contrast["question"] == "Does masking help?"
    assert contrast["measures"][0]["difference"] == 9.0


def test_what_was_not_measured_is_left_out(experiment):
    found = comparison(experiment, ["standard", "masked"], {"standard": records([80.0])})
    assert [row["variant"] for row in found["rows"]] == ["standard"]
    assert found["rows"][0]["difference_interval"] is None
    assert found["gains"] == found["contrasts"] == []


@pytest.mark.parametrize(
    ("difference", "interval", "paper", "higher", "words"),
    [
        (1.0, None, 2.0, True, "one seed: no telling"),
        (1.0, [-1.0, 3.0], 2.0, True, "not resolved"),
        (0.1, [-0.8, 1.0], 4.4, True, "not resolved, less than in the paper"),
        (1.0, [0.5, 1.5], None, True, "better"),
        (1.0, [0.5, 1.5], None, False, "worse"),
        (0.5, [0.1, 0.9], -0.01, True, "better"),  # what the paper's plots cannot tell
        (5.0, [4.0, 6.0], 5.2, True, "better, as in the paper"),
        (0.6, [0.1, 1.1], 4.4, True, "better, less than in the paper"),
        (9.0, [8.0, 10.0], 4.4, True, "better, more than in the paper"),
        (-1.0, [-1.5, -0.5], 5.2, True, "worse, where the paper's is better"),
        (-1.0, [-1.5, -0.5], -1.2, False, "better, as in the paper"),
        (1.0, [1.0, 1.0], None, True, "not resolved"),  # seeds that agree exactly
        (1.0, [1.0, 1.0 + 1e-14], 4.4, True, "not resolved"),
        (0.0, [0.0, 0.0], None, True, "not resolved"),
    ],
)
def test_verdicts(difference, interval, paper, higher, words):
    assert verdict(difference, interval, paper, higher) == words


def test_a_calibration_error_is_judged_without_its_bias(experiment):
    """Reported errors that differ over seeds, of variants whose errors without bias do not."""

    def with_errors(reported, corrected):
        return {
            seed: {"measures": {"clean ECE": r}, **({} if c is None else {"corrected": {"clean ECE": c}})}
            for seed, (r, c) in enumerate(zip(reported, corrected, strict=True))
        }

    one = with_errors([2.0, 2.1, 2.2], [0.1, -0.2, 0.1])
    other = with_errors([0.5, 0.6, 0.7], [0.2, -0.1, 0.0])
    (gain,) = comparison(experiment, ["standard", "masked"], {"standard": one, "masked": other})["gains"]
    assert gain["difference"] == pytest.approx(-1.5)
    assert gain["interval"][1] < 0
    wanted = stats.ttest_ind([0.2, -0.1, 0.0], [0.1, -0.2, 0.1], equal_var=False).confidence_interval()
    assert gain["corrected"]["interval"] == pytest.approx([wanted.low, wanted.high])
    assert gain["verdict"].startswith("not resolved")
    clear = with_errors([2.0, 2.1, 2.2], [1.9, 2.0, 2.1])
    (gain,) = comparison(experiment, ["standard", "masked"], {"standard": clear, "masked": other})["gains"]
    assert gain["verdict"].startswith("better")
    old = with_errors([2.0, 2.1, 2.2], [None] * 3)
    (gain,) = comparison(experiment, ["standard", "masked"], {"standard": old, "masked": other})["gains"]
    assert gain["verdict"].startswith("not judged")


def test_what_shares_a_run_is_compared_seed_by_seed(values):
    """Seeds move both together: as independent ones a small, steady gain would never show."""
    values["variants"]["longer"] = {"after": "standard", "lr": 0.01}
    values["contrasts"] = {"More?": ["longer", "standard"], "References?": ["masked-4", "masked"]}
    experiment = Experiment.from_dict(values, "small")
    assert [experiment.root(name) for name in experiment.variants] == ["standard", "masked", "masked", "standard"]
    own = {
        "standard": records([80.0, 84.0, 82.0]),
        "longer": records([81.0, 84.8, 83.1]),
        "masked": records([90.0, 91.0, 92.0]),
        "masked-4": {seed: record for seed, record in records([0.0, 91.5, 92.6, 95.0]).items() if seed},
    }
    for record in [record for each in own.values() for record in each.values()]:
        record["corrected"] = {}
    more, references = (c["measures"][0] for c in comparison(experiment, list(own), own)["contrasts"])
    wanted = stats.ttest_1samp([1.0, 0.8, 1.1], 0).confidence_interval()
    assert more["interval"] == pytest.approx([wanted.low, wanted.high])
    assert (more["paired"], more["verdict"]) == (True, "better")
    assert references["difference"] == pytest.approx(0.55)  # of seeds 1 and 2, which both have
    assert references["seeds"] == 2
    wanted = stats.ttest_1samp([0.5, 0.6], 0).confidence_interval()
    assert references["interval"] == pytest.approx([wanted.low, wanted.high])


def test_seeds_that_agree_exactly_have_no_interval(experiment):
    (row,) = comparison(experiment, ["standard"], {"standard": records([80.0, 80.0])})["rows"]
    assert (row["sd"], row["interval"], row["difference_interval"]) == (0.0, None, None)

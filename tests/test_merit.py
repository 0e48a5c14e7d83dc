"""The figure of merit of cifar10-better, on made-up runs."""

import pytest
from benchmarks.merit import judged


def run(seed, clean, corrupted, error):
    measures = {"clean accuracy": clean, "corrupted accuracy": corrupted, "corrupted smooth ECE": error}
    return {"seed": seed, "measures": measures}


def test_variants_are_compared_over_the_seeds_that_both_have():
    """Seed 1 is a hard one: a variant that ran with it alone is not worse for that."""
    results = {
        "variants": {
            "masked-label": {"runs": [run(0, 84.0, 66.0, 12.0), run(1, 82.0, 64.0, 14.0)]},
            "pixmix": {"runs": [run(1, 81.8, 68.0, 10.0)]},
            "mixup": {"runs": [run(0, 83.4, 66.0, 12.0), run(1, 81.4, 64.0, 14.0)]},
        }
    }
    rows = {row["variant"]: row for row in judged(results)}
    assert rows["pixmix"]["difference"] == pytest.approx(4.0)
    assert rows["pixmix"]["eligible"]  # 0.2 below at seed 1, 1.2 below the mean over both
    assert not rows["mixup"]["eligible"]
    assert rows["masked-label"]["eligible"]


def test_a_run_without_one_of_the_measures_is_left_out():
    lacking = {"seed": 1, "measures": {"clean accuracy": 99.0}}
    results = {
        "variants": {"masked-label": {"runs": [run(0, 84.0, 66.0, 12.0), lacking]}, "mixup": {"runs": [lacking]}},
    }
    (row,) = judged(results)
    assert (row["variant"], row["seeds"], row["merit"]) == ("masked-label", [0], pytest.approx(77.0))


def test_the_first_row_is_the_best_eligible_one_over_common_seeds():
    results = {
        "variants": {
            "masked-label": {"runs": [run(0, 84, 66, 12), run(1, 82, 64, 14), run(2, 82, 64, 14)]},
            "ramped": {"runs": [run(0, 84, 65.6, 12.2)]},  # 0.3 below at the easy seed, the only one it has
            "mixup": {"runs": [run(seed, 78, 70, 8) for seed in (0, 1, 2)]},  # 4.7 below in clean accuracy
            "blurred": {"runs": [run(0, 84.2, 66.4, 11.6), run(1, 82.2, 64.4, 13.6), run(2, 82.2, 64.4, 13.6)]},
            "pixmix": {"runs": [run(100, 60, 90, 5)]},  # no seed in common: nothing is known of it
            "standard-longer": {"runs": [run(0, 85, 60, 30)]},
            "masked-label-longer": {"runs": [run(0, 84, 67, 12)]},
        }
    }
    rows = judged(results)
    names = [row["variant"] for row in rows]
    assert names[:4] == ["masked-label-longer", "blurred", "masked-label", "ramped"]
    assert [row["variant"] for row in rows if not row["eligible"]] == ["mixup", "pixmix"]
    over = {row["variant"]: row["over"] for row in rows}
    assert over["standard-longer"] == "masked-label-longer"  # as long

"""What the pages say that `kedge quickstart` gives is what was measured, and holds elsewhere."""

import json
import re
import statistics
from pathlib import Path

import pytest
import scipy.stats
from benchmarks.quickstart import (
    MEASURES,
    PAGES,
    RESULT,
    STANDARD,
    check,
    default_variant,
    filled,
    limits,
    outside_limits,
    passage,
)

from kedge.cli.quickstart import SEEDS

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def record():
    return json.loads(RESULT.read_text(encoding="utf-8"))


def table_of(record, runs: str, seeds=None) -> dict:
    """As in the results of a quickstart, from the runs of the record."""
    table = {}
    for group, variant in ((STANDARD, STANDARD), ("anchored", default_variant(record))):
        found = [r["measures"] for r in record["variants"][variant][runs] if seeds is None or r["seed"] in seeds]
        assert len(found) == SEEDS
        table[group] = {key: {"mean": statistics.fmean(run[key] for run in found) / 100} for key in MEASURES}
    return table


@pytest.mark.parametrize("page", PAGES)
def test_the_pages_have_the_numbers_that_were_measured(record, page):
    text = (ROOT / page).read_text(encoding="utf-8")
    assert filled(text, passage(record)) == text, "python -m benchmarks.quickstart --text"


def test_the_limits_are_prediction_intervals_of_a_mean(record):
    assert record["seeds_of_a_quickstart"] == SEEDS
    for name, variant in record["variants"].items():
        runs = [run["measures"] for run in [*variant["runs"], *variant["elsewhere"]]]
        assert record["limits"][name] == limits(runs)
        for key, (low, high) in record["limits"][name].items():
            values = [run[key] for run in runs]
            scale = statistics.stdev(values) * (1 / SEEDS + 1 / len(values)) ** 0.5
            # Five measures at once in 19 of 20 cases: one alone in 99 of 100.
            ends = scipy.stats.t.interval(0.99, len(values) - 1, statistics.fmean(values), scale)
            assert low == pytest.approx(max(0, ends[0]), abs=0.1)
            assert high == pytest.approx(min(100, ends[1]), abs=0.1)
            assert low <= max(0, ends[0])
            assert high >= min(100, ends[1])


def test_limits_hold_the_means_of_new_groups_as_often_as_they_say():
    rng = scipy.stats.norm(90, 2)
    held = []
    for seed in range(400):
        drawn = rng.rvs((12 + SEEDS, len(MEASURES)), random_state=seed)
        first = limits([dict(zip(MEASURES, row, strict=True)) for row in drawn[:12]])
        means = drawn[12:].mean(axis=0)
        held.append(all(low <= mean <= high for mean, (low, high) in zip(means, first.values(), strict=True)))
    assert 0.92 <= statistics.fmean(held) <= 0.99


def known_by(record, known) -> dict:
    """The record with limits of the runs that `known` lets in."""
    own = {n: [run["measures"] for run in v["runs"] if known(run["seed"])] for n, v in record["variants"].items()}
    return {**record, "limits": {name: limits(runs) for name, runs in own.items()}}


def test_limits_that_do_not_know_them_hold_other_seeds_and_kernels(record):
    """Of 20 means one in a hundred each is to be missed: two or more would be by a chance of 2 %.

    One is: a standard training with other kernels went astray (79.8 % under noise and blur). The limits of the pages
    are of all trainings, that one too, and so are wider.
    """
    seeds = outside_limits(known_by(record, lambda seed: seed < 100), table_of(record, "runs", range(100, 100 + SEEDS)))
    kernels = outside_limits(known_by(record, lambda seed: True), table_of(record, "elsewhere"))
    assert seeds == []
    assert len(kernels) <= 1
    assert outside_limits(record, table_of(record, "elsewhere")) == []


def test_seeds_of_one_method_are_seldom_called_different(record):
    """Over all ways to split eight trainings of a method in two: one in twenty, though no image is counted."""
    shares = [share for variant in record["called_different"].values() for share in variant.values()]
    assert statistics.fmean(shares) <= 0.05


def test_a_mean_outside_of_the_limits_is_said(record, capsys):
    table = table_of(record, "elsewhere")
    assert check(record, {"group_table": table}) == 0
    table["anchored"]["accuracy, clean"]["mean"] = 0.5
    assert check(record, {"group_table": table}) == 1
    assert re.search(r"anchored, accuracy on clean digits: 50.00 is not within \d", capsys.readouterr().out)


def test_a_page_without_marks_is_an_error():
    with pytest.raises(LookupError, match="no marks"):
        filled("nothing", "numbers")

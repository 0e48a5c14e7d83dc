"""Tests that relabel two samples, and Newcombe's interval: against enumeration, scipy and the published example."""

from itertools import combinations

import pytest
import torch

from kedge.metrics._two_samples import (
    _ranks,
    joint_test,
    mean_rank_tests,
    relabellings,
    share_difference_interval,
    share_tests,
)


def test_relabellings_are_of_the_sizes_and_the_seed():
    rows = torch.cat(list(relabellings(5, 3, 200, 0)))
    assert rows.shape == (200, 8)
    assert (rows.sum(1) == 3).all()
    assert rows.mean(0).sub(3 / 8).abs().max() < 0.15  # each item as often as any other
    assert torch.equal(rows, torch.cat(list(relabellings(5, 3, 200, 0))))
    assert not torch.equal(rows, torch.cat(list(relabellings(5, 3, 200, 1))))


def test_the_joint_test_is_the_enumeration_of_all_relabellings():
    draws = torch.Generator().manual_seed(0)
    pooled = torch.randn(9, 2, generator=draws)
    pooled[6:] += 0.9
    middle = pooled.mean(0)
    observed = (pooled[6:].mean(0) - middle).square().sum()
    every = [(pooled[list(each)].mean(0) - middle).square().sum() for each in combinations(range(9), 3)]
    exact = sum(float(value >= observed * (1 - 1e-6)) for value in every) / len(every)
    assert 0.02 < exact < 0.9
    assert joint_test(pooled, 6, 3, n=20_000) == pytest.approx(exact, abs=0.012)


def test_ranks_are_those_of_scipy_with_ties():
    stats = pytest.importorskip("scipy.stats")
    values = torch.randint(5, (40, 3), generator=torch.Generator().manual_seed(0)).float()
    expected = torch.from_numpy(stats.rankdata(values.numpy(), axis=0) - 1).float()
    torch.testing.assert_close(_ranks(values), expected)


def test_under_no_difference_any_p_of_many_columns_is_small_as_seldom_as_it_says():
    draws, alarms, joint = torch.Generator().manual_seed(0), 0, 0
    for trial in range(300):
        common = torch.randn(50, 1, generator=draws)
        values = common + 0.5 * torch.randn(50, 12, generator=draws)  # columns that hang together
        alarms += bool((mean_rank_tests(values[:30], values[30:], n=99, seed=trial) <= 0.1).any())
        joint += joint_test(values, 30, 20, n=99, seed=trial) <= 0.1
    for count in (alarms, joint):
        assert 14 <= count <= 48  # of 300 at 10 %: 30, within 3.5 standard deviations


def test_a_change_in_one_column_is_that_columns():
    draws = torch.Generator().manual_seed(0)
    first, second = (torch.randn(80, 5, generator=draws) for _ in range(2))
    second[:, 2] += 1
    first[:, 4] = second[:, 4] = 3.0  # never varies
    p = mean_rank_tests(first, second, n=499)
    assert p[2] == pytest.approx(1 / 500)
    assert (p[[0, 1, 3]] > 0.05).all()
    assert p[4] == 1


def test_shares_of_classes_against_the_chi_square_of_scipy():
    stats = pytest.importorskip("scipy.stats")
    first = torch.tensor([0] * 60 + [1] * 40 + [2] * 20)
    second = torch.tensor([0] * 40 + [1] * 45 + [2] * 15)
    overall, each = share_tests(first, second, 4, n=4999)
    expected = stats.chi2_contingency([[60, 40, 20], [40, 45, 15]]).pvalue
    assert overall == pytest.approx(expected, abs=0.03)
    assert each[3] == 1  # predicted by neither
    assert each.argmin() == 1  # 33 % and 45 %


def test_the_published_example_of_newcombe():
    # Newcombe (1998), table II, example (a): 56/70 less 48/80, method 10.
    low, high = share_difference_interval(48, 80, 56, 70)
    assert (low, high) == pytest.approx((0.0524, 0.3339), abs=5e-5)
    # Example (h): 10/10 less 0/10.
    assert share_difference_interval(0, 10, 10, 10) == pytest.approx((0.6075, 1.0), abs=5e-5)

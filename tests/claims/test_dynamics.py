"""What the claims about training dynamics compute, against values by hand."""

import pytest
import torch

from kedge.claims.lazy_to_rich import LazyToRich
from kedge.claims.matching_trajectories import remaining
from kedge.claims.xor_clusters import _answers, _drawn, _signs


def test_what_is_left_of_a_way():
    """1 where nothing moved, 0 at its end, a quarter half way, whatever the size of the weights."""
    draws = torch.Generator().manual_seed(0)
    start, end = ({"a": torch.randn(3, 2, generator=draws), "b": torch.randn(4, generator=draws)} for _ in range(2))
    half = {name: (start[name] + end[name]) / 2 for name in start}
    assert float(remaining(start, start, end)) == pytest.approx(1)
    assert float(remaining(end, start, end)) == 0
    assert float(remaining(half, start, end)) == pytest.approx(0.25)
    scaled = [{name: 7 * value for name, value in each.items()} for each in (half, start, end)]
    assert float(remaining(*scaled)) == pytest.approx(0.25)


def test_points_of_xor_clusters():
    centres = 40 * torch.eye(2, 10_000)
    points, labels = _drawn(centres, 200, 0, "train")
    assert labels.unique(return_counts=True)[1].tolist() == [100, 100]
    first, second = points[:, 0] / 40, points[:, 1] / 40
    assert torch.equal(labels, torch.where(first.abs() > second.abs(), 1.0, -1.0))
    assert float(first[labels > 0].mean()) == pytest.approx(0, abs=0.02)  # as many at either end: no line tells them
    assert float(first[labels > 0].abs().mean()) == pytest.approx(1, abs=0.02)
    # Four units along the centres answer as they should.
    weights, outer = torch.cat([centres, -centres]), torch.tensor([1.0, -1.0, 1.0, -1.0])
    assert torch.equal(_answers("two layers", weights, outer, points), labels)
    assert float(_signs(0).sum()) == 0


def test_a_network_in_the_rich_regime_learns_at_once():
    values = LazyToRich().run("α 0.25", 50)
    assert values["learnt"] < values["grokked"] < 1000
    assert values["least test error"] < 10

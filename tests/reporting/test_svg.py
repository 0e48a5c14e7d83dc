import itertools
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedge.reporting.svg import Plot, svg, thin, ticks

reals = st.floats(-1e6, 1e6, allow_nan=False)


@given(reals, st.floats(1e-3, 1e6), st.integers(1, 10))
def test_ticks_are_inside_even_and_few(low, span, most):
    high = low + span
    found = ticks(low, high, most)
    assert len(found) <= most + 1
    assert all(low - 1e-6 * span <= t <= high + 1e-6 * span for t in found)
    if len(found) > 2:
        steps = [b - a for a, b in itertools.pairwise(found)]
        assert max(steps) == pytest.approx(min(steps), rel=1e-6, abs=1e-9)


def test_ticks_are_round():
    assert ticks(0, 1, 5) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1])
    assert ticks(0, 100, 4) == [0, 50, 100]
    assert ticks(3, 3) == [3]


@given(st.lists(st.tuples(reals, reals), min_size=1, max_size=20), st.integers(0, 13))
def test_everything_drawn_is_inside_the_picture(points, i):
    plot = Plot((-10, 10), (0, 5), "x", "y", width=200, height=100)
    x, y = zip(*points, strict=True)
    plot.line(x, y, i)
    plot.band(x, y, y, i)
    text = svg(plot)
    ElementTree.fromstring(text)
    for path in re.findall(r'class="[la][^"]*" d="M([^"z]*)', text):
        for point in path.split("L"):
            across, down = map(float, point.split())
            assert 0 <= across <= 200
            assert 0 <= down <= 100


def test_up_is_more():
    plot = Plot((0, 1), (0, 1))
    plot.line([0, 1], [0, 1], 0, marks=0)
    (path,) = re.findall(r'class="l k0" d="M([^"]*)"', svg(plot))
    (x0, y0), (x1, y1) = (map(float, p.split()) for p in path.split("L"))
    assert x0 < x1
    assert y0 > y1


@given(st.lists(reals, min_size=1, max_size=500), st.integers(2, 100))
def test_thinned_curves_keep_their_ends(values, most):
    x, y = thin(list(range(len(values))), values, most)
    assert (x[0], x[-1]) == (0, len(values) - 1)
    assert (y[0], y[-1]) == (values[0], values[-1])
    assert len(x) <= most + 1

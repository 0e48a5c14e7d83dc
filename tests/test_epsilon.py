import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kedge.epsilon import check_epsilon, parse_epsilon, print_epsilon


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("8/255", Fraction(8, 255)),
        ("7.5/255", Fraction(15, 510)),
        (" 8 / 255 ", Fraction(8, 255)),
        ("0.15", Fraction(15, 100)),
        (".15", Fraction(15, 100)),
        ("1e-2", Fraction(1, 100)),
        ("1e0/255", Fraction(1, 255)),
        ("0", Fraction(0)),
        (0.15, Fraction(15, 100)),
        (1, Fraction(1)),
    ],
)
def test_every_way_to_write_a_radius_is_the_nearest_float(text, value):
    assert parse_epsilon(text) == float(value)


@pytest.mark.parametrize(
    "bad", ["eight", "8/0", "", "8/", "/255", "8/255/2", "nan", "inf", "8/inf", "-1/255", "1e999", None, True, [8]]
)
def test_what_is_no_radius_is_refused_with_the_value(bad):
    with pytest.raises(ValueError, match=r"--eps must be a number.*8/255") as error:
        parse_epsilon(bad, "--eps")
    assert repr(bad) in str(error.value)


@pytest.mark.parametrize(
    ("eps", "text"),
    [
        (8 / 255, "8/255"),
        (7.5 / 255, "7.5/255"),
        (0.15, "0.15"),
        (0.125 * 4 / 255, "0.5/255"),
        (0.3 * 0.25, "0.075"),
        (0.2, "0.2"),  # also 51/255
        (0.1, "0.1"),
        (128 / 255, "128/255"),
        (0.5, "0.5"),
        (1e-2, "0.01"),
        (0.0, "0"),
        (1.0, "1"),
        (0.123456789, "0.123457"),
    ],
)
def test_a_radius_is_printed_as_people_write_it(eps, text):
    assert print_epsilon(eps) == text


@given(st.floats(1e-6, 10))
def test_what_is_printed_is_read_as_the_same_number(eps):
    assert math.isclose(parse_epsilon(print_epsilon(eps)), eps, rel_tol=1e-5)


@given(st.integers(0, 1020), st.sampled_from([1, 2, 4]))
def test_levels_and_their_halves_and_quarters_come_back_exactly(level, part):
    eps = level / part / 255
    assert math.isclose(parse_epsilon(print_epsilon(eps)), eps, rel_tol=1e-8, abs_tol=0)


def test_levels_in_place_of_shares_are_refused():
    check_epsilon(1, "linf")
    check_epsilon(8, "l2")
    with pytest.raises(ValueError, match="8 levels of 255 are 8/255"):
        check_epsilon(8, "linf")

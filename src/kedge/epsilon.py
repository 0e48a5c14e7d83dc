"""The radius of an attack as people write it, `8/255`, `7.5/255`, `0.15`, `1e-2`: read and printed here, and only here.

Imports nothing slow: the command line reads its flags by it.
"""

import math
from decimal import Decimal
from fractions import Fraction
from typing import Any

__all__ = ["check_epsilon", "parse_ball", "parse_epsilon", "parse_number", "print_ball", "print_epsilon"]

LEVELS = 255
CLOSE = 1e-9  # relative; a share of a radius is off in the last bits


def parse_epsilon(value: Any, name: str = "eps") -> float:
    """The number that `value` stands for: a number, or text such as `8/255`, `7.5/255`, `0.15` or `1e-2`.

    Raises:
        ValueError: for anything else, what is below 0, and what is not finite; the message begins with `name`.
    """
    words = (
        f"{name} must be a number, 0 or more, in pixel units of [0, 1], such as 8/255, 7.5/255 or 0.03; got {value!r}"
    )
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ValueError(words)
    try:
        eps = parse_number(str(value))
    except ValueError:
        raise ValueError(words) from None
    if eps < 0:
        raise ValueError(words)
    return eps


def parse_number(text: str) -> float:
    """The number that a text stands for: `8/255` and `1e-2` are texts to YAML. Raises ValueError for any other."""
    top, slash, bottom = text.partition("/")
    try:
        return float(Fraction(Decimal(top.strip())) / Fraction(Decimal(bottom.strip() if slash else "1")))
    except (ValueError, ArithmeticError):  # NaN and infinity are no fractions
        raise ValueError(f"{text!r} is not a number, such as 0.03, 1e-2 or 8/255") from None


def print_epsilon(eps: float) -> str:
    """`eps` as people write it: a short decimal where it is one (0.15), else levels of 255 (8/255, 7.5/255).

    What is neither has six digits. `parse_epsilon` gives the number back, to six digits or better.
    """
    for text in (f"{eps:.3g}", f"{LEVELS * eps:.6g}/{LEVELS}"):
        if math.isclose(parse_epsilon(text), eps, rel_tol=CLOSE):
            return text
    return f"{eps:.6g}"


def print_ball(eps: float, norm: str) -> str:
    """Epsilon as it is printed, and its norm where that is not the usual one: `8/255`, `0.5 (l2)`."""
    return print_epsilon(eps) + ("" if norm == "linf" else f" ({norm})")


def parse_ball(text: str) -> tuple[float, str]:
    """(eps, norm) of what `print_ball` wrote. Raises ValueError as `parse_epsilon`."""
    number, _, norm = text.removesuffix(")").partition(" (")
    return parse_epsilon(number), norm or "linf"


def check_epsilon(eps: float, norm: str) -> None:
    """Raise ValueError for an `eps` in "linf" that is larger than the range of pixels: it was meant in levels."""
    if norm == "linf" and eps > 1:
        raise ValueError(levels_meant(eps))


def levels_meant(eps: float) -> str:
    """What to say of an `eps` that is probably in levels of 255."""
    return f"eps={eps:g}, but epsilon is in pixel units of [0, 1]: {eps:g} levels of 255 are {eps:g}/255"

"""Small plots as SVG text. Colours are classes of the page's style sheet: light, dark and print are its business."""

import math
from collections.abc import Sequence
from itertools import groupby

from markupsafe import Markup

COLORS = 6
GLYPHS = "●■▲◆▼★○□△◇▽☆"  # the markers; from the seventh model on they are hollow and the lines dashed
_SHAPES = (
    "",  # a circle
    "M-3-3h6v6h-6z",
    "M0-3.8L3.6 2.8h-7.2z",
    "M0-4.2L3.6 0L0 4.2L-3.6 0z",
    "M0 3.8L-3.6-2.8h7.2z",
    "M0-4.4L1.2-1.4 4.2-1.3 1.8.6 2.7 3.7 0 1.9-2.7 3.7-1.8.6-4.2-1.3-1.2-1.4z",
)


def ticks(low: float, high: float, most: int = 5) -> list[float]:
    """At most `most` + 1 round numbers in [low, high], in steps of 1, 2 or 5 times a power of ten."""
    if not high > low:
        return [low]
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]


def thin(x: list[float], y: list[float], most: int = 60) -> tuple[list[float], list[float]]:
    """At most about `most` points of a curve, with both ends."""
    step = max(1, -(-len(x) // most))
    places = sorted({*range(0, len(x), step), len(x) - 1}) if x else []
    return [x[k] for k in places], [y[k] for k in places]


def _short(value: float) -> str:
    return f"{value:.6g}"


def _at(value: float) -> str:
    return f"{value:.1f}".rstrip("0").rstrip(".")


class Plot:
    """Axes from `x` to `y`, each (low, high); what is drawn outside of them is moved to their edge.

    `width` and `height` are units of about a CSS pixel; the page scales the whole.
    """

    def __init__(
        self,
        x: tuple[float, float],
        y: tuple[float, float],
        x_label: str = "",
        y_label: str = "",
        *,
        width: int = 320,
        height: int = 210,
        x_ticks: Sequence[float] | None = None,
        y_ticks: Sequence[float] | None = None,
    ) -> None:
        self.width, self.height = width, height
        self._x, self._y = x, y
        self._left, self._right = 36.0, width - 10.0
        self._top, self._bottom = 20.0 if y_label else 8.0, height - (34.0 if x_label else 20.0)
        x_ticks = ticks(*x) if x_ticks is None else x_ticks
        y_ticks = ticks(*y, 4) if y_ticks is None else y_ticks
        self._parts = []
        for value in y_ticks:
            at = self._down(value)
            self._parts.append(f'<path class="g" d="M{_at(self._left)} {_at(at)}H{_at(self._right)}"/>')
            self._text(self._left - 5, at + 3.5, _short(value), "e")
        for value in x_ticks:
            self._text(self._across(value), self._bottom + 14, _short(value), "c")
        if x_label:
            self._text((self._left + self._right) / 2, height - 5, x_label, "c s")
        if y_label:
            self._text(2, 11, y_label, "s")

    def line(self, x: Sequence[float], y: Sequence[float], i: int, marks: int | None = None) -> None:
        """The line of model `i`, with a marker at every point, or at about `marks` of them."""
        again = i % len(GLYPHS) >= COLORS
        self._parts.append(f'<path class="l k{i % COLORS}{" d" if again else ""}" d="{self._path(x, y)}"/>')
        step = 1 if marks is None else max(1, len(x) // (marks + 1))
        # Models start at different points, so that markers on the same line do not cover each other.
        start = 0 if marks is None else (step // 2 + i * max(1, step // 5)) % max(1, len(x))
        for across, down in list(zip(x, y, strict=True))[start::step]:
            self._mark(across, down, i)

    def dashes(self, x: Sequence[float], y: Sequence[float], i: int) -> None:
        """The dashed line of model `i`, without markers: what was predicted, not measured."""
        self._parts.append(f'<path class="l k{i % COLORS} d" d="{self._path(x, y)}"/>')

    def points(self, x: Sequence[float], y: Sequence[float], i: int) -> None:
        """The markers of model `i` alone."""
        for across, down in zip(x, y, strict=True):
            self._mark(across, down, i)

    def band(self, x: Sequence[float], low: Sequence[float], high: Sequence[float], i: int) -> None:
        """The area between `low` and `high`, faint."""
        path = self._path([*x, *reversed(x)], [*low, *reversed(high)])
        self._parts.append(f'<path class="a k{i % COLORS}" d="{path}z"/>')

    def bars(self, edges: Sequence[float], heights: Sequence[float], i: int, faint: Sequence[bool] = ()) -> None:
        """Filled bars between consecutive `edges`."""
        for b, value in enumerate(heights):
            if value > self._y[0]:
                x0, x1, y1 = self._across(edges[b]), self._across(edges[b + 1]), self._down(value)
                kind = "b f" if faint and faint[b] else "b"
                self._parts.append(
                    f'<path class="{kind} k{i % COLORS}" d="M{_at(x0 + 0.4)} {_at(self._bottom)}V{_at(y1)}'
                    f'H{_at(x1 - 0.4)}V{_at(self._bottom)}z"/>'
                )

    def steps(self, edges: Sequence[float], heights: Sequence[float], kind: str) -> None:
        """A histogram as one shape; `kind` is its class."""
        path = f"M{_at(self._across(edges[0]))} {_at(self._bottom)}"
        for b, value in enumerate(heights):
            path += f"V{_at(self._down(value))}H{_at(self._across(edges[b + 1]))}"
        self._parts.append(f'<path class="{kind}" d="{path}V{_at(self._bottom)}"/>')

    def whisker(self, x: float, low: float, high: float) -> None:
        """An interval, in ink."""
        at, half = self._across(x), 2.2
        y0, y1 = self._down(low), self._down(high)
        self._parts.append(
            f'<path class="w" d="M{_at(at)} {_at(y0)}V{_at(y1)}M{_at(at - half)} {_at(y0)}h{2 * half}'
            f'M{_at(at - half)} {_at(y1)}h{2 * half}"/>'
        )

    def rule(self, x: Sequence[float], y: Sequence[float]) -> None:
        """A dashed line for what would be ideal, or guessing."""
        self._parts.append(f'<path class="r" d="{self._path(x, y)}"/>')

    def _across(self, x: float) -> float:
        share = (x - self._x[0]) / ((self._x[1] - self._x[0]) or 1)
        return self._left + min(max(share, 0.0), 1.0) * (self._right - self._left)

    def _down(self, y: float) -> float:
        share = (y - self._y[0]) / ((self._y[1] - self._y[0]) or 1)
        return self._bottom - min(max(share, 0.0), 1.0) * (self._bottom - self._top)

    def _path(self, x: Sequence[float], y: Sequence[float]) -> str:
        points = (f"{_at(self._across(a))} {_at(self._down(b))}" for a, b in zip(x, y, strict=True))
        return "M" + "L".join(point for point, _ in groupby(points))

    def _mark(self, x: float, y: float, i: int) -> None:
        kind = f"{'h' if i % len(GLYPHS) >= COLORS else 'p'} k{i % COLORS}"
        across, down, shape = _at(self._across(x)), _at(self._down(y)), _SHAPES[i % COLORS]
        self._parts.append(
            f'<path class="{kind}" transform="translate({across} {down})" d="{shape}"/>'
            if shape
            else f'<circle class="{kind}" cx="{across}" cy="{down}" r="3"/>'
        )

    def _text(self, x: float, y: float, text: str, kind: str) -> None:
        self._parts.append(f'<text class="{kind}" x="{_at(x)}" y="{_at(y)}">{Markup.escape(text)}</text>')

    def body(self) -> str:
        """What stands between <svg> and </svg>."""
        return "".join(self._parts)


def svg(*plots: Plot) -> Markup:
    """The plots below each other as one picture. No text of a user is drawn: names stay outside the plots."""
    width, height = max(p.width for p in plots), sum(p.height for p in plots)
    text, top = "", 0
    for plot in plots:
        text += f'<g transform="translate(0 {top})">{plot.body()}</g>' if top else plot.body()
        top += plot.height
    return Markup(f'<svg viewBox="0 0 {width} {height}" aria-hidden="true">{text}</svg>')

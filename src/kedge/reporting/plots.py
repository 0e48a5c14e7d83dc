"""Plots as SVG text for the page. Colours are CSS variables, so light and dark are the page's business."""

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from markupsafe import Markup

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLORS = 6
MARKERS = "os^Dv*"  # told apart without colour
GLYPHS = "●■▲◆▼★○□△◇▽☆"  # the markers; from the seventh model on they are hollow and the lines dashed
FEW = 10  # a bar of fewer images is drawn faint
# matplotlib knows no CSS variables: these colours stand for them and are exchanged in the SVG.
_INK, _FAINT, _BAND = "#0a0b01", "#0a0b02", "#0a0b03"
_VARIABLES = {_INK: "var(--ink)", _FAINT: "var(--faint)", _BAND: "var(--band)"}
_VARIABLES |= {f"#0a0b1{i}": f"var(--m{i})" for i in range(COLORS)}


def color(i: int) -> str:
    """The stand-in colour of model `i`."""
    return f"#0a0b1{i % COLORS}"


@contextmanager
def _figure(width: float, height: float, rows: tuple[int, ...] = (1,)) -> Iterator[tuple["Figure", list["Axes"]]]:
    """A figure of `width` × `height` inches with axes stacked in the ratios `rows`, without pyplot's global state."""
    import matplotlib
    from matplotlib.figure import Figure

    style: dict[Any, Any] = {
        "svg.fonttype": "none",
        "svg.hashsalt": "kedge",
        "text.parse_math": False,
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": _FAINT,
        "axes.labelcolor": _INK,
        "xtick.color": _FAINT,
        "ytick.color": _FAINT,
        "xtick.labelcolor": _INK,
        "ytick.labelcolor": _INK,
        "text.color": _INK,
        "grid.color": _FAINT,
        "grid.alpha": 0.35,
        "grid.linewidth": 0.5,
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(width, height), layout="constrained")
        axes = figure.subplots(len(rows), 1, sharex=True, squeeze=False, gridspec_kw={"height_ratios": list(rows)})
        yield figure, list(axes[:, 0])


def _svg(figure: "Figure") -> Markup:
    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<svg ([^>]*?)height="[^"]*"', r"<svg \1", text, count=1)
    text = re.sub(r'<svg ([^>]*?) width="[^"]*"', r"<svg \1", text, count=1)
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font: \1px system-ui, sans-serif", text)
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, variable)
    # Safe to hand over unescaped: no text of a user is drawn, names stay outside the plots.
    return Markup(re.sub(r"\s*\n\s*", "\n", text))


def against_severity(curves: list[list[tuple[int, dict[str, Any]]]], label: str, small: bool = False) -> Markup:
    """One line per model: estimates (fractions) at severities, 0 = clean; the band is the interval."""
    with _figure(2.1, 1.5) if small else _figure(4.2, 2.6) as (figure, (ax,)):
        for i, curve in enumerate(curves):
            x = [severity for severity, _ in curve]
            y = [100 * e["value"] for _, e in curve]
            if all(e["low"] is not None for _, e in curve):
                low, high = ([100 * e[key] for _, e in curve] for key in ("low", "high"))
                ax.fill_between(x, low, high, color=color(i), alpha=0.15, linewidth=0)
            again = i % len(GLYPHS) >= COLORS
            ax.plot(x, y, "--" if again else "-", color=color(i), linewidth=1.5, marker=MARKERS[i % COLORS],
                    markersize=3 if small else 5, markerfacecolor="none" if again else color(i))  # fmt: skip
        ax.set_xticks(sorted({severity for curve in curves for severity, _ in curve}))
        if not small:
            ax.set_xlabel("severity (0 = clean)")
            ax.set_ylabel(label)
        ax.set_ylim(bottom=0)
        if label.startswith("accuracy"):
            ax.set_ylim(top=100)
        ax.grid(axis="y")
        return _svg(figure)


def reliability_diagram(reliability: dict[str, list], i: int) -> Markup:
    """Accuracy against confidence per bin over the histogram of confidences; on the dashed line they agree."""
    edges, count = reliability["edges"], reliability["count"]
    width = edges[1] - edges[0]
    filled = [b for b, n in enumerate(count) if n]
    with _figure(3.1, 3.2, rows=(3, 1)) as (figure, (top, bottom)):
        for b in filled:
            confidence, accuracy = reliability["confidence"][b], reliability["accuracy"][b]
            strength = 0.75 if count[b] >= FEW else 0.25
            top.bar(edges[b], accuracy, width, align="edge", color=color(i), alpha=strength, linewidth=0)
            top.plot([confidence, confidence], [accuracy, confidence], color=_INK, linewidth=1)
        top.plot([0, 1], [0, 1], linestyle=(0, (4, 3)), color=_INK, linewidth=1)
        top.set_ylabel("accuracy")
        top.set_xlim(0, 1)
        top.set_ylim(0, 1)
        share = [100 * n / sum(count) for n in count]
        bottom.bar(edges[:-1], share, width, align="edge", color=color(i), alpha=0.75, linewidth=0)
        bottom.set_xlabel("confidence")
        bottom.set_ylabel("% of images")
        for ax in (top, bottom):
            ax.grid(axis="y")
        return _svg(figure)


def score_histogram(edges: list[float], inside: list[int], outside: list[int], i: int) -> Markup:
    """Shares of in-distribution (filled) and out-of-distribution (outlined) images against a score."""
    with _figure(2.9, 1.9) as (figure, (ax,)):
        ax.stairs([100 * n / max(sum(inside), 1) for n in inside], edges, fill=True, color=color(i), alpha=0.55)
        ax.stairs([100 * n / max(sum(outside), 1) for n in outside], edges, color=_INK, linewidth=1.3)
        ax.set_xlabel("score → more in-distribution")
        ax.set_ylabel("% of images")
        ax.locator_params(nbins=5)
        ax.grid(axis="y")
        return _svg(figure)

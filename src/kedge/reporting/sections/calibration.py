"""Is confidence honest: reliability diagrams, clean and shifted, and the family of calibration errors."""

import math
from collections.abc import Iterator
from typing import Any

from markupsafe import Markup

from kedge.metrics._base import metrics
from kedge.printable import printable
from kedge.reporting.rows import dig, number, rows_of, short, value_of
from kedge.reporting.svg import Plot, svg

FEW = 10  # a bar of fewer images is drawn faint
POOLED = (
    "Pooled {}: the calibration error of all corrupted images taken as one set, as drawn here. It is not the mean "
    "over the corruptions that the summary gives: where one corruption makes a model too sure and another too "
    "cautious, pooling cancels that out."
)


def section(results: dict[str, Any], level: int) -> dict[str, Any] | None:
    """The diagrams by kind of images, and rows of the whole family of errors."""
    models, classes = results["models"], results["data"]["class_names"]
    drawn = next(one for one in metrics() if one.diagram)
    kinds: list[dict[str, Any]] = []
    places: list[tuple[str, tuple[str, ...]]] = [
        ("Clean images", ("clean",)),
        ("Corrupted images, all together", ("shift",)),
    ]
    places += [(printable(name), ("shift_sets", name)) for name in results["shift_sets"]]
    for title, keys in places:
        cards, pooled = [], keys == ("shift",)
        for i, (name, model) in enumerate(models.items()):
            reliability = dig(model, *keys, "reliability")
            if reliability and sum(reliability["count"]):
                # The mean error over corruptions is not that of their pooled diagram.
                error = pooled_error(reliability) if pooled else dig(model, *keys, drawn.key, "value")
                words = f"Reliability diagram of {short(name)}, {title}" + (
                    f": {'pooled ' * pooled}calibration error {number(error)} %" if error is not None else ""
                )
                cards.append({"model": i, "error": error, "aria": words, "plot": diagram(reliability, i)})
        if cards:
            kinds.append(
                {"title": title, "cards": cards, "open": len(kinds) < 2, "error": "pooled " * pooled + drawn.diagram,
                 "note": POOLED.format(drawn.diagram) if pooled else ""}
            )  # fmt: skip
    # A calibrated model does not read 0 by most of these, but what its confidences make of it: they are not judged.
    family = [one for one in metrics() if one.unbiased or one.part == "calibration"]
    rows = [row for one in family for row in rows_of(one, [value_of(m, one) for m in models.values()], classes)]
    return {"kinds": kinds, "rows": rows if len(rows) > 1 else [], "few": FEW} if kinds else None


def _bins(reliability: dict[str, Any]) -> Iterator[tuple[float, float]]:
    """(share of all images, confidence minus accuracy) of each bin that holds any."""
    total = sum(reliability["count"])
    bins = zip(reliability["count"], reliability["confidence"], reliability["accuracy"], strict=True)
    return ((n / total, confidence - accuracy) for n, confidence, accuracy in bins if n)


def pooled_error(reliability: dict[str, Any]) -> float:
    """The calibration error of one diagram: mean over all its images of |accuracy - confidence| of their bin."""
    return sum(share * abs(gap) for share, gap in _bins(reliability))


def overconfidence(reliability: dict[str, Any]) -> float:
    """Mean confidence minus accuracy, from a reliability diagram; positive: too sure of itself."""
    return sum(share * gap for share, gap in _bins(reliability))


def leaning(reliability: dict[str, Any] | None, images: int, error: dict[str, Any] | None = None) -> str:
    """How a model is off on average, as the end of a sentence; empty without a diagram.

    Only what is beyond the chance that so many different `images` leave (1.96 standard deviations of the accuracy) is
    called too sure or too cautious. `error`: a calibration error, whose interval has the bias of few images taken off.
    """
    if not reliability or not (count := sum(reliability["count"])):
        return ""
    gap = overconfidence(reliability)
    right = sum(n * (a or 0) for n, a in zip(reliability["count"], reliability["accuracy"], strict=True)) / count
    chance = 1.96 * math.sqrt(right * (1 - right) / min(count, images))
    if error is not None and error.get("low") == 0:
        return ", as that of a calibrated model may on so few images"
    if abs(gap) < max(0.005, chance):
        return ", neither too sure of itself nor too cautious on average, as far as these images tell"
    return ", too sure of itself on average" if gap > 0 else ", too cautious on average"


def diagram(reliability: dict[str, Any], i: int) -> Markup:
    """Accuracy against confidence per bin with its interval, over the histogram of confidences."""
    edges, count = reliability["edges"], reliability["count"]
    lows, highs = reliability.get("low") or [None] * len(count), reliability.get("high") or [None] * len(count)
    fifths = [0, 0.2, 0.4, 0.6, 0.8, 1]
    top = Plot((0, 1), (0, 1), "", "accuracy", width=280, height=220, x_ticks=fifths, y_ticks=fifths)
    top.bars(edges, [a or 0 for a in reliability["accuracy"]], i, [n < FEW for n in count])
    top.rule([0, 1], [0, 1])
    for b, n in enumerate(count):
        if n and lows[b] is not None and highs[b] is not None:
            top.whisker((edges[b] + edges[b + 1]) / 2, lows[b], highs[b])
    share = [100 * n / sum(count) for n in count]
    bottom = Plot((0, 1), (0, max(share)), "confidence", "% of images", width=280, height=104, x_ticks=fifths,
                  y_ticks=[0, round(max(share))] if max(share) >= 1 else [0])  # fmt: skip
    bottom.bars(edges, share, i)
    return svg(top, bottom)

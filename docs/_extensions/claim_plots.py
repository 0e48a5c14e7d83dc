"""The plot of a claim: its curve, a line a variant, or the measure of its first criterion as a dot a variant."""

import math

from kedge.claims import claim
from kedge.reporting.svg import COLORS, GLYPHS, Plot, svg, ticks


def claim_plot(result):
    """HTML of one figure from the claim's part of results.json; empty where it was not measured."""
    if not result["criteria"]:
        return ""
    variants = result["variants"]
    curve = claim(result["claim"]).curve
    if curve is None:
        title, plot = dots(result["criteria"][0]["measure"], variants)
    else:
        title, plot = lines(curve, variants)
    legend = "".join(
        f'<span><span class="tag k{i % COLORS}" aria-hidden="true">{GLYPHS[i % len(GLYPHS)]}</span>{name}</span>'
        for i, name in enumerate(variants)
    )
    return (
        f'<div class="kedge-plots"><p class="legend">{legend}</p><figure role="img" aria-label="{title}">'
        f"<figcaption>{title}</figcaption>{plot}</figure></div>"
    )


def lines(curve, variants):
    """Means over seeds against the numbers of the curve, with 95 % intervals as bands."""
    series = [
        [(number, own[name]["mean"], own[name]["interval"] or [own[name]["mean"]] * 2)
         for number, name in curve.points(own).items()]
        for own in variants.values()
    ]  # fmt: skip
    points = [point for own in series for point in own]
    across, down = scale(curve.log_x), scale(curve.log_y)
    lowest = min(mean for _, mean, _ in points)
    # An interval may reach below 0, where a logarithm has nothing to show.
    ends = [bound for _, mean, bounds in points for bound in (mean, *bounds) if not curve.log_y or bound >= lowest / 3]
    x, x_ticks = axis([number for number, _, _ in points], curve.log_x)
    y, y_ticks = axis(ends, curve.log_y)
    over = curve.over.removesuffix(" of")
    plot = Plot(x, y, named(over, curve.log_x), "", x_ticks=x_ticks, y_ticks=y_ticks)
    for i, own in enumerate(series):
        if own:
            at = [across(number) for number, _, _ in own]
            bounds = [[down(max(b, lowest / 3)) if curve.log_y else b for b in bounds] for _, _, bounds in own]
            plot.band(at, [low for low, _ in bounds], [high for _, high in bounds], i)
            plot.line(at, [down(mean) for _, mean, _ in own], i)
    return f"{named(curve.measure, curve.log_y)} against {over}, with 95 % intervals over seeds", svg(plot)


def dots(measure, variants):
    """A measure of each variant, with the 95 % interval of its mean over seeds."""
    shown = [(i, own[measure]) for i, own in enumerate(variants.values()) if measure in own]
    ends = [bound for _, own in shown for bound in (own["mean"], *(own["interval"] or ()))]
    low, high = min(ends), max(ends)
    margin = (high - low) * 0.08 or abs(low) * 0.1 or 1.0
    plot = Plot((-0.5, len(variants) - 0.5), (low - margin, high + margin), x_ticks=())
    for i, own in shown:
        if own["interval"]:
            plot.whisker(i, *own["interval"])
        plot.line([i], [own["mean"]], i)
    return f"{measure}, with 95 % intervals over seeds", svg(plot)


def scale(logarithmic):
    """What a value is drawn at."""
    return math.log10 if logarithmic else float


def axis(values, logarithmic):
    """The ends of an axis and its ticks, for logarithmic ones whole powers of ten."""
    low, high = min(map(scale(logarithmic), values)), max(map(scale(logarithmic), values))
    ends = (low, high) if high > low else (low - 0.5, high + 0.5)
    if not logarithmic:
        return ends, ticks(*ends)
    whole = list(range(math.ceil(low), math.floor(high) + 1))
    return ends, whole[:: max(1, len(whole) // 5)] if len(whole) > 1 else [low, high]


def named(words, logarithmic):
    """The words of an axis."""
    return f"log10 of {words}" if logarithmic else words


def setup(app):
    """Nothing to register: the directive `claims` draws with this."""
    return {"parallel_read_safe": True, "parallel_write_safe": True}

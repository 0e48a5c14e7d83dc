"""An experiment beside the paper that it repeats: as Markdown, as JSON, and as one page."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from kedge.data.corruptions import groups
from kedge.files import sweep, write_together
from kedge.printable import printable
from kedge.reporting.page import templates
from kedge.reporting.svg import COLORS, GLYPHS, Plot, svg

__all__ = ["reproduction_markdown", "write_reproduction"]

SMOOTH = (
    "Ours is the smooth ECE of its definition; relplot, which the authors' code calls, counts the mass at a confidence "
    "of 1 once where the reflected kernel counts it twice, and reads more for very sure models."
)
OVER_EPOCHS = ("clean accuracy", "corrupted accuracy", "corrupted smooth ECE", "corrupted NLL")
KINDS = ("noise", "blur", "weather", "digital", "extra")
UNJUDGED = "not judged: measured with the bias of few images"
MINUS = "\N{MINUS SIGN}"


def write_reproduction(results: dict[str, Any], folder: str | Path) -> list[Path]:
    """Write results.json, table.md and report.html, one page that opens without a network; their paths."""
    folder = Path(folder)
    sweep(folder)
    texts = {
        "results.json": json.dumps(results, indent=1, ensure_ascii=False, allow_nan=False) + "\n",
        "table.md": reproduction_markdown(results),
        "report.html": page(results),
    }
    return write_together({folder / name: text for name, text in texts.items()})


def reproduction_markdown(results: dict[str, Any]) -> str:
    """The tables as Markdown: paper, ours, difference, interval; then what differs between variants."""
    lines = [f"# {_cell(results['title'])}", "", *(_cell(line) for line in facts(results)), ""]
    for measure, rows in by_measure(results):
        lines += [
            f"## {measure}, {unit_of(rows[0])}",
            "",
            "| variant | paper | ours | seeds | difference | 95 % interval of it |",
        ]
        lines += ["| --- | ---: | ---: | ---: | ---: | ---: |"]
        lines += [f"| {' | '.join([_cell(row['variant']), *cells(row)])} |" for row in rows]
        lines.append("")
    for title, head, table in more_tables(results):
        lines += [f"## {title}", "", f"| {' | '.join(map(_cell, head))} |", f"| --- |{' ---: |' * (len(head) - 1)}"]
        lines += [f"| {' | '.join(map(_cell, row))} |" for row in table]
        lines.append("")
    lines += ["## What differs", "", "| question | measure | paper | ours | 95 % interval | verdict |"]
    lines += ["| --- | --- | ---: | ---: | ---: | --- |"]
    for contrast in questions(results):
        for difference in contrast["measures"]:
            row = [contrast["question"], difference["measure"], *difference_cells(difference)]
            lines.append(f"| {' | '.join(_cell(text) for text in row)} |")
    lines += ["", *(f"- {_cell(note)}" for note in results["notes"]), "", f"    {results['command']}", ""]
    return "\n".join(lines)


def facts(results: dict[str, Any]) -> list[str]:
    """What was done, a sentence each."""
    sizes = sorted({f"{v['network']}, {v['parameters'] / 1e6:.2f} M parameters" for v in results["variants"].values()})
    seeds = results["seeds"]
    sentences = [
        f"Source: {results['source']}.",
        f"Scale {results['scale']}: {'; '.join(sizes)}; seeds {', '.join(map(str, seeds))}; kedge "
        f"{results['machine']['kedge']}, torch {results['machine']['torch']}.",
        "Ours is the mean over seeds ± their standard deviation; intervals are over seeds (Student's t, Welch's for a "
        "difference between variants, seed by seed where they share a run): what other seeds would have given on these "
        "same images. One in twenty leaves out a true value, so among many rows some do by chance; of a difference up "
        "to one in nine where one variant has two or three seeds and the other many.",
    ]
    if any("ECE" in row["measure"] for row in results["rows"]):
        sentences.append(
            "Whether a calibration error differs is judged without the bias that few images give it (cross-fitted): "
            "even of two calibrated variants the less sure one reads the larger error. The figures are as reported."
            + f" {SMOOTH}"
            * any("smooth" in row["measure"] for row in results["rows"])
        )
    counts = {run["images"] for v in results["variants"].values() for run in v["runs"] if "images" in run}
    if results["images"] < 10_000:
        tested = f"All were tested on the same {results['images']:,} images"
        if len(counts) > 1:
            tested = f"Tested on {min(counts):,} images or more, up to {max(counts):,}"
        sentences.append(
            f"{tested}; other images would move the levels, by "
            f"{100 * 1.96 * math.sqrt(0.21 / results['images']):.0f} points or so, and the differences by less."
        )
    if results["scale"] != "paper":
        sentences.append(
            "This is not the paper's scale: the levels are not its levels, and a difference from the paper's says what "
            "happens at this scale, not that the paper is wrong at its own."
        )
    if results["unfinished"]:
        sentences.append(f"Not finished: {', '.join(results['unfinished'])}.")
    return sentences


def by_measure(results: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """The rows of each measure, in order."""
    rows = results["rows"]
    return [(m, [row for row in rows if row["measure"] == m]) for m in dict.fromkeys(row["measure"] for row in rows)]


def questions(results: dict[str, Any]) -> list[dict[str, Any]]:
    """The contrasts of the experiment; without any, each variant against the first."""
    if results["contrasts"]:
        return list(results["contrasts"])
    names = dict.fromkeys(gain["variant"] for gain in results["gains"])
    return [
        {"question": f"{name} against {results['gains'][0]['over']}", "variant": name,
         "over": results["gains"][0]["over"],
         "measures": [gain for gain in results["gains"] if gain["variant"] == name]}
        for name in names
    ]  # fmt: skip


def cells(row: dict[str, Any]) -> list[str]:
    """Paper, ours, seeds, difference and its interval, as text."""
    places = places_of(row)
    spread = "" if row["sd"] is None else f" ± {row['sd']:.{places}f}"
    return [
        "" if row["paper"] is None else f"{row['paper']:.{places}f}",
        f"{row['ours']:.{places}f}{spread}",
        str(row["seeds"]),
        "" if row["difference"] is None else signed(row["difference"], places),
        between(row["difference_interval"], places),
    ]


def difference_cells(difference: dict[str, Any]) -> list[str]:
    """The paper's difference, ours, its interval and the verdict, as text."""
    places = places_of(difference)
    paper = "" if difference["paper"] is None else signed(difference["paper"], places)
    # Earlier results judged the reported error, bias and all.
    judged = (
        not difference["measure"].endswith("ECE")
        or "corrected" in difference
        or difference["verdict"].startswith("not resolved")
    )
    words = difference["verdict"] if judged or difference["interval"] is None else UNJUDGED
    return [paper, signed(difference["difference"], places), between(difference["interval"], places), words]


def unit_of(row: Mapping[str, Any]) -> str:
    """The unit of a row; earlier results had percentages only, and did not say so."""
    return str(row.get("unit", "%"))


def places_of(row: Mapping[str, Any]) -> int:
    """Decimal places of what stands in a row."""
    return 1 if unit_of(row) == "%" else 2


def signed(value: float, places: int = 1) -> str:
    """A difference with its sign."""
    text = f"{abs(value):.{places}f}"
    return text if float(text) == 0 else f"{'+' if value > 0 else MINUS}{text}"


def between(interval: Sequence[float] | None, places: int = 1) -> str:
    """An interval of differences."""
    return "" if interval is None else f"{signed(interval[0], places)} to {signed(interval[1], places)}"


def more_tables(results: dict[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Title, head and rows of the tables of means over seeds: by kind of corruption, and over the epochs."""
    variants = results["variants"]
    words = groups()
    kinds = {
        name: {
            kind: statistics.fmean(shares)
            for kind in KINDS
            if (shares := [share for c, share in variant["corruptions"].items() if c in words[kind]])
        }
        for name, variant in variants.items()
    }
    shown = [kind for kind in KINDS if any(kind in each for each in kinds.values())]
    tables = []
    if len(shown) > 1:
        rows = [[name, *(f"{own[k]:.1f}" if k in own else "" for k in shown)] for name, own in kinds.items() if own]
        tables.append(("accuracy by kind of corruption, %", ["variant", *shown], rows))
    for measure, unit, curves in over_epochs(results):
        epochs = list(dict.fromkeys(epoch for curve in curves.values() for epoch in curve))
        places = places_of({"unit": unit})
        rows = [
            [name, *(f"{curve[e]:.{places}f}" if e in curve else "" for e in epochs)] for name, curve in curves.items()
        ]
        tables.append((f"{measure} over epochs, {unit}", ["variant", *epochs], rows))
    return tables


def over_epochs(results: dict[str, Any]) -> list[tuple[str, str, dict[str, dict[str, float]]]]:
    """Measure, unit, and variant to epoch to mean, of the copies that were kept while the variants trained."""
    curves = {name: variant.get("curve") or {} for name, variant in results["variants"].items()}
    units = {row["measure"]: unit_of(row) for row in results["rows"]}
    return [
        (measure, units[measure], {name: own[measure] for name, own in curves.items() if measure in own})
        for measure in OVER_EPOCHS
        if any(measure in own for own in curves.values())
    ]


def page(results: dict[str, Any]) -> str:
    """The page as text."""
    names = list(results["variants"])
    shifted = [name for name in names if results["variants"][name]["severities"]]
    return (
        templates()
        .get_template("reproduction.html")
        .render(
            results=results,
            facts=[printable(line) for line in facts(results)],
            legend=[(i % COLORS, GLYPHS[i % len(GLYPHS)], printable(name)) for i, name in enumerate(names)],
            measures=[
                (
                    measure,
                    unit_of(rows[0]),
                    [(printable(row["variant"]), cells(row)) for row in rows],
                    dots(names, rows),
                )
                for measure, rows in by_measure(results)
            ],
            severities=severity_plot(results, names) if shifted else None,
            curves=[
                (f"{measure}, {unit}", epochs_plot(results, names, measure))
                for measure, unit, _ in over_epochs(results)
            ],
            tables=[(title, head, [map(printable, row) for row in rows]) for title, head, rows in more_tables(results)],
            questions=[(q, [(f["measure"], difference_cells(f)) for f in q["measures"]]) for q in questions(results)],
        )
    )


def dots(names: Sequence[str], rows: Sequence[dict[str, Any]]) -> Markup:
    """A point for each variant with its interval over seeds; a rule where the paper has its own."""
    spans = [row["interval"] or [row["ours"], row["ours"]] for row in rows]
    every = [v for span in spans for v in span] + [row["paper"] for row in rows if row["paper"] is not None]
    low, high = min(every), max(every)
    share = unit_of(rows[0]) == "%"
    room = max(0.08 * (high - low), 0.5 if share else 0.02)
    top = min(100.0, high + room) if share else high + room
    bottom = max(0.0, low - room) if low >= 0 else low - room
    plot = Plot((-0.5, len(names) - 0.5), (bottom, top), x_ticks=(), width=420, height=240)
    for row, span in zip(rows, spans, strict=True):
        at = float(names.index(row["variant"]))
        if row["paper"] is not None:
            plot.rule([at - 0.35, at + 0.35], [row["paper"], row["paper"]])
        if row["interval"] is not None:
            plot.whisker(at, max(bottom, span[0]), min(top, span[1]))
        plot.line([at], [row["ours"]], names.index(row["variant"]))
    return svg(plot)


def severity_plot(results: dict[str, Any], names: Sequence[str]) -> Markup:
    """Accuracy against severity, the mean over corruptions and seeds."""
    lines = []
    for i, name in enumerate(names):
        severities = results["variants"][name]["severities"]
        if severities:
            points = sorted((int(severity), value) for severity, value in severities.items())
            lines.append((i, [x for x, _ in points], [y for _, y in points]))
    every = [y for _, _, ys in lines for y in ys]
    xs = sorted({at for _, x, _ in lines for at in x})
    plot = Plot((xs[0], xs[-1] if len(xs) > 1 else xs[0] + 1), (max(0.0, min(every) - 1), min(100.0, max(every) + 1)),
                "severity", "accuracy, %", width=420, height=240, x_ticks=xs)  # fmt: skip
    for i, x, y in lines:
        plot.line(x, y, i)
    return svg(plot)


def epochs_plot(results: dict[str, Any], names: Sequence[str], measure: str) -> Markup:
    """A measure over the epochs, the mean over seeds."""
    curves = next(curves for each, _, curves in over_epochs(results) if each == measure)
    lines = [(names.index(name), [float(e) for e in curve], list(curve.values())) for name, curve in curves.items()]
    xs = sorted({at for _, x, _ in lines for at in x})
    every = [y for _, _, ys in lines for y in ys]
    room = 0.05 * (max(every) - min(every)) or 1.0
    plot = Plot((xs[0], xs[-1] if len(xs) > 1 else xs[0] + 1), (max(0.0, min(every) - room), max(every) + room),
                "epoch", measure, width=420, height=240, x_ticks=xs)  # fmt: skip
    for i, x, y in lines:
        plot.line(x, y, i)
    return svg(plot)


def _cell(text: str) -> str:
    """Text that cannot end a cell or a line of a Markdown table."""
    return printable(text).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")

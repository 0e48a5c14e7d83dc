"""The directive `reproduction`: the tables and plots of an experiment, from the JSON that `kedge reproduce` wrote."""

import json
from pathlib import Path
from typing import ClassVar

from docutils import nodes
from docutils.parsers.rst import directives
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

from kedge.reporting import reproduction
from kedge.reporting.svg import COLORS, GLYPHS

ROOT = Path(__file__).resolve().parents[2]
STYLE = (Path(__file__).parent / "reproduced.css").read_text(encoding="utf-8")


class Reproduction(SphinxDirective):
    """`{reproduction} NAME` with options `plots` (measures separated by ;), `measures`, `questions` and `tables`.

    `tables`: beginnings of the titles of further tables, such as `accuracy by kind of corruption`.
    """

    required_arguments = 1
    option_spec: ClassVar = dict.fromkeys(("plots", "measures", "questions", "tables"), directives.unchanged)

    def run(self):
        """Read the JSON, write what is asked for."""
        path = ROOT / "benchmarks" / "results" / self.arguments[0] / "results.json"
        self.env.note_dependency(str(path))
        try:
            results = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise self.error(f"{path} cannot be read: {error}; make it with kedge reproduce") from error
        found = nodes.section()
        found.document = self.state.document
        if "measures" in self.options:
            self.state.nested_parse(StringList(levels(results, asked(self.options["measures"])), path.name), 0, found)
        if "questions" in self.options:
            said = differences(results, asked(self.options["questions"]))
            self.state.nested_parse(StringList(said, path.name), 0, found)
        if "tables" in self.options:
            said = further(results, asked(self.options["tables"]))
            self.state.nested_parse(StringList(said, path.name), 0, found)
        if "plots" in self.options:
            found += nodes.raw("", plots(results, asked(self.options["plots"])), format="html")
        return found.children


def asked(words):
    """The names in an option."""
    return [word.strip() for word in words.split(";") if word.strip()]


def levels(results, measures):
    """One row for each variant, one column for each measure; the paper's figure in brackets."""
    known = dict(reproduction.by_measure(results))
    units = {measure: reproduction.unit_of(known[measure][0]) for measure in measures}
    heads = [measure if unit == "%" else f"{measure}, {unit}" for measure, unit in units.items()]
    lines = ["| % | " + " | ".join(heads) + " |", "| --- |" + " ---: |" * len(measures)]
    for name in results["variants"]:
        row = []
        for measure in measures:
            one = next((row for row in known[measure] if row["variant"] == name), None)
            paper, ours = reproduction.cells(one)[:2] if one else ("", "")
            row.append(f"{ours} (paper {paper})" if paper else ours)
        lines.append(f"| {name} | " + " | ".join(row) + " |")
    return lines


def differences(results, measures):
    """One row for each question, one column for each measure: the difference with its interval, in bold where told."""
    lines = ["| points | " + " | ".join(measures) + " |", "| --- |" + " ---: |" * len(measures)]
    for contrast in reproduction.questions(results):
        row = []
        for measure in measures:
            one = next((m for m in contrast["measures"] if m["measure"] == measure), None)
            text = ""
            if one:
                _, ours, interval, verdict = reproduction.difference_cells(one)
                told = not verdict.startswith("not ") and one["interval"]
                text = f"**{ours}** ({interval})" if told else f"{ours} ({interval})"
            row.append(text)
        lines.append(f"| {contrast['question']} | " + " | ".join(row) + " |")
    return lines


def further(results, beginnings):
    """Tables of `reproduction.more_tables`, one below the other, the title in place of the first head."""
    lines = []
    for beginning in beginnings:
        title, head, rows = next(table for table in reproduction.more_tables(results) if table[0].startswith(beginning))
        lines += [f"| {' | '.join([title, *head[1:]])} |", f"| --- |{' ---: |' * (len(head) - 1)}"]
        lines += [f"| {' | '.join(row)} |" for row in rows] + [""]
    return lines


def plots(results, wanted):
    """The plots as HTML; `severity`: accuracy against severity, `epochs: MEASURE`: over epochs, others: measures."""
    names = list(results["variants"])
    legend = "".join(
        f'<span><span class="tag k{i % COLORS}" aria-hidden="true">{GLYPHS[i % len(GLYPHS)]}</span>{name}</span>'
        for i, name in enumerate(names)
    )
    known = dict(reproduction.by_measure(results))
    figures = []
    for word in wanted:
        if word == "severity":
            title, plot = "accuracy against severity, %", reproduction.severity_plot(results, names)
        elif word.startswith("epochs: "):
            measure = word.removeprefix("epochs: ")
            title, plot = f"{measure} over the epochs", reproduction.epochs_plot(results, names, measure)
        else:
            unit = reproduction.unit_of(known[word][0])
            title, plot = f"{word}, {unit}, with 95 % intervals over seeds", reproduction.dots(names, known[word])
        figures.append(f'<figure role="img" aria-label="{title}"><figcaption>{title}</figcaption>{plot}</figure>')
    return f'<style>\n{STYLE}</style><div class="kedge-plots"><p class="legend">{legend}</p>{"".join(figures)}</div>'


def setup(app):
    """Register the directive."""
    app.add_directive("reproduction", Reproduction)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

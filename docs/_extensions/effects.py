"""The role `effect`: a measured difference with its interval, read from a committed result when the pages are built.

`{effect}` takes one of these, with ` | ` between the parts:

- `claims | CLAIM | WORDS OF THE CRITERION`
- `NAME | MEASURE | VARIANT | OTHER`: of benchmarks/results/NAME.json, whose `rows` are variant, seed, measure
- `photos | SET | METHOD | MEASURE`: kedge minus that method
- `reproduce | EXPERIMENT-SCALE | MEASURE | VARIANT`: over the first variant

The directive `claims` is the table of all claims of a part, and of each its setting, numbers and plot.
"""

import inspect
import json
import re
from pathlib import Path

from claim_plots import claim_plot
from docutils import nodes
from docutils.statemachine import StringList
from reproduced import STYLE
from sphinx.util.docutils import SphinxDirective, SphinxRole

from kedge import catalog
from kedge.claims._table import table_markdown
from kedge.experiments.comparing import mean_interval

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results"


def read(name):
    """A committed result."""
    return json.loads((RESULTS / name).read_text(encoding="utf-8"))


def of_claims(claim, words):
    """The difference of a criterion, in the unit of its measure, and its verdict."""
    claims = [each for path in sorted(RESULTS.glob("claims-*/results.json")) for each in read(path)["claims"]]
    each = next(each for each in claims if each["claim"] == claim)
    criterion = next(criterion for criterion in each["criteria"] if criterion["words"] == words)
    return criterion["difference"], criterion["interval"], criterion["seeds"], criterion["verdict"], criterion["other"]


def of_rows(name, measure, variant, other):
    """Paired differences of two variants over seeds."""
    rows = read(f"{name}.json")["rows"]
    differences = [rows[variant][seed][measure] - rows[other][seed][measure] for seed in rows[variant]]
    return sum(differences) / len(differences), mean_interval(differences), len(differences)


def of_photos(photos, method, measure):
    """What kedge has more than another tool on the same photos."""
    row = next(row for row in read("photos.json")["summary"] if (row["set"], row["method"]) == (photos, method))
    difference = row["kedge minus this"][measure]
    return difference["mean"], difference["interval"], difference["pairs"]


def of_experiments(name, measure, variant):
    """What a variant of an experiment has more than its first one."""
    gains = read(f"{name}/results.json")["gains"]
    gain = next(gain for gain in gains if (gain["variant"], gain["measure"]) == (variant, measure))
    return gain["difference"], gain["interval"], gain["seeds"]


def effect(text):
    """`+23.1 [+20.0, +26.2], 3 seeds: passes`, the verdict of a claim's criterion alone.

    Raises KeyError or StopIteration for what no result has.
    """
    kind, *parts = [part.strip() for part in text.split("|")]
    readers = {"claims": of_claims, "photos": of_photos, "reproduce": of_experiments}
    difference, interval, seeds, *judged = readers[kind](*parts) if kind in readers else of_rows(kind, *parts)
    sign = "" if judged[1:] == [None] else "+"  # a value by itself is no difference
    bounds = "" if interval is None else f" [{interval[0]:{sign}z.1f}, {interval[1]:{sign}z.1f}]"
    last = [": no telling"] if seeds == 1 else [f": {word}" for word in judged[:1]]
    return "".join([f"{difference:{sign}z.1f}{bounds}, {seeds} seed{'s' * (seeds > 1)}", *last])


class Effect(SphinxRole):
    """`{effect}`, in bold."""

    def run(self):
        """Write the difference, or say what is missing."""
        try:
            return [nodes.strong(text=effect(self.text))], []
        except (KeyError, StopIteration, OSError, ValueError, TypeError) as error:
            message = f"no committed result has {self.text!r} ({type(error).__name__})"
            return [], [self.inliner.reporter.error(message, line=self.lineno)]


class Claims(SphinxDirective):
    """`{claims} PART`: what came out, every claim."""

    required_arguments = 1

    def run(self):
        """Write the tables."""
        path = RESULTS / f"claims-{self.arguments[0]}" / "results.json"
        self.env.note_dependency(str(path))
        section = nodes.section()
        section.document = self.state.document
        results = read(path)
        overview, *rest = re.split(
            r"^### .*\n", re.sub(r"^## .*\n", "", table_markdown(results), flags=re.M), flags=re.M
        )
        section += nodes.raw("", f"<style>\n{STYLE}</style>", format="html")
        self._write(section, overview, path.name)
        for each, text in zip(results["claims"], rest, strict=True):
            setting = inspect.getdoc(catalog.get("claims", each["claim"])) or ""
            title, _, tables = text.strip().partition("\n\n")
            values, _, verdicts = tables.partition("\n\n")
            tall = values.startswith("| measure")
            self._write(section, f"**{each['claim'].replace('_', ' ')}**\n\n{title}\n\n{setting}", path.name)
            section += nodes.raw("", claim_plot(each), format="html")
            if tall:
                section += nodes.raw("", "<details><summary>All numbers</summary>", format="html")
            self._write(section, values, path.name)
            if tall:
                section += nodes.raw("", "</details>", format="html")
            self._write(section, verdicts, path.name)
        return section.children

    def _write(self, section, text, source):
        self.state.nested_parse(StringList(text.splitlines(), source), 0, section)


def setup(app):
    """Register the role and the directive."""
    app.add_role("effect", Effect())
    app.add_directive("claims", Claims)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

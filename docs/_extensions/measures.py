"""The directive `metrics`: a table of every metric that `kedge evaluate` reports, from what the metrics say."""

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

from kedge.catalog import info, summary
from kedge.metrics._base import metrics

ARROWS = {"higher": "↑", "lower": "↓", None: ""}


def markdown():
    """The table as Markdown, in the order of the reports."""
    lines = ["| name | in tables | better | what it is | source |", "| --- | --- | --- | --- | --- |"]
    for one in metrics():
        source = info("metrics", one.name)
        cite = f"[{source.cite}]({source.url})" if source is not None and source.url else ""
        label = f"{one.label}, %" if one.unit.startswith("%") else one.label
        lines.append(f"| `{one.name}` | {label} | {ARROWS[one.better]} | {summary('metrics', one.name)} | {cite} |")
    return lines


class Metrics(SphinxDirective):
    """The table in place of the directive."""

    def run(self):
        """The parsed table."""
        holder = nodes.container()
        self.state.nested_parse(StringList(markdown(), source="metrics"), self.content_offset, holder)
        return holder.children


def setup(app):
    """Make the directive known."""
    app.add_directive("metrics", Metrics)
    return {"parallel_read_safe": True}

"""The directive `benchmark`: what a program in benchmarks/ measured, from the JSON that it wrote."""

import json
import sys
from pathlib import Path

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.side_by_side import lines  # noqa: E402


class Benchmark(SphinxDirective):
    """`{benchmark} NAME`: the result on the CPU, and below it that on a GPU if there is one."""

    required_arguments = 1

    def run(self):
        """Write the tables."""
        found = nodes.section()
        found.document = self.state.document
        for name in (self.arguments[0], f"{self.arguments[0]}_cuda"):
            path = ROOT / "benchmarks" / "results" / f"{name}.json"
            if not path.is_file() and name.endswith("_cuda"):
                continue
            self.env.note_dependency(str(path))
            try:
                said = lines(json.loads(path.read_text(encoding="utf-8")))
            except (OSError, ValueError) as error:
                raise self.error(f"{path.name} cannot be read: {error}; make it with its program") from error
            self.state.nested_parse(StringList(said, path.name), 0, found)
        return found.children


def setup(app):
    """Register the directive."""
    app.add_directive("benchmark", Benchmark)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

"""The directive `commands`: a section for each kedge command, written from its argument parser."""

import re

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

from kedge.cli import COMMANDS
from kedge.cli.flags import parser_of


def parsers():
    """The parser of each command, in the order of `kedge --help`."""
    return {name: parser_of(name) for name in COMMANDS}


def markdown(name, parser):
    """One command as Markdown."""
    lines = [f"## kedge {name}", "", *_plain(parser.description), ""]
    positional, options = [], []
    for action in parser._actions:
        if action.help == "==SUPPRESS==" or "--help" in action.option_strings:
            continue
        (options if action.option_strings else positional).append(action)
    shown = " ".join(_metavar(a) + ("..." if a.nargs in ("+", "*") else "") for a in positional)
    lines += ["```console", f"$ kedge {name} {shown} [options]".replace("  ", " "), "```", ""]
    for action in [*positional, *options]:
        title = f"`{', '.join(action.option_strings)}`" if action.option_strings else f"`{_metavar(action)}`"
        values = _values(action)
        if values:
            title += f" *{values}*"
        text = " ".join(" ".join(_plain(action.help)).split()).replace("%%", "%")
        if action.option_strings and action.default not in (None, "==SUPPRESS=="):
            text = f"{text.rstrip('.')}. Default: `{_shown(action.default)}`."
        lines += [title, f": {text or 'see above'}", ""]
    if parser.epilog:
        lines += [*_plain(parser.epilog), ""]
    return lines


def _plain(text):
    # FOLDER/*.jpg is not emphasis
    return str(text or "").strip().replace("*", "\\*").splitlines()


def _metavar(action):
    return action.metavar if isinstance(action.metavar, str) else action.dest.upper()


def _values(action):
    if action.choices:
        return " | ".join(str(choice) for choice in action.choices)
    kind = getattr(action, "_typehint", None) or action.type
    if kind is None or not action.option_strings or kind is str:
        return ""
    text = kind.__name__ if isinstance(kind, type) and "[" not in str(kind) else str(kind)
    text = re.sub(r"^Optional\[(.*)\]$", r"\1", text.replace("typing.", "")).replace(" | None", "")
    return text if action.nargs is None else f"{text} ..."


def _shown(value):
    return {True: "true", False: "false"}.get(value, value) if isinstance(value, bool) else value


class Commands(SphinxDirective):
    """`{commands}`: no arguments, no content."""

    def run(self):
        """Write the sections."""
        parent = nodes.section()
        parent.document = self.state.document
        for name, parser in parsers().items():
            source = StringList(markdown(name, parser), source=f"kedge {name} --help")
            self.state.nested_parse(source, self.content_offset, parent, match_titles=True)
        return parent.children


def setup(app):
    """Register the directive."""
    app.add_directive("commands", Commands)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

"""Sphinx configuration: Markdown pages, the API from docstrings, the commands from their parsers."""

import re
import sys
from pathlib import Path

from kedge import __version__

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "kedge"
author = "The kedge developers"
copyright = author
version = release = __version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "commands",
    "effects",
    "gallery",
    "measured",
    "measures",
    "reproduced",
]
exclude_patterns = ["_build", "measured"]
templates_path: list[str] = []

html_theme = "furo"
html_title = f"kedge {__version__}"
html_copy_source = False
html_show_sourcelink = False
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

smartquotes = False  # --data is two hyphens
default_role = "literal"
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False  # torch's own docstrings are torch's to show
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True}
napoleon_use_ivar = True
nitpicky = False


def _markdown_words(app, what, name, obj, options, lines):  # type: ignore[no-untyped-def]
    # Docstrings are written as Markdown people read: `code` in single backticks, and a star outside them is a star.
    for i, line in enumerate(lines):
        parts = re.split(r"(?<!`)`([^`]+)`(?!`)", line)
        parts[::2] = [p.replace("\\*", "*").replace("*", "\\*").replace("|", "\\|") for p in parts[::2]]
        parts[1::2] = [f"``{p.strip()}``" for p in parts[1::2]]
        lines[i] = "".join(parts)


def setup(app):  # type: ignore[no-untyped-def]
    """Connect the hook, before napoleon sees the docstrings."""
    app.connect("autodoc-process-docstring", _markdown_words, priority=400)

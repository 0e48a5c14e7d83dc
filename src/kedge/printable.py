"""Names from files, folders and strangers' models, made fit for a terminal, a log, a page or a spreadsheet.

A name may hold anything but a slash: escape sequences that write anywhere on a terminal, line breaks that forge lines
of output, bytes that are no text. What is stored keeps the name as it is; only what is shown passes through here.
"""

import unicodedata
from typing import Any

__all__ = ["cell", "counted", "is_computed", "printable", "printable_lines"]

# Control characters, halves of characters (bytes of a file name that are not UTF-8), separators of lines, and what
# turns the direction of writing; not the joiners, which Persian, Indic scripts and emoji need.
_HIDDEN = ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp")
_JOINERS = "\u200c\u200d"
_FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")


def printable(text: Any) -> str:
    """`text` in one line, with what could write anywhere on a terminal escaped as Python does: `\\x1b`, `\\n`."""
    plain = str(text)
    if plain.isascii() and plain.isprintable():
        return plain
    return "".join(_escaped(c) if unicodedata.category(c) in _HIDDEN and c not in _JOINERS else c for c in plain)


def counted(count: int, what: str) -> str:
    """A number with the name of what it counts: `1 epoch`, `2 epochs`."""
    return f"{count:,} {what}{'s' * (count != 1)}"


def printable_lines(text: Any) -> str:
    """As `printable`, but with line breaks and tabs as they are: for sentences of kedge's own."""
    return "\n".join("\t".join(printable(part) for part in line.split("\t")) for line in str(text).split("\n"))


def cell(text: Any) -> str:
    """A name for a cell of a CSV file: printable, and with an apostrophe before it where a spreadsheet would compute.

    A cell that begins with `=`, `+`, `-` or `@` is a formula to a spreadsheet. Numbers are not for this function.
    """
    plain = printable(text)
    return f"'{plain}" if is_computed(str(text)) else plain


def is_computed(text: str) -> bool:
    """Whether a spreadsheet would take `text` for a formula."""
    return text.lstrip(" ").startswith(_FORMULA)


def percent(share: float) -> str:
    """A share that was asked for as a number of percent, with all its digits: 0.9999 is no 100."""
    return f"{100 * share:.12g}"


def _escaped(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")

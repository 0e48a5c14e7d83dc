"""The catalogue: a room is its folder, a method is a file in it, and the file's name is its name everywhere.

Rooms are folders of kedge such as `scores` and `objectives`. A file whose name begins with `_` belongs to the room's
workshop. In `scores/energy.py` the method is the class or function called like the file, `Energy`; `info` beside it
says where it comes from, and the first line of the file what it is. Listing a room imports nothing, so that `--help`
needs no torch; asking for a method imports its own file.

    names("scores")                                   ["amp", "disagreement", "energy", ...]
    get("scores", "energy")                           the class Energy; "Energy" and "ENERGY" are the same name
"""

import ast
import inspect
import math
import re
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from kedge.own_code import check_allowed, imported, near_names

__all__ = [
    "Info",
    "argument_names",
    "arguments",
    "citations",
    "class_name",
    "class_names",
    "exported",
    "get",
    "info",
    "names",
    "ordered",
    "resolve",
    "singular",
    "stated",
    "summary",
]

HOME = Path(__file__).parent
CHECKED = ("code", "paper", "abstract", "derived", "own")


@dataclass(frozen=True)
class Info:
    """Where a method comes from.

    Attributes:
        title: of the paper, or what the method is called where there is none.
        authors: as cited, "Liu et al.".
        venue: "NeurIPS", "arXiv", ...
        year: of publication.
        url: of the paper.
        checked: what the formula rests on: "code" (the authors' or a well-kept implementation was compared), "paper"
            (read whole), "abstract", "derived" (from the mathematics) or "own" (kedge's own method).
    """

    title: str
    authors: str = ""
    venue: str = ""
    year: int | None = None
    url: str = ""
    checked: str = "paper"

    def __post_init__(self) -> None:
        if self.checked not in CHECKED:
            raise ValueError(f"checked must be one of {', '.join(CHECKED)}, got {self.checked!r}")

    @property
    def cite(self) -> str:
        """Authors, venue and year in a line, such as "Liu et al., NeurIPS 2020"."""
        when = " ".join(str(word) for word in (self.venue, self.year) if word)
        return ", ".join(word for word in (self.authors, when) if word)


@cache
def names(room: str) -> tuple[str, ...]:
    """The methods of a room by file name, sorted; `room` is a folder of kedge, "optim.rules" one inside another."""
    folder = HOME.joinpath(*room.split("."))
    if not folder.is_dir():
        raise ValueError(f"kedge has no room {room!r}")
    return tuple(sorted(f.stem for f in folder.glob("*.py") if not f.name.startswith("_")))


def ordered(room: str) -> tuple[str, ...]:
    """The methods of a room in the order of tables: by the number `place` that a file states, then by name."""
    return tuple(sorted(names(room), key=lambda name: (stated(room, name, "place", math.inf), name)))


def resolve(room: str, name: str) -> str:
    """The file name of a method that may be written otherwise: `CrossEntropy`, `cross-entropy`, `CROSS_ENTROPY`.

    Raises:
        ValueError: for a name that is none, with those that there are and the nearest.
    """
    for known in names(room):
        if _plain(known) == _plain(str(name)):
            return known
    near = near_names(str(name).lower().replace("-", "_"), list(names(room)))
    raise ValueError(f"{singular(room)} has no {name!r}; there are {', '.join(names(room))}{near}")


def get(room: str, name: str) -> Any:
    """The class or function of a method: by its name in the room, or `module:Class` of one's own.

    Raises:
        ValueError: for a name that is none; for one's own where nothing allowed that (`kedge.own_code.allow_code`).
    """
    if ":" in str(name):
        check_allowed(name, singular(room))
        return imported(name, singular(room))
    key = resolve(room, name)
    module = import_module(f"kedge.{room}.{key}")
    alike = [value for name, value in vars(module).items() if _plain(name) == _plain(key) and callable(value)]
    if not alike:
        raise AttributeError(f"{module.__file__} has no class or function that is called like the file")
    # What the file defines goes before what it imports, and a class before a function that it is about.
    return max(alike, key=lambda value: (value.__module__ == module.__name__, isinstance(value, type)))


def info(room: str, name: str) -> Info | None:
    """Where a method comes from; None for one's own that does not say."""
    method = get(room, name)
    origin: Info | None = getattr(sys.modules[method.__module__], "info", None)
    return origin


def exported(package: str, name: str) -> Any:
    """A method of a room as an attribute of its package, `kedge.scores.Energy`: for the package's `__getattr__`.

    Raises:
        AttributeError: for what is not the name of a class or function that a file of the room is called like.
    """
    room = package.removeprefix("kedge.")
    if not name.startswith("_") and _plain(name) in map(_plain, names(room)):
        method = get(room, name)
        if method.__name__ == name:
            return method
    raise AttributeError(f"module {package!r} has no attribute {name!r}")


def citations(methods: Iterable[Any]) -> list[dict[str, str]]:
    """What to cite for methods: {what, cite, url} for each paper, with all that are from it.

    Args:
        methods: classes, functions or objects made by them; those whose file names no paper are left out.
    """
    papers: dict[Info, list[Any]] = {}
    for method in methods:
        file = sys.modules.get(str(getattr(method, "__module__", None)))
        origin = getattr(file, "info", None)
        if isinstance(origin, Info) and origin.url and file not in papers.setdefault(origin, []):
            papers[origin].append(file)
    return [{"what": _several(files), "cite": origin.cite, "url": origin.url} for origin, files in papers.items()]


def _several(files: list[Any]) -> str:
    """What methods are: the first lines of their files, or of many how many of which room."""
    if len(files) > 2:
        return f"{len(files)} {files[0].__package__.rpartition('.')[2].replace('_', ' ')}"
    return "; ".join((file.__doc__ or "").partition("\n")[0].rstrip(".") for file in files)


@cache
def class_names(room: str) -> tuple[str, ...]:
    """What the classes or functions of a room's methods are called, `CrossEntropy`, read without importing them."""
    called = []
    for name in names(room):
        text = HOME.joinpath(*room.split("."), f"{name}.py").read_text(encoding="utf-8")
        defined = re.findall(r"^(?:class|def) (\w+)", text, re.MULTILINE)
        called += [each for each in defined if _plain(each) == _plain(name)][:1]
    return tuple(called)


def class_name(room: str, name: str) -> str:
    """What the class of a method is called, of any way of writing its name; a name that is none as it is."""
    return next((known for known in class_names(room) if _plain(known) == _plain(name)), name)


def summary(room: str, name: str) -> str:
    """What a method is: the first line of its file, read without importing it."""
    match = re.match(r'\s*"""(.*?)("""|\n)', _text(room, name))
    return match[1].strip() if match else ""


def stated(room: str, name: str, variable: str, default: Any = None) -> Any:
    """The literal that a method's file, or its class in it, gives to a variable, read without importing it.

    Without one it is `default`, also where a class inherits another value.
    """
    text = _text(room, name)
    attributes = "".join(re.findall(r"^class .*?(?=^    (?:def |@)|\Z)", text, re.MULTILINE | re.DOTALL))
    for source, indent in ((text, ""), (attributes, "    ")):
        if match := re.search(rf"^{indent}{variable} = ", source, re.MULTILINE):
            return _literal(source[match.end() :].splitlines())
    return default


def _text(room: str, name: str) -> str:
    return _read(HOME.joinpath(*room.split("."), f"{resolve(room, name)}.py"))


@cache
def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _literal(lines: list[str]) -> Any:
    """The literal that begins in the first line. (To parse whole files would cost the help a tenth of a second.)"""
    for count in range(1, len(lines)):
        try:
            return ast.literal_eval("\n".join(lines[:count]))
        except SyntaxError:  # it goes on in the next line
            continue
    return ast.literal_eval("\n".join(lines))


@cache
def argument_names(room: str, name: str) -> tuple[str, ...]:
    """The arguments of a method, or of `for_run` beside it, as its file writes them, which is read without importing.

    Arguments that a class takes on to the one that it extends are not among them. Only of a class that has no arguments
    of its own, but those of the one that it extends, the file is imported.
    """
    nodes = [node for node in ast.parse(_text(room, name)).body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    for node in sorted(nodes, key=lambda node: node.name != "for_run"):
        if node.name != "for_run" and _plain(node.name) != _plain(name):
            continue
        inits = [n for n in node.body if isinstance(n, ast.FunctionDef) and n.name == "__init__"]
        if isinstance(node, ast.ClassDef) and not inits:
            return tuple(arguments(get(room, name)))
        function = node if isinstance(node, ast.FunctionDef) else inits[0]
        names = [a.arg for a in (*function.args.args, *function.args.kwonlyargs)]
        return tuple(n for n in names if n != "self")
    return ()


def arguments(method: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """The arguments of a class or function by name, in order; with **kwargs those of the class that it extends too."""
    if not isinstance(method, type):
        return _named(inspect.signature(method).parameters.values())
    named: dict[str, inspect.Parameter] = {}
    for each in method.__mro__:
        if each is object or (own := vars(each).get("__init__")) is None:  # that of object is slow to read, and empty
            continue
        parameters = list(inspect.signature(own).parameters.values())[1:]
        named = named | {key: value for key, value in _named(parameters).items() if key not in named}
        if all(p.kind != p.VAR_KEYWORD for p in parameters):
            break
    return named


def _named(parameters: Any) -> dict[str, inspect.Parameter]:
    return {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def _plain(name: str) -> str:
    """A name without what differs between ways of writing it."""
    return name.replace("_", "").replace("-", "").lower()


def singular(room: str) -> str:
    """What a method of a room is called in messages: "objective" for "objectives", "optim rule"."""
    text = room.replace(".", " ").replace("_", " ")
    return text[:-1] if text.endswith("s") and not text.endswith("ss") else text

"""The catalogue: a room is its folder, a method is a file in it, and the file's name is its name everywhere.

Rooms are folders of kedge such as `scores` and `objectives`. A file whose name begins with `_` belongs to the room's
workshop. In `scores/energy.py` the method is the class or function called like the file, `Energy`; `info` beside it
says where it comes from, and the first line of the file what it is. Listing a room imports nothing, so that `--help`
needs no torch; asking for a method imports its own file.

    names("scores")                                   ["amp", "disagreement", "energy", ...]
    get("scores", "energy")                           the class Energy; "Energy" and "ENERGY" are the same name
    build("attacks", {"pgd": {"eps": 0.03}})          PGD(eps=0.03)
"""

import ast
import inspect
import math
import re
import sys
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from kedge.own_code import check_allowed, imported, near_names

__all__ = [
    "Info",
    "Part",
    "argument_names",
    "arguments",
    "build",
    "citations",
    "class_name",
    "class_names",
    "exported",
    "get",
    "info",
    "names",
    "ordered",
    "parts",
    "resolve",
    "spelled",
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
    raise ValueError(f"{_words(room)} has no {name!r}; there are {', '.join(names(room))}{near}")


def get(room: str, name: str) -> Any:
    """The class or function of a method: by its name in the room, or `module:Class` of one's own.

    Raises:
        ValueError: for a name that is none; for one's own where nothing allowed that (`kedge.own_code.allow_code`).
    """
    if ":" in str(name):
        check_allowed(name, _words(room))
        return imported(name, _words(room))
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


@dataclass(frozen=True)
class Part:
    """A method that a spec names, and what is written for it there."""

    room: str
    name: str
    method: Any
    values: dict[str, Any]

    @property
    def arguments(self) -> dict[str, inspect.Parameter]:
        """The arguments of the method by name."""
        return arguments(self.method)

    def missing(self, count: int = 0, known: Iterable[str] = ()) -> list[str]:
        """The arguments without a default that nothing is written for, but for the first `count` and those `known`."""
        needed = [key for key, argument in self.arguments.items() if argument.default is argument.empty]
        return [key for key in needed if key not in self.values and key not in known][count:]

    def say_missing(self, names: list[str]) -> str:
        """What to write where arguments are missing."""
        written = ", ".join(f"{name}: ..." for name in names)
        return f"{_words(self.room)} {self.name} needs {' and '.join(names)}: {{{self.name}: {{{written}}}}}"

    @property
    def kinds(self) -> dict[str, tuple[Any, ...]]:
        """The types that each argument is annotated with, those of a union apart."""
        return _kinds(self.method)

    @property
    def rooms(self) -> dict[str, str]:
        """The room that a value is looked up in, of each argument that is built from a spec of its own."""
        rooms = {key: _room(self.kinds.get(key, ()), value) for key, value in self.values.items()}
        return {key: room for key, room in rooms.items() if room is not None}

    def check_arguments(self) -> None:
        """Raise ValueError for a value that is written for no argument of the method."""
        known = self.arguments
        for key in self.values:
            if key not in known:
                raise ValueError(
                    f"{_words(self.room)} {self.name} has no argument {key!r}{near_names(key, list(known))}"
                )

    def make(self, *inner: Any, builders: Mapping[type, Callable[[Any], Any]] | None = None, **context: Any) -> Any:
        """What the method makes; see `build`."""
        self.check_arguments()
        known, kinds = self.arguments, self.kinds
        values = {
            key: _value(kinds.get(key, ()), value, f"{self.name}: {key}", builders or {}, context)
            for key, value in self.values.items()
        }
        values |= {key: value for key, value in context.items() if key in known and key not in values}
        if missing := self.missing(len(inner), values):
            raise ValueError(self.say_missing(missing))
        try:
            return self.method(*inner, **values)
        except TypeError as error:
            raise ValueError(f"{_words(self.room)} {self.name} cannot be made with {self.values}: {error}") from error


def parts(room: str, spec: Any) -> list[Part]:
    """The methods that a spec names, itself first, then those that its arguments are built from; nothing is built.

    Raises:
        ValueError: for a name or an argument that cannot be, naming it.
    """
    part = _part(room, spec)
    listed = [part]
    for key, of in part.rooms.items():
        try:
            listed += parts(of, part.values[key])
        except ValueError as error:
            raise ValueError(f"{part.name}: {key}: {error}") from error
    return listed


def build(
    room: str, spec: Any, *inner: Any, builders: Mapping[type, Callable[[Any], Any]] | None = None, **context: Any
) -> Any:
    """Make a method from how a recipe names it: `name`, or `{name: {argument: value}}`.

    An argument whose type is the base of a room (a class that has `room`) is built from its own spec, and one whose
    type is in `builders` by that: a model from its name, a set from its folder. What the run knows, `context`, goes to
    the arguments of that name that the spec leaves out.

    Args:
        room: where the name is looked up.
        spec: the name or the mapping of one name to arguments.
        inner: what comes before the arguments: the objective or optimizer that is wrapped.
        builders: by type, what makes an argument of that type from what stands in the spec.
        context: by name, such as labels, classes, eps.

    Raises:
        ValueError: for a name, an argument or a value that cannot be, naming it.
    """
    return _part(room, spec).make(*inner, builders=builders, **context)


def spelled(room: str, spec: Any) -> tuple[str, dict[str, Any]]:
    """The name and the arguments in a spec. Raises ValueError for what is neither a name nor a name with arguments."""
    if isinstance(spec, str):
        return spec, {}
    if isinstance(spec, Mapping) and len(spec) == 1:
        name, values = next(iter(spec.items()))
        if isinstance(name, str) and (values is None or isinstance(values, Mapping)):
            return name, dict(values or {})
    raise ValueError(f"{_words(room)} is named as NAME or {{NAME: {{argument: value}}}}, not {spec!r}")


def _part(room: str, spec: Any) -> Part:
    """The method that a spec names, with the arguments that it has."""
    name, values = spelled(room, spec)
    part = Part(room, name, get(room, name), values)
    part.check_arguments()
    return part


def _room(kinds: tuple[Any, ...], value: Any) -> str | None:
    """The room that a value, as it is written, is looked up in, by the types of its argument; None if it is in none."""
    if not isinstance(value, str | Mapping):
        return None
    return next((room for kind in kinds if isinstance(room := getattr(kind, "room", None), str)), None)


def _value(
    kinds: tuple[Any, ...], value: Any, place: str, builders: Mapping[type, Callable[[Any], Any]], context: Any
) -> Any:
    if not isinstance(value, str | Mapping):
        return value
    builder = next((builders[kind] for kind in kinds if kind in builders), None)
    room = _room(kinds, value)
    try:
        if builder is not None:
            return builder(value)
        if room is not None:
            return build(room, value, builders=builders, **context)
        if isinstance(value, str) and float in kinds and str not in kinds:
            from kedge.epsilon import parse_number  # not before a number is written so: every command reads this file

            return parse_number(value)
    except ValueError as error:
        raise ValueError(f"{place}: {error}") from error
    return value


def _kinds(method: Any) -> dict[str, tuple[Any, ...]]:
    """The types that each argument is annotated with, those of a union apart."""
    owners = method.__mro__[::-1] if isinstance(method, type) else ()
    hints: dict[str, Any] = {}
    for function in [own for each in owners if (own := vars(each).get("__init__"))] or [method]:
        try:
            hints |= typing.get_type_hints(function)
        except (NameError, TypeError, AttributeError):  # annotated with what is imported for types alone
            continue
    unions = (types.UnionType, typing.Union)
    return {k: typing.get_args(h) if typing.get_origin(h) in unions else (h,) for k, h in hints.items()}


def _named(parameters: Any) -> dict[str, inspect.Parameter]:
    return {p.name: p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}


def _plain(name: str) -> str:
    """A name without what differs between ways of writing it."""
    return name.replace("_", "").replace("-", "").lower()


def _words(room: str) -> str:
    """What a method of a room is called in messages: "objective" for "objectives", "optim rule"."""
    words = room.replace(".", " ").replace("_", " ")
    return words[:-1] if words.endswith("s") and not words.endswith("ss") else words

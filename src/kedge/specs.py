"""Methods made from how a recipe names them: `name`, or `{name: {argument: value}}`, arguments from specs of their own.

build("attacks", {"pgd": {"eps": 0.03}})          PGD(eps=0.03)
parts("objectives", {"anchored": {...}})          what such a spec names, with what is written for it; nothing built
"""

import inspect
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from kedge.catalog import arguments, get, singular
from kedge.own_code import near_names

__all__ = ["Part", "build", "parts", "spelled"]


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
        return f"{singular(self.room)} {self.name} needs {' and '.join(names)}: {{{self.name}: {{{written}}}}}"

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
                    f"{singular(self.room)} {self.name} has no argument {key!r}{near_names(key, list(known))}"
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
            raise ValueError(f"{singular(self.room)} {self.name} cannot be made with {self.values}: {error}") from error


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
    raise ValueError(f"{singular(room)} is named as NAME or {{NAME: {{argument: value}}}}, not {spec!r}")


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

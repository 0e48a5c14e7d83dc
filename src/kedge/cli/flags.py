"""A command is a function `run`: its signature and docstring become its flags and their help, and a call of it again.

What may come before the names of flags is positional. `Sequence[str]` takes one word or several, a `bool` is a switch,
literals are choices, and so are the methods of a room: `Annotated[str, ROOM]`.
In the docstring `name (METAVAR): ...` says what a value is called, and `{NAME}` stands for what `help_words` has
under that name.
"""

import argparse
import inspect
import math
import re
import shlex
import sys
from collections import abc
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from jsonargparse import ArgumentParser, DefaultHelpFormatter, set_loader

from kedge import catalog
from kedge.cli import help_words
from kedge.own_code import near_names

__all__ = ["call", "check_range", "command_line", "command_words", "parser_of"]

_ARGUMENT = re.compile(r"^    (\w+)(?: \((.+?)\))?: (.+(?:\n {8}.*)*)", re.MULTILINE)
UNIONS = (Union, UnionType)
_NULL = "tag:yaml.org,2002:null"
KINDS = {"NoneType": "null", "list": "a list such as [a, b]", "int": "a whole number", "float": "a number"}
KINDS |= {"dict": "a mapping such as {width: 16}", "bool": "true or false", "str": "text"}
_LARGE = 10**9
# (least, most) of each option, by its name; what an option means in one command alone is checked there.
RANGES: dict[str, tuple[float, float]] = {
    "batch_size": (1, 1_000_000),
    "workers": (0, 256),
    "limit": (1, _LARGE),
    "calibration": (1, _LARGE),
    "bound": (0, math.inf),
    "steps": (1, 10_000),
    "attack_images": (1, _LARGE),
    "bn_images": (2, _LARGE),
    "references": (1, 100_000),
    "severity": (1, 5),
    "epochs": (1, 1_000_000),
    "jobs": (1, 1024),
    "devices": (1, 1024),
    "nodes": (1, 100_000),
    "draws": (1, 1000),
    "drawn": (1, 10_000),
    "images": (1, _LARGE),
    "seeds": (1, 10_000),
    "neighbours": (1, _LARGE),
    "borrow": (0, _LARGE),
    "photos": (1, _LARGE),
    "profile_images": (20, _LARGE),
    "samples": (1, 1_000_000),
    "port": (0, 65535),
    "seed": (-(2**63), 2**63 - 1),
}


class _Formatter(DefaultHelpFormatter):
    """Fills paragraphs one by one, and leaves those with indented lines, such as examples, as they are."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        return "\n\n".join(p if "\n  " in p else fill(p, width, indent) for p in text.split("\n\n"))


def module_of(command: str) -> str:
    """The module of a command, `check_data` of `check-data`."""
    return f"kedge.cli.{command.replace('-', '_')}"


def parser_of(command: str) -> ArgumentParser:
    """The flags of a command."""
    module = import_module(module_of(command))
    if hasattr(module, "parser"):
        own: ArgumentParser = module.parser()
        return own
    about, _, rest = _filled(inspect.cleandoc(module.run.__doc__)).partition("\n\nArgs:\n")
    arguments, _, epilog = rest.partition("\n\n")
    texts = {match[1]: (match[2], " ".join(match[3].split())) for match in _ARGUMENT.finditer(arguments)}
    parser = ArgumentParser(prog=f"kedge {command}", description=about, epilog=epilog, formatter_class=_Formatter)
    usage = [parser.prog]
    for name, parameter in inspect.signature(module.run).parameters.items():
        metavar, text = texts[name]
        settings = {**_settings(parameter), "help": text}
        if metavar:
            settings["metavar"] = metavar
        if parameter.kind == parameter.KEYWORD_ONLY:
            parser.add_argument(f"--{name.rstrip('_')}", dest=name, **settings)
            continue
        if parameter.default is None:
            settings["nargs"] = "?"
        many = {"?": f"[{metavar}]", "+": f"{metavar} [{metavar} ...]"}
        usage.append(many.get(settings.get("nargs", ""), metavar))
        parser.add_argument(name, **settings)
    parser.usage = " ".join([*usage, "[options]"])
    return parser


def call(command: str, arguments: Sequence[str]) -> int:
    """Run a command with words as they stand on the command line; 2 after saying what is wrong with them.

    Raises:
        ValueError: as of `options_of`.
    """
    options = options_of(command, arguments)
    return options if isinstance(options, int) else int(import_module(module_of(command)).run(**options))


def options_of(command: str, arguments: Sequence[str]) -> dict[str, Any] | int:
    """The arguments of a command's `run`, of words as they stand on the command line; 2 after saying what is wrong.

    Raises:
        ValueError: a number is out of its range, a device is not here.
    """
    parser = parser_of(command)
    if (place := _empty(arguments)) is not None:
        return _wrong(parser, f"{place} is empty: is a shell variable unset? Say what is meant, or leave it out")
    set_loader("kedge", value_as_written, (yaml.YAMLError,))
    parser.parser_mode = "kedge"
    parser.exit_on_error = False  # else jsonargparse prints the whole usage above each error
    parser.allow_abbrev = False
    try:
        options: dict[str, Any] = parser.parse_args([_underscored(argument) for argument in arguments]).as_dict()
    except argparse.ArgumentError as error:
        return _wrong(parser, _readable(str(error), list(parser._option_string_actions)))
    module = import_module(module_of(command))
    if not hasattr(module, "parser"):
        _check(options)
    return options


def _check(options: dict[str, Any]) -> None:
    for name, (low, high) in RANGES.items():
        check_range(name, options.get(name), low, high)
    if options.get("device") not in (None, "auto", "cpu"):
        from kedge.devices import chosen_device

        chosen_device(options["device"])


def check_range(name: str, value: Any, low: float, high: float) -> None:
    """Raise ValueError for a number that is out of its range."""
    if isinstance(value, int | float) and not low <= value <= high:  # not of NaN
        written = f"{value:g}" if isinstance(value, float) and math.isfinite(value) else str(value)
        limit = f"{low:g} or more" if value < low else f"{low:g} to {high:,.0f}"
        raise ValueError(f"--{name} must be {limit}, got {written}")


def changed(run: Callable[..., Any], options: Mapping[str, Any]) -> list[str]:
    """The options of a command that differ from what they are when left out, in the order of its signature."""

    def plain(value: Any) -> Any:
        return list(value) if isinstance(value, tuple) else value

    parameters = inspect.signature(run).parameters
    return [name for name, each in parameters.items() if plain(options.get(name)) != plain(each.default)]


def command_words(command: str, options: Mapping[str, Any]) -> list[str]:
    """The words of the call of a command with these options, without `kedge`: what differs from the defaults."""
    words = [command]
    run = import_module(module_of(command)).run
    differing = changed(run, options)
    for name, parameter in inspect.signature(run).parameters.items():
        value = options.get(name)
        if value is None:
            continue
        values = [str(each) for each in value] if isinstance(value, list | tuple) else [str(value)]
        if parameter.kind != parameter.KEYWORD_ONLY:
            words += values
        elif name in differing:
            words += [f"--{name.rstrip('_')}", *([] if value is True else values)]
    return words


def command_line(command: str, options: Mapping[str, Any]) -> str:
    """The line that calls a command with these options again."""
    return shlex.join(["kedge", *command_words(command, options)])


def value_as_written(text: str) -> Any:
    """A value on the command line: as YAML, but entries of a list of scalars as they are written.

    Only the word `null` itself is None; what YAML would read as nothing or as a comment, `~` and `#1`, is text.
    Raises yaml.YAMLError.
    """
    if text.strip().startswith(("#", "!", "&", "*")):  # to YAML a comment, a type, a mark: nothing that stands alone
        return text
    loader = yaml.SafeLoader(text)
    try:
        root = loader.get_single_node()
        if root is None or (root.tag == _NULL and root.value != "null"):
            return text
        if isinstance(root, yaml.SequenceNode) and all(isinstance(entry, yaml.ScalarNode) for entry in root.value):
            return [entry.value for entry in root.value]
        return loader.construct_document(root)
    finally:
        loader.dispose()


def _settings(parameter: inspect.Parameter) -> dict[str, Any]:
    """What `add_argument` is to know of the values of a parameter."""
    kind, default = parameter.annotation, parameter.default
    if kind is bool:
        return {"action": "store_true"}
    usual = {} if default is parameter.empty else {"default": list(default) if isinstance(default, tuple) else default}
    kinds = [each for each in get_args(kind) if each is not NoneType] if get_origin(kind) in UNIONS else [kind]
    values, origin = get_args(kinds[0]), get_origin(kinds[0]) if len(kinds) == 1 else None
    if origin is Annotated:
        return {"choices": list(catalog.names(values[1])), **usual}
    if origin is Literal:
        return {"choices": list(values), **usual}
    text = {"type": str} if parameter.kind == parameter.KEYWORD_ONLY else {}  # that names are text needs no words
    if origin is abc.Sequence:
        return {**text, "nargs": "+", **usual}
    return {**text, **usual} if kind is str else {"type": kind, **usual}


def _filled(text: str) -> str:
    def words(match: re.Match[str]) -> str:
        value = getattr(help_words, match[1])
        return str(value() if callable(value) else value)

    return re.sub(r"\{([A-Za-z_]+)\}", words, text)


def _empty(arguments: Sequence[str]) -> str | None:
    """Which argument is an empty text, as an unset variable leaves it; None if all say something, as all must."""
    option = None
    for place, argument in enumerate(arguments, 1):
        name, equals, value = argument.partition("=")
        if name.startswith("--"):
            option = name
            if equals and not value.strip():
                return name
        elif not argument.strip():
            return option or f"argument {place}"
    return None


def _underscored(argument: str) -> str:
    """`--init-from` is `--init_from`: either way of writing an option is right."""
    name, equals, value = argument.partition("=")
    return f"{name.replace('-', '_').replace('__', '--', 1)}{equals}{value}" if name.startswith("--") else argument


def _readable(message: str, options: list[str]) -> str:
    """Say what is wrong in one line, with the option that was probably meant."""
    if match := re.match(r"unrecognized arguments: (.*)", message):
        first = match[1].split()[0].partition("=")[0] if match[1].strip() else ""
        return f"unknown argument: {match[1]}{near_names(first, options, 1) if first.startswith('-') else ''}"
    if match := re.search(r'Parser key "([^"]+)":(.*)', message, re.DOTALL):
        value = re.search(r"Given value: (.*)", match[2], re.DOTALL)
        alone = re.search(r"Expected a (<class '\w+'>)\. Got value: (.*)", match[2], re.DOTALL)
        if alone and not value:  # of an option with a single type
            value = re.search(r"Got value: (.*)", match[2], re.DOTALL)
        kinds = [alone[1]] if alone else re.findall(r"- Expected (?:a )?(.+)", match[2])
        kinds = [re.sub(r"^<class '(\w+)'>.*$", r"\1", kind) for kind in kinds]
        kinds = [" or ".join(re.findall(r"'([^']*)'", kind)) if "Literal[" in kind else kind for kind in kinds]
        if value and kinds:
            expected = " or ".join(dict.fromkeys(KINDS.get(kind, kind) for kind in kinds))
            return f"--{match[1]} cannot be {value[1].strip()!r}: expected {expected}"
        return f"--{match[1]}: {' '.join(match[2].split())}"
    return message


def _wrong(parser: ArgumentParser, message: str) -> int:
    print(f"{parser.prog}: {message}\n{parser.prog} --help lists the options", file=sys.stderr)
    return 2

"""The `kedge` command: one module per subcommand, imported when it is asked for.

Each module has `parser() -> jsonargparse.ArgumentParser` and `run(config) -> int`, where `config` is what the parser
made of the command line and the int is the exit status. Nothing slow is imported at the top of any of them.

Exit status: 0 done, 1 it failed, 2 the command line was wrong, 130 interrupted.
"""

import difflib
import os
import re
import sys
from collections.abc import Iterable, Sequence
from importlib import import_module
from typing import Any

from kedge.cli.output import gone, plain_output

__all__ = ["COMMANDS", "main"]

COMMANDS = {
    "quickstart": "train and compare standard and anchored models on digits, in a minute or two",
    "train": "train a model on a folder of images, or by a recipe",
    "evaluate": "measure how far to trust one or several models; write the report",
    "reproduce": "run an experiment of a paper again, and set our numbers beside its figures",
    "adapt": "take a trained model to a new task: probes, fine-tuning, few images",
    "interpolate": "average the weights of two models, and choose how much of each",
    "calibrate": "make a model's confidence fit, on validation images; or undo that",
    "predict": "label images, with confidence, uncertainty and reject",
    "export": "write a model as ONNX or torch.export, checked",
    "card": "write a model card: what it is, how it did, what it holds",
    "push": "publish a model on the Hugging Face hub, without training photos unless they may go",
    "methods": "list every method, with its paper and settings",
    "version": "versions of kedge and of the libraries it runs on",
}
KINDS = {"NoneType": "null", "list": "a list such as [a, b]", "int": "a whole number", "float": "a number"}
KINDS |= {"dict": "a mapping such as {width: 16}", "bool": "true or false", "str": "text"}
USAGE = """usage: kedge [--debug] COMMAND ...

Image classifiers that generalise under shift, are calibrated, and know what they do not know.

commands:
{commands}

kedge COMMAND --help lists the options of a command. --debug (or KEDGE_DEBUG=1) shows where an error came from."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command of `argv` (default: that of the process) and return its exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = os.environ.get("KEDGE_DEBUG", "") not in ("", "0") or "--debug" in arguments
    arguments = [argument for argument in arguments if argument != "--debug"]
    command = arguments[0] if arguments and arguments[0] in COMMANDS else ""
    with plain_output():
        try:
            try:
                return _run(command, arguments[1:]) if command else _about(arguments)
            finally:
                sys.stdout.flush()  # what comes of it, such as a full disk, is to be said here
        except KeyboardInterrupt as stop:
            print(f"\nkedge {command}: {str(stop) or 'interrupted'}", file=sys.stderr)
            return 130
        except Exception as error:
            if isinstance(error, OSError) and gone():  # whoever read our output, as `head` does: nobody is to be told
                return 1
            if debug:
                raise
            from kedge.cli.failing import in_words

            print(f"{f'kedge {command}'.strip()}: {in_words(error)}", file=sys.stderr)
            return 1


def _about(arguments: list[str]) -> int:
    """What there is to say without a command."""
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        width = max(map(len, COMMANDS))
        print(USAGE.format(commands="\n".join(f"  {name:<{width}}  {what}" for name, what in COMMANDS.items())))
        return 0 if arguments else 2
    if arguments[0] == "--version":
        from kedge._version import __version__

        print(__version__)
        return 0
    return _wrong("kedge", f"there is no command {arguments[0]!r}.{_near(arguments[0], COMMANDS)} See kedge --help")


def _run(command: str, rest: list[str]) -> int:
    from kedge.memory import keep_freed_memory

    keep_freed_memory()  # before torch makes a tensor; the process is ours
    module = import_module(f"kedge.cli.{command}")
    config = _parse(module.parser(), rest)
    return config if isinstance(config, int) else int(module.run(config))


def _parse(parser: Any, arguments: list[str]) -> Any:
    """The parsed command line; or, of a wrong one, the exit status after saying what is wrong."""
    from argparse import ArgumentError

    if (where := _empty(arguments)) is not None:
        return _wrong(parser.prog, f"{where} is empty: is a shell variable unset? Say what is meant, or leave it out")
    from jsonargparse import set_loader
    from yaml import YAMLError

    from kedge.cli.as_written import value_as_written

    set_loader("kedge", value_as_written, (YAMLError,))
    parser.parser_mode = "kedge"
    parser.exit_on_error = False  # else jsonargparse prints the whole usage above each error
    parser.allow_abbrev = False
    try:
        return parser.parse_args([_underscored(argument) for argument in arguments])
    except ArgumentError as error:
        return _wrong(parser.prog, _readable(str(error), list(parser._option_string_actions)))


def _empty(arguments: list[str]) -> str | None:
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
    if found := re.match(r"unrecognized arguments: (.*)", message):
        first = found[1].split()[0].partition("=")[0] if found[1].strip() else ""
        hint = _near(first, options) if first.startswith("-") else ""
        return f"unknown argument: {found[1]}.{hint}"
    if found := re.search(r'Parser key "([^"]+)":(.*)', message, re.DOTALL):
        seen = re.search(r"Given value: (.*)", found[2], re.DOTALL)
        alone = re.search(r"Expected a (<class '\w+'>)\. Got value: (.*)", found[2], re.DOTALL)
        if alone and not seen:  # of an option with a single type
            seen = re.search(r"Got value: (.*)", found[2], re.DOTALL)
        kinds = [alone[1]] if alone else re.findall(r"- Expected (?:a )?(.+)", found[2])
        kinds = [re.sub(r"^<class '(\w+)'>.*$", r"\1", kind) for kind in kinds]
        kinds = [" or ".join(re.findall(r"'([^']*)'", kind)) if "Literal[" in kind else kind for kind in kinds]
        if seen and kinds:
            wanted = " or ".join(dict.fromkeys(KINDS.get(kind, kind) for kind in kinds))
            return f"--{found[1]} cannot be {seen[1].strip()!r}: expected {wanted}"
        return f"--{found[1]}: {' '.join(found[2].split())}"
    return message


def _near(word: str, known: Iterable[str]) -> str:
    matches = difflib.get_close_matches(word, list(known), n=1)
    return f" Did you mean {matches[0]}?" if matches else ""


def _wrong(program: str, message: str) -> int:
    print(f"{program}: {message}", file=sys.stderr)
    if program != "kedge":
        print(f"{program} --help lists the options", file=sys.stderr)
    return 2

"""The `kedge` command: one module per subcommand, imported when it is asked for.

Each module has a function `run`, whose signature and docstring are the flags and the help (see `flags`), and which
returns the exit status. Nothing slow is imported at the top of any of them.

Exit status: 0 done, 1 it failed (of check 2: 1 is a verdict there), 2 the command line was wrong, 130 interrupted.
"""

import gc
import os
import sys
from collections.abc import Sequence

from kedge.cli.output import gone, in_words, plain_output

__all__ = ["COMMANDS", "main", "own_process"]

COMMANDS = {
    "quickstart": "train and compare standard and anchored models on digits, in a minute or two",
    "train": "train a model on a folder of images, or by a recipe",
    "evaluate": "measure how far to trust one or several models; write the report",
    "subgroups": "whether accuracy on one group of images tells that on another, over snapshots",
    "features": "how the features of a network changed in a training, layer by layer",
    "reproduce": "run an experiment of a paper again, and set our numbers beside its figures",
    "adapt": "take a trained model to a new task: probes, fine-tuning, few images",
    "interpolate": "average the weights of two models, and choose how much of each",
    "check": "say whether a model meets the bars set for it: a gate for CI",
    "calibrate": "make a model's confidence fit, on validation images; or undo that",
    "compare": "say whether new images differ from earlier ones, and in what; no labels needed",
    "cascade": "let a small model answer where it is sure, a large one the rest",
    "check-data": "decode every image before you train: counts, copies, damaged and unread files",
    "audit": "look through a data set: copies, wrong labels, bad photos, hard and memorised images",
    "select": "choose the images worth training on, and list suspicious labels",
    "predict": "label images, with confidence, uncertainty and reject",
    "demo": "try a model on a page of this machine: drop a photo, see the answer and why",
    "export": "write a model as ONNX or torch.export, checked",
    "card": "write a model card: what it is, how it did, what it holds",
    "push": "publish a model on the Hugging Face hub, without training photos unless they may go",
    "methods": "list every method, with its paper and settings",
    "completion": "print what makes bash, zsh or fish complete commands and flags",
    "version": "versions of kedge and of the libraries it runs on",
}
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
            print(f"{f'kedge {command}'.strip()}: {in_words(error)}", file=sys.stderr)
            return _status_of_errors(command)


def _status_of_errors(command: str) -> int:
    """1, or what the module of the command says, where 1 means something else."""
    return int(getattr(sys.modules.get(f"kedge.cli.{command}"), "BROKEN", 1))


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
    from kedge.own_code import near_names

    near = near_names(arguments[0], list(COMMANDS), 1)
    print(f"kedge: there is no command {arguments[0]!r}{near or '.'} See kedge --help", file=sys.stderr)
    return 2


def _run(command: str, arguments: list[str]) -> int:
    from kedge.cli.flags import call

    own_process()
    return call(command, arguments)


def own_process() -> None:
    """Set what the command sets for its process before torch is imported: how memory is kept, garbage looked for."""
    from kedge.memory import keep_freed_memory

    keep_freed_memory()  # before torch makes a tensor
    gc.set_threshold(10_000, 10, 10)  # objects of imports stay: looking through them every 700 is a seventh of a start

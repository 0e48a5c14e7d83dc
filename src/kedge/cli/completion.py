"""`kedge completion`: what a shell needs to complete commands and flags."""

import argparse
from typing import Literal

from kedge.cli import COMMANDS
from kedge.cli.flags import parser_of

# Names of runs stand for their folders; where a model is asked for, files are offered too.
_RUNS = {
    "bash": """
_kedge_runs() {
  local runs=()
  for run in runs/*/; do [ -d "$run" ] && run=${run%/} && runs+=("${run##*/}"); done
  compgen -W "${runs[*]}" -- "$1"
  compgen -f -- "$1"
}
""",
    "zsh": """
_kedge_runs() {
  local -a runs=(runs/*(N/:t))
  (( ${#runs} )) && compadd -a runs
  _files
}
""",
    "fish": """
function _kedge_runs
  for run in runs/*/; string replace -r '^runs/(.*)/$' '$1' -- $run; end
  __fish_complete_path (commandline -ct)
end
""",
}
_CALLS = {"bash": "_kedge_runs", "zsh": "_kedge_runs", "fish": "(_kedge_runs)"}
_OF_RUNS = {"run", "runs", "model", "models", "source", "before", "after", "small", "large", "resume", "init_from"}


def run(shell: Literal["bash", "zsh", "fish"]) -> int:
    """Print what makes a shell complete commands and flags of kedge.

    It is a script that the shell reads once when it starts; nothing of kedge runs when you press Tab.

    Args:
        shell (SHELL): bash, zsh or fish

    Examples:
        kedge completion bash > ~/.local/share/bash-completion/completions/kedge
        kedge completion zsh > ~/.zfunc/_kedge        with fpath+=(~/.zfunc) before compinit in ~/.zshrc
        kedge completion fish > ~/.config/fish/completions/kedge.fish
    """
    import shtab

    parser = argparse.ArgumentParser(prog="kedge")
    commands = parser.add_subparsers()
    for name, about in COMMANDS.items():
        commands.add_parser(name, help=about, add_help=False)
        one = parser_of(name)
        for action in one._actions:
            action.help = (action.help or "").partition(";")[0].replace("%", "%%")
            if action.dest in _OF_RUNS:
                action.complete = _CALLS  # type: ignore[attr-defined]
            elif action.choices is None and action.nargs != 0:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
        commands.choices[name] = one
    print(shtab.complete(parser, shell=shell, preamble=_RUNS[shell]))
    return 0

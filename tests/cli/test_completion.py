import shutil
import subprocess

import pytest

from kedge.cli import COMMANDS
from kedge.cli.flags import parser_of


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    """What `kedge completion` prints, as files, by shell."""
    from contextlib import redirect_stdout

    from kedge.cli.flags import call

    folder = tmp_path_factory.mktemp("completion")
    for shell in ("bash", "zsh", "fish"):
        with (folder / shell).open("w") as file, redirect_stdout(file):
            assert call("completion", [shell]) == 0
    return folder


def completed(scripts, folder, *words):
    """What bash offers for the last of the words behind `kedge`."""
    before = words[-2] if len(words) > 1 else "kedge"
    program = (
        'source "$1"; shift; last=$1; before=$2; shift 2; COMP_WORDS=(kedge "$@"); COMP_CWORD=$#\n'
        '_shtab_kedge kedge "$last" "$before"; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    line = ["bash", "-c", program, "bash", str(scripts / "bash"), words[-1], before, *words]
    done = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_commands_flags_choices_runs_and_files(scripts, tmp_path):
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "minutes.onnx").write_text("")
    assert completed(scripts, tmp_path, "c") == [name for name in COMMANDS if name.startswith("c")]
    flags = [flag for action in parser_of("evaluate")._actions for flag in action.option_strings]
    assert set(completed(scripts, tmp_path, "evaluate", "--")) == {flag for flag in flags if flag.startswith("--")}
    assert completed(scripts, tmp_path, "export", "mine", "--to", "o") == ["onnx"]
    assert completed(scripts, tmp_path, "evaluate", "mi") == ["mine", "minutes.onnx"]
    assert completed(scripts, tmp_path / "runs", "evaluate", "mi") == ["mine"]  # the folder itself, as a file


def test_every_command_has_its_flags_in_all(scripts):
    for shell in ("bash", "zsh", "fish"):
        text = (scripts / shell).read_text()
        for name in COMMANDS:
            assert name in text
            for action in parser_of(name)._actions:
                assert all(flag.lstrip("-") in text for flag in action.option_strings), (shell, name)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_reads_it(scripts, shell):
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell}")
    subprocess.run([shell, "-n", str(scripts / shell)], check=True)

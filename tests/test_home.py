"""What the commands write where nobody asked them to: below the home folder, among temporary files, where they run."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.photo_folder import write_photos

# Which libraries keep what for themselves, as docs/files.md says: below the home folder and among temporary files.
CACHES = {".cache/matplotlib", ".config/matplotlib", "torchinductor"}

PROGRAM = """
import json, sys
from kedge.cli import main

for command in json.loads(sys.argv[1]):
    code = main(command.split())
    assert code == 0, (command, code)
"""
COMMANDS = [
    'train --data photos --name r --epochs 1 --model kedge_resnet_small --arguments {"width":2} --batch_size 16 '
    "--references 2 --workers 0 --device cpu",
    "evaluate r --split val --shift none --device cpu",
    "calibrate r --device cpu",
    "predict r photos/ant --device cpu",
    "card r",
    "version",
]
ONNX = [
    "export r --out r.onnx",
    "predict r.onnx photos/ant --device cpu",
]


def below(folder: Path) -> set[str]:
    """Everything in and below a folder, by its path there."""
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.mark.slow
def test_commands_write_into_their_folder_alone(tmp_path):
    for name in ("home", "tmp", "here"):
        (tmp_path / name).mkdir()
    write_photos(tmp_path / "here" / "photos", classes=("ant", "bee"), each=16)
    commands = COMMANDS + (ONNX if find_spec("onnxruntime") and find_spec("onnxscript") else [])
    there = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "OMP_NUM_THREADS", "SYSTEMROOT")
    environment = {key: os.environ[key] for key in there if key in os.environ}
    environment |= {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "tmp"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(commands)],
        cwd=tmp_path / "here",
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    written = below(tmp_path / "home") | below(tmp_path / "tmp")
    folders = {".cache", ".config"}  # in which the caches lie
    assert {w for w in written - folders if not w.startswith(tuple(CACHES))} == set()
    here = {path.name for path in (tmp_path / "here").iterdir()}
    assert here == {"photos", "runs"} | ({"r.onnx"} if commands != COMMANDS else set())
    assert {path.name for path in (tmp_path / "here" / "runs").iterdir()} == {"r"}

"""The lines of docs/processes.md that start several processes, run with two."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

PAGE = Path(__file__).parents[2] / "docs" / "processes.md"
SMALL = "--device cpu --workers 0 --image_size 16 --batch_size 8 --epochs 1 --name run"
SMALL += " --model kedge_resnet_small --pretrained false --arguments.width 4"


def lines():
    """The commands in the console blocks of the page."""
    blocks = re.findall(r"```console\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return [line.removeprefix("$ ") for block in blocks for line in block.splitlines()]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def slurm(rank, tasks, nodes):
    """What srun tells a task, where all nodes are this machine."""
    each = tasks // nodes
    told = {"JOB_NAME": "kedge", "NODELIST": "localhost", "NNODES": nodes, "NTASKS": tasks, "NTASKS_PER_NODE": each}
    told |= {"PROCID": rank, "LOCALID": rank % each, "NODEID": rank // each}
    return {f"SLURM_{key}": str(value) for key, value in told.items()}


def started(line):
    """The programs that `line` starts, with two processes in all: each an argument list and environment."""
    words = shlex.split(line.replace("HOST:29500", f"127.0.0.1:{free_port()}"))
    nodes = int(words[words.index("--nodes") + 1]) if "--nodes" in words else 1
    for flag in ("--devices", "--nproc-per-node", "--ntasks-per-node", "--gpus-per-node"):
        if flag in words:
            words[words.index(flag) + 1] = str(2 // nodes)
    if "--model" in words:  # that of the page does not fit here
        at = words.index("--model")
        del words[at : at + 2]
    kedge = [sys.executable, "-m", "kedge"]
    if words[0] == "srun":
        at = words.index("kedge")
        job = {"SLURM_JOB_ID": str(free_port())}  # decides the port at which they meet
        return [([*kedge, *words[at + 1 :]], {**slurm(rank, 2, nodes), **job}) for rank in range(2)]
    if words[0] == "torchrun":
        words[:1] = [sys.executable, "-m", "torch.distributed.run"]
        if nodes == 1:
            words.insert(3, "--standalone")
        return [(words, {})] * nodes
    assert words[0] == "kedge"
    return [([*kedge, *words[1:]], {})]


def run(programs, folder):
    clean = {key: value for key, value in os.environ.items() if not key.startswith("SLURM_")}
    running = [
        subprocess.Popen(
            [*words, *shlex.split(SMALL)], cwd=folder, env={**clean, "OMP_NUM_THREADS": "1", **own},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for words, own in programs
    ]  # fmt: skip
    output = [each.communicate(timeout=300)[0] for each in running]
    assert [each.returncode for each in running] == [0] * len(running), output
    return "\n".join(output)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    from PIL import Image

    folder = tmp_path_factory.mktemp("launching")
    for i in range(44):
        path = folder / "photos" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((16, 16), 40 + 10 * (i % 5)).convert("RGB").save(path)
    return folder


@pytest.fixture(scope="module")
def alone(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    (folder / "photos").symlink_to(photos / "photos")
    run([([sys.executable, "-m", "kedge", "train", "--data", "photos"], {})], folder)
    return torch.load(folder / "runs" / "run" / "last.ckpt", weights_only=True)["state_dict"]


def test_the_page_has_a_line_for_each_launcher():
    assert [line.split()[0] for line in lines()] == ["kedge", "torchrun", "torchrun", "srun", "kedge"]


@pytest.mark.slow
@pytest.mark.parametrize("line", lines())
def test_the_line_trains_one_run_with_two_processes(line, photos, alone, tmp_path):
    (tmp_path / "photos").symlink_to(photos / "photos")
    output = run(started(line), tmp_path)
    assert [path.name for path in (tmp_path / "runs").iterdir()] == ["run"]
    folder = tmp_path / "runs" / "run"
    assert "finished" in json.loads((folder / "run.json").read_text())
    assert output.count("run folder:") == output.count("next:") == 1  # one process speaks
    state = torch.load(folder / "last.ckpt", weights_only=True)["state_dict"]
    assert state.keys() == alone.keys()
    for key, value in alone.items():
        torch.testing.assert_close(state[key], value, rtol=1e-4, atol=1e-4)


def test_another_number_of_processes_than_devices_is_refused(monkeypatch):
    from kedge.training import Recipe
    from kedge.training.resolve import resolve_device

    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=r"started 2 processes.*take 1.*--devices"):
        resolve_device(Recipe(device="cpu"))
    resolve_device(Recipe(device="cpu", devices=2))

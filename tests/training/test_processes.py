"""What needs a process of its own: being killed, and being two."""

import csv
import os
import signal
import subprocess
import sys
import textwrap

import pytest
import torch

pytestmark = pytest.mark.slow

FIT = """
    import os, signal, sys
    from kedge.training import fit, fitting
    from kedge.training.module import Run

    fitting.write_run_report = lambda *arguments: None
    name, kill_at, resume, devices = sys.argv[1], sys.argv[2], sys.argv[3] == "resume", int(sys.argv[4])
    if kill_at != "never":
        epoch, step = map(int, kill_at.split("."))
        original = Run.training_step

        def training_step(run, batch, index):
            if (run.current_epoch, index) == (epoch, step):
                os.kill(os.getpid(), signal.SIGKILL)
            return original(run, batch, index)

        Run.training_step = training_step
    recipe = dict(data="digits", arguments={"width": 4, "drop_rate": 0.1}, epochs=3, batch_size=64, ema=0.9, clip=1.0)
    recipe |= dict(device="cpu", devices=devices, name=name, runs="runs")
    fit(None if resume else recipe, resume=f"runs/{name}" if resume else None, progress=False)
"""


@pytest.fixture
def train(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(FIT))

    def call(*runs):
        """Run several at once, each (name, where to be killed, "resume" or nothing, processes)."""
        started = [
            subprocess.Popen(
                [sys.executable, str(script), *map(str, run)],
                cwd=tmp_path,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for run in runs
        ]
        errors = [process.communicate(timeout=250)[1] for process in started]
        return [(process.returncode, error) for process, error in zip(started, errors, strict=True)]

    return call


def state(folder):
    return torch.load(folder / "last.ckpt", weights_only=True)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_a_run_killed_in_mid_epoch_resumes_to_the_same_weights(train, tmp_path):
    # Killed in the third epoch, and before there is any checkpoint.
    whole, *killed = train(("whole", "never", "", 1), ("late", "2.7", "", 1), ("early", "0.5", "", 1))
    assert whole == (0, "")
    assert [code for code, _ in killed] == [-signal.SIGKILL, -signal.SIGKILL]
    assert (tmp_path / "runs" / "late" / "last.ckpt").exists()
    assert not (tmp_path / "runs" / "early" / "last.ckpt").exists()
    assert train(*((name, "never", "resume", 1) for name in ("late", "early"))) == [(0, ""), (0, "")]
    whole = state(tmp_path / "runs" / "whole")
    for name in ("late", "early"):
        found = state(tmp_path / "runs" / name)
        assert same(found["state_dict"], whole["state_dict"])
        assert found["global_step"] == whole["global_step"]
        for one, other in zip(
            found["optimizer_states"][0]["state"].values(), whole["optimizer_states"][0]["state"].values(), strict=True
        ):
            assert torch.equal(one["momentum_buffer"], other["momentum_buffer"])
        saved = [(tmp_path / "runs" / run / "model" / "model.safetensors").read_bytes() for run in (name, "whole")]
        assert saved[0] == saved[1]
        with open(tmp_path / "runs" / name / "metrics.csv", newline="") as file:
            assert [row["epoch"] for row in csv.DictReader(file)] == ["1", "2", "3"]


def test_two_processes_train_one_model(train, tmp_path):
    assert train(("pair", "never", "", 2)) == [(0, "")]
    folder = tmp_path / "runs" / "pair"
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["pair"]
    with open(folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    images = 1259
    assert [int(row["step"]) for row in rows] == [step * -(-(images // 2 + 1) // 32) for step in (1, 2, 3)]
    # The metrics are those of all validation images, not of one process's share: check the last row again, alone.
    import kedge
    from kedge.training import load_recipe
    from kedge.training.build import load_sets

    model = kedge.load(folder / "model")
    _, val = load_sets(load_recipe(folder / "recipe.yaml"))
    with torch.no_grad():
        logits = model(val.images / 255)
    assert float(rows[-1]["val_accuracy"]) == pytest.approx(
        float((logits.argmax(1) == val.labels).float().mean()), rel=1e-4
    )
    expected = torch.nn.functional.cross_entropy(logits, val.labels)
    assert float(rows[-1]["val_nll"]) == pytest.approx(float(expected), rel=1e-3)

"""What needs a process of its own: being killed, and being two."""

import csv
import json
import os
import signal
import subprocess
import sys
import textwrap

import pytest
import torch

pytestmark = pytest.mark.slow

FIT = """
    import json, os, signal, sys
    from kedge import run_page
    from kedge.training import fit
    from kedge.training.module import Run

    run_page.write_run_report = lambda *arguments: None

    def train(name, kill_at, resume, devices):
        original = Run.training_step

        def training_step(run, batch, index):
            if [run.current_epoch, index] == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(run, batch, index)

        Run.training_step = training_step
        recipe = dict(data="digits", arguments={"width": 4, "drop_rate": 0.1}, epochs=3, batch_size=64)
        recipe |= dict(ema=0.9, clip=1.0, device="cpu", devices=devices, name=name, runs="runs")
        fit(None if resume else recipe, resume=f"runs/{name}" if resume else None, progress=False)

    runs = json.loads(sys.argv[1])
    if len(runs) == 1:
        train(*runs[0])
        sys.exit()
    statuses = []  # one fresh process for each, but the imports, which take longest, once
    for run in runs:
        if (child := os.fork()) == 0:
            train(*run)
            os._exit(0)
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    print(json.dumps(statuses))
"""


@pytest.fixture
def train(tmp_path):
    """Train in other processes, one after another: each (name, [epoch, step] to be killed at, resume, devices)."""
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(FIT))

    def call(*runs):
        done = subprocess.run(
            [sys.executable, str(script), json.dumps(runs)],
            cwd=tmp_path,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=250,
        )
        assert (done.returncode, done.stderr) == (0, "")
        return json.loads(done.stdout) if done.stdout else [0]

    return call


def state(folder):
    return torch.load(folder / "last.ckpt", weights_only=True)


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def test_a_run_killed_in_mid_epoch_resumes_to_the_same_weights(train, tmp_path):
    # Killed in the third epoch, and before there is any checkpoint.
    killed = train(["whole", None, False, 1], ["late", [2, 7], False, 1], ["early", [0, 5], False, 1])
    assert killed == [0, -signal.SIGKILL, -signal.SIGKILL]
    assert (tmp_path / "runs" / "late" / "last.ckpt").exists()
    assert not (tmp_path / "runs" / "early" / "last.ckpt").exists()
    assert train(["late", None, True, 1], ["early", None, True, 1]) == [0, 0]
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
    assert train(["pair", None, False, 2]) == [0]
    folder = tmp_path / "runs" / "pair"
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["pair"]
    with open(folder / "metrics.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    images = 1259
    assert [int(row["step"]) for row in rows] == [step * -(-(images // 2 + 1) // 32) for step in (1, 2, 3)]
    # The metrics are those of all validation images, not of one process's share: check the last row again, alone.
    import kedge
    from kedge.training import load_recipe
    from kedge.training.images import load_sets

    model = kedge.load(folder / "model")
    _, val = load_sets(load_recipe(folder / "recipe.yaml"))
    with torch.no_grad():
        logits = model(val.images / 255)
    assert float(rows[-1]["val_accuracy"]) == pytest.approx(
        float((logits.argmax(1) == val.labels).float().mean()), rel=1e-4
    )
    expected = torch.nn.functional.cross_entropy(logits, val.labels)
    assert float(rows[-1]["val_nll"]) == pytest.approx(float(expected), rel=1e-3)


def test_two_processes_train_as_one_with_an_uneven_last_batch_and_one_validation_image(tmp_path):
    from benchmarks.processes import compared

    cases = ["moving average of the weights", "one validation image", "SAM", "classes drawn equally often"]
    for row in compared(tmp_path, cases, syncs=(True,)):
        assert row["sync"] < 1e-5, row


def test_two_processes_share_further_images_and_weights_of_the_objective(tmp_path):
    from benchmarks.processes import compared

    for row in compared(tmp_path, ["outliers, distilled", "photos, outliers, features"], syncs=(True,)):
        assert row["sync"] < max(1e-5, 2 * row["rounding"]), row

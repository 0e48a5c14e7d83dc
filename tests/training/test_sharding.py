"""A network whose weights two processes share out trains as one that fits, is saved as an ordinary model, resumes."""

import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch

import kedge
from kedge import objectives
from kedge.training import Recipe
from kedge.training.sharding import check_shardable

RECIPE = {
    "data": "digits", "classes": ["0", "1", "2", "3"], "model": "test_vit", "arguments": {"patch_size": 4},
    "pretrained": False, "epochs": 2, "batch_size": 62, "device": "cpu", "references": 3, "lr": 1e-3, "clip": 1.0,
    "runs": "runs", "train_images": 150,
}  # fmt: skip
SCRIPT = """
    import json, os, sys
    from kedge.training import fit
    from kedge.training.module import Run

    recipe = json.loads(sys.argv[1])
    start = Run.on_train_epoch_start

    def stop(run):
        if run.current_epoch == 1:
            raise RuntimeError("power failure")
        start(run)

    def train(**how):
        fit(progress=False, report=False, **how)

    if "RANK" not in os.environ:
        train(recipe={**recipe, "name": "alone"})
        train(resume="runs/moved", recipe={"devices": 1, "shard": False})
        sys.exit()
    two = {**recipe, "devices": 2, "shard": True}
    train(recipe={**two, "name": "sharded"})
    for name in ("broken", "moved"):
        Run.on_train_epoch_start = stop
        try:
            train(recipe={**two, "name": name})
        except RuntimeError as error:
            assert str(error) == "power failure"
        Run.on_train_epoch_start = start
    train(resume="runs/broken")
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    (folder / "script.py").write_text(textwrap.dedent(SCRIPT))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    for command in (torchrun, [sys.executable]):
        done = subprocess.run(
            [*command, "script.py", json.dumps(RECIPE)], cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"},
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "runs"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sharded", "broken", "moved"])
def test_a_sharded_run_ends_as_one_process_does(runs, name):
    alone = torch.load(runs / "alone" / "last.ckpt", weights_only=True)
    other = torch.load(runs / name / "last.ckpt", weights_only=True)
    assert other["state_dict"].keys() == alone["state_dict"].keys()
    for key, value in alone["state_dict"].items():
        torch.testing.assert_close(other["state_dict"][key], value, rtol=0, atol=1e-5)
    one, two = (each["optimizer_states"][0] for each in (alone, other))
    assert one["state"].keys() == two["state"].keys()
    model, expected = kedge.load(runs / name / "model"), kedge.load(runs / "alone" / "model")
    assert type(next(model.parameters())) is torch.nn.Parameter
    images = torch.rand(4, 1, 8, 8)
    torch.testing.assert_close(model.predict(images).probs, expected.predict(images).probs, rtol=0, atol=1e-5)
    model.fold()


@pytest.mark.parametrize(
    ("keys", "objective", "word"),
    [
        ({"devices": 1}, objectives.CrossEntropy(), "several devices"),
        ({"ema": 0.9}, objectives.CrossEntropy(), "ema"),
        ({"snapshots": 1}, objectives.CrossEntropy(), "snapshots"),
        ({}, objectives.Adversarial(objectives.CrossEntropy(), kedge.attacks.PGD(0.1)), "val_pgd_steps"),
        ({"val_pgd_steps": 0}, objectives.CURE(objectives.CrossEntropy(), kedge.attacks.PGD(0.1)), "CURE"),
    ],
)
def test_what_does_not_go_with_sharding_is_said(keys, objective, word):
    with pytest.raises(ValueError, match=word):
        check_shardable(Recipe(**{"devices": 2, "shard": True, **keys}), objective)


def test_without_sync_a_run_goes_on_with_as_many_devices_as_it_began_with(tmp_path):
    from kedge.training.folder import RunFolder

    (tmp_path / "recipe.yaml").write_text(Recipe(devices=2, batch_size=4, sync=False).to_yaml())
    (tmp_path / "run.json").write_text("{}")
    folder = RunFolder(tmp_path)
    assert folder.recipe({"workers": 1}).devices == 2
    with pytest.raises(ValueError, match="the run has 2, not 1"):
        folder.recipe({"devices": 1})

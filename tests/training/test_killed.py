"""A run that is killed at any moment at which it touches a file goes on, or starts again, to the same bits."""

import subprocess
import sys

import pytest
import torch
from tests.killing import EVENTS, afterwards, killed, places, tree, watched

import kedge
from kedge import files
from kedge.training import fit


@pytest.fixture(autouse=True)
def quick_page(monkeypatch):
    monkeypatch.setattr(
        "kedge.run_page.write_run_report", lambda model, run, images, path, *more: files.write_text(path, "")
    )


def alike(one, other):
    expected = other.state_dict()
    return all(torch.equal(value, expected[key]) for key, value in one.state_dict().items())


def rows(result):
    return [{**row, "seconds": 0} for row in result.history]


@pytest.mark.parametrize(
    "kinds", [("os.rename",), pytest.param(EVENTS, marks=pytest.mark.slow)], ids=["renames", "all"]
)
def test_a_run_killed_at_any_file_ends_as_one_that_was_not(tiny, tmp_path, kinds):
    def recipe(place):
        return tiny(classes=["0", "1"], train_images=300, batch_size=20, familiar=0.95, runs=str(place))

    with watched(tmp_path / "whole") as events:
        whole = fit(recipe(tmp_path / "whole"), progress=False)
    for at in places(events, kinds):
        place = tmp_path / f"killed-{at}"
        with killed(place, at):
            fit(recipe(place), progress=False)
        run = place / "run"
        assert not run.exists() or (run / "recipe.yaml").is_file(), (at, tree(place))
        with afterwards():
            again = fit(resume=run, progress=False) if run.exists() else fit(recipe(place), progress=False)
        assert alike(kedge.load(run), whole.model), at
        assert rows(again) == rows(whole), at
        assert again.validation == whole.validation, at
        assert again.model.unknown == whole.model.unknown is not None, at
        assert again.report is not None, at
        assert tree(place) == tree(tmp_path / "whole"), at  # with nothing half-written


def test_a_run_that_began_from_a_model_has_it_from_the_first_moment(tiny, tmp_path):
    first = fit(tiny(epochs=1, classes=["0", "1"]), progress=False)
    fields = {"init_from": str(first.folder), "classes": ["0", "1"], "epochs": 1, "arguments": {}, "references": 10}
    with watched(tmp_path / "whole") as events:
        whole = fit(tiny(**fields, runs=str(tmp_path / "whole")), progress=False)
    run = tmp_path
    for at in places(events):
        if (run / "recipe.yaml").is_file():  # broken off right after its folder came to be
            break
        run = tmp_path / f"killed-{at}" / "run"
        with killed(run.parent, at):
            fit(tiny(**fields, runs=str(run.parent)), progress=False)
        assert not run.exists() or (run / "start" / "config.json").is_file()
    assert not (run / "last.ckpt").exists()
    assert alike(fit(resume=run, progress=False).model, whole.model)


def test_a_run_that_another_process_trains_is_left_alone(tiny, tmp_path):
    fit(tiny(classes=["0", "1"], epochs=1), progress=False, report=False)
    (tmp_path / "run" / "metrics.csv").unlink()
    hold = "import fcntl, os, sys, time; f = os.open(sys.argv[1], os.O_RDONLY); fcntl.flock(f, fcntl.LOCK_EX); "
    hold += "print('held', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", hold, str(tmp_path / "run")], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ValueError, match=r"another process trains .*run.* --resume"):
            fit(resume=tmp_path / "run", progress=False, report=False)
        assert not (tmp_path / "run" / "metrics.csv").exists()
        other.kill()
    fit(resume=tmp_path / "run", progress=False, report=False)  # a process that dies lets go
    assert (tmp_path / "run" / "metrics.csv").exists()

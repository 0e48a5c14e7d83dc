"""What may have changed when a run goes on, what is refused, in which words, and what is made where it is missing."""

import errno
import json
import os
import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file

from kedge import files
from kedge.regular import file_digest
from kedge.training import Recipe, fit
from kedge.training.digests import settle
from kedge.training.epochs import LastCheckpoint
from kedge.training.record import ImageRecord

STEADY = {"schedule": "constant", "warmup": 0.0}


@pytest.fixture(autouse=True)
def quick_page(monkeypatch):
    monkeypatch.setattr(
        "kedge.run_page.write_run_report", lambda model, run, images, path, *more: files.write_text(path, "")
    )


def recipe(runs, **fields):
    settings = {"data": "digits", "classes": ["0", "1"], "train_images": 300, "arguments": {"width": 4}, "epochs": 2}
    settings |= {"batch_size": 20, "references": 3, "device": "cpu", "runs": str(runs), "name": "run"}
    return Recipe(**{**settings, **fields})


def break_off(wanted):
    """A run that was broken off after its first epoch."""
    original = LastCheckpoint.on_train_epoch_end

    def stop(self, trainer, module):
        original(self, trainer, module)
        raise ConnectionError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LastCheckpoint, "on_train_epoch_end", stop)
        with pytest.raises(ConnectionError):
            fit(wanted, progress=False)


@pytest.fixture(scope="module")
def rooms(tmp_path_factory):
    """Three runs: one that is over, the same one broken off, and one with another seed."""
    room = tmp_path_factory.mktemp("resuming")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kedge.run_page.write_run_report", lambda m, run, images, path, *more: files.write_text(path, ""))
        fit(recipe(room, name="whole"), progress=False)
        break_off(recipe(room))
        break_off(recipe(room, name="other", seed=1))
    return room


@pytest.fixture
def run(rooms, tmp_path):
    return shutil.copytree(rooms / "run", tmp_path / "run")


@pytest.fixture
def over(rooms, tmp_path):
    return shutil.copytree(rooms / "whole", tmp_path / "run")


def ends_alike(result, rooms):
    expected = load_file(rooms / "whole" / "model" / "model.safetensors")
    return all(torch.equal(value, expected[key]) for key, value in result.model.state_dict().items())


def edit(path, **values):
    read = yaml.safe_load(path.read_text())
    text = yaml.safe_dump({**read, **values}) if path.suffix == ".yaml" else json.dumps({**read, **values})
    path.write_text(text)


def flip(path, place=-200):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"optimizer": {"sgd": {"lr": 0.5}}},
            r"recipe\.yaml was changed since the run began: lr is 0\.5 there, and was 0\.0\d+\.",
        ),
        ({"lr": 0.5}, r"lr is 0\.0\d+ in optimizer sgd and 0\.5 beside it: leave out one"),
        ({"seed": 7}, r"seed is 7 there, and was 0\."),
        ({"epochs": 9}, r"epochs is 9 there, and was 2\."),
        ({"epochs": 1}, r"epochs is 1 there, and was 2\."),
        ({"objective": ["CrossEntropy"]}, r"objective is \['CrossEntropy'\] there, and was \[\{'Anchored'"),
        ({"augment": "none"}, r"augment is 'none' there, and was 'crop-flip'\."),
        ({"val_fraction": 0.2}, r"val_fraction is 0\.2 there, and was 0\.1\."),
    ],
)
@pytest.mark.parametrize("state", ["run", "over"])
def test_an_edited_recipe_is_refused_with_the_key_and_both_values(request, state, values, words):
    folder = request.getfixturevalue(state)
    edit(folder / "recipe.yaml", **values)
    with pytest.raises(ValueError, match=words):
        fit(resume=folder, progress=False)


def test_an_edited_record_of_the_recipe_is_told_from_an_edited_recipe(run):
    facts = json.loads((run / "run.json").read_text())
    edit(run / "run.json", recipe={**facts["recipe"], "lr": 0.5})
    with pytest.raises(ValueError, match=r"run\.json was changed since the run began: lr is 0\.5 there, and was 0\.0"):
        fit(resume=run, progress=False)


def test_what_has_to_do_with_the_machine_alone_may_change(run, rooms, caplog):
    edit(run / "recipe.yaml", workers=0, name="moved", runs="elsewhere")
    assert ends_alike(fit(resume=run, progress=False), rooms)
    assert caplog.text == ""
    facts = json.loads((run / "run.json").read_text())
    assert [list(again) for again in facts["resumed"]] == [["at"]]


def test_another_checkpoint_is_refused_alone_and_with_what_vouches_for_it(run, rooms):
    shutil.copy(rooms / "other" / "last.ckpt", run / "last.ckpt")
    with pytest.raises(ValueError, match=r"last\.ckpt is not the checkpoint that the run wrote.*begins again"):
        fit(resume=run, progress=False)
    shutil.copy(rooms / "other" / "last.ckpt.sha256", run)
    with pytest.raises(ValueError, match=r"last\.ckpt is the checkpoint of a run with another recipe"):
        fit(resume=run, progress=False)
    (run / "last.ckpt.sha256").unlink()
    with pytest.raises(ValueError, match=r"last\.ckpt is the checkpoint of a run with another recipe"):
        fit(resume=run, progress=False)


@pytest.mark.parametrize("name", ["last.ckpt", "images.safetensors"])
def test_a_flipped_bit_is_refused(run, name):
    place = (run / name).read_bytes().find(b"\x00" * 8) if name == "last.ckpt" else -20
    flip(run / name, len((run / name).read_bytes()) // 3 if place < 0 and name == "last.ckpt" else place)
    with pytest.raises(ValueError, match=rf"{name}.*(is not the (checkpoint|file) that|is damaged)"):
        fit(resume=run, progress=False)


def test_a_flipped_bit_in_the_best_weights_so_far_is_refused(run):
    checkpoint = torch.load(run / "last.ckpt", weights_only=True)
    (run / "best-1.safetensors").write_bytes(b"weights")
    checkpoint["kedge"]["best"] = {"epoch": 1, "sha256": file_digest(run / "best-1.safetensors")}
    torch.save(checkpoint, run / "last.ckpt")
    settle(run / "last.ckpt")
    flip(run / "best-1.safetensors", 2)
    with pytest.raises(ValueError, match=r"best-1\.safetensors is not the file that the run wrote"):
        fit(resume=run, progress=False)


def test_without_what_vouches_for_the_checkpoint_it_is_said(run, rooms, caplog):
    (run / "last.ckpt.sha256").unlink()
    assert ends_alike(fit(resume=run, progress=False), rooms)
    assert "nothing says whether last.ckpt is the one that the run wrote: it cannot be checked" in caplog.text


def test_a_run_of_an_earlier_version_goes_on_and_it_is_said(run, rooms, caplog):
    facts = json.loads((run / "run.json").read_text())
    for key in ("run_format", "recipe", "digests"):
        del facts[key]
    (run / "run.json").write_text(json.dumps(facts))
    (run / "last.ckpt.sha256").unlink()
    checkpoint = torch.load(run / "last.ckpt", weights_only=True)
    del checkpoint["kedge"]
    torch.save(checkpoint, run / "last.ckpt")
    result = fit(resume=run, progress=False)
    assert ends_alike(result, rooms)
    assert [row["epoch"] for row in result.history] == [1, 2]
    assert "of an earlier version, without digests" in caplog.text
    assert "digests" in json.loads((run / "run.json").read_text())


def test_other_versions_are_said_and_noted(run, rooms, caplog):
    edit(run / "run.json", torch="1.0.0", python="3.99.0")
    assert ends_alike(fit(resume=run, progress=False), rooms)
    assert "python 3.99.0, now 3." in caplog.text
    assert "torch 1.0.0, now 2." in caplog.text
    (noted,) = json.loads((run / "run.json").read_text())["resumed"]
    assert noted["torch"].startswith("2.")
    assert json.loads((run / "run.json").read_text())["torch"] == "1.0.0"


def test_a_run_of_a_version_to_come_is_refused(run):
    edit(run / "run.json", run_format=99, kedge="99.0")
    with pytest.raises(ValueError, match=r"begun by kedge 99\.0, which is newer"):
        fit(resume=run, progress=False)


@pytest.mark.parametrize("how", ["asked", "edited"])
@pytest.mark.parametrize("state", ["broken off", "over"])
def test_more_epochs_where_nothing_follows_their_number(tmp_path, how, state):
    (break_off if state == "broken off" else lambda r: fit(r, progress=False))(recipe(tmp_path, **STEADY))
    whole = fit(recipe(tmp_path, **STEADY, name="whole", epochs=3), progress=False)
    if how == "edited":
        edit(tmp_path / "run" / "recipe.yaml", epochs=3)
    result = fit({"epochs": 3} if how == "asked" else None, resume=tmp_path / "run", progress=False)
    assert [row["epoch"] for row in result.history] == [1, 2, 3]
    expected = whole.model.state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in result.model.state_dict().items())
    assert fit(resume=tmp_path / "run", progress=False).recipe.epochs == 3
    costs = [json.loads((r.folder / "run.json").read_text())["cost"] for r in (whole, result)]
    assert costs[0] == costs[1]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"schedule": "constant"},
        {**STEADY, "unfreeze": 0.5},
        {**STEADY, "objective": [{"Anchored": {"alpha": 0.2, "ramp": 0.5}}, "CrossEntropy"]},
        {**STEADY, "objective": ["mine:Loss"]},
    ],
)
def test_no_more_epochs_where_something_does(fields):
    from kedge.training.digests import may_grow

    wanted = Recipe(**{"epochs": 2, "warmup": 0.05, **fields})
    assert not may_grow(wanted, 3)
    assert may_grow(Recipe(**STEADY, epochs=2, objective=["CrossEntropy"]), 3)
    assert not may_grow(Recipe(**STEADY, epochs=2), 2)


@pytest.mark.parametrize(
    "missing", ["report.html", "metrics.csv", "model", "model/config.json", "model/model.safetensors"]
)
def test_what_is_missing_of_a_run_that_is_over_is_made(over, rooms, missing, capsys):
    before = {p.name: p.read_bytes() for p in over.rglob("*") if p.is_file() and p.suffix in (".html", ".csv", ".json")}
    if missing == "model/model.safetensors":
        (over / missing).unlink()
        with pytest.raises(FileNotFoundError, match=r"has a config\.json but no model\.safetensors"):
            fit(resume=over)
        return
    shutil.rmtree(over / missing) if missing == "model" else (over / missing).unlink()
    result = fit(resume=over)
    assert ends_alike(result, rooms)
    assert [row["epoch"] for row in result.history] == [1, 2]
    if missing.startswith("model"):
        assert (over / "model" / "config.json").read_bytes() == before["config.json"]
    else:
        assert (over / missing).read_bytes() == before[missing]
        assert f"{missing} was missing" in capsys.readouterr().out
    fit(resume=over)
    assert "nothing is left to do" in capsys.readouterr().out


def test_a_run_takes_an_empty_folder_and_no_other(tmp_path, rooms):
    (tmp_path / "run").mkdir()
    with pytest.raises(FileNotFoundError, match=r"run is not the folder of a run: it holds no recipe\.yaml"):
        fit(resume=tmp_path / "run")
    (tmp_path / "run" / "mine.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is not overwritten"):
        fit(recipe(tmp_path), progress=False)
    (tmp_path / "run" / "mine.txt").unlink()
    assert ends_alike(fit(recipe(tmp_path), progress=False), rooms)


@pytest.mark.parametrize("name", ["images.safetensors", "run.json", "recipe.yaml"])
def test_a_full_disk_at_the_start_leaves_nothing_in_the_way(tmp_path, monkeypatch, name):
    original = os.replace

    def full(source, target):
        if target.name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        original(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(OSError, match="No space left"):
            fit(recipe(tmp_path / "runs"), progress=False)
    assert os.listdir(tmp_path / "runs") == []


def test_nothing_of_somebody_elses_is_taken_for_a_run_that_was_broken_off(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    (tmp_path / "run" / "thesis.doc").write_text("precious")
    with pytest.raises(FileExistsError, match="is there already and is not overwritten"):
        fit(recipe(tmp_path), progress=False)


@pytest.mark.parametrize("content", ["{}", None])
@pytest.mark.parametrize("images", [True, False])
def test_a_recipe_without_a_record_is_begun_again(run, rooms, caplog, content, images):
    shutil.rmtree(run / "model", ignore_errors=True)
    for name in (
        "last.ckpt",
        "last.ckpt.sha256",
        "metrics.csv",
        "run.json",
        *([] if images else ["images.safetensors"]),
    ):
        (run / name).unlink()
    if content is not None:
        (run / "run.json").write_text(content)
    assert ends_alike(fit(resume=run, progress=False), rooms)
    assert "run.json does not say how the run began" in caplog.text
    facts = json.loads((run / "run.json").read_text())
    assert facts["data"] == json.loads((rooms / "whole" / "run.json").read_text())["data"]
    assert ImageRecord.read(run).digest == ImageRecord.read(rooms / "whole").digest


def test_a_record_that_is_no_file_does_not_count_for_none(run):
    (run / "run.json").unlink()
    os.mkfifo(run / "run.json")
    checkpoint = (run / "last.ckpt").read_bytes()
    with pytest.raises(ValueError, match=r"run\.json cannot be read: .*(pipe|FIFO|regular)"):
        fit(resume=run)
    assert (run / "last.ckpt").read_bytes() == checkpoint


def test_a_model_without_a_record_is_no_run(over):
    (over / "run.json").unlink()
    with pytest.raises(ValueError, match=r"holds a model and no run\.json"):
        fit(resume=over)


def test_metrics_come_from_the_checkpoint(run, rooms):
    (run / "metrics.csv").write_text("epoch,step\n1,7\n2,99\n")
    result = fit(resume=run, progress=False)
    rows = fit(resume=rooms / "whole", progress=False).history
    assert [{**row, "seconds": 0} for row in result.history] == [{**row, "seconds": 0} for row in rows]

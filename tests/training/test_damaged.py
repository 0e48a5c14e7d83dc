"""Runs on photos of which some cannot be decoded."""

import json
import random
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file
from tests.data.conftest import picture

from kedge import data
from kedge.data import DataError
from kedge.evaluation import evaluate
from kedge.training import Recipe, fit
from kedge.training.epochs import LastCheckpoint

SIZE = 68


def damage(path: Path) -> None:
    data = path.read_bytes()
    middle = len(data) // 2
    path.write_bytes(data[:middle] + random.Random(0).randbytes(400) + data[middle + 400 :])


@pytest.fixture
def folder(tmp_path):
    """104 photos of two classes, one of them damaged in the middle: less than a hundredth."""
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(52):
            picture(i, SIZE, SIZE).save(tmp_path / "photos" / name / f"{i:03d}.png")
    damage(tmp_path / "photos" / "dog" / "031.png")
    return tmp_path / "photos"


@pytest.fixture
def recipe(folder, tmp_path):
    def make(**fields):
        settings = {"data": str(folder), "image_size": SIZE, "model": "test_convnext", "pretrained": False}
        settings |= {"epochs": 1, "batch_size": 26, "references": 3, "device": "cpu", "workers": 0, "val_fraction": 0.5}
        return Recipe(**{**settings, "runs": str(tmp_path / "runs"), "name": "run", **fields})

    return make


def test_a_run_skips_counts_and_goes_on(recipe, no_report, caplog):
    result = fit(recipe(anchored=False), progress=False)
    facts = json.loads((result.folder / "run.json").read_text())
    assert facts["data"]["train"] + facts["data"]["val"] == 103
    assert [Path(path).name for path, _ in facts["unreadable"]["skipped"]] == ["031.png"]
    assert facts["unreadable"]["replaced"] == []
    assert "unreadable images: 1 left out" in caplog.text
    assert "dog/031.png" in caplog.text


@pytest.fixture
def too_many_to_check(monkeypatch):
    """As if there were more photos than loading opens."""
    monkeypatch.setattr("kedge.data.build._CHECKED", 50)
    monkeypatch.setattr("kedge.data.build._SAMPLED", 2)


@pytest.mark.parametrize("held_out", [False, True])
def test_what_loading_does_not_look_at_is_met_in_the_run(
    recipe, no_report, too_many_to_check, caplog, folder, held_out
):
    """Validation leaves it out, in training another image of its class stands in."""
    images = data.load(folder, image_size=SIZE)
    with_it = torch.tensor([int(Path(path).stem) % 2 == 1 for path in images.paths])
    parts = images.subset(~with_it if held_out else with_it), images.subset(with_it if held_out else ~with_it)
    result = fit(recipe(), sets=parts, progress=False)
    facts = json.loads((result.folder / "run.json").read_text())
    which, other = ("skipped", "replaced") if held_out else ("replaced", "skipped")
    assert [Path(path).name for path, _ in facts["unreadable"][which]] == ["031.png"]
    assert facts["unreadable"][other] == []
    assert facts["data"]["train"] + facts["data"]["val"] == 104 - held_out
    assert f"1 {'left out' if held_out else 'replaced by another of their class'}" in caplog.text
    assert result.model.references.shape == (3, 3, SIZE, SIZE)


def test_the_linear_probe_leaves_out_what_cannot_be_read(
    recipe, no_report, too_many_to_check, tmp_path, folder, caplog
):
    """One damaged photo among many thousands took the probe from the run, and with it the floor under training."""
    torch.save(timm.create_model("test_convnext").state_dict(), tmp_path / "weights.pth")
    images = data.load(folder, image_size=SIZE)
    odd = torch.tensor([int(Path(path).stem) % 2 == 1 for path in images.paths])
    published = {"weights": str(tmp_path / "weights.pth"), "pretrained": None}
    result = fit(recipe(**published), sets=(images.subset(odd), images.subset(~odd)), progress=False)
    facts = json.loads((result.folder / "run.json").read_text())
    assert (facts["probe"]["images"], facts["data"]["train"]) == (51, 52)
    assert facts["start"]["start"] == pytest.approx(facts["probe"]["accuracy"], abs=0.03)
    assert [Path(path).name for path, _ in facts["unreadable"]["replaced"]] == ["031.png"]
    assert "no linear probe" not in caplog.text


def test_a_run_that_was_broken_off_counts_on_and_ends_alike(recipe, no_report, too_many_to_check, monkeypatch):
    settings = {"val_fraction": 0.1, "split_seed": 1, "anchored": False, "epochs": 2}  # the damaged one is trained on
    whole = fit(recipe(**settings), progress=False)
    saved = LastCheckpoint.on_train_epoch_end

    def stop(self, trainer, module):
        saved(self, trainer, module)
        raise RuntimeError("broken off")

    monkeypatch.setattr(LastCheckpoint, "on_train_epoch_end", stop)
    with pytest.raises(RuntimeError, match="broken off"):
        fit(recipe(**settings, name="other"), progress=False)
    monkeypatch.setattr(LastCheckpoint, "on_train_epoch_end", saved)
    monkeypatch.setattr("kedge.data.photo_loader.PhotoLoader._note", lambda self, error: None)  # only what it knew
    again = fit(resume=whole.folder.parent / "other", progress=False)
    one, other = (load_file(each.folder / "model" / "model.safetensors") for each in (whole, again))
    assert all(torch.equal(one[key], other[key]) for key in one)
    records = [json.loads((each.folder / "run.json").read_text())["unreadable"] for each in (whole, again)]
    assert records[0] == records[1]
    assert [Path(path).name for path, _ in records[0]["replaced"]] == ["031.png"]


def test_further_images_that_cannot_be_read_are_counted_over_a_resume(
    recipe, no_report, too_many_to_check, monkeypatch, tmp_path, caplog
):
    """The 1 % that may be replaced is of the run: counted anew after each resume, it would be of none."""
    (tmp_path / "further").mkdir()
    for i in range(60):
        picture(100 + i, SIZE, SIZE).save(tmp_path / "further" / f"{i:03d}.png")
    damage(tmp_path / "further" / "031.png")
    settings = {"anchored": False, "epochs": 2, "batch_size": 26, "extra": {"outliers": str(tmp_path / "further")}}
    settings |= {"objective": ["OutlierExposure", "CrossEntropy"]}
    saved = LastCheckpoint.on_train_epoch_end

    def stop(self, trainer, module):
        saved(self, trainer, module)
        if trainer.current_epoch == 0:
            raise RuntimeError("broken off")

    whole = fit(recipe(**settings), progress=False)
    monkeypatch.setattr(LastCheckpoint, "on_train_epoch_end", stop)
    with pytest.raises(RuntimeError, match="broken off"):
        fit(recipe(**settings, name="other"), progress=False)
    monkeypatch.setattr("kedge.data.photo_loader.PhotoLoader._note", lambda self, error: None)  # only what it knew
    again = fit(resume=whole.folder.parent / "other", progress=False)
    records = [json.loads((each.folder / "run.json").read_text())["unreadable"]["extra"] for each in (whole, again)]
    assert records[0] == records[1]
    assert [Path(path).name for path, _ in records[0]["outliers"]["replaced"]] == ["031.png"]
    assert "unreadable images of outliers: 1 replaced by another in training" in caplog.text


def test_too_many_of_them_are_named(folder, too_many_to_check):
    for i in range(10, 13):
        damage(folder / "dog" / f"{i:03d}.png")
    batches = data.training_batches(data.load(folder, image_size=SIZE), 26, seed=0, workers=0)
    with pytest.raises(
        DataError, match=r"2 of 104 images could not be read in training, more than the 1(?s:.*)dog/\d+"
    ):
        list(batches)


def test_an_evaluation_leaves_it_out_and_says_so(folder):
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 2))
    for decode in (True, False):
        images = data.load(folder, image_size=SIZE, decode=decode)
        found = evaluate(model, images, shift=["contrast"], severities=[1], resamples=0, examples=1)
        assert found["data"]["images"] == 103
        assert found["data"]["unreadable"] == 1
        assert not found["data"]["limited"]

"""The commands one after another on a folder of photos that changes between them."""

import json
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import kedge
from kedge.data import TensorSet
from kedge.training import fitting
from kedge.training.record import ImageRecord
from tests.photo_folder import CHANGES, write_photos

TRAIN = ["--epochs", 1, "--device", "cpu", "--batch_size", 64, "--arguments", "{width: 4}", "--references", 3]


@pytest.fixture
def looked_at(monkeypatch):
    """The images that went through a model since it was last emptied, by their pixels."""
    seen = set()
    batches = TensorSet.batches

    def noted(images, batch_size, workers=0):
        for batch, labels in batches(images, batch_size, workers):
            seen.update(image.numpy().tobytes() for image in batch)
            yield batch, labels

    monkeypatch.setattr(TensorSet, "batches", noted)
    return seen


@pytest.fixture
def trained(command, tmp_path, monkeypatch, looked_at):
    """(photos, run, the pixels that it trained on)."""
    monkeypatch.setattr("kedge.run_page.write_run_report", lambda *arguments: None)
    photos = write_photos(tmp_path / "photos")
    seen = set()
    init = fitting.Run.__init__

    def spy(run, recipe, model, objective, train, val, *more):
        seen.update(image.numpy().tobytes() for image in train.images)
        init(run, recipe, model, objective, train, val, *more)

    monkeypatch.setattr(fitting.Run, "__init__", spy)
    command("train", "--data", photos, "--name", "mine", "--runs", tmp_path, *TRAIN)
    looked_at.clear()
    return photos, tmp_path / "mine", seen


def fill(photos):
    """Thirty more photos in one class, whose names come first."""
    write_photos(photos / "ant", ("a",), each=30, seed=5)


@pytest.mark.parametrize("changes", [["added", "deleted", "renamed"], ["renamed", "fill", "deleted"]])
def test_train_calibrate_evaluate_export_on_photos_that_change(command, trained, looked_at, changes):
    photos, run, seen = trained
    commands = (
        ["calibrate", run],
        ["evaluate", run, "--split", "val", "--shift", "none", "--format", "json"],
        ["export", run, "--to", "torch"],
    )
    counts = []
    for change, words in zip(changes, commands, strict=True):
        (fill if change == "fill" else CHANGES[change])(photos)
        _, out, err = command(*words)
        assert looked_at
        assert not looked_at & seen, f"{words[0]}: {len(looked_at & seen)} of {len(looked_at)} were trained on"
        counts.append(len(looked_at))
        looked_at.clear()
        if words[0] == "evaluate":
            model = json.loads(out)["models"]["mine"]
            assert model["trained_on"] == 0
            page = (run / "evaluation" / "report.html").read_text()
            assert "not trained on, but the model and its reject threshold" in page
            assert ("30 neither trained on nor held out" in err) == ("fill" in changes)
    assert len(set(counts)) == 1 or "deleted" in changes


def test_a_class_folder_that_was_renamed_is_no_class_of_the_model(command, trained):
    photos, run, _ = trained
    CHANGES["class_renamed"](photos)
    for words in (["calibrate", run], ["evaluate", run, "--split", "val", "--shift", "none"]):
        with pytest.raises(ValueError, match="zebra"):
            command(*words)


def test_photos_of_training_are_no_test_whatever_their_folder_is_called(command, trained, tmp_path):
    photos, run, seen = trained
    shutil.copytree(photos, tmp_path / "again")
    _, out, err = command("evaluate", run, "--data", tmp_path / "again", "--shift", "none", "--format", "json")
    results = json.loads(out)
    assert results["models"]["mine"]["trained_on"] == len(seen)
    assert f"careful: mine was trained on {len(seen)} of these 300 images" in err
    _, text, _ = command("evaluate", run, "--data", tmp_path / "again", "--shift", "none")
    line = f"mine was trained on {len(seen)} of these 300 images, bit for bit: its numbers on them are flattered."
    assert line in " ".join(text.split())
    assert line in (run / "evaluation" / "report.html").read_text()
    _, out, _ = command(
        "evaluate", run, "--data", tmp_path / "again", "--shift", "none", "--limit", 50, "--format", "json"
    )
    assert 30 < json.loads(out)["models"]["mine"]["trained_on"] < 50
    # Nor does a temperature come from them: those that were trained on are left out.
    for path in sorted((tmp_path / "again").rglob("*.png"))[::2]:
        path.unlink()
    with pytest.raises(ValueError, match="too few to measure on"):
        command("calibrate", run, "--data", tmp_path / "again", "--split", "all")
    write_photos(tmp_path / "again", each=20, seed=8)  # over twenty of each class
    paths = list((tmp_path / "again").rglob("*.png"))
    old = sum(np.asarray(Image.open(path)).tobytes() in seen for path in paths)
    _, out, err = command("calibrate", run, "--data", tmp_path / "again", "--split", "all")
    assert f"left out, as mine was trained on them: {old} images" in err
    assert f"fitted on {len(paths) - old} images of again" in out
    unlabelled = ["--unlabelled", tmp_path / "again", "--format", "json"]
    _, out, _ = command("evaluate", run, *unlabelled)
    (found,) = json.loads(out)["models"]["mine"]["unlabelled"]["sets"].values()
    assert f"the model was trained on {old} of these images, where its confidence is no guide" in found["warnings"]


def test_scores_of_held_out_images_learn_from_those_that_were_trained_on(command, trained, tmp_path, monkeypatch):
    """Also where the photos lie in a folder train beside others, so that all of it is called training images."""
    photos, run, seen = trained
    (tmp_path / "home").mkdir()
    shutil.move(photos, tmp_path / "home" / "train")
    write_photos(tmp_path / "home" / "test", each=4, seed=6)
    shutil.move(tmp_path / "home", photos)
    from kedge.cli.load_data import load_data, load_training
    from kedge.cli.resolve_model import find

    sources, models = {"mine": find(str(run))}, {"mine": find(str(run)).load("cpu")}
    images, name = load_data(sources, models, None, "val")
    assert {image.numpy().tobytes() for image in load_training(sources, name, images, None).images} == seen


@pytest.mark.slow
def test_two_runs_share_the_validation_images_that_neither_trained_on(command, trained, tmp_path):
    photos, run, _ = trained
    more = ["--data", photos, "--runs", tmp_path, *TRAIN]
    command("train", *more, "--name", "other", "--seed", 1)
    asked = ["--split", "val", "--shift", "none", "--format", "json", "--out", tmp_path / "out"]
    with pytest.raises(ValueError, match=r"are training images of other, bit for bit: the \d+ others are too few"):
        command("evaluate", run, tmp_path / "other", *asked)
    command("train", *more, "--name", "alike", "--seed", 1, "--split_seed", 0)
    _, out, _ = command("evaluate", run, tmp_path / "alike", *asked)
    assert [model["trained_on"] for model in json.loads(out)["models"].values()] == [0, 0]
    # A copy of the model alone does not say what it was trained on, so another run from it draws other images.
    shutil.copytree(run / "model", tmp_path / "bare")
    tune = ["--init_from", tmp_path / "bare", "--data", photos, "--runs", tmp_path, "--epochs", 1, "--device", "cpu"]
    command("train", *tune, "--name", "tuned", "--seed", 1)
    _, out, _ = command("evaluate", tmp_path / "tuned", *asked, "--fresh")
    assert json.loads(out)["models"]["tuned"]["trained_on"] is None
    assert "whether any were trained on is not on record" in next(tmp_path.glob("out*/report.html")).read_text()
    with pytest.raises(ValueError, match="are training images of mine, bit for bit"):
        command("interpolate", run, tmp_path / "tuned", "--out", tmp_path / "between")


@pytest.mark.slow
def test_runs_of_other_image_sizes_hold_out_the_same_images(command, trained, tmp_path):
    photos, run, _ = trained
    command("train", "--data", photos, "--runs", tmp_path, *TRAIN, "--name", "large", "--image_size", 12)
    records = [ImageRecord.read(each) for each in (run, tmp_path / "large")]
    assert records[0].held == records[1].held
    assert records[0].keys_of == records[1].keys_of == "encoded bytes"
    asked = ["--split", "val", "--shift", "none", "--format", "json", "--out", tmp_path / "out"]
    for pair in ([run, tmp_path / "large"], [tmp_path / "large", run]):
        results = json.loads(command("evaluate", *pair, *asked)[1])
        assert results["data"]["images"] == len(records[0].held)
        assert [model["trained_on"] for model in results["models"].values()] == [0, 0]
    # What is known by pixels of another size, as images without files are, cannot be compared.
    replace(records[1], keys_of="pixels 3x12x12", held_of="pixels 3x12x12").write(tmp_path / "large")
    with pytest.raises(ValueError, match=r"large knows its images by pixels .* which of them large was trained on"):
        command("evaluate", run, tmp_path / "large", *asked)
    # With a seed of its own the other run held out others, which are left out.
    command("train", "--data", photos, "--runs", tmp_path, *TRAIN, "--name", "other", "--image_size", 12, "--seed", 1)
    with pytest.raises(ValueError, match="too few to measure on"):
        command("evaluate", run, tmp_path / "other", *asked)


def test_an_average_of_two_models_knows_what_either_was_trained_on(command, trained, tmp_path):
    photos, run, seen = trained
    CHANGES["deleted"](photos)
    start = ["--init_from", run, "--runs", tmp_path, "--epochs", 1, "--device", "cpu", "--batch_size", 64]
    command("train", *start, "--name", "tuned", "--seed", 3)
    command("interpolate", tmp_path / "tuned", "--out", tmp_path / "between")
    images = kedge.training.held_out.RunImages(tmp_path / "between")
    assert not {image.numpy().tobytes() for image in images.val.images} & seen
    assert len(images.record.seen) == len(seen)


def test_an_adaptation_is_measured_on_images_that_the_model_did_not_see(command, trained, tmp_path):
    photos, run, seen = trained
    write_photos(photos, each=50, seed=9)  # over half of the old ones
    torch.manual_seed(0)
    _, _, err = command("adapt", run, "--data", photos, "--out", tmp_path / "adapted", "--device", "cpu")
    count = int(re.search(r"has no part test: (\d+) of its training images", err)[1])
    assert 5 < count < 60
    images = kedge.training.held_out.RunImages(tmp_path / "adapted" / "all-0" / "linear-probe")
    assert not {image.numpy().tobytes() for image in images.val.images} & seen
    shutil.rmtree(photos)
    write_photos(photos)
    with pytest.raises(
        ValueError, match=r"none can be held out for validation.*\. Put images that .* was not trained on into"
    ):
        command("adapt", run, "--data", photos, "--out", tmp_path / "again", "--device", "cpu")


def test_held_out_images_are_found_where_the_folder_was_moved_to(command, trained, looked_at, tmp_path):
    photos, run, seen = trained
    photos.rename(tmp_path / "moved")
    fill(tmp_path / "moved")
    for words in (["calibrate", run], ["evaluate", run, "--split", "val", "--shift", "none"]):
        _, _, err = command(*words, "--data", tmp_path / "moved")
        assert looked_at
        assert not looked_at & seen
        assert "30 neither trained on nor held out" in err
        looked_at.clear()
    write_photos(tmp_path / "others", each=40, seed=11)
    with pytest.raises(ValueError, match="that mine held out of training 0 are left"):
        command("evaluate", run, "--split", "val", "--data", tmp_path / "others")

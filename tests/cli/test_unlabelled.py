import json

import pytest
import torch

import kedge
from kedge import metrics
from kedge.scores import Entropy, Outputs


@pytest.fixture
def new_photos(tmp_path):
    """Sixty digits as files, in folders that are no classes."""
    from PIL import Image

    folder = tmp_path / "new-photos"
    for i, (image, _) in enumerate(kedge.data.load("digits", "test").subset(torch.arange(60))):
        place = folder / ("monday" if i % 2 else "tuesday")
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(place / f"{i}.png")
    return folder


def entry_of(out, name="first"):
    return json.loads(out)["models"][name]["unlabelled"]


def test_a_folder_is_enough_and_nothing_else_is_measured(command, run_folder, digit_model, new_photos):
    code, out, err = command("evaluate", run_folder, "--unlabelled", new_photos, "--format", "json")
    assert code == 0
    results = json.loads(out)
    assert results["data"]["split"] == "val"  # no labelled test images are needed
    assert results["models"]["first"]["shift"] is None
    assert "digits (val)" in err
    entry, val = entry_of(out), kedge.data.load("digits", "val")
    assert entry["validation"]["images"] == len(val)
    assert entry["validation"]["accuracy"] == results["models"]["first"]["clean"]["accuracy"]
    ours = digit_model.predict(val.images.float() / 255)
    theirs = digit_model.predict(kedge.data.load("digits", "test").images[:60].float() / 255)
    scores = [Entropy().score(Outputs(p.logits)) for p in (ours, theirs)]
    value = metrics.average_thresholded_confidence(scores[0], ours.label == val.labels, scores[1])
    found = entry["sets"][str(new_photos)]
    assert found["images"] == 60
    assert found["estimates"]["atc_entropy"]["value"] == pytest.approx(float(value), abs=1e-6)
    assert "disagreement" in found["estimates"]
    page = (run_folder / "evaluation" / "report.html").read_text()
    assert "How often is it right where nobody knows the answers?" in page
    assert results["command"] == f"kedge evaluate {run_folder} --unlabelled {new_photos} --format json"
    _, text, _ = command("evaluate", run_folder, "--unlabelled", new_photos)
    assert "expected accuracy about" in text.replace("\n", " ")


def test_files_that_are_not_read_are_counted_and_named(command, run_folder, new_photos, tmp_path):
    (new_photos / "monday" / "IMG_1.dng").write_bytes(b"x")
    away = tmp_path / "away"
    away.mkdir()
    for path in list((new_photos / "tuesday").iterdir())[:5]:
        (away / path.name).write_bytes(path.read_bytes())
    (away / "IMG_2.jxl").write_bytes(b"x")
    asked = ["--unlabelled", new_photos, "--ood", away, "--limit", 40]
    code, _, err = command("evaluate", run_folder, *asked, "--format", "json")
    assert code == 0
    assert "1 image file is of a kind that is not read and left out: 1 .dng, such as" in err
    assert "1 image file is of a kind that is not read and left out: 1 .jxl, such as" in err


def test_beside_other_measurements_the_test_images_stay(command, run_folder, new_photos):
    asked = ["--unlabelled", new_photos, "--split", "test", "--shift", "contrast", "--severities", 3, "--limit", 60]
    _, out, _ = command("evaluate", run_folder, *asked, "--format", "json")
    results = json.loads(out)
    assert results["data"]["split"] == "test"
    assert results["models"]["first"]["shift"] is not None
    assert entry_of(out)["validation"]["split"] == "val"
    assert entry_of(out)["validation"]["images"] == 60


def test_a_model_without_a_run_needs_labelled_images(command, model_folder, new_photos, tmp_path):
    with pytest.raises(ValueError, match=r"belongs to no run, .* with --validation DATA"):
        command("evaluate", model_folder, "--unlabelled", new_photos)
    _, out, _ = command(
        "evaluate", model_folder, "--unlabelled", new_photos, "--validation", "digits", "--out", tmp_path / "out",
        "--format", "json",
    )  # fmt: skip
    assert entry_of(out, "digit-model")["validation"]["split"] == "val"
    with pytest.raises(ValueError, match="--validation is for --unlabelled"):
        command("evaluate", model_folder, "--validation", "digits", "--data", "digits")


def test_each_run_rests_on_the_images_that_it_held_out(command, digit_model, new_photos, tmp_path):
    from PIL import Image

    from kedge.cli.resolve_model import find_groups
    from kedge.cli.validation_data import as_test_images, load_validation
    from kedge.training import Recipe
    from kedge.training.images import load_sets
    from kedge.training.record import ImageRecord

    train = kedge.data.load("digits", "train")
    for i in range(200):
        place = tmp_path / "own" / str(int(train.labels[i]))
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(train.images[i, 0].numpy()).save(place / f"{i}.png")
    for name, seed in (("a", 0), ("b", 1), ("c", 0)):
        kedge.save(digit_model, tmp_path / name / "model")
        recipe = Recipe(name=name, data=str(tmp_path / "own"), image_size=8, val_fraction=0.2, seed=seed)
        (tmp_path / name / "recipe.yaml").write_text(recipe.to_yaml())
        ImageRecord.of(*load_sets(recipe)).write(tmp_path / name)
    sources, _ = find_groups([str(tmp_path / name) for name in "abc"])
    found = load_validation(sources, dict.fromkeys(sources, digit_model), None)
    for name, seed in (("a", 0), ("b", 1)):
        recipe = Recipe(name=name, data=str(tmp_path / "own"), image_size=8, val_fraction=0.2, seed=seed)
        train, held = load_sets(recipe)
        assert found[name].fingerprint() == held.fingerprint()
        assert kedge.data.overlap.shared_images(found[name], train) == 0
    assert found["a"] is found["c"]  # read once
    assert as_test_images(found) is None
    assert as_test_images({name: found[name] for name in "ac"}) is found["a"]
    # The data of the run named again stands for what it held out, never for what it was trained on.
    again = load_validation(sources, dict.fromkeys(sources, digit_model), str(tmp_path / "own"))
    assert again["b"].fingerprint() == found["b"].fingerprint()
    with pytest.raises(ValueError, match="has no test images"):
        command("evaluate", tmp_path / "a", tmp_path / "b", "--unlabelled", new_photos)


def test_what_is_no_data_is_refused(command, run_folder, tmp_path):
    (tmp_path / "nothing").mkdir()
    with pytest.raises(kedge.data.DataError):
        command("evaluate", run_folder, "--unlabelled", tmp_path / "nothing")
    with pytest.raises(kedge.data.DataError, match="no-such-folder"):
        command("evaluate", run_folder, "--unlabelled", tmp_path / "no-such-folder")


def test_some_that_cannot_be_read_are_left_out_and_named(command, run_folder, new_photos):
    for name in ("broken.jpg", "empty.png"):
        (new_photos / name).write_bytes(b"" if name == "empty.png" else b"\xff\xd8\xff not really")
    whole = (new_photos / "monday" / "1.png").read_bytes()
    (new_photos / "cut.png").write_bytes(whole[: len(whole) // 2])
    code, out, err = command("evaluate", run_folder, "--unlabelled", new_photos, "--format", "json")
    assert code == 0
    assert entry_of(out)["sets"][str(new_photos)]["images"] == 60
    assert "60 images, 3 unreadable and skipped" in err
    assert f"skipped {new_photos / 'broken.jpg'}: not an image, or empty" in err
    asked = ("--model", run_folder, "--corruptions", "none")
    code, _, err = command("compare", new_photos / "monday", new_photos, *asked)
    assert code == 0
    assert "60 images, 3 unreadable and skipped" in err


def test_where_none_can_be_read_it_is_refused(command, run_folder, tmp_path):
    (tmp_path / "bad").mkdir()
    for i in range(3):
        (tmp_path / "bad" / f"{i}.png").write_bytes(b"nothing")
    with pytest.raises(kedge.data.DataError, match=r"none of 3 images looked at can be read"):
        command("evaluate", run_folder, "--unlabelled", tmp_path / "bad")

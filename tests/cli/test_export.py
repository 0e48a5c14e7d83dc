import json
from dataclasses import replace

import pytest
import torch

import kedge
from kedge import networks
from kedge.deploy import exporting, load_onnx


def test_a_run_is_checked_on_its_own_validation_images(command, run_folder, digit_model):
    pytest.importorskip("onnxruntime")
    code, out, err = command("export", run_folder, "--images", 20)
    assert code == 0
    path = run_folder / "first.onnx"
    assert f"{path} (" in out
    assert "checked on 20 images, largest difference of a logit" in out
    found = load_onnx(path)
    assert found.class_names == [str(i) for i in range(10)]
    assert f"10 class names, the reject threshold {found.reject['threshold']:.3f}" in out
    assert "that of the whole bank is 0.150" in out
    assert "of the bank and its mean that with the nearest answers" in out
    assert "with its 4 references" in out
    kept = (
        "one reference, in which that picture" if "it keeps reference" in out else "the bank's mean, in which what its"
    )
    assert f"holds a map of {kept}" in out
    assert "not the picture" not in out
    # the threshold is that of the one reference which folding keeps, here as the file itself answers
    confidence = found.predict(kedge.data.load("digits", "val").images.float() / 255).confidence
    assert found.reject["coverage"] == 0.9
    assert float((confidence >= found.reject["threshold"] - 1e-6).float().mean()) == pytest.approx(0.9, abs=0.01)
    assert f"next:   kedge evaluate {path} {run_folder}\n" in out
    assert f"kedge predict {path} IMAGES" in out
    assert "digits (val)" in err


def test_the_files_own_accuracy_is_said_beside_that_of_the_bank(command, run_folder, digit_model):
    """Held against both, asked here; the numbers of evaluate are those of export."""
    pytest.importorskip("onnxruntime")
    _, out, err = command("export", run_folder)
    val = kedge.data.load("digits", "val")
    images = val.images.float() / 255
    file, bank = load_onnx(run_folder / "first.onnx").predict(images).label, digit_model.predict(images).label
    shares = [float((label == val.labels).float().mean()) for label in (file, bank)]
    same = int((file == bank).sum())
    assert (
        f"on {len(val)} images of digits (val) {shares[0]:.1%} of its answers are right, of the model's with its "
        f"4 references {shares[1]:.1%} (same label on {same})"
    ) in out
    assert ("careful: the file is another model" in err) == (abs(shares[0] - shares[1]) >= 0.01)


@pytest.mark.slow
def test_a_file_that_answers_worse_than_the_bank_is_warned_of(command, run_folder, digit_model, monkeypatch):
    pytest.importorskip("onnxruntime")
    val = kedge.data.load("digits", "val")
    wrong = val.labels.clone()
    monkeypatch.setattr(
        "kedge.deploy.exporting.Exported.load", lambda self: lambda x: torch.eye(10)[(wrong[: len(x)] + 1) % 10]
    )
    honest = kedge.deploy.model_selection.choose_folded

    def all_right(*arguments):
        choice = honest(*arguments)
        return replace(choice, right=torch.ones_like(choice.right))

    monkeypatch.setattr("kedge.deploy.choose_folded", all_right)
    _, _, err = command("export", run_folder)
    assert "careful: the file is another model than 4 references together" in err
    assert "points worse here (p = " in err
    assert "judge it by its own numbers" in err


@pytest.mark.parametrize("data", [(), ("--data", "digits")])
def test_the_next_step_runs(command, run_folder, data):
    pytest.importorskip("onnxruntime")
    _, out, _ = command("export", run_folder if not data else run_folder / "model", *data)
    (words,) = [line.split()[3:] for line in out.splitlines() if line.startswith("next:   kedge evaluate ")]
    assert set(data) <= set(words)
    code, _, err = command("evaluate", *words, "--shift", "none", "--limit", "20", "--out", run_folder / "page")
    assert code == 0, err


def test_given_images_and_place(command, model_folder, tmp_path):
    code, out, err = command(
        "export", model_folder, "--to", "torch", "--out", tmp_path / "a" / "b.pt2", "--data", "digits", "--images", 5
    )
    assert code == 0
    assert (tmp_path / "a" / "b.pt2").is_file()
    assert "checked on 5 images" in out
    assert "digits (test)" in err
    assert "the one that was set for the whole bank" in out


def test_without_images_it_says_that_it_checks_on_noise(command, model_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, out, err = command("export", model_folder, "--to", "torch")
    assert (tmp_path / "digit-model.pt2").is_file()
    assert "random images" in out
    assert "belongs to no run" in err
    assert "it keeps the first of 4 references: without images there is nothing to choose by" in out
    assert "next:" not in out  # kedge evaluate takes ONNX files


def test_a_plain_model_is_not_called_folded(command, tmp_path):
    kedge.save(kedge.plain(networks.create("kedge_resnet_small", 10, 1, 8), example=(1, 8, 8)), tmp_path / "plain")
    _, out, _ = command("export", tmp_path / "plain", "--to", "torch", "--out", tmp_path / "p.pt2")
    assert "reference" not in out
    assert "inside" not in out


def test_a_plain_models_file_is_measured_too(command, tmp_path):
    kedge.save(kedge.plain(networks.create("kedge_resnet_small", 10, 1, 8), example=(1, 8, 8)), tmp_path / "plain")
    _, out, err = command(
        "export", tmp_path / "plain", "--to", "torch", "--out", tmp_path / "p.pt2", "--data", "digits"
    )
    assert "images of digits (test) " in out
    assert "% of its answers are right\n" in out
    assert "careful" not in err


def test_missing_extra_and_bad_arguments(command, model_folder, monkeypatch):
    with pytest.raises(ValueError, match="--images must be 1 or more"):
        command("export", model_folder, "--images", 0)
    monkeypatch.setattr(exporting, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install onnx onnxruntime onnxscript"):
        command("export", model_folder)


def test_eight_bits_are_compared_on_images_that_they_were_not_calibrated_on(command, run_folder):
    onnxruntime = pytest.importorskip("onnxruntime")
    _, out, err = command("export", run_folder, "--int8", "--calibration", 40)
    path = run_folder / "first-int8.onnx"
    assert "calibrated on 40 images of digits (train), compared on" in err
    assert f"{path} (" in out
    assert "8-bit weights and activations" in out
    assert "on 40 calibration images the same label on" in out
    assert "prediction difference" in out
    assert "with its 4 references" in out  # the file beside the whole bank, as of every export
    assert load_onnx(path).precision["calibration_images"] == 40
    assert not (run_folder / "first.onnx").exists()
    assert [p.name for p in run_folder.iterdir() if p.name.endswith(".tmp")] == []
    kinds = {each.type for each in onnxruntime.InferenceSession(str(path)).get_inputs()}
    assert kinds == {"tensor(float)"}
    code, table, _ = command("evaluate", path, "--data", "digits", "--shift", "none", "--limit", 40, "--out",
                             run_folder / "page", "--format", "json")  # fmt: skip
    assert code == 0
    assert "8-bit weights and activations" in table


@pytest.mark.slow
def test_the_rule_that_is_said_to_be_inside_is_that_of_the_file(command, run_folder, digit_model):
    """Of 8 bits it is set anew, on other images than that of the float file."""
    pytest.importorskip("onnxruntime")
    digit_model.references = digit_model.references[:1]
    digit_model.unknown = {"score": "energy", "threshold": 123.0, "familiar": 0.9}
    kedge.save(digit_model, run_folder / "model")
    _, out, _ = command("export", run_folder, "--int8", "--data", "digits", "--calibration", 40)
    (inside,) = (line for line in out.splitlines() if line.startswith("inside: "))
    rule = load_onnx(run_folder / "first-int8.onnx").unknown
    assert rule["threshold"] != 123.0
    assert f"the rule for unknown, energy below {rule['threshold']:.3g}" in inside


@pytest.mark.slow
def test_eight_bits_that_cannot_be(command, run_folder, model_folder, tmp_path):
    pytest.importorskip("onnxruntime")
    with pytest.raises(ValueError, match="--int8 writes ONNX files: leave out --to torch"):
        command("export", run_folder, "--int8", "--to", "torch")
    with pytest.raises(ValueError, match="belongs to no run, and --int8 calibrates on images: --data names some"):
        command("export", model_folder, "--int8")
    with pytest.raises(ValueError, match="8 images to calibrate on are too few"):
        command("export", run_folder, "--int8", "--calibration", 8)
    with pytest.raises(RuntimeError, match="8 bits change the answers too much"):
        command("export", run_folder, "--int8", "--bound", 1e-12)
    assert not list(run_folder.glob("*.onnx"))


def test_eight_bits_of_data_without_parts(command, model_folder, tmp_path):
    """Every second image is held out."""
    pytest.importorskip("onnxruntime")
    from PIL import Image

    digits = kedge.data.load("digits", "test")
    for i in range(64):
        place = tmp_path / "own" / str(int(digits.labels[i]))
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(digits.images[i, 0].numpy()).save(place / f"{i}.png")
    _, _, err = command("export", model_folder, "--int8", "--data", tmp_path / "own", "--out", tmp_path / "x.onnx")
    assert "calibrated on 32 images of own (all), compared on 32" in err
    assert load_onnx(tmp_path / "x.onnx").precision["held_out_images"] == 32


def test_images_that_the_model_was_trained_on_are_not_held_out(command, run_folder, tmp_path):
    """A page of the 8-bit file, and its rule for unknown images, would be of images that it knows by heart."""
    pytest.importorskip("onnxruntime")
    from PIL import Image

    from kedge.training.record import ImageRecord

    train, test = (kedge.data.load("digits", part) for part in ("train", "test"))
    for images, count in ((train, 40), (test, 60)):
        for i in range(count):
            place = tmp_path / "own" / str(int(images.labels[i]))
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(images.images[i, 0].numpy()).save(place / f"{images.split}-{i}.png")
    own = kedge.data.load(tmp_path / "own")
    known = [i for i, path in enumerate(own.paths) if "train-" in path]
    ImageRecord.of(own.subset(known), own.subset([i for i in range(100) if i not in known][:5])).write(run_folder)
    expected = sum(i not in known for i in range(1, 100, 2))
    _, out, err = command("export", run_folder, "--int8", "--data", tmp_path / "own", "--out", tmp_path / "x.onnx")
    assert f"left out, as first was trained on them: {50 - expected} images" in err
    assert f"compared on {expected} of own (all)" in err
    assert load_onnx(tmp_path / "x.onnx").precision["held_out_images"] == expected
    assert "careful: first was trained on 40 of these images, which flatter it" in err
    (measures,) = (line for line in out.splitlines() if line.startswith("next:   kedge evaluate "))
    assert measures.endswith(f"--data {tmp_path / 'own'} --split all")  # it has no part val


def test_sets_of_a_whole_bank_are_left_out_where_nothing_can_set_them_anew(command, model_folder, tmp_path):
    model = kedge.load(model_folder)
    val = kedge.data.load("digits", "val")
    kedge.training.calibrate(model, val, "prediction_sets", coverage=0.9)
    folder = kedge.save(model, tmp_path / "with_sets")
    code, out, err = command("export", folder, "--to", "torch", "--out", tmp_path / "m.pt2")
    assert code == 0
    assert "the prediction sets are left out: they were set on answers with the whole bank" in err
    assert "prediction sets" not in out


def test_sets_are_set_anew_for_the_reference_that_a_file_keeps(command, run_folder, tmp_path):
    command("calibrate", run_folder, "--coverage", "0.9")
    code, out, err = command("export", run_folder, "--to", "torch", "--out", tmp_path / "m.pt2")
    assert code == 0
    assert "prediction sets (lac) of 90 % coverage" in out
    assert "left out" not in err
    extra = {"kedge.json": ""}
    torch.export.load(tmp_path / "m.pt2", extra_files=extra)
    step = json.loads(extra["kedge.json"])["steps"]["prediction_sets"]
    whole = kedge.load(run_folder).steps["prediction_sets"]
    assert whole["references"] > step["references"] == 1
    assert step["value"]["thresholds"] != whole["value"]["thresholds"]


@pytest.mark.slow
def test_a_file_for_photos_is_checked_predicts_and_is_evaluated(command, run_folder, photos, tmp_path):
    pytest.importorskip("onnxruntime")
    code, out, _ = command("export", run_folder, "--input", "photo", "--images", 20)
    assert code == 0
    path = run_folder / "first-photo.onnx"
    assert f"{path} (" in out
    assert "takes a photo of any size, checked on 20 photos of 1 size and 6 of noise from 1 pixel on" in out
    assert "with its 4 references" in out
    assert f"kedge predict {path} IMAGES" in out
    assert load_onnx(path).takes_photos
    assert [each.name for each in run_folder.iterdir() if each.name.endswith(".tmp")] == []
    code, table, err = command("predict", path, photos, "--format", "json")
    assert code == 3  # one of the files is no image
    rows = [row for row in json.loads(table) if row["error"] is None]
    assert len(rows) == 10
    code, plain, _ = command("predict", run_folder, photos, "--format", "json", "--references", "1")
    assert [row["path"] for row in json.loads(plain) if row["error"] is None] == [row["path"] for row in rows]
    code, table, err = command("evaluate", path, run_folder, "--shift", "none", "--limit", 40, "--out",
                               run_folder / "page", "--format", "json")  # fmt: skip
    assert code == 0, err
    assert "first-photo.onnx" in table


@pytest.mark.slow
def test_eight_bits_and_photos_go_together(command, run_folder):
    pytest.importorskip("onnxruntime")
    _, out, _ = command("export", run_folder, "--int8", "--input", "photo", "--calibration", 40)
    path = run_folder / "first-photo-int8.onnx"
    assert f"{path} (" in out
    assert "8-bit weights and activations" in out
    assert "of noise from 1 pixel on" in out
    assert "of the 8-bit network in it" in out
    loaded = load_onnx(path)
    assert loaded.precision["calibration_images"] == 40
    kinds = {each.type for each in loaded.network.whole.get_inputs()}
    assert kinds == {"tensor(uint8)"}
    val = kedge.data.load("digits", "val")
    images = val.images[:8].float() / 255
    whole = loaded.predict_photos([kedge.deploy.as_photo(image) for image in val.images[:8]])
    torch.testing.assert_close(whole.logits, loaded.predict(images).logits, atol=1e-3, rtol=1e-3)


@pytest.mark.slow
def test_photos_in_torch_and_of_an_ensemble(command, run_folder, digit_model, tmp_path):
    pytest.importorskip("onnxruntime")
    _, out, _ = command("export", run_folder, "--to", "torch", "--input", "photo", "--images", 5)
    assert (run_folder / "first-photo.pt2").is_file()
    assert "checked on 5 photos" in out
    other = kedge.save(kedge.plain(networks.create("kedge_resnet_small", 10, 1, 8), example=(1, 8, 8)), tmp_path / "b")
    several = f"mean({run_folder},{other})"
    code, out, _ = command("export", several, "--input", "photo", "--data", "digits", "--out", tmp_path / "both.onnx")
    assert code == 0
    assert load_onnx(tmp_path / "both.onnx").takes_photos


def test_a_model_of_oblong_images_is_checked_on_images_of_its_shape(command, tmp_path):
    pytest.importorskip("onnxruntime")
    from PIL import Image

    torch.manual_seed(0)
    model = kedge.anchor(networks.create("kedge_resnet_small", 2, 3, 8, arguments={"width": 4}), example=(3, 32, 48))
    model.references = torch.rand(2, 3, 32, 48)
    model.class_names = ["cat", "dog"]
    folder = kedge.save(model.eval(), tmp_path / "model")
    for i in range(40):
        place = tmp_path / "own" / model.class_names[i % 2]
        place.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((70 + i, 90), 60.0).save(place / f"{i}.png")
    code, out, _ = command("export", folder, "--data", tmp_path / "own", "--out", tmp_path / "x.onnx")
    assert code == 0
    assert load_onnx(tmp_path / "x.onnx").input_shape == (3, 32, 48)
    assert "on 40 images" in out
    with pytest.raises(ValueError, match=r"a photo is made into a square image .* takes \[3, 32, 48\]"):
        command("export", folder, "--input", "photo", "--data", "nowhere", "--out", tmp_path / "y.onnx")

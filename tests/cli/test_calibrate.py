import json

import pytest
import torch

import kedge
from kedge import metrics
from kedge.adaptation import adapt
from kedge.cli import COMMANDS


def logits_of(folder, split="val"):
    images = kedge.data.load("digits", split)
    return kedge.load(folder).predict(images.images.float() / 255).logits, images.labels


def files(folder):
    return {path.name: path.read_bytes() for path in (folder / "model").iterdir()}


def test_it_is_a_command():
    assert "calibrate" in COMMANDS


def test_a_run_is_calibrated_on_the_images_it_held_out_and_back(command, run_folder, digit_model):
    before = files(run_folder)
    raw, labels = logits_of(run_folder)
    code, out, err = command("calibrate", run_folder)
    assert code == 0
    model = kedge.load(run_folder)
    step = model.steps["temperature"]
    assert step["fitted_on"] == "digits (val)"
    assert step["images"] == len(labels)
    after, _ = logits_of(run_folder)
    assert torch.equal(after, raw / model.temperature)
    assert step["nll_after"] == pytest.approx(float(metrics.nll(after.softmax(1), labels)), rel=1e-5)
    lines = out.splitlines()
    assert lines[0] == f"temperature {step['value']:.4g}, fitted on {len(labels)} images of digits (val)"
    assert lines[2].split() == ["NLL", f"{step['nll_before']:.4f}", f"{step['nll_after']:.4f}"]
    assert lines[3].split() == ["ECE", f"{step['ece_before']:.2%}", f"{step['ece_after']:.2%}"]
    assert lines[4].split()[2:4] == ["0.150", f"{model.reject['threshold']:.3f}"]
    assert "set anew to keep 90%" in lines[4]
    kept = after.softmax(1).amax(1) >= model.reject["threshold"] - 1e-6
    assert 0.9 <= float(kept.float().mean()) < 0.93  # equal confidences stay together
    assert f"kedge calibrate {run_folder} --remove" in out
    assert "digits (val)" in err

    code, out, _ = command("calibrate", run_folder, "--remove")
    assert code == 0
    assert "reject threshold 0.150, as before" in out
    assert files(run_folder) == before
    assert torch.equal(logits_of(run_folder)[0], raw)
    with pytest.raises(ValueError, match="has no temperature to remove"):
        command("calibrate", run_folder, "--remove")


def test_twice_is_once(command, run_folder):
    command("calibrate", run_folder)
    first = kedge.load(run_folder)
    _, out, _ = command("calibrate", run_folder, "--batch_size", 100)
    again = kedge.load(run_folder)
    assert again.temperature == pytest.approx(first.temperature, rel=1e-5)
    assert again.steps["temperature"]["reject_before"]["threshold"] == 0.15
    assert out.splitlines()[4].split()[2] == "0.150"


def test_another_folder_leaves_the_model_alone(command, model_folder, tmp_path):
    config = (model_folder / "config.json").read_bytes()
    command("calibrate", model_folder, "--data", "digits", "--out", tmp_path / "calibrated")
    assert (model_folder / "config.json").read_bytes() == config
    assert kedge.load(tmp_path / "calibrated").temperature is not None


def test_predict_uses_it(command, run_folder, photos):
    plain = json.loads(command("predict", run_folder, photos / "d1.png", "--format", "json")[1])[0]
    command("calibrate", run_folder)
    model = kedge.load(run_folder)
    found = json.loads(command("predict", run_folder, photos / "d1.png", "--format", "json")[1])[0]
    assert found["label"] == plain["label"]
    assert found["confidence"] != plain["confidence"]
    assert found["uncertainty"] == plain["uncertainty"]
    assert found["reject"] is (found["confidence"] < model.reject["threshold"])


def test_an_exported_file_has_the_temperature_of_its_one_reference(command, run_folder):
    pytest.importorskip("onnxruntime")
    train, val = (kedge.data.load("digits", part) for part in ("train", "val"))
    # A head that knows something: of an untrained one the best temperature is the largest allowed.
    kedge.save(adapt(kedge.load(run_folder), train, val, references=4).model, run_folder / "model")
    command("calibrate", run_folder)
    whole = kedge.load(run_folder)
    path = run_folder / "first.onnx"
    _, out, _ = command("export", run_folder, "--images", 20)
    loaded = kedge.deploy.load_onnx(path)
    value = loaded.inside["temperature"]["value"]
    assert value != whole.temperature
    assert f"fitted anew on validation images: {value:.3g}; that of the whole bank is {whole.temperature:.3g}" in out
    images = val.images[:50].float() / 255
    whole.remove_step("temperature")
    bank = [*whole.references.split(1), whole.references.mean(0, keepdim=True)]
    apart = [float((loaded(images) - whole.predict(images, references=r).logits / value).abs().max()) for r in bank]
    assert min(apart) < 1e-4
    with pytest.raises(ValueError, match="an exported file is calibrated by"):
        command("calibrate", path)


@pytest.mark.parametrize("split", ["test", "testing", "TEST"])
def test_test_images_are_refused(command, run_folder, split):
    before = files(run_folder)
    with pytest.raises(ValueError, match="not fitted on test images"):
        command("calibrate", run_folder, "--split", split)
    with pytest.raises(ValueError, match="not fitted on test images"):
        command("calibrate", run_folder, "--split", split, "--data", "digits")
    assert files(run_folder) == before


@pytest.mark.parametrize("split", ["train", "all"])
def test_training_images_are_refused(command, run_folder, split):
    with pytest.raises(ValueError, match="that the model was trained on"):
        command("calibrate", run_folder, "--split", split)
    with pytest.raises(ValueError, match="that the model was trained on"):
        command("calibrate", run_folder, "--split", split, "--data", "digits")


def test_a_model_of_no_run_asks_for_images(command, model_folder):
    with pytest.raises(ValueError, match="say --data NAME"):
        command("calibrate", model_folder)
    with pytest.raises(ValueError, match="--batch_size must be 1 or more"):
        command("calibrate", model_folder, "--batch_size", 0)

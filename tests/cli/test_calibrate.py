import json
import shutil

import pytest
import torch
from PIL import Image

import kedge
from kedge import metrics
from kedge.adaptation import adapt
from kedge.cli import COMMANDS
from kedge.training.held_out import RunImages


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


@pytest.mark.slow
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


def test_a_class_prior_is_set_after_the_temperature_and_taken_out(command, run_folder, photos):
    before = files(run_folder)
    command("calibrate", run_folder)
    tempered, labels = logits_of(run_folder)
    shares = [0.3, *[0.7 / 9] * 9]
    code, out, _ = command("calibrate", run_folder, "--step", "class_prior", "--prior", *shares)
    assert code == 0
    model = kedge.load(run_folder)
    assert list(model.steps) == ["temperature", "class_prior"]
    counts = torch.bincount(RunImages(run_folder).train.labels, minlength=10).double()
    expected = tempered.double() + torch.tensor(shares).double().log() - (counts / counts.sum()).log()
    after, _ = logits_of(run_folder)
    torch.testing.assert_close(after.double().softmax(1), expected.softmax(1), atol=1e-5, rtol=1e-4)
    step = model.steps["class_prior"]
    assert step["accuracy_after"] == pytest.approx(float((after.argmax(1) == labels).double().mean()))
    assert out.startswith(f"class prior 0.3, 0.0778, 0.0778, 0.0778, 0.0778, ..., measured on {len(labels)} images")
    assert "class shares of these images, not the new ones" in out
    assert "set anew to keep 90%" in out
    assert f"kedge calibrate {run_folder} --step class_prior --remove" in out
    row = json.loads(command("predict", run_folder, photos / "d1.png", "--format", "json")[1])[0]
    assert row["confidence"] is not None
    with pytest.raises(ValueError, match="class_prior already"):
        command("calibrate", run_folder, "--step", "class_prior")
    with pytest.raises(ValueError, match="class_prior was set on answers"):
        command("calibrate", run_folder)
    command("calibrate", run_folder, "--step", "class_prior", "--remove")
    assert torch.equal(logits_of(run_folder)[0], tempered)
    command("calibrate", run_folder, "--remove")
    assert files(run_folder) == before


@pytest.mark.parametrize(
    ("words", "match"),
    [
        (["--prior", "half"], "--prior is uniform or a number for each class, got half"),
        (["--prior", "0.5,0.5"], "one number for each of 10 classes, got 2 values"),
        (["--train_prior", *"1234567890"], "positive finite numbers.*got 0.0"),
    ],
)
def test_what_are_no_class_shares_is_refused(command, run_folder, words, match):
    before = files(run_folder)
    with pytest.raises(ValueError, match=match):
        command("calibrate", run_folder, "--step", "class_prior", *words)
    with pytest.raises(ValueError, match="temperature takes no prior"):
        command("calibrate", run_folder, "--prior", "uniform")
    assert files(run_folder) == before


@pytest.mark.parametrize(
    "weighed",
    [
        {"class_weights": "balanced"},
        {"objective": [{"CrossEntropy": {"class_weights": [1.0] * 10}}]},
        {"sampler": "class-balanced"},
        {"sampler": {"oversampled": {"ratio": 0.5}}},
        {"objective": [{"BalancedSoftmax": {"tau": 1.0}}]},
        {"objective": ["Mixup", {"DiverseExperts": {"tau": 1.0}}]},
        {"sampler": {"mine:rare_first": {"share": 0.5}}},
    ],
)
def test_a_run_that_weighed_its_classes_is_refused_a_prior(command, run_folder, weighed):
    from kedge.training import Recipe

    (run_folder / "recipe.yaml").write_text(
        Recipe.from_dict({"name": "first", "data": "digits", "image_size": 8, **weighed}).to_yaml()
    )
    with pytest.raises(ValueError, match=r"trained with (class_weights|sampler|objective) .*correct twice"):
        command("calibrate", run_folder, "--step", "class_prior")


@pytest.mark.parametrize(
    ("fields", "facts", "refused"),
    [
        ({}, {"start": {"share": 0.1}}, True),
        ({}, {"start": {"share": 0.0}}, True),
        ({"average": 0.7}, {}, True),
        ({"folds": 5}, {"folds": {"share": 0.5}}, True),
        ({}, {"start": {"share": 1.0}}, False),
        ({}, {}, False),
    ],
)
def test_a_start_that_weighed_its_classes_counts_where_it_is_in_the_average(
    command, run_folder, tmp_path, fields, facts, refused
):
    """The shares in the logits are then between those of the start and those of the training: known to nobody."""
    from kedge.training import Recipe

    recipe = {"name": "first", "data": "digits", "image_size": 8}
    before = tmp_path / "balanced"
    shutil.copytree(run_folder, before)
    (before / "recipe.yaml").write_text(Recipe.from_dict({**recipe, "sampler": "class-balanced"}).to_yaml())
    own = Recipe.from_dict({**recipe, "init_from": str(before), **fields})
    (run_folder / "recipe.yaml").write_text(own.to_yaml())
    stored = json.loads((run_folder / "run.json").read_text()) if (run_folder / "run.json").is_file() else {}
    (run_folder / "run.json").write_text(json.dumps({**stored, **facts}))
    if refused:
        with pytest.raises(
            ValueError, match=r"trained with sampler class-balanced in .*balanced, that it started from"
        ):
            command("calibrate", run_folder, "--step", "class_prior")
        (before / "recipe.yaml").write_text(own.to_yaml())  # a circle, as edited by hand: no end of looking
        (before / "run.json").write_text(json.dumps({**stored, **facts}))
    assert command("calibrate", run_folder, "--step", "class_prior")[0] == 0


def test_a_head_fitted_to_equal_classes_is_refused_a_prior(command, run_folder):
    """Two phases leave the probabilities of equally frequent classes, and a recipe that does not say so."""
    for how, words in (("two-phase", "--how two-phase, which counts.*correct twice"), ("finetune", None)):
        (run_folder / "run.json").write_text(json.dumps({"adaptation": {"how": how}}))
        if words is None:
            command("calibrate", run_folder, "--step", "class_prior")
        else:
            with pytest.raises(ValueError, match=words):
                command("calibrate", run_folder, "--step", "class_prior")


def test_shares_of_training_must_be_known(command, model_folder):
    with pytest.raises(ValueError, match="--train_prior"):
        command("calibrate", model_folder, "--step", "class_prior", "--data", "digits")


def test_prediction_sets_are_set_used_and_refused(command, run_folder, tmp_path):
    command("calibrate", run_folder)
    before = kedge.load(run_folder)
    code, out, _ = command("calibrate", run_folder, "--coverage", "0.9", "--sets", "aps")
    assert code == 0
    model = kedge.load(run_folder)
    assert model.steps["temperature"] == before.steps["temperature"]
    assert model.reject == before.reject
    step = model.steps["prediction_sets"]
    lines = out.splitlines()
    assert lines[0] == f"prediction sets (aps) of 90 % coverage, set on {step['images']} images of digits (val)"
    assert lines[1].startswith("of other images like these 90 % or more have their class in the set")
    assert lines[2] == f"on these images a set holds {step['size']:.2f} classes; {step['empty']:.1%} are empty"
    assert lines[-1].endswith(f"kedge calibrate {run_folder} --step prediction_sets --remove")
    logits, labels = logits_of(run_folder)
    sets = kedge.postprocess.PredictionSets(step["value"]).sets(logits)
    # The threshold is the score of one of these images, which rounding of another batch may put beyond it.
    assert sets.gather(1, labels[:, None]).sum() >= 0.9 * len(labels) - 1

    needed = r"coverage of 0\.9999 needs 9999 calibration images or more, and there are \d+: .*infinite"
    with pytest.raises(ValueError, match=needed):
        command("calibrate", run_folder, "--coverage", "0.9999")
    with pytest.raises(
        ValueError, match=r"of each class needs 99 calibration images of each class or more, and class '0'"
    ):
        command("calibrate", run_folder, "--coverage", "0.99", "--by_class")
    for coverage in ("0", "1", "1.5", "-0.1"):
        with pytest.raises(ValueError, match="coverage is a share of images above 0 and below 1"):
            command("calibrate", run_folder, "--coverage", coverage)
    with pytest.raises(ValueError, match=r"--sets lac is of prediction sets that are set: .*--coverage 0\.9"):
        command("calibrate", run_folder, "--sets", "lac")
    with pytest.raises(ValueError, match="--by_class is of prediction sets"):
        command("calibrate", run_folder, "--by_class")
    with pytest.raises(ValueError, match="prediction sets need the coverage that they promise"):
        command("calibrate", run_folder, "--step", "prediction_sets")
    with pytest.raises(ValueError, match=r"class_prior takes no coverage: 0\.9"):
        command("calibrate", run_folder, "--step", "class_prior", "--coverage", "0.9")
    assert kedge.load(run_folder).steps == model.steps
    with pytest.raises(ValueError, match="take that out before temperature"):
        command("calibrate", run_folder, "--remove")
    command("calibrate", run_folder, "--step", "prediction_sets", "--remove")
    assert list(kedge.load(run_folder).steps) == ["temperature"]


def test_few_images_to_fit_a_temperature_on_are_said(command, run_folder, tmp_path):
    few = kedge.data.load("digits", "val").subset(range(90))
    folder = tmp_path / "few"
    for i, (image, label) in enumerate(few):
        place = folder / "val" / few.class_names[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(place / f"{i}.png")
    code, out, _ = command("calibrate", run_folder, "--data", folder, "--out", tmp_path / "other")
    assert code == 0
    assert "careful: 90 images are few" in out
    _, out, _ = command("calibrate", run_folder, "--out", tmp_path / "another")
    assert "careful" not in out


def test_outputs_without_names_on_classes_in_the_order_of_text_are_told_of(command, tmp_path):
    """Folders 0 to 10 are read as 0, 1, 10, 2, ...: a temperature would be fitted to wrong labels without a word."""
    network = kedge.networks.create("kedge_resnet_small", 11, 1, 8, arguments={"width": 4})
    folder = kedge.save(kedge.plain(network, example=(1, 8, 8)).eval(), tmp_path / "nameless")
    for i in range(44):
        place = tmp_path / "own" / "val" / str(i % 11)
        place.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((8, 8), 60.0).save(place / f"{i}.png")
    _, _, err = command("calibrate", folder, "--data", tmp_path / "own", "--out", tmp_path / "calibrated")
    assert "careful with the model: it does not name its outputs" in err
    assert "0, 1, 10, 2" in err

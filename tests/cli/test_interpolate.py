import copy
import csv
import json
import re

import pytest
import torch

import kedge
from kedge import networks
from kedge.attacks import PGD
from kedge.cli import COMMANDS
from kedge.cli.resolve_model import find
from kedge.data.corruptions import corrupt
from kedge.data.statistics import NormBatches
from kedge.training import Recipe
from kedge.training.calibration import predict_set
from kedge.weights import interpolate

QUICK = ["--shift", "gaussian_noise", "--attack", "none", "--limit", "60", "--bn_images", "128", "--references", "1"]


def disturbed(model, size=0.05, seed=0):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
        for name, moment in model.named_buffers():
            if "running_" in name:
                moment.mul_(1 + size * torch.rand(moment.shape, generator=generator))
    return model


@pytest.fixture
def tuned(digit_model, tmp_path, monkeypatch):
    """A run that began from another model, as training leaves it: recipe.yaml, start/ and model/."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "tuned"
    kedge.save(digit_model, folder / "start")
    kedge.save(disturbed(copy.deepcopy(digit_model)), folder / "model")
    (folder / "recipe.yaml").write_text(Recipe(name="tuned", data="digits", image_size=8, anchored=True).to_yaml())
    return folder


def validation():
    images = kedge.data.load("digits", "val")
    return images.images.float() / 255, images.labels


def test_it_is_a_command():
    assert "interpolate" in COMMANDS


def test_half_of_what_a_run_began_with_and_half_of_what_it_made(command, tuned):
    code, out, err = command("interpolate", "tuned", "--bn_images", 200)
    assert code == 0
    made = tuned.with_name("tuned-interpolated")
    assert f"saved: {made.relative_to(tuned.parents[1])}" in out
    assert "digits (val): 179 images; alpha 0, 0.5, 1" in err
    model, a, b = kedge.load(made), kedge.load(tuned / "start"), kedge.load(tuned)
    wanted = interpolate(a.network.state_dict(), b.network.state_dict(), 0.5)
    for name, value in model.network.state_dict().items():
        # Statistics are estimated anew, on one whole batch of 128 images; all else is the average.
        if "running" in name:
            assert not torch.equal(value, wanted[name])
        elif "tracked" in name:
            assert int(value) == 1
        else:
            assert torch.equal(value, wanted[name]), name
    assert torch.equal(model.references, b.references)
    assert model.class_names == [str(i) for i in range(10)]
    rows = [line.split() for line in out.splitlines()[1:4]]
    assert [row[0] for row in rows] == ["0.00", "0.50", "1.00"]
    images, labels = validation()
    for row, each in zip(rows, (a, model, b), strict=True):
        right = (each.predict(images).label == labels).double().mean()
        assert float(row[1]) == pytest.approx(100 * float(right), abs=0.051)
    record = json.loads((made / "interpolation.json").read_text())
    assert record["picked"]["alpha"] == 0.5
    assert "128 training images, augmented as in training" in record["batch_norm"]
    assert not list(made.glob("sweep.*"))


def test_the_reject_threshold_is_set_anew_for_what_it_was_set_for(command, tuned):
    second = kedge.load(tuned)
    second.set_temperature(2.0)
    second.reject = {"score": "confidence", "threshold": 0.1, "coverage": 0.8}
    kedge.save(second, tuned / "model")
    _, out, _ = command("interpolate", tuned, "--alpha", "0.25", "--bn_images", 128)
    model = kedge.load(tuned.with_name("tuned-interpolated"))
    assert model.steps == {}
    assert "left out, as it was fitted to other logits: temperature 2" in out
    probs, _ = predict_set(model, kedge.data.load("digits", "val"))
    kept = (probs.amax(1) >= model.reject["threshold"] - 1e-6).double().mean()
    assert 0.8 <= float(kept) < 0.82
    assert f"reject threshold {model.reject['threshold']:.3f}, set on these images to keep 80%" in out


def test_a_sweep_draws_and_picks_the_best(command, tuned):
    code, out, _ = command("interpolate", tuned, "--sweep", "--alphas", "0.5,0.25", *QUICK, "--out", "swept")
    assert code == 0
    found = json.loads((tuned.parents[1] / "swept" / "sweep.json").read_text())
    assert [row["alpha"] for row in found["rows"]] == [0, 0.25, 0.5, 1]
    for row in found["rows"]:
        assert row["shifted"] == row["gaussian_noise"]
        assert row["mean"] == pytest.approx((row["clean"] + row["shifted"]) / 2)
        assert "pgd" not in row
    highest = max(row["mean"] for row in found["rows"])
    assert found["picked"]["alpha"] in [row["alpha"] for row in found["rows"] if row["mean"] == highest]
    assert found["data"] == {"name": "digits", "split": "val", "images": 60}
    assert found["command"].startswith(f"kedge interpolate {tuned} --sweep --alphas 0.5,0.25 --shift gaussian_noise")
    with open(tuned.parents[1] / "swept" / "sweep.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["clean"]) for row in rows] == pytest.approx([row["clean"] for row in found["rows"]], abs=1e-5)
    assert [row["picked"] for row in rows].count("1") == 1
    assert out.count("picked by mean") == 1
    page = (tuned.parents[1] / "swept" / "sweep.html").read_text()
    assert page.count("<svg") == 2
    assert "http" not in page.replace("http-equiv", "")
    assert "clean against shifted" in page
    assert page.count('class="o"') == 1  # the ring


def test_what_is_measured_is_what_the_ends_do(command, tuned):
    command("interpolate", tuned, "--sweep", "--alphas", "1", "--pick", "pgd", "--shift", "fog", "--severity", 2,
            "--eps", "0.1", "--steps", 3, "--attack_images", 40, "--references", 2, "--out", "swept")  # fmt: skip
    found = json.loads((tuned.parents[1] / "swept" / "sweep.json").read_text())
    images, labels = validation()
    for row, folder in zip(found["rows"], ("start", "model"), strict=True):
        model = kedge.load(tuned / folder)
        right = (model.predict(images, references=2).label == labels).double().mean()
        assert row["clean"] == pytest.approx(float(right))
        foggy = corrupt(images, "fog", 2)
        right = (model.predict(foggy, references=2).label == labels).double().mean()
        assert row["fog"] == pytest.approx(float(right), abs=0.5 / len(labels))
        assert row["pgd"] <= row["clean"] + 0.2
    assert found["attack"] == {
        "title": "PGD-3", "eps": 0.1, "norm": "linf", "steps": 3, "step_size": 0.025, "images": 40
    }  # fmt: skip
    low, high = found["picked"]["intervals"]["pgd"]
    assert low <= max(row["pgd"] for row in found["rows"]) <= high


def test_the_radius_is_that_of_the_training(command, tuned):
    recipe = Recipe(name="tuned", data="digits", image_size=8, objective=[
        {"Adversarial": {"attack": {"PGD": {"eps": "40/255", "steps": 2}}}}, "CrossEntropy"])  # fmt: skip
    (tuned / "recipe.yaml").write_text(recipe.to_yaml())
    quick = ["--alphas", "1", "--steps", 2, "--attack_images", 10, "--limit", 20, "--shift", "none", "--references", 1]
    command("interpolate", tuned, "--sweep", *quick, "--out", "one")
    command("interpolate", tuned, "--sweep", *quick, "--out", "other", "--norm", "l2")
    home = tuned.parents[1]
    attack = json.loads((home / "one" / "sweep.json").read_text())["attack"]
    assert (attack["eps"], attack["norm"]) == (pytest.approx(40 / 255), "linf")
    attack = json.loads((home / "other" / "sweep.json").read_text())["attack"]
    assert (attack["eps"], attack["norm"]) == (0.5, "l2")


def test_statistics_are_of_images_under_the_attack_of_the_training(command, tuned):
    for network in ("start", "model"):  # plain, so that the attack alone draws
        bare = networks.create("kedge_resnet_small", 10, 1, 8, arguments={"width": 4})
        kedge.save(disturbed(kedge.plain(bare, example=(1, 8, 8)), seed=int(network == "model")), tuned / network)
    attack = {"PGD": {"eps": "40/255", "steps": 2, "step_size": 0.1, "random_start": False}}
    objective = [{"Adversarial": {"attack": attack}}, "CrossEntropy"]
    recipe = Recipe(name="tuned", data="digits", image_size=8, objective=objective, augment="none")
    (tuned / "recipe.yaml").write_text(recipe.to_yaml())
    home = tuned.parents[1]
    for name, flags in (
        ("one", []),
        ("again", []),
        ("swept", ["--sweep", "--alphas", "0.5", "--attack", "none", "--pick", "clean"]),
    ):
        _, out, _ = command("interpolate", tuned, "--bn_images", 128, "--out", name, *flags, "--shift", "none")
        said = [line for line in out.splitlines() if "batch-norm statistics" in line]
        assert len(said) == 1
        assert "128 training images, as they are, attacked as in training (eps 40/255, linf, 2 steps)" in said[0]
        assert said[0] == json.loads((home / name / "interpolation.json").read_text())["batch_norm"]
    models = [kedge.load(home / name).state_dict() for name in ("one", "again")]
    assert all(torch.equal(value, models[1][name]) for name, value in models[0].items())
    # The first layer's statistics, by hand: PGD on the average with the statistics averaged, too.
    a, b = kedge.load(tuned / "start"), kedge.load(tuned / "model")
    b.network.load_state_dict(interpolate(a.network.state_dict(), b.network.state_dict(), 0.5))
    ((images, labels),) = NormBatches(kedge.data.load("digits", "train"), 128, "none", 128)
    made = PGD(40 / 255, 2, 0.1, random_start=False, keep="last")(b, images / 255, labels)
    assert float((made - images / 255).abs().max()) == pytest.approx(40 / 255)
    with torch.no_grad():
        out = b.network.stem(b.normalise(made))
    first = models[0]
    torch.testing.assert_close(first["network.norm_stem.0.running_mean"], out.mean((0, 2, 3)), rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(first["network.norm_stem.0.running_var"], out.var((0, 2, 3)), rtol=1e-3, atol=1e-4)


def test_two_models_a_plain_one_and_an_anchored_one(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    network = networks.create("kedge_resnet_small", 10, 1, 8, arguments={"width": 4})
    kedge.save(kedge.plain(network, example=(1, 8, 8)), "plain")
    kedge.save(disturbed(kedge.anchor(network, example=(1, 8, 8))), "anchored")
    with pytest.raises(ValueError, match="belongs to no run that says: name it with --data"):
        command("interpolate", "plain", "anchored")
    command("interpolate", "plain", "anchored", "--data", "digits", "--bn_images", 128)
    made = kedge.load("anchored-interpolated")
    assert isinstance(made, kedge.AnchoredModel)
    assert made.class_names == [str(i) for i in range(10)]
    assert made.reject["coverage"] == 0.95
    assert not (tmp_path / "anchored-interpolated" / "recipe.yaml").exists()


def test_the_result_knows_the_images_of_its_run(command, tuned):
    command("interpolate", tuned, "--bn_images", 128)
    made = tuned.with_name("tuned-interpolated")
    code, out, _ = command("calibrate", made)
    assert code == 0
    assert "179 images of digits (val)" in out


def test_what_a_run_keeps_beside_its_model_knows_the_run(command, tuned):
    kedge.save(kedge.load(tuned), tuned / "last")
    _, _, err = command("interpolate", tuned / "start", tuned / "last", "--bn_images", 128, "--out", "made")
    assert "digits (val): 179 images" in err
    assert find(str(tuned / "last")).name == "tuned-last"
    assert find(str(tuned / "model")).name == "tuned"


def test_nothing_is_overwritten_unless_told(command, tuned):
    made = tuned.with_name("tuned-interpolated")
    command("interpolate", tuned, "--bn_images", 128)
    first = (made / "model" / "model.safetensors").read_bytes()
    with pytest.raises(FileExistsError, match="is there already: name another --out, or replace it with --overwrite"):
        command("interpolate", tuned, "--alpha", 0.9)
    assert (made / "model" / "model.safetensors").read_bytes() == first
    (made / "sweep.csv").write_text("old")
    command("interpolate", tuned, "--alpha", 0.9, "--overwrite", "--bn_images", 128)
    assert json.loads((made / "interpolation.json").read_text())["picked"]["alpha"] == 0.9
    assert (made / "model" / "model.safetensors").read_bytes() != first
    assert not (made / "sweep.csv").exists()
    for taken in (tuned, tuned.parents[1]):
        with pytest.raises(FileExistsError, match="was not written by kedge interpolate"):
            command("interpolate", tuned, "--out", taken, "--overwrite")


def test_a_failure_leaves_no_folder(command, tuned, monkeypatch):
    from kedge.reporting import sweep

    def full(*arguments):
        raise OSError("no space left on device")

    monkeypatch.setattr(sweep, "page", full)
    with pytest.raises(OSError, match="no space left"):
        command("interpolate", tuned, "--sweep", "--alphas", "1", *QUICK)
    assert sorted(path.name for path in tuned.parent.iterdir()) == ["tuned"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--alpha", "1.5"], "--alpha: between 0 .* and 1 .* got 1.5"),
        (["--sweep", "--alphas", "nan"], "--alphas: between 0 .* got nan"),
        (["--sweep", "--alphas", "0.5", "half"], "--alphas: between 0 .* got half"),
        (["--sweep", "--alpha", "0.5"], "give one of the two"),
        (["--alphas", "0.5"], "say --sweep too"),
        (["--sweep", "--attack", "none", "--pick", "pgd"], "--pick pgd, but what is measured is clean, shifted, mean"),
        (["--sweep", "--shift", "rain"], "no corruption called 'rain'"),
        (["--sweep", "--severity", "7"], "--severity must be 1 to 5, got 7"),
        (["--sweep", "--eps", "much"], "--eps must be a number"),
        (["--limit", "0"], "--limit must be 1 or more, got 0"),
        (["--steps", "0"], "--steps must be 1 or more, got 0"),
        (["--references", "0"], "--references must be 1 or more"),
        (["--data", "nowhere"], "no data called 'nowhere'"),
    ],
)
def test_wrong_flags_say_what_is_wrong_and_write_nothing(command, tuned, flags, words):
    with pytest.raises(ValueError, match=words):
        command("interpolate", tuned, *flags)
    assert sorted(path.name for path in tuned.parent.iterdir()) == ["tuned"]


def test_models_that_do_not_fit_are_said_before_images_are_read(command, tuned, digit_model, monkeypatch):
    def never(*arguments):
        raise AssertionError("read")

    monkeypatch.setattr("kedge.cli.interpolate.training_and_validation", never)
    other = copy.deepcopy(digit_model)
    other.class_names = [str(i) for i in (1, 0, *range(2, 10))]
    kedge.save(other, "named")
    with pytest.raises(ValueError, match="in another order: '1' stands where the second has '0'"):
        command("interpolate", "named", tuned)
    kedge.save(
        kedge.anchor(networks.create("kedge_resnet_small", 10, 1, 8, arguments={"width": 4}), example=(1, 8, 8)),
        "narrow",
    )
    with pytest.raises(ValueError, match="weights of different networks"):
        command("interpolate", "narrow", tuned)
    wide = networks.create("kedge_resnet_small", 10, 1, 8, arguments={"width": 8})
    kedge.save(kedge.plain(wide, mean=0.2, example=(1, 8, 8)), "shifted")
    with pytest.raises(ValueError, match="normalise differently: mean is"):
        command("interpolate", "shifted", tuned)
    with pytest.raises(ValueError, match="two models are averaged, or one run"):
        command("interpolate", tuned, tuned, tuned)
    with pytest.raises(FileNotFoundError, match="no model at 'nothing'"):
        command("interpolate", tuned, "nothing")
    with pytest.raises(ValueError, match=re.escape("timm/test_vit is no folder that kedge saved")):
        command("interpolate", "timm/test_vit", tuned)
    with pytest.raises(ValueError, match="keeps no model that it began from"):
        command("interpolate", "named")


def test_data_without_validation_images_does_not_choose(command, tuned, photos):
    from PIL import Image

    for i in range(10):
        (photos.parent / "classes" / str(i)).mkdir(parents=True)
        Image.new("L", (8, 8), i).save(photos.parent / "classes" / str(i) / "0.png")
    with pytest.raises(ValueError, match=r"has no validation images \(it has: all\)"):
        command("interpolate", tuned, "--data", photos.parent / "classes")


def test_validation_images_that_the_first_model_saw_are_left_out(command, tuned, run_folder, tmp_path):
    """In photos without a part val each run holds out its own."""
    from PIL import Image

    import kedge
    from kedge.training.record import ImageRecord

    data = tmp_path / "data"
    for i in range(10):
        (data / "train" / str(i)).mkdir(parents=True)
        for j in range(4):
            Image.new("L", (8, 8), 20 * i + j).save(data / "train" / str(i) / f"{j}.png")
    train, val = kedge.data.split_validation(kedge.data.load(data, "train"), 0.25)
    assert 9 < len(val) < 20
    for folder, seen in ((run_folder, val.subset(range(3))), (tuned, train)):
        recipe = Recipe(name=folder.name, data=str(data), image_size=8, val_fraction=0.25)
        (folder / "recipe.yaml").write_text(recipe.to_yaml())
        ImageRecord.of(seen, val).write(folder)
    _, _, err = command("interpolate", run_folder, tuned)
    assert "left out, as first was trained on them: 3 images" in err
    assert f"{len(val) - 3} images; alpha" in err
    _, _, err = command("interpolate", tuned, "--out", "again")
    assert "left out" not in err


def test_an_average_is_swept_between_what_was_averaged(tmp_path, monkeypatch, capsys):
    from kedge.cli.interpolate import both

    monkeypatch.chdir(tmp_path)
    run = tmp_path / "runs" / "r"
    for name in ("start", "model", "last"):
        (run / name).mkdir(parents=True)
        (run / name / "config.json").write_text("{}")
    (run / "recipe.yaml").write_text("average: 0.5\n")
    assert [source.path.name for source in both(["r"])] == ["start", "last"]
    assert "is an average itself" in capsys.readouterr().err
    (run / "best").mkdir()
    (run / "best" / "config.json").write_text("{}")
    assert both(["r"])[1].path.name == "best"
    (run / "recipe.yaml").write_text("average: null\n")
    assert both(["r"])[1].path.name == "model"

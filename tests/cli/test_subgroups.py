import csv
import json

import pytest
import torch
from PIL import Image
from scipy.stats import linregress

import kedge
from kedge.data.groups import Groups
from kedge.evaluation import accuracy_on_the_curve
from kedge.reporting.subgroups import subgroup_table
from kedge.training import fit


@pytest.fixture
def cameras(tmp_path):
    """The first 150 test digits as files of two cameras, one darker."""
    digits = kedge.data.load("digits", "test")
    for i in range(150):
        place = tmp_path / "cameras" / str(int(digits.labels[i]))
        place.mkdir(parents=True, exist_ok=True)
        image = digits.images[i, 0] // (1 + i % 3 % 2)
        Image.fromarray(image.numpy()).save(place / f"cam{i % 3 % 2}_{i}.png")
    return tmp_path / "cameras"


@pytest.fixture(scope="module")
def run_of_snapshots(tmp_path_factory):
    """A short training that keeps its model after each of five epochs."""
    recipe = {
        "data": "digits", "model": "kedge_resnet_small", "arguments": {"width": 4}, "anchored": False,
        "objective": ["CrossEntropy"], "epochs": 5, "snapshots": 1, "train_images": 400, "device": "cpu",
        "runs": str(tmp_path_factory.mktemp("runs")), "name": "first", "workers": 0, "optimizer": {"sgd": {"lr": 0.1}},
    }  # fmt: skip
    return fit(recipe, progress=False, report=False).folder


def test_over_the_snapshots_of_a_run(command, run_of_snapshots, cameras, tmp_path):
    out = tmp_path / "out"
    asked = ["subgroups", run_of_snapshots, "--data", cameras, "--groups", r"regex:^(cam\d)", "--out", out]
    code, text, _ = command(*asked)
    assert code == 0
    results = json.loads((out / "subgroups.json").read_text())
    assert results["majority"] == "cam0"
    assert [point["model"] for point in results["points"]] == [f"first-epoch-{n:04d}" for n in range(1, 6)]
    images = kedge.data.load(cameras, "all", 8, 1)
    expected = {"cam0": [], "cam1": []}
    for n in range(1, 6):
        model = kedge.load(run_of_snapshots / "snapshots" / f"epoch-{n:04d}")
        right = model(images.images / 255).argmax(1) == images.labels
        for name, values in expected.items():
            inside = torch.tensor([f"/{name}_" in path for path in images.paths])
            values.append(float(right[inside].double().mean()))
    rows = list(csv.DictReader((out / "subgroups.csv").open()))
    for name, values in expected.items():
        assert [p["accuracy"][name]["value"] for p in results["points"]] == pytest.approx(values)
        assert [float(row["accuracy"]) for row in rows if row["group"] == name] == pytest.approx(values, abs=1e-5)
    line = linregress(expected["cam0"], expected["cam1"])
    curve = results["curves"]["cam1"]
    assert (curve["r2"], curve["slope"]) == pytest.approx((line.rvalue**2, line.slope))
    assert f"{line.rvalue**2:.2f}" in text
    page = (out / "subgroups.html").read_text()
    assert page.count('<circle class="p k0"') == 5
    command(*asked[:-2], "--majority", "cam1")
    (again,) = run_of_snapshots.glob("subgroups/subgroups.json")  # in the run, without --out
    assert json.loads(again.read_text())["majority"] == "cam1"


def test_what_makes_no_curve(command, run_of_snapshots, run_folder, model_folder, cameras):
    asked = ["--data", cameras, "--groups", r"regex:^(cam\d)"]
    with pytest.raises(ValueError, match=r"'cam7' is no group of 10 images or more: there are 'cam0', 'cam1'"):
        command("subgroups", run_of_snapshots, *asked, "--majority", "cam7")
    with pytest.raises(ValueError, match="it takes 3 models, got 1"):
        command("subgroups", model_folder, *asked)
    with pytest.raises(ValueError, match="matches none of"):
        command("subgroups", model_folder, "--data", cameras, "--groups", "regex:IMG")


def test_a_run_without_snapshots_is_said_to_be_one_point(command, run_folder, cameras, capsys):
    with pytest.raises(ValueError, match="it takes 3 models, got 1"):
        command("subgroups", run_folder, "--data", cameras, "--groups", r"regex:^(cam\d)")
    assert "first kept no snapshots (kedge train --snapshots 1), so it is one point" in capsys.readouterr().err


def test_models_that_are_equally_right_have_no_line():
    digits = kedge.data.load("digits", "test")
    groups = Groups.of(["odd" if i % 2 else "even" for i in range(len(digits))])
    models = [(str(n), lambda images: torch.eye(10)[0].expand(len(images), 10)) for n in range(3)]
    curve = accuracy_on_the_curve(models, digits, groups)["curves"]
    assert next(iter(curve.values()))["r2"] is None


def test_one_image_aside_is_one():
    digits = kedge.data.load("digits", "test")
    groups = Groups.of(["alone"] + ["odd" if i % 2 else "even" for i in range(1, len(digits))])
    models = [(str(n), lambda images: torch.eye(10)[0].expand(len(images), 10)) for n in range(3)]
    text = subgroup_table(accuracy_on_the_curve(models, digits, groups))
    assert text.endswith("1 image is in no group of ten images or more")

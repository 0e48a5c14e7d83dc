import json

import pytest
import torch
from PIL import Image

import kedge


@pytest.fixture
def cameras(tmp_path):
    """120 test digits as files of two cameras, and two files of none."""
    digits = kedge.data.load("digits", "test")
    for i in range(122):
        place = tmp_path / "cameras" / str(int(digits.labels[i]))
        place.mkdir(parents=True, exist_ok=True)
        name = f"cam{i % 3 % 2}_{i}.png" if i < 120 else f"found{i}.png"
        Image.fromarray(digits.images[i, 0].numpy()).save(place / name)
    return tmp_path / "cameras"


def test_accuracy_by_group(command, model_folder, digit_model, cameras, tmp_path):
    asked = ["evaluate", model_folder, "--data", cameras, "--shift", "none", "--out", tmp_path / "out"]
    code, out, _ = command(*asked, "--groups", r"regex:^(cam\d{1,2})_", "--format", "json")
    assert code == 0
    results = json.loads(out)
    own = results["models"]["digit-model"]["clean"]["accuracy_by_group"]
    images = kedge.data.load(cameras, "all", 8, 1)
    right = digit_model.predict(images.images / 255).label == images.labels
    for name in ("cam0", "cam1"):
        inside = torch.tensor([f"/{name}_" in path for path in images.paths])
        assert own["groups"][name]["value"] == pytest.approx(float(right[inside].double().mean()))
    assert own["ungrouped"] == 2
    assert results["settings"]["groups_of"] == r"regex:^(cam\d{1,2})_"
    assert "Accuracy by group" in (tmp_path / "out" / "report.html").read_text()
    code, out, _ = command(*asked, "--groups", r"regex:^(cam\d)_", "class", "--format", "csv")
    assert "cam0, 3,,,accuracy_by_group" in out.replace('"', "")


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ("camera", "named by column:NAME"),
        ("regex:^IMG", "matches none of 122 file names"),
        ("column:camera", "no parquet files and no hub set"),
        ("regex:(.*)", "the largest have 1 and 1"),
    ],
)
def test_groups_that_are_none(command, model_folder, cameras, groups, words):
    with pytest.raises(ValueError, match=words):
        command("evaluate", model_folder, "--data", cameras, "--shift", "none", "--groups", groups)

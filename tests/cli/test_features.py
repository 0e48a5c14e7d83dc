import csv
import json
import shutil

import pytest
import torch
from PIL import Image

import kedge
from kedge import networks


@pytest.fixture
def other_folder(tmp_path):
    """The network of the digits, started otherwise."""
    torch.manual_seed(1)
    model = kedge.plain(networks.create("kedge_resnet_small", 10, 1, 8, arguments={"width": 8}), example=(1, 8, 8))
    return kedge.save(model.eval(), tmp_path / "other")


def test_features_of_a_run_beside_those_of_another_model(command, other_folder, run_folder, tmp_path):
    out = tmp_path / "out"
    asked = ["features", other_folder, run_folder, "--limit", 150, "--layers", "blocks.1", "blocks.2", "--out", out]
    code, text, err = command(*asked)
    assert code == 0
    results = json.loads((out / "features.json").read_text())
    assert [row["name"] for row in results["layers"]] == ["blocks.1", "blocks.2"]
    assert results["names"] == {"before": "other", "after": "first"}
    assert (results["images"], results["train_images"]) == (150, 150)
    rows = list(csv.DictReader((out / "features.csv").open()))
    assert len(rows) == 2 * 5
    row = results["layers"][1]
    assert f"{row['after']['effective_rank']:.1f}" in text
    (probe,) = [r for r in rows if (r["layer"], r["measure"], r["model"]) == ("blocks.2", "probe", "after")]
    assert float(probe["value"]) == pytest.approx(row["after"]["probe"]["value"], abs=1e-5)
    page = (out / "features.html").read_text()
    assert page.count("<figure") == 3
    assert "blocks.2" in page
    assert f"report: {out / 'features.html'}" in err


def test_copies_of_images_that_judge_are_left_out(command, run_folder, tmp_path):
    images = kedge.data.load("digits", "test")
    for i, (image, label) in enumerate(images.subset(range(150))):
        (tmp_path / "photos" / str(label)).mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0].numpy()).save(tmp_path / "photos" / str(label) / f"{i:03}.png")
    zeros = sorted((tmp_path / "photos" / "0").iterdir())
    shutil.copy(zeros[0], zeros[0].with_name("000-b.png"))  # places 0 and 1; of every three the third judges
    shutil.copy(zeros[0], zeros[0].with_name("000-c.png"))
    call = "features", run_folder, run_folder, "--data", tmp_path / "photos", "--layers", "blocks.2", "--out"
    code, _, err = command(*call, tmp_path / "out")
    assert code == 0
    assert "left out of the training images, as they are test images too: 2" in err
    with pytest.raises(ValueError, match="39 images to fit probes, and it takes 40 or more"):
        command(*call, tmp_path / "few", "--limit", 39)


def test_models_without_layers_are_refused_before_images_are_read(command, run_folder, model_folder, tmp_path):
    with pytest.raises(ValueError, match="which data"):
        command("features", run_folder, model_folder)
    with pytest.raises(ValueError, match="the network has no layer 'layer9'; it has stem"):
        command("features", run_folder, run_folder, "--layers", "layer9", "--limit", 60)
    pytest.importorskip("onnxruntime")
    model = kedge.plain(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10)), example=(1, 8, 8))
    kedge.deploy.export(model.eval(), tmp_path / "x.onnx")
    with pytest.raises(ValueError, match=r"the model .*x\.onnx has no layers to look at \(OnnxModel\)"):
        command("features", tmp_path / "x.onnx", run_folder, "--limit", 60)

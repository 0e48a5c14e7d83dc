import csv
import io
import json

import pytest
import torch

import kedge
from kedge import networks
from kedge.cli import evaluate


@pytest.fixture
def few_classes(tmp_path):
    """A plain model of the digits 3, 1 and 0, in this order, as a run."""
    from kedge.training import Recipe

    torch.manual_seed(1)
    model = kedge.plain(networks.create("kedge_resnet_small", 3, 1, 8, arguments={"width": 8}), example=(1, 8, 8))
    model.class_names = ["3", "1", "0"]
    folder = tmp_path / "runs" / "few"
    kedge.save(model.eval(), folder / "model")
    recipe = Recipe(name="few", data="digits", image_size=8, classes=["3", "1", "0"], anchored=False)
    (folder / "recipe.yaml").write_text(recipe.to_yaml())
    return folder


def test_json_is_pure_and_the_numbers_are_the_models(command, run_folder, digit_model):
    code, out, err = command("evaluate", run_folder, "--corruptions", "none", "--format", "json")
    assert code == 0
    results = json.loads(out)
    assert list(results["models"]) == ["first"]
    assert "digits (test)" in err
    test = kedge.data.load("digits", "test")
    predicted = digit_model.predict(test.images.float() / 255)
    model = results["models"]["first"]
    assert model["clean"]["accuracy"]["value"] == pytest.approx(
        float((predicted.label == test.labels).float().mean()), abs=1e-6
    )
    assert model["shift"] is None
    page = run_folder / "evaluation" / "report.html"
    assert f"report: {page}" in err
    assert page.read_text().lstrip().startswith("<!")
    stored = json.loads((page.parent / "results.json").read_text())
    assert stored["models"]["first"]["clean"] == model["clean"]
    assert stored["command"] == f"kedge evaluate {run_folder} --corruptions none --format json"


def test_several_models_side_by_side_with_corruptions(command, run_folder, model_folder, tmp_path):
    out = tmp_path / "compared"
    _, table, _ = command(
        "evaluate", run_folder, model_folder, "--data", "digits", "--severities", 1, 5, "--corruptions", "contrast",
        "--limit", 50, "--out", out, "--format", "csv",
    )  # fmt: skip
    rows = list(csv.DictReader(io.StringIO(table)))
    assert {row["model"] for row in rows} == {"first", "digit-model"}
    assert {"contrast 1", "contrast 5"} <= {row["condition"] for row in rows}
    assert sorted(p.name for p in out.iterdir()) == ["report.html", "results.json"]
    _, table, _ = command("evaluate", run_folder, model_folder, "--limit", 20, "--corruptions", "none", "--out", out)
    assert "first" in table
    assert "digit-model" in table


def test_classes_are_matched_by_name_and_the_rest_is_outside(command, few_classes):
    _, out, err = command("evaluate", few_classes, "--ood", "digits", "--corruptions", "none", "--format", "json")
    results = json.loads(out)
    assert results["data"]["class_names"] == ["3", "1", "0"]
    assert "left out, not among the models' classes: 2, 4, 5, 6, 7, 8, 9" in err
    ((name, outside),) = results["ood_sets"].items()
    assert name == "digits (2, 4, 5, 6, 7, ...)"
    test = kedge.data.load("digits", "test")
    assert outside["images"] == int((~torch.isin(test.labels, torch.tensor([0, 1, 3]))).sum())


def test_a_set_with_no_other_classes_is_not_outside(command, run_folder):
    with pytest.raises(ValueError, match="trained on all classes of digits"):
        command("evaluate", run_folder, "--ood", "digits")


def test_data_is_asked_for_when_no_run_says_it(command, model_folder):
    with pytest.raises(ValueError, match="the models belong to no run: say --data NAME"):
        command("evaluate", model_folder)


def test_held_out_images_of_a_folder_without_splits(command, tmp_path):
    from PIL import Image
    from sklearn.datasets import load_digits

    from kedge.training import Recipe
    from kedge.training.build import load_sets

    digits = load_digits()
    for i in range(60):
        place = tmp_path / "photos" / f"digit {digits.target[i] % 2}"
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray((digits.images[i] * 255 / 16).astype("uint8")).save(place / f"{i}.png")
    model = kedge.plain(networks.create("kedge_resnet_small", 2, 1, 8, arguments={"width": 8}), example=(1, 8, 8))
    model.class_names = ["digit 0", "digit 1"]
    folder = tmp_path / "odd-even"
    kedge.save(model.eval(), folder / "model")
    recipe = Recipe(name="odd-even", data=str(tmp_path / "photos"), image_size=8, val_fraction=0.2)
    (folder / "recipe.yaml").write_text(recipe.to_yaml())
    with pytest.raises(ValueError, match=r"has no test images .*--split val"):
        command("evaluate", folder)
    _, out, _ = command("evaluate", folder, "--split", "val", "--corruptions", "none", "--format", "json")
    assert json.loads(out)["data"]["images"] == len(load_sets(recipe)[1]) == 12


def test_command_line_gives_the_same_configuration_again():
    made = evaluate.parser()
    words = ["a b", "c", "--data", "digits", "--severities", "1", "2", "--limit", "5", "--seed", "0"]
    line = evaluate.command_line("kedge evaluate", made, made.parse_args(words))
    assert line == "kedge evaluate 'a b' c --data digits --severities 1 2 --limit 5"


def test_a_long_evaluation_on_a_cpu_is_announced(capsys):
    made = evaluate.parser()

    class Photos:
        def __len__(self):
            return 100

    model = kedge.anchor(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 70 * 70, 2)), example=(3, 70, 70))
    model.references = torch.rand(5, 3, 70, 70)
    evaluate.announce({"m": model}, Photos(), None, made.parse_args(["m"]))
    assert f"{100 * 31 * 5:,} images go through networks" in capsys.readouterr().err
    evaluate.announce({"m": model}, Photos(), (), made.parse_args(["m"]))
    assert capsys.readouterr().err == ""

"""`--adapt_at_test` of kedge evaluate and kedge predict."""

import json
import shutil

import pytest
import torch

import kedge


@pytest.fixture
def plain_run(run_folder, digit_model):
    """A run with a plain model that has batch norm."""
    torch.manual_seed(0)
    network = kedge.networks.create("kedge_resnet_small", 10, 1, 8, arguments={"width": 8})
    model = kedge.plain(network, example=(1, 8, 8)).eval()
    model.class_names = digit_model.class_names
    shutil.rmtree(run_folder / "model")
    kedge.save(model, run_folder / "model")
    return run_folder


QUICK = ("--shift", "none", "--limit", "100", "--batch_size", "50")


def test_with_and_without_stand_side_by_side(command, plain_run, tmp_path):
    methods = ("--adapt_at_test", "tent,batch-statistics")
    code, out, err = command("evaluate", plain_run, *QUICK, *methods, "--no_brake", "--out", tmp_path / "e")
    assert code == 0, err
    results = json.loads((tmp_path / "e" / "results.json").read_text())
    assert list(results["models"]) == ["first", "first+tent", "first+batch_statistics"]
    tent = results["models"]["first+tent"]["test_time"]
    assert (tent["method"], tent["brake"], tent["lr"]) == ("tent", None, 0.001)
    assert tent["sets"]["clean"]["steps"] == 2
    assert tent["order"] == {"mixed": True, "seed": 0}
    assert "first+tent" in out


def test_the_brake_rests_on_images_that_the_run_held_out(command, plain_run, tmp_path):
    code, _, err = command("evaluate", plain_run, *QUICK, "--adapt_at_test", "tent", "--out", tmp_path / "e")
    assert code == 0, err
    brake = json.loads((tmp_path / "e" / "results.json").read_text())["models"]["first+tent"]["test_time"]["brake"]
    assert brake["every"] == 5
    assert 50 <= brake["images"] <= 200


def test_predict_adapts_and_says_so(command, plain_run, photos, tmp_path):
    asked = ("--adapt_at_test", "tent", "--batch_size", "4", "--format", "json")
    code, out, err = command("predict", plain_run, photos, *asked, "--no_brake")
    assert code == 3
    rows = json.loads(out)
    assert "adapted to 10 of 10 images in" in err
    before = json.loads(command("predict", plain_run, photos, "--format", "json")[1])
    assert [row["path"] for row in rows] == [row["path"] for row in before]
    differing = [a["confidence"] != b["confidence"] for a, b in zip(rows, before, strict=True) if not a["error"]]
    assert all(differing)
    held = command("predict", plain_run, photos, *asked)
    assert held[0] == 3
    assert "adapted to" in held[2]


def test_what_was_interrupted_begins_again(command, plain_run, photos, tmp_path, monkeypatch):
    from kedge.cli import shares

    out = tmp_path / "answers.csv"
    asked = ("predict", plain_run, photos, "--adapt_at_test", "tent", "--no_brake", "--out", out)
    monkeypatch.setattr(shares.Share, "join", lambda *more: (_ for _ in ()).throw(RuntimeError("killed")))
    with pytest.raises(RuntimeError, match="killed"):
        command(*asked)
    with pytest.raises(ValueError, match=r"12 images were answered before.*delete"):
        command(*asked)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--adapt_at_test", "tend"), "has no 'tend'.*did you mean tent"),
        (("--no_brake",), "--no_brake is for --adapt_at_test"),
        (("--adapt_at_test", "tent", "--ood", "mnist"), "--ood is not measured with --adapt_at_test"),
        (("--adapt_at_test", "tent", "--attack", "pgd"), "--attack is not measured"),
        (("--adapt_at_test", "tent", "--unlabelled", "photos"), "--unlabelled is not measured"),
        (("--adapt_at_test", "tent", "--batch_size", "1", "--no_brake", "--shift", "none"), "one image has no stat"),
    ],
)
def test_wrong_calls_of_evaluate(command, plain_run, arguments, words):
    with pytest.raises(ValueError, match=words):
        command("evaluate", plain_run, *arguments)


def test_wrong_calls_of_predict(command, plain_run, photos, model_folder, monkeypatch):
    with pytest.raises(ValueError, match="--validation is for --adapt_at_test"):
        command("predict", plain_run, photos, "--validation", "digits")
    with pytest.raises(ValueError, match=r"labelled images that were kept.*--no_brake"):
        command("predict", model_folder, photos, "--adapt_at_test", "tent")
    assert command("predict", plain_run, photos, "--adapt_at_test", "tend")[0] == 2


@pytest.mark.slow
def test_an_exported_file_is_refused(command, plain_run, photos, tmp_path):
    pytest.importorskip("onnxruntime")
    file = tmp_path / "model.onnx"
    assert command("export", plain_run, "--out", file)[0] == 0
    with pytest.raises(ValueError, match=r"no batch-norm layer.*exported"):
        command("predict", file, photos, "--adapt_at_test", "tent", "--no_brake")

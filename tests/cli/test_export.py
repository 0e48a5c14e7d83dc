import pytest

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
    assert "4 references on" in out
    assert "a map of one reference in which that picture can be made out" in out
    assert "not the picture" not in out
    # the threshold is that of the one reference which folding keeps
    confidence = digit_model.predict(kedge.data.load("digits", "val").images.float() / 255, references=1).confidence
    assert found.reject["coverage"] == 0.9
    assert float((confidence >= found.reject["threshold"] - 1e-6).float().mean()) == pytest.approx(0.9, abs=0.01)
    assert f"kedge predict {path} IMAGES" in out
    assert "digits (val)" in err


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


def test_a_plain_model_is_not_called_folded(command, tmp_path):
    kedge.save(kedge.plain(networks.create("kedge_resnet_small", 10, 1, 8), example=(1, 8, 8)), tmp_path / "plain")
    _, out, _ = command("export", tmp_path / "plain", "--to", "torch", "--out", tmp_path / "p.pt2")
    assert "references" not in out
    assert "inside" not in out


def test_missing_extra_and_bad_arguments(command, model_folder, monkeypatch):
    with pytest.raises(ValueError, match="--images must be 1 or more"):
        command("export", model_folder, "--images", 0)
    monkeypatch.setattr(exporting, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'kedge\[export\]'"):
        command("export", model_folder)

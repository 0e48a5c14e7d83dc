import pytest

from kedge.cli.models import find, find_all


def test_a_run_is_found_by_folder_by_name_and_by_its_model(run_folder, monkeypatch):
    source = find(str(run_folder))
    assert (source.name, source.run, source.path) == ("first", run_folder, run_folder / "model")
    assert source.recipe()["data"] == "digits"
    assert find(str(run_folder / "model")).run.name == "first"
    assert find(str(run_folder / "model" / "config.json")).name == "first"
    monkeypatch.chdir(run_folder.parent.parent)
    assert find("first").load("cpu").num_outputs == 10


def test_a_model_folder_belongs_to_no_run(model_folder):
    source = find(str(model_folder))
    assert (source.name, source.run) == ("digit-model", None)
    assert source.recipe() == {}


def test_several_models_get_names_of_their_own(model_folder, run_folder):
    names = list(find_all([str(model_folder), str(run_folder), str(model_folder)]))
    assert names == ["digit-model", "first", "digit-model (2)"]


def test_what_is_no_model_says_what_to_give(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"no model at 'nowhere'.*none here"):
        find("nowhere")
    (tmp_path / "runs" / "some").mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match="there are: some"):
        find("nowhere")
    with pytest.raises(FileNotFoundError, match="a folder without a model"):
        find("some")
    (tmp_path / "runs" / "some" / "recipe.yaml").write_text("data: digits")
    with pytest.raises(FileNotFoundError, match="kedge train --resume some"):
        find("some")
    for name, hint in (("last.ckpt", "run folder"), ("m.pt2", "ONNX"), ("m.pth", "not a model that kedge reads")):
        (tmp_path / name).write_bytes(b"")
        with pytest.raises(ValueError, match=hint):
            find(name)


def test_an_exported_file_keeps_its_suffix_beside_its_run(run_folder):
    (run_folder / "first.onnx").write_bytes(b"")
    assert list(find_all([str(run_folder), str(run_folder / "first.onnx")])) == ["first", "first.onnx"]

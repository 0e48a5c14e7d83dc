import json

import pytest

from kedge.cli.evaluate import free_folder


def test_quickstart_compares_and_says_what_is_next(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = command("quickstart", "--epochs", 1, "--out", "runs/q")
    assert code == 0
    assert "8 and 9 are kept from them" in out
    folder = tmp_path / "runs" / "q"
    results = json.loads((folder / "results.json").read_text())
    assert list(results["models"]) == ["standard", "anchored"]
    assert results["data"]["class_names"] == [str(i) for i in range(8)]
    assert list(results["ood_sets"]) == ["digits 8 and 9"]
    assert results["command"] == "kedge quickstart --epochs 1 --out runs/q"
    sizes = [m["parameters"] for m in results["models"].values()]
    assert sizes[1] < 1.05 * sizes[0]  # the same network
    assert f"Report: {folder / 'report.html'}" in out
    assert len(list((folder / "images").glob("*.png"))) == 10
    code, out, _ = command("predict", "runs/q/anchored", "runs/q/images", "--format", "json")
    assert code == 0
    assert {row["label"] for row in json.loads(out)} <= {str(i) for i in range(8)}


def test_an_earlier_quickstart_is_kept(tmp_path):
    assert free_folder(tmp_path / "q") == tmp_path / "q"
    (tmp_path / "q").mkdir()
    (tmp_path / "q-2").mkdir()
    assert free_folder(tmp_path / "q") == tmp_path / "q-3"


def test_epochs_are_checked_before_anything_starts(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match="epochs must be 1 or more"):
        command("quickstart", "--epochs", 0)
    assert list(tmp_path.iterdir()) == []

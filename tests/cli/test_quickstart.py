import json
import subprocess
import sys

import pytest
import yaml

from kedge.cli import quickstart
from kedge.cli.results_folder import free_folder
from kedge.training import Recipe


@pytest.mark.slow
def test_quickstart_compares_groups_and_says_what_is_next(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, out, _ = command("quickstart", "--epochs", 1, "--seeds", 2, "--seed", 5, "--jobs", 1, "--out", "runs/q")
    assert code == 0
    assert "8 and 9 are kept from them" in out
    folder = tmp_path / "runs" / "q"
    assert {path.name for path in folder.iterdir()} == {
        "standard", "standard-6", "anchored", "anchored-6", "images", "images.csv", "report.html", "results.json",
        "results.csv",
    }  # fmt: skip
    results = json.loads((folder / "results.json").read_text())
    assert results["groups"] == {"standard": ["standard-5", "standard-6"], "anchored": ["anchored-5", "anchored-6"]}
    assert results["data"]["class_names"] == [str(i) for i in range(8)]
    assert list(results["ood_sets"]) == ["digits 8 and 9"]
    assert results["command"] == "kedge quickstart --epochs 1 --seeds 2 --seed 5 --jobs 1 --out runs/q"
    sizes = [m["parameters"] for m in results["models"].values()]
    assert max(sizes) < 1.05 * min(sizes)  # the same network
    for name in ("standard-6", "anchored-6"):  # no run twice, and none under another's name
        recipe = yaml.safe_load((folder / name / "recipe.yaml").read_text())
        assert (recipe["seed"], recipe["anchored"]) == (6, name == "anchored-6")
        assert results["models"][name]["references"] == (10 if recipe["anchored"] else None)
    # What is said is said of groups, never of a single training.
    claims = [line for line in out.splitlines() if ", mean over seeds: " in line]
    assert len(claims) == 6
    assert all("too close to call" in line or "is best" in line for line in claims)
    for name in results["models"]:
        assert f"{name} is best" not in out
    assert "Over seeds, mean ± sd (n)" in out
    page = (folder / "report.html").read_text()
    assert page.index('id="seeds"') < page.index("<summary>Each model</summary>")
    assert f"Report: {folder / 'report.html'}" in out
    assert len(list((folder / "images").glob("*.png"))) == 10
    code, out, _ = command("predict", "runs/q/anchored", "runs/q/images", "--format", "json")
    assert code == 0
    assert {row["label"] for row in json.loads(out)} <= {str(i) for i in range(8)}


@pytest.mark.slow
def test_in_processes_side_by_side(tmp_path):
    words = [sys.executable, "-m", "kedge", "quickstart", "--epochs", "1", "--seeds", "1", "--jobs", "2", "--out", "q"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "standard-0: 1 epoch in" in done.stdout
    assert "anchored-0: 1 epoch in" in done.stdout
    assert "No test and no intervals, so no difference is claimed" in done.stdout  # one training each
    assert not list((tmp_path / "q").glob("job-*.log"))
    assert not (tmp_path / "q" / "parts").exists()
    assert json.loads((tmp_path / "q" / "results.json").read_text())["groups"] == {
        "standard": ["standard-0"], "anchored": ["anchored-0"],
    }  # fmt: skip


def test_a_process_that_stops_is_said_in_words(command, tmp_path, monkeypatch):
    def stopped(commands, logs, tick):
        tick()
        assert [words[words.index("--part") + 1] for words in commands] == ["1/2", "2/2"]
        return ["a process was ended by SIGKILL, as happens where memory runs out (see job-1.log)"]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(quickstart, "side_by_side", stopped)
    with pytest.raises(RuntimeError, match="ended by SIGKILL, as happens where memory runs out"):
        command("quickstart", "--jobs", 2)


def test_the_methods_are_as_kedge_train_has_them(tmp_path):
    planned = quickstart.recipes(tmp_path)
    assert len({r.name for r in planned}) == len(planned) == 2 * quickstart.SEEDS
    plain = Recipe()
    own = {"name", "data", "classes", "anchored", "seed", "runs"}
    for recipe in planned:
        assert {k: v for k, v in vars(recipe).items() if k not in own} == {
            k: v for k, v in vars(plain).items() if k not in own
        }
    # Shared out in turn, no process gets only the method that takes longer.
    for jobs in (2, 4):
        for job in range(jobs):
            mine = [recipe.anchored for recipe in planned[job::jobs]]
            assert sum(mine) * 2 == len(mine)


@pytest.mark.parametrize("option", ["--seeds", "--jobs"])
def test_none_is_too_few(command, option):
    with pytest.raises(ValueError, match=f"{option} must be 1 or more, got 0"):
        command("quickstart", option, 0)


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

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import yaml

from kedge.cli import COMMANDS
from kedge.cli.reproduce import part_of, seeds_of

SMALL = {
    "title": "Small",
    "source": "nowhere",
    "data": ["digits"],
    "base": {"model": "kedge_resnet_small", "arguments": {"width": 4}, "classes": [0, 1], "epochs": 1},
    "variants": {"standard": {"anchored": False}, "anchored": {}},
    "evaluation": {"shift": ["contrast"], "severities": [5], "references": 1},
    "scales": {"laptop": {"evaluation.limit": 30}},
    "seeds": 1,
}


@pytest.fixture
def small(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(SMALL))
    return tmp_path / "reproduce" / "small-laptop"


def test_it_is_a_command_and_lists_what_there_is(command):
    assert "reproduce" in COMMANDS
    code, out, _ = command("reproduce")
    assert code == 0
    assert "cifar10-masking" in out


@pytest.mark.slow
def test_from_a_file_to_a_table(command, small):
    code, out, _ = command("reproduce", "small.yaml")
    assert code == 0
    assert "## clean accuracy, %" in out
    assert {"results.json", "table.md", "report.html", "runs", "measured"} <= {p.name for p in small.iterdir()}
    results = json.loads((small / "results.json").read_text())
    assert results["command"] == "kedge reproduce small.yaml"
    assert [row["seeds"] for row in results["rows"]][:2] == [1, 1]
    code, out, _ = command("reproduce", "small.yaml", "--seeds", "0,1", "--part", "1/2", "--variants", "standard")
    assert code == 3  # the other part is missing
    assert "Not finished: standard-1." in out
    assert "| anchored |" in out  # measured before, and still in the table
    code, out, _ = command("reproduce", "small.yaml", "--seeds", "1,2", "--variants", "standard")
    results = json.loads((small / "results.json").read_text())
    assert code == 0
    assert {row["variant"]: row["seeds"] for row in results["rows"]} == {"standard": 3, "anchored": 1}


@pytest.mark.slow
def test_a_run_that_fails_leaves_the_others(command, small, monkeypatch):
    from kedge.experiments import running

    whole = running.train_one

    def fails(planned, progress=False):
        if planned.variant.name == "standard":
            raise ValueError("the loss became NaN")
        whole(planned, progress)

    monkeypatch.setattr(running, "train_one", fails)
    code, out, err = command("reproduce", "small.yaml")
    assert code == 3
    assert "standard-0: the loss became NaN" in err
    assert "Not finished: standard-0." in out


def test_printing_does_nothing_else(command, small):
    code, out, _ = command("reproduce", "small.yaml", "--print", "--data", "not-here-yet")
    assert code == 0
    shown = yaml.safe_load(out)
    assert shown["anchored-0"]["recipe"]["data"] == "not-here-yet"
    assert shown["anchored-0"]["evaluation"] == {"shift": ["contrast"], "severities": [5], "references": 1, "limit": 30}
    assert not small.exists()


def test_another_precision_stands_in_the_recipe_so_that_records_of_two_are_not_mixed(command, small):
    code, out, _ = command("reproduce", "small.yaml", "--print", "--precision", "bf16")
    assert code == 0
    assert {each["recipe"]["precision"] for each in yaml.safe_load(out).values() if "recipe" in each} == {"bf16"}
    with pytest.raises(ValueError, match="precision is one of auto, 32, bf16, 16, not 'bf17'"):
        command("reproduce", "small.yaml", "--print", "--precision", "bf17")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"evaluation": {"shift": ["contrst"]}}, "no corruption called 'contrst'; did you mean contrast"),
        ({"evaluation": {"severities": [6]}}, "severities are of 1 to 5, not 6"),
        ({"evaluation": {"references": "best"}}, "references is a number, blt or adaptive, not 'best'"),
        ({"base": {"model": "kedge_resnet_smal"}}, "kedge_resnet_small"),
        ({"base": {"objective": ["CrossEntropi"]}}, "did you mean cross_entropy"),
    ],
)
def test_names_that_are_none_are_said_before_training(command, small, tmp_path, change, words):
    (tmp_path / "small.yaml").write_text(yaml.safe_dump({**SMALL, **change}))
    with pytest.raises(ValueError, match=words):
        command("reproduce", "small.yaml")
    assert not small.exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--scale", "labtop"], "did you mean laptop"),
        (["--variants", "standrd"], "did you mean standard"),
        (["--seeds", "0"], "--seeds is a number"),
        (["--part", "3/2"], "--part is K/N"),
        (["--jobs", "0"], "--jobs must be 1 or more"),
        (["--jobs", "2", "--devices", "2"], "take one"),
        (["--devices", "2"], "takes 2 processes, and there is 1: start them with torchrun"),
        (["--data", "nowhere-at-all"], "nowhere-at-all"),
    ],
)
def test_what_cannot_work_is_said_at_once(command, small, options, words):
    with pytest.raises(Exception, match=words):
        command("reproduce", "small.yaml", *options)


@pytest.mark.slow
def test_the_parts_share_out_runs_not_rows(command, small, monkeypatch, tmp_path):
    """Two processes that evaluate one run in two ways would train it twice."""
    from kedge.experiments import evaluating, running

    several = {**SMALL, "variants": {"a": {}, "a-2": {"same_as": "a"}, "b": {}, "a-3": {"same_as": "a"}, "c": {}}}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(several))
    parts = []
    for part in ("1/2", "2/2"):
        trained = []
        monkeypatch.setattr(running, "train_one", lambda planned, progress=False, seen=trained: seen.append(planned))
        monkeypatch.setattr(evaluating, "evaluate_one", lambda planned, **_: {"measures": {}})
        code, out, _ = command("reproduce", "small.yaml", "--seeds", "2", "--part", part)
        assert (code, out.splitlines()[-1]) == (3, "nothing of small has been measured yet")
        parts.append(trained)
    assert sum(map(len, parts)) == 10
    one, other = ({each.run for each in trained} for trained in parts)
    assert (len(one), len(other)) == (3, 3)
    assert not one & other


@pytest.mark.slow
def test_what_starts_from_a_run_is_trained_by_the_process_that_trains_it(command, small, monkeypatch, tmp_path):
    from kedge.experiments import evaluating, running

    several = {**SMALL, "variants": {"a": {}, "b": {}, "a-longer": {"after": "a"}, "b-longer": {"after": "b"}}}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(several))
    for part in ("1/2", "2/2"):
        trained = []
        monkeypatch.setattr(running, "train_one", lambda planned, progress=False, seen=trained: seen.append(planned))
        monkeypatch.setattr(evaluating, "evaluate_one", lambda planned, **_: {"measures": {}})
        code, out, _ = command("reproduce", "small.yaml", "--seeds", "1", "--part", part)
        assert (code, out.splitlines()[-1]) == (3, "nothing of small has been measured yet")
        first, second = trained
        assert second.start == first.run


def test_seeds_and_parts():
    assert seeds_of(None, 2) == [0, 1]
    assert seeds_of("3", 2) == [0, 1, 2]
    assert seeds_of("4,7", 2) == [4, 7]
    for wrong in ("", "x", "-1", "1,1", "1,-2", "1.5"):
        with pytest.raises(ValueError, match="--seeds"):
            seeds_of(wrong, 2)
    assert part_of(None) == (1, 1)
    assert part_of("2/4") == (2, 4)
    for wrong in ("2", "0/2", "3/2", "a/b", "1/2/3"):
        with pytest.raises(ValueError, match="--part"):
            part_of(wrong)


@pytest.mark.slow
def test_killed_and_called_again_it_goes_on_in_several_processes(small):
    words = [sys.executable, "-m", "kedge", "reproduce", "small.yaml", "--seeds", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    first = subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    done = small / "measured" / "standard-0.json"
    until = time.monotonic() + 200
    while not done.exists() and first.poll() is None and time.monotonic() < until:
        time.sleep(0.1)
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert done.exists()
    before = done.stat().st_mtime_ns
    again = subprocess.run([*words, "--jobs", "2"], env=environment, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    assert done.stat().st_mtime_ns == before
    results = json.loads((small / "results.json").read_text())
    assert results["unfinished"] == []
    assert {row["seeds"] for row in results["rows"]} == {2}
    assert (small / "job-1.log").is_file()
    assert (small / "job-2.log").is_file()


@pytest.mark.slow
def test_two_processes_train_one_run_together(small, command):
    words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "kedge"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    options = ["reproduce", "small.yaml", "--devices", "2", "--device", "cpu"]
    done = subprocess.run([*words, *options], env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("## clean accuracy, %") == 1  # the first process speaks
    assert {p.name for p in (small / "runs").iterdir()} == {"standard-0", "anchored-0"}
    recipe = yaml.safe_load((small / "runs" / "anchored-0" / "recipe.yaml").read_text())
    assert recipe["devices"] == 2
    code, out, _ = command("reproduce", "small.yaml")  # another number of devices is no other run
    assert code == 0
    assert "trained in" not in out


@pytest.mark.slow
def test_runs_that_earlier_results_have_are_not_done_again(command, small, tmp_path):
    """The folder of the runs is gone, as on another machine; only its results.json is left."""
    assert command("reproduce", "small.yaml")[0] == 0
    (small / "results.json").rename(tmp_path / "earlier.json")
    earlier = json.loads((tmp_path / "earlier.json").read_text())
    shutil.rmtree(small)
    code, out, _ = command("reproduce", "small.yaml", "--seeds", "2", "--known", "earlier.json")
    assert code == 0
    assert "2 runs, 2 of them here" in out
    assert "; 2 measured before" in out
    assert {path.name for path in (small / "runs").iterdir()} == {"standard-1", "anchored-1"}
    results = json.loads((small / "results.json").read_text())
    assert {row["seeds"] for row in results["rows"]} == {2}
    for name, variant in earlier["variants"].items():
        assert results["variants"][name]["runs"][0] == variant["runs"][0]


@pytest.mark.slow
def test_earlier_results_of_another_recipe_do_not_count(command, small, tmp_path):
    assert command("reproduce", "small.yaml", "--variants", "standard")[0] == 0
    (small / "results.json").rename(tmp_path / "earlier.json")
    shutil.rmtree(small)
    (tmp_path / "small.yaml").write_text(yaml.safe_dump({**SMALL, "base": {**SMALL["base"], "lr": 0.5}}))
    code, out, _ = command("reproduce", "small.yaml", "--variants", "standard", "--known", "earlier.json")
    assert code == 0
    assert "1 runs, 1 of them here" in out
    assert (small / "runs" / "standard-0").is_dir()


@pytest.mark.slow
def test_what_starts_from_a_run_that_is_known_trains_that_too(command, small, tmp_path):
    variants = {"standard": {"anchored": False}, "then": {"anchored": False, "after": "standard"}}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump({**SMALL, "variants": variants}))
    assert command("reproduce", "small.yaml", "--variants", "standard")[0] == 0
    (small / "results.json").rename(tmp_path / "earlier.json")
    shutil.rmtree(small)
    assert command("reproduce", "small.yaml", "--known", "earlier.json")[0] == 0
    assert {path.name for path in (small / "runs").iterdir()} == {"standard-0", "then-0"}


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (("small.yaml", "--known", "other.json"), "has results of other, not of small"),
        (("small.yaml", "--known", "none.json"), "none.json"),
        (("claims", "--known", "other.json"), "--known"),
    ],
)
def test_earlier_results_of_something_else_are_refused(command, small, tmp_path, words, error):
    (tmp_path / "other.json").write_text(json.dumps({"experiment": "other", "variants": {}}))
    with pytest.raises((ValueError, OSError), match=error):
        command("reproduce", *words)

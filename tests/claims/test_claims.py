import json
from pathlib import Path

import pytest
from scipy.stats import ttest_rel

from kedge import catalog
from kedge.claims import Claim, Criterion, Curve, claim, claims_of
from kedge.claims import _running as running
from kedge.claims import _sources as sources
from kedge.claims._base import verdict_of
from kedge.claims._running import Task, record_of, run_tasks, tasks
from kedge.claims._table import results_of, table_markdown, write_results
from kedge.cli.reproduce_claims import reproduce_claims

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"


def measured(**variants):
    return {name: {seed: {"accuracy": value} for seed, value in enumerate(values)} for name, values in variants.items()}


def test_the_interval_is_the_paired_t_interval_of_scipy():
    one, other = [90.1, 91.5, 89.7, 92.0], [88.0, 90.1, 89.0, 89.9]
    outcome = Criterion("", "accuracy", "one", "other", "above", 1).judge(measured(one=one, other=other))
    expected = ttest_rel(one, other).confidence_interval(0.95)
    assert outcome["interval"] == pytest.approx([expected.low, expected.high])
    assert outcome["difference"] == pytest.approx(sum(one) / 4 - sum(other) / 4)
    assert outcome["verdict"] == "passes"


@pytest.mark.parametrize(
    ("must", "by", "one", "other", "verdict"),
    [
        ("above", 1, [92, 93, 92.5], [90, 91, 90.6], "passes"),
        ("above", 3, [92, 93, 92.5], [90, 91, 90.6], "fails"),
        ("above", 1, [95, 90, 92], [90, 91, 90.6], "not resolved"),
        ("below", 1, [90, 91, 90.6], [92, 93, 92.5], "passes"),
        ("below", 1, [92, 93, 92.5], [90, 91, 90.6], "fails"),
        ("near", 1, [90, 91, 90.6], [90.5, 91, 90.1], "passes"),
        ("near", 0.1, [90, 91, 90.6], [90.5, 92, 90.9], "fails"),
        ("above", 1, [92], [90], "not resolved"),
    ],
)
def test_verdicts(must, by, one, other, verdict):
    outcome = Criterion("", "accuracy", "one", "other", must, by).judge(measured(one=one, other=other))
    assert outcome["verdict"] == verdict


def test_a_criterion_may_name_a_value_in_place_of_a_control():
    alone = measured(one=[96.0, 97.0, 96.5])
    assert Criterion("", "accuracy", "one", None, "above", 95).judge(alone)["verdict"] == "passes"
    assert Criterion("", "accuracy", "one", None, "above", 96).judge(alone)["verdict"] == "not resolved"
    assert Criterion("", "accuracy", "one", None, "below", 95).judge(alone)["verdict"] == "fails"


def test_a_claim_is_worth_its_worst_criterion():
    verdicts = ["passes", "not resolved", "fails"]
    assert verdict_of([{"verdict": word} for word in verdicts]) == "fails"
    assert verdict_of([{"verdict": word} for word in verdicts[:2]]) == "not resolved"
    assert verdict_of([{"verdict": word} for word in verdicts[:1]]) == "passes"


@pytest.mark.parametrize("name", catalog.names("claims"))
def test_every_claim_is_whole(name):
    each = claim(name)
    assert len(each.variants) >= 2, "a claim has a control"
    assert each.criteria
    assert each.seeds >= 3
    assert catalog.info("claims", name) is not None
    for method in each.methods:
        room, _, what = method.rpartition(".")
        assert what in catalog.names(room)
    assert catalog.stated("claims", name, "part", "training") == each.part


class Counted(Claim):
    """Computes instead of training."""

    variants = ("control", "method")
    criteria = (Criterion("higher", "score", "method", "control"),)
    calls: list = []

    def run(self, variant, seed):
        if seed == 7:
            raise RuntimeError("no memory left")
        self.calls.append((variant, seed))
        return {"score": seed + (2.0 if variant == "method" else 1.0), "seconds a step": 0.5}


@pytest.fixture
def counted(monkeypatch):
    Counted.calls.clear()
    for module in ("_running", "_table"):
        monkeypatch.setattr(f"kedge.claims.{module}.claim", lambda name: Counted())
    return "brier"  # whose file stands for that of the claim


def test_what_is_there_is_not_done_again(counted, tmp_path):
    todo = tasks([counted], None, tmp_path)
    assert [(task.variant, task.seed) for task in todo[:3]] == [("control", 0), ("method", 0), ("control", 1)]
    assert run_tasks(todo, 1, lambda line: None) == []
    assert len(Counted.calls) == 6
    todo[2].file.unlink()
    assert run_tasks(todo, 1, lambda line: None) == []
    assert Counted.calls[6:] == [("control", 1)]


def test_another_text_of_the_claim_is_measured_again(counted, tmp_path, monkeypatch):
    todo = tasks([counted], [0], tmp_path)
    run_tasks(todo, 1, lambda line: None)
    assert record_of(todo[0]) is not None
    for what in ("text_digest", "digest"):
        with monkeypatch.context() as patched:
            patched.setattr(running, what, lambda name: "another")
            assert record_of(todo[0]) is None
    assert record_of(todo[0]) is not None


def test_a_record_that_does_not_say_what_it_used_is_measured_again(counted, tmp_path):
    todo = tasks([counted], [0], tmp_path)
    run_tasks(todo, 1, lambda line: None)
    record = json.loads(todo[0].file.read_text())
    del record["uses"]
    todo[0].file.write_text(json.dumps(record))
    assert record_of(todo[0]) is None


WORKSHOP = """
RATE = 0.1
BASE = {"lr": RATE}


def trained(images):
    \"\"\"In words.\"\"\"
    return measured(images, BASE)


def measured(images, base):
    return base


def other():
    return 1
"""
ROOM = {
    "claims.one": "from kedge.claims import trained\n\n\nclass One:\n    pass\n",
    "claims": "from kedge.claims._workshop import trained\n",
    "claims._workshop": WORKSHOP,
    "objectives.one": "info = Info()\n\n\nclass One:\n    weight = 1\n",
}


@pytest.mark.parametrize(
    ("module", "before", "after", "same"),
    [
        ("claims._workshop", "In words.", "In other words.", True),
        ("claims._workshop", "return measured(", "# comment\n    return measured(", True),
        ("claims._workshop", "return 1", "return 2", True),  # not used
        ("claims._workshop", "return base", "return dict(base)", False),  # by what is used
        ("claims._workshop", "RATE = 0.1", "RATE = 0.2", False),  # by a constant of a constant
        ("claims", "_workshop import trained", "_workshop import other as trained", False),
        ("objectives.one", "Info()", "Info(2020)", True),
        ("objectives.one", "weight = 1", "weight = 2", False),
    ],
)
def test_what_a_claim_uses_decides_whether_it_is_measured_again(tmp_path, monkeypatch, module, before, after, same):
    def digest(texts):
        sources._parsed.cache_clear()
        for name, text in texts.items():
            (tmp_path / name).write_text(text)
        return sources.digest.__wrapped__("one")

    one = Counted()
    one.methods = ("objectives.one",)
    monkeypatch.setattr(sources, "claim", lambda name: one)
    monkeypatch.setattr(sources, "_file", lambda module: tmp_path / module.removeprefix("kedge."))
    first = digest(ROOM)
    assert before in ROOM[module]
    assert (digest({**ROOM, module: ROOM[module].replace(before, after)}) == first) == same
    sources._parsed.cache_clear()


def test_claims_take_from_their_room_by_name_alone():
    """Else what they use would not be seen."""
    for file in (catalog.HOME / "claims").glob("*.py"):
        assert "import kedge.claims" not in file.read_text()
        assert "from kedge.claims import _" not in file.read_text()


@pytest.mark.parametrize("text", ["", "{", '{"measures": 3}', "[]"])
def test_a_damaged_record_is_measured_again(counted, tmp_path, text):
    task = Task(counted, "control", 0, tmp_path)
    task.file.parent.mkdir(parents=True)
    task.file.write_text(text)
    assert record_of(task) is None


def test_one_that_fails_leaves_the_others_and_is_said(counted, tmp_path):
    todo = tasks([counted], [7, 1], tmp_path)
    lines = []
    failed = run_tasks(todo, 1, lines.append)
    assert len(failed) == 2
    assert "no memory left" in failed[0]
    assert Counted.calls == [("control", 1), ("method", 1)]
    results = results_of(todo, "kedge reproduce claims")
    assert results["claims"][0]["verdict"] == "not measured"
    assert "not all of it was run" in table_markdown(results)


def test_the_table_has_effect_interval_verdict_and_cost(counted, tmp_path):
    todo = tasks([counted], None, tmp_path)
    run_tasks(todo, 1, lambda line: None)
    results = results_of(todo, "kedge reproduce claims --part training")
    paths = write_results(results, tmp_path)
    assert json.loads(paths[0].read_text()) == results
    entry = results["claims"][0]
    assert entry["cost"] == {"control": 1.0, "method": 1.0}
    assert entry["variants"]["method"]["score"]["mean"] == 3.0
    assert entry["verdict"] == "passes"
    table = paths[1].read_text()
    assert "| higher: score of method above control | +1.00 [+1.00, +1.00] (3 seeds) | passes |" in table
    assert "| method | 3.00 ± 1.00 | 1.00 |" in table
    assert "kedge reproduce claims --part training" in table
    assert "1 claim: 1 with all criteria passing." in table
    assert "| passes | 1.00 |" in table  # of the whole claim


def test_the_overview_says_which_criteria_decided(counted, tmp_path, monkeypatch):
    higher, lower = (Criterion(must, "score", "method", "control", must) for must in ("above", "below"))
    monkeypatch.setattr(Counted, "criteria", (higher, lower))
    todo = tasks([counted], None, tmp_path)
    run_tasks(todo, 1, lambda line: None)
    table = table_markdown(results_of(todo, ""))
    assert "| fails: below | 1.00 |" in table
    assert "1 claim: 1 with a criterion that fails." in table


@pytest.fixture
def two(monkeypatch):
    """Brier and SMOTE that compute instead of training, under their names."""
    Counted.calls.clear()
    for module in ("_running", "_table"):
        monkeypatch.setattr(f"kedge.claims.{module}.claim", lambda name: Counted())
    monkeypatch.setattr("kedge.claims.claim", lambda name: Counted())
    return "brier", "smote"


def reproduced(out, *only, seeds=None):
    return reproduce_claims(None, only, seeds, out, 1, False, f"claims --only {','.join(only)}")


def verdicts(out):
    return {each["claim"]: each["verdict"] for each in json.loads((out / "results.json").read_text())["claims"]}


def test_some_claims_leave_the_others_of_the_table(two, tmp_path, capsys):
    reproduced(tmp_path, *two)
    for file in (tmp_path / "measured").rglob("*.json"):  # a table that was copied without its records
        file.unlink()
    first = json.loads((tmp_path / "results.json").read_text())["claims"][0]
    reproduced(tmp_path, "smote")
    printed = capsys.readouterr().out
    assert verdicts(tmp_path) == {"brier": "passes", "smote": "passes"}
    after = json.loads((tmp_path / "results.json").read_text())["claims"]
    assert {**first, "recorded": after[0]["recorded"]} == after[0]
    assert after[0]["recorded"]["command"] == "claims --only brier,smote"
    assert "recorded" not in after[1]
    table = (tmp_path / "table.md").read_text()
    assert "### brier" in table
    assert "Of these 1 was recorded before, by `claims --only brier,smote`" in table
    assert "2 claims, 1 of this call and 1 recorded before" in printed
    assert "### brier" not in printed.rpartition("runs, in")[2]  # shown is what was asked for
    reproduced(tmp_path, "smote")
    assert json.loads((tmp_path / "results.json").read_text())["claims"][0] == after[0]


def test_what_could_not_be_measured_leaves_what_was(two, tmp_path):
    reproduced(tmp_path, *two)
    for file in (tmp_path / "measured").rglob("*.json"):
        file.unlink()
    assert reproduced(tmp_path, "smote", seeds=[7]) == 3
    assert verdicts(tmp_path) == {"brier": "passes", "smote": "passes"}


def test_a_recorded_claim_of_another_text_is_said(two, tmp_path, capsys, monkeypatch):
    reproduced(tmp_path, *two)
    monkeypatch.setattr("kedge.claims._table.text_digest", lambda name: "another")
    reproduced(tmp_path, "smote")
    assert "brier: recorded by an earlier text of the claim" in capsys.readouterr().out


def test_a_table_that_cannot_be_read_is_said_before_anything_runs(two, tmp_path):
    (tmp_path / "results.json").write_text("{")
    with pytest.raises(ValueError, match=r"results.json"):
        reproduced(tmp_path, "smote")
    assert Counted.calls == []


@pytest.mark.slow
def test_other_processes_find_the_claim_by_its_name(tmp_path):
    """Real ones: each looks the claim up, and says what is wrong with what it was asked."""
    todo = [Task("brier", variant, 0, tmp_path) for variant in ("no such", "nor this")]
    lines = []
    failed = run_tasks(todo, 2, lines.append)
    assert len(failed) == len(lines) == 2
    assert all("no variant is named" in line for line in failed)
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize(("part", "only"), [("trainings", None), (None, ["brierr"])])
def test_names_that_are_none(part, only):
    with pytest.raises(ValueError, match=r"training|brier"):
        claims_of(part, only)


def test_a_curve_finds_its_measures_in_the_order_of_their_numbers():
    curve = Curve("error", "labels")
    assert curve.points(["error, 200 labels", "accuracy, 5 labels", "error, 20 labels", "error"]) == {
        20: "error, 20 labels",
        200: "error, 200 labels",
    }
    assert Curve("angle", "decay of").points(["angle, decay of 1e-05"]) == {1e-5: "angle, decay of 1e-05"}


@pytest.mark.parametrize("name", [name for name in catalog.names("claims") if claim(name).curve is not None])
def test_a_curve_has_points(name):
    """The committed table has what the curve names."""
    for path in RESULTS.glob("claims-*/results.json"):
        for each in json.loads(path.read_text())["claims"]:
            if each["claim"] == name and each["criteria"]:
                assert any(len(claim(name).curve.points(own)) > 1 for own in each["variants"].values())


def test_a_variant_may_have_measures_of_its_own(counted, tmp_path, monkeypatch):
    """The table has a hole there, after all was run."""
    monkeypatch.setattr(Counted, "run", lambda self, variant, seed: {"score": seed, f"{variant} alone": 1e-17})
    todo = tasks([counted], None, tmp_path)
    run_tasks(todo, 1, lambda line: None)
    text = table_markdown(results_of(todo, "kedge reproduce claims"))
    assert "| control | 1.00 ± 1.00 | 1.0e-17 ±" in text
    assert "| method | 1.00 ± 1.00 |  | 1.0e-17 ±" in text


def test_many_measures_stand_below_each_other(counted, tmp_path, monkeypatch):
    monkeypatch.setattr(
        Counted, "run", lambda self, variant, seed: {f"score {i}" if i else "score": i for i in range(9)}
    )
    todo = tasks([counted], None, tmp_path)
    run_tasks(todo, 1, lambda line: None)
    text = table_markdown(results_of(todo, "kedge reproduce claims"))
    assert "| measure | control | method |\n| --- | --- | --- |\n| score | 0.0 ± 0.0 | 0.0 ± 0.0 |" in text

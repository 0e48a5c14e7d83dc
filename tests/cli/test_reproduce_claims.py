import json

from kedge.claims import Claim, Criterion
from kedge.cli import main


class Computed(Claim):
    variants = ("control", "method")
    criteria = (Criterion("higher", "score", "method", "control"),)

    def run(self, variant, seed):
        return {"score": seed + len(variant)}


def test_one_command_writes_the_table(tmp_path, monkeypatch, capsys):
    for place in ("_running", "_table"):
        monkeypatch.setattr(f"kedge.claims.{place}.claim", lambda name: Computed())
    monkeypatch.setattr("kedge.claims.claim", lambda name: Computed())
    words = ["reproduce", "claims", "--part", "training", "--only", "brier", "--out", str(tmp_path)]
    assert main(words) == 0
    assert "fails" in capsys.readouterr().out
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["command"] == "kedge reproduce claims --part training --only brier"
    assert results["claims"][0]["criteria"][0]["difference"] == -1.0
    assert (tmp_path / "table.md").is_file()


def test_it_lists_what_it_would_run(capsys):
    assert main(["reproduce", "claims", "--only", "brier", "--seeds", "2", "--print"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * 4
    assert lines[0] == "brier, cross-entropy, seed 0"


def test_a_part_that_is_none(capsys):
    assert main(["reproduce", "claims", "--part", "1/2"]) == 1
    assert "training, measuring" in capsys.readouterr().err


def test_an_option_that_would_do_nothing_is_refused(capsys):
    assert main(["reproduce", "claims", "--scale", "paper", "--print"]) == 1
    said = capsys.readouterr().err
    assert "--scale paper" in said
    assert "--only" in said
    assert main(["reproduce", "digits-masking", "--only", "brier", "--print"]) == 1
    assert "--only brier" in capsys.readouterr().err


def test_a_claim_of_the_other_part_is_no_empty_table(tmp_path, capsys):
    assert main(["reproduce", "claims", "--part", "measuring", "--only", "brier", "--out", str(tmp_path)]) != 0
    assert "brier: not of the part measuring" in capsys.readouterr().err
    assert not [*tmp_path.iterdir()]

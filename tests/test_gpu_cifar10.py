"""The program for minutes of a GPU: all of it in small, broken off and gone on with."""

import json
import signal
import time

import pytest
from benchmarks.gpu_cifar10 import main
from benchmarks.lent_time import Clock

from kedge.training.epochs import EpochRows


def test_work_that_takes_too_long_is_broken_off_and_what_is_in_time_is_not():
    clock = Clock(minutes=0.5)
    with clock.until(before=20):
        pass
    assert not clock.rang
    with pytest.raises(KeyboardInterrupt), clock.until(before=clock.left() - 0.05):
        time.sleep(20)
    assert clock.rang
    assert 9 < clock.left() < 30
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


@pytest.mark.slow
def test_runs_end_with_the_minutes_and_go_on_in_another_call(tmp_path, monkeypatch, capsys):
    out = tmp_path / "out.json"
    given = ["--tiny", "--epochs", "3", "--seeds", "1", "--minutes", "60", "--runs", str(tmp_path / "runs")]
    given += ["--out", str(out), "--rounds", "1", "--images", "20"]
    begins = EpochRows.on_train_epoch_start

    def rings(rows, trainer, module):
        begins(rows, trainer, module)
        if rows.folder.path.name == "anchored-0" and trainer.current_epoch == 2:
            signal.raise_signal(signal.SIGALRM)

    with monkeypatch.context() as patch:
        patch.setattr(EpochRows, "on_train_epoch_start", rings)
        assert main(given) == 0
    first, printed = json.loads(out.read_text()), capsys.readouterr().out
    standard, anchored = first["runs"]["standard"]["0"], first["runs"]["anchored"]["0"]
    assert (standard["epochs"], standard["finished"]) == (3, True)
    assert (anchored["epochs"], anchored["of"], anchored["finished"]) == (2, 3, False)
    assert {"clean accuracy", "corrupted accuracy", "near AUROC, energy", "far AUROC, energy"} <= set(
        anchored["measures"]
    )
    assert len(anchored["corruptions"]) == 19
    assert first["runs"]["masked"] == {}
    assert first["stopped"] == {"anchored-0": "the time was over"}
    assert "runs: standard 1\n" in printed.replace("**\n", "\n")  # what is not finished is compared with nothing
    assert "| anchored-0 | 2 | 3 |" in printed
    assert {"anchored, bf16", "standard, 32"} <= {row[0] for row in first["plan"]["milliseconds"]}

    assert main(given) == 0
    second = json.loads(out.read_text())
    assert second["runs"]["standard"]["0"] == standard
    assert all(runs["0"]["epochs"] == 3 and runs["0"]["finished"] for runs in second["runs"].values())
    assert [row["epoch"] for row in second["runs"]["anchored"]["0"]["history"]] == [1, 2, 3]
    assert (second["stopped"], second["rows"]) == ({}, first["rows"])
    with pytest.raises(SystemExit, match="name another --runs"):
        main([*given, "--alpha", "0.5"])


def test_a_wrong_command_line_is_refused_in_words(capsys):
    for given, said in (
        (["--minutes", "0"], "above 0"),
        (["--alpha", "2"], "alpha"),
        (["--mask_target", "no"], "mask_target"),
    ):
        with pytest.raises(SystemExit):
            main(["--tiny", *given])
        assert said in capsys.readouterr().err

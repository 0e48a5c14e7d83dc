"""Several ways and numbers of images in one table, which goes on where it was broken off; and the command."""

import json
from dataclasses import replace

import pytest
import torch

import kedge
from kedge.adaptation import Settings
from kedge.procedures import _study as studies

SETTINGS = Settings(epochs=1, device="cpu", batch_size=64)


@pytest.mark.slow
def test_a_study_measures_every_way_and_goes_on(body, digits, tmp_path, monkeypatch):
    asked = {"hows": ["linear-probe", "wise-ft"], "shots": [2, None], "draws": 2, "settings": SETTINGS}
    calls = []
    real = studies.adapt

    def counted(*arguments, **given):
        calls.append((given["how"], len(arguments[1]), arguments[2] is None))
        if len(calls) == 6:
            raise KeyboardInterrupt
        return real(*arguments, **given)

    monkeypatch.setattr(studies, "adapt", counted)
    with pytest.raises(KeyboardInterrupt):
        studies.study(body, *digits, tmp_path, shift=["fog"], severities=[3], limit=20, **asked)
    assert len(json.loads((tmp_path / "results.json").read_text())["rows"]) == 4
    stamps = {p: p.stat().st_mtime_ns for p in tmp_path.glob("2-*/*/run.json")}
    found = studies.study(body, *digits, tmp_path, shift=["fog"], severities=[3], limit=20, **asked)
    assert stamps
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in stamps.items())
    # Few images come without validation images, all of them with.
    assert set(calls) == {(how, n, n == 6) for how in asked["hows"] for n in (6, 61)}
    rows = found["rows"]
    assert [(r["how"], r["shots"], r["draw"]) for r in rows][:3] == [
        ("linear-probe", 2, 0),
        ("wise-ft", 2, 0),
        ("linear-probe", 2, 1),
    ]
    # The numbers are those of the saved model on the test images.
    last = rows[-1]
    model = kedge.load(tmp_path / "all-1" / "wise-ft")
    pixels = digits[2].images.float() / 255
    right = (model.predict(pixels).logits.argmax(1) == digits[2].labels).float().mean()
    assert last["accuracy"] == pytest.approx(float(right))
    assert {"ece", "shifted accuracy", "shifted ece"} <= set(last)
    assert len(found["table"]) == 2 + 4
    with pytest.raises(ValueError, match=r"training images differ.*another folder"):
        studies.study(body, digits[0].subset(range(50)), *digits[1:], tmp_path, settings=SETTINGS)


def test_a_second_call_adds_its_rows(body, digits, tmp_path):
    asked = {"settings": SETTINGS, "shots": [2]}
    first = studies.study(body, *digits, tmp_path, **asked)["rows"]
    settings = replace(SETTINGS, source="another name", share=0.25, epochs=3)
    both = studies.study(body, *digits, tmp_path, shots=[None], settings=settings)
    assert both["rows"][0] == first[0]
    assert [(r["how"], r["shots"]) for r in both["rows"]] == [("linear-probe", 2), ("linear-probe", None)]
    assert len((tmp_path / "table.md").read_text().splitlines()) == 2 + 2
    stored = (tmp_path / "results.json").read_text()
    # Rows that were measured otherwise do not come into one table.
    with pytest.raises(ValueError, match=r"test images differ.*linear-probe \(2 shots\) again too"):
        studies.study(body, *digits[:2], digits[2].subset(range(9)), tmp_path, settings=SETTINGS)
    with pytest.raises(ValueError, match=r"linear-probe .*strength is left open there, 0\.5 here.*--out"):
        studies.study(body, *digits, tmp_path, shots=[2], settings=replace(SETTINGS, strength=0.5))
    assert (tmp_path / "results.json").read_text() == stored


def test_nothing_is_trained_for_shots_that_are_not_there(body, digits, tmp_path):
    with pytest.raises(ValueError, match="50 shots"):
        studies.study(body, *digits, tmp_path / "a", shots=[1, 50], settings=SETTINGS)
    assert not (tmp_path / "a").exists()
    chosen = replace(SETTINGS, share="val")
    with pytest.raises(ValueError, match=r"none here \(as with few shots\)"):
        studies.study(body, *digits, tmp_path / "a", hows=["wise-ft"], shots=[None, 2], settings=chosen)
    assert not (tmp_path / "a").exists()
    with pytest.raises(ValueError, match="other classes"):
        studies.study(body, *digits[:2], digits[2].only_classes(["1", "4"]), tmp_path / "a", settings=SETTINGS)


def test_data_without_a_test_part_is_measured_on_images_that_chose_nothing(body, digits, monkeypatch, capsys):
    from kedge import data
    from kedge.cli.task_images import images_of_task

    whole = digits[0]
    monkeypatch.setattr(data, "load", lambda *_: whole)
    monkeypatch.setattr(data, "splits", lambda _: ["train"])
    train, val, test = images_of_task("mine", body, "old", 0.1, 3)
    keys = [set(part.keys()) for part in (train, val, test)]
    assert len(train) + len(val) + len(test) == len(set().union(*keys)) == 61
    # Of what validation left, and validation as a recipe holds it out.
    assert val.keys() == data.split_validation(whole, 0.1, 3)[1].keys()
    rest = data.split_validation(whole, 0.1, 3)[0]
    assert test.keys() == data.split_validation(rest, 0.2, data.derive_seed(3, "test"))[1].keys()
    assert 5 <= len(test) <= 20
    assert (test.split, len(test)) == ("test", len(images_of_task("mine", body, "old", 0.1, 3)[2]))
    assert f"{len(test)} of its training images" in capsys.readouterr().err


def test_the_table_by_hand():
    rows = [
        {"how": "finetune", "shots": 1, "draw": d, "images": 3, "accuracy": a, "ece": 0.1, "adapted": {}}
        for d, a in enumerate((0.5, 0.7))
    ]
    assert studies.table(rows).splitlines()[2] == "| finetune | 1 | 2 | 60.0 ± 14.1 | 10.0 ± 0.0 |"
    # A linear probe of all images comes out the same each time: that is no spread.
    rows = [
        {"how": "linear-probe", "shots": None, "draw": d, "images": 9, "accuracy": 0.5, "adapted": {}} for d in (0, 1)
    ]
    assert studies.table(rows).splitlines()[2] == "| linear-probe | all | 2 | 50.0 |"


def test_the_command(tmp_path, monkeypatch, capsys):
    from kedge import networks
    from kedge.cli.flags import call as called

    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    network = networks.create("kedge_resnet_small", 4, 1, 8, arguments={"width": 4})
    kedge.save(kedge.plain(network, example=(1, 8, 8)), tmp_path / "old")

    def call(*words):
        return called("adapt", ["old", *words])

    assert call("--data", "digits", "--shots", "1,3", "--draws", "2", "--device", "cpu") == 0
    printed = capsys.readouterr().out
    assert "| linear-probe | 3 | 2 |" in printed
    model = kedge.load(tmp_path / "runs" / "old-on-digits" / "3-1" / "linear-probe")
    assert model.class_names == [str(i) for i in range(10)]
    for words, said in (
        (["--data", "digits", "--how", "lp-tf"], "did you mean lp_ft"),
        (["--data", "digits", "--shots", "0"], "whole numbers above 0"),
        (["--data", "digits", "--share", "half"], "a number from 0 to 1, or val"),
        (["--how", "finetune"], "--data FOLDER"),
        (["--data", "digits", "--severities", "9"], "severit"),
    ):
        with pytest.raises(ValueError, match=said):
            call(*words)
    (tmp_path / "empty").mkdir()
    with pytest.raises(Exception, match="empty"):
        call("--data", "empty")

"""Answers of `kedge predict` as they come: files, interruptions, several processes, names of every kind."""

import csv
import json
import os
import shutil
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import kedge
from kedge.cli import predict, shares
from kedge.cli.answers import encodable
from kedge.data.paths import Paths

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def _read(path):
    if path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            return [{key: value or None for key, value in row.items()} for row in csv.DictReader(file)]
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return pq.read_table(path).to_pylist()
    text = path.read_text(encoding="utf-8")
    return json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]


def test_all_kinds_of_files_hold_the_answers_that_are_printed(command, model_folder, photos, tmp_path):
    code, out, _ = command("predict", model_folder, photos, "--format", "json")
    printed = json.loads(out)
    assert command("predict", model_folder, photos, "--format", "jsonl")[1].splitlines() == [
        json.dumps(row, ensure_ascii=False) for row in printed
    ]
    for kind in (".json", ".jsonl", ".parquet", ".csv"):
        path = tmp_path / "out" / f"answers{kind}"
        answered, out, err = command("predict", model_folder, photos, "--out", path)
        assert (answered, out) == (code, "")
        assert f"written to {path}" in err
        assert "broken.jpg: " in err
        rows = _read(path)
        if kind == ".csv":
            assert [row["path"] for row in rows] == [row["path"] for row in printed]
            assert [row["label"] for row in rows] == [row["label"] for row in printed]
            assert [float(row["confidence"] or 0) for row in rows] == [row["confidence"] or 0 for row in printed]
        else:
            assert rows == printed
        assert os.listdir(path.parent) == [path.name]
        shutil.rmtree(path.parent)


def test_a_call_that_was_broken_off_goes_on(command, digit_model, model_folder, photos, tmp_path, monkeypatch):
    whole, out = tmp_path / "whole.jsonl", tmp_path / "answers.jsonl"
    command("predict", model_folder, photos, "--out", whole, "--batch_size", 3)
    asked, answer, stop = [], type(digit_model).predict, [2]

    def counted(self, images, *rest, **settings):
        if len(asked) == stop[0]:
            raise KeyboardInterrupt
        asked.append(len(images))
        return answer(self, images, *rest, **settings)

    monkeypatch.setattr(type(digit_model), "predict", counted)
    with pytest.raises(KeyboardInterrupt):
        command("predict", model_folder, photos, "--out", out, "--batch_size", 3)
    part = tmp_path / "answers.jsonl.parts" / "00000-of-00001.jsonl"
    answered = part.read_text().count("\n")
    assert 0 < answered < 12
    assert not out.exists()
    with part.open("a") as file:  # as a process leaves it that is killed while it writes
        file.write('{"path": "photo')
    with pytest.raises(ValueError, match=r"holds answers of another call \(threshold: None then, 0\.5 now"):
        command("predict", model_folder, photos, "--out", out, "--threshold", 0.5)
    stop[0] = -1
    first = json.loads(part.read_text().splitlines()[0])["path"]
    shutil.copy(first, tmp_path / "same.png")
    os.replace(tmp_path / "same.png", first)
    code, _, err = command("predict", model_folder, photos, "--out", out, "--batch_size", 3)
    assert code == 3
    assert f"careful: 1 file of them changed since, such as {first}: the answers are of what was there then" in err
    assert f"{answered} of 12 images were answered before" in err
    assert "10 of 12 images answered" in err
    assert sum(asked) == 10  # two cannot be read; none was answered twice
    for one, other in zip(_read(out), _read(whole), strict=True):
        assert one["confidence"] == pytest.approx(other["confidence"], abs=1e-6)
        assert {**one, "confidence": 0, "uncertainty": 0, "log_odds": 0} == {
            **other,
            "confidence": 0,
            "uncertainty": 0,
            "log_odds": 0,
        }
    with pytest.raises(FileExistsError, match="is there already and is not overwritten"):
        command("predict", model_folder, photos, "--out", out)


def test_a_call_that_failed_before_its_first_answer_is_mended(command, model_folder, photos, tmp_path):
    out = tmp_path / "answers.csv"
    with pytest.raises(ValueError, match="--references must be 1 or more"):
        command("predict", model_folder, photos, "--out", out, "--references", 0)
    assert command("predict", model_folder, photos, "--out", out)[0] == 3
    assert len(_read(out)) == 12


def _row(i):
    row = dict.fromkeys(("uncertainty", "reject", "unknown", "error"))
    return {"path": str(i), "answer": "a", "label": "a", "confidence": 0.5, "log_odds": 0.0, **row}


def _ignore(*_):
    pass


def test_two_calls_at_once_do_not_mix_their_answers(tmp_path):
    out = tmp_path / "answers.jsonl"
    with shares.Share(out, {}, 4, 0, 1) as share:
        with pytest.raises(ValueError, match="is being written by another process"):
            shares.Share(out, {}, 4, 0, 1)
        share.take(map(_row, range(4)), _ignore)
        part = out.with_name("answers.jsonl.parts") / "00000-of-00001.jsonl"
        part.write_text(part.read_text() * 2)  # where there are no locks
        with pytest.raises(RuntimeError, match="holds 8 answers to 4 images"):
            share.join(list(_row(0)), _ignore, _ignore)
    assert not out.exists()


def test_the_end_of_a_share_of_an_earlier_call_is_none_of_this_one(tmp_path, monkeypatch):
    out = tmp_path / "answers.jsonl"
    with shares.Share(out, {"images": 1}, 1, 1, 2) as share:
        share.take(iter(()), _ignore)  # one image for two processes; the first one fails
    monkeypatch.setattr(shares, "_PATIENCE", 0.0)
    with shares.Share(out, {"images": 4}, 4, 0, 2) as share:
        share.take(map(_row, (0, 2)), _ignore)
        with pytest.raises(RuntimeError, match="process 1 of 2 has written no answer"):
            share.join(list(_row(0)), _ignore, _ignore)
    with shares.Share(out, {"images": 4}, 4, 1, 2) as share:
        share.take(map(_row, (1, 3)), _ignore)
    with shares.Share(out, {"images": 4}, 4, 0, 2) as share:
        share.take(iter(()), _ignore)
        share.join(list(_row(0)), _ignore, _ignore)
    assert [row["path"] for row in _read(out)] == ["0", "1", "2", "3"]


def test_a_process_that_begins_when_all_is_written_has_nothing_to_do(
    command, model_folder, photos, tmp_path, monkeypatch
):
    out = tmp_path / "answers.csv"
    command("predict", model_folder, photos, "--out", out)
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value.format(1, w=2))
    assert command("predict", model_folder, photos, "--out", out)[0] == 0
    assert not out.with_name("answers.csv.parts").exists()


def test_another_file_of_a_model_is_another_call(tmp_path):
    file = tmp_path / "model.onnx"
    data = bytearray(2_000_000)
    file.write_bytes(data)
    source = SimpleNamespace(path=file, written=None, name="model", members=())
    before = predict._call(source, Paths.of(["a.jpg"]))
    assert predict._call(source, Paths.of(["a.jpg"])) == before
    data[len(data) // 3] ^= 1  # one bit of a weight
    file.write_bytes(data)
    assert predict._call(source, Paths.of(["a.jpg"]))["model"] != before["model"]


def test_images_that_a_pattern_matches_in_two_ways_are_answered_once(tmp_path):
    (tmp_path / "x" / "y").mkdir(parents=True)
    (tmp_path / "x" / "y" / "a.jpg").touch()
    assert predict.find_images([f"{tmp_path}/**/**/*.jpg"]) == [str(tmp_path / "x" / "y" / "a.jpg")]


# Lightning reads its rank where it is imported first, which must not be where a test says that it is another's.
import_module("lightning.fabric.utilities.rank_zero")
TORCHRUN = {"TORCHELASTIC_RUN_ID": "x", "RANK": "{}", "WORLD_SIZE": "{w}", "LOCAL_RANK": "{}"}
SLURM = {"SLURM_NTASKS": "{w}", "SLURM_PROCID": "{}", "SLURM_LOCALID": "{}", "SLURM_NTASKS_PER_NODE": "{w}"}


@pytest.mark.parametrize("launcher", [TORCHRUN, SLURM], ids=["torchrun", "srun"])
def test_processes_share_the_images(command, model_folder, photos, tmp_path, monkeypatch, launcher):
    alone, out = tmp_path / "alone.csv", tmp_path / "answers.csv"
    command("predict", model_folder, photos, "--out", alone, "--batch_size", 1)
    for rank in (2, 1, 0):  # the first one waits for the others
        for name, value in launcher.items():
            monkeypatch.setenv(name, value.format(rank, w=3))
        assert shares.place_among_processes() == (rank, 3, rank)
        code, _, err = command("predict", model_folder, photos, "--out", out, "--batch_size", 1)
        assert out.exists() is (rank == 0)
    assert code == 3
    assert "10 of 12 images answered" in err
    assert out.read_bytes() == alone.read_bytes()
    with pytest.raises(ValueError, match="3 processes share the images: name one file"):
        command("predict", model_folder, photos)


def test_a_process_that_is_gone_is_named(command, model_folder, photos, tmp_path, monkeypatch):
    monkeypatch.setattr(shares, "_PATIENCE", 0.0)
    for name, value in TORCHRUN.items():
        monkeypatch.setenv(name, value.format(0, w=2))
    with pytest.raises(RuntimeError, match="process 1 of 2 has written no answer"):
        command("predict", model_folder, photos, "--out", tmp_path / "answers.csv")
    for name in TORCHRUN:
        monkeypatch.delenv(name)
    with pytest.raises(ValueError, match="processes: 2 then, 1 now"):
        command("predict", model_folder, photos, "--out", tmp_path / "answers.csv")


@pytest.mark.parametrize(
    ("file", "text", "words"),
    [
        ("call.json", b"[" * 100_000, "call.json is nested deeper"),
        ("call.json", b"\xff\x00", "call.json is not text in UTF-8"),
        ("00000-of-00001.jsonl", b"\xff\n", "line 1, is not JSON"),
        ("00000-of-00001.jsonl", b"[]\n", "line 1, holds a list"),
        ("00000-of-00001.jsonl", b"{}\n", "line 1, has no path"),
    ],
)
def test_answers_that_were_changed_are_refused(command, model_folder, photos, tmp_path, monkeypatch, file, text, words):
    def broken_off(*settings):
        yield from ()
        raise KeyboardInterrupt

    out = tmp_path / "answers.csv"
    with monkeypatch.context() as patch:
        patch.setattr(predict, "predict_files", broken_off)
        with pytest.raises(KeyboardInterrupt):
            command("predict", model_folder, photos, "--out", out)
    (tmp_path / "answers.csv.parts" / file).write_bytes(text)
    with pytest.raises(ValueError, match=words):
        command("predict", model_folder, photos, "--out", out)


@pytest.mark.parametrize("form", ["table", "csv", "json", "jsonl"])
def test_a_name_that_is_not_utf_8_loses_nothing(command, model_folder, photos, tmp_path, form):
    odd = os.path.join(os.fsencode(photos), b"caf\xe9 \xc3\xbc.png")
    shutil.copy(photos / "d1.png", odd)
    code, out, err = command("predict", model_folder, photos, "--format", form)
    assert code == 3
    assert ("caf\\\\xe9 ü.png" if form.startswith("json") else "caf\\xe9 ü.png") in out
    assert "11 of 13 images answered" in err
    assert "1 file name is not UTF-8: \\x and two hex digits stand for each byte that is not" in err
    if form in ("csv", "jsonl"):
        path = tmp_path / f"answers.{form}"
        assert command("predict", model_folder, photos, "--out", path)[0] == 3
        assert [row["path"] for row in _read(path)].count(f"{photos}/caf\\xe9 ü.png") == 1


def test_a_name_makes_no_lines_of_its_own(command, model_folder, photos):
    shutil.copy(photos / "d1.png", photos / "x\nall is well\x1b[2J.png")
    (photos / "y\nall is well.png").write_bytes(b"")
    _, out, err = command("predict", model_folder, photos)
    assert "x\\nall is well\\x1b[2J.png" in out
    assert not [line for line in (out + err).splitlines() if line.startswith("all is well")]


def test_what_the_output_has_no_sign_for_is_escaped():
    name = os.fsdecode(b"caf\xe9 \xc3\xbc.png")
    assert encodable(name) == "caf\\xe9 ü.png"
    assert encodable("plain.png") == "plain.png"


def test_cells_that_a_spreadsheet_would_compute_are_text(command, digit_model, tmp_path, photos, monkeypatch):
    digit_model.class_names = ["=1+1", *digit_model.class_names[1:]]
    with torch.no_grad():
        digit_model.network.fc.bias[0] = 100.0
    folder = kedge.save(digit_model, tmp_path / "formula")
    monkeypatch.chdir(photos)
    names = ["=cmd.png", "+1.png", "@x.png", "\t=x.png", " =x.png", "line\rx.png", "plain=.png"]
    for name in names:
        shutil.copy("d1.png", name)
    rows = list(csv.DictReader(command("predict", folder, *names, "--format", "csv")[1].splitlines()))
    shown = ["'=cmd.png", "'+1.png", "'@x.png", r"'\t=x.png", "' =x.png", r"line\rx.png", "plain=.png"]
    assert [row["path"] for row in rows] == shown
    assert command("predict", folder, *names, "--out", "answers.csv")[0] == 0
    assert [row["path"] for row in _read(Path("answers.csv"))] == shown
    assert {row["label"] for row in rows} == {"'=1+1"}
    assert all(float(row["log_odds"]) for row in rows)  # numbers stay numbers, below zero too
    exact = json.loads(command("predict", folder, *names, "--format", "json")[1])
    assert [row["path"] for row in exact] == names


def test_the_order_is_that_of_names_at_every_depth(tmp_path):
    for name in ("b/2.png", "b/1.png", "b.png", "a/z/1.jpg", "a/y.png", "a.x/1.png", "c.dng", ".h/1.png", "n.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "round").symlink_to(tmp_path, target_is_directory=True)
    os.mkfifo(tmp_path / "pipe.png")
    wanted = [p for p in sorted(tmp_path.rglob("*")) if p.suffix in (".png", ".jpg", ".dng")]
    wanted = [str(p) for p in wanted if "/.h/" not in str(p) and p.name != "pipe.png"]
    assert predict.find_images([str(tmp_path)]) == wanted


def test_files_that_cannot_be_written_are_refused_before_the_work(command, model_folder, photos, tmp_path):
    with pytest.raises(ValueError, match=r"its ending says what is written, and is one of \.csv"):
        command("predict", model_folder, photos, "--out", tmp_path / "answers.xlsx")

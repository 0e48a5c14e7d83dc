"""The campaign of faults notices what it is there to notice: shown with commands that do wrong on purpose."""

import json
import os
import signal
import struct
import sys
from pathlib import Path

import pytest
from benchmarks.faults import crafted_data, crafted_models, crafted_texts
from benchmarks.faults.events import Fault
from benchmarks.faults.forks import Place, call
from benchmarks.faults.report import Record
from benchmarks.faults.tries import Asked, Expected, bits, spoiled

import kedge.cli

pytestmark = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="forks and /proc are those of Linux")


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path / "place")


def command(monkeypatch, does):
    """`does` in the place of the kedge command, in forks too."""
    monkeypatch.setattr(kedge.cli, "main", lambda arguments: does() or 0)


def writes_two():
    for name in ("first", "second"):
        with open(name, "wb") as file:
            file.write(b"12345678")
            file.flush()
            os.fsync(file.fileno())


@pytest.mark.parametrize(
    ("fault", "left"),
    [
        (None, {"first": 8, "second": 8}),
        (Fault("kill", 1), {}),
        (Fault("kill", 2), {"first": 8}),
        (Fault("torn", 2), {"first": 4}),
        (Fault("kill", 3), {"first": 8}),
        (Fault("torn", 4), {"first": 8, "second": 4}),
    ],
)
def test_a_kill_strikes_before_its_event(monkeypatch, place, fault, left):
    command(monkeypatch, writes_two)
    done = call(["x"], place, fault=fault)
    assert done.status == (0 if fault is None else -signal.SIGKILL)
    assert {path.name: path.stat().st_size for path in place.work.iterdir()} == left
    assert [event.split()[0] for event in done.events] == ["open", "sync"] * 2 if fault is None else True


def test_a_disk_is_full_from_an_event_on(monkeypatch, place):
    def does():
        for name in ("first", "second", "third"):
            try:
                Path(name).write_text("x")
            except OSError as error:
                print(error.errno, file=sys.stderr)

    command(monkeypatch, does)
    assert call(["x"], place, fault=Fault("full", 2)).err.split() == ["28", "28"]
    assert os.listdir(place.work) == ["first"]


def raises():
    raise KeyError("no word of ours")


def dies():
    os.abort()


@pytest.mark.parametrize(
    ("does", "wrong"),
    [
        (lambda: None, None),
        (raises, "traceback: KeyError: 'no word of ours'"),
        (dies, "ended by signal SIGABRT"),
        (lambda: 1, "status 1 without a word"),
        (lambda: print("sorry", file=sys.stderr) or 1, None),
        (lambda: signal.pause(), "went past"),
        (lambda: Path("../../elsewhere").write_text("x") and None, "wrote outside its folder"),
        (lambda: (Path.home() / "id").write_text("x") and None, "wrote outside its folder: home/id"),
        (lambda: (Path.cwd().parent / "MARKER").touch(), "CODE WAS EXECUTED"),
    ],
    ids=["right", "traceback", "abort", "silent", "words", "hang", "outside", "home", "code"],
)
def test_what_no_command_may_do_is_noticed(monkeypatch, place, does, wrong):
    command(monkeypatch, does)
    got = spoiled(call(["x"], place, limit=2), place)
    assert got is None if wrong is None else got.startswith(wrong)


def test_memory_beyond_the_limit_is_noticed(monkeypatch, place):
    command(monkeypatch, lambda: len(b"x" * (1 << 30)) and None)
    assert call(["x"], place).memory > 700
    command(monkeypatch, lambda: bytearray(8 << 30))
    assert "MemoryError" in spoiled(call(["x"], place), place)


def test_what_is_expected_is_what_two_runs_agree_on(tmp_path):
    trees = tmp_path / "a", tmp_path / "b", tmp_path / "c"
    for number, tree in enumerate(trees):
        tree.mkdir()
        (tree / "w.safetensors").write_bytes(b"bits")
        (tree / "page.html").write_text(str(number))
        (tree / "r.json").write_text(f'{{"right": [1, NaN], "seconds": {number}}}')
    expected = Expected.of(trees[:2], ("", ""))
    assert expected.differs(trees[2]) is None
    for name, content, wrong in (
        ("w.safetensors", "bats", "other bits: w.safetensors"),
        ("r.json", '{"right": [2, NaN]}', "r.json/right/0 is 2, not 1"),
        ("r.json", "{", "r.json is not JSON"),
        (".w.1.tmp", "", "left behind: .w.1.tmp"),
    ):
        before = (trees[2] / name).read_bytes() if (trees[2] / name).exists() else None
        (trees[2] / name).write_text(content)
        assert expected.differs(trees[2]).startswith(wrong)
        (trees[2] / name).unlink()
        if before is not None:
            (trees[2] / name).write_bytes(before)
    (trees[2] / "page.html").unlink()
    assert expected.differs(trees[2]) == "missing: page.html"


def test_bits_of_weights_do_not_depend_on_the_order_of_a_header(tmp_path):
    def written(name, value, *keys):
        header = {"__metadata__": {key: key.upper() for key in keys}}
        header["w"] = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
        text = json.dumps(header).encode()
        path = tmp_path / name
        path.write_bytes(struct.pack("<Q", len(text)) + text + struct.pack("<f", value))
        return bits(path)

    one = written("a.safetensors", 1.0, "x", "y")
    assert one == written("b.safetensors", 1.0, "y", "x")
    assert one != written("c.safetensors", 1.5, "x", "y")
    assert one != written("d.safetensors", 1.0, "x", "z")


def test_a_seed_draws_the_same_tries_whatever_else_is_wanted():
    one, again, other = (
        Asked(seed, False, False, pattern) for seed, pattern in ((0, "*"), (0, "kills/train"), (1, "*"))
    )
    drawn = [asked.some("kills/train", range(100), 3, 10) for asked in (one, again, other)]
    assert drawn[0] == drawn[1] == sorted(drawn[0])
    assert drawn[0] != drawn[2]
    assert Asked(0, True, False, "kills/train/kill-77").some("kills/train", range(100), 3, 10) == list(range(100))
    assert again.wants("kills/train")
    assert again.wants("kills")
    assert not again.wants("kills/adapt")


@pytest.mark.slow
def test_crafted_files_have_names_of_their_own():
    names = [each[0] for part in (crafted_texts, crafted_models, crafted_data) for each in part.crafts()]
    assert len(names) == len(set(names)) > 250


def test_a_part_that_is_tried_again_takes_the_place_of_the_earlier_one(tmp_path):
    def tried(name, wrong, earlier=None):
        record = Record("command", 0, False)
        record.count(name, 1, int(wrong is None))
        if wrong is not None:
            record.fell(name, wrong, "again")
        made = record.end(1.0, earlier)
        (tmp_path / "faults.json").write_text(json.dumps(made))
        return made

    file = tmp_path / "faults.json"
    tried("kills/train/kill-1", "left behind: .x.tmp")
    both = tried("fuzz/recipe", "RecursionError in reading.py, read: deep", file)
    assert both["classes"] == {"kills": {"tried": 1, "held": 0}, "fuzz": {"tried": 1, "held": 0}}
    assert both["tables"][1]["rows"] == [["fuzz", "traceback", 1], ["kills", "left behind", 1]]
    after = tried("kills/train/kill-1", None, file)
    assert after["classes"] == {"kills": {"tried": 1, "held": 1}, "fuzz": {"tried": 1, "held": 0}}
    assert [each["try"] for each in after["failures"]] == ["fuzz/recipe"]

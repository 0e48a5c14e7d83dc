"""Names of strangers on a terminal, in a page, in a spreadsheet."""

import csv
import io
import json
import subprocess
import sys

import pytest

from kedge.data.report import LoadReport, UnreadableImage, listed
from kedge.files import write_text
from kedge.printable import cell, counted, printable, printable_lines

EVIL = "\x1b[2J\x1b]0;owned\x07\r\nkedge: all is well\u202e\x9b1A"


@pytest.mark.parametrize(
    "name", ["Zürich", "猫 犬", "a\u00a0b\u3000c", "नमस्ते\u200d", "می\u200cخواهم", "👩\u200d👩\u200d👧", "", "a b-c_d.1"]
)
def test_names_of_any_language_stay(name):
    assert printable(name) == name


def test_nothing_that_a_terminal_obeys_is_left():
    shown = printable(EVIL)
    assert shown == r"\x1b[2J\x1b]0;owned\x07\r\nkedge: all is well\u202e\x9b1A"
    assert printable("\udcff.jpg") == r"\udcff.jpg"
    assert printable(3) == "3"
    assert printable_lines(f"one\n\ttwo {chr(27)}") == "one\n\ttwo \\x1b"


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t=", "\r=", " ="])
def test_no_cell_is_a_formula(start):
    text = io.StringIO()
    csv.writer(text).writerow([cell(f"{start}HYPERLINK(1)"), cell("cat")])
    ((first, second),) = csv.reader(io.StringIO(text.getvalue()))
    assert first.startswith("'")
    assert second == "cat"


def test_the_reports_of_data_are_of_one_line_for_each_image():
    path = f"photos/{EVIL}.jpg"
    report = LoadReport(total=3, skipped=[(path, f"it is {EVIL}")])
    for text, lines in ((report.summary(), 2), (listed([(path, "x")]), 1), (str(UnreadableImage(path, "x")), 1)):
        assert len(text.splitlines()) == lines
        assert all(c.isprintable() for c in text.replace("\n", ""))


def test_a_name_that_is_no_text_is_written_and_read_back(tmp_path):
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    path = write_text(tmp_path / "names.json", json.dumps({"name": name}, ensure_ascii=False))
    assert json.loads(path.read_text(encoding="utf-8")) == {"name": name}


@pytest.mark.parametrize("encoding", ["ascii", "utf-8"])
def test_a_command_writes_text_alone(tmp_path, encoding):
    names = [EVIL.replace("/", ""), "Zürich", "\udcff"]
    code = "import sys\nfrom kedge.cli.output import plain_output\nwith plain_output():\n" + "".join(
        f"    print({name!r}, file=sys.std{which})\n" for name in names for which in ("out", "err")
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, env={"PYTHONIOENCODING": encoding, "PATH": ""}
        | {k: v for k, v in __import__("os").environ.items() if k.startswith(("PYTHONPATH", "VIRTUAL"))},
    )  # fmt: skip
    for written in (done.stdout, done.stderr):
        text = written.decode(encoding)
        assert all(c.isprintable() or c == "\n" for c in text)
        assert ("Zürich" in text) == (encoding == "utf-8")


def test_one_of_a_thing_is_no_plural():
    assert [counted(n, "epoch") for n in (0, 1, 2, 1500)] == ["0 epochs", "1 epoch", "2 epochs", "1,500 epochs"]

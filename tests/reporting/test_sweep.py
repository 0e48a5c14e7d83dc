import csv
import json

import pytest

from kedge.reporting.sweep import page, sweep_table, write_sweep


@pytest.fixture
def sweep():
    rows = [
        {"alpha": a, "clean": 0.99 - a / 50, "shifted": 0.7 + a / 10, "pgd": 0.6 * a, "mean": 0.5 + a / 10, "fog": 0.5}
        for a in (0.0, 0.5, 1.0)
    ]  # fmt: skip
    return {
        "kedge": "0", "format": "kedge sweep", "format_version": 1, "command": "kedge interpolate a b --sweep",
        "a": "runs/<b>clean</b>", "b": "runs/\x1b[31mtuned",
        "picked": {"alpha": 0.5, "by": "pgd", "intervals": {"clean": [0.9, 0.99], "pgd": [0.2, 0.4]}},
        "data": {"name": "digits", "split": "val", "images": 179},
        "shift": {"corruptions": ["fog"], "severity": 3},
        "attack": {"title": "PGD-20", "eps": 0.1, "norm": "linf", "steps": 20, "step_size": 0.025, "images": 100},
        "batch_norm": "nothing", "seed": 0, "rows": rows,
    }  # fmt: skip


def test_the_table(sweep):
    lines = sweep_table(sweep).splitlines()
    assert lines[0].split() == ["alpha", "clean", "shifted", "PGD-20", "mean"]
    assert lines[1].split() == ["0.00", "99.0", "70.0", "0.0", "50.0", "runs/<b>clean</b>"]
    assert lines[2].split() == ["0.50", "98.0", "75.0", "30.0", "55.0", "picked", "by", "pgd"]
    assert "\x1b" not in lines[3]


def test_the_page_stands_alone_and_escapes_names(sweep):
    text = page(sweep)
    assert text.count("<svg") == 3
    assert "<b>clean</b>" not in text.replace("figcaption><b>", "")
    assert "&lt;b&gt;clean" in text
    assert "\x1b" not in text
    assert "src=" not in text
    assert "0.5 <b>picked</b>" in text
    assert text.count('class="o"') == 2  # a ring in each picture of one accuracy against another


def test_it_draws_what_was_measured(sweep):
    sweep["attack"] = None
    for row in sweep["rows"]:
        del row["pgd"]
    text = page(sweep)
    assert text.count("<svg") == 2
    assert "PGD" not in text
    assert "mean: of clean, shifted<" in text
    for row in sweep["rows"]:
        del row["shifted"], row["mean"]
    assert page(sweep).count("<svg") == 1


def test_equal_numbers_and_a_single_alpha_can_be_drawn(sweep):
    sweep["rows"] = [{**sweep["rows"][1], "clean": 1.0, "pgd": 0.0}]
    assert "NaN" not in page(sweep)


def test_files(sweep, tmp_path):
    paths = write_sweep(sweep, tmp_path)
    assert [path.name for path in paths] == ["sweep.json", "sweep.csv", "sweep.html"]
    assert json.loads(paths[0].read_text()) == sweep
    with open(paths[1], newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["picked"] for row in rows] == ["0", "1", "0"]
    assert float(rows[2]["fog"]) == 0.5

import json

import pytest

from kedge.reporting.reproduction import page, reproduction_markdown, signed, write_reproduction


def row(measure, variant, ours, paper=None, higher=True):
    return {"measure": measure, "higher": higher, "variant": variant, "paper": paper, "ours": ours, "sd": 1.25,
            "seeds": 3, "interval": [ours - 3.1, ours + 3.1], "difference": None if paper is None else ours - paper,
            "difference_interval": None if paper is None else [ours - paper - 3.1, ours - paper + 3.1]}  # fmt: skip


@pytest.fixture
def results():
    variant = {"network": "kedge_resnet18", "parameters": 700_000, "training_seconds": 300.0,
               "evaluation_seconds": 60.0, "severities": {"1": 70.0, "5": 50.0}, "corruptions": {"fog": 60.0},
               "runs": []}  # fmt: skip
    difference = {"measure": "clean accuracy", "higher": True, "paper": 1.5, "difference": -2.04, "seeds": 3,
                  "interval": [-3.0, -1.08], "verdict": "worse, where the paper's is better"}  # fmt: skip
    return {
        "title": "A <b>title</b> | with a bar", "source": "table 1", "scale": "laptop", "seeds": [0, 1, 2],
        "created": "2026-01-01", "command": "kedge reproduce x", "unfinished": ["b-2"], "images": 1000,
        "notes": ["<i>a note</i>"],
        "machine": {"kedge": "0", "torch": "2", "system": "Linux", "cpus": 2, "accelerators": []},
        "variants": {"a": variant, "b|<script>": variant},
        "rows": [row("clean accuracy", "a", 80.0, 75.6), row("clean accuracy", "b|<script>", 78.0)],
        "gains": [{**difference, "variant": "b|<script>", "over": "a"}],
        "contrasts": [],
    }  # fmt: skip


def test_the_table_in_markdown(results):
    text = reproduction_markdown(results)
    assert "| a | 75.6 | 80.0 ± 1.2 | 3 | +4.4 | +1.3 to +7.5 |" in text
    assert "| b\\|&lt;script> |  | 78.0 ± 1.2 | 3 |  |  |" in text
    assert "| clean accuracy | +1.5 | \N{MINUS SIGN}2.0 | \N{MINUS SIGN}3.0 to \N{MINUS SIGN}1.1 |" in text
    assert "Not finished: b-2." in text
    assert "not the paper's scale" in text
    assert "the same 1,000 images; other images would move the levels, by 3 points" in text
    for line in text.split("\n"):
        if line.startswith("|"):
            assert line.replace("\\|", "").count("|") in (7,)


def test_kinds_of_corruption_and_measures_over_the_epochs(results):
    curve = {"corrupted accuracy": {"10": 40.25, "20": 50.0}, "corrupted NLL": {"10": 2.376, "20": 1.0}}
    corruptions = {"fog": 60.0, "snow": 70.0, "shot_noise": 10.0, "my_own": 3.0}
    results["variants"]["a"] = {**results["variants"]["a"], "corruptions": corruptions, "curve": curve}
    nll = row("corrupted NLL", "a", 1.0, 1.234, higher=False)
    results["rows"] += [row("corrupted accuracy", "a", 50.0), {**nll, "unit": "nats", "sd": 0.024}]
    text = reproduction_markdown(results)
    assert "| variant | noise | weather |\n| --- | ---: | ---: |\n| a | 10.0 | 65.0 |" in text
    assert "| b\\|&lt;script> |  | 60.0 |" in text
    assert (
        "## corrupted accuracy over epochs, %\n\n| variant | 10 | 20 |\n| --- | ---: | ---: |\n| a | 40.2 | 50.0 |"
        in text
    )
    assert "## corrupted NLL over epochs, nats" in text
    assert "| a | 2.38 | 1.00 |" in text
    assert "## corrupted NLL, nats" in text
    assert "| a | 1.23 | 1.00 ± 0.02 |" in text
    html = page(results)
    assert "corrupted accuracy, %</b>, over the epochs" in html
    assert '<th scope="row">b|&lt;script&gt;</th>' in html
    assert "<script" not in html


def test_at_the_paper_s_scale_nothing_is_excused(results):
    assert "not the paper's scale" not in reproduction_markdown({**results, "scale": "paper"})


def test_the_page_escapes_and_is_alone(results):
    text = page(results)
    assert "<script" not in text
    assert "&lt;i&gt;a note" in text
    assert "http" not in text.replace("http-equiv", "")
    assert "worse, where the paper&#39;s is better" in text


def test_three_files(results, tmp_path):
    paths = write_reproduction(results, tmp_path / "out")
    assert [p.name for p in paths] == ["results.json", "table.md", "report.html"]
    assert json.loads(paths[0].read_text())["title"] == results["title"]


@pytest.mark.parametrize(
    ("value", "text"), [(0.04, "0.0"), (-0.04, "0.0"), (1.25, "+1.2"), (-7.0, "\N{MINUS SIGN}7.0")]
)
def test_signs(value, text):
    assert signed(value) == text

import copy
import csv
import io
import json

import pytest

from kedge.reporting import as_csv, as_json, read_results, render, table, write_results
from kedge.reporting.rows import best_of, number, short, summary_rows
from kedge.reporting.sentences import about, comparison, overconfidence


def estimate(value: float, reach: float | None) -> dict[str, float | None]:
    low, high = (None, None) if reach is None else (value - reach, value + reach)
    return {"value": value, "low": low, "high": high}


def test_better_only_when_the_intervals_are_apart():
    apart, near = [estimate(0.9, 0.01), estimate(0.8, 0.01)], [estimate(0.9, 0.01), estimate(0.89, 0.01)]
    assert best_of(apart, "higher", "%") == 0
    assert best_of(apart, "lower", "%") == 1
    assert best_of(near, "higher", "%") is None
    assert best_of([*apart, estimate(0.895, 0.02)], "higher", "%") is None
    assert best_of([*apart, None], "higher", "%") is None
    assert best_of([estimate(0.9, None), estimate(0.5, 0.1)], "higher", "%") is None
    assert best_of(apart, None, "%") is None
    assert best_of(apart[:1], "higher", "%") is None
    assert best_of([estimate(0.90001, 1e-7), estimate(0.90002, 1e-7)], "higher", "%") is None  # both print as 90.0


def test_table_has_every_model_and_says_directions(three):
    text = table(three, width=120)
    for word in ("standard", "anchored", "<script>", "↑ accuracy, %", "↓ calibration error (ECE), %", "positive class"):
        assert word in text
    assert "disagreement" in text
    assert "\x1b" not in text
    assert "\x1b[" in table(three, width=120, color=True)
    assert max(len(line) for line in text.splitlines()) <= 120


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_table_keeps_to_its_width_and_loses_no_model(three, width):
    text = table(three, width=width)
    assert max(len(line) for line in text.splitlines()) <= width
    value = f"{100 * three['models']['standard']['clean']['accuracy']['value']:.1f}"
    assert value in text
    assert "anchored" in text


def test_table_of_a_subset_says_so(one):
    assert "40 of 70 images, a random subset" in table(one, 100)


def test_control_characters_do_not_reach_the_terminal(one):
    results = copy.deepcopy(one)
    results["models"] = {"\x1b[2Jgone\x07": results["models"]["only"]}
    results["data"]["name"] = "\x1b]0;title\x07"
    assert "\x1b" not in table(results, 100)
    assert "\x07" not in table(results, 100)


def test_csv_is_tidy_and_agrees_with_the_results(three):
    lines = list(csv.DictReader(io.StringIO(as_csv(three))))
    assert {line["model"] for line in lines} == set(three["models"])
    found = {(x["model"], x["part"], x["condition"], x["score"], x["metric"]): x for x in lines}
    assert len(found) == len(lines)
    clean = three["models"]["standard"]["clean"]["ece"]
    line = found["standard", "clean", "", "", "ece"]
    assert (float(line["value"]), float(line["low"]), float(line["high"])) == (
        clean["value"],
        clean["low"],
        clean["high"],
    )
    away = three["models"]["anchored"]["ood"]["<u>grey</u>"]["scores"]["disagreement"]
    assert float(found["anchored", "ood", "<u>grey</u>", "disagreement", "fpr95"]["value"]) == away["fpr95"]
    assert found["anchored", "shift", "contrast 3", "", "accuracy"]


def test_json_holds_everything_but_the_pictures(three):
    before = copy.deepcopy(three)
    shown = json.loads(as_json(three))
    assert three == before
    assert shown["models"]["anchored"]["clean"] == json.loads(json.dumps(three["models"]["anchored"]["clean"]))
    assert "base64" not in as_json(three)


def test_render(one):
    assert render(one, "table", 100) == table(one, 100)
    assert render(one, "csv") == as_csv(one)
    assert render(one, "json") == as_json(one)
    with pytest.raises(ValueError, match="'xml'"):
        render(one, "xml")


def test_results_file_goes_round(three, tmp_path):
    path = write_results(three, tmp_path / "results.json")
    assert read_results(path) == three
    assert table(read_results(path), 100) == table(three, 100)
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("not json", "does not hold JSON"),
        ("[]", "not the results"),
        ('{"format_version": 1, "models": {}}', "not the results"),
        ('{"format_version": 99, "models": {"a": {}}}', "format 99 is newer"),
    ],
)
def test_files_that_are_something_else(tmp_path, text, words):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        read_results(path)


def test_rows_of_a_bare_run(bare):
    groups = {row.group for row in summary_rows(bare)}
    assert groups == {"Clean images", "Cost"}
    assert all(row.spread(0) == "" for row in summary_rows(bare) if row.label not in ("accuracy", "top-5 accuracy"))


def test_sentences_claim_no_more_than_the_intervals(three):
    results = copy.deepcopy(three)
    results["models"] = dict(list(results["models"].items())[:2])
    first, second = results["models"].values()
    first["clean"]["accuracy"], second["clean"]["accuracy"] = estimate(0.9, 0.01), estimate(0.8, 0.01)
    first["clean"]["ece"], second["clean"]["ece"] = estimate(0.02, 0.01), estimate(0.03, 0.01)
    said = dict(comparison(results))
    assert said["Accuracy on clean images"] == "standard is best (standard 90.0 %, anchored 80.0 %)."
    assert said["Calibration error on clean images"].startswith("too close to call (standard 2.0 %")
    first["clean"]["accuracy"] = estimate(0.9, None)
    assert "no difference is claimed" in dict(comparison(results))["Accuracy on clean images"]


def test_one_model_behind_the_others_is_named(three):
    results = copy.deepcopy(three)
    for model, value in zip(results["models"].values(), (0.9, 0.5, 0.895), strict=True):
        model["clean"]["accuracy"] = estimate(value, 0.01)
    assert dict(comparison(results))["Accuracy on clean images"].startswith("anchored is behind")


def test_words_about_one_model(one, bare):
    assert comparison(one) == []
    said = " ".join(about("only", one["models"]["only"], one))
    assert "On corrupted images" in said
    assert "times in 100 (50 is guessing)" in said
    assert len(about("only", bare["models"]["only"], bare)) == 1


def test_leaning():
    diagram = {"count": [0, 10, 30], "confidence": [None, 0.5, 0.9], "accuracy": [None, 0.4, 0.7]}
    assert overconfidence(diagram) == pytest.approx(0.175)


def test_numbers_and_names():
    assert number(None, "%") == "–"
    assert number(0.5, "%") == "50.0"
    assert number(12345.6, "/s") == "12,346"
    assert number(1234567, "count") == "1,234,567"
    assert short("short") == "short"
    assert len(short("x" * 100)) == 36

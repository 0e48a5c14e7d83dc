import copy
import csv
import io
import json
import math

import pytest

from kedge.metrics.ece import ECE
from kedge.reporting import as_csv, as_json, comparison, render, table
from kedge.reporting.csv_table import COLUMNS
from kedge.reporting.formats import upgrade
from kedge.reporting.lines import failure
from kedge.reporting.rows import best_of, number, short, spread
from kedge.reporting.sections.attack import strength
from kedge.reporting.summary import summary_rows
from kedge.reporting.svg import GLYPHS
from kedge.reporting.text_table import BETTER_THAN_SOME, MARK, SOME
from tests.reporting import synthetic


def estimate(value: float, reach: float | None) -> dict[str, float | None]:
    low, high = (None, None) if reach is None else (value - reach, value + reach)
    return {"value": value, "low": low, "high": high}


def rows_of(results):
    return {(r.group, r.label): r for r in summary_rows(upgrade(results))}


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
    assert "\x1b" not in text
    assert "\x1b[" in table(three, width=120, color=True)
    assert max(len(line) for line in text.splitlines()) <= 120


def test_an_expected_accuracy_is_quoted_with_its_warnings_and_never_marked_as_better(three, bare):
    text = " ".join(table(three, width=200).split())
    assert "standard, <s>new photos</s> (300 images without labels): expected accuracy about" in text
    assert "somewhat unlike those (told apart with AUROC 71 %)" in text
    assert "standard, <s>new photos</s>: only 300 images" in text
    rows = [row for (group, _), row in rows_of(three).items() if group == "Without labels: <s>new photos</s>"]
    assert [row.label for row in rows] == [
        "expected accuracy, thresholded entropy (ATC)",
        "told from validation images (AUROC)",
    ]
    assert all(row.best is None and row.better is None for row in rows)
    assert "expected accuracy" not in table(bare, width=200)


@pytest.mark.parametrize("width", [40, 60, 80, 200])
@pytest.mark.parametrize("which", ["three", "partial", "old"])
def test_table_keeps_to_its_width_and_loses_no_model(which, width, request):
    results = request.getfixturevalue(which)
    text = table(results, width=width)
    assert max(len(line) for line in text.splitlines()) <= width
    for model in results["models"].values():
        if model.get("clean"):
            assert f"{100 * model['clean']['accuracy']['value']:.1f}" in text


def test_table_of_a_subset_says_so(one):
    assert "500 of 10,000 images, a random subset" in table(one, 100)


def test_table_says_what_failed(partial):
    text = " ".join(table(partial, 200).split())
    assert "could not be measured" in text
    assert "partly, attack pgd failed: the model gives no gradient" in text
    assert "failed: out of memory at gaussian noise 3" in text


def test_control_characters_do_not_reach_the_terminal(one):
    results = copy.deepcopy(one)
    results["models"] = {"\x1b[2Jgone\x07": results["models"]["only"]}
    results["data"]["name"] = "\x1b]0;title\x07"
    assert "\x1b" not in table(results, 100)
    assert "\x07" not in table(results, 100)


def test_the_summary_has_one_score_and_owns_up_to_choosing_the_best(two):
    rows = rows_of(two)
    near, far = "Out of distribution: near (cifar100)", "Out of distribution: far, mean of 4 sets"
    assert {label for group, label in rows if group in (near, far)} == {
        "AUROC, confidence (MSP)", "FPR95, confidence (MSP)", "AUROC, best of the scores, chosen after the fact",
    }  # fmt: skip
    chosen = rows[far, "AUROC, best of the scores, chosen after the fact"]
    areas = {s: f["auroc"]["value"] for s, f in two["models"]["anchored"]["ood_groups"]["far"].items()}
    assert chosen.cells[1]["value"] == max(areas.values())
    assert chosen.spread(1).endswith("of 10")
    assert chosen.best is None
    assert chosen.better is None


def test_many_sets_without_a_group_have_one_line_each():
    results = synthetic.results(("a",), sets=dict.fromkeys(("s1", "s2", "s3", "s4", "s5")))
    own = [r for r in summary_rows(upgrade(results)) if r.group.startswith("Out of distribution")]
    assert [r.label for r in own] == ["s1", "s2", "s3", "s4", "s5"]


def test_a_mean_over_fewer_sets_is_no_mean(two):
    results = copy.deepcopy(two)
    model = results["models"]["standard"]
    for found in model["ood_groups"]["far"].values():
        found["sets"] = ["mnist"]
    model["errors"] = [{"part": "ood scenes", "message": "logits that are not finite"}]
    row = rows_of(results)["Out of distribution: far, mean of 4 sets", "AUROC, confidence (MSP)"]
    assert row.text(0) == "failed: logits that are not finite"
    assert row.cells[1] is not None


def test_failed_corruptions_mark_the_means_that_they_spoil(two):
    results = copy.deepcopy(two)
    model = results["models"]["standard"]
    model["errors"] = [{"part": "gaussian_noise 5", "message": "not finite"}]
    for row in (model["shift"]["mean"], model["shift"]["by_severity"][4]):
        row["accuracy"] = {"value": None, "low": None, "high": None}
    rows = rows_of(results)
    group = "Corrupted (mean of 19 × 5)"
    assert rows[group, "accuracy"].text(0) == "failed: not finite"
    assert rows[group, "accuracy at severity 5"].text(0) == "failed"
    assert not rows[group, "accuracy at severity 1"].failed(0)


def test_which_error_belongs_to_what():
    def why(part, *args, **more):
        return failure({"errors": [{"part": part, "message": "no"}]}, *args, **more) == "no"

    assert why("clean", "ood", "mnist")
    assert why("ood mnist", "ood", "mnist")
    assert why("ood: mnist", "ood", "mnist")
    assert not why("ood mnist", "ood", "svhn")
    assert why("attacks", "attack", "PGD-20")
    assert why("CIFAR-10.1", "shift_set", "CIFAR-10.1")
    assert not why("fog 3", "shift")
    assert why("fog 3", "shift", also=["fog"])


def test_attacks_in_the_summary(two):
    results = copy.deepcopy(two)
    results["settings"]["attacks"] = ["pgd", "gone"]
    groups = [r.group for r in summary_rows(upgrade(results)) if r.group.startswith("Under attack")]
    assert groups == [
        "Under attack: PGD-20 (ℓ∞ 8/255, 1,000 images)",
        "Under attack: PGD-20 over references (ℓ∞ 8/255, 1,000 images)",
    ]


def test_attack_in_words():
    attack = {"norm": "linf", "eps": 8 / 255, "steps": 20, "restarts": 3, "kind": "pgd"}
    assert strength(attack) == "ℓ∞ 8/255, 20 steps, 3 restarts"
    assert strength({**attack, "eps": 0.15}) == "ℓ∞ 0.15, 20 steps, 3 restarts"
    assert strength(attack, "PGD-20, 3 restarts") == "ℓ∞ 8/255"
    assert strength({**attack, "norm": "l2", "eps": 0.5, "steps": 1, "restarts": 1}) == "ℓ2 0.5, 1 step"
    assert strength({"norm": None, "eps": None, "kind": "own"}) == "norm not stated"


def read_csv(results):
    return list(csv.DictReader(io.StringIO(as_csv(results))))


@pytest.mark.parametrize("which", ["one", "three", "bare", "partial", "old"])
def test_csv_is_tidy(which, request):
    lines = read_csv(request.getfixturevalue(which))
    keys = [tuple(line[c] for c in COLUMNS[:6]) for line in lines]
    assert len(set(keys)) == len(keys)
    assert all(math.isfinite(float(line["value"])) for line in lines)


def test_csv_agrees_with_the_results(three):
    lines = read_csv(three)
    found = {tuple(line[c] for c in COLUMNS[:6]): line for line in lines}
    clean = three["models"]["standard"]["clean"]["ece"]
    line = found["standard", "clean", "", "", "", "ece"]
    assert [float(line[key]) for key in ("value", "low", "high")] == [clean[key] for key in ("value", "low", "high")]
    assert line["n"] == "10000"
    away = three["models"]["anchored"]["ood"]["<u>grey</u>"]["scores"]["disagreement"]
    line = found["anchored", "ood", "<u>grey</u>", "", "disagreement", "aupr_out"]
    assert float(line["value"]) == away["aupr_out"]["value"]
    assert ("anchored", "shift", "contrast", "3", "", "smooth_ece") in found
    assert found["anchored", "attack", "pgd", "", "", "accuracy"]["n"] == "1000"
    assert ("standard - anchored", "comparison", "clean", "", "McNemar exact", "p, accuracy") in found
    assert ("second", "seeds", "sd", "", "", "accuracy, clean") in found


def test_json_holds_everything_but_the_pictures(three):
    before = copy.deepcopy(three)
    shown = json.loads(as_json(three))
    assert three == before
    assert shown["models"]["anchored"]["clean"] == three["models"]["anchored"]["clean"]
    assert "base64" not in as_json(three)


def test_render(one):
    assert render(one, "table", 100) == table(one, 100)
    assert render(one, "csv") == as_csv(one)
    assert render(one, "json") == as_json(one)
    with pytest.raises(ValueError, match="'xml'"):
        render(one, "xml")


def test_rows_of_a_bare_run(bare):
    rows = summary_rows(upgrade(bare))
    assert {row.group for row in rows} == {
        "Clean images", "Answering only when confident", "Above the stored threshold", "Cost",
    }  # fmt: skip


def test_numbers_and_names():
    assert number(None, "%") == "–"
    assert number(0.5, "%") == "50.0"
    assert number(0.01234, "%%") == "1.23"
    assert number(12345.6, "/s") == "12,346"
    assert number(1234567, "count") == "1,234,567"
    assert spread({"value": 0, "low": -0.01, "high": 0.01}, "%") == "−1.0 to 1.0"
    assert short("short") == "short"
    assert len(short("x" * 100)) == 36


def test_set_sizes_stand_with_the_numbers(three):
    text = " ".join(table(three, 200).split())
    assert "10,000 in-distribution images against 10,000 of <u>grey</u>, 10,000 of far one" in text


def test_the_sign_for_better_is_no_marker_of_a_plot(two):
    assert MARK not in GLYPHS
    results = copy.deepcopy(two)
    for model, value in zip(results["models"].values(), (0.9, 0.8), strict=True):
        model["clean"]["accuracy"] = estimate(value, 0.01)
    text = table(results, 120)
    assert f"{MARK} 90.0 [89.0–91.0]" in text
    assert f"{MARK} better than every other model" in text
    assert not any(glyph in text for glyph in GLYPHS)


def test_the_second_of_three_is_marked_against_the_third(three):
    results = copy.deepcopy(three)
    for model, value in zip(results["models"].values(), (0.9, 0.8, 0.7), strict=True):
        model["clean"]["accuracy"] = estimate(value, 0.01)
    row = next(row for row in summary_rows(upgrade(results)) if row.label == "accuracy")
    assert row.ahead == ((1, 2), (2,), ())
    assert (row.best, row.beats(0), row.beats(1), row.beats(2)) == (0, (), (2,), ())
    text = table(results, 160)
    assert f"{MARK} 90.0 [89.0–91.0]" in text
    assert f"{SOME}3 80.0 [79.0–81.0]" in text
    assert BETTER_THAN_SOME in " ".join(text.split())


def test_the_legend_explains_calibration_errors_only_where_they_stand(two, bare):
    assert ECE.caution in " ".join(table(two, 120).split())
    assert "of a calibrated model is above 0" not in table(bare, 120)  # no intervals
    results = copy.deepcopy(two)
    for model in results["models"].values():
        model["clean"], model["shift"], model["shift_sets"] = None, None, {}
    assert "of a calibrated model is above 0" not in table(results, 120)


@pytest.mark.parametrize("width", [40, 120])
def test_groups_follow_the_table(width):
    results = synthetic.results(("a1", "a2", "b1"), groups=True)
    results["group_table"]["second"]["accuracy, clean"]["mean"] = 0.72
    lines = table(results, width).splitlines()
    text = "\n".join(lines[next(i for i, line in enumerate(lines) if "Over seeds" in line) :])
    first, second = results["groups"]["first"], results["groups"]["second"]
    assert (len(first), len(second)) == (1, 2)
    if width == 120:  # narrower, the cells are folded
        assert "91.0 (n = 1, no spread)" in text
        assert "72.0 ± 0.40 (n = 2)" in text
    assert "91.0" in text
    assert "72.0 ±" in text
    said = " ".join(text.split())
    assert "Accuracy, clean images, mean over seeds: " in said
    for question, claim in comparison(results):
        assert f"{question}: {claim}" in said
    assert max(map(len, lines)) <= width
    assert "Over seeds" not in table({**results, "groups": {}, "group_table": {}}, width)

import copy
import json

import pytest

from kedge.reporting import as_csv, page, read_results, table, write_results
from kedge.reporting.formats import upgrade
from kedge.reporting.summary import summary_rows
from tests.reporting import synthetic


@pytest.mark.parametrize("which", ["one", "two", "three", "bare"])
def test_complete_results_are_read_as_they_were_written(which, request, tmp_path):
    results = request.getfixturevalue(which)
    path = write_results(results, tmp_path / "results.json")
    assert read_results(path) == results
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]


def test_lists_of_numbers_take_one_line_and_text_stays_as_it_is(one, tmp_path):
    hostile = "[\n 1,\n 2\n]"
    one["command"] = hostile
    one["numbers"] = [[1, -2.5, 3e-7, None], [], [1, "2"], [True, 4]]
    path = write_results(one, tmp_path / "results.json")
    assert json.loads(path.read_text()) == one
    assert "[ 1, -2.5, 3e-07, null ]" in path.read_text()


def test_what_an_earlier_version_lacks_is_filled_in(old):
    before = copy.deepcopy(old)
    new = upgrade(old)
    assert old == before
    assert upgrade(new) == new
    area = new["models"]["standard"]["ood"]["mnist"]["scores"]["msp"]
    assert area["auroc"] == old["models"]["standard"]["ood"]["mnist"]["scores"]["msp"]["auroc"]
    assert area["roc"] is None
    assert new["models"]["standard"]["selective"]["curve"] == {"clean": None, "shift": None}
    assert new["models"]["wide"]["selective"] is None


def test_an_earlier_version_gives_the_same_numbers(old):
    new = synthetic.results(("standard", "anchored", "deep", "wide"))
    kept = {(r.group, r.label): r for r in summary_rows(upgrade(new))}
    for row in summary_rows(upgrade(old)):
        if row.group.startswith(("Clean", "Corrupted", "Cost")):
            assert [row.text(i) for i in range(4)] == [kept[row.group, row.label].text(i) for i in range(4)]


@pytest.mark.parametrize(
    "key", ["shift", "ood", "scores", "selective", "attacks", "clean", "images", "timing", "steps"]
)
def test_what_is_missing_is_a_dash_and_no_error(two, key):
    results = copy.deepcopy(two)
    del results["models"]["anchored"][key]
    assert table(results, 120)
    assert as_csv(results)
    assert page.page(results)


def test_an_almost_empty_file_is_read(tmp_path):
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"format_version": 2, "models": {"a": {}}, "data": {"name": "x"}}))
    results = read_results(path)
    assert page.page(results)
    assert table(results, 80)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("not json", "is not JSON"),
        ("[]", "a list where a mapping"),
        ('{"models": 1}', "not the results"),
        ('{"format_version": 1, "models": {}}', "not the results"),
        ('{"format_version": 1, "models": {"a": {}}}', "format 1 is older .*: evaluate again"),
        ('{"format_version": 99, "models": {"a": {}}}', "format 99 is newer"),
        ('{"format_version": 2, "models": {"a": 7}}', "not the results"),
        ('{"format_version": 2, "models": {"a": {"ood": [1]}}}', "ood is a list, not a dict"),
        ('{"format_version": 2, "models": {"a": {}}, "ood_sets": {"x": 1}}', "not the results"),
        ('{"format_version": 2, "models": {"a": {"clean": {"ece": NaN}}}}', "NaN is no number"),
    ],
)
def test_files_that_are_something_else(tmp_path, text, words):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(ValueError, match=words):
        read_results(path)


@pytest.mark.parametrize(
    ("key", "value"), [("sanity", [{"nan": "null"}]), ("sanity", [3]), ("errors", [{"part": "p"}])]
)
def test_entries_of_another_kind_are_refused_in_words(one, tmp_path, key, value):
    one = copy.deepcopy(one)
    next(iter(one["models"].values()))[key] = value
    with pytest.raises(ValueError, match=f"they were changed \\({key} holds"):
        read_results(write_results(one, tmp_path / "results.json"))

import copy
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import numpy as np
import pytest

from kedge.metrics.ece import ECE
from kedge.reporting import page as page_module
from kedge.reporting import write_report
from kedge.reporting.page import LADDER, page
from kedge.reporting.svg import GLYPHS
from tests.reporting import synthetic


class Reader(HTMLParser):
    """Collects tags and text, and insists that they nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in {"meta", "img", "br", "wbr"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)


def words(results) -> str:
    return "".join(Reader(page(results)).words)


@pytest.fixture(scope="module", params=["one", "two", "three", "bare", "partial", "old"])
def shown(request) -> tuple[str, Reader]:
    text = page(request.getfixturevalue(request.param))
    return text, Reader(text)


def test_well_formed_small_and_for_phones(shown):
    text, read = shown
    assert read.open == []
    assert len(text.encode()) < 2_000_000
    assert any(tag == "meta" and a.get("name") == "viewport" for tag, a in read.tags)
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    assert not re.search(r"\bNone\b|\bnan\b|Undefined|\binf\b", " ".join(read.words))


def test_needs_no_network_and_runs_nothing(shown):
    _, read = shown
    ids = {a["id"] for _, a in read.tags if "id" in a}
    for tag, attributes in read.tags:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base", "image", "form"}
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in {"src", "href", "xlink:href"}:
                assert value is not None
                if tag == "a":  # a link loads nothing until someone follows it
                    assert value.startswith("https://") or value[1:] in ids
                else:
                    assert value.startswith("data:image/")
    policy = next(a["content"] for tag, a in read.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_loads_nothing_by_style(shown):
    text, _ = shown
    assert "@import" not in text
    assert "url(" not in text


def test_names_are_text(three):
    read = Reader(page(three))
    said = "".join(read.words)
    for name in ("<i>photos</i>", "<script>alert(1)</script>", "{{ 7 * 7 }}", '<script>alert("m")</script>',
                 "<u>grey</u>", "<b>published</b>", "<i>part</i>", '"<img src=x>'):  # fmt: skip
        assert name in said
    assert not any(tag in {"i", "u", "script"} for tag, _ in read.tags)
    assert "javascript:" not in page(three)


def test_every_plot_is_an_image_with_words_and_valid_xml(shown):
    text, read = shown
    plots = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert plots
    for plot in plots:
        ElementTree.fromstring(plot)
        assert "nan" not in plot
        assert "#" not in plot  # colours are the style sheet's
    figures = [a for tag, a in read.tags if tag == "figure" and "role" in a]
    assert len(figures) == len(plots)
    assert all(a["aria-label"] for a in figures)
    assert all(a.get("alt") for tag, a in read.tags if tag == "img")
    regions = [a for _, a in read.tags if a.get("role") == "region"]
    assert all(a["aria-label"] and a["tabindex"] == "0" for a in regions)


def test_columns_of_all_tables_agree(shown):
    text, _ = shown
    for table in re.findall(r"<table.*?</table>", text, flags=re.DOTALL):
        cells = [
            sum(int(n or 1) for n in re.findall(r'<t[hd](?: [^>]*?colspan="(\d+)")?[^>]*>', row))
            for row in re.findall(r"<tr.*?</tr>", table, flags=re.DOTALL)
        ]
        assert len(set(cells)) == 1


def test_says_what_a_newcomer_and_a_rerun_need(three, one, bare):
    said = words(three)
    for needed in ("positive class", "right = more familiar", "FPR95", "AUPR-out", "higher is better",
                   "lower is better", "torch", "kedge evaluate a b --data cifar10", "chosen after the fact", "812 MB",
                   "21 min", "Holm", "Hendrycks and Dietterich", "temperature 1.32", "severity 5"):  # fmt: skip
        assert needed in said, needed
    assert "A quick look: 500 of 10,000 images" in words(one)
    assert "no out-of-distribution set was given" in words(bare)
    without = copy.deepcopy(one) | {"command": None}
    assert "kedge.evaluation.evaluate(" in words(without)


def test_every_attack_table_says_how_it_was_attacked(two):
    said = words(two)
    assert "PGD-20 (ℓ∞ 8/255, 1,000 images)" in said
    assert "Exact binomial intervals" in said


def test_sanity_is_loud_only_when_something_is_wrong(two, three):
    assert "Do not believe these robust accuracies" not in words(two)
    assert "4 of 4 passed" in words(two)
    said = words(three)
    assert "Do not believe these robust accuracies" in said
    assert "5 of 6 passed" in said
    assert "suspicious under attack (gradients are not zero)" in said


def test_unfinished_and_failed_parts_are_marked(partial):
    said = words(partial)
    assert "could not be measured" in said
    assert "failed: out of memory at gaussian noise 3" in said
    assert "the model gives no gradient <b>at all</b>" in said
    assert "failed: logits that are not finite" in said


def test_heat_map_has_every_condition_and_the_worst_is_the_strongest(two):
    text = page(two)
    cells = re.findall(r'<td style="--a:([\d.]+)" title="[^"]*">([\d.]+)</td>', text)
    assert len(cells) == 2 * 2 * 19 * 5  # accuracy and calibration error
    accuracy = [(float(value), float(strength)) for strength, value in cells[: 2 * 19 * 5]]
    assert max(accuracy)[1] == 0.0
    assert min(accuracy)[1] == max(strength for _, strength in accuracy)
    expected = [r["accuracy"]["value"] for m in two["models"].values() for r in m["shift"]["conditions"]]
    assert [value for value, _ in accuracy] == [pytest.approx(100 * v, abs=0.051) for v in expected]


def test_many_models():
    names = [f"model {i} " + "long name " * 10 for i in range(14)]
    text = page(synthetic.results(names, sets={}, corruptions=("contrast",), published=(), attacks=False))
    assert len(text.encode()) < 2_000_000
    Reader(text)


def test_eight_models_with_everything_fit():
    text = page(synthetic.results([f"model {i}" for i in range(8)], groups=True))
    assert len(text.encode()) < 2_000_000
    Reader(text)


def test_a_page_that_would_be_too_large_leaves_things_out_and_says_so(one, monkeypatch):
    sizes = [len(page_module._page(one, level).encode()) for level in range(len(LADDER))]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == len(sizes)
    monkeypatch.setattr(page_module, "LIMIT", sizes[0])
    assert "leaves out the plots of all scores but the first." in words(one)
    monkeypatch.setattr(page_module, "LIMIT", 1)
    assert "all example images, the score histograms and ROC curves and the tables of all scores." in words(one)


def test_a_thumbnail_that_is_no_image_is_not_loaded(one):
    results = copy.deepcopy(one)
    results["models"]["only"]["images"]["most_certain"][0]["thumbnail"] = "https://example.org/spy.png"
    results["strips"][0]["images"][0]["thumbnail"] = "https://example.org/spy.png"
    assert "example.org/spy" not in page(results)


def test_results_are_left_as_they_were(three):
    before = copy.deepcopy(three)
    page(three)
    assert three == before


def test_written_whole_or_not_at_all(one, tmp_path, monkeypatch):
    path = write_report(one, tmp_path / "new" / "report.html")
    before = path.read_text(encoding="utf-8")
    assert before.startswith("<!doctype html>")

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("kedge.files.os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(one, path)
    assert path.read_text(encoding="utf-8") == before
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_thumbnails_hold_any_image():
    import torch

    from kedge.evaluation.figures import thumbnail

    for shape, kind in (((1, 8, 8), "png"), ((3, 200, 100), "jpeg"), ((4, 33, 20), "jpeg"), ((2, 5, 5), "png")):
        assert thumbnail(torch.randint(0, 256, shape, dtype=torch.uint8)).startswith(f"data:image/{kind};base64,")


def test_only_small_p_values_are_marked(two):
    results = copy.deepcopy(two)
    results["comparisons"] = [{**results["comparisons"][0], "p": p, "where": f"place {p}"} for p in (0.9, 0.01)]
    text = page(results)
    for p, mark in ((0.9, False), (0.01, True)):
        row = next(r for r in re.findall(r"<tr>.*?</tr>", text, flags=re.DOTALL) if f"place {p}" in r)
        assert ('class="best"' in row) is mark


def test_published_corrupted_images_are_called_that_with_what_they_lack(two):
    made_here = "The corrupted images were made here"
    assert made_here in page(two)
    results = copy.deepcopy(two)
    results["settings"]["shift_source"] = "CIFAR-10-C"
    results["shift_notes"] = {"CIFAR-10-C": ["1 of the 15 corruptions is lacking here: <b>fog</b>"]}
    text = page(results)
    assert made_here not in text
    assert "generated on the batch" not in text
    assert "1 of the 15 corruptions is lacking here: &lt;b&gt;fog&lt;/b&gt;." in text
    results["shift_notes"] = {"CIFAR-10-C": "one"}
    with pytest.raises(TypeError, match="shift_notes of CIFAR-10-C is a str, not a list"):
        page(results)


def test_no_key_of_a_section_is_a_method_of_dict(three):
    # In a template `entry.copy` would be the method, not the entry.
    from kedge.reporting.formats import upgrade
    from kedge.reporting.sections import attack, calibration, comparing, details, images, ood, run, selective, shift

    def keys(value):
        if isinstance(value, dict):
            yield from value
        for one in value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ():
            yield from keys(one)

    results = upgrade(three)
    results["data"] = {"class_names": []}
    for section in (attack, calibration, comparing, details, images, ood, run, selective, shift):
        assert not {k for k in keys(section.section(results, 0)) if hasattr({}, k)}


def test_the_sign_for_better_stands_for_nothing_else(three):
    text = page(three)
    assert '.best::before { content: "✔\\FE0E  "' in text
    assert "✔ marks" in text.replace("\ufe0e", "")
    assert "✔" not in GLYPHS
    assert "✓" not in text
    assert "◆ marks" not in text


def test_calibration_errors_at_the_end_of_their_intervals_are_explained(two, bare):
    assert words(two).count(ECE.caution) == 2  # under the summary and under the plots
    assert ECE.caution not in words(bare)


def test_groups_stand_under_the_summary(three, two):
    text = page(three)
    places = [text.index(part) for part in ('id="summary"', 'id="seeds"', "What do these words mean?", 'id="shift"')]
    assert places == sorted(places)
    assert text.count("Mean ± standard deviation") == 1
    assert 'id="seeds"' not in page(two)
    only = copy.deepcopy(three) | {"comparisons": []}
    assert 'id="comparing"' not in page(only)
    assert "#comparing" not in page(only)


def test_the_diagram_of_corrupted_images_has_its_own_error(two):
    text = page(two)
    for model in two["models"].values():
        diagram = model["shift"]["reliability"]
        n, confidence, accuracy = (
            np.array([v or 0 for v in diagram[key]]) for key in ("count", "confidence", "accuracy")
        )
        expected = (n * abs(confidence - accuracy)).sum() / n.sum()
        assert f": pooled ECE {100 * expected:.1f} %</figcaption>" in text
        assert f": ECE {100 * model['clean']['ece']['value']:.1f} %</figcaption>" in text
    assert "It is not the mean over the corruptions" in text


def test_wide_tables_say_that_they_scroll():
    names = ["a", "b", "c", "d"]
    more = synthetic.results(names, sets={}, corruptions=(), published=(), attacks=False)
    assert "4 models: scroll the table sideways" in words(more)
    more["models"] = {name: more["models"][name] for name in names[:3]}
    more["comparisons"] = []
    assert "sideways" not in words(more)

import copy
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from kedge.evaluation.examples import thumbnail
from kedge.reporting import page as page_module
from kedge.reporting import write_report
from kedge.reporting.page import page


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
        if tag not in {"meta", "img", "br"}:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture(scope="module", params=["one", "three", "bare"])
def shown(request) -> tuple[str, Reader]:
    text = page(request.getfixturevalue(request.param))
    return text, Reader(text)


def test_well_formed_small_and_for_phones(shown):
    text, read = shown
    assert read.open == []
    assert len(text.encode()) < 2_000_000
    assert any(tag == "meta" and a.get("name") == "viewport" for tag, a in read.tags)
    assert "prefers-color-scheme: dark" in text
    assert not re.search(r"\bNone\b|\bnan\b|Undefined", " ".join(read.words))


def test_needs_no_network_and_runs_nothing(shown):
    _, read = shown
    for tag, attributes in read.tags:
        assert tag not in {"script", "link", "iframe", "object", "embed", "base", "image"}
        for name, value in attributes.items():
            assert not name.startswith("on")
            if name in {"src", "href", "xlink:href"}:
                assert value is not None
                assert value.startswith(("data:image/", "#"))
    policy = next(a["content"] for tag, a in read.tags if a.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert not any("@import" in w or "url(http" in w for w in read.words)


def test_names_are_text(shown):
    _, read = shown
    words = "".join(read.words)
    assert "<i>photos</i>" in words
    assert "<script>alert(1)</script>" in words
    assert "{{ 7 * 7 }}" in words
    assert not any(tag == "i" for tag, _ in read.tags)


def test_control_characters_and_markup_in_model_names(three):
    read = Reader(page(three))
    assert '<script>alert("m")</script>' in "".join(read.words)
    assert "kedge evaluate a b c --data photos" in "".join(read.words)


def test_every_plot_is_an_image_with_words_and_valid_xml(shown):
    text, read = shown
    plots = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert plots
    for plot in plots:
        ElementTree.fromstring(plot)
        assert "#0a0b" not in plot
        assert "var(--ink)" in plot
    figures = [a for tag, a in read.tags if tag == "figure" and "role" in a]
    assert len(figures) == len(plots)
    assert all(a["aria-label"] for a in figures)
    assert all(a.get("alt") for tag, a in read.tags if tag == "img")


def test_says_what_a_newcomer_and_a_rerun_need(three, one, bare):
    words = "".join(Reader(page(three)).words)
    for needed in ("positive class", "right = more familiar", "FPR95", "higher is better", "lower is better", "torch"):
        assert needed in words
    assert "A quick look: 40 of 70 images" in "".join(Reader(page(one)).words)
    assert "kedge.evaluation.evaluate(" in "".join(Reader(page(one)).words)
    assert "no out-of-distribution set was given" in "".join(Reader(page(bare)).words)
    assert "grey to colour" in words.lower()


def test_many_models(make):
    names = [f"model {i} " + "long name " * 10 for i in range(14)]
    text = page(make(names, corruptions=["contrast"], severities=(3,), ood=False))
    assert len(text.encode()) < 2_000_000
    Reader(text)


def test_a_page_that_would_be_too_large_leaves_things_out_and_says_so(one, monkeypatch):
    whole = len(page(one).encode())
    monkeypatch.setattr(page_module, "LIMIT", whole - 1)
    smaller = page(one)
    assert len(smaller.encode()) < whole
    assert "leaves out the plots of single corruptions." in smaller
    monkeypatch.setattr(page_module, "LIMIT", 1)
    assert "the example images and the score histograms" in page(one)


def test_a_thumbnail_that_is_no_image_is_not_loaded(one):
    results = copy.deepcopy(one)
    results["models"]["only"]["images"]["most_certain"][0]["thumbnail"] = "https://example.org/spy.png"
    assert "example.org/spy" not in page(results)


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

    for shape, kind in (((1, 8, 8), "png"), ((3, 200, 100), "jpeg"), ((4, 33, 20), "jpeg"), ((2, 5, 5), "png")):
        assert thumbnail(torch.randint(0, 256, shape, dtype=torch.uint8)).startswith(f"data:image/{kind};base64,")

"""A metric that says what it is stands in the results, the table, the page, the CSV, the comparisons and the help."""

import html
import re
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import nn

from kedge import catalog
from kedge.data import TensorSet
from kedge.evaluation import evaluate
from kedge.metrics import _base
from kedge.reporting import as_csv, table
from kedge.reporting.files import results_text
from kedge.reporting.page import page

PAGE = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()
NEW = next(code for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL) if "class ConfidentShare" in code)


@pytest.fixture
def with_one_more(monkeypatch):
    """The room with one more file, that of the page on metrics."""
    module = types.ModuleType("kedge.metrics.confident_share")
    exec(NEW, vars(module))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    names = catalog.names
    for place in (catalog, _base):
        monkeypatch.setattr(place, "names", lambda room: names(room) + ("confident_share",) * (room == "metrics"))
    _base.metrics.cache_clear()
    yield
    monkeypatch.undo()
    _base.metrics.cache_clear()


class Sees(nn.Module):
    """Logits that know the label as well as the noise lets them."""

    def __init__(self, seed: int, noise: float) -> None:
        super().__init__()
        self.register_buffer("weights", torch.randn(48, 4, generator=torch.Generator().manual_seed(seed)) * noise)

    def forward(self, images):
        return images.flatten(1) @ self.weights + 6 * images.mean((2, 3)) @ torch.eye(4)[:3]


@pytest.fixture
def results():
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (80, 3, 4, 4), generator=generator, dtype=torch.uint8)
    data = TensorSet(pixels, torch.arange(80) % 4, ["cat", "dog", "<b>cow</b>", "hen"], "animals", "test")
    models = {f"{name}{seed}": Sees(seed, noise) for name, noise in (("a", 0.5), ("b", 1.0)) for seed in range(2)}
    groups = {"a": ["a0", "a1"], "b": ["b0", "b1"]}

    def run(**settings):
        quick = {"shift": ["contrast"], "severities": (3,), "resamples": 60, "examples": 0}
        return evaluate(models, data, groups=groups, **quick | settings)

    return run


def test_one_file_is_everywhere(with_one_more, results):
    found = results()
    own = found["models"]["a0"]
    for place in (own["clean"], own["shift"]["mean"], own["shift"]["conditions"][0]):
        assert set(place["confident_share"]) == {"value", "low", "high"}
        assert place["confident_share"]["low"] <= place["confident_share"]["value"]
    assert "confident answers, %" in table(found, 160)
    text = page(found)
    assert text.count("confident answers") >= 3  # each model, clean and corrupted; over seeds
    assert "How many answers are given with more than 60 %." in text
    assert "https://example.org/confidence" in text
    assert found["conventions"]["confident_share"] == "share of answers above 60 %"
    lines = as_csv(found).splitlines()
    assert sum(line.startswith("a0,clean,,,,confident_share,") for line in lines) == 1
    assert sum(",confident_share," in line for line in lines) > 8
    assert {c["where"] for c in found["comparisons"] if c["metric"] == "confident_share"} == {"clean", "corrupted"}
    assert "confident_share, clean" in found["group_table"]["a"]


def test_the_three_of_single_classes_and_undetected_failures_are_everywhere(results):
    found = results()
    text, web, csv = table(found, 200), page(found), as_csv(found)
    for words in ("risk of an undetected failure (AUGRC)", "accuracy of the worst class", "most frequent confusion"):
        assert words in text
        assert words in web
    for key in ("augrc", "accuracy_by_class", "confusion"):
        assert f",{key}," in csv
    assert "Accuracy by class" in web
    assert "<b>cow</b>" not in web  # names of classes are text
    assert web.count('class="heat matrix"') == 4
    assert {"augrc, clean", "accuracy_by_class, clean"} <= set(found["group_table"]["a"])
    assert any(c["metric"] == "augrc" for c in found["comparisons"])
    counts = found["models"]["a0"]["clean"]["confusion"]["counts"]
    assert sum(map(sum, counts)) == 80
    assert re.search(r"a0,clean,cat taken for dog,,,confusion,\d+\.0,,,\n", csv)
    assert '"counts": [\n' in results_text(found) or '"counts": [[' in results_text(found).replace("\n", "")


def test_results_without_them_are_shown_as_before(results):
    found = {**results(resamples=0), "comparisons": [], "group_table": {}}
    for model in found["models"].values():
        for key in ("accuracy_by_class", "confusion"):
            del model["clean"][key]
        del model["selective"]["augrc"]
    assert "worst class" not in table(found, 160)
    assert 'id="details"' not in page(found)
    assert ",augrc," not in as_csv(found)


def test_what_a_metric_says_in_words_is_on_the_page(with_one_more, results, monkeypatch):
    one = next(m for m in _base.metrics() if m.name == "confident_share")
    monkeypatch.setattr(type(one), "caution", "Read it with care.")
    monkeypatch.setattr(type(one), "phrases", {"clean": "is sure of {} %", "shift": "sureness of {} %"})
    monkeypatch.setattr(type(one), "sentence", lambda self, value, names: f"Sure of {value['value']:.4f}.")
    found = results()
    text = html.unescape(page(found)).replace("\N{NO-BREAK SPACE}", " ")
    own = found["models"]["a0"]
    assert "Read it with care." in table(found, 160)
    assert "Read it with care." in text
    assert f"; is sure of {100 * own['clean']['confident_share']['value']:.1f} %" in text
    assert f", with sureness of {100 * own['shift']['mean']['confident_share']['value']:.1f} %" in text
    assert f"Sure of {own['clean']['confident_share']['value']:.4f}." in text


def test_the_page_cites_the_papers_of_the_metrics_that_stand_on_it(results):
    found = results()
    text = html.unescape(page(found))
    urls = {paper["url"] for paper in found["citations"]}
    sources = {one: catalog.info("metrics", one.name) for one in _base.metrics()}
    cited = [one for one, source in sources.items() if source is not None and source.url in urls]
    assert len(cited) > 8
    for one in cited:
        assert sources[one].url in text
        assert one.label in text


def test_every_metric_says_where_it_comes_from_and_what_it_is():
    for one in _base.metrics():
        assert one.label
        assert one.better in ("higher", "lower", None)
        source = catalog.info("metrics", one.name)
        assert source is not None, one.name
        assert catalog.summary("metrics", one.name).endswith("."), one.name
        assert Path(catalog.HOME / "metrics" / f"{one.name}.py").is_file()

"""The page as a browser shows it: opened, folded, filtered, walked by keyboard, on a phone, in the dark, on paper."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from kedge.data import TensorSet
from kedge.evaluation import evaluate
from kedge.reporting import write_report

CLASSES = ("red", "green", "<i>blue</i>", "a class with a name that is much longer than any column is wide")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SHOWN = "els => els.filter(e => e.checkVisibility()).map(e => e.className)"


def colours(count: int = 160) -> TensorSet:
    """Images of a main colour each, from faint to strong; the last class is grey."""
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(count) % len(CLASSES)
    images = torch.randint(60, 160, (count, 3, 40, 40), generator=generator)
    strength = torch.rand(count, generator=generator) * 60
    for i, label in enumerate(labels.tolist()):
        if label < 3:
            images[i, label] += int(strength[i])
    paths = [f"/somewhere/test/{CLASSES[c][:5].strip('<>')}/photo {i}.jpg" for i, c in enumerate(labels.tolist())]
    return TensorSet(images.to(torch.uint8), labels, CLASSES, "colours", "test", paths=paths)


def by_mean(images: torch.Tensor) -> torch.Tensor:
    """Logits: each colour above the mean; a model that is right often, and not always."""
    means = images.mean(dim=(2, 3))
    return torch.cat([30 * (means - means.mean(dim=1, keepdim=True)), images.new_full((len(images), 1), 0.8)], dim=1)


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    models = {"by mean": by_mean, "<b>never blue</b>": lambda x: by_mean(x) - torch.tensor([0, 0, 9.0, 0])}
    both = evaluate(models, colours(), shift=("contrast",), severities=(5,), resamples=50)
    return json.loads(json.dumps(both))


@pytest.fixture(scope="module")
def pages(results, tmp_path_factory) -> dict[str, Path]:
    """The page of one model, and that of two."""
    folder = tmp_path_factory.mktemp("pages")
    only = {**results, "models": {"by mean": results["models"]["by mean"]}, "comparisons": []}
    return {
        "one": write_report(only, folder / "one.html"),
        "two": write_report(results, folder / "two.html"),
    }


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium on this machine")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


@pytest.fixture
def show(browser, pages):
    """Opens a page in a window, and insists that nothing was complained of and nothing was asked of a network."""
    opened, said = [], []

    def open_page(name: str = "one", width: int = 1280, **settings: Any):
        page = browser.new_page(viewport={"width": width, "height": 900}, **settings)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: opened.append(request.url))
        page.goto(pages[name].as_uri())
        return page

    yield open_page
    assert said == []
    assert all(url.startswith(("file:", "data:")) for url in opened)
    for context in browser.contexts:
        context.close()


@pytest.mark.parametrize("name", ["one", "two"])
def test_opens_and_shows_its_images(show, name):
    page = show(name)
    assert page.title()
    broken = "els => els.filter(e => !e.complete || !e.naturalWidth || !e.alt).length"
    assert page.locator("img").count() > 20
    assert page.eval_on_selector_all("img", broken) == 0
    assert page.locator("script").count() == 0


def test_the_first_screen_holds_the_verdict(show):
    page = show()
    box = page.locator(".decision").bounding_box()
    assert box["y"] + box["height"] < 900
    words = page.locator(".decision").inner_text().replace("\N{NO-BREAK SPACE}", " ")
    for part in ("% of images; the rest go to a person", "95 % interval", "Worst class", "Worst confusion",
                 "contrast, severity 5", "Always answering"):  # fmt: skip
        assert part in words


def test_folds_and_unfolds_by_mouse_and_by_key(show):
    page = show()
    fold = page.locator("details", has=page.locator("summary", has_text="Every number, with its interval")).last
    table = fold.locator("table").first
    assert not table.is_visible()
    fold.locator("summary").first.click()
    assert table.is_visible()
    fold.locator("summary").first.press("Enter")
    assert not table.is_visible()


@pytest.mark.parametrize("name", ["one", pytest.param("two", marks=pytest.mark.slow)])
def test_a_cell_shows_its_images_and_no_others(show, results, name):
    page = show(name)
    model = list(results["models"].values())[-1 if name == "two" else 0]
    number = 1 if name == "two" else 0
    counts = model["clean"]["confusion"]["counts"]
    for label, answer in ((0, 3), (2, 3), (1, 1)):
        assert counts[label][answer] > 0
        cell = page.locator(f'td a[href="#m{number}t{label}p{answer}"]')
        assert cell.inner_text() == str(counts[label][answer])
        cell.click()
        mark = page.locator(f"#m{number}t{label}p{answer}")
        assert mark.is_visible()
        shown = page.eval_on_selector_all(f"#photos-{number} figure", SHOWN)
        assert set(shown) == {f"t{label} p{answer}"}
        said = mark.inner_text()
        assert f"{counts[label][answer]} image" in said
        assert ("all shown" if len(shown) == counts[label][answer] else f"{len(shown)} shown") in said
        mark.locator("a").click()
        assert not mark.is_visible()
        assert len(page.eval_on_selector_all(f"#photos-{number} .kind[open] figure", SHOWN)) >= 8


def test_a_class_is_chosen_from_the_list(show):
    page = show()
    names = page.locator("#photos-0 select option").all_inner_texts()
    assert len(names) == 1 + len(CLASSES)
    page.select_option("#photos-0 select", "2")
    shown = page.eval_on_selector_all("#photos-0 figure", SHOWN)
    assert {classes.split()[0] for classes in shown} == {"t2"}
    assert names[3] == f"<i>blue</i> ({len(shown)} shown)"
    assert {"t2 p2", "t2 p3"} <= set(shown)  # right answers and mistakes alike
    page.locator("#photos-0 select").focus()
    page.keyboard.type("gre")  # a list is searched by typing
    shown = page.eval_on_selector_all("#photos-0 figure", SHOWN)
    assert {classes.split()[0] for classes in shown} == {"t1"}


def test_every_control_is_reached_by_tab_in_the_order_of_the_page(show):
    page = show()
    controls = 'a[href], summary, select, [tabindex="0"]'
    page.eval_on_selector_all(controls, "els => els.forEach((e, i) => e.dataset.n = i)")
    wanted = page.eval_on_selector_all(
        "[data-n]", "els => els.filter(e => e.checkVisibility()).map(e => Number(e.dataset.n))"
    )
    reached = []
    for _ in wanted:
        page.keyboard.press("Tab")
        reached.append(page.evaluate("Number(document.activeElement.dataset.n)"))
    assert reached == wanted
    outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline != "none"
    assert any("href" in tag for tag in page.eval_on_selector_all("td [data-n]", "els => els.map(e => e.outerHTML)"))


@pytest.mark.parametrize("name", ["one", "two"])
@pytest.mark.parametrize("width", [375, pytest.param(320, marks=pytest.mark.slow)])
def test_a_phone_does_not_scroll_sideways(show, name, width):
    page = show(name, width)
    for fold in ("", "document.querySelectorAll('details').forEach(e => e.open = true)"):
        page.evaluate(fold)
        assert page.evaluate("document.documentElement.scrollWidth") == width


def test_dark_and_light_differ_and_both_can_be_read(show):
    papers = []
    for scheme in ("light", "dark"):
        page = show(color_scheme=scheme)
        style = "getComputedStyle(document.body)"
        ink, paper = (page.evaluate(f"{style}.{key}") for key in ("color", "backgroundColor"))
        papers.append(paper)
        assert _contrast(ink, paper) >= 7
    assert papers[0] != papers[1]


def test_on_paper_nothing_is_folded(show, tmp_path):
    page = show("two")
    assert page.locator("details:not([open])").count() > 3
    page.emulate_media(media="print")
    hidden = page.eval_on_selector_all(
        "details > *:not(style, .mark, .pick)",
        "els => els.filter(e => !e.checkVisibility({contentVisibilityAuto: true})).map(e => e.outerHTML.slice(0, 80))",
    )
    assert hidden == []
    assert len(page.pdf(path=tmp_path / "page.pdf")) > 20_000


def _contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours written rgb(r, g, b), as WCAG 2 defines it."""
    light = []
    for colour in (one, other):
        parts = [int(part) / 255 for part in colour.partition("(")[2].rstrip(")").split(",")[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        light.append(0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2])
    return (max(light) + 0.05) / (min(light) + 0.05)

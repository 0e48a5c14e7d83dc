"""`kedge compare`: folders and names, what is printed and written, and what is refused in words."""

import csv
import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

import kedge
from kedge.cli.image_words import Word
from kedge.data.corruptions import corrupt

QUICK = ["--corruptions", "fog", "contrast", "--severities", "1,5", "--profile_images", "40"]


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """Two folders of digits, of which the second is in fog; in other sizes, as a second camera might give them."""
    monkeypatch.chdir(tmp_path)
    images = kedge.data.load("digits", "train")
    images = images.images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))] / 255
    for name, part in (("may", images[:90]), ("june", corrupt(images[90:150], "fog", 5))):
        (tmp_path / name / "deep").mkdir(parents=True)
        for i, image in enumerate(part):
            picture = Image.fromarray((image[0] * 255).round().byte().numpy())
            picture = picture.resize((16, 16)) if name == "june" else picture
            picture.save(tmp_path / name / ("deep" if i % 2 else ".") / f"{i}.png")
    return tmp_path


def test_two_folders(command, folders, run_folder):
    code, out, err = command("compare", "may", "june", "--model", run_folder, *QUICK)
    assert code == 0
    assert out.startswith("june (60 images) against may (90 images): the new images look different (p = 0.001;")
    assert "they look most like fog of severity" in out
    assert "expected accuracy about" in out
    assert "the files are others too, which may be all that changed: height 8 -> 16, width 8 -> 16 (means)" in out
    assert "next: label some of june" in err
    written = run_folder / "compare"
    results = json.loads((written / "drift.json").read_text())
    assert results["drift"] == {"p": results["drift"]["p"], "changed": True, "looks_like": "fog"}
    assert results["command"].startswith("kedge compare may june --model")
    assert results["files"]["formats"] == [{"PNG": 1.0}, {"PNG": 1.0}]
    rows = list(csv.DictReader((written / "images.csv").open()))
    assert len(rows) == 60
    assert {row["image"].rpartition("/")[0] for row in rows} == {"june", "june/deep"}
    distances = [float(row["distance"]) for row in rows]
    assert distances == sorted(distances, reverse=True)
    numbers = {(row["part"], row["name"]): row for row in csv.DictReader((written / "drift.csv").open())}
    assert float(numbers["image", "contrast"]["p"]) < 0.01
    assert numbers["drift", "any change"]["note"] == "fog"
    page = (written / "drift.html").read_text()
    assert page.count("<img ") == 24 + 8
    assert not re.search(r"<script|https?://(?!arxiv)[^\s<]*\.(js|css|png)", page)
    assert command("compare", "may", "june", "--model", run_folder, *QUICK)[0] == 0
    assert (run_folder / "compare-2" / "drift.json").is_file()  # numbered, nothing is lost


def test_names_of_data_with_a_part_and_a_corruption(command, folders, model_folder):
    words = ["--model", model_folder, "--out", "told", "--limit", "150", *QUICK]
    code, out, err = command("compare", "digits:train", "digits:test@contrast:5", *words)
    assert code == 0
    assert "they look most like contrast" in out
    assert "no expected accuracy: digit-model belongs to no run" in out
    code, out, err = command("compare", "digits:train", "digits:train@fog:5", *words)
    assert code == 0
    assert "are the same images: a random half for each" in err
    assert "they look most like fog" in out
    for same in (("digits:test", "digits@fog:5"), ("may", Path("may") / ".." / "may@fog:5")):
        assert "are the same images: a random half for each" in command("compare", *same, *words)[2]
    code, out, err = command("compare", "digits:train", "june", *words, "--validation", "digits")
    assert "expected accuracy about" in out


def test_like_images_and_none_asked_about(command, folders, run_folder):
    for i, path in enumerate(sorted((folders / "may").rglob("*.png"))):
        if i % 3 == 0:
            (folders / "april").mkdir(exist_ok=True)
            path.rename(folders / "april" / path.name)
    code, out, _ = command("compare", "may", "april", "--model", run_folder, "--corruptions", "none")
    assert code == 0
    assert out.startswith("april (30 images) against may (60 images): no drift seen")
    assert (
        "corruption" not in (run_folder / "compare" / "drift.html").read_text().partition("<body>")[2].split("<pre>")[0]
    )


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (["may", "may"], "all 90 images of may are also in may"),
        (["may", "digits@fogg"], "did you mean fog"),
        (["may", "digits@fog:9"], "severity must be 1, 2, 3, 4 or 5, got 9"),
        (["may", "digits@fog:x"], "a severity is 1 to 5, got 'x'"),
        (["may", "one"], "has 1 image to compare, and 20 are the fewest"),
        (["may", "empty"], "empty"),
        (["may", "nowhere"], "nowhere"),
        (["may", "digits:nope"], "digits:nope"),
        (["may", "broken"], "broken has 15 images to compare, and 20 are the fewest"),
        (["may", "june", "--alpha", "1"], "between 0 and 1"),
        (["may", "june", "--validation", "nowhere"], "nowhere"),
    ],
)
def test_what_cannot_be_compared_is_said(folders, run_folder, words, what, capsys):
    from kedge.cli import main

    (folders / "empty").mkdir()
    (folders / "one").mkdir()
    (folders / "one" / "1.png").write_bytes((folders / "june" / "0.png").read_bytes())
    (folders / "broken").mkdir()
    for i, path in enumerate(sorted((folders / "june").rglob("*.png"))[:30]):
        (folders / "broken" / path.name).write_bytes(path.read_bytes() if i % 2 else path.read_bytes()[:40])
    assert main(["compare", *words, "--model", str(run_folder), *QUICK]) == 1
    assert what in capsys.readouterr().err
    assert not (run_folder / "compare").exists()


@pytest.mark.parametrize(
    ("flag", "value", "what"),
    [("--severities", "0", "severities are 1 to 5, got 0"), ("--limit", "0", "--limit must be 1 or more, got 0")],
)
def test_numbers_are_refused_before_anything_is_read(flag, value, what, capsys, monkeypatch):
    """A model and images take minutes."""
    from kedge.cli import main

    monkeypatch.setattr("kedge.cli.resolve_model.Source.load", lambda *_: pytest.fail("the model was loaded"))
    assert main(["compare", "no-photos", "none-either", "--model", "os:getcwd", flag, value]) == 1
    assert what in capsys.readouterr().err


def test_the_model_is_needed(folders, capsys):
    from kedge.cli import main

    assert main(["compare", "may", "june"]) == 1
    assert "--model MODEL is missing" in capsys.readouterr().err


def test_words(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert Word.of("digits") == Word("digits", "digits")
    assert Word.of("digits@fog") == Word("digits@fog", "digits", None, "fog", 3)
    assert Word.of("digits:val@fog:5") == Word("digits:val@fog:5", "digits", "val", "fog", 5)
    (tmp_path / "digits@fog:5").mkdir()
    assert Word.of("digits@fog:5").corruption is None  # a path that exists is a path


@pytest.mark.slow
def test_an_exported_file(command, folders, model_folder):
    pytest.importorskip("onnxscript")
    assert command("export", model_folder, "--out", "digits.onnx")[0] == 0
    code, out, err = command("compare", "may", "june", "--model", "digits.onnx", *QUICK)
    assert code == 0
    assert "they look most like fog" in out
    assert "the model gives no features" in err
    assert "no expected accuracy" in out

"""kedge audit: folders of all kinds, faults that were planted, and what it refuses, in words."""

import csv
import html
import re

import numpy as np
import pytest
from PIL import Image

from kedge.auditing import audit, gather, whole
from kedge.auditing.page import as_csv, page
from kedge.data import DataError, load
from kedge.files import write_text
from kedge.training.record import ImageRecord

WRONG = (6, 21, 33)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(whole, "STEPS", 160)


def digit(i, split="train"):
    images = load("digits", split)
    return Image.fromarray(images[i][0][0].numpy()), str(int(images.labels[i]))


def write(folder, count=160, parts=("train", "test")):
    """Digits in folders, and the paths of three wrong labels, a copy across the parts and its original."""
    paths = {}
    for i in range(count):
        image, label = digit(i)
        part = parts[0] if i % 4 else parts[-1]
        label = str((int(label) + 5) % 10) if i in WRONG else label
        path = folder / part / label / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path)
        paths[i] = path
    original = paths[9]
    copy = folder / parts[-1] / original.parent.name / "copy.jpg"
    copy.parent.mkdir(parents=True, exist_ok=True)
    Image.open(original).save(copy, quality=70)
    return [str(paths[i]) for i in WRONG], copy, original


def rows_of(text):
    return list(csv.DictReader(text.splitlines()))


@pytest.mark.slow
def test_planted_faults_by_the_command(command, tmp_path):
    wrong, copy, original = write(tmp_path / "photos", 220)
    code, out, err = command("audit", tmp_path / "photos", "--learning_curve", "--out", tmp_path / "out")
    assert (code, err) == (0, "")
    rows = rows_of((tmp_path / "out" / "audit.csv").read_text())
    assert list(rows[0]) == ["file", "part", "label", "finding", "score", "partner file", "words"]
    across = [row for row in rows if row["finding"] == "copy across the split"]
    assert [(row["file"], row["partner file"], row["part"]) for row in across] == [(str(copy), str(original), "test")]
    doubtful = [row for row in rows if row["finding"] == "wrong label"]
    right = {row["file"]: row["words"] for row in doubtful}
    named = {i: right[path] for i, path in zip(WRONG, wrong, strict=True) if path in right}
    assert len(named) >= 2
    assert all(words == f"rather {digit(i)[1]}" for i, words in named.items())
    assert all(words in out for words in ("copy across the split", "would more photos help?", "(expected)"))
    text = (tmp_path / "out" / "audit.html").read_text()
    assert "Would more photos help?" in text
    assert not re.search(r"(src|href)=\"(?!data:image/|#)", text)  # it loads nothing
    assert f"kedge audit {tmp_path / 'photos'} --learning_curve" in html.unescape(text)


@pytest.mark.slow
def test_the_same_again_is_the_same(tmp_path):
    write(tmp_path, 60)
    first, again = (as_csv(audit(str(tmp_path))) for _ in range(2))
    assert first == again


@pytest.mark.slow
def test_further_folders_are_further_parts(tmp_path):
    write(tmp_path, 120, parts=("mine", "yours"))
    pool = gather(str(tmp_path / "mine"), test=str(tmp_path / "yours"))
    assert set(pool.splits) == {"all", "test"}
    result = audit(str(tmp_path / "mine"), test=str(tmp_path / "yours"))
    assert result.count("copy across the split") == 1
    write(tmp_path / "whole", 120)
    with pytest.raises(DataError, match="a part 'test' of its own: leave out --test"):
        gather(str(tmp_path / "whole"), test=str(tmp_path / "yours"))
    (tmp_path / "yours" / "cow").mkdir()
    digit(0)[0].save(tmp_path / "yours" / "cow" / "1.png")
    with pytest.raises(DataError, match="'test' has classes that 'all' lacks: cow"):
        gather(str(tmp_path / "mine"), test=str(tmp_path / "yours"))


@pytest.mark.slow
def test_features_of_a_run(command, run_folder, tmp_path):
    write(tmp_path / "photos", 60)
    code, out, _ = command("audit", tmp_path / "photos", "--run", run_folder, "--out", tmp_path / "out")
    assert code == 0
    assert "labels judged by the network" in out
    assert "careful: these features tell the classes of only" in out  # it was never trained


@pytest.mark.slow
def test_a_run_that_knows_these_labels_is_said(command, run_folder, tmp_path):
    ImageRecord.of(load("digits", "train"), load("digits", "val")).write(run_folder)
    code, out, _ = command("audit", "digits", "--run", run_folder, "--out", tmp_path / "out")
    assert code == 0
    words = "was trained on 1,259 of these images"
    assert words in out
    assert words in html.unescape((tmp_path / "out" / "audit.html").read_text())


def test_an_earlier_audit_is_not_written_over(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in ("mine", "yours"):
        noise(tmp_path / place / "photos" / "1.png", 1)
        code, out, _ = command("audit", tmp_path / place / "photos")
        assert code == 0
    assert str(tmp_path / "mine") in (tmp_path / "runs" / "audit-photos" / "audit.html").read_text()
    assert "audit-photos-2" in out
    assert str(tmp_path / "yours") in (tmp_path / "runs" / "audit-photos-2" / "audit.html").read_text()
    assert "photos: 1 image\n" in out  # of one part, and without classes, nothing is said of them
    assert out.count("no class folders") + out.count("without class folders") == 1


def test_a_model_without_features_is_refused_in_words(tmp_path):
    write(tmp_path, 40)
    with pytest.raises(ValueError, match=r"mine\.onnx gives no features of images"):
        audit(str(tmp_path), model=lambda images: images, model_name="mine.onnx")


def test_a_set_by_its_name():
    pool = gather("digits")
    assert (len(pool), sorted(set(pool.splits))) == (1797, ["test", "train", "val"])
    assert pool.file(0) == "digits:train:0"


@pytest.mark.slow
def test_unreadable_images_are_named_however_many(tmp_path):
    folder = write(tmp_path, 100)[2].parent
    for i in range(5):
        (folder / f"bad{i}.png").write_bytes(b"\x89PNG not really")
    result = audit(str(tmp_path))
    bad = [finding for finding in result.findings if finding.kind == "unreadable"]
    assert sorted(f.file for f in bad) == [str(folder / f"bad{i}.png") for i in range(5)]
    assert all(f.words for f in bad)
    assert "bad3.png" in page(result)
    for path in [*tmp_path.rglob("*.png"), *tmp_path.rglob("*.jpg")]:
        write_text(path, "nothing")
    with pytest.raises(ValueError, match="none of the 106 images"):
        audit(str(tmp_path))


def noise(path, seed):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (12, 12), dtype=np.uint8)).save(path)


@pytest.mark.parametrize(
    ("files", "words"),
    [
        ([f"only/{i}.png" for i in range(20)], "all images are of one class, 'only'"),
        ([f"c{i:02}/{i}.png" for i in range(20)], "each class has a single image"),
        ([f"{'ab'[i % 2]}/{i}.png" for i in range(6)], "there are 7 images, 6 different ones: too few"),
        ([f"{i}.png" for i in range(20)], "no class folders"),
        ([f"nested/deep/a/{i}.png" for i in range(20)], "all images are of one class, 'nested'"),
    ],
)
def test_where_labels_say_nothing_the_pictures_are_looked_at(files, words, tmp_path):
    for i, name in enumerate(files):
        noise(tmp_path / name, i)
    first = tmp_path / files[0]
    (first.parent / "again.png").write_bytes(first.read_bytes())
    result = audit(str(tmp_path))
    assert any(words in note for note in result.notes), result.notes
    assert result.count("copy") == 1
    assert result.accuracy is None
    assert words in html.unescape(page(result))
    with pytest.raises(ValueError, match="there is no learning curve"):
        audit(str(tmp_path), curve=True)


def test_all_images_the_same(tmp_path):
    for i in range(20):
        noise(tmp_path / "ab"[i % 2] / f"{i}.png", 0)
    result = audit(str(tmp_path))
    assert any("20 images, 1 different ones" in note for note in result.notes)
    assert result.count("copy") + result.count("copy with another label") == 19


def test_a_curve_needs_eight_images_of_a_class(tmp_path):
    for i in range(40):
        noise(tmp_path / ("a" if i % 4 else "b") / f"{i}.png", i)
    for i in range(12):
        noise(tmp_path / "c" / f"{i}.png", 100 + i)
    for i in range(5):
        noise(tmp_path / "d" / f"{i}.png", 200 + i)
    with pytest.raises(ValueError, match="fewer than 8 training images"):
        audit(str(tmp_path), curve=True)


def test_names_cannot_forge_the_page(tmp_path):
    for i in range(30):
        noise(tmp_path / ("<b>x" if i % 2 else "y") / f"{i}.png", i)
    noise(tmp_path / "y" / "<script>.png", 0)
    noise(tmp_path / "=1+1" / "a.png", 0)
    result = audit(str(tmp_path))
    assert all(row["label"] != "=1+1" for row in rows_of(as_csv(result)))
    text = page(result)
    assert "<script>" not in text
    assert "<b>x" not in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--hard", "2"], "--hard is a share"),
        (["--weights", "w.safetensors"], "name it with --run"),
        (["--val", "digits"], "a part 'val' of its own"),
    ],
)
def test_mistakes(command, words, message):
    with pytest.raises(ValueError, match=message):
        command("audit", "digits", *words)

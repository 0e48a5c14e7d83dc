"""Which images a run trained on and held out, when the folder of photos changes after training."""

import json
import shutil

import pytest
import torch
from tests.photo_folder import CHANGES, class_renamed, contents, write_photo, write_photos

from kedge import data
from kedge.training import Recipe, fit
from kedge.training.held_out import RunImages
from kedge.training.images import load_sets
from kedge.training.record import FILE, ImageRecord

pytestmark = pytest.mark.usefixtures("no_report")
SMALL = {"arguments": {"width": 4}, "epochs": 1, "batch_size": 64, "device": "cpu", "anchored": False}


def sources(images):
    """The bytes of the files that images come from."""
    return {open(path, "rb").read() for path in images.paths}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(a folder with photos/ and a run on them, the bytes trained on, the bytes held out)."""

    home = tmp_path_factory.mktemp("home")
    write_photos(home / "photos")
    recipe = Recipe(data=str(home / "photos"), name="run", runs=str(home), **SMALL)
    parts = load_sets(recipe)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kedge.run_page.write_run_report", lambda *arguments: None)
        facts = json.loads((fit(recipe, progress=False).folder / "run.json").read_text())
    assert [facts["data"]["train"], facts["data"]["val"]] == [len(part) for part in parts]
    assert 20 < len(parts[1]) < 42
    return home, *map(sources, parts)


@pytest.fixture
def home(trained, tmp_path):
    """A copy of the folder and the run, whose recipe names the copy; what was trained on; what was held out."""
    shutil.copytree(trained[0], tmp_path / "home")
    recipe = tmp_path / "home" / "run" / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace(str(trained[0]), str(tmp_path / "home")))
    return tmp_path / "home", *trained[1:]


@pytest.mark.parametrize("change", CHANGES)
def test_no_image_that_was_trained_on_is_called_held_out(home, change):
    place, trained, held = home
    CHANGES[change](place / "photos")
    images = RunImages(place / "run")
    now = contents(place / "photos")
    assert sources(images.val) == held & now
    assert sources(images.train) == trained & now
    assert (images.val.split, images.train.split) == ("val", "train")
    said = {
        "added": "1 neither trained on nor held out, and left out",
        "class_renamed": "of them in another class now",
    }.get(change)
    assert said in images.left_out if said else "neither" not in images.left_out or change == "damaged"
    assert len(images.val) - len(held) == (-1 if "gone" in images.left_out else 0)


def test_a_run_on_a_folder_that_grew_moves_nobody(home):
    place, trained, held = home
    write_photos(place / "photos", ("bee", "dog"), each=40, seed=7)
    train, val = load_sets(Recipe(data=str(place / "photos")))
    assert not sources(train) & held
    assert not sources(val) & trained


def test_too_few_that_are_left_are_refused_in_words(home):
    place, _, held = home
    gone = sorted(path for path in (place / "photos").rglob("*.png") if path.read_bytes() in held)[len(held) // 3 :]
    for path in gone:
        path.unlink()
    words = (
        rf"of the {len(held)} images that run held out of training {len(held) - len(gone)} are left in .*"
        rf"{len(gone)} of the held-out images gone or changed.*too few to measure on"
    )
    with pytest.raises(ValueError, match=words):
        RunImages(place / "run").val  # noqa: B018


def test_a_run_from_a_run_holds_out_what_that_held_out(home):
    """Also where the folder changed, has another name, or the seed is another; and over two generations."""
    place, trained, held = home
    class_renamed(place / "photos")
    (place / "photos" / "zebra").rename(place / "photos" / "ant")
    write_photos(place / "photos", each=50, seed=3)  # over half of the old ones, under their names
    shutil.move(place / "photos", place / "moved")
    now = contents(place / "moved")
    fields = {**SMALL, "arguments": {}, "data": str(place / "moved"), "runs": str(place), "anchored": None}
    next_run = Recipe(name="next", init_from=str(place / "run"), seed=5, **fields)
    val = load_sets(next_run)[1]
    assert held & now <= sources(val)
    assert not sources(val) & trained
    assert 5 < len(sources(val) - held) < 40  # of the new ones about a tenth
    fit(next_run, progress=False)
    # Photos come back that the first run trained on and the second did not meet.
    shutil.rmtree(place / "moved")
    write_photos(place / "moved")
    assert contents(place / "moved") == trained | held
    third = Recipe(name="third", init_from=str(place / "next"), seed=6, **fields)
    assert not sources(load_sets(third)[1]) & trained
    assert sources(RunImages(place / "next").val) == held & now


# Resuming


@pytest.fixture
def broken_off(home):
    """A run that was broken off before its first epoch ended."""
    place, *parts = home
    facts = json.loads((place / "run" / "run.json").read_text())
    for key in ("finished", "validation", "reject", "steps"):
        facts.pop(key)
    (place / "run" / "run.json").write_text(json.dumps(facts))
    (place / "run" / "last.ckpt").unlink()
    shutil.copytree(place / "run" / "model", place / "before")
    shutil.rmtree(place / "run" / "model")
    return place, *parts


def test_a_rename_changes_nothing_when_a_run_goes_on(broken_off):
    place, *_ = broken_off
    CHANGES["renamed"](place / "photos")
    (place / "photos" / "bee" / "m050.png").rename(place / "photos" / "bee" / "a.png")
    fit(resume=place / "run", progress=False)
    assert (place / "run/model/model.safetensors").read_bytes() == (place / "before/model.safetensors").read_bytes()


def test_a_run_on_the_first_images_only_goes_on_where_there_are_more(home):
    place, *_ = home
    fields = {**SMALL, "data": str(place / "photos"), "runs": str(place), "train_images": 250, "name": "first"}
    sets = load_sets(Recipe(**fields))
    record = ImageRecord.of(*sets)
    arranged = record.arranged(data.load(place / "photos", "train"), None, some=True)
    assert [part.keys() for part in arranged] == [part.keys() for part in sets]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("added", "of 300 images 1 new"),
        ("deleted", "of 300 images 1 gone or changed"),
        ("damaged", "of 300 images 1 gone or changed"),
        ("swapped", "of 300 images 200 in another class"),
        ("class_renamed", "in another class|the data changed"),
    ],
)
def test_changed_data_is_refused_when_a_run_goes_on(broken_off, change, words):
    place, *_ = broken_off
    photos = place / "photos"
    if change == "swapped":
        (photos / "ant").rename(place / "x")
        (photos / "bee").rename(photos / "ant")
        (place / "x").rename(photos / "bee")
    else:
        CHANGES[change](photos)
    with pytest.raises(ValueError, match=f"the data changed since the run began: {words}"):
        fit(resume=place / "run", progress=False)


def test_sets_from_python_go_on_in_their_order_or_not_at_all(tiny, tmp_path):
    every = data.load("digits", "train").only_classes(["0", "1"]).subset(range(120))
    sets = data.split_validation(every, 0.3)
    result = fit(tiny(classes=None, epochs=1), sets=sets, progress=False)
    record = ImageRecord.read(result.folder)
    assert (record.trained, record.held) == (sets[0].keys(), sets[1].keys())
    turned = torch.arange(len(sets[0]) - 1, -1, -1)
    again = record.arranged(sets[0].subset(turned), sets[1])
    assert torch.equal(again[0].images, sets[0].images)
    with pytest.raises(ValueError, match=r"the data changed since the run began: of .* 1 gone or changed"):
        record.arranged(sets[0].subset(range(1, len(sets[0]))), sets[1])


# Runs without a record


@pytest.mark.parametrize(("facts", "words"), [({}, "kept no record"), ({"record": FILE}, f"has lost {FILE}.*put it")])
def test_of_a_run_without_a_record_nothing_is_called_held_out(home, facts, words):
    place, *_ = home
    (place / "run" / FILE).unlink()
    stored = json.loads((place / "run" / "run.json").read_text())
    del stored["record"]
    (place / "run" / "run.json").write_text(json.dumps({**stored, **facts}))
    images = RunImages(place / "run")
    for part in ("train", "val"):
        with pytest.raises(ValueError, match=f"run .*{words}.*name other labelled images"):
            getattr(images, part)
    with pytest.raises(ValueError, match=words):
        load_sets(Recipe(data=str(place / "photos"), init_from=str(place / "run")))


# Data with a part val, and what is said before the first epoch


def parts_of(root, val_seed=1):
    write_photos(root / "train", each=30)
    write_photos(root / "val", each=6, seed=val_seed)
    write_photos(root / "test", each=5, seed=2)
    return root


def test_validation_images_that_are_training_images_are_left_out(tmp_path, tiny, capsys):
    root = parts_of(tmp_path / "photos")
    for i in range(4):
        shutil.copy(root / "train" / "bee" / f"m00{i}.png", root / "val" / "bee" / f"x{i}.png")
    result = fit(tiny(data=str(root), classes=None, epochs=1, **{"anchored": False}))
    assert "4 of the 22 images of the part val are training images too, and left out" in capsys.readouterr().out
    assert result.images == 18
    write_photo(root / "val" / "bee" / "new.png", 12345)
    shutil.copy(root / "train" / "bee" / "m009.png", root / "val" / "ant" / "y.png")
    images = RunImages(result.folder)
    assert len(images.val) == 19
    assert images.left_out == "5 of 24 left out, as it was trained on them"
    same = tmp_path / "same"
    shutil.copytree(root / "train", same / "train")
    shutil.copytree(root / "train", same / "val")
    with pytest.raises(ValueError, match=r"90 of the 90 images of same \(val\) are training images of this run"):
        load_sets(Recipe(data=str(same)))


def test_test_images_that_are_training_images_are_said(tmp_path, tiny, capsys):
    root = parts_of(tmp_path / "photos")
    for i in range(3):
        shutil.copy(root / "train" / "cow" / f"m00{i}.png", root / "test" / "cow" / f"x{i}.png")
    fit(tiny(data=str(root), classes=None, epochs=1, name="a", anchored=False))
    assert "careful: 3 of the 18 test images of photos are training images, bit for bit" in capsys.readouterr().out
    shutil.rmtree(root / "test")
    shutil.copytree(root / "train", root / "test")
    fit(tiny(data=str(root), classes=None, epochs=1, name="b", anchored=False))
    assert "careful: all the 90 test images of photos are training images" in capsys.readouterr().out


def test_sets_from_python_that_share_images_are_said(tiny, capsys):
    every = data.load("digits", "train").only_classes(["0", "1"]).subset(range(120))
    fit(tiny(classes=None, epochs=1), sets=(every, every.subset(range(40))))
    assert "careful: 40 of the 40 validation images are training images, bit for bit" in capsys.readouterr().out


def test_an_image_in_two_classes_is_said(tmp_path, tiny, capsys):
    root = write_photos(tmp_path / "photos", each=40)
    shutil.copy(root / "ant" / "m000.png", root / "bee" / "same.png")
    fit(tiny(data=str(root), classes=None, epochs=1, anchored=False))
    out = capsys.readouterr().out
    assert "careful: 1 image is in several classes, the same bit for bit" in out
    assert f"{root}/ant/m000.png and {root}/bee/same.png" in out


def test_few_validation_images_are_said_before_and_after(tmp_path, tiny, capsys):
    """Thirteen, one of them of its class: Wilson's interval of 10 of 13, as R's binom gives it, is 0.497 to 0.918."""
    from kedge.cli.flags import call

    root = tmp_path / "photos"
    for name, counts in (("ant", (30, 6)), ("bee", (30, 6)), ("cow", (30, 1))):
        for part, count in zip(("train", "val"), counts, strict=True):
            for i in range(count):
                write_photo(root / part / name / f"{i}.png", hash((name, part, i)) % 2**31)
    fit_recipe = ["--data", root, "--name", "few", "--runs", tmp_path, "--epochs", 1, "--device", "cpu"]
    fit_recipe += ["--anchored", "false", "--coverage", "0.05", "--arguments", "{width: 4}"]
    call("train", [str(word) for word in fit_recipe])
    out = capsys.readouterr().out
    assert (
        "13 validation images tell little: where 10 of them are right, the accuracy may be anything from 50 to 92 %"
        in out
    )
    assert "too few of single classes to judge these by (cow 1). A larger val part of the data tells more" in out
    assert " % of 13 images (95 % interval " in out
    # One image alone: of one right answer the interval begins at 20.7 %.
    assert (
        "1 of the 13 images, 100.0 % of them right (95 % interval 20.7 to 100.0 %)" in out
        or "1 of the 13 images, 0.0" in out
    )


def test_photos_are_told_by_their_files(tmp_path):
    """Above 64 pixels keys are of the encoded bytes: whatever size they are read in, and without any training here."""
    from PIL import Image

    generator = torch.Generator().manual_seed(0)
    for i in range(80):
        path = tmp_path / "photos" / ("ant", "bee")[i % 2] / f"m{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = torch.randint(0, 256, (70, 70, 3), dtype=torch.uint8, generator=generator)
        Image.fromarray(noise.numpy()).save(path)
    recipe = Recipe(data=str(tmp_path / "photos"), val_fraction=0.3, image_size=70)
    train, val = load_sets(recipe)
    trained, held = sources(train), sources(val)
    run = tmp_path / "run"
    ImageRecord.of(train, val).write(run)
    (run / "recipe.yaml").write_text(recipe.to_yaml())
    assert (run / FILE).stat().st_size < 20 * 80 + 1000
    record = ImageRecord.read(run)
    assert (record.trained, record.held, record.keys_of) == (train.keys(), val.keys(), "encoded bytes")
    assert record.photos
    digits = data.load("digits", "test")
    assert not ImageRecord.of(digits, None).photos
    CHANGES["added"](tmp_path / "photos")
    CHANGES["renamed"](tmp_path / "photos")
    assert (sources(RunImages(run).train), sources(RunImages(run).val)) == (trained, held)
    # In another size they are the same images, on disk and in memory; pixels alone cannot be compared with files.
    assert record.count(data.load(tmp_path / "photos", image_size=100)) == len(trained)
    small = data.load(tmp_path / "photos", image_size=32)
    assert record.count(small) == record.count(small.subset(range(len(small)))) == len(trained)
    assert record.count(data.TensorSet(small.images, small.labels, small.class_names)) is None
    (run / FILE).write_bytes((run / FILE).read_bytes()[:100])
    with pytest.raises(ValueError, match=r"images\.safetensors, .* cannot be read .*no image can be called held out"):
        ImageRecord.read(run)

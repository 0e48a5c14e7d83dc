"""A split that keeps groups together."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kedge.data import DataError, Groups, TensorSet, group_by
from kedge.data.groups import series_hint
from kedge.data.splitting import split_validation, units
from kedge.training import Recipe
from kedge.training.folds import fold_places
from kedge.training.images import load_sets


def images_of(labels, seed=0):
    """Different images of these labels."""
    pixels = torch.randint(0, 256, (len(labels), 1, 4, 4), generator=torch.Generator().manual_seed(seed))
    return TensorSet(pixels.byte(), torch.tensor(labels), ["a", "b", "c"])


def grouped(index):
    return Groups.of([None if place is None else f"g{place}" for place in index], "camera")


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 2), st.none() | st.integers(0, 9)), min_size=30, max_size=80), st.integers(0, 99)
)
def test_no_group_is_on_both_sides_and_none_is_lost(rows, seed):
    images = images_of([label for label, _ in rows] + [0, 1, 2])
    index = [group for _, group in rows] + [None] * 3
    groups = grouped(index)
    try:
        train, val = split_validation(images, 0.3, seed, groups=groups)
    except DataError:  # a draw with one group a class
        return
    side = dict.fromkeys(train.keys(), "train") | dict.fromkeys(val.keys(), "val")
    assert len(train) + len(val) == len(images)
    sides = {}
    for key, group in zip(images.keys(), index, strict=True):
        if group is not None:
            sides.setdefault(group, set()).add(side[key])
    assert all(len(each) == 1 for each in sides.values())
    for label in images.labels.unique():
        assert bool((train.labels == label).any()), "a class stays in training"


def test_without_groups_the_split_is_that_of_before():
    images = images_of([0, 1, 2] * 40)
    alone = split_validation(images, 0.2, 3)[1]
    assert alone.keys() == split_validation(images, 0.2, 3, groups=grouped([None] * 120))[1].keys()
    assert units(images) == images.keys()


def test_groups_that_share_an_image_stay_together():
    images = images_of([0, 1] * 30)
    doubled = TensorSet(torch.cat([images.images, images.images[:1]]), torch.cat([images.labels, images.labels[:1]]),
                        images.class_names)  # fmt: skip
    index = [i // 2 for i in range(60)] + [7]  # the copy of an image of g0 is in g7
    each = units(doubled, grouped(index))
    assert len({each[0], each[1], each[14], each[15], each[60]}) == 1
    assert each[2] != each[0]


def test_images_added_to_a_group_move_no_other():
    images, more = images_of([0, 1, 2] * 30), images_of([0, 1, 2] * 5, seed=1)
    index = [i // 5 for i in range(90)]
    before = split_validation(images, 0.3, 0, groups=grouped(index))[1].keys()
    grown = TensorSet(torch.cat([images.images, more.images]), torch.cat([images.labels, more.labels]),
                      images.class_names)  # fmt: skip
    after = split_validation(grown, 0.3, 0, groups=grouped([*index, *[3] * 15]))[1].keys()
    assert set(before) <= set(after)
    assert set(after) - set(before) in (set(), set(more.keys()))


def test_what_a_model_has_seen_keeps_its_whole_group_in_training():
    images = images_of([0, 1, 2] * 30)
    groups = grouped([i // 5 for i in range(90)])
    keys = images.keys()
    known = {"trained": {keys[0]}, "held": {keys[5], keys[1]}}
    train, val = split_validation(images, 0.3, 0, groups=groups, **known)
    assert set(keys[:5]) <= set(train.keys())
    assert set(keys[5:10]) <= set(val.keys())


def test_where_a_model_has_seen_some_of_every_group_that_is_said():
    images = images_of([0, 1, 2] * 10)
    groups = grouped([i // 5 for i in range(30)])
    with pytest.raises(DataError, match="was trained on images of each of its groups by camera, so none can be held"):
        split_validation(images, 0.2, 0, trained=set(images.keys()[::5]), groups=groups)


def test_one_group_a_class_cannot_be_divided():
    with pytest.raises(DataError, match="two different groups by camera"):
        split_validation(images_of([0, 1, 2] * 10), 0.2, 0, groups=grouped([0, 1, 2] * 10))


def test_groups_of_other_images_are_refused():
    with pytest.raises(ValueError, match="30 images, and groups of 2"):
        split_validation(images_of([0, 1, 2] * 10), 0.2, 0, groups=grouped([0, 1]))


def test_folds_keep_groups_together():
    images = images_of([0, 1, 2] * 30)
    index = [i // 5 for i in range(90)]
    places = fold_places(images, 3, 0, grouped(index))
    folds = [{index[i] for i in own.tolist()} for own in places]
    assert not folds[0] & folds[1]
    assert not folds[0] & folds[2]
    assert not folds[1] & folds[2]
    assert sum(map(len, places)) == 90


@pytest.fixture
def photos(tmp_path):
    """Two classes, twelve persons each with three photos, p07_2.png."""
    draw = torch.Generator().manual_seed(0)
    for name in ("cat", "dog"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for person in range(12):
            for photo in range(3):
                pixels = torch.randint(0, 256, (8, 8), generator=draw).byte().numpy()
                Image.fromarray(pixels).save(tmp_path / "photos" / name / f"p{person:02}_{photo}.png")
    return tmp_path / "photos"


def test_a_recipe_keeps_persons_together(photos):
    recipe = Recipe(data=str(photos), split_by="regex:(p[0-9]+)_", val_fraction=0.3)
    train, val = load_sets(recipe)
    persons = [{path.rsplit("/", 1)[1][:3] for path in part.paths} for part in (train, val)]
    assert persons[1]
    assert not persons[0] & persons[1]  # the persons of both classes are the same
    assert not any("several photos" in note for note in train.report.notes)
    words = f"{len(persons[1])} of 12 groups by regex:(p[0-9]+)_ are held out: intervals count images"
    assert any(words in note for note in train.report.notes)
    folded, _ = load_sets(Recipe(data=str(photos), split_by="regex:(p[0-9]+)_", folds=3))
    assert any("12 groups by regex:(p[0-9]+)_ are dealt to folds" in note for note in folded.report.notes)


def test_series_of_photos_are_pointed_out(photos):
    train, _ = load_sets(Recipe(data=str(photos), val_fraction=0.3))
    assert "such as p00_0.png and p00_1.png" in train.report.notes[-1]


@pytest.mark.parametrize(
    ("names", "hinted"),
    [
        ([f"a/IMG_{i}_{k}.jpg" for i in range(40) for k in range(3)], True),
        ([f"a/IMG_{i} ({k}).jpg" for i in range(40) for k in range(3)], True),
        ([f"a/cat_{i}.jpg" for i in range(120)], False),  # one series a class
        ([f"a/IMG_{i}.jpg" for i in range(120)], False),
        ([f"a/2024_{i:04}.jpg" for i in range(120)], False),  # one year
        ([f"a/{i}_{i * i}f.jpg" for i in range(120)], False),
        ([], False),
    ],
)
def test_file_names_that_suggest_series(names, hinted):
    hint = series_hint(names, 2)
    assert (hint is not None) == hinted
    if hint is not None:
        assert f"120 of 120 files are named like several photos of one thing, such as {names[0][2:]}" in hint


def test_a_part_val_is_looked_at(photos, tmp_path):
    home = tmp_path / "parts"
    home.mkdir()
    photos.rename(home / "train")
    for name in ("cat", "dog"):
        (home / "val" / name).mkdir(parents=True)
        for person in ("p03", "p50"):
            Image.new("L", (8, 8), 3 * int(person[1:]) + len(name)).save(home / "val" / name / f"{person}_9.png")
            Image.new("L", (8, 8), 7 * (name == "cat") + int(person[1:])).save(home / "val" / name / f"{person}_8.png")
    train, _ = load_sets(Recipe(data=str(home), split_by="regex:(p[0-9]+)_"))
    assert "1 of 2 groups of the part val are in the part train too, such as 'p03'" in train.report.notes[-1]


def test_groups_of_what_has_no_files_are_refused():
    with pytest.raises(DataError, match="lie in no files"):
        load_sets(Recipe(data="digits", split_by="folder:2"))


def test_a_stream_has_no_groups(monkeypatch):
    monkeypatch.setattr("kedge.training.images.data.stream", lambda *args: (images_of([0, 1, 2] * 10), None))
    with pytest.raises(ValueError, match="digits is read in turn"):
        load_sets(Recipe(data="digits", split_by="folder"))


def test_the_group_of_the_seen_is_named_by_group_by(photos):
    from kedge import data

    images = data.load(str(photos), "train")
    assert len(group_by(images, "regex:(p[0-9]+)_").names) == 12


def test_images_that_were_handed_over_are_divided_already(photos):
    from kedge.training import fit

    sets = load_sets(Recipe(data=str(photos), val_fraction=0.3))
    with pytest.raises(ValueError, match="group_by"):
        fit(Recipe(split_by="folder", folds=0), sets=sets, progress=False)


def test_a_run_in_folds_keeps_persons_together(photos, tmp_path, monkeypatch):
    from kedge.training import fit
    from kedge.training.record import ImageRecord

    recipe = Recipe(data=str(photos), split_by="regex:(p[0-9]+)_", folds=3, epochs=1, anchored=False, device="cpu",
                    workers=0, runs=str(tmp_path / "runs"), name="mine")  # fmt: skip
    fit(recipe, progress=False, report=False)
    from kedge import data

    images = data.load(str(photos), "train")
    person = dict(zip(images.keys(), group_by(images, "regex:(p[0-9]+)_").words(), strict=True))
    for number in (1, 2, 3):
        record = ImageRecord.read(tmp_path / "runs" / "mine" / "folds" / str(number))
        sides = [{person[key] for key in keys} for keys in (record.trained, record.held_out)]
        assert sides[1]
        assert not sides[0] & sides[1]
    # A page that is made later is of the first fold's model and of images that this one was not trained on.
    pages = []
    monkeypatch.setattr("kedge.run_page.write_run_report", lambda model, run, val, *_: pages.append((run, val.keys())))
    fit(resume=tmp_path / "runs" / "mine", progress=False)
    ((run, judged),) = pages
    assert set(judged) == set(ImageRecord.read(run).held_out)

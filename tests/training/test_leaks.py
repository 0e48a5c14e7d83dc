"""Near twins and series on both sides of a split: found, said before the first epoch, judged apart in the end."""

import json
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from kedge import data
from kedge.binomial import accuracy_interval, folds_interval
from kedge.cli import main
from kedge.data import DataError, TensorSet, group_by
from kedge.data.near import groups
from kedge.data.twins import MOST, can_look, twin_pairs, twins
from kedge.training.leaks import about_leaks, fares, leaks, with_and_without
from kedge.training.recipe import Recipe


def scene(seed, side=48):
    """A picture of soft random shapes, as unlike others as photos are."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


def again(image, seed):
    """The same a moment later: moved by a pixel, darker or brighter, with grain."""
    rng = np.random.default_rng(1000 + seed)
    shifted = np.roll(np.asarray(image, np.float32), rng.integers(-1, 2, 2), (0, 1))
    return Image.fromarray(
        (shifted * rng.uniform(0.9, 1.1) + rng.normal(0, 3, shifted.shape)).clip(0, 255).astype(np.uint8)
    )


def tensors(pictures, labels=None):
    stacked = torch.stack([torch.from_numpy(np.array(p)).permute(2, 0, 1) for p in pictures])
    labels = torch.tensor([i % 2 for i in range(len(pictures))] if labels is None else labels)
    return TensorSet(stacked, labels, ["a", "b"])


@pytest.fixture(scope="module")
def scenes():
    return [scene(seed) for seed in range(60)]


def test_shots_of_one_scene_are_twins_and_other_scenes_are_none(scenes):
    shots = [again(each, seed) for seed, each in enumerate(scenes[:20])]
    found = twins(tensors([*shots, *scenes[40:]]), tensors(scenes[:40]))
    assert found.places.tolist() == list(range(20))
    assert found.others.tolist() == list(range(20))


def test_bursts_are_groups_whatever_their_order(scenes):
    burst = [again(each, 10 * seed + k) for seed, each in enumerate(scenes[:8]) for k in range(4)]
    images = tensors([*burst, *scenes[8:]])
    numbers = groups(twin_pairs(images), len(images))
    assert numbers[:32].tolist() == [4 * (i // 4) for i in range(32)]
    assert numbers[32:].tolist() == list(range(32, len(images)))
    by = group_by(images, "near")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    moved = group_by(images.subset(order), "near")
    assert [by.words()[i] for i in order.tolist()] == moved.words()
    assert by.words()[40] is None


def test_an_image_of_one_grey_and_a_lonely_one_have_no_twins(scenes):
    grey = Image.fromarray(np.full((48, 48, 3), 90, np.uint8))
    assert len(twins(tensors([grey, grey]), tensors([grey, *scenes[:20]])).places) == 0
    assert len(twins(tensors(scenes[:1]), tensors(scenes[1:2])).places) == 0
    assert twin_pairs(tensors(scenes[:1])) == []


def test_more_images_than_are_looked_at_are_skipped_in_words():
    many = TensorSet(torch.zeros(MOST, 1, 2, 2, dtype=torch.uint8), torch.zeros(MOST, dtype=torch.long), ["a", "b"])
    few = many.subset(range(2))
    assert not can_look(many, few)
    record = leaks(many, few)
    assert set(record) == {"skipped"}
    assert "10,002 images are more than 10,000" in about_leaks(record, Recipe(), own_part=False)
    with pytest.raises(DataError, match="near twins are looked for"):
        group_by(
            TensorSet(
                torch.zeros(MOST + 1, 1, 2, 2, dtype=torch.uint8), torch.zeros(MOST + 1, dtype=torch.long), ["a"]
            ),
            "near",
        )


def test_folds_count_twins_in_other_folds_alone(scenes):
    images = tensors([*(again(each, seed) for seed, each in enumerate(scenes[:6])), *scenes[:20]])
    apart = [torch.arange(0, 6), torch.arange(6, 26)]  # every shot in another fold than its scene
    together = [torch.tensor([i, i + 6]) for i in range(6)]
    assert leaks(images, images.subset(()), apart)["places"] == list(range(12))
    assert leaks(images, images.subset(()), together)["places"] == []


def test_what_is_right_with_and_without_twins_is_counted_and_told():
    right = torch.tensor([True, True, True, False, False, True])
    measured = with_and_without([0, 1, 2], right)
    assert measured == {"with": {"images": 3, "right": 3}, "without": {"images": 3, "right": 1}}
    said = fares({"measured": measured}, accuracy_interval)
    assert "100.0 % of the 3 images with a near twin" in said
    assert "33.3 % of the 3 images without a near twin" in said
    low, high = folds_interval(1, 3)
    assert f"({100 * low:.1f} to {100 * high:.1f} %)" in fares({"measured": measured}, folds_interval)
    assert f"({100 * low:.1f} to {100 * high:.1f} %)" not in said
    assert fares({"measured": with_and_without([0], right)}, accuracy_interval) == ""
    assert fares(None, accuracy_interval) == fares({"skipped": "so"}, accuracy_interval) == ""


@pytest.fixture
def folder(tmp_path, monkeypatch, scenes):
    """Four shots of each of thirty scenes in two classes, under names that say nothing."""
    monkeypatch.chdir(tmp_path)
    for number, each in enumerate(scenes[:30]):
        place = tmp_path / "photos" / "ab"[number % 2]
        place.mkdir(parents=True, exist_ok=True)
        for k in range(4):
            again(each, 10 * number + k).save(place / f"{hash((number, k)) % 16**8:08x}.png")
    return tmp_path / "photos"


SMALL = [
    "--model",
    "kedge_resnet_small",
    "--arguments.width",
    "4",
    "--epochs",
    "1",
    "--workers",
    "0",
    "--device",
    "cpu",
]


def test_a_training_says_it_before_the_first_epoch_and_a_split_by_near_mends_it(folder, capsys):
    run = ["train", "--data", "photos", *SMALL, "--anchored", "false", "--val_fraction", "0.2"]
    assert main([*run, "--name", "leaky"]) == 0
    out = capsys.readouterr().out
    assert "have a near twin" in out
    assert "--split_by near keeps these on one side" in out
    assert out.index("near twin") < out.index("epoch 1/1")
    record = json.loads((folder.parent / "runs" / "leaky" / "run.json").read_text())["leaks"]
    counts = {side: own["images"] for side, own in record["measured"].items()}
    assert counts == {"with": len(record["places"]), "without": record["images"] - len(record["places"])}
    assert counts["with"] > 0.8 * record["images"]
    assert main([*run, "--name", "tight", "--split_by", "near"]) == 0
    assert "near twin" not in capsys.readouterr().out
    record = json.loads((folder.parent / "runs" / "tight" / "run.json").read_text())["leaks"]
    assert record["places"] == []


def test_files_of_one_series_are_counted(folder, capsys):
    for place in folder.iterdir():
        for number, path in enumerate(sorted(place.iterdir())):
            noise = np.random.default_rng([ord(place.name), number]).integers(0, 256, (48, 48, 3), dtype=np.uint8)
            Image.fromarray(noise).save(path)  # nothing but the names tells what belongs together
            shutil.move(path, place / f"IMG_{number // 4}_{number % 4}.png")
    assert (
        main(["train", "--data", "photos", *SMALL, "--anchored", "false", "--val_fraction", "0.2", "--name", "series"])
        == 0
    )
    out = capsys.readouterr().out
    assert "have a file of the same series (IMG_" in out
    assert "near twin" not in out.partition("epoch 1/1")[0].partition("careful: of")[2]


def test_of_a_part_of_its_own_another_remedy_is_said():
    record = {
        "images": 10,
        "places": list(range(9)),
        "series": 0,
        "examples": {"twins": ["a.jpg", "b.jpg"], "series": []},
    }
    said = about_leaks(record, Recipe(), own_part=True)
    assert "9 have a near twin (a.jpg and b.jpg)" in said
    assert said.endswith("take them out of one of the two parts")
    assert about_leaks({**record, "places": [1, 2]}, Recipe(), own_part=False) == ""


def test_digits_raise_no_alarm():
    train, val = data.split_validation(data.load("digits", "train"), 0.1, 0)
    record = leaks(train, val)
    assert about_leaks(record, Recipe(), own_part=False) == ""

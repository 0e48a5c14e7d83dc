"""Dominoes and slabs: the intervals of the paper, what randomising does, names for them, and a run on them."""

import numpy as np
import pytest
import torch
from PIL import Image

from kedge import data
from kedge.cli import main
from kedge.data import DataError, PartedSet, TensorSet, dominoes, randomised, slabs
from kedge.data.dominoes import halves_of
from kedge.data.slabs import coordinates, points_of, rotation_of
from kedge.evaluation import accuracy_by_part
from kedge.experiments import Experiment
from kedge.training import fit
from tests.settings import TINY

LABELS = torch.arange(8000) % 2
# Of each kind: (least, most) distance from the centre of a positive and of a negative band, and how often.
PUBLISHED = {
    3: ({(0.4667, 1): 1}, {(0, 0.2667): 1}),
    5: ({(0.32, 0.56): 1}, {(0, 0.12): 0.75, (0.76, 1): 0.25}),
    7: ({(0.2571, 0.3714): 0.875, (0.8857, 1): 0.125}, {(0, 0.0571): 0.5, (0.5714, 0.6857): 0.5}),
}


@pytest.mark.parametrize("kind", PUBLISHED)
def test_the_published_slabs(kind):
    values = coordinates(LABELS, kind, 3, seed=1)
    for label, bands in zip((1, 0), PUBLISHED[kind], strict=True):
        own = values[label == LABELS].abs()
        inside = {band: (own >= band[0] - 1e-4) & (own <= band[1] + 1e-4) for band in bands}
        assert bool(sum(inside.values()).eq(1).all())  # no point in a gap
        for band, share in bands.items():
            assert float(inside[band].double().mean()) == pytest.approx(share, abs=0.02)
            assert float(own[inside[band]].max()) > band[1] - 0.01
    # No line through a slab coordinate tells the class, and coordinates are independent given it.
    both = np.corrcoef(np.column_stack([values.numpy(), LABELS.numpy()]).T)
    assert np.abs(both - np.eye(4)).max() < 0.04


def test_the_linear_coordinate_and_its_noise():
    values = coordinates(LABELS, 1, 1, seed=2)[:, 0] * (2 * LABELS - 1)
    assert 0.1 <= float(values.min()) < 0.101
    assert 0.999 < float(values.max()) <= 1
    noisy = coordinates(LABELS, 1, 1, seed=2, noise=0.3)[:, 0]
    inside = noisy.abs() < 0.1
    assert float(inside.double().mean()) == pytest.approx(0.3, abs=0.02)
    assert abs(float(noisy[inside & (LABELS == 1)].mean())) < 0.01
    for wrong in ({"kind": 4}, {"kind": 5, "noise": 0.1}, {"kind": 1, "noise": 2}):
        with pytest.raises(ValueError, match=r"slabs|share"):
            coordinates(LABELS, **{"count": 1, "seed": 0, **wrong})


def test_rotated_back_they_are_what_they_were():
    images = slabs(4000, 5, 7, size=5, seed=3)
    rotation = rotation_of(25, 3)
    assert torch.allclose(rotation @ rotation.T, torch.eye(25, dtype=torch.float64), atol=1e-12)
    points = torch.cat([images.parts["simple"], images.parts["others"]], 1)
    error = (points_of(images, seed=3) - points).abs()
    assert float(error.mean()) < 0.006
    assert float(error.max()) < 0.1 / 2  # a gap is 0.2
    again = slabs(4000, 5, 7, size=5, seed=3)
    assert torch.equal(images.images, again.images)
    other = slabs(4000, 5, 7, size=5, seed=3, draw=1)
    assert not torch.equal(images.images, other.images)
    for wrong in ({"count": 1}, {"count": 10, "size": 1}):
        with pytest.raises(ValueError, match="2 points"):
            slabs(**wrong)


def halves():
    draws = torch.Generator().manual_seed(0)
    sets = []
    for name, count, side in (("easy", 90, 6), ("hard", 300, 4)):
        labels = torch.randint(3, (count,), generator=draws)
        pixels = torch.randint(0, 80, (count, 1, side, 5), generator=draws) + 80 * labels.view(-1, 1, 1, 1)
        sets.append(TensorSet(pixels.to(torch.uint8), labels, ["red", "green", "blue"], name, "train"))
    return sets


def test_dominoes_pair_by_class():
    easy, hard = halves()
    both = dominoes(easy, hard, 1.0, seed=4)
    assert both.image_shape == (1, 10, 5)
    assert torch.equal(both.images[:, :, 6:], hard.images)
    assert torch.equal(both.part_labels["easy"], hard.labels)
    assert torch.equal(both.images[:, :, :6].amax((1, 2, 3)) // 80, hard.labels)
    # Each easy image once before one is taken again.
    times = (both.images[:, None, :, :6] == easy.images[None]).all((2, 3, 4)).sum(0)
    for c in range(3):
        assert int(times[easy.labels == c].max() - times[easy.labels == c].min()) <= 1
    assert torch.equal(both.images, dominoes(easy, hard, 1.0, seed=4).images)
    assert not torch.equal(both.images, dominoes(easy, hard, 1.0, seed=5).images)


def test_how_often_halves_agree():
    easy, hard = halves()
    never, seldom = dominoes(easy, hard, 0.0), dominoes(easy, hard, 1 / 3)
    assert not bool((never.part_labels["easy"] == hard.labels).any())
    assert float((seldom.part_labels["easy"] == hard.labels).double().mean()) == pytest.approx(1 / 3, abs=0.1)
    with pytest.raises(ValueError, match="agree"):
        dominoes(easy, hard, 1.5)
    with pytest.raises(DataError, match=r"2 classes and hard 3"):
        dominoes(easy.only_classes(["red", "blue"]), hard)
    with pytest.raises(DataError, match="no image of class green"):
        dominoes(easy.subset(easy.labels != 1), hard)
    with pytest.raises(DataError, match=r"other width: easy 4, hard 5"):
        dominoes(TensorSet(easy.images[..., :4], easy.labels, easy.class_names, "easy"), hard)


def test_randomising_keeps_what_occurs_and_nothing_else():
    easy, hard = halves()
    both = dominoes(easy, hard)
    assert torch.equal(randomised(both, []).images, both.images)
    other = randomised(both, "easy", seed=1)
    assert torch.equal(other.images[:, :, 6:], both.images[:, :, 6:])
    assert torch.equal(other.labels, both.labels)
    rows = [sorted(map(bytes, each.images[:, :, :6].flatten(1).numpy())) for each in (both, other)]
    assert rows[0] == rows[1]
    assert torch.equal(other.images[:, :, :6].amax((1, 2, 3)) // 80, other.part_labels["easy"])
    assert torch.equal(other.labelled_by("easy").labels, other.part_labels["easy"])
    part = other.subset(range(7))
    assert torch.equal(part.compose(part.parts), other.images[:7])
    points = slabs(500, size=3)
    together = randomised(points, ["simple", "others"], seed=2)  # one permutation: images as they were, elsewhere
    assert sorted(map(bytes, together.images.flatten(1).numpy())) == sorted(
        map(bytes, points.images.flatten(1).numpy())
    )
    with pytest.raises(DataError, match=r"no part 'left'; there are easy, hard"):
        randomised(both, "left")
    with pytest.raises(DataError, match="no parts"):
        randomised(easy, "easy")


def test_accuracy_by_part_of_models_that_read_one_half():
    easy, hard = halves()
    both = dominoes(easy, hard, 0.9)

    def reads(rows):
        return lambda images: -(images[:, :, rows].amax((1, 2, 3))[:, None] * 255 / 80 - 0.5 - torch.arange(3)).abs()

    upper, lower = (accuracy_by_part(reads(rows), both) for rows in (slice(0, 6), slice(6, None)))
    assert upper["by easy"] == 1
    assert upper["accuracy"] == pytest.approx(0.9, abs=0.05)
    assert upper["hard randomised"] == upper["accuracy"]
    assert upper["easy randomised"] == pytest.approx(1 / 3, abs=0.1)
    assert lower["accuracy"] == lower["easy randomised"] == lower["by hard"] == 1
    assert lower["hard randomised"] == pytest.approx(1 / 3, abs=0.1)
    with pytest.raises(DataError, match="no parts"):
        accuracy_by_part(reads(slice(0, 6)), easy)


@pytest.fixture
def packs(tmp_path, monkeypatch):
    """A pack of two classes and two parts, stripes of 10 pixels."""
    draws = torch.Generator().manual_seed(0)
    for part, count in (("train", 30), ("test", 16)):
        for c, name in enumerate(["thin", "wide"]):
            (tmp_path / "stripes" / part / name).mkdir(parents=True)
            for i in range(count):
                noise = torch.randint(60, (10, 10, 3), generator=draws)
                pixels = noise + 120 * (torch.arange(10) % (2 + 2 * c) < 1 + c).view(1, 10, 1)
                Image.fromarray(pixels.to(torch.uint8).numpy()).save(tmp_path / "stripes" / part / name / f"{i}.png")
    monkeypatch.setenv("KEDGE_DATA", str(tmp_path))
    return tmp_path


NAME = "dominoes:digits/0/1+stripes/thin/wide"


def test_names_of_data(packs):
    train = data.load(NAME, "train")
    assert isinstance(train, PartedSet)
    assert (train.class_names, train.image_shape) == (["thin", "wide"], (3, 20, 10))
    assert data.splits(NAME) == ["train", "test", "easy-randomised", "hard-randomised"]
    assert data.load(NAME, "test", 7).image_shape == (3, 7, 7)
    assert data.load(NAME, "test", channels=1).image_shape == (1, 20, 10)
    shuffled, test = data.load(NAME, "easy-randomised"), data.load(NAME, "test")
    assert torch.equal(shuffled.images[:, :, 10:], test.images[:, :, 10:])
    assert not torch.equal(shuffled.images, test.images)
    assert torch.equal(shuffled.images, randomised(test, "easy").images)
    agree = data.load(NAME + "@0.5", "test")
    assert 0 < float((agree.part_labels["easy"] != agree.labels).double().mean()) < 1
    points = data.load("slabs:5+7", "test")
    assert (len(points), points.image_shape, points.mirror) == (10_000, (1, 8, 8), False)
    assert halves_of("dominoes:mnist+fashion_mnist")[1] == [("0", "1"), ("3", "4")]
    assert halves_of("dominoes:mnist+digits@.75") == (["mnist", "digits"], [(), ()], 0.75)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("dominoes:digits", "write dominoes:EASY"),
        ("dominoes:digits+", "write dominoes:EASY"),
        ("dominoes:digits+stripes@1.5", "from 0 to 1, not '1.5'"),
        ("dominoes:digits/1+stripes/thin/wide", "pairs 1 classes with 2"),
        ("dominoes:digits+stripes", "10 classes and stripes 2"),
        ("dominoes:digits/0/1+strips", "'strips' is neither"),
        ("dominoes:digits/0/1+stripes/thin/wild", "no class 'wild'"),
        ("slabs:2+5", r"a kind is 1, 3, 5 or 7"),
        ("slabs:5", r"slabs:5\+7"),
    ],
)
def test_names_that_are_none(packs, name, words):
    with pytest.raises(DataError, match=words):
        data.load(name, "train")


def test_slabs_have_one_size():
    with pytest.raises(DataError, match="leave image_size 16 out"):
        data.load("slabs", "test", 16)
    with pytest.raises(DataError, match="3 channels"):
        data.load("slabs", "test", channels=3)


def test_a_run_and_its_evaluation_by_part(packs, capsys):
    recipe = {**TINY, "data": NAME, "train_images": None, "batch_size": 16, "runs": str(packs / "runs"), "name": "one"}
    run = fit(recipe, progress=False, report=False).folder
    assert main(["evaluate", str(run), "--shift", NAME, "--scores", "msp", "--format", "json"]) == 0
    text = capsys.readouterr().out
    assert f"{NAME} easy randomised" in text
    assert f"{NAME} hard randomised" in text
    assert main(["evaluate", str(run), "--split", "easy-randomised", "--shift", "none", "--scores", "msp"]) == 0


def test_an_experiment_may_judge_by_part():
    tree = {
        "title": "t",
        "source": "s",
        "data": [NAME],
        "base": {"epochs": 1},
        "variants": {"a": {}},
        "scales": {"small": {}},
    }
    Experiment.from_dict({**tree, "evaluation": {"part": "easy-randomised"}}, "one")
    with pytest.raises(ValueError, match="NAME-randomised, not 'west'"):
        Experiment.from_dict({**tree, "evaluation": {"part": "west"}}, "one")

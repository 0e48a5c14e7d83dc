"""Classes added without the old photos: moments of the replay against numpy, the probe, masking, the command."""

import copy
import shutil

import numpy as np
import pytest
import torch

import kedge
from kedge import data, networks
from kedge.adaptation import ProbeData, add_classes, fit_probe, remember
from kedge.anchoring import anchor
from kedge.cli import main
from kedge.probing.added_classes import fit_on_replayed
from kedge.probing.class_features import FeatureExemplars, FeatureGaussians, chosen, class_features, of_tensors
from kedge.probing.remembered import FILE, Remembered

MIX = torch.tensor([[1.0, 0.5, 0], [0, 1, 0.3], [0, 0, 0.7]])
LABELS = torch.tensor([0] * 50 + [1] * 40)
ROWS = torch.randn(90, 3, generator=torch.Generator().manual_seed(0)) @ MIX + 3 * LABELS[:, None]


def untrained(classes=("0", "1", "2"), width=4):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = networks.create("kedge_resnet_small", len(classes), 1, 8, arguments={"width": width})
        network(torch.rand(64, 1, 8, 8))
    model = kedge.plain(network, mean=0.3, std=0.5, example=(1, 8, 8)).eval()
    model.class_names = list(classes)
    return model


@pytest.fixture(scope="module")
def digits():
    """Photos of three old digits, two new ones to train and to validate by, and of all five to test."""
    train, val, test = (data.load("digits", split) for split in ("train", "val", "test"))
    return train.only_classes("012"), train.only_classes("34"), val.only_classes("34"), test.only_classes("01234")


@pytest.mark.parametrize("how", ["full", "diagonal"])
def test_draws_have_the_moments_of_the_class(how):
    drawn = FeatureGaussians.fit(ROWS, LABELS, 2, how).rows(1, 100_000, seed=3).double().numpy()
    own = ROWS[LABELS == 1].double().numpy()
    covariance = np.cov(own.T)
    if how == "diagonal":
        covariance = np.diag(np.diag(covariance))
    deviations = np.sqrt(np.diag(covariance))
    errors = np.sqrt((covariance**2 + np.outer(deviations, deviations) ** 2) / len(drawn))
    assert (abs(drawn.mean(0) - own.mean(0)) <= 4 * deviations / len(drawn) ** 0.5).all()
    assert (abs(np.cov(drawn.T) - covariance) <= 4 * errors).all()


def test_without_covariance_draws_are_the_mean_and_one_image_is_itself():
    rows = torch.cat([ROWS[:1].expand(5, 3), ROWS[50:51]])
    kept = FeatureGaussians.fit(rows, torch.tensor([0] * 5 + [1]), 2)
    assert torch.equal(kept.rows(0, 4, 0), ROWS[:1].expand(4, 3))
    assert torch.equal(kept.rows(1, 4, 0), ROWS[50:51].expand(4, 3))


def test_fewer_images_than_features_give_draws_in_their_span():
    rows = torch.randn(4, 9, generator=torch.Generator().manual_seed(1))
    drawn = FeatureGaussians.fit(rows, torch.zeros(4).long(), 1).rows(0, 50, 0) - rows.mean(0)
    assert torch.linalg.matrix_rank(drawn.double(), atol=1e-4) == 3


def test_draws_of_a_class_depend_on_its_images_and_the_seed_alone():
    other = ROWS.clone()
    other[LABELS == 0] = 7
    one, two = (FeatureGaussians.fit(rows, LABELS, 2) for rows in (ROWS, other))
    assert torch.equal(one.rows(1, 5, 3), two.rows(1, 5, 3))
    assert not torch.equal(one.rows(1, 5, 3), one.rows(1, 5, 4))
    joined = one.joined(FeatureGaussians.fit(other, LABELS, 2))
    assert torch.equal(joined.rows(1, 5, 3), one.rows(1, 5, 3))
    assert len(joined) == 4


@pytest.mark.parametrize(("how", "numbers"), [("full", 3 + 6), ("diagonal", 6), ("random", 5 * 3)])
def test_storage_and_the_way_back(how, numbers):
    kept = class_features(ROWS, LABELS, 2, how, photos=5)
    tensors = kept.tensors()
    assert sum(v.numel() for k, v in tensors.items() if k != "counts") == 2 * numbers
    again = of_tensors(how, tensors)
    assert torch.equal(again.rows(1, 6, 2), kept.rows(1, 6, 2))
    with pytest.raises(ValueError, match="no statistics of the kind"):
        of_tensors(how, {**tensors, "more": torch.ones(2)})
    with pytest.raises(ValueError, match="NaN"):
        of_tensors(how, {k: v.double() * torch.nan for k, v in tensors.items()})


def test_one_task_is_an_ordinary_probe():
    probe, plain = fit_on_replayed(None, ROWS, LABELS, 2), fit_probe(ProbeData(ROWS[None], LABELS, 2, balanced=True))
    assert torch.equal(probe.weight, plain.weight)
    assert torch.equal(probe.bias, plain.bias)


def test_a_head_of_the_classes_so_far_is_a_wider_one_whose_others_are_masked():
    kept = class_features(ROWS, LABELS, 2)
    probe = fit_on_replayed(kept, ROWS[:20] - 9, torch.zeros(20).long(), 1, strength=0.01)
    logits = ROWS @ probe.weight.T + probe.bias
    wide = torch.cat([logits, torch.full((len(ROWS), 4), -torch.inf)], 1).softmax(1)
    assert torch.equal(wide[:, :3], logits.softmax(1))
    assert (wide[:, 3:] == 0).all()
    assert probe.weight.shape == (3, 3)


def test_exemplars_by_hand():
    # Likeness with the mean falls from the first row to the last.
    angles = torch.linspace(0.02, 1.0, 12, dtype=torch.float64) * torch.tensor([1.0, -1.0] * 6)
    rows = torch.stack([angles.cos(), angles.sin()], 1)
    mean = rows.mean(0)
    order = ((rows @ mean) / rows.norm(dim=1)).argsort(descending=True).tolist()
    assert sorted(order[:4]) == chosen(rows, 4, "central").tolist()
    expected = []
    for piece in (order[:6], order[6:]):
        middle = piece[3]
        expected += [middle, min(piece, key=lambda i: float(rows[i] @ rows[middle]))]
    assert chosen(rows, 4).tolist() == sorted(expected)


@pytest.mark.parametrize("how", ["sparse-uniform", "random", "central"])
@pytest.mark.parametrize("photos", [1, 3, 4, 49, 50, 99])
def test_exemplars_are_none_twice_and_a_small_class_is_kept_whole(how, photos):
    rows, draws = ROWS[:50], lambda: torch.Generator().manual_seed(4)
    places = chosen(rows, photos, how, draws())
    assert len(places.unique()) == len(places) == min(photos, 50)
    assert torch.equal(places, chosen(8 * rows, photos, how, draws()))


def test_kept_likenesses_are_spread_wider_than_the_central_ones():
    rows = ROWS[:50].double()
    likeness = torch.nn.functional.cosine_similarity(rows, rows.mean(0, keepdim=True))
    spread = {how: float(likeness[chosen(rows, 6, how)].std()) for how in ("sparse-uniform", "central")}
    assert spread["sparse-uniform"] > spread["central"]


def test_all_rows_alike_are_no_trouble():
    assert len(chosen(torch.ones(9, 2), 4).unique()) == 4


@pytest.mark.parametrize("kind", ["plain", "anchored"])
def test_the_body_stays_and_all_classes_are_told_apart(digits, kind):
    old, new, val, test = digits
    model = untrained(width=16)
    if kind == "anchored":
        model = anchor(model).eval()
        model.class_names = ["0", "1", "2"]
        model.references = old.images[:4] / 255
    before = {name: value.clone() for name, value in model.state_dict().items()}
    added = add_classes(model, remember(model, old), new, val)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    after = added.model.state_dict()
    assert all(torch.equal(v, after[name]) for name, v in before.items() if not name.startswith("network.fc."))
    assert added.model.class_names == added.remembered.class_names == list("01234")
    answers = torch.cat([added.model.predict(images / 255).label for images, _ in test.batches(256)])
    assert (answers == test.labels).double().mean() > 0.85
    assert added.recalled > 0.85
    # The next one: what is remembered is of the wider model.
    again = add_classes(added.model, added.remembered, data.load("digits", "train").only_classes(["8"]), samples=50)
    assert again.model.num_outputs == 6


def test_a_seed_decides_all(digits):
    old, new, val, _ = digits
    kept = remember(untrained(), old)
    one, two, three = (add_classes(untrained(), kept, new, val, seed=seed).probe.weight for seed in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, three)


def test_what_cannot_be_is_refused_in_words(digits):
    old, new, val, _ = digits
    model = untrained()
    kept = remember(model, old, "sparse-uniform", photos=3)
    assert isinstance(kept.features, FeatureExemplars)
    moved = copy.deepcopy(model)
    with torch.no_grad():
        next(moved.network.parameters()).add_(1)
    nameless = copy.deepcopy(model)
    nameless.class_names = None
    mistakes = [
        (lambda: add_classes(model, kept, old, val), "0, 1, 2 of digits: the model has that already"),
        (lambda: add_classes(moved, kept, new), "trained on since"),
        (lambda: add_classes(nameless, kept, new), "what its classes are called"),
        (lambda: add_classes(untrained(("a", "b", "c")), kept, new), "of other classes"),
        (lambda: add_classes(model, kept, new.subset(new.labels == 0)), "has no photo of 4"),
        (lambda: add_classes(model, kept, new, old), "other classes than"),
        (lambda: add_classes(model, kept, new, samples=0), "samples must be 1 or more"),
        (lambda: remember(model, new), "all classes of the model: digits also has 3, 4"),
        (lambda: remember(model, old, "halved"), "chosen by sparse-uniform, random, central, not 'halved'"),
        (lambda: remember(model, old, "random", photos=0), "photos must be 1 or more"),
        (lambda: remember(model, old.subset(old.labels < 2)), "needs an image"),
    ]
    for mistake, words in mistakes:
        with pytest.raises(ValueError, match=words):
            mistake()


def test_a_file_that_was_changed_is_said(tmp_path, digits):
    kept = remember(untrained(), digits[0], "diagonal")
    path = kept.write(tmp_path)
    assert Remembered.read(tmp_path).class_names == ["0", "1", "2"]
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(ValueError, match="cannot be read"):
        Remembered.read(tmp_path)


def test_the_command(tmp_path, monkeypatch, capsys, digits):
    monkeypatch.chdir(tmp_path)
    images = pytest.importorskip("PIL.Image")
    for name, part in (("old", digits[0]), ("new", digits[1]), ("all", digits[3])):
        for number in range(min(len(part), 120)):
            folder = tmp_path / name / part.class_names[part.labels[number]]
            folder.mkdir(parents=True, exist_ok=True)
            images.fromarray(part[number][0][0].numpy()).save(folder / f"{number}.png")
    kedge.save(untrained(width=16), "mine")
    assert main(["adapt", "mine", "--add-classes", "new"]) == 1
    assert "kedge adapt mine --remember full --data PHOTOS" in capsys.readouterr().err
    assert main(["adapt", "mine", "--remember", "full", "--data", "old"]) == 0
    shutil.rmtree("old")
    assert main(["adapt", "mine", "--add-classes", "new", "--out", "wider"]) == 0
    assert "3 old classes, and new: 3, 4" in capsys.readouterr().out
    assert (tmp_path / "wider" / "model" / FILE).is_file()
    assert kedge.load("wider").class_names == list("01234")
    assert main(["evaluate", "wider", "--data", "all", "--shift", "none"]) == 0
    assert main(["adapt", "mine", "--add-classes", "new", "--out", "wider"]) == 1
    assert "wider is there already" in capsys.readouterr().err
    assert main(["adapt", "mine", "--add-classes", "new", "--shots", "5"]) == 1
    assert "--shots is of a new task" in capsys.readouterr().err
    for flag, value in (
        ("--layer-lr", "search"),
        ("--pull", "0.1"),
        ("--epochs", "3"),
        ("--augment", "none"),
        ("--severities", "3"),
        ("--gamma", "0.1"),
    ):
        assert main(["adapt", "mine", "--add-classes", "new", "--out", "not", flag, value]) == 1
        assert f"--{flag[2:].replace('-', '_')} is of a new task" in capsys.readouterr().err
    assert not (tmp_path / "not").exists()
    assert main(["adapt", "mine", "--add-classes", "new", "--out", "with a space"]) == 0
    assert "kedge evaluate 'with a space' --data" in capsys.readouterr().out
    assert main(["adapt", "mine"]) == 1
    assert "--data FOLDER is missing" in capsys.readouterr().err

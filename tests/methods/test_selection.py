"""EL2N and GraNd by hand, what is chosen by them, and lists that a run trains on honestly."""

import json
import math
import shlex
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import nn

import kedge
from kedge.cli import main
from kedge.cli.select import _suspicious
from kedge.data import TensorSet, load
from kedge.named_model import run_of
from kedge.selection import Selection, choose, score
from kedge.training import Recipe, fit
from kedge.training.images import load_sets
from kedge.training.record import ImageRecord
from tests.settings import TINY

DRAWS = torch.Generator().manual_seed(0)
IMAGES = TensorSet(
    torch.randint(256, (30, 1, 8, 8), generator=DRAWS, dtype=torch.uint8),
    torch.randint(10, (30,), generator=DRAWS),
    [str(c) for c in range(10)],
)


def model(*layers, seed=0, shape=(1, 8, 8), **normal):
    torch.manual_seed(seed)
    return kedge.plain(nn.Sequential(*(layer() for layer in layers)), example=shape, **normal)


def linear(seed=0):
    return model(nn.Flatten, lambda: nn.Linear(64, 10), seed=seed, mean=0.0, std=1.0)


def test_el2n_of_known_probabilities():
    one = model(nn.Flatten, lambda: nn.Linear(1, 3), shape=(1, 1, 1), mean=0.0, std=1.0)
    with torch.no_grad():
        one.network[1].weight.zero_()
        one.network[1].bias.copy_(torch.tensor([0.7, 0.2, 0.1]).log())
    images = TensorSet(torch.zeros(2, 1, 1, 1, dtype=torch.uint8), torch.tensor([0, 2]), list("abc"))
    assert score([one], images).tolist() == pytest.approx([0.374166, 1.157584], abs=1e-6)
    # x = 0: the gradient is that of the bias alone, which is p - onehot(y).
    assert score([one], images, "grand").tolist() == pytest.approx([0.374166, 1.157584], abs=1e-6)
    with torch.no_grad():
        one.network[1].bias.copy_(torch.tensor([-60.0, 60.0, 0.0]))
    assert float(score([one], images)[0]) == pytest.approx(math.sqrt(2))


def test_grand_of_a_softmax_layer():
    """EL2N times the root of 1 + |x|²: 0.374166 · √6 = 0.916515 for x = (1, 2)."""
    assert 0.374166 * math.sqrt(1 + 5) == pytest.approx(0.916515, abs=1e-5)
    one = linear()
    lengths = (1 + (IMAGES.images.flatten(1).double() / 255).square().sum(1)).sqrt()
    assert torch.allclose(score([one], IMAGES, "grand"), score([one], IMAGES) * lengths, rtol=1e-5)


@pytest.mark.parametrize("anchored", [False, True])
def test_grand_is_the_gradient_of_each_image(anchored):
    layers = (lambda: nn.Conv2d(1, 3, 3), lambda: nn.BatchNorm2d(3), nn.ReLU, nn.Flatten, lambda: nn.Linear(108, 10))
    one = model(*layers, mean=0.4, std=0.3)
    if anchored:
        one = kedge.anchor(one.network, mean=[0.4], std=[0.3], example=(1, 8, 8), references=IMAGES.images[:2] / 255)
    one.train()  # scored in eval mode, and left as it was
    values = score([one], IMAGES, "grand", batch_size=7)
    assert one.training
    one.eval()
    for i in range(5):
        one.zero_grad()
        nn.functional.cross_entropy(one(IMAGES.images[i : i + 1] / 255), IMAGES.labels[i : i + 1]).backward()
        norm = math.sqrt(sum(float(p.grad.double().square().sum()) for p in one.parameters() if p.grad is not None))
        assert float(values[i]) == pytest.approx(norm, rel=1e-5)


@pytest.mark.parametrize("how", ["el2n", "grand"])
def test_order_batches_and_copies_change_nothing(how):
    models = [linear(seed) for seed in range(3)]
    values = score(models, IMAGES, how)
    assert torch.allclose(values, torch.stack([score([m], IMAGES, how) for m in models]).mean(0))
    order = torch.randperm(30, generator=DRAWS)
    assert torch.allclose(score(models, IMAGES.subset(order), how, batch_size=11), values[order], rtol=1e-6)
    twice = score(models, IMAGES.subset([4, 4, 9]), how)
    assert torch.equal(twice[0], twice[1])


@pytest.mark.parametrize("how", ["el2n", "grand"])
def test_a_confident_image_with_another_label_scores_higher(how):
    one = linear()
    with torch.no_grad():
        one.network[1].weight.mul_(20)
        answers = one.predict(IMAGES.images / 255).probs.argmax(1)
    right, wrong = (score([one], IMAGES.relabelled((answers + step) % 10), how) for step in (0, 1))
    assert bool((wrong > right).all())


def test_what_cannot_be_scored():
    with pytest.raises(ValueError, match="there is none"):
        score([], IMAGES)
    with pytest.raises(ValueError, match="custom has 2 classes, a model 10 outputs"):
        score([linear()], IMAGES.only_classes(["1", "2"]))
    with pytest.raises(ValueError, match="el2n, forgetting, grand"):
        score([linear()], IMAGES, "el3n")


SCORES, LABELS = torch.rand(200, generator=DRAWS).double(), torch.arange(200) // 20


def test_classes_in_another_order_are_refused():
    """The outputs of such a model belong to other labels, and its scores would be of these."""
    one, other = linear(), linear(1)
    one.class_names, other.class_names = list(IMAGES.class_names), IMAGES.class_names[::-1]
    with pytest.raises(ValueError, match="in another order: '0' stands where a model has '9'"):
        score([one, other], IMAGES)


def test_the_next_command_has_the_images_of_the_run(early, capsys):
    for name, seed, classes in (("three", 1, '["3", "8", "5"]'), ("turned", 2, '["8", "5", "3"]')):
        recipe = {**TINY, "epochs": 1, "seed": seed, "split_seed": 0, "val_fraction": 0.2, "anchored": False}
        fit({**recipe, "name": name, "classes": json.loads(classes)}, progress=False, report=False)
    assert main(["select", "runs/three", "--out", "a list", "--floor", "0.5"]) == 0
    words = shlex.split(capsys.readouterr().out.split("next:")[1])[1:]
    assert words[words.index("--selection") + 1] == "a list/selection.json"
    assert main([*words, "--epochs", "1", "--anchored", "false", "--name", "again"]) == 0
    before, after = (ImageRecord.read(early / "runs" / name) for name in ("three", "again"))
    assert after.held_out == before.held_out
    assert set(after.trained) < set(before.trained)
    assert main(["select", "runs/three", "runs/turned"]) == 1
    assert "in another order: '3' stands where a model has '8'" in capsys.readouterr().err


def test_parts_of_a_set():
    assert torch.equal(choose(SCORES, LABELS, 1.0), torch.arange(200))
    high, low = choose(SCORES, LABELS, 0.3), choose(SCORES, LABELS, 0.7, "lowest")
    assert sorted([*high.tolist(), *low.tolist()]) == list(range(200))
    assert float(SCORES[high].min()) > float(SCORES[low].max())
    middle = choose(SCORES, LABELS, 0.5, offset=0.1)
    assert sorted(SCORES[middle].tolist()) == SCORES.sort().values[80:180].tolist()
    drawn = choose(SCORES, LABELS, 0.5, "random", seed=1)
    assert torch.equal(drawn, choose(SCORES, LABELS, 0.5, "random", seed=1))
    assert not torch.equal(drawn, choose(SCORES, LABELS, 0.5, "random", seed=2))


def test_a_floor_of_each_class():
    easy = SCORES - 2.0 * (LABELS == 3)
    assert int((LABELS[choose(easy, LABELS, 0.5)] == 3).sum()) == 0
    floored = choose(easy, LABELS, 0.5, floor=0.2)
    assert (len(floored), int((LABELS[floored] == 3).sum())) == (100, 4)
    own = floored[LABELS[floored] == 3]
    assert sorted(easy[own].tolist()) == easy[LABELS == 3].sort().values[-4:].tolist()
    assert choose(easy, LABELS, 0.5, floor=0.5).unique().numel() == 100
    assert LABELS[choose(easy, LABELS, 0.5, floor=0.5)].bincount().tolist() == [10] * 10
    hard = SCORES + 2.0 * (LABELS == 3)  # all of it lies among the hardest tenth
    assert int((LABELS[choose(hard, LABELS, 0.5, offset=0.1, floor=0.2)] == 3).sum()) == 4


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"share": 0}, "share"),
        ({"share": 1.2}, "share"),
        ({"share": 0.8, "offset": 0.3}, "together at most 1"),
        ({"share": 0.5, "floor": 0.6}, "floor"),
        ({"share": 0.5, "order": "best"}, "'best'"),
    ],
)
def test_choices_that_cannot_be(settings, words):
    with pytest.raises(ValueError, match=words):
        choose(SCORES, LABELS, **settings)


@pytest.fixture(scope="module")
def scored(tmp_path_factory):
    """The runs of two seeds that held out the same."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("scored"))
        for seed in (1, 2):
            recipe = {**TINY, "seed": seed, "split_seed": 0, "name": f"early{seed}", "anchored": False}
            fit(recipe, progress=False, report=False)
        return Path("runs").resolve()


@pytest.fixture
def early(scored, tmp_path, monkeypatch):
    """A folder with a copy of those runs, which is the working folder."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(scored, tmp_path / "runs")
    return tmp_path


def subset(file, **more):
    settings = {key: value for key, value in TINY.items() if key != "train_images"}
    return {**settings, "train_images": 160, "anchored": False, "selection": str(file), **more}


def test_names_in_the_table_of_suspicious_labels_are_fit_for_a_spreadsheet(early):
    images = load("digits", "train").subset(range(1))
    images.class_names = ["=1+1"] * 10
    model = kedge.load(early / "runs" / "early1")
    text = _suspicious([model], images, torch.ones(1), torch.tensor([0]), ["-a\rb.png"], 8)
    assert text.splitlines()[1].startswith("'-a\\rb.png,'=1+1,'=1+1,")


def test_a_run_trains_on_what_was_selected(early, capsys):
    words = ["select", "runs/early1", "runs/early2", "--share", "0.5", "--offset", "0.1", "--floor", "0.2"]
    assert main(words) == 0
    file = early / "runs" / "early1-selection" / "selection.json"
    train, val = load_sets(Recipe(**{**TINY, "split_seed": 0}))
    selection = Selection.read(file)
    expected = score([kedge.load(early / "runs" / f"early{seed}") for seed in (1, 2)], train)
    assert torch.allclose(selection.scores, expected)
    chosen = choose(expected, train.labels, 0.5, offset=0.1, floor=0.2)
    assert selection.chosen.nonzero()[:, 0].tolist() == chosen.tolist()
    rows = (file.parent / "suspicious.csv").read_text().splitlines()
    assert rows[0] == "image,label,answer,confidence,score"
    assert rows[1].split(",")[0] == str(int(expected.argmax()))
    result = fit(subset(file, name="small"), progress=False, report=False)
    record = ImageRecord.read(result.folder)
    assert sorted(record.trained) == sorted(train.subset(chosen).keys())
    assert sorted(record.held) == sorted(val.keys())
    assert "selection: 80 of 160 training images" in "".join(load_sets(result.recipe)[0].report.notes)
    capsys.readouterr()
    assert main(["select", "runs/early1", "--how", "grand", "--out", "other", "--order", "lowest"]) == 0
    assert "chosen by grand of 1 models" in capsys.readouterr().out
    # Its own validation images had a part in the list: digits have a part val, drawn ones would.
    with pytest.raises(ValueError, match=r"of the .* held out for validation had a part in the selection"):
        selection.pick(train, train.subset(range(9)))


def listed(**changes):
    images = load("digits", "train").subset(range(40))
    return Selection.of(images, torch.rand(40).double(), torch.arange(20), {"how": "el2n"}), images, changes


def test_images_that_are_gone_mended_or_new(tmp_path):
    selection, images, _ = listed()
    selection.write(tmp_path / "selection.json")
    again = Selection.read(tmp_path / "selection.json")
    assert (again.images, again.about) == (selection.images, selection.about)
    assert torch.equal(again.scores, selection.scores)
    picked, words = again.pick(images)
    assert picked.keys() == images.keys()[:20]
    with pytest.raises(ValueError, match="of the 20 images that the selection chose 1 are gone"):
        again.pick(images.subset(range(1, 40)))
    labels = images.labels.clone()
    labels[:2] = (labels[:2] + 1) % 10
    assert len(again.pick(images.relabelled(labels))[0]) == 20
    more = load("digits", "train").subset(range(43))
    picked, words = again.pick(more)
    assert len(picked) == 20
    assert "3 that were not there then" in words
    with pytest.raises(ValueError, match="known by"):
        again.pick(load("digits", "train", 16))


def test_of_copies_as_many_are_taken_as_were_chosen(tmp_path):
    """All copies of an image would be trained on for one that was chosen, and a share of 0.5 be more than that."""
    once = torch.arange(6, dtype=torch.uint8)[:, None, None, None].expand(6, 1, 4, 4) * 40
    copies = TensorSet(torch.cat([once, once]), torch.arange(12) % 6 % 2, ["a", "b"], "copies")
    named = [(key, copies.class_names[y]) for key, y in zip(copies.keys(), copies.labels.tolist(), strict=True)]
    chosen = torch.tensor([True, True, False, False, False, False] + [True] + 5 * [False])
    selection = Selection(copies.keys_of, named, torch.zeros(12), chosen, {})
    taken, words = selection.pick(copies)
    assert len(taken) == 3
    assert "3 of 12" in words
    assert sorted(map(int, taken.images[:, 0, 0, 0])) == [0, 0, 40]


def test_files_that_are_none(tmp_path):
    with pytest.raises(FileNotFoundError, match="kedge select writes one"):
        fit(subset(tmp_path / "none.json"), progress=False, report=False)
    (tmp_path / "other.json").write_text(json.dumps({"images": []}))
    with pytest.raises(ValueError, match=r"no selection\.json that kedge select wrote"):
        fit(subset(tmp_path / "other.json"), progress=False, report=False)


def test_what_goes_with_no_selection(tmp_path):
    selection, images, _ = listed()
    selection.write(tmp_path / "selection.json")
    with pytest.raises(ValueError, match="label_noise makes some wrong"):
        Recipe.from_dict(subset(tmp_path / "selection.json", label_noise=0.1))
    with pytest.raises(ValueError, match="handed over"):
        fit(subset(tmp_path / "selection.json"), sets=(images, images), progress=False)
    for i in range(12):
        path = tmp_path / "photos" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(torch.randint(256, (8, 8), generator=DRAWS, dtype=torch.uint8).numpy()).save(path)
    folded = {"data": str(tmp_path / "photos"), "folds": 2, "train_images": None, "image_size": 8, "batch_size": 4}
    with pytest.raises(ValueError, match=r"folds: 0"):
        fit(subset(tmp_path / "selection.json", **folded), progress=False)
    with pytest.raises(ValueError, match="read in turn"):
        fit(subset(tmp_path / "selection.json", data="photos-{0..1}.tar"), progress=False)


def test_runs_that_do_not_go_together(early, capsys):
    fit({**TINY, "train_images": 120, "name": "other", "anchored": False}, progress=False, report=False)
    assert main(["select", "runs/early1", "runs/other"]) == 1
    assert "other was trained on other images than early1" in capsys.readouterr().err
    fit({**TINY, "label_noise": 0.2, "name": "noisy"}, progress=False, report=False)
    assert main(["select", "runs/noisy"]) == 1
    assert "label_noise" in capsys.readouterr().err
    kedge.save(kedge.load("runs/early1"), "alone")
    assert main(["select", "alone"]) == 1
    assert "belongs to no run" in capsys.readouterr().err


# Forgetting events


class Said(nn.Module):
    """A network whose answer to the image of brightness i is the i-th of a list."""

    def __init__(self, answers):
        super().__init__()
        self.answers = nn.Parameter(torch.tensor(answers).float())

    def forward(self, x):
        places = (x[:, 0, 0, 0] * 255).round().long() % len(self.answers)
        return nn.functional.one_hot(self.answers.long()[places], 3).float() * 9


# Which of five images each of six checkpoints is right about, one row an image, and what is to be counted by hand.
TABLE = {"111111": 0, "000000": 6, "010101": 2, "110010": 2, "000001": 0}


def looks(rows=TABLE, wrong=2):
    """A checkpoint for each column; all labels are 1."""
    columns = zip(*rows, strict=True)
    made = [kedge.plain(Said([1 if c == "1" else wrong for c in column]), example=(1, 1, 1), mean=0.0, std=1.0)
            for column in columns]  # fmt: skip
    for each in made:
        each.class_names = list("abc")
    return made


SEEN = TensorSet(torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1), torch.ones(5, dtype=torch.long), list("abc"))


def test_forgetting_events_of_a_table():
    assert score([looks()], SEEN, "forgetting").tolist() == list(TABLE.values())
    assert score([iter(looks())], SEEN, "forgetting", batch_size=2).tolist() == list(TABLE.values())
    order = torch.tensor([3, 1, 1, 0])
    assert score([looks()], SEEN.subset(order), "forgetting").tolist() == [2, 6, 6, 0]
    other = looks(["111110", "111111", "000000", "101010", "111111"])
    mean = [(a + b) / 2 for a, b in zip(TABLE.values(), [1, 0, 6, 3, 0], strict=True)]
    assert score([looks(), other], SEEN, "forgetting").tolist() == mean


def test_forgetting_events_are_those_of_brute_force():
    right = torch.rand(40, 9, generator=DRAWS) < 0.5
    right[:3] = False
    expected = []
    for row in right.tolist():
        count = sum(1 for one, other in pairwise(row) if one and not other)
        expected.append(count if any(row) else 9)
    images = TensorSet(torch.arange(40, dtype=torch.uint8).view(-1, 1, 1, 1), torch.ones(40).long(), list("abc"))
    made = looks(["".join(str(int(v)) for v in row) for row in right.tolist()])
    assert score([made], images, "forgetting").tolist() == expected
    assert max(e for e, row in zip(expected, right.tolist(), strict=True) if any(row)) <= 9 // 2


def test_what_forgetting_cannot_count():
    with pytest.raises(TypeError, match="forgetting takes the checkpoints of a run in place of each model, got Plain"):
        score(looks(), SEEN, "forgetting")
    with pytest.raises(TypeError, match="el2n takes models, not several as one, got list"):
        score([looks()], SEEN)
    with pytest.raises(ValueError, match="there are 1 of a run"):
        score([looks()[:1]], SEEN, "forgetting")
    others = looks()
    others[3].class_names = list("xyz")
    with pytest.raises(ValueError, match="with their classes"):
        score([others], SEEN, "forgetting")


def test_of_equal_scores_the_seed_draws():
    """A set lists one class after another: the first of equal ones would be whole classes."""
    same = torch.zeros(200)
    one, again, other = (choose(same, LABELS, 0.5, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert int(LABELS[one].bincount(minlength=10).min()) > 0
    assert int(LABELS[choose(same, LABELS, 0.5, "lowest", offset=0.3)].bincount(minlength=10).min()) > 0


def test_a_floor_above_0_leaves_an_image_of_the_smallest_class():
    labels = torch.tensor([0] * 9 + [1])
    assert 9 in choose(-torch.arange(10.0), labels, 0.5, floor=0.1).tolist()
    assert 9 not in choose(-torch.arange(10.0), labels, 0.5).tolist()


def test_a_run_is_scored_by_what_it_forgot(early, capsys):
    recipe = {**TINY, "epochs": 4, "seed": 3, "split_seed": 0, "anchored": False, "snapshots": 1}
    fit({**recipe, "name": "whole"}, progress=False, report=False)
    assert main(["select", "runs/whole", "--how", "forgetting", "--share", "0.6", "--floor", "0.2"]) == 0
    assert "chosen by forgetting of 1 models" in capsys.readouterr().out
    train, _ = load_sets(Recipe(**{**TINY, "split_seed": 0}))
    kept = [kedge.load(early / "runs" / "whole" / "snapshots" / f"epoch-{i:04d}") for i in (1, 2, 3, 4)]
    with torch.no_grad():
        right = [(m.predict(train.images / 255).probs.argmax(1) == train.labels).tolist() for m in kept]
    counts = [sum(a and not b for a, b in pairwise(row)) if any(row) else 4
              for row in zip(*right, strict=True)]  # fmt: skip
    assert Selection.read("runs/whole-selection/selection.json").scores.tolist() == counts
    assert main(["select", "runs/early1", "--how", "forgetting"]) == 1
    assert "early1 kept 0: train with --snapshots 1" in capsys.readouterr().err
    assert main(["select", "runs/whole/snapshots/epoch-0002", "--how", "forgetting"]) == 1
    assert "whole, in place of one" in capsys.readouterr().err
    assert main(["select", "runs/whole/snapshots/epoch-0002", "--floor", "0.2", "--out", "second"]) == 0
    assert torch.allclose(Selection.read("second/selection.json").scores, score([kept[1]], train))


def test_a_snapshot_is_of_its_run(early):
    """What its run trained on and held out is known of it: a run that goes on from it holds the same out."""
    recipe = {**TINY, "seed": 5, "val_fraction": 0.3, "anchored": False, "snapshots": 1}
    fit({**recipe, "name": "first"}, progress=False, report=False)
    assert run_of(early / "runs" / "first" / "snapshots" / "epoch-0001") == (early / "runs" / "first").resolve()
    kedge.save(kedge.load("runs/first"), "snapshots/alone")
    assert run_of(early / "snapshots" / "alone") is None


def test_a_choice_that_leaves_a_class_out_is_refused_before_it_is_written(early, capsys):
    assert main(["select", "runs/early1", "--share", "0.05", "--out", "small"]) == 1
    error = capsys.readouterr().err
    assert "leaves no image of class" in error
    assert "--floor 0.025" in error
    assert not (early / "small").exists()
    assert main(["select", "runs/early1", "--share", "0.2", "--floor", "0.1", "--out", "small"]) == 0
    assert main(["train", "--data", "digits", "--train_images", "160", "--selection", "small/selection.json",
                 "--epochs", "1", "--name", "on-it", "--split_seed", "0"]) == 0  # fmt: skip

"""Runs with wrong labels: which images, said where, and the same when a run goes on."""

import json

import pytest
import torch

import kedge
from kedge.data import with_label_noise
from kedge.training import fit
from kedge.training.images import load_sets, with_wrong_labels
from kedge.training.module import Run
from kedge.training.recipe import Recipe

pytestmark = pytest.mark.usefixtures("no_report")


@pytest.fixture
def labels(monkeypatch):
    """The labels of each run's training and validation set."""
    seen = []
    original = Run.__init__

    def watch(self, recipe, model, objective, train, val, *more):
        seen.append((train.labels.clone(), val.labels.clone()))
        original(self, recipe, model, objective, train, val, *more)

    monkeypatch.setattr(Run, "__init__", watch)
    return seen


def test_training_labels_alone_are_wrong_and_the_run_says_so(tiny, labels, capsys):
    noisy = fit(tiny(epochs=1, label_noise=0.2))
    said = capsys.readouterr().out
    clean = fit(tiny(epochs=1, name="clean"))
    train, val = load_sets(clean.recipe)
    count = round(0.2 * len(train))
    assert int((labels[0][0] != train.labels).sum()) == count
    assert torch.equal(labels[0][0], with_label_noise(train, 0.2, 0).labels)
    assert torch.equal(labels[0][1], val.labels)
    assert torch.equal(labels[1][0], train.labels)
    assert f"label noise: {count} of the {len(train)} training labels are a random other class" in said
    assert "label noise" not in capsys.readouterr().out
    facts = [json.loads((result.folder / "run.json").read_text())["data"] for result in (noisy, clean)]
    assert facts[0].pop("wrong_labels") == count
    assert facts[0] == facts[1]
    assert torch.equal(noisy.model.references, clean.model.references)


def test_sets_of_ones_own_get_wrong_labels_too(tiny, labels):
    train, val = load_sets(fit(tiny(epochs=1)).recipe)
    fit(tiny(epochs=1, name="own", label_noise=0.1, seed=4), sets=(train, val), progress=False)
    assert torch.equal(labels[-1][0], with_label_noise(train, 0.1, 4).labels)


def test_a_resumed_run_has_the_same_wrong_labels(tiny, labels, break_off):
    recipe = {"epochs": 2, "label_noise": 0.3, "augment": "pixmix"}
    break_off(tiny(**recipe))
    folder = tiny().runs + "/run"
    resumed = fit(resume=folder, progress=False)
    whole = fit(tiny(name="whole", **recipe), progress=False)
    assert all(torch.equal(seen[0], labels[0][0]) for seen in labels)
    states = [torch.load(r.folder / "last.ckpt", weights_only=True)["state_dict"] for r in (resumed, whole)]
    assert all(torch.equal(states[0][name], value) for name, value in states[1].items())
    with pytest.raises(ValueError, match=r"label_noise is 0\.3 there, not 0\.1"):
        fit({"label_noise": 0.1}, resume=folder)


def test_validation_labels_are_wrong_too_where_the_recipe_says_so(tiny, labels, capsys):
    recipe = {"epochs": 1, "label_noise": 0.4, "label_noise_kind": "pair", "temperature": True}
    noisy = fit(tiny(label_noise_val=True, **recipe))
    said = capsys.readouterr().out
    train, val = load_sets(noisy.recipe)
    assert torch.equal(labels[0][0], with_label_noise(train, 0.4, 0, "pair").labels)
    assert torch.equal(labels[0][1], with_label_noise(val, 0.4, 0, "pair", "val").labels)
    counts = {"wrong_labels": round(0.4 * len(train)), "wrong_val_labels": round(0.4 * len(val))}
    facts = json.loads((noisy.folder / "run.json").read_text())["data"]
    assert {key: facts[key] for key in counts} == counts
    assert (
        f"label noise: {counts['wrong_labels']} of the {len(train)} training labels and {counts['wrong_val_labels']} "
        f"of the {len(val)} validation labels are the one other class that their own is taken for"
    ) in said
    alone = fit(tiny(name="alone", **recipe), progress=False)
    assert torch.equal(labels[1][0], labels[0][0])
    assert torch.equal(labels[1][1], val.labels)
    # Of the same weights the right answers are judged by other labels.
    assert noisy.validation["accuracy"] != alone.validation["accuracy"]
    assert noisy.model.steps["temperature"]["value"] != alone.model.steps["temperature"]["value"]


def test_a_page_that_is_made_later_has_the_same_wrong_labels(tiny):
    seen = []

    def page(model, run, val, path, seed, record, about):
        seen.append((val.labels.clone(), about))

    folder = fit(tiny(epochs=1, label_noise=0.4, label_noise_val=True), progress=False, report=page).folder
    fit(resume=folder, progress=False, report=page)
    assert torch.equal(seen[0][0], seen[1][0])
    assert seen[0][1] == seen[1][1]
    assert "wrong on purpose" in seen[0][1][1]


def test_wrong_labels_of_what_there_is_none_of_are_refused(tiny):
    for key, value in (("label_noise_kind", "pair"), ("label_noise_val", True)):
        with pytest.raises(ValueError, match="label_noise is 0, and there are no wrong labels of any kind"):
            fit(tiny(**{key: value}))
    with pytest.raises(ValueError, match="label_noise_kind is one of symmetric, pair, not 'pairs'"):
        fit(tiny(label_noise=0.1, label_noise_kind="pairs"))
    images = kedge.data.load("digits", "train")
    with pytest.raises(ValueError, match="3 folds hold none out: write folds: 0"):
        with_wrong_labels(Recipe(label_noise=0.1, label_noise_val=True, folds=3), images, images.subset(()))

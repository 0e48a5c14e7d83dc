"""What a run started from is part of what it is; records of another training stand in no table."""

import copy
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import kedge
from kedge.data import DataError
from kedge.experiments.evaluating import all_measured, check_judging, earlier_record, evaluate_one, read_record
from kedge.experiments.experiment import Experiment, load_experiment
from kedge.experiments.reproducing import gathered
from kedge.experiments.running import plan, train_one
from kedge.training import fitting


@pytest.fixture
def small(tmp_path):
    """The planned runs of a small experiment, a run and one that starts from it, with changes."""
    values = {
        "title": "Small", "source": "nowhere", "data": ["digits"],
        "base": {"model": "kedge_resnet_small", "arguments": {"width": 4}, "epochs": 1, "batch_size": 64,
                 "train_images": 300, "anchored": False, "objective": ["CrossEntropy"], "lr": 0.02},
        "variants": {"first": {"lr": 0.1}, "longer": {"after": "first", "average": 1.0}},
        "evaluation": {"shift": ["contrast"], "severities": [5]}, "scales": {"laptop": {}}, "seeds": 1,
    }  # fmt: skip

    def planned(out=tmp_path, evaluation=(), variants=None, **base):
        changed = copy.deepcopy(values)
        changed["base"] |= base
        changed["evaluation"] |= dict(evaluation)
        for name, own in (variants or {}).items():
            changed["variants"].setdefault(name, {}).update(own)
        return plan(Experiment.from_dict(changed, "small"), "laptop", [0], out, "digits")

    return planned


def done(planned):
    """Their records, trained and measured."""
    records = {}
    for each in planned:
        train_one(each)
        records[each.name] = evaluate_one(each)
    return records


def test_earlier_results_do_not_count_where_what_a_variant_starts_from_is_trained_otherwise(tmp_path):
    better = load_experiment("cifar10-better")
    scales = {**better.scales, "longer": {**better.scales["quick"], "epochs": 60}}
    better = replace(better, scales=scales)
    quick, longer = (plan(better, scale, [0], tmp_path, "cifar10") for scale in ("quick", "longer"))
    record = {
        "network": "n", "parameters": 1, "training_seconds": 1.0, "evaluation_seconds": 1.0, "images": 10,
        "missing": [], "errors": [], "measures": {"clean accuracy": 80.0}, "corrected": {}, "severities": {},
        "corruptions": {},
    }  # fmt: skip
    results = gathered(better, "quick", quick, {each.name: record for each in quick}, "")
    assert [each.name for each in quick if earlier_record(each, results) is None] == []
    assert [each.name for each in longer if earlier_record(each, results)] == []


def test_what_started_from_a_run_that_was_trained_anew_is_said(small):
    done(small())
    first, longer = small(variants={"first": {"lr": 0.3}})
    shutil.rmtree(first.run)
    time.sleep(1)  # records hold times to the second
    train_one(first)
    assert read_record(longer) is None
    with pytest.raises(ValueError, match=r"longer-0 started from .*first-0, which was trained anew since: move it"):
        train_one(longer)


def test_a_folder_spelled_otherwise_is_the_same_folder(small, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done(small(Path("here")))
    assert [each.name for each in small(tmp_path / "here") if read_record(each) is None] == []


def test_a_record_of_fewer_epochs_is_not_one_of_more(small):
    one, _ = small(schedule="constant", warmup=0)
    done([one])
    assert read_record(one) is not None
    two, _ = small(schedule="constant", warmup=0, epochs=2)
    assert read_record(two) is None


def test_results_say_where_a_training_was_taken_back(small, monkeypatch):
    from kedge.training import checkpoint_selection

    planned = small(variants={"longer": {"average": None, "clip": 1.0}})

    def most_trained(accuracy):
        accuracy(0.4)  # makes the model that is kept
        return 0.4, {0.0: 1.0, 1.0: 0.5, 0.4: 1.0}

    monkeypatch.setattr(checkpoint_selection, "most_trained", most_trained)
    records = done(planned)
    experiment = load_experiment("digits-masking")
    (note,) = gathered(replace(experiment, notes=[], contrasts={}), "laptop", planned, records, "")["notes"]
    assert "taken back" in note
    assert "longer-0 (40 % kept)" in note
    assert "first-0" not in note


def test_a_variant_that_was_asked_for_is_in_the_results_though_its_scale_leaves_it_out(tmp_path):
    noise = load_experiment("cifar10-label-noise")
    planned = plan(noise, "laptop", [0], tmp_path, "cifar10", ["standard-5"])
    assert [each.name for each in planned] == ["standard-5-0"]
    assert [each.name for each in all_measured(noise, "laptop", planned, tmp_path)[0]] == ["standard-5-0"]


@pytest.mark.parametrize("broken", [False, True])
def test_a_bank_is_blurred_once_however_often_a_run_begins(small, monkeypatch, broken):
    blurred = [{"Anchored": {"mask_target": "label", "blur": 3, "average": 2}}, "CrossEntropy"]
    first, longer = small(anchored=True, objective=blurred)
    train_one(first)
    if broken:
        with monkeypatch.context() as patch:
            patch.setattr(fitting, "train_epochs", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                train_one(longer)
    train_one(longer)
    models = [kedge.load(each.run / "model") for each in (first, longer)]
    assert torch.equal(*(model.references for model in models))
    assert [model.bank_prepared for model in models] == [(2, 3), (2, 3)]
    models[0].references = torch.rand(3, 1, 8, 8)  # other images, as they are
    assert models[0].bank_prepared == (1, 0)


@pytest.mark.parametrize(
    "evaluation",
    [
        {"references": 10, "views": 4},  # the views meet the first reference alone
        {"references": 20},  # of a bank of 10
        {"references": True},
        {"references": "blt"},  # without residuals
        {"limit": 0},
        {"equalise": "nope"},
        {"severities": []},
    ],
)
def test_an_evaluation_that_cannot_be_is_an_error_of_the_plan(small, evaluation):
    with pytest.raises(ValueError, match=f"small, first: {next(reversed(evaluation))}"):
        small(anchored=True, objective=["Anchored", "CrossEntropy"], evaluation=evaluation)


def test_images_to_judge_on_that_are_not_there_are_said_before_training(small, tmp_path):
    check_judging(small())
    check_judging(small(evaluation={"part": "rest"}))
    with pytest.raises(ValueError, match="part rest is of training images beyond train_images"):
        check_judging(small(evaluation={"part": "rest"}, train_images=10_000))
    for name in "ab":
        (tmp_path / "photos" / name).mkdir(parents=True)
    elsewhere = [replace(each, recipe=replace(each.recipe, data=str(tmp_path / "photos"))) for each in small()]
    with pytest.raises(DataError, match=r"is judged on images of a part test, and .*photos has all"):
        check_judging(elsewhere)

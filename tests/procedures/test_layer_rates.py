import itertools
import json
from dataclasses import replace

import pytest
import torch
from torch import nn

import kedge
from kedge import optim
from kedge.adaptation import Settings, adapt, draw_shots, find_head, search_layer_rates
from kedge.binomial import folds_interval
from kedge.cli import main
from kedge.optim import stage_of
from kedge.procedures._layer_rates import Candidate, Search
from kedge.procedures._search import search_in_words
from kedge.training import fit
from kedge.training.folder import RunFolder
from kedge.training.recipe import Recipe
from tests.settings import HOUSE

START = HOUSE / "plain" / "model"
QUICK = {"epochs": 2, "lr": 0.05, "device": "cpu", "augment": "none"}


def answering(best, count=100):
    """An `adapt` whose accuracy falls with the distance from `best`, in steps of levels; and what it was asked."""
    levels, asked = [0, 0.01, 0.1, 1], []

    def adapt(rates):
        asked.append(rates)
        away = sum(abs(levels.index(one) - levels.index(other)) for one, other in zip(rates, best, strict=True))
        return torch.arange(count) < count - 10 * away

    return adapt, asked


def test_all_candidates_are_tried_where_the_budget_holds_them():
    adapt, asked = answering((0.01, 1.0))
    search = search_layer_rates(adapt, 2, budget=16)
    assert search.exhaustive
    assert sorted(asked) == sorted(itertools.product((0, 0.01, 0.1, 1), repeat=2))
    assert search.best.rates == (0.01, 1.0)
    assert search.best.accuracy == 1


@pytest.mark.parametrize("seed", range(5))
def test_evolution_tries_no_candidate_twice_and_does_better_than_its_random_half(seed):
    adapt, asked = answering((0.1, 0.01, 1.0, 0.0))
    search = search_layer_rates(adapt, 4, budget=40, seed=seed)
    assert not search.exhaustive
    assert len(asked) == len(set(asked)) == 40
    assert asked[:2] == [(0,) * 4, (1,) * 4]
    assert search.best.accuracy >= max(each.accuracy for each in search.candidates[:20])
    assert search.best.accuracy >= 0.9
    again = search_layer_rates(adapt, 4, budget=40, seed=seed)
    assert [each.rates for each in again.candidates] == [each.rates for each in search.candidates]
    assert again.optimism == search.optimism


def test_of_equals_the_one_that_moves_least_is_best():
    search = search_layer_rates(lambda rates: torch.ones(9, dtype=torch.bool), 2, budget=16)
    assert search.best.rates == (0, 0)
    assert search.optimism == 0  # nothing was chosen by chance


def test_the_optimism_of_the_best_of_many_equal_ones():
    """Of k candidates that are all right with p = 1/2, chosen on n images: what an n-fold repeat says of the excess."""
    draws = torch.Generator().manual_seed(0)
    excess, stated = [], []
    for seed in range(60):
        right = torch.rand(12, 100, generator=draws) < 0.5
        search = Search([Candidate((float(i),), row) for i, row in enumerate(right)], seed, True)
        excess.append(search.best.accuracy - 0.5)
        stated.append(search.optimism)
    mean = [float(torch.tensor(each).mean()) for each in (excess, stated)]
    assert mean[0] == pytest.approx(0.081, abs=0.01)  # 1.629 standard errors of 0.05: the largest of twelve normals
    assert mean[1] == pytest.approx(mean[0], rel=0.35)


def test_what_cannot_be_searched():
    with pytest.raises(ValueError, match="budget of 2"):
        search_layer_rates(lambda rates: torch.ones(3), 2, budget=1)
    with pytest.raises(ValueError, match="choices"):
        search_layer_rates(lambda rates: torch.ones(3), 2, choices=(-1, 1))
    with pytest.raises(ValueError, match="held-out images"):
        search_layer_rates(lambda rates: torch.ones(0), 1)
    sizes = iter([3, 4])
    with pytest.raises(ValueError, match="held-out images"):
        search_layer_rates(lambda rates: torch.ones(next(sizes)), 1)


def test_stages_are_as_even_as_can_be():
    assert [stage_of(n, 7, 3) for n in range(7, 0, -1)] == [0, 0, 0, 1, 1, 2, 2]
    with pytest.raises(ValueError, match="8 stages"):
        stage_of(1, 7, 8)


def test_rates_of_stages():
    model = nn.ModuleList(nn.Linear(1, 1, bias=False) for _ in range(4))
    numbers = {layer.weight: number for layer, number in zip(model, (3, 2, 1, 0), strict=True)}
    groups = optim.by_layer(optim.parameter_groups(model, 0.0), numbers, 0.5, 1.0, 2.0, [0.0, 0.1, 1.0])
    assert {g["layer"]: g["lr"] for g in groups} == {3: 0.0, 2: 0.05, 1: 0.5, 0: 1.0}


@pytest.mark.parametrize("rule", ["sgd", "adamw"])
def test_stages_at_zero_stay_as_they_are_to_the_bit(rule):
    """Batch-norm statistics too; the head learns."""
    body, train = kedge.load(START), draw_shots(kedge.data.load("digits", "train"), 5)
    recipe = {"init_from": str(START), "layer_lr": [0, 0], "optimizer": {rule: {"lr": 0.01, "weight_decay": 0.1}}}
    recipe |= {"epochs": 2, "batch_size": 25, "device": "cpu", "average": 1.0}
    model = fit({**recipe, "data": "digits", "name": rule}, sets=(train, train), progress=False, report=False).model
    head = f"network.{find_head(body)}."
    began = body.state_dict()
    for name, value in model.state_dict().items():
        if name.startswith(head):
            assert not torch.equal(value, began[name]), name
        elif name in began and "references" not in name:
            assert torch.equal(value, began[name]), name


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_equal_factors_are_ordinary_fine_tuning():
    body, train = kedge.load(START), draw_shots(kedge.data.load("digits", "train"), 3)
    with_one, without = (adapt(body, train, how="finetune", layer_lr=each, **QUICK).model for each in ([1.0], None))
    assert all(torch.equal(value, without.state_dict()[name]) for name, value in with_one.state_dict().items())


@pytest.mark.slow
def test_a_search_by_folds_of_few_images(tmp_path):
    body, train = kedge.load(START), draw_shots(kedge.data.load("digits", "train"), 3)
    own = {**QUICK, "epochs": 1, "layer_lr": "search", "stages": 2, "budget": 3}
    adapted = adapt(body, train, how="lp-ft", out=tmp_path / "out", **own)
    record = adapted.record["layer_lr"]
    assert record["images"] == 30  # each once, by a model that did not see it
    assert [each["rates"] for each in record["tried"][:2]] == [[0, 0], [1, 1]]
    assert len(record["tried"]) == 3
    assert record["accuracy"] == max(each["accuracy"] for each in record["tried"])
    assert record["interval"] == list(folds_interval(round(30 * record["accuracy"]), 30))
    written = RunFolder(adapted.folder)
    assert written.recipe().layer_lr == record["rates"]
    assert json.loads((adapted.folder / "run.json").read_text())["adaptation"]["layer_lr"] == record
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["adapted.json", "linear-probe", "lp-ft"]
    words = search_in_words(record)
    assert "best of 3 tried" in words
    assert "because it was chosen" in words
    straight = adapt(body, train, how="lp-ft", **{**own, "layer_lr": record["rates"]})
    assert all(torch.equal(v, straight.model.state_dict()[k]) for k, v in adapted.model.state_dict().items())


def test_a_search_goes_on_where_it_was_broken_off(tmp_path, monkeypatch):
    import kedge.procedures._search as place

    body, train = kedge.load(START), draw_shots(kedge.data.load("digits", "train"), 3)
    val = draw_shots(kedge.data.load("digits", "test"), 2)
    own = {**QUICK, "epochs": 1, "layer_lr": "search", "stages": 2, "budget": 3}
    whole = adapt(body, train, val, how="finetune", out=tmp_path / "whole", **own)
    perform, calls = place.perform, []

    def counted(context):
        calls.append(context.settings.layer_lr)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return perform(context)

    monkeypatch.setattr(place, "perform", counted)
    with pytest.raises(KeyboardInterrupt):
        adapt(body, train, val, how="finetune", out=tmp_path / "out", **own)
    again = adapt(body, train, val, how="finetune", out=tmp_path / "out", **own)
    assert calls[0] == [0, 0]
    assert calls[1] == calls[2] == [1, 1]  # the first is not tried again
    assert again.record["layer_lr"] == whole.record["layer_lr"]
    assert again.record["layer_lr"]["images"] == 20


def test_images_that_cannot_be_held_out():
    body, train = kedge.load(START), draw_shots(kedge.data.load("digits", "train"), 1)
    with pytest.raises(ValueError, match="none can be held out"):
        adapt(body, train, how="finetune", layer_lr="search", **QUICK)


@pytest.mark.parametrize(
    ("settings", "words"),
    [({"layer_lr": "find"}, "find"), ({"budget": 1}, "budget"), ({"stages": 0}, "stages")],
)
def test_settings_that_cannot_be(settings, words):
    with pytest.raises(ValueError, match=words):
        Settings(**settings).check()


def test_factors_that_cannot_be():
    with pytest.raises(ValueError, match="-1"):
        Recipe.from_dict({"layer_lr": [0.1, -1]})
    own = {"init_from": str(START), "data": "digits", "epochs": 1, "device": "cpu", "name": "run"}
    with pytest.raises(ValueError, match="layer_lr has 99 factors"):
        fit({**own, "layer_lr": [1] * 99}, progress=False, report=False)
    with pytest.raises(ValueError, match="batch_norm: frozen"):
        fit({**own, "layer_lr": [0, 1], "batch_norm": "train"}, progress=False, report=False)
    assert not list(RunFolder.plan(replace(Recipe(), name="run")).path.glob("*"))


def test_the_command_prints_what_choosing_adds(capsys):
    words = f"adapt {START} --data digits --how finetune --shots 2 --epochs 1 --layer-lr search --stages 1 --budget 2"
    assert main([*words.split(), "--limit", "50", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "finetune, 2 shots, draw 0: stages at" in out
    assert "the best of 2 tried" in out
    assert "because it was chosen by them" in out

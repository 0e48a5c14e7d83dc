"""Anchored models with several references: all rows of a batch are one batch, in answers, steps and the brake."""

import copy

import pytest
import torch
from torch import Tensor, nn

import kedge
from kedge.ensemble import Ensemble
from kedge.test_time import Adapting, BatchStatistics, Tent, WisdomOfCrowds

REFERENCES, BATCH = 10, 64


@pytest.fixture(scope="module")
def anchored(model, streams):
    """Ten references that answer differently: right after a conversion the first layer does not tell them apart."""
    anchored = kedge.anchor(model.network, mean=0.0, std=1.0, example=(1, 8, 8)).eval()
    anchored.class_names = model.class_names
    anchored.references = streams(0.0)[0][:REFERENCES]
    draws = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in anchored.stem.parameters():
            weight.add_(0.05 * torch.randn(weight.shape, generator=draws))
    assert float(anchored.predict(streams(0.0)[0][:8], keep_per_reference=True).per_reference.std(0).max()) > 0.1
    return anchored


@pytest.fixture
def batches(streams):
    return list(streams(0.35)[0].split(BATCH))[:6]


def rows_of(adapting: Adapting) -> list[int]:
    """How many rows the first batch-norm layer of each network sees, pass by pass, from now on."""
    rows: list[int] = []
    for network in (m for m in adapting.adapted.modules() if isinstance(m, kedge.AnchoredModel)):
        layer = next(m for m in network.modules() if isinstance(m, nn.BatchNorm2d))
        layer.register_forward_pre_hook(lambda _, arguments: rows.append(len(arguments[0])))
    return rows


def in_one_pass(anchored: kedge.AnchoredModel, images: Tensor) -> Tensor:
    """The mean logits over the bank, every layer with the statistics of all rows as torch takes them in training."""
    anchored = copy.deepcopy(anchored).eval()
    for layer in anchored.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.track_running_stats, layer.running_mean, layer.running_var = False, None, None
    bank = anchored.references
    with torch.no_grad():
        rows = anchored.network_logits(images.repeat(len(bank), 1, 1, 1), bank.repeat_interleave(len(images), 0))
    return rows.unflatten(0, (len(bank), -1)).mean(0)


def test_the_rows_of_all_references_are_one_batch(anchored, batches):
    adapting = Adapting(anchored, Tent(1e-2))
    rows = rows_of(adapting)
    for ask in (adapting.predict, adapting.answers, adapting.outputs):
        ask(batches[0])
        assert rows == [REFERENCES * BATCH] * 2, "an answer, and a step"
        rows.clear()
    adapting.answers(batches[0], 4)
    assert rows == [4 * BATCH] * 2
    rows.clear()
    adapting.answers(batches[0][:2], batches[1][:5])
    assert rows == [10, 10]


def test_statistics_of_all_rows_are_those_of_training_mode(anchored, batches):
    adapting = Adapting(anchored, "batch_statistics")
    for batch in (*batches, batches[0][:5]):
        torch.testing.assert_close(adapting.answers(batch)[0], in_one_pass(anchored, batch), rtol=1e-4, atol=1e-4)


def test_a_prior_is_weighed_against_all_rows(anchored, batches):
    """As many images as rows: the mean of stored and batch statistics, at the first layer that has some."""
    adapting = Adapting(anchored, BatchStatistics(prior=REFERENCES * BATCH))
    layer = next(m for m in adapting.adapted.modules() if isinstance(m, nn.BatchNorm2d))
    before, after = [], []  # what the layer is asked, and what it reads
    layer.register_forward_pre_hook(lambda _, arguments: before.append(arguments[0]), prepend=True)
    layer.register_forward_pre_hook(lambda _, arguments: after.append(arguments[0]))
    adapting.answers(batches[0])
    mean, var = before[0].mean((0, 2, 3)), before[0].var((0, 2, 3), unbiased=False)
    mean, var = (mean + layer.running_mean) / 2, (var + layer.running_var) / 2
    shape = (1, -1, 1, 1)
    expected = (before[0] - mean.view(shape)) / (var.view(shape) + layer.eps).sqrt()
    shown = (after[0] - layer.running_mean.view(shape)) / (layer.running_var.view(shape) + layer.eps).sqrt()
    torch.testing.assert_close(shown, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("together", [False, True])
def test_a_step_is_on_what_was_answered(anchored, model, batches, together, monkeypatch):
    adapting = Adapting(Ensemble([anchored, model, anchored]) if together else anchored, Tent(1e-2))
    rows, climbed = rows_of(adapting), []
    loss = adapting.method.loss

    def noted(logits: Tensor, chosen: Tensor) -> Tensor:
        climbed.append(logits.detach())
        return loss(logits, chosen)

    monkeypatch.setattr(adapting.method, "loss", noted)
    answers = [adapting.answers(batch)[0] for batch in batches]
    torch.testing.assert_close(climbed, answers, rtol=1e-3, atol=1e-3)
    assert set(rows) == {REFERENCES * BATCH}
    assert adapting.record.steps == len(batches)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("together", [False, True])
def test_the_crowd_keeps_everything_of_the_first_batch(anchored, model, batches, together, dtype):
    asked = copy.deepcopy(Ensemble([anchored, model]) if together else anchored).to(dtype)
    adapting = Adapting(asked, WisdomOfCrowds(original="batch"))
    adapting.answers(batches[0].to(dtype))
    assert adapting.record.chosen == BATCH


def test_the_brake_judges_by_the_same_passes(anchored, brake, batches):
    adapting = Adapting(anchored, Tent(1e-3), brake)
    rows = rows_of(adapting)
    for batch in batches:
        adapting.answers(batch[:40])
    assert adapting.record.looks
    # 32: what batches of 40 count as where their statistics are judged.
    assert set(rows) == {REFERENCES * 40, REFERENCES * 32}


def test_features_are_the_mean_over_the_rows(anchored, batches):
    adapting = Adapting(anchored, "batch_statistics")
    for batch in (batches[0], batches[0][:3]):
        outputs = adapting.outputs(batch, features=True)
        weight, bias = outputs.head
        torch.testing.assert_close(outputs.features @ weight.T + bias, outputs.logits, rtol=1e-4, atol=1e-4)


def test_a_budget_of_the_model_holds_where_it_does_not_adapt(anchored, batches):
    anchored = copy.deepcopy(anchored)
    layer = next(m for m in anchored.modules() if isinstance(m, nn.BatchNorm2d))
    expected, rows = anchored.answers(batches[0])[0], []
    with layer.register_forward_pre_hook(lambda _, arguments: rows.append(len(arguments[0]))):
        Adapting(anchored, Tent(1e-2)).source.answers(batches[0])
        assert max(rows) <= BATCH
        rows.clear()
        anchored.max_rows = 20
        torch.testing.assert_close(anchored.answers(batches[0])[0], expected, rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(anchored.for_attack()(batches[0]), expected, rtol=1e-4, atol=1e-4)
        assert max(rows) <= 20
    adapting = Adapting(anchored, Tent(1e-2))
    rows = rows_of(adapting)
    adapting.answers(batches[0])
    assert rows == [REFERENCES * BATCH] * 2
    anchored.max_rows = 0
    with pytest.raises(ValueError, match="max_rows must be at least 1, got 0"):
        anchored.predict(batches[0])

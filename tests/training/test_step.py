"""What a training step does not do: wait for the device, run the network twice, keep anything."""

import pytest
import torch
from tests.attacks.waits import Waits

from kedge.training import fit
from kedge.training.build import make_optimizer
from kedge.training.module import CHECK_EVERY, Run

pytestmark = pytest.mark.usefixtures("no_report")


@pytest.fixture
def watched(monkeypatch):
    """What each step waited for, hook by hook, and how often the network ran in it."""
    seen = {"training_step": [], "on_before_optimizer_step": [], "on_train_batch_end": []}
    runs = []

    def watch(name, original):
        def hook(run, *arguments):
            if name == "training_step":
                runs.append(0)
                handle = run.model.network.register_forward_hook(lambda *_: runs.append(runs.pop() + 1))
            with Waits() as waits:
                result = original(run, *arguments)
            if name == "training_step":
                handle.remove()
            seen[name].append(waits.calls)
            return result

        monkeypatch.setattr(Run, name, hook)

    for name in seen:
        watch(name, getattr(Run, name))
    return seen, runs


@pytest.mark.parametrize("anchored", [False, True])
def test_no_step_waits_and_each_runs_the_network_once(tiny, watched, anchored):
    waits, runs = watched
    fit(tiny(anchored=anchored, ema=0.9, clip=1.0, batch_size=32, epochs=1), progress=False)
    assert len(runs) == 16
    assert set(runs) == {1}
    assert not any(waits["training_step"] + waits["on_before_optimizer_step"] + waits["on_train_batch_end"])


def test_the_loss_is_looked_at_once_in_many_steps(tiny, watched):
    waits, runs = watched
    fit(tiny(anchored=False, batch_size=8, epochs=1), progress=False)
    looks = [step for step, calls in enumerate(waits["training_step"], start=1) if calls]
    assert CHECK_EVERY < len(runs) < 2 * CHECK_EVERY
    assert looks == [CHECK_EVERY]


def test_a_step_leaves_nothing_behind(tiny):
    """`torch.manual_seed` keeps a call, with a stack trace, for every device that has not been used yet."""
    fit(tiny(epochs=1), progress=False)
    before = len(torch.cuda._queued_calls)
    fit(tiny(epochs=1, name="again"), progress=False)
    few = len(torch.cuda._queued_calls) - before
    fit(tiny(epochs=3, name="longer", batch_size=32), progress=False)
    assert len(torch.cuda._queued_calls) - before == 2 * few


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize(
    ("fields", "cuda", "fused"),
    [
        ({}, False, None),
        ({"precision": "bf16"}, True, True),
        ({"precision": "32", "clip": 1.0}, True, True),
        ({"precision": "bf16", "clip": 1.0}, True, None),
        ({"precision": "16"}, True, None),
    ],
)
def test_optimizers_are_fused_on_cuda_where_that_is_allowed(tiny, optimizer, fields, cuda, fused):
    class Weight(torch.nn.Parameter):
        is_cuda = cuda

    model = torch.nn.Module()
    model.weight = Weight(torch.zeros(2, 2))
    rule = make_optimizer(tiny(optimizer=optimizer, lr=0.1, weight_decay=0.0, **fields), model)
    assert rule.defaults["fused"] is fused

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kedge.optim import SlowStartFastDecay, SlowStartHalving


def sgd(*rates):
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates]
    return torch.optim.SGD(groups, lr=1.0)


def run(optimizer, schedule, steps):
    """The rates of each group at each of `steps` steps."""
    seen = []
    for _ in range(steps):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return seen


def rates(make, steps, lr=1.0):
    optimizer = sgd(lr)
    return [row[0] for row in run(optimizer, make(optimizer), steps)]


# Slow start, fast decay


def test_the_formula_at_named_steps():
    # T = 100, W = 30: a line from 0.02 to 1, then 0.05 to the power of the share of the 70 steps that are left.
    seen = rates(lambda o: SlowStartFastDecay(o, 100, 0.3, 0.02, 0.05), 131, lr=0.4)
    by_hand = {
        0: 0.02,
        1: 0.02 + 0.98 / 30,
        15: 0.51,
        29: 0.02 + 0.98 * 29 / 30,
        30: 1.0,
        31: math.exp(math.log(0.05) / 70),
        65: math.sqrt(0.05),
        99: math.exp(math.log(0.05) * 69 / 70),
        100: 0.05,
        101: 0.05,
        130: 0.05,
    }
    assert {step: seen[step] for step in by_hand} == pytest.approx({s: 0.4 * f for s, f in by_hand.items()})


def test_the_defaults_over_ten_epochs():
    # Three epochs up from a hundredth, seven down to a hundredth: the factor of an epoch is 100^(-1/7).
    per_epoch = 40
    seen = rates(lambda o: SlowStartFastDecay(o, 10 * per_epoch), 10 * per_epoch + 1)
    assert seen[:: 3 * per_epoch][:2] == pytest.approx([0.01, 1.0])
    for epoch in range(3, 10):
        assert seen[(epoch + 1) * per_epoch] / seen[epoch * per_epoch] == pytest.approx(100 ** (-1 / 7))


def test_the_exponential_ramp_multiplies_by_the_same_at_every_step():
    seen = rates(lambda o: SlowStartFastDecay(o, 20, 0.4, 1e-4, 0.1, ramp="exp"), 9)
    assert seen == pytest.approx([1e-4, 10**-3.5, 1e-3, 10**-2.5, 1e-2, 10**-1.5, 1e-1, 10**-0.5, 1.0])


def test_no_warm_up_starts_at_the_peak():
    assert rates(lambda o: SlowStartFastDecay(o, 4, warmup=0, end_factor=0.0001), 6) == pytest.approx(
        [1, 0.1, 0.01, 0.001, 0.0001, 0.0001]
    )


@pytest.mark.parametrize("ramp", ["linear", "exp"])
@pytest.mark.parametrize("warmup", [0, 0.3, 0.99])
def test_a_run_of_one_step_is_at_the_peak(warmup, ramp):
    assert rates(lambda o: SlowStartFastDecay(o, 1, warmup, ramp=ramp), 3) == pytest.approx([1.0, 0.01, 0.01])


@settings(deadline=None, max_examples=60)
@given(
    total=st.integers(1, 200),
    warmup=st.floats(0, 0.999),
    start=st.floats(1e-4, 1),
    end=st.floats(1e-4, 1),
    ramp=st.sampled_from(["linear", "exp"]),
)
def test_it_rises_to_exactly_the_peak_and_falls(total, warmup, start, end, ramp):
    seen = rates(lambda o: SlowStartFastDecay(o, total, warmup, start, end, ramp), total + 3)
    peak = next(step for step in range(total) if abs(step - min(warmup * total, total - 1)) <= 0.5 and seen[step] == 1)
    assert max(seen) == 1.0
    assert seen[0] == pytest.approx(start if peak else 1.0)
    assert seen[: peak + 1] == sorted(seen[: peak + 1])
    assert seen[peak:] == sorted(seen[peak:], reverse=True)
    assert seen[total:] == pytest.approx([end] * 3)


# In jumps


def test_five_epochs_up_then_halved():
    seen = rates(lambda o: SlowStartHalving(o, steps_per_epoch=3), 27, lr=0.05)
    # The public re-implementation: one to five times a fifth of the peak, then half of the epoch before.
    expected = [0.01, 0.02, 0.03, 0.04, 0.05, 0.025, 0.0125, 0.00625, 0.003125]
    assert seen == pytest.approx([rate for rate in expected for _ in range(3)])


@settings(deadline=None, max_examples=40)
@given(steps=st.integers(1, 7), rise=st.integers(1, 8), gamma=st.floats(0.05, 1))
def test_jumps_are_between_epochs_only(steps, rise, gamma):
    seen = rates(lambda o: SlowStartHalving(o, steps, rise, gamma), steps * (rise + 5))
    epochs = [seen[i : i + steps] for i in range(0, len(seen), steps)]
    assert all(len(set(epoch)) == 1 for epoch in epochs)
    assert [epoch[0] for epoch in epochs[:rise]] == pytest.approx([(k + 1) / rise for k in range(rise)])
    assert epochs[rise - 1][0] == 1.0
    assert [epoch[0] for epoch in epochs[rise:]] == pytest.approx([gamma ** (k + 1) for k in range(5)])


# Both


BOTH = [
    lambda o: SlowStartFastDecay(o, 30, ramp="exp"),
    lambda o: SlowStartFastDecay(o, 30),
    lambda o: SlowStartHalving(o, 4, rise=3),
]


@pytest.mark.parametrize("make", BOTH)
def test_every_parameter_group_has_its_own_peak(make):
    optimizer = sgd(0.1, 0.03)
    alone = rates(make, 30)
    assert run(optimizer, make(optimizer), 30) == [pytest.approx([0.1 * rate, 0.03 * rate]) for rate in alone]


@pytest.mark.parametrize("make", BOTH)
@pytest.mark.parametrize("stop", [0, 1, 11, 29])
def test_a_resumed_run_has_the_same_rates(make, stop, tmp_path):
    first = sgd(0.1, 0.03)
    whole = run(first, make(first), 35)
    second = sgd(0.1, 0.03)
    schedule = make(second)
    run(second, schedule, stop)
    torch.save({"optimizer": second.state_dict(), "schedule": schedule.state_dict()}, tmp_path / "state.pt")
    saved = torch.load(tmp_path / "state.pt", weights_only=True)
    third = sgd(0.1, 0.03)
    resumed = make(third)
    third.load_state_dict(saved["optimizer"])
    resumed.load_state_dict(saved["schedule"])
    assert run(third, resumed, 35 - stop) == whole[stop:]


def test_it_is_an_ordinary_scheduler_of_torch():
    for make in BOTH:
        assert isinstance(make(sgd(0.1)), torch.optim.lr_scheduler.LRScheduler)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"total_steps": 0}, "total_steps must be a whole number, 1 or more, got 0"),
        ({"total_steps": 10.0}, r"total_steps must be a whole number, 1 or more, got 10\.0"),
        ({"warmup": 1}, r"share of the run in which the rate rises, in \[0, 1\), got 1: 0\.3 is the first 30 %"),
        ({"warmup": 3}, "got 3"),
        ({"warmup": -0.1}, r"got -0\.1"),
        ({"warmup": math.nan}, "got nan"),
        ({"start_factor": 0}, r"start_factor must be in \(0, 1\], a share of the full rate, got 0"),
        ({"end_factor": 1.5}, r"end_factor must be in \(0, 1\].* got 1\.5"),
        ({"ramp": "cosine"}, r"ramp must be one of \('linear', 'exp'\), got 'cosine'"),
    ],
)
def test_values_out_of_range(bad, message):
    with pytest.raises(ValueError, match=message):
        SlowStartFastDecay(sgd(0.1), **{"total_steps": 10, **bad})


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"steps_per_epoch": 0}, "steps_per_epoch must be a whole number, 1 or more, got 0"),
        ({"rise": 0}, "rise must be a whole number"),
        ({"gamma": 0.0}, r"gamma must be in \(0, 1\]"),
        ({"gamma": 2}, "got 2"),
    ],
)
def test_jumps_out_of_range(bad, message):
    with pytest.raises(ValueError, match=message):
        SlowStartHalving(sgd(0.1), **{"steps_per_epoch": 10, **bad})

import math

import pytest
import torch

from kedge.optim import constant, cosine, multistep


def rates(make, steps, lr=0.5):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=lr)
    schedule, seen = make(optimizer), []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


def test_cosine_equals_torchs_own_without_warm_up():
    ours = rates(lambda o: cosine(o, 40), 40)
    theirs = rates(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 40), 40)
    assert ours == pytest.approx(theirs, abs=1e-7)


def test_cosine_with_warm_up_and_floor_by_hand():
    seen = rates(lambda o: cosine(o, 20, warmup=4, floor=0.1), 21, lr=1.0)
    assert seen[:5] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert seen[12] == pytest.approx(0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * 8 / 16)))
    assert seen[20] == pytest.approx(0.1)


def test_multistep_equals_torchs_own():
    ours = rates(lambda o: multistep(o, [5, 9, 12], 0.2), 15)
    theirs = rates(lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [5, 9, 12], 0.2), 15)
    assert ours == pytest.approx(theirs)


def test_constant_warms_up_and_stays():
    assert rates(lambda o: constant(o, warmup=2), 4, lr=1.0) == pytest.approx([0.5, 1.0, 1.0, 1.0])


def test_a_warm_up_as_long_as_the_run_is_refused():
    with pytest.raises(ValueError, match="10 steps does not fit into 10"):
        rates(lambda o: cosine(o, 10, warmup=10), 1)
    with pytest.raises(ValueError, match="rising"):
        rates(lambda o: multistep(o, [5, 3]), 1)


def test_state_survives_a_checkpoint():
    whole = rates(lambda o: cosine(o, 30, warmup=3), 30)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    schedule = cosine(optimizer, 30, warmup=3)
    for _ in range(11):
        optimizer.step()
        schedule.step()
    states = optimizer.state_dict(), schedule.state_dict()
    again = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    resumed = cosine(again, 30, warmup=3)
    again.load_state_dict(states[0])
    resumed.load_state_dict(states[1])
    for step in range(11, 30):
        assert again.param_groups[0]["lr"] == whole[step]
        again.step()
        resumed.step()


@pytest.mark.parametrize("floor", [-0.1, 1.5])
def test_the_floor_of_the_cosine_is_a_share(floor):
    with pytest.raises(ValueError, match=f"floor .* 0 to 1, got {floor}"):
        rates(lambda o: cosine(o, 10, floor=floor), 1)

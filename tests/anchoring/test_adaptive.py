import math
import statistics
import warnings

import pytest
import torch
from torch import nn

import kedge
from kedge.anchoring.adaptive import adaptively, c4, deviation_error, scatter, settled, stages
from tests.anchoring.conftest import SmallNet, disturb


def made(bank=10, scale=1.0, size=12):
    model = disturb(kedge.anchor(SmallNet().eval(), example=(3, size, size)), scale)
    model.references = torch.rand(bank, 3, size, size)
    return model


def rows_of(model):
    """How many rows reach the layer after the first, call by call."""
    seen = []
    model.network.norm.register_forward_pre_hook(lambda _, args: seen.append(len(args[0])))
    return seen


def looked_up(logits):
    """Logits `[K, N, C]` that are known, as the network of `adaptively`; its inputs are their places."""
    return lambda places, start, stop: logits[start:stop, places]


def even(start, stop):
    """Terms whose scatter is the same whichever are taken."""
    return [torch.eye(100)[start:stop]]


def test_the_stages():
    assert stages(10) == [3, 6, 10]
    assert stages(10, 0) == [10]
    assert stages(10, 100) == [2, 4, 8, 10]
    assert stages(1) == stages(1, 0) == [1]
    assert stages(2) == stages(2, 100) == [2]
    assert stages(3, 100) == [2, 3]
    assert stages(500)[0] == 4
    assert stages(500)[-1] == 500
    for wrong in (-0.1, math.nan, math.inf):
        with pytest.raises(ValueError, match="tolerance must be a number, 0 or more"):
            stages(10, wrong)


def test_the_error_of_a_deviation_is_that_of_normal_values():
    assert c4(2) == pytest.approx(math.sqrt(2 / math.pi))
    assert c4(10) == pytest.approx(0.97266, abs=1e-5)  # tables of control charts
    assert deviation_error(10, 10) == 0
    values = torch.randn(200_000, 12, generator=torch.Generator().manual_seed(0))
    for n in (2, 3, 6):
        few = values[:, :n].std(1)
        assert float(few.mean()) == pytest.approx(c4(n), rel=0.01)
        assert float(few.std() / few.mean()) == pytest.approx(deviation_error(n, 10**6), rel=0.02)
        # Against the deviation over the whole bank, to first order.
        apart = (few / c4(n)).log() - (values.std(1) / c4(12)).log() if n > 3 else None
        assert apart is None or float(apart.std()) == pytest.approx(deviation_error(n, 12), rel=0.15)


def test_scatter_is_the_variance_of_the_first_terms():
    terms = torch.randn(9, 4, 3, generator=torch.Generator().manual_seed(0)) + 5
    found = scatter(lambda start, stop: terms[start:stop].split(2), [3, 6, 9])
    expected = torch.stack([terms[:n].var(0).sum() for n in (3, 6, 9)])
    assert torch.allclose(found, expected, rtol=1e-4)
    assert torch.equal(scatter(lambda start, stop: [torch.zeros(stop - start, 4)], [2, 4]), torch.zeros(2))


def test_the_rule_on_margins_worked_out_by_hand():
    # Margins of 1 and 3: mean 2, deviation √2, and for 2 of 4 references an error of √2 √(1/2 - 1/4) = 0.7071.
    logits = torch.tensor([[[1.0, 0.0]], [[0.0, -3.0]]])
    ratio = math.sqrt(0.5) / 2
    assert settled(logits, 4, ratio + 1e-4).tolist() == [True]
    assert settled(logits, 4, ratio - 1e-4).tolist() == [False]
    assert settled(logits, 4, 2 * ratio + 1e-4, scale=2.0).tolist() == [True]
    assert settled(logits, 4, 2 * ratio - 1e-4, scale=2.0).tolist() == [False]
    # With 2 of 10 references more is left out: √2 √(1/2 - 1/10).
    assert settled(logits, 10, ratio + 1e-4).tolist() == [False]
    assert settled(logits, 10, math.sqrt(0.8) / 2 + 1e-4).tolist() == [True]
    # Moving all logits of a reference is no disagreement; nor is there one without another class.
    assert settled(logits + torch.tensor([5.0, -7.0])[:, None, None], 4, ratio + 1e-4).tolist() == [True]
    assert settled(logits[..., :1], 4, 0).tolist() == [True]


def test_every_other_class_counts_and_a_tie_is_open():
    sure = [[4.0, 0, 0], [4.0, 0, 0]]
    # The runner-up is steady, the third class is further off on average but swings.
    swinging = [[4.0, 3.0, -6.0], [4.0, 3.0, 6.0]]
    tie = [[1.0, 0.0, -9], [0.0, 1.0, -9]]
    broken = [[math.nan, 0, 0], [1.0, 0, 0]]
    logits = torch.tensor([sure, swinging, tie, broken]).transpose(0, 1)
    assert settled(logits, 10).tolist() == [True, False, False, False]


def test_an_input_stops_at_its_stage():
    logits = torch.zeros(10, 3, 2)
    logits[:, 0, 0] = 5  # all agree
    logits[:, 1, 0] = torch.tensor([1.0, -1, 1] + [4.0] * 7)  # open after 3: 1/3 on average; settled after 6
    logits[:, 2, 0] = torch.tensor([1.0, -1] * 5)  # even to the end
    mean, spread, used = adaptively(looked_up(logits), even, torch.arange(3), 10)
    assert used.tolist() == [3, 6, 10]
    for i, n in enumerate(used.tolist()):
        assert torch.allclose(mean[i], logits[:n, i].mean(0))
        deviation = logits[:n, i].sigmoid().std(0).mean() * c4(10) / c4(n)
        assert float(spread[i]) == pytest.approx(float(deviation), abs=1e-6)


@pytest.mark.parametrize("tolerance", [0.5, 1.0])
def test_few_references_measure_disagreement_on_the_scale_of_all(tolerance):
    generator = torch.Generator().manual_seed(0)
    n = stages(10, tolerance)[0]
    # The first references differ less from each other than the others do, and so do the logits.
    terms = torch.randn(10, 5000, generator=generator) * torch.tensor([0.5] * n + [2.0] * (10 - n))[:, None]
    along = torch.randn(5000, 4000, generator=generator) / 5000**0.5
    logits = torch.stack([0.01 * terms @ along, torch.full((10, 4000), -20.0)], -1) + torch.tensor([2.0, 0])
    _, spread, used = adaptively(
        looked_up(logits), lambda start, stop: terms[start:stop].split(2), torch.arange(4000), 10, tolerance
    )
    assert set(used.tolist()) == {n}
    whole = logits.sigmoid().std(0).mean(-1)
    assert float(spread.mean() / whole.mean()) == pytest.approx(1, abs=0.03)
    assert float(logits[:n].sigmoid().std(0).mean() / whole.mean()) < 0.4


def test_tolerance_0_is_the_whole_bank():
    model, images = made(), torch.rand(9, 3, 12, 12)
    whole, found = model.predict(images), model.predict(images, "adaptive", tolerance=0)
    assert torch.allclose(found.logits, whole.logits, atol=1e-6)
    assert torch.allclose(found.uncertainty, whole.uncertainty, atol=1e-6)
    assert torch.equal(found.label, whole.label)
    assert found.references_used.tolist() == [10] * 9
    assert whole.references_used is None


def test_a_large_tolerance_is_the_first_stage():
    model, images = made(), torch.rand(9, 3, 12, 12)
    few, found = model.predict(images, 2), model.predict(images, "adaptive", tolerance=1e9)
    assert found.references_used.tolist() == [2] * 9
    assert torch.allclose(found.logits, few.logits, atol=1e-6)
    ratio = found.uncertainty / few.uncertainty
    assert torch.allclose(ratio, ratio[0].expand(9), rtol=1e-4)
    with torch.no_grad():
        terms = model.stem.reference_terms(model.normalise(model.references)).flatten(1)
        expected = (terms.var(0).sum() / terms[:2].var(0).sum()).sqrt() * c4(10) / c4(2)
    assert float(ratio[0]) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize(("batch", "rows"), [(40, None), (40, 7), (1, None), (5, 1)])
def test_rows_through_the_network_are_the_references_used(batch, rows):
    model, images = made(), torch.rand(batch, 3, 12, 12)
    seen = rows_of(model)
    found = model.predict(images, "adaptive", max_rows=rows)
    assert sum(seen) == int(found.references_used.sum())
    assert max(seen) <= (max(batch, 32) if rows is None else rows)
    if batch == 1:
        assert len(seen) == {3: 1, 6: 2, 10: 3}[int(found.references_used)]
    if batch == 40:
        assert set(found.references_used.tolist()) == {3, 6, 10}
    for n in (3, 6, 10):
        got = found.references_used == n
        assert torch.allclose(found.logits[got], model.predict(images, n).logits[got], atol=1e-5)


def test_the_first_layer_sees_an_image_once_in_each_stage():
    model, images = made(), torch.rand(8, 3, 12, 12)
    model.predict(images)  # the terms of the bank are kept from here on
    rows = []
    model.stem.residual.register_forward_hook(lambda _, args, out: rows.append(len(args[0])))
    used = model.predict(images, "adaptive").references_used
    assert sum(rows) == sum({3: 1, 6: 2, 10: 3}[n] for n in used.tolist())


def test_an_answer_depends_on_the_image_and_the_bank_alone():
    model, images = made().double(), torch.rand(30, 3, 12, 12).double()
    found = model.predict(images, "adaptive")
    assert len(set(found.references_used.tolist())) > 1
    again = model.predict(images, "adaptive")
    assert torch.equal(found.logits, again.logits)
    assert torch.equal(found.uncertainty, again.uncertainty)
    order = torch.randperm(30)
    others = torch.cat([images[order], torch.rand(11, 3, 12, 12).double()])
    for mates, mine in ((others, slice(0, 30)), (images[order][:1], slice(0, 1))):
        beside = model.predict(mates, "adaptive")
        asked = order[: len(beside.logits[mine])]
        assert torch.equal(beside.references_used[mine], found.references_used[asked])
        assert torch.allclose(beside.logits[mine], found.logits[asked], atol=1e-12)
        assert torch.allclose(beside.uncertainty[mine], found.uncertainty[asked], atol=1e-12)


def test_a_bank_larger_than_a_pass():
    model, images = made(bank=50), torch.rand(6, 3, 12, 12)
    seen = rows_of(model)
    found = model.predict(images, "adaptive", max_rows=4)
    assert sum(seen) == int(found.references_used.sum())
    assert max(seen) <= 4
    at_once = model.predict(images, "adaptive", max_rows=1000)
    assert torch.equal(found.references_used, at_once.references_used)
    assert torch.allclose(found.logits, at_once.logits, atol=1e-5)
    assert torch.allclose(found.uncertainty, at_once.uncertainty, atol=1e-5)


@pytest.mark.parametrize("bank", [1, 2])
def test_small_banks_are_used_whole(bank):
    model, images = made(bank), torch.rand(5, 3, 12, 12)
    whole, found = model.predict(images), model.predict(images, "adaptive")
    assert found.references_used.tolist() == [bank] * 5
    assert torch.allclose(found.logits, whole.logits, atol=1e-6)
    if bank == 1:
        assert found.uncertainty is None
        with pytest.raises(ValueError, match="one reference"):
            model.predict(images, "adaptive", recalibrate="exp")
    else:
        assert torch.allclose(found.uncertainty, whole.uncertainty, atol=1e-6)


@pytest.mark.parametrize("bank", [1, 10])
def test_an_empty_batch(bank):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = made(bank).predict(torch.rand(0, 3, 12, 12), "adaptive")
    assert found.logits.shape == (0, 5)
    assert found.references_used.shape == (0,)
    assert found.references_used.dtype == torch.int64
    assert found.uncertainty is None if bank == 1 else found.uncertainty.shape == (0,)


def test_references_that_agree_settle_everything_at_once():
    model = kedge.anchor(SmallNet().eval(), example=(3, 12, 12))  # just converted: every reference gives the same
    model.references = torch.rand(10, 3, 12, 12)
    images = torch.rand(4, 3, 12, 12)
    found = model.predict(images, "adaptive")
    assert found.references_used.tolist() == [3] * 4
    assert torch.allclose(found.logits, model(images), atol=1e-6)
    assert torch.equal(found.uncertainty, torch.zeros(4))


def test_temperature_and_recalibration():
    model, images = made(), torch.rand(12, 3, 12, 12)
    plain = model.predict(images, "adaptive")
    spread = plain.uncertainty[:, None]
    assert torch.allclose(
        model.predict(images, "adaptive", recalibrate="exp").logits, plain.logits / (1 + spread.exp()), atol=1e-6
    )
    assert torch.allclose(
        model.predict(images, "adaptive", recalibrate="divide").logits, plain.logits / spread, rtol=1e-5
    )
    model.set_temperature(2.0)
    divided = model.predict(images, "adaptive")
    assert torch.allclose(divided.logits, plain.logits / 2)
    assert torch.equal(divided.uncertainty, plain.uncertainty)
    assert torch.equal(divided.references_used, plain.references_used)


def test_vectors_and_half_precision():
    net = nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 3)).eval()
    model = disturb(kedge.anchor(net, example=(6,)), 1.0)
    model.references = torch.rand(10, 6)
    found = model.predict(torch.rand(20, 6), "adaptive")
    assert found.logits.shape == (20, 3)
    half = made().to(torch.bfloat16).predict(torch.rand(5, 3, 12, 12), "adaptive")
    assert half.logits.dtype == half.uncertainty.dtype == torch.float32
    assert bool(half.logits.isfinite().all())


def test_what_it_refuses():
    model, images = made(), torch.rand(2, 3, 12, 12)
    with pytest.raises(ValueError, match="keep_per_reference"):
        model.predict(images, "adaptive", keep_per_reference=True)
    with pytest.raises(ValueError, match="tolerance must be a number, 0 or more, got -1"):
        model.predict(images, "adaptive", tolerance=-1)
    with pytest.raises(ValueError, match=r'tolerance=0\.5 is of references="adaptive", and references is 3'):
        model.predict(images, 3, tolerance=0.5)
    with pytest.raises(ValueError, match='a number, a tensor, "blt" or "adaptive"'):
        model.predict(images, "adaptiv")
    regression = kedge.anchor(SmallNet(classes=1).eval(), example=(3, 12, 12), task="regression")
    with pytest.raises(ValueError, match="the task is regression"):
        regression.predict(images, "adaptive")


def test_the_mode_of_the_model_is_left_as_it_was():
    model = made().train()
    statistic = model.network.norm.running_mean.clone()
    model.predict(torch.rand(4, 3, 12, 12), "adaptive")
    assert model.training
    assert torch.equal(model.network.norm.running_mean, statistic)


def test_fewer_references_than_all_on_a_model_that_is_mostly_sure():
    model, images = made(scale=0.3), torch.rand(200, 3, 12, 12)
    found, whole = model.predict(images, "adaptive"), model.predict(images)
    assert statistics.fmean(found.references_used.tolist()) < 6
    assert float((found.label == whole.label).float().mean()) > 0.97


def test_equal_first_references_settle_nothing():
    """Their terms do not scatter at all, and rounding must not say that they do."""
    for seed in range(12):
        torch.manual_seed(seed)
        model = disturb(kedge.anchor(SmallNet().eval(), example=(3, 16, 16)), 0.3)
        bank = torch.rand(10, 3, 16, 16)
        bank[1] = bank[2] = bank[0]
        model.references = bank
        images = torch.rand(8, 3, 16, 16)
        prediction = model.predict(images, references="adaptive")
        assert bool((prediction.references_used > 3).all())


@pytest.mark.parametrize("wrong", [-0.1, float("inf"), float("nan"), "0.5", True])
def test_a_tolerance_is_a_number(wrong):
    model = kedge.anchor(SmallNet().eval(), example=(3, 16, 16))
    with pytest.raises(ValueError, match="tolerance must be a number, 0 or more"):
        model.predict(torch.rand(1, 3, 16, 16), references="adaptive", tolerance=wrong)

import copy
import math

import pytest
import torch
import torch.multiprocessing
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import kedge
from kedge.attacks import PGD
from kedge.objectives import CURE, TRADES, Anchored, CrossEntropy
from kedge.objectives._views import BoundReferences, Recorded, bare
from kedge.objectives.cure import lowest
from tests.objectives.small import generator

IMAGES = torch.rand(12, 1, 8, 8, generator=generator(5))
TARGETS = torch.randint(4, (12,), generator=generator(6))
ATTACK = PGD(0.1, steps=2)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(),
        nn.Linear(24, 4),
    )  # fmt: skip


@pytest.fixture
def model():
    return kedge.plain(network(), example=(1, 8, 8), mean=0.5, std=0.25)


def shift(model, images, targets):
    """An attack whose result the tests know."""
    return images + 0.1


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def step(objective, model, images=IMAGES, targets=TARGETS):
    model.zero_grad()
    loss = objective(model, images, targets)
    loss.backward()
    objective.on_gradients(model)
    return loss.detach()


# The mask


def linear_gradients(weight, bias, x, y):
    """Of the mean cross-entropy of a linear classifier, by its closed form: (p - onehot) xᵀ / B."""
    error = (x @ weight.T + bias).softmax(1) - F.one_hot(y, len(bias))
    return error.T @ x / len(x), error.mean(0)


@pytest.mark.parametrize("share", [0.3, 0.5, 0.9])
def test_the_mask_of_a_linear_classifier_is_the_one_computed_by_hand(share):
    torch.manual_seed(1)
    net = nn.Linear(5, 4).double()
    x, y = torch.rand(7, 5).double(), torch.randint(4, (7,))
    step(CURE(CrossEntropy(), shift, frac=share, w_natural=0.2, w_robust=0.7, consistency=0), net, x, y)
    found = gradients(net)
    step(TRADES(CrossEntropy(), shift, beta=1), net, x, y)
    whole = gradients(net)
    natural = linear_gradients(net.weight, net.bias, x, y)
    robust = linear_gradients(net.weight, net.bias, x + 0.1, y)
    for name, n, r in zip(("weight", "bias"), natural, robust, strict=True):
        prominence = (0.2 * n.abs() + 0.7 * r.abs()).detach().flatten()
        count = int(share * prominence.numel())
        threshold = prominence.sort().values[count]
        expected = torch.where(prominence.view(n.shape) < threshold, 0, whole[name])
        assert (expected == 0).sum() == count
        assert torch.allclose(found[name], expected, atol=1e-12)


def test_the_two_absolute_gradients_are_added_not_their_sum(model):
    # Natural and robust gradients that cancel are prominent all the same.
    net = nn.Linear(2, 2, bias=False)
    with torch.no_grad():
        net.weight.zero_()
    x = torch.tensor([[1.0, 0.1]])
    step(CURE(CrossEntropy(), lambda m, x, y: x * torch.tensor([-1.0, 1.0]), frac=0.5, w_natural=0.5, w_robust=0.5,
              consistency=0), net, x, torch.tensor([0]))  # fmt: skip
    assert bool((net.weight.grad[:, 1] == 0).all())


@given(st.integers(0, 40), st.floats(0, 0.99), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_the_lowest_are_as_many_as_asked_for_and_below_the_others(size, share, seed):
    scores = torch.randint(5, (size,), generator=generator(seed)).float()
    where = lowest(scores, share)
    assert int(where.sum()) == math.floor(share * size + 1e-9)
    if where.any() and not where.all():
        assert scores[where].max() <= scores[~where].min()


def test_the_share_of_a_tensor_is_exact_in_floating_point():
    assert int(lowest(torch.rand(10), 0.3).sum()) == 3
    assert int(lowest(torch.rand(4, 3, 5, 5), 0.1).sum()) == 30


@pytest.mark.parametrize("options", [{"frac": 0}, {"mask": "none"}])
def test_without_mask_and_consistency_it_is_trades_to_the_bit(model, options):
    other = copy.deepcopy(model)
    ours = CURE(CrossEntropy(), ATTACK, beta=3.0, consistency=0, generator=generator(), **options)
    theirs = TRADES(CrossEntropy(), ATTACK, beta=3.0, generator=generator())
    assert torch.equal(step(ours, model), step(theirs, other))
    for mine, its in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine.grad, its.grad)
    assert ours.passes == theirs.passes
    assert ours.revision is None


def test_what_is_not_conserved_has_the_gradient_of_trades(model):
    other = copy.deepcopy(model)
    step(CURE(CrossEntropy(), ATTACK, beta=3.0, consistency=0, generator=generator()), model)
    step(TRADES(CrossEntropy(), ATTACK, beta=3.0, generator=generator()), other)
    for mine, its in zip(model.parameters(), other.parameters(), strict=True):
        kept = mine.grad != 0
        assert torch.allclose(mine.grad[kept], its.grad[kept], atol=1e-6)
    for mine, its in zip(model.buffers(), other.buffers(), strict=True):
        assert torch.allclose(mine, its)


def test_the_random_mask_has_the_same_share_and_another_place_each_time(model):
    ours = CURE(CrossEntropy(), ATTACK, mask="random", consistency=0, generator=generator())
    seen = []
    for _ in range(2):
        step(ours, model)
        for parameter in model.parameters():
            # The first bias has no gradient before a batch norm in exact arithmetic, but rounding leaves it some.
            assert int((parameter.grad == 0).sum()) >= int(0.3 * parameter.numel() + 1e-9)
        seen.append(model.network[5].weight.grad == 0)
    assert int(seen[0].sum()) == int(seen[1].sum()) == int(0.3 * 96)
    assert not torch.equal(*seen)


def test_layers_are_chosen_by_name(model):
    step(CURE(CrossEntropy(), ATTACK, layers=["5.weight"], consistency=0), model)
    assert int((model.network[5].weight.grad == 0).sum()) == int(0.3 * 96)
    assert int((model.network[0].weight.grad == 0).sum()) == 0
    with pytest.raises(ValueError, match=r"layers=\('conv9',\)"):
        CURE(CrossEntropy(), ATTACK, layers=["conv9"])(model, IMAGES, TARGETS)


def test_gradients_accumulate_over_batches_until_they_are_used():
    torch.manual_seed(1)
    net = nn.Linear(5, 4).double()
    x, y = torch.rand(8, 5).double(), torch.randint(4, (8,))
    ours = CURE(CrossEntropy(), shift, consistency=0)
    step(ours, net, x, y)
    whole = gradients(net)
    net.zero_grad()
    for part in (slice(0, 4), slice(4, 8)):
        (ours(net, x[part], y[part]) / 2).backward()
    ours.on_gradients(net)
    for name, gradient in gradients(net).items():
        assert torch.allclose(gradient, whole[name], atol=1e-12)
    assert not ours._gradients


def test_frozen_parameters_stay_without_gradient(model):
    model.network[0].requires_grad_(False)
    ours = CURE(CrossEntropy(), ATTACK)
    step(ours, model)
    assert model.network[0].weight.grad is None
    assert int((model.network[5].weight.grad == 0).sum()) == int(0.3 * 96)
    model.requires_grad_(False)
    model.network[5].bias.requires_grad_(True)
    step(ours, model)


def test_the_layout_of_a_gradient_does_not_matter(model):
    other = copy.deepcopy(model).to(memory_format=torch.channels_last)
    step(CURE(CrossEntropy(), ATTACK, generator=generator()), model)
    step(CURE(CrossEntropy(), ATTACK, generator=generator()), other, IMAGES.to(memory_format=torch.channels_last))
    assert torch.equal(model.network[5].weight.grad == 0, other.network[5].weight.grad == 0)


# The revision


def test_the_revision_follows_by_the_rule(model):
    ours = CURE(CrossEntropy(), ATTACK, decay=0.9, update_probability=1.0)
    ours.prepare(model)
    average = [p.detach().clone() for p in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(3):
        average = [0.9 * a + 0.1 * p.detach() for a, p in zip(average, model.parameters(), strict=True)]
        step(ours, model)
        for mine, expected in zip(ours.revision.parameters(), average, strict=True):
            assert torch.allclose(mine, expected, atol=1e-6)
            assert not mine.requires_grad
            assert mine.grad is None
        optimizer.step()


@pytest.mark.parametrize("probability", [0.0, 0.3])
def test_the_revision_follows_as_often_as_asked_for(probability):
    net = nn.Linear(4, 3)
    ours = CURE(CrossEntropy(), shift, decay=0.0, update_probability=probability, generator=generator())
    ours.prepare(net)
    updates = 0
    for _ in range(200):
        with torch.no_grad():
            net.weight.add_(1e-3)
        ours(net, torch.rand(2, 4), torch.tensor([0, 1]))
        updates += int(torch.equal(ours.revision.weight, net.weight))
    assert updates == 0 if probability == 0 else 40 < updates < 80


def test_the_consistency_is_the_divergence_from_the_revision_on_both_kinds_of_images():
    torch.manual_seed(2)
    net = nn.Linear(5, 4).double()
    x, y = torch.rand(6, 5).double(), torch.randint(4, (6,))
    ours = CURE(CrossEntropy(), shift, beta=2.0, consistency=0.5, update_probability=0.0)
    ours.prepare(net)
    with torch.no_grad():
        net.weight.mul_(3)

    def kl(one, other):
        p, q = one.softmax(1), other.softmax(1)
        return (p * (p / q).log()).sum(1).mean()

    old = ours.revision
    expected = F.cross_entropy(net(x), y) + 2.0 * kl(net(x), net(x + 0.1))
    expected = expected + 0.5 * (kl(old(x), net(x)) + kl(old(x + 0.1), net(x + 0.1)))
    assert torch.allclose(ours(net, x, y), expected)
    assert torch.allclose(ours.logged["consistency"], kl(old(x), net(x)) + kl(old(x + 0.1), net(x + 0.1)))


def test_the_revision_runs_in_the_mode_of_the_model(model):
    ours = CURE(CrossEntropy(), ATTACK)
    model.network[1].eval()
    step(ours, model)
    assert ours.revision.training
    assert not ours.revision.network[1].training


def test_a_checkpoint_holds_the_revision(model):
    ours = CURE(CrossEntropy(), ATTACK, decay=0.5, update_probability=1.0)
    ours.prepare(model)
    step(ours, model)
    with torch.no_grad():
        model.network[5].weight.add_(1)
    step(ours, model)
    state = {name: value.clone() for name, value in ours.state_dict().items()}
    other = CURE(CrossEntropy(), ATTACK)
    other.prepare(model)
    other.load_state_dict(state)
    for mine, its in zip(ours.revision.parameters(), other.revision.parameters(), strict=True):
        assert torch.equal(mine, its)


def test_a_generator_decides_every_draw(model):
    def weights(seed):
        net = copy.deepcopy(model)
        torch.manual_seed(seed)
        ours = CURE(CrossEntropy(), ATTACK, mask="random", decay=0.5, update_probability=0.5, generator=generator(3))
        ours.prepare(net)
        optimizer = torch.optim.SGD(net.parameters(), 0.1)
        for _ in range(4):
            step(ours, net)
            optimizer.step()
        return torch.cat([p.detach().flatten() for p in (*net.parameters(), *ours.revision.parameters())])

    assert torch.equal(weights(0), weights(1))


# With the rest


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_inside_anchored_the_revision_sees_the_references_and_the_mask(alpha):
    model = kedge.anchor(network(), example=(1, 8, 8), mean=0.5, std=0.25)
    with torch.no_grad():
        model.stem.reference.weight.add_(0.3 * torch.randn_like(model.stem.reference.weight))
    model.references = torch.rand(3, 1, 8, 8)
    ours = CURE(CrossEntropy(), ATTACK)
    step_ = Anchored(ours, alpha=alpha)
    step_(model, IMAGES, TARGETS).backward()
    # The revision is still the model: any other reference would give another answer.
    assert float(ours.logged["consistency"]) == pytest.approx(0, abs=1e-7)
    ours.on_gradients(model)
    assert int((model.network[5].weight.grad == 0).sum()) == int(0.3 * 96)
    assert type(ours.revision) is type(model)


def test_the_model_is_found_inside_views():
    net = nn.Linear(3, 2)
    assert bare(Recorded(BoundReferences(nn.DataParallel(net), IMAGES, None, None))) is net


def test_mixed_precision_masks_as_many(model):
    ours = CURE(CrossEntropy(), shift, consistency=0)
    with torch.autocast("cpu", torch.bfloat16):
        ours(model, IMAGES, TARGETS).backward()
    ours.on_gradients(model)
    assert int((model.network[5].weight.grad == 0).sum()) == int(0.3 * 96)


def test_passes_count_what_a_step_does():
    trades = TRADES(CrossEntropy(), ATTACK).passes
    assert CURE(CrossEntropy(), ATTACK).passes == pytest.approx(trades + 4 / 3 + 2 / 3)
    assert CURE(CrossEntropy(), ATTACK, mask="random").passes == pytest.approx(trades + 2 / 3)
    assert CURE(CrossEntropy(), ATTACK, consistency=0).passes == pytest.approx(trades + 4 / 3)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"frac": 1.0}, "frac"),
        ({"frac": -0.1}, "frac"),
        ({"w_natural": 0, "w_robust": 0}, "both 0"),
        ({"w_robust": -1}, "w_robust"),
        ({"consistency": math.nan}, "consistency"),
        ({"mask": "top"}, "mask"),
        ({"decay": 1.1}, "decay"),
        ({"update_probability": -0.1}, "update_probability"),
        ({"layers": "conv1"}, "layers"),
    ],
)
def test_values_out_of_range_are_named(options, says):
    with pytest.raises(ValueError, match=says):
        CURE(CrossEntropy(), ATTACK, **options)


def _one_of_two(rank, folder, masks):
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    net = nn.Linear(5, 4).double()
    x, y = _shared(net)
    half = slice(4 * rank, 4 * rank + 4)
    step(CURE(CrossEntropy(), shift, consistency=0), net, x[half], y[half])
    masks[rank] = (net.weight.grad == 0).tolist()
    torch.distributed.destroy_process_group()


def _shared(net):
    draws = generator(4)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.rand(parameter.shape, generator=draws))
    return torch.rand(8, 5, generator=draws).double(), torch.randint(4, (8,), generator=draws)


@pytest.mark.slow
def test_two_processes_mask_alike_by_their_mean_gradient(tmp_path):
    with torch.multiprocessing.get_context("spawn").Manager() as manager:
        masks = manager.dict()
        torch.multiprocessing.spawn(_one_of_two, (str(tmp_path), masks), nprocs=2)
        net = nn.Linear(5, 4).double()
        step(CURE(CrossEntropy(), shift, consistency=0), net, *_shared(net))
        assert masks[0] == masks[1] == (net.weight.grad == 0).tolist()

import pytest
import torch
from torch import nn

import kedge
from kedge.objectives import Anchored, CrossEntropy, Mixup, SquaredError
from tests.objectives.small import Spy

IMAGES = torch.rand(12, 3, 4, 4, generator=torch.Generator().manual_seed(1))
TARGETS = torch.randint(5, (12,), generator=torch.Generator().manual_seed(2))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def net():
    torch.manual_seed(0)
    made = nn.Sequential(nn.Flatten(), nn.Linear(48, 5))
    made.num_outputs = 5
    return made


def with_shares(objective, shares, partners):
    """The objective with these in place of its draws."""
    left = iter(partners)
    objective._shares = lambda points: torch.tensor(shares)
    objective._partners = lambda n, device: torch.tensor(next(left))
    return objective


def test_the_whole_weight_on_the_image_itself_is_the_inner_loss(net):
    other = list(range(11, -1, -1))
    objective = with_shares(Mixup(CrossEntropy(), points=3), [1.0, 0.0, 0.0], [other, other])
    torch.testing.assert_close(objective(net, IMAGES, TARGETS), CrossEntropy()(net, IMAGES, TARGETS))


def test_two_points_are_mixup_bit_for_bit(net):
    """The formula of the paper, with λ from the first of two gamma draws and then a permutation."""
    draws = seeded(3)
    gammas = torch._standard_gamma(torch.full((2,), 0.7), generator=draws)
    share, partner = gammas[0] / gammas.sum(), torch.randperm(12, generator=draws)
    soft = nn.functional.one_hot(TARGETS, 5).float()
    expected = CrossEntropy()(
        net, share * IMAGES + (1 - share) * IMAGES[partner], share * soft + (1 - share) * soft[partner]
    )
    assert torch.equal(Mixup(CrossEntropy(), 0.7, seeded(3))(net, IMAGES, TARGETS), expected)
    assert torch.equal(Mixup(CrossEntropy(), 0.7, seeded(3), points=2)(net, IMAGES, TARGETS), expected)


def test_targets_are_mixed_by_the_shares():
    spy, two = Spy(), nn.Sequential(nn.Flatten(), nn.Linear(48, 2))
    two.num_outputs = 2
    objective = with_shares(Mixup(spy, points=3), [0.5, 0.3, 0.2], [[1, 2, 0], [2, 0, 1]])
    objective(two, IMAGES[:3], torch.tensor([0, 1, 0]))
    _, mixed, targets = spy.seen
    torch.testing.assert_close(targets[0], torch.tensor([0.7, 0.3]))
    torch.testing.assert_close(mixed[0], 0.5 * IMAGES[0] + 0.3 * IMAGES[1] + 0.2 * IMAGES[2])


def test_the_loss_of_the_mixed_target_is_the_authors_sum_over_points(net):
    """Σ_k w_k CE(f(x̃), y_π_k), as the released code adds it up."""
    partners = [torch.randperm(12, generator=seeded(i)).tolist() for i in range(3)]
    shares = [0.4, 0.3, 0.2, 0.1]
    mixed = sum(w * IMAGES[p] for w, p in zip(shares, [list(range(12)), *partners], strict=True))
    expected = sum(
        w * nn.functional.cross_entropy(net(mixed), TARGETS[p])
        for w, p in zip(shares, [list(range(12)), *partners], strict=True)
    )
    loss = with_shares(Mixup(CrossEntropy(), points=4), shares, partners)(net, IMAGES, TARGETS)
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("points", [2, 3, 5])
def test_shares_are_uniform_on_the_simplex(points):
    """The mean of the largest of n is Σ 1/i / n, and each share has the mean 1/n and a variance of (n - 1)/(n²(n + 1)).

    Of two the largest is 3/4, of three 11/18.
    """
    mixup = Mixup(CrossEntropy(), 1.0, seeded(), points=points)
    shares = torch.stack([mixup._shares(points) for _ in range(4000)])
    torch.testing.assert_close(shares.sum(1), torch.ones(4000))
    assert bool((shares >= 0).all())
    largest = sum(1 / i for i in range(1, points + 1)) / points
    assert float(shares.max(1).values.mean()) == pytest.approx(largest, abs=0.01)
    assert shares.mean(0).tolist() == pytest.approx([1 / points] * points, abs=0.015)
    variance = (points - 1) / (points**2 * (points + 1))
    assert shares.var(0).tolist() == pytest.approx([variance] * points, rel=0.12)


def test_a_batch_of_equal_images_stays_and_gets_the_mean_label_by_share(net):
    spy = Spy()
    same = IMAGES[:1].expand(12, -1, -1, -1)
    objective = Mixup(spy, generator=seeded(5), points=4)
    objective(net, same, TARGETS)
    _, mixed, targets = spy.seen
    torch.testing.assert_close(mixed, same.contiguous())
    soft = nn.functional.one_hot(TARGETS, 5).float()
    draws = Mixup(spy, generator=seeded(5), points=4)
    shares = draws._shares(4)
    parents = [torch.arange(12), *(draws._partners(12, torch.device("cpu")) for _ in range(3))]
    torch.testing.assert_close(targets, sum(w * soft[p] for w, p in zip(shares, parents, strict=True)))


@pytest.mark.parametrize("size", [1, 3])
def test_small_and_odd_batches_soft_targets_and_one_class(net, size):
    objective = Mixup(CrossEntropy(), generator=seeded(), points=5)
    for targets in (torch.zeros(size, dtype=torch.long), torch.full((size, 5), 0.2)):
        assert torch.isfinite(objective(net, IMAGES[:size], targets))
    alone = objective(net, IMAGES[:1], TARGETS[:1])
    torch.testing.assert_close(alone, CrossEntropy()(net, IMAGES[:1], TARGETS[:1]))


def test_half_precision_images_stay_in_it(net):
    spy = Spy()
    Mixup(spy, generator=seeded(), points=3)(net.bfloat16(), IMAGES.bfloat16(), TARGETS)
    _, mixed, targets = spy.seen
    assert mixed.dtype == torch.bfloat16
    assert targets.dtype == torch.float32


def test_tiny_parameters_of_the_distribution_give_one_image_all(net):
    assert torch.isfinite(Mixup(CrossEntropy(), 1e-30, seeded(), points=3)(net, IMAGES, TARGETS))


def test_the_generator_decides(net):
    losses = [Mixup(CrossEntropy(), generator=seeded(s), points=3)(net, IMAGES, TARGETS) for s in (1, 1, 2)]
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[1], losses[2])


def test_it_nests_round_anchored():
    model = kedge.anchor(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 5)), references=IMAGES[:4])
    loss = Mixup(Anchored(CrossEntropy(), alpha=0.5), points=4)(model, IMAGES, TARGETS)
    loss.backward()
    assert torch.isfinite(loss)
    with pytest.raises(ValueError, match=r"put it outside: Mixup\(Anchored"):
        Anchored(Mixup(CrossEntropy(), points=4))


@pytest.mark.parametrize("points", [1, 0, 2.5, True, "3"])
def test_points_that_are_none_are_refused(points):
    with pytest.raises(ValueError, match="points is how many images make one, a whole number, 2 or more, got"):
        Mixup(CrossEntropy(), points=points)


def test_a_loss_of_values_is_refused():
    with pytest.raises(ValueError, match="SquaredError cannot take the mixed targets of Mixup"):
        Mixup(SquaredError(), points=3)

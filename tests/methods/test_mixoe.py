"""MixOE against outlier exposure, label smoothing and torch's cross-entropy, and its limits."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kedge
from kedge import attacks, objectives
from kedge.objectives import Anchored, CrossEntropy, CutMix, MixOE, OutlierExposure, mixoe, set_streams
from kedge.objectives._mixing import drawn_box
from kedge.training import fit
from tests.settings import TINY

IMAGES, OUTLIERS = torch.rand(2, 6, 3, 8, 8, generator=torch.Generator().manual_seed(1))
LABELS = torch.randint(4, (6,), generator=torch.Generator().manual_seed(2))


def network(norm=False):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6) if norm else nn.Identity(), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4),
    )  # fmt: skip
    model.num_classes = 4
    return model


def loss_of(objective, model=None, images=IMAGES, labels=LABELS, outliers=OUTLIERS):
    set_streams(objective, outliers=outliers)
    return objective(model or network(), images, labels)


@pytest.fixture
def shares(monkeypatch):
    """Sets λ."""

    def be(share):
        fixed = torch.tensor([share, 1 - share])
        monkeypatch.setattr(mixoe, "drawn_shares", lambda alpha, points=2, generator=None: fixed)

    return be


@pytest.mark.parametrize("op", ["mixup", "cutmix"])
def test_the_ends_are_cross_entropy_and_outlier_exposure(op, shares):
    shares(1.0)
    plain = F.cross_entropy(network()(IMAGES), LABELS)
    torch.testing.assert_close(loss_of(MixOE(CrossEntropy(), op, weight=5.0)), 6 * plain)
    if op == "mixup":  # a box that covers all is cut off at the borders, unless its centre is that of the image
        shares(0.0)
        exposed = loss_of(OutlierExposure(CrossEntropy(), 5.0))
        torch.testing.assert_close(loss_of(MixOE(CrossEntropy(), op, weight=5.0)), exposed)


def test_the_worked_example(shares):
    """C 4, y 0, λ 0.6: target (0.7, 0.1, 0.1, 0.1)."""
    shares(0.6)
    image, outlier = IMAGES[:1], OUTLIERS[:1]
    loss = loss_of(MixOE(CrossEntropy(), weight=1.0), None, image, torch.tensor([0]), outlier)
    mixed = network()(0.6 * image + 0.4 * outlier)
    expected = F.cross_entropy(network()(image), torch.tensor([0]))
    expected += F.cross_entropy(mixed, torch.tensor([[0.7, 0.1, 0.1, 0.1]]))
    torch.testing.assert_close(loss, expected)


def test_an_outlier_that_is_the_image_smooths_its_label(shares):
    shares(0.7)
    loss = loss_of(MixOE(CrossEntropy(), weight=2.0), outliers=IMAGES)
    smooth = F.cross_entropy(network()(IMAGES), LABELS, label_smoothing=0.3)
    torch.testing.assert_close(loss, F.cross_entropy(network()(IMAGES), LABELS) + 2 * smooth)


def test_cutmix_counts_what_is_left(shares):
    """Black outliers on white images: the mean of a mixed image is λ, and the target's."""
    shares(0.5)
    objective = MixOE(CrossEntropy(), "cutmix", generator=torch.Generator().manual_seed(4))
    for _ in range(20):
        mixed, share = objective._mixed(torch.ones(2, 3, 8, 12), torch.zeros(2, 3, 8, 12))
        assert float(mixed.mean()) == pytest.approx(float(share))
        assert 0.35 < float(share) < 1  # sides in whole pixels; cut off at the borders
        assert {0.0, 1.0} == set(mixed.unique().tolist())
    assert not drawn_box(torch.ones(1, 3, 8, 8), torch.tensor(1.0)).any()


def test_the_box_of_cutmix_is_drawn_as_before():
    """The same draws, in the order share, partner, centre."""
    generator = torch.Generator().manual_seed(5)
    loss = CutMix(CrossEntropy(), generator=generator)(network(), IMAGES, LABELS)
    draws = torch.Generator().manual_seed(5)
    gammas = torch._standard_gamma(torch.ones(2), generator=draws)
    share, partner = gammas[0] / gammas.sum(), torch.randperm(6, generator=draws)
    centre = torch.rand(2, generator=draws)
    inside = [((torch.arange(8) + 0.5) - middle * 8).abs() < 8 * (1 - share).sqrt() / 2 for middle in centre]
    box = inside[0][:, None] & inside[1]
    left = 1 - box.float().mean()
    soft = F.one_hot(LABELS, 4).float()
    expected = F.cross_entropy(
        network()(torch.where(box, IMAGES[partner], IMAGES)), left * soft + (1 - left) * soft[partner]
    )
    torch.testing.assert_close(loss, expected)


def test_weight_0_is_the_inner_objective_and_needs_no_outliers():
    objective = MixOE(CrossEntropy(), weight=0.0)
    assert torch.equal(objective(network(), IMAGES, LABELS), CrossEntropy()(network(), IMAGES, LABELS))
    assert objective.passes == 1
    assert MixOE(CrossEntropy()).passes == 2


def test_outliers_never_reach_the_first_term():
    seen = []

    class Seen(CrossEntropy):
        def forward(self, model, images, targets):
            seen.append((images, targets))
            return super().forward(model, images, targets)

    loss_of(MixOE(Seen()))
    ((images, targets),) = seen
    assert torch.equal(images, IMAGES)
    assert torch.equal(targets, LABELS)


def test_two_passes_batch_norm_sees_each_alone(shares):
    shares(0.5)
    model, other = network(norm=True).train(), network(norm=True).train()
    loss_of(MixOE(CrossEntropy()), model)
    other(IMAGES)
    other((IMAGES + OUTLIERS) / 2)
    torch.testing.assert_close(model[1].running_mean, other[1].running_mean)


def test_one_share_for_the_batch_by_the_generator():
    losses = [loss_of(MixOE(CrossEntropy(), generator=torch.Generator().manual_seed(seed))) for seed in (1, 1, 2)]
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[0], losses[2])
    mixed, share = MixOE(CrossEntropy())._mixed(torch.ones(3, 3, 8, 8), torch.zeros(3, 3, 8, 8))
    torch.testing.assert_close(mixed, share.expand_as(mixed))


def test_alpha_is_the_authors_where_nobody_says():
    assert MixOE(CrossEntropy()).alpha == 1
    assert MixOE(CrossEntropy(), "cutmix").alpha == 2
    assert MixOE(CrossEntropy(), "cutmix", 0.5).alpha == 0.5


@pytest.mark.parametrize("outer", [None, lambda o: Anchored(o, alpha=0.5)])
def test_both_passes_have_the_references_of_the_images(outer):
    model = kedge.anchor(network(), example=(3, 8, 8)).train()
    seen, forward = [], model.forward

    def spy(x, references=None, mask=None, **more):
        seen.append((references, mask))
        return forward(x, references, mask, **more)

    model.forward = spy
    objective = MixOE(CrossEntropy())
    loss_of(objective if outer is None else outer(objective), model)
    (one, mask), (other, other_mask) = seen
    assert torch.equal(one, other)
    known = {image.numpy().tobytes() for image in IMAGES}
    assert all(reference.numpy().tobytes() in known for reference in one)
    assert (mask is None) == (outer is None)
    assert mask is None or torch.equal(mask, other_mask)


def test_a_masked_image_stays_at_the_uniform_target(shares):
    shares(0.5)
    model = kedge.anchor(network(), example=(3, 8, 8)).train()
    objective = Anchored(MixOE(CrossEntropy(), weight=1.0), alpha=1.0)
    losses = [loss_of(objective, model, labels=labels) for labels in (LABELS, (LABELS + 1) % 4)]
    assert losses[0].isfinite()
    assert float(losses[0].detach()) > 0


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("op", ["mixup", "cutmix"])
def test_small_batches_of_one_class_soft_targets_and_half_precision(count, op):
    few = IMAGES[:count], torch.zeros(count, dtype=torch.long), OUTLIERS[:count]
    anchored = kedge.anchor(network(), example=(3, 8, 8)).train()
    for model in (network(), anchored):
        assert loss_of(MixOE(CrossEntropy(), op), model, *few).isfinite()
    soft = torch.full((count, 4), 0.25)
    assert loss_of(MixOE(CrossEntropy(), op), None, few[0], soft, few[2]).isfinite()
    with torch.autocast("cpu", torch.bfloat16):
        loss = loss_of(MixOE(CrossEntropy(), op), None, *few)
    assert loss.dtype == torch.float32
    half = loss_of(MixOE(CrossEntropy(), op), network().bfloat16(), few[0].bfloat16(), *few[1:])
    assert half.isfinite()


def test_what_it_cannot_take():
    with pytest.raises(ValueError, match="mixup or cutmix, got 'paste'"):
        MixOE(CrossEntropy(), "paste")
    with pytest.raises(ValueError, match="0 or more, got -1"):
        MixOE(CrossEntropy(), weight=-1)
    with pytest.raises(ValueError, match="must be positive, got 0"):
        MixOE(CrossEntropy(), alpha=0)
    with pytest.raises(ValueError, match="MixOE is for classification; SquaredError is not"):
        MixOE(objectives.SquaredError())
    for inner in (Anchored(CrossEntropy(), alpha=0), objectives.Mixup(CrossEntropy()), OutlierExposure(CrossEntropy()),
                  objectives.Adversarial(CrossEntropy(), attacks.PGD(0.1, 1))):  # fmt: skip
        with pytest.raises(ValueError, match=r"inside MixOE would change the images; put it outside"):
            MixOE(inner)
    with pytest.raises(ValueError, match="put it outside"):
        MixOE(objectives.StableMax(CrossEntropy()))
    with pytest.raises(ValueError, match="as many and as large as the images"):
        loss_of(MixOE(CrossEntropy()), outliers=OUTLIERS[:3])
    with pytest.raises(RuntimeError, match=r"MixOE needs outliers in each step.*extra: {outliers: FOLDER}"):
        MixOE(CrossEntropy())(network(), IMAGES, LABELS)


def test_a_recipe_without_outliers_is_refused_before_data_is_read(tmp_path):
    values = {**TINY, "data": str(tmp_path / "nowhere"), "objective": ["MixOE", "CrossEntropy"]}
    with pytest.raises(ValueError, match="objective MixOE needs outliers beside the training images"):
        fit({**values, "runs": str(tmp_path)}, progress=False)

import pytest
import torch
from torch import nn

import kedge
from kedge.objectives import Anchored, Brier, CrossEntropy, Mixup, Objective, SelfTargets
from kedge.training import fit
from tests.settings import HOUSE, TINY

IMAGES = torch.rand(9, 3, 4, 4, generator=torch.Generator().manual_seed(1))
LABELS = torch.randint(5, (9,), generator=torch.Generator().manual_seed(2))


class Fixed(nn.Module):
    """A model that answers every batch with the same logits."""

    def __init__(self, logits):
        super().__init__()
        self.register_buffer("logits", logits)

    def forward(self, images):
        return self.logits[: len(images)]


def net(seed=0, classes=5):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, classes))


def logits_for(top):
    """Logits whose largest is at `top`, otherwise at random."""
    draws = torch.randn(len(top), 5, generator=torch.Generator().manual_seed(3))
    return draws.scatter(1, top[:, None], 4.0)


class Seen(Objective):
    """Keeps the targets that it gets."""

    def forward(self, model, images, targets):
        self.targets = targets
        return model(images).sum()


def targets_of(start, targets, weight=1.0, model=None, images=IMAGES):
    inner = Seen()
    SelfTargets(inner, start, weight)(model or net(), images, targets)
    return inner.targets


def test_the_worked_example():
    """z₀ = (ln 2, ln 1, ln 1): (1/2, 1/4, 1/4) where the label is 0; half of it with weight 0.5; one-hot elsewhere."""
    start = Fixed(torch.tensor([[2.0, 1.0, 1.0], [2.0, 1.0, 1.0]]).log())
    images, labels = IMAGES[:2], torch.tensor([0, 2])
    whole = targets_of(start, labels, 1.0, net(classes=3), images)
    torch.testing.assert_close(whole, torch.tensor([[0.5, 0.25, 0.25], [0, 0, 1]]))
    half = targets_of(start, labels, 0.5, net(classes=3), images)
    torch.testing.assert_close(half, torch.tensor([[0.75, 0.125, 0.125], [0, 0, 1]]))


@pytest.mark.parametrize("inner", [CrossEntropy, Brier])
def test_a_start_model_that_is_never_right_leaves_the_inner_objective(inner):
    model, start = net(), Fixed(logits_for((LABELS + 1) % 5))
    soft = nn.functional.one_hot(LABELS, 5).float()
    assert torch.equal(SelfTargets(inner(), start)(model, IMAGES, LABELS), inner()(model, IMAGES, soft))


def test_weight_0_is_the_inner_objective_without_a_pass():
    objective = SelfTargets(CrossEntropy(), net(1), weight=0.0)
    assert torch.equal(objective(net(), IMAGES, LABELS), CrossEntropy()(net(), IMAGES, LABELS))
    assert objective.passes == 1
    assert SelfTargets(CrossEntropy(), net(1)).passes == pytest.approx(4 / 3)


def test_hard_answers_are_the_gold_labels():
    """With probabilities that are one-hot, right or wrong, nothing but the labels is left."""
    top = torch.where(torch.arange(9) % 2 == 0, LABELS, (LABELS + 2) % 5)
    hard = Fixed(1e4 * nn.functional.one_hot(top, 5).float())
    assert torch.equal(targets_of(hard, LABELS), nn.functional.one_hot(LABELS, 5).float())


def test_where_it_is_always_right_it_is_distillation_at_temperature_1():
    """The cross-entropy with the start model's probabilities is the KL divergence and their entropy."""
    start, model = Fixed(logits_for(LABELS)), net()
    taught = start(IMAGES).softmax(1)
    kl = nn.KLDivLoss(reduction="batchmean")(model(IMAGES).log_softmax(1), taught)
    entropy = torch.distributions.Categorical(taught).entropy().mean()
    loss = SelfTargets(CrossEntropy(), start)(model, IMAGES, LABELS)
    assert float(loss.detach()) == pytest.approx(float((kl + entropy).detach()), rel=1e-5)


def test_the_share_that_it_is_right_on_is_logged():
    top = LABELS.clone()
    top[:3] = (top[:3] + 1) % 5
    objective = SelfTargets(CrossEntropy(), Fixed(logits_for(top)))
    objective(net(), IMAGES, LABELS)
    assert float(objective.logged["start_right"]) == pytest.approx(6 / 9)


def test_uniform_targets_stay_and_mixed_ones_count_by_their_largest_share():
    start = Fixed(logits_for(LABELS))
    uniform = torch.full((9, 5), 0.2)
    assert torch.equal(targets_of(start, uniform), uniform)
    soft = nn.functional.one_hot(LABELS, 5).float()
    mixed = 0.7 * soft + 0.3 * soft.roll(1, 1)
    torch.testing.assert_close(targets_of(start, mixed), start(IMAGES).softmax(1))
    other = 0.3 * soft + 0.7 * soft.roll(1, 1)
    assert torch.equal(targets_of(start, other), other)


def test_where_masking_takes_the_target_away_it_stays_away():
    model = kedge.anchor(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 5)), references=IMAGES[:4])
    inner = Seen()
    objective = Anchored(SelfTargets(inner, Fixed(logits_for(LABELS))), alpha=0.5)
    objective(model.train(), IMAGES, LABELS).backward()
    uniform = (inner.targets == 0.2).all(1)
    assert 0 < int(uniform.sum()) < 9
    torch.testing.assert_close(inner.targets[~uniform], logits_for(LABELS).softmax(1)[~uniform])


@pytest.mark.parametrize("outer", [lambda o: Mixup(o, alpha=0.3), lambda o: Anchored(o, alpha=0.5)])
def test_it_nests(outer):
    model = kedge.anchor(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 5)), references=IMAGES[:4])
    loss = outer(SelfTargets(CrossEntropy(), model))(model.train(), IMAGES, LABELS)
    loss.backward()
    assert loss.isfinite()


@pytest.mark.parametrize("count", [1, 3])
def test_small_batches_and_half_precision(count):
    labels = torch.zeros(count, dtype=torch.long)
    start = Fixed(logits_for(labels).bfloat16())
    loss = SelfTargets(CrossEntropy(), start)(net(), IMAGES[:count], labels)
    assert loss.isfinite()
    assert loss.dtype == torch.float32


def test_the_start_model_is_a_copy_that_stays():
    model = net()
    objective = SelfTargets(CrossEntropy(), model)
    assert not list(objective.parameters())
    before = model[1].weight.detach().clone()
    with torch.no_grad():
        model[1].weight.zero_()
    assert torch.equal(objective.start.model[1].weight, before)


class Indices(Seen):
    targets_kind = "indices"


def test_what_it_cannot_take():
    with pytest.raises(ValueError, match="starts from new weights: say init_from"):
        SelfTargets(CrossEntropy())
    with pytest.raises(ValueError, match=r"weight is a share, 0 to 1, got 1\.5"):
        SelfTargets(CrossEntropy(), net(), 1.5)
    with pytest.raises(ValueError, match="Indices takes class indices, and SelfTargets makes probabilities"):
        SelfTargets(Indices(), net())
    with pytest.raises(ValueError, match="SquaredError is not"):
        SelfTargets(kedge.objectives.SquaredError(), net())
    with pytest.raises(ValueError, match=r"targets must be class indices \[9\] or probabilities \[9, 4\]"):
        SelfTargets(CrossEntropy(), net(classes=4))(net(), IMAGES, torch.full((9, 5), 0.2))


def recipe(tmp_path, **settings):
    keys = ("model", "arguments", "anchored", "references")
    fields = {"runs": str(tmp_path), "name": "run", "epochs": 1, "objective": ["SelfTargets", "CrossEntropy"]}
    return {**{k: v for k, v in TINY.items() if "init_from" not in settings or k not in keys}, **fields, **settings}


def test_a_run_from_new_weights_is_refused_before_it_has_a_folder(tmp_path):
    with pytest.raises(ValueError, match="starts from new weights: say init_from"):
        fit(recipe(tmp_path), progress=False, report=False)
    assert not (tmp_path / "run").exists()


def test_a_start_model_of_other_images_is_refused_before_the_run_has_a_folder(tmp_path):
    other = kedge.plain(nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), example=(1, 4, 4))
    with pytest.raises(ValueError, match="outputs of the start model, 3, are not"):
        fit(recipe(tmp_path), models={"start_model": other}, progress=False, report=False)
    assert not (tmp_path / "run").exists()


def test_by_default_it_is_the_model_that_the_run_starts_from(tmp_path):
    """As with that model named; a run that goes on knows it too."""
    start = str(HOUSE / "plain" / "model")
    named = [{"SelfTargets": {"start_model": start}}, "CrossEntropy"]
    one = fit(recipe(tmp_path, init_from=start, name="one"), progress=False, report=False)
    other = fit(recipe(tmp_path, init_from=start, name="other", objective=named), progress=False, report=False)
    assert one.history[0]["start_right"] == other.history[0]["start_right"] > 0.2
    expected = other.model.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in one.model.state_dict().items())

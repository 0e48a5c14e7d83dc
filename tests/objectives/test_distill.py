"""Distillation against torch's own losses, a published value, and its limits."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kedge
from kedge import objectives
from kedge.objectives import Anchored, CrossEntropy, Distill, Frozen, distill
from kedge.objectives.distill import fitting_share


class Logits(nn.Module):
    """A model whose logits are a parameter."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(torch.as_tensor(logits, dtype=torch.float64))
        self.num_outputs = self.logits.shape[1]

    def forward(self, images):
        return self.logits


def small(seed, classes=4):
    torch.manual_seed(seed)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(6, classes),
    )  # fmt: skip
    return network


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(6, 3, 8, 8, generator=generator), torch.randint(4, (6,), generator=generator)


IMAGE = torch.zeros(1, 3, 4, 4)


def test_the_worked_example():
    """s = (1, 0, 0), t = (2, 1, 0), T 1.5, label 1: T² KL 0.073461, cross-entropy 1.551445; a quarter: 1.181949."""
    student, teacher = Logits([[1.0, 0.0, 0.0]]), Logits([[2.0, 1.0, 0.0]])
    losses = [Distill(CrossEntropy(), teacher, 1.5, weight) for weight in (1, 0, 0.25)]
    values = [float(loss(student, IMAGE, torch.tensor([1])).detach()) for loss in losses]
    assert values == pytest.approx([0.073461, 1.551445, 1.181949], abs=1e-6)


def test_it_is_torchs_kl_divergence_and_cross_entropy(batch):
    images, labels = batch
    student, teacher = small(0).train(), small(1).eval()
    loss = Distill(CrossEntropy(), teacher, 3.0, 0.7)(student, images, labels)
    logits = small(0).train()(images)
    with torch.no_grad():
        taught = teacher(images)
    kl = nn.KLDivLoss(reduction="batchmean")((logits / 3).log_softmax(1), (taught / 3).softmax(1))
    assert float(loss) == pytest.approx(float(0.7 * 9 * kl + 0.3 * F.cross_entropy(logits, labels)), rel=1e-6)


def test_weight_0_is_the_inner_objective_bit_for_bit(batch):
    images, labels = batch
    student = small(0).train()
    assert torch.equal(Distill(CrossEntropy(), small(1), weight=0)(student, images, labels),
                       CrossEntropy()(small(0).train(), images, labels))  # fmt: skip


def test_a_student_like_its_teacher_has_nothing_to_learn():
    logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(0)).double()
    model = Logits(logits)
    loss = Distill(CrossEntropy(), Logits(logits), 2.0, 1.0)(model, torch.zeros(5, 3, 4, 4), torch.zeros(5).long())
    loss.backward()
    assert float(loss) == pytest.approx(0, abs=1e-12)
    assert float(model.logits.grad.abs().max()) < 1e-12


def test_at_a_high_temperature_it_is_half_the_squared_difference_of_centred_logits():
    generator = torch.Generator().manual_seed(0)
    s, t = (torch.randn(4, 5, generator=generator).double() for _ in range(2))
    loss = Distill(CrossEntropy(), Logits(t), 1e4, 1.0)(Logits(s), torch.zeros(4, 3, 4, 4), torch.zeros(4).long())
    apart = (s - s.mean(1, keepdim=True)) - (t - t.mean(1, keepdim=True))
    assert float(loss) == pytest.approx(float(apart.square().sum(1).mean() / (2 * 5)), rel=1e-3)


def test_the_teacher_is_frozen_and_none_of_the_objectives_weights(batch):
    images, labels = batch
    teacher = small(1).train()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    objective = Distill(CrossEntropy(), teacher)
    assert teacher.training  # the one that was given is left alone
    assert all(parameter.requires_grad for parameter in teacher.parameters())
    assert not list(objective.parameters())
    assert not objective.state_dict()
    objective.train()
    objective(small(0).train(), images, labels).backward()
    inside = objective.teacher.model
    assert not any(module.training for module in inside.modules())
    assert all(torch.equal(value, before[name]) for name, value in inside.state_dict().items())
    objective.double()  # it goes where the objective goes
    assert next(inside.parameters()).dtype == torch.float64
    assert "teacher" not in "".join(nn.ModuleList([objective]).state_dict())


def test_nested_in_anchored_it_sees_the_references_of_the_step(batch):
    images, labels = batch
    model = kedge.anchor(small(0), example=(3, 8, 8)).train()
    teacher = kedge.plain(small(1), example=(3, 8, 8))
    objective = Anchored(
        Distill(CrossEntropy(), teacher, 2.0, 0.5), alpha=0, generator=torch.Generator().manual_seed(3)
    )
    loss = objective(model, images, labels)
    references = Anchored(CrossEntropy(), alpha=0, generator=torch.Generator().manual_seed(3))._draw_references(
        model, images, labels
    )
    logits = model(images, references=references)
    taught = teacher.eval()(images).detach()
    kl = F.kl_div((logits / 2).log_softmax(1), (taught / 2).softmax(1), reduction="batchmean")
    assert float(loss) == pytest.approx(float(0.5 * 4 * kl + 0.5 * F.cross_entropy(logits, labels)), rel=1e-5)


def test_an_image_without_a_label_has_no_teachers_answer_either(batch):
    images, labels = batch
    model = kedge.anchor(small(0), example=(3, 8, 8)).train()
    masked = [
        Anchored(Distill(CrossEntropy(), teacher, 1.0, 1.0), alpha=1.0, generator=torch.Generator().manual_seed(3))
        for teacher in (small(1), small(2))
    ]
    losses = [objective(model, images, labels) for objective in masked]
    assert torch.equal(*losses)  # whoever the teacher is


@pytest.mark.parametrize("wrapper", [
    lambda: objectives.Mixup(CrossEntropy()),
    lambda: objectives.Adversarial(CrossEntropy(), kedge.attacks.PGD(0.1, 2)),
    lambda: Anchored(CrossEntropy(), alpha=0),
    lambda: objectives.OutlierExposure(CrossEntropy()),
])  # fmt: skip
def test_what_changes_images_belongs_outside(wrapper):
    inner = wrapper()
    with pytest.raises(ValueError, match=f"{type(inner).__name__} inside Distill.*put it outside"):
        Distill(inner, small(1))
    outer = type(inner)
    if outer is objectives.Adversarial:
        outer(Distill(CrossEntropy(), small(1)), kedge.attacks.PGD(0.1, 2))
    else:
        outer(Distill(CrossEntropy(), small(1)))


@pytest.mark.parametrize(("arguments", "words"), [
    ({"temperature": 0}, "temperature is a number above 0, got 0"),
    ({"temperature": float("inf")}, "above 0, got inf"),
    ({"weight": 1.5}, "0 to 1, got 1.5"),
])  # fmt: skip
def test_values_out_of_range(arguments, words):
    with pytest.raises(ValueError, match=words):
        Distill(CrossEntropy(), small(1), **arguments)


def test_a_teacher_of_other_classes_or_images_is_refused_before_training():
    model = kedge.plain(small(0), example=(3, 8, 8))
    teacher = kedge.plain(small(1), example=(3, 8, 8))
    model.class_names, teacher.class_names = list("abcd"), list("abdc")
    with pytest.raises(ValueError, match="classes of the teacher, a, b, d, c"):
        Distill(CrossEntropy(), teacher).prepare(model)
    for other in (kedge.plain(small(1, 3), example=(3, 8, 8)), kedge.plain(small(1), example=(3, 12, 12))):
        with pytest.raises(ValueError, match=r"of the teacher, .* are not those of the model"):
            Distill(CrossEntropy(), other).prepare(model)
    with pytest.raises(TypeError, match=r"nn\.Module from images to logits, got 'runs/big'"):
        Distill(CrossEntropy(), "runs/big")


def test_half_precision(batch):
    images, labels = batch
    with torch.autocast("cpu", torch.bfloat16):
        loss = Distill(CrossEntropy(), small(1), 4.0, 0.5)(student := small(0).train(), images, labels)
    whole = Distill(CrossEntropy(), small(1), 4.0, 0.5)(small(0).train(), images, labels)
    assert loss.dtype == torch.float32
    assert float(loss) == pytest.approx(float(whole), rel=0.03)
    loss.backward()
    assert all(parameter.grad.isfinite().all() for parameter in student.parameters())


def test_a_copy_of_a_frozen_model_is_frozen():
    frozen = Frozen(small(1))
    assert frozen(torch.zeros(2, 3, 8, 8)).shape == (2, 4)
    assert not frozen(torch.zeros(2, 3, 8, 8)).requires_grad


def weighted(inner=None, teacher=None, temperature=1.5):
    return Distill(inner or CrossEntropy(), teacher or small(1), temperature, "wsl")


def test_a_share_for_each_image_by_hand():
    """Image 0: teacher and model equally wrong, share 1 - 1/e. Image 1: the model is all but right, share about 0."""
    s, t = [[1.0, 0.0, 0.0], [40.0, 0.0, 0.0]], [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]
    shares = fitting_share(torch.tensor(s), torch.tensor(t), torch.tensor([1, 0]))
    assert shares.tolist() == pytest.approx([1 - math.exp(-1), 0.0], abs=1e-6)
    objective = weighted(teacher=Logits([[2.0, 1.0, 0.0]]))
    loss = objective(Logits([[1.0, 0.0, 0.0]]), IMAGE, torch.tensor([1]))
    # KL 0.073461 and cross-entropy 1.551445 as above; of the teacher 1.407606
    share = 1 - math.exp(-1.551445 / 1.407606)
    assert float(loss.detach()) == pytest.approx((1 - share) * 1.551445 + share * 0.073461, abs=1e-6)
    assert float(objective.logged["teacher_share"]) == pytest.approx(share, abs=1e-6)


def test_it_is_the_loss_of_each_image_in_a_batch(batch):
    images, labels = batch
    weights = [0.5, 1.0, 2.0, 0.7]
    for targets in (labels, F.one_hot(labels, 4).float() * 0.6 + 0.1):
        model, inner = small(0).eval(), CrossEntropy(0.1, weights)
        alone = [weighted(inner)(model, images[i : i + 1], targets[i : i + 1]) for i in range(6)]
        torch.testing.assert_close(weighted(inner)(model, images, targets), torch.stack(alone).mean())


def test_one_share_for_all_is_the_fixed_one(batch, monkeypatch):
    images, labels = batch
    monkeypatch.setattr(distill, "fitting_share", lambda s, t, y: torch.full((len(s),), 0.3))
    fixed = Distill(CrossEntropy(), small(1), 1.5, 0.3)(small(0), images, labels)
    torch.testing.assert_close(weighted()(small(0), images, labels), fixed)


def test_the_share_has_no_gradient(batch):
    images, labels = batch
    model, objective = small(0).eval(), weighted()
    logits = model(images)
    share = fitting_share(logits.detach(), objective.teacher(images), labels)
    kl = F.kl_div((logits / 1.5).log_softmax(1), (objective.teacher(images) / 1.5).softmax(1), reduction="none").sum(1)
    expected = ((1 - share) * F.cross_entropy(logits, labels, reduction="none") + share * 1.5**2 * kl).mean()
    expected.backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    objective(model, images, labels).backward()
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_a_masked_image_has_no_teachers_answer_with_shares_either(batch):
    images, labels = batch
    model = kedge.anchor(small(0), example=(3, 8, 8)).train()
    losses = [
        Anchored(weighted(teacher=small(seed)), alpha=1.0, generator=torch.Generator().manual_seed(3))(
            model, images, labels
        )
        for seed in (1, 2)
    ]
    assert torch.equal(*losses)


@pytest.mark.parametrize("count", [1, 3])
def test_small_batches_a_perfect_teacher_and_half_precision(count):
    images, labels = torch.rand(count, 3, 4, 4), torch.zeros(count, dtype=torch.long)
    sure = Logits(torch.tensor([[1e4, 0.0, 0.0]]).repeat(count, 1))
    for model in (Logits(torch.zeros(count, 3)), sure):  # 0 / 0 of a model as sure as its teacher is 0
        assert weighted(teacher=sure)(model, images, labels).isfinite()
    assert float(fitting_share(sure.logits, sure.logits, labels).max()) == 0
    half = weighted(teacher=Logits([[2.0, 1.0, 0.0]]).bfloat16())(
        Logits([[1.0, 0.0, 0.0]]).bfloat16(), IMAGE, labels[:1]
    )
    assert half.isfinite()


def test_what_has_no_loss_for_each_image():
    for inner in (objectives.Fragility(), objectives.ConfidencePenalty()):
        with pytest.raises(ValueError, match=f"{type(inner).__name__} has one loss for all: put CrossEntropy inside"):
            weighted(inner)
    with pytest.raises(ValueError, match="0 to 1, or wsl, got 'learned'"):
        Distill(CrossEntropy(), small(1), 1.0, "learned")
    assert Distill(CrossEntropy(), small(1), 1.0, "0.25").weight == 0.25

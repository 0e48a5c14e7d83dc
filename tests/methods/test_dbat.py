import pytest
import torch
import torch.nn.functional as F
from torch import nn

import kedge
from kedge.objectives import DBAT, Anchored, CrossEntropy, SquaredError, StableMax, set_streams
from kedge.objectives.dbat import agreement
from kedge.training import fit
from tests.objectives.small import generator, one_convolution
from tests.settings import TEACHER, TINY

DRAWS = generator(1)
IMAGES, FURTHER = torch.rand(5, 3, 8, 8, generator=DRAWS), torch.rand(5, 3, 8, 8, generator=DRAWS)
TARGETS = torch.tensor([0, 1, 2, 3, 1])


def network(seed=0):
    torch.manual_seed(seed)
    return one_convolution()


def loss_of(objective, model, further=FURTHER, images=IMAGES, targets=TARGETS):
    set_streams(objective, unlabelled=further)
    return objective(model.train(), images, targets)


@pytest.mark.parametrize(("first", "own", "value"), [(0.9, 0.9, 1.714798), (0.9, 0.1, 0.198451), (0.5, 0.3, 0.693147)])
def test_the_worked_examples(first, own, value):
    one, other = torch.tensor([[first, 1 - first]]), torch.tensor([[own, 1 - own]])
    assert float(agreement(one, other)) == pytest.approx(value, abs=1e-6)


def test_an_earlier_model_that_does_not_know_makes_no_difference():
    own = torch.rand(7, 1, generator=DRAWS)
    values = agreement(torch.full((7, 2), 0.5), torch.cat([own, 1 - own], 1))
    torch.testing.assert_close(values, torch.full((7,), 0.693147))


def test_the_loss_is_that_of_the_authors_code():
    """Their lines of `dbat_loss_type` v1, on the same logits."""
    model, earlier = network(), network(1)
    loss = loss_of(DBAT(CrossEntropy(), earlier, 0.5), model)
    p_1, index = torch.softmax(earlier(FURTHER), dim=1).max(dim=1)
    p_2 = torch.softmax(model(FURTHER), dim=1)[torch.arange(5), index]
    term = (-torch.log(p_1 * (1 - p_2) + p_2 * (1 - p_1) + 1e-7)).mean()
    expected = F.cross_entropy(model(IMAGES), TARGETS) + 0.5 * term
    assert float(loss.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)


def test_only_the_model_learns_and_the_earlier_one_is_in_no_checkpoint():
    earlier = network(1)
    objective = DBAT(CrossEntropy(), earlier)
    model = network()
    loss_of(objective, model).backward()
    assert all(p.grad is not None for p in model.parameters())
    assert all(p.grad is None for p in earlier.parameters())
    assert not objective.state_dict()
    assert not list(objective.parameters())


def test_weight_0_is_the_inner_objective():
    model = network()
    assert torch.equal(
        DBAT(CrossEntropy(), network(1), 0)(model, IMAGES, TARGETS), CrossEntropy()(model, IMAGES, TARGETS)
    )
    assert DBAT(CrossEntropy(), network(1), 0).passes == 1


def test_a_third_model_contradicts_two():
    model, one, other = network(), network(1), network(2)
    both = loss_of(DBAT(DBAT(CrossEntropy(), one, 0.5), other, 0.5), model)
    single = [loss_of(DBAT(CrossEntropy(), each, 0.5), model) for each in (one, other)]
    plain = CrossEntropy()(model, IMAGES, TARGETS)
    torch.testing.assert_close(both, single[0] + single[1] - plain)


def test_confident_agreement_is_bounded_and_has_a_gradient():
    logits = torch.tensor([[80.0, 0.0]], requires_grad=True)
    loss = agreement(torch.tensor([[1.0, 0.0]]), logits.softmax(1))
    loss.backward()
    assert float(loss.detach()) == pytest.approx(16.118, abs=1e-3)
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_it_nests_in_anchored(alpha):
    anchored = kedge.anchor(network(), example=(3, 8, 8))
    earlier = kedge.anchor(network(1), references=IMAGES[:2])
    objective = Anchored(DBAT(CrossEntropy(), earlier), alpha=alpha)
    loss = loss_of(objective, anchored)
    loss.backward()
    assert loss.isfinite()
    assert (float(objective.inner.logged["agreement"]) == 0) == (alpha == 1)


def test_one_image_one_class_soft_targets_and_half_precision():
    objective = DBAT(CrossEntropy(), network(1))
    assert loss_of(objective, network(), FURTHER[:1], IMAGES[:1], TARGETS[:1]).isfinite()
    assert loss_of(objective, network(), targets=0 * TARGETS).isfinite()
    soft = loss_of(objective, network(), targets=F.one_hot(TARGETS, 4).float())
    torch.testing.assert_close(soft, loss_of(objective, network()))
    with torch.autocast("cpu", torch.bfloat16):
        half = loss_of(objective, network())
    assert half.dtype == torch.float32
    assert float(half.detach()) == pytest.approx(float(soft.detach()), rel=0.03)


def test_what_it_cannot_take():
    with pytest.raises(TypeError, match="the previous model is a model"):
        DBAT(CrossEntropy(), "runs/first")
    with pytest.raises(ValueError, match="alpha is a number, 0 or more, got -1"):
        DBAT(CrossEntropy(), network(), -1)
    with pytest.raises(ValueError, match="DBAT is for classification"):
        DBAT(SquaredError(), network())
    with pytest.raises(ValueError, match=r"StableMax\(DBAT"):
        DBAT(StableMax(CrossEntropy()), network())
    with pytest.raises(ValueError, match=r"as many and as large .*got \[2, 3, 8, 8\]"):
        loss_of(DBAT(CrossEntropy(), network()), network(), FURTHER[:2])
    with pytest.raises(RuntimeError, match=r"extra: \{unlabelled: FOLDER\}"):
        DBAT(CrossEntropy(), network())(network().train(), IMAGES, TARGETS)
    objective = DBAT(CrossEntropy(), network())
    set_streams(objective, unlabelled=FURTHER)
    with pytest.raises(ValueError, match="train mode"):
        objective(network().eval(), IMAGES, TARGETS)
    other = kedge.plain(nn.Sequential(nn.Flatten(), nn.Linear(192, 7)), example=(3, 8, 8))
    with pytest.raises(ValueError, match=r"outputs of the previous model, 7, .* the model, 4: name a previous model"):
        DBAT(CrossEntropy(), other).prepare(kedge.plain(network(), example=(3, 8, 8)))


@pytest.mark.parametrize(
    ("entry", "extra", "words"),
    [
        ("DBAT", {"unlabelled": "digits"}, "DBAT needs against: .*the name of a run"),
        ({"DBAT": {"against": TEACHER}}, {}, r"needs unlabelled beside .*extra: \{unlabelled: FOLDER\}"),
        ({"DBAT": {"against": TEACHER}}, {"unlabelled": "digits", "outliers": "digits"}, "extra names outliers"),
    ],
)
def test_runs_that_cannot_be_are_refused_before_they_have_a_folder(tmp_path, entry, extra, words):
    recipe = {**TINY, "runs": str(tmp_path), "name": "run", "objective": [entry, "CrossEntropy"], "extra": extra}
    with pytest.raises(ValueError, match=words):
        fit({**recipe, "anchored": False}, progress=False, report=False)
    assert not (tmp_path / "run").exists()

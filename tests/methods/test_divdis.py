import math

import pytest
import timm
import torch
import torch.nn.functional as F
from sklearn.metrics import mutual_info_score

import kedge
import kedge.networks  # registers kedge's own with timm
from kedge.data import TensorSet
from kedge.expert_weights import disputed, select_head
from kedge.experts import experts_of
from kedge.objectives import Anchored, DivDis, OutlierExposure, set_streams
from kedge.objectives.divdis import divergence, mutual_information
from kedge.training import fit
from tests.settings import TINY

DRAWS = torch.Generator().manual_seed(1)
IMAGES, FURTHER = torch.rand(6, 3, 8, 8, generator=DRAWS), torch.rand(6, 3, 8, 8, generator=DRAWS)
TARGETS = torch.tensor([0, 1, 2, 2, 1, 0])
PAIR = torch.tensor([[0.9, 0.1], [0.1, 0.9]])


def network(heads=2, classes=3):
    torch.manual_seed(0)
    return timm.create_model("kedge_resnet_small", width=4, num_classes=classes, heads=heads)


def plain(heads=2):
    return kedge.plain(network(heads), example=(3, 8, 8))


def loss_of(objective, model, further=FURTHER, images=IMAGES, targets=TARGETS):
    set_streams(objective, unlabelled=further)
    return objective(model.train(), images, targets)


def shared(*heads):
    return float(mutual_information(torch.stack(heads, 1)))


def test_the_worked_examples():
    """Equal and opposite heads 0.221754, independent ones and a constant one 0, sharp ones on balanced images ln 2."""
    assert shared(PAIR, PAIR) == pytest.approx(0.221754, abs=1e-6)
    assert shared(PAIR, PAIR.flip(1)) == pytest.approx(0.221754, abs=1e-6)
    one = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.1, 0.9], [0.1, 0.9]])
    assert shared(one, one[[0, 2, 1, 3]]) == pytest.approx(0, abs=1e-6)
    assert shared(PAIR, torch.full((2, 2), 0.5)) == pytest.approx(0, abs=1e-6)
    assert shared(torch.eye(2), torch.eye(2)) == pytest.approx(math.log(2), abs=1e-6)


def test_of_sharp_answers_it_is_the_mutual_information_of_scikit_learn():
    labels = torch.randint(4, (2, 60), generator=torch.Generator().manual_seed(0))
    labels[1, :30] = labels[0, :30]
    expected = mutual_info_score(labels[0], labels[1])
    assert shared(*F.one_hot(labels, 4).float()) == pytest.approx(expected, abs=1e-6)


def test_it_is_symmetric_not_negative_and_blind_to_the_names_of_a_heads_classes():
    probs = torch.randn(9, 3, 5, generator=DRAWS).softmax(2)
    value = float(mutual_information(probs))
    assert value > 0
    assert float(mutual_information(probs[:, [2, 0, 1]])) == pytest.approx(value, rel=1e-5)
    renamed = probs.clone()
    renamed[:, 1] = probs[:, 1][:, [3, 0, 4, 1, 2]]
    assert float(mutual_information(renamed)) == pytest.approx(value, rel=1e-5)
    pairs = [float(mutual_information(probs[:, [i, j]])) for i, j in ((0, 1), (0, 2), (1, 2))]
    assert sum(pairs) / 3 == pytest.approx(value, rel=1e-5)


def test_images_that_do_not_count_are_as_if_they_were_not_there():
    probs = torch.randn(5, 2, 3, generator=DRAWS).softmax(2)
    counts = torch.tensor([1.0, 0, 1, 1, 0])
    torch.testing.assert_close(mutual_information(probs, counts), mutual_information(probs[counts > 0]))
    assert float(mutual_information(probs, torch.zeros(5))) == 0


def test_probabilities_of_0_have_gradients():
    logits = torch.tensor([[[200.0, 0], [200, 0]], [[200, 0], [0, 200]]], requires_grad=True)
    mutual_information(logits.softmax(2)).backward()
    assert logits.grad.isfinite().all()


def test_the_loss_is_that_of_the_authors_code():
    """Their lines, `DivDisLoss` with mode mi and `kl_backward`, on the same logits."""
    model, objective = plain(), DivDis(3.0, 2.0)
    loss = loss_of(objective, model)
    other = plain().train()
    whole = torch.cat([IMAGES, FURTHER])
    features = other.network.forward_head(other.network.forward_features(other.normalise(whole)), pre_logits=True)
    logits = other.network.fc.each(features)
    yhat, unlabeled = [torch.chunk(part, 2, dim=-1) for part in (logits[:6], logits[6:])]
    main = torch.stack([F.cross_entropy(each, TARGETS) for each in yhat]).mean()
    probs = torch.stack(unlabeled, dim=1).softmax(-1)
    q = probs.mean(0)
    joint = torch.einsum("bhd,bge->bhgde", probs, probs).mean(0)
    kl = (joint * (joint.log() - torch.einsum("hd,ge->hgde", q, q).log())).sum((2, 3))
    repulsion = torch.triu(kl, diagonal=1)[0, 1]
    source = torch.distributions.Categorical(probs=torch.stack(yhat).softmax(-1).mean([0, 1]).detach())
    regular = torch.distributions.kl.kl_divergence(torch.distributions.Categorical(probs=q), source).mean()
    assert float(loss.detach()) == pytest.approx(float((main + 3 * repulsion + 2 * regular).detach()), rel=1e-5)
    assert set(objective.logged) == {"mutual_information", "class_shift"}


def test_weights_of_0_are_ordinary_training_of_several_heads():
    model, other = plain(), plain().train()
    loss = loss_of(DivDis(0, 0), model)
    features = other.network.forward_head(other.network.forward_features(other.normalise(IMAGES)), pre_logits=True)
    logits = other.network.fc.each(features).unflatten(1, (2, 3))
    torch.testing.assert_close(loss, torch.stack([F.cross_entropy(logits[:, h], TARGETS) for h in (0, 1)]).mean())
    assert DivDis(0, 0).passes == 1
    assert DivDis().passes == 2


def test_the_shares_of_training_images_have_no_gradient_from_the_balance():
    shares = torch.tensor([[0.5, 0.5], [0.2, 0.8]])
    assert float(divergence(shares, torch.tensor([0.5, 0.5]))) == pytest.approx(
        0.5 * (math.log(2) - 0.500402), abs=1e-5
    )


def test_soft_targets_three_heads_one_class_and_half_precision():
    objective, model = DivDis(), plain(3)
    whole = float(loss_of(objective, model).detach())
    soft = F.one_hot(TARGETS, 3).float()
    assert float(loss_of(objective, plain(3), targets=soft).detach()) == pytest.approx(whole, rel=1e-6)
    assert loss_of(objective, plain(3), targets=0 * TARGETS).isfinite()
    half = loss_of(objective, plain(3).bfloat16(), FURTHER.bfloat16(), IMAGES.bfloat16())
    assert half.dtype == torch.float32
    assert half.isfinite()


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_it_nests_in_anchored_outside_and_inside_of_others(alpha):
    model = kedge.anchor(network(), references=IMAGES[:3])
    loss = loss_of(Anchored(DivDis(), alpha=alpha), model)
    loss.backward()
    assert loss.isfinite()
    exposed = OutlierExposure(DivDis())
    set_streams(exposed, unlabelled=FURTHER, outliers=FURTHER.flip(0))
    assert exposed(plain().train(), IMAGES, TARGETS).isfinite()


def test_masked_images_leave_the_terms_but_not_the_loss():
    objective = Anchored(DivDis(), alpha=1.0)
    loss_of(objective, kedge.anchor(network(), references=IMAGES[:3]))
    assert float(objective.inner.logged["mutual_information"]) == 0
    label = Anchored(DivDis(), alpha=1.0, mask_target="label")
    loss_of(label, kedge.anchor(network(), references=IMAGES[:3]))
    assert float(label.inner.logged["mutual_information"]) > 0


def test_what_it_cannot_take():
    with pytest.raises(ValueError, match=r"no layer of experts.*--arguments '\{heads: 2\}'"):
        DivDis().prepare(plain(1))
    with pytest.raises(ValueError, match=r"unlabelled images are as many and as large .*\[6, 3, 8, 8\], got \[2, 3"):
        loss_of(DivDis(), plain(), FURTHER[:2])
    with pytest.raises(RuntimeError, match=r"needs unlabelled in each step.*extra: \{unlabelled: FOLDER\}"):
        DivDis()(plain().train(), IMAGES, TARGETS)
    objective = DivDis()
    set_streams(objective, unlabelled=FURTHER)
    with pytest.raises(ValueError, match=r"train mode.*model.train\(\)"):
        objective(plain().eval(), IMAGES, TARGETS)
    for name in ("weight", "balance"):
        with pytest.raises(ValueError, match=f"{name} is a number, 0 or more, got -1"):
            DivDis(**{name: -1})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, r"DivDis needs unlabelled beside the training images.*extra: \{unlabelled: FOLDER\}"),
        ({"extra": {"unlabelled": "digits"}, "arguments": {"width": 4}}, r"no layer of experts.*heads: 2"),
        ({"extra": {"unlabelled": "digits"}, "objective": ["DivDis", "CrossEntropy"]}, "wraps no other"),
    ],
)
def test_runs_that_cannot_be_are_refused_before_they_have_a_folder(tmp_path, fields, words):
    recipe = {**TINY, "runs": str(tmp_path), "name": "run", "arguments": {"width": 4, "heads": 2}}
    with pytest.raises(ValueError, match=words):
        fit({**recipe, "objective": ["Anchored", "DivDis"], **fields}, progress=False, report=False)
    assert not (tmp_path / "run").exists()


# The choice of a head


def few(count=12):
    pixels = torch.randint(256, (count, 3, 8, 8), generator=torch.Generator().manual_seed(4), dtype=torch.uint8)
    return TensorSet(pixels, torch.zeros(count).long(), ["a", "b", "c"])


def by_head(model, images):
    _, experts = experts_of(model)
    answers = []
    for head in range(experts.heads):
        experts.weights.copy_(torch.eye(experts.heads)[head])
        answers.append(model.eval()(images.images / 255).detach())
    return torch.stack(answers, 1)


def test_the_head_that_is_right_answers_alone():
    model, images = plain(3), few()
    logits = by_head(model, images)
    for head in range(3):
        own = images.relabelled(logits[:, head].argmax(1))
        assert select_head(model, own) == head
        torch.testing.assert_close(model.eval()(images.images / 255), logits[:, head])


def test_the_images_on_which_heads_differ_most_come_first():
    model, images = plain(), few()
    probs = by_head(model, images).softmax(2)
    expected = (probs[:, 0] - probs[:, 1]).abs().sum(1).argsort(descending=True)
    assert disputed(model, images, 4).tolist() == expected[:4].tolist()


def test_heads_that_cannot_be_chosen():
    with pytest.raises(ValueError, match=r"no layer of experts.*heads: 2"):
        select_head(plain(1), few())
    with pytest.raises(ValueError, match="no images"):
        select_head(plain(), few().subset(()))
    with pytest.raises(ValueError, match="not those of the model"):
        select_head(plain(), TensorSet(few().images, few().labels, ["a", "b"]))
    with pytest.raises(ValueError, match="from 1 to 12"):
        disputed(plain(), few(), 13)


def test_in_mixed_precision_it_is_not_rounded():
    """Of nearly even answers the mutual information is 0, and rounded to bfloat16 it would be 0.001."""
    probs = (0.05 * torch.randn(256, 2, 10, generator=torch.Generator().manual_seed(0))).softmax(2)
    with torch.autocast("cpu", torch.bfloat16):
        value = float(mutual_information(probs))
    assert value == float(mutual_information(probs))
    assert value == pytest.approx(0, abs=1e-5)


def test_one_objective_takes_models_of_other_heads():
    objective = DivDis(weight=0, balance=0)
    few, many = (kedge.plain(network(heads), example=(3, 8, 8)) for heads in (2, 4))
    objective(few.train(), IMAGES, TARGETS)
    losses = [each(many.train(), IMAGES, TARGETS).detach() for each in (objective, DivDis(weight=0, balance=0))]
    assert torch.equal(*losses)

import copy
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

import kedge
from kedge.adaptation import adapt, draw_shots
from kedge.data import TensorSet
from kedge.objectives import Anchored, CrossEntropy, Mixup, PullTowards
from kedge.objectives._fisher import diagonal_fisher
from kedge.probing.heads import find_head
from kedge.training import fit
from kedge.training.folder import RunFolder
from kedge.training.objective import make_objective
from kedge.training.recipe import Recipe
from kedge.training.sharding import check_shardable
from tests.settings import HOUSE, TINY

IMAGES = torch.rand(9, 3, 4, 4, generator=torch.Generator().manual_seed(1))
LABELS = torch.randint(5, (9,), generator=torch.Generator().manual_seed(2))


class Point(nn.Module):
    """A model that is a point: its weights, and nothing besides."""

    def __init__(self, *values):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(values, dtype=torch.float64))

    def forward(self, images):
        return self.w.expand(len(images), -1)


def minimum(function, start, **settings):
    """Where function + pull is least, for a quadratic: one step of Newton from the start."""
    model = copy.deepcopy(start)
    objective = PullTowards(lambda model, images, targets: function(model.w), start, **settings)

    def loss(w):
        point = nn.Module()
        point.w = w
        pulled = objective.strength / 2 * (w - start.w.detach()).square().sum()
        return function(w) + pulled - (0 if objective._linear is None else (objective._linear * w).sum())

    w = model.w.detach()
    solved = w - torch.linalg.solve(
        torch.autograd.functional.hessian(loss, w), torch.autograd.functional.jacobian(loss, w)
    )
    model.w.data = solved
    value = objective(model, IMAGES[:1], LABELS[:1])  # the objective itself has no slope there
    (slope,) = torch.autograd.grad(value, [model.w])
    assert float(slope.abs().max()) < 1e-5
    return solved


def net(seed=0, classes=5):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 6), nn.BatchNorm1d(6), nn.Linear(6, classes))


def images_of(count=9, labels=LABELS):
    return TensorSet((255 * IMAGES[:count]).round().to(torch.uint8), labels[:count], list("abcde"), name="source")


@pytest.mark.parametrize(("strength", "expected"), [(0.0, 2.0), (1.0, 1.0), (3.0, 0.5)])
def test_a_scalar_quadratic(strength, expected):
    """½ (w - 2)² with a pull of λ towards 0 is least at 2 / (1 + λ)."""
    assert float(minimum(lambda w: (w - 2).square().sum() / 2, Point(0.0), strength=strength)) == pytest.approx(
        expected
    )


@pytest.mark.parametrize(
    ("strength", "expected"), [(0.0, (2 / 3, 5 / 3)), (1.0, (0.70833, 0.95833)), (1e9, (0.5, 0.5))]
)
def test_ridge_towards_a_point(strength, expected):
    x = torch.tensor([[1, 0], [0, 1], [1, 1]], dtype=torch.float64)
    y = torch.tensor([1, 2, 2], dtype=torch.float64)
    start = Point(0.5, 0.5)
    model = copy.deepcopy(start)
    objective = PullTowards(lambda m, i, t: (x @ m.w - y).square().mean() / 2, start, strength)
    # (XᵀX / n + λ) w = Xᵀy / n + λ a, solved by numpy's normal equations; the objective has no slope there.
    held = strength * torch.eye(2, dtype=torch.float64)
    w = torch.linalg.solve(x.T @ x / 3 + held, x.T @ y / 3 + strength * start.w.detach())
    model.w.data = w
    torch.testing.assert_close(w, torch.tensor(expected, dtype=torch.float64), atol=2e-5, rtol=0)
    (slope,) = torch.autograd.grad(objective(model, IMAGES[:1], LABELS[:1]), [model.w])
    assert float(slope.abs().max()) < 1e-4 * max(1, strength / 1e4)


def test_a_prior_of_another_precision():
    """Curvature 6 at 3 and precision 2 at 1: the maximum a posteriori is (6·3 + 2·1) / 8."""
    assert float(minimum(lambda w: 3 * (w - 3).square().sum(), Point(1.0), strength=2.0)) == pytest.approx(2.5)


def federated(way, rounds=200, held=1.0):
    """f₁ = ½ w² and f₂ = 2 (w - 4)² at two clients that solve their step exactly; the server's weight in the end."""
    clients = [lambda w: w.square().sum() / 2, lambda w: 2 * (w - 4).square().sum()]
    w, duals = torch.zeros(1, dtype=torch.float64), [torch.zeros(1, dtype=torch.float64) for _ in clients]
    for _ in range(rounds):
        start, sent = Point(*w.tolist()), []
        for i, function in enumerate(clients):
            own = minimum(
                function,
                start,
                strength=0.0 if way == "FedAvg" else held,
                linear=duals[i] if way == "FedSpeed" else None,
            )
            if way == "FedSpeed":
                duals[i] = duals[i] - held * (own - w)
                own = own - duals[i] / held
            sent.append(own)
        w = torch.stack(sent).mean(0)
    return float(w), [float(each) for each in duals]


@pytest.mark.parametrize(("way", "expected"), [("FedAvg", 2.0), ("FedProx", 2.461538), ("FedSpeed", 3.2)])
def test_two_clients_in_closed_form(way, expected):
    """The optimum of both is 3.2, and only with the dual variables do the clients meet there."""
    w, duals = federated(way, 1 if way == "FedAvg" else 60)
    assert w == pytest.approx(expected, abs=1e-5)
    if way == "FedSpeed":
        assert duals == pytest.approx([3.2, -3.2], abs=1e-4)  # the slopes of the two there


def test_strength_zero_is_the_inner_loss_to_the_bit():
    model, start = net(1), net(0)
    loss = PullTowards(CrossEntropy(), start, strength=0.0)(model, IMAGES, LABELS)
    assert torch.equal(loss, CrossEntropy()(model, IMAGES, LABELS))


def test_it_is_half_the_strength_times_the_squared_distance_and_its_length_is_logged():
    model, start = net(1).eval(), net(0)
    objective = PullTowards(CrossEntropy(), start, strength=0.3)
    away = parameters_to_vector(model.parameters()) - parameters_to_vector(start.parameters())
    expected = CrossEntropy()(model, IMAGES, LABELS) + 0.15 * away.square().sum()
    torch.testing.assert_close(objective(model, IMAGES, LABELS), expected)
    torch.testing.assert_close(objective.logged["distance"], away.norm().detach())


def test_batch_norm_statistics_and_frozen_weights_are_not_pulled():
    start = net(0)
    model = copy.deepcopy(start)
    model[2].running_mean += 5
    model[1].requires_grad_(False)
    model[1].weight.data += 1
    objective = PullTowards(CrossEntropy(), start, strength=1.0)
    objective(model.eval(), IMAGES, LABELS)
    assert float(objective.logged["distance"]) == 0


def test_a_new_head_is_not_pulled():
    start, model = net(0), net(0, classes=3)
    model[3] = nn.Linear(6, 3)
    objective = PullTowards(CrossEntropy(), start, strength=1.0, new_head="3")
    objective(model, IMAGES, LABELS.clamp(max=2)).backward()
    assert float(objective.logged["distance"]) == 0
    with pytest.raises(ValueError, match="new_head"):
        PullTowards(CrossEntropy(), start)(model, IMAGES, LABELS.clamp(max=2))
    with pytest.raises(ValueError, match="no such layer"):
        PullTowards(CrossEntropy(), start, new_head="7")(model, IMAGES, LABELS.clamp(max=2))


def test_the_fisher_information_of_logistic_regression():
    """Of two logits (w·x, 0): p (1 - p) x², in the mean over what is drawn."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(1, 2, bias=False))
    model[1].weight.data = torch.tensor([[0.7], [0.0]])
    count = 1000
    source = [(torch.full((1, 1, 1), 0.8), 0)] * count
    p = torch.sigmoid(torch.tensor(0.7 * 0.8))
    (fisher,) = diagonal_fisher(model, source, ["1.weight"], count, seed=3)
    expected = float(p * (1 - p) * 0.8**2)
    error = float(p * (1 - p)) ** 0.5 * abs(float(1 - 2 * p)) * 0.8**2 / count**0.5
    assert float(fisher[0]) == pytest.approx(expected, abs=4 * error + 1e-6)
    (empirical,) = diagonal_fisher(model, source, ["1.weight"], 3, empirical=True)
    assert float(empirical[0]) == pytest.approx(float((1 - p) ** 2 * 0.8**2), rel=1e-5)


def test_importance_has_a_mean_of_one_and_a_constant_one_is_l2_sp():
    start, model = net(0), net(1)
    objective = PullTowards(CrossEntropy(), start, 0.2, "fisher", images_of(), count=6)
    objective.prepare(model)
    assert float(objective._held.mean()) == pytest.approx(1, rel=1e-5)
    assert float(objective._held.min()) >= 0
    uniform = PullTowards(CrossEntropy(), start, 0.2)
    assert not torch.equal(objective(model, IMAGES, LABELS), uniform(model, IMAGES, LABELS))
    objective._held.fill_(1.0)
    torch.testing.assert_close(objective(model, IMAGES, LABELS), uniform(model, IMAGES, LABELS))


def test_importance_goes_by_the_seed():
    def held(seed, importance="fisher"):
        objective = PullTowards(CrossEntropy(), net(0), 0.2, importance, images_of(), count=6, seed=seed)
        objective.prepare(net(1))
        return objective._held

    torch.rand(1)  # no draw but by the seed
    assert torch.equal(held(0), held(0))
    assert not torch.equal(held(0), held(1))
    assert not torch.equal(held(0), held(0, "empirical-fisher"))


def test_it_is_no_part_of_a_checkpoint_and_the_start_stays_as_it_is():
    start, model = net(0), net(1)
    objective = PullTowards(CrossEntropy(), start, 0.2, "fisher", images_of())
    loss = objective(model, IMAGES, LABELS)
    loss.backward()
    assert list(objective.parameters()) == []
    assert objective.state_dict() == {}
    assert all(p.grad is None for p in objective.start.model.parameters())
    torch.testing.assert_close(
        parameters_to_vector(objective.start.model.parameters()), parameters_to_vector(start.parameters())
    )


@pytest.mark.parametrize("count", [2, 9])
def test_it_nests_and_takes_what_the_inner_objective_takes(count):
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 5))
    model = kedge.anchor(body, references=IMAGES[:4])
    start = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    one_class = torch.zeros(count, dtype=torch.long)
    soft = nn.functional.one_hot(LABELS[:count], 5).float()
    for targets in (LABELS[:count], one_class, soft):
        outside = PullTowards(Anchored(CrossEntropy(), alpha=0.5), start)
        inside = Mixup(Anchored(PullTowards(CrossEntropy(), start), alpha=0.5))
        for objective in (outside, inside):
            objective(model, IMAGES[:count], targets).backward()
            each = [objective, *objective.modules()]
            pull = next(m for m in each if isinstance(m, PullTowards))
            assert float(pull.logged["distance"]) > 0


def test_half_precision():
    model, start = net(1).bfloat16(), net(0).bfloat16()
    loss = PullTowards(CrossEntropy(), start)(model, IMAGES.bfloat16(), LABELS)
    assert loss.dtype == torch.float32
    assert torch.isfinite(loss)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"start_model": None}, "new weights"),
        ({"strength": -1.0}, "-1"),
        ({"importance": "kronecker"}, "kronecker"),
        ({"importance": "fisher"}, "source"),
        ({"source": images_of()}, "importance is uniform"),
        ({"importance": "fisher", "source": images_of(0)}, "holds no images"),
        ({"count": 0}, "count"),
    ],
)
def test_what_cannot_be_is_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        PullTowards(CrossEntropy(), **{"start_model": net(), **settings})


def test_what_cannot_be_is_refused_when_training_starts():
    with pytest.raises(ValueError, match="other layers"):
        PullTowards(CrossEntropy(), nn.Linear(3, 4)).prepare(net())
    with pytest.raises(ValueError, match="one number for each of"):
        PullTowards(CrossEntropy(), net(), linear=torch.zeros(3)).prepare(net())
    with pytest.raises(ValueError, match="no weights"):
        PullTowards(CrossEntropy(), net()).prepare(net().requires_grad_(False))
    sure = net().requires_grad_(True)
    sure[3].bias.data[0] = 1e4
    with pytest.raises(ValueError, match="Fisher information"):
        PullTowards(CrossEntropy(), sure, importance="fisher", source=images_of()).prepare(net())
    far = TensorSet(torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 6]), list("abcdefg"))
    with pytest.raises(ValueError, match="label 6"):
        PullTowards(CrossEntropy(), net(), importance="empirical-fisher", source=far).prepare(net())


def test_a_vector_of_weights_is_pulled_along_its_linear_term():
    start, model = net(0), net(0)
    count = len(parameters_to_vector(start.parameters()))
    g = torch.randn(count, generator=torch.Generator().manual_seed(4))
    objective = PullTowards(CrossEntropy(), start, strength=0.0, linear=g)
    plain = CrossEntropy()(model.eval(), IMAGES, LABELS)
    expected = plain - g @ parameters_to_vector(model.parameters())
    torch.testing.assert_close(objective(model, IMAGES, LABELS), expected)
    vector_to_parameters(torch.zeros(count), model.parameters())
    assert float(objective.pull(model).detach()) == 0


def test_a_run_from_new_weights_is_refused(tmp_path):
    recipe = {**TINY, "objective": ["PullTowards", "anchored", "cross_entropy"], "runs": str(tmp_path)}
    with pytest.raises(ValueError, match="new weights"):
        fit(recipe, progress=False, report=False)


def test_a_strong_pull_holds_a_run_where_it_started(tmp_path):
    start = HOUSE / "masked" / "model"
    away = {}
    for strength in (0.01, 30.0):
        recipe = {k: v for k, v in TINY.items() if k not in ("model", "arguments", "references", "anchored")}
        recipe |= {"init_from": str(start), "epochs": 3, "lr": 0.02, "weight_decay": 0.0, "momentum": 0.0}
        recipe |= {"objective": [{"PullTowards": {"strength": strength}}, "Anchored", "CrossEntropy"]}
        result = fit({**recipe, "runs": str(tmp_path), "name": f"run{strength}"}, progress=False, report=False)
        ends = [parameters_to_vector(m.parameters()).detach() for m in (result.model, kedge.load(start))]
        away[strength] = float((ends[0] - ends[1]).norm())
    assert 0 < away[30.0] < away[0.01] / 2


def test_a_run_from_published_weights_knows_its_new_head():
    start = kedge.load(HOUSE / "masked" / "model")
    recipe = Recipe(objective=["PullTowards", "Anchored", "CrossEntropy"], pretrained=True)
    train = kedge.data.load("digits", "train")
    assert make_objective(recipe, train, start=start).new_head == find_head(start)
    assert make_objective(replace(recipe, pretrained=False), train, start=start).new_head is None


def test_an_adaptation_pulls_all_but_its_new_head(tmp_path):
    body = kedge.load(HOUSE / "plain" / "model")
    train = draw_shots(kedge.data.load("digits", "train"), 3)
    away, began = {}, {name: p.detach() for name, p in body.named_parameters()}
    for pull in (0.0, 20.0):
        own = {"epochs": 10, "lr": 0.01, "pull": pull, "device": "cpu", "augment": "none"}
        adapted = adapt(body, train, how="finetune", out=tmp_path / str(pull), **own)
        moved = [(n, float((p.detach() - began[n]).norm())) for n, p in adapted.model.named_parameters()]
        away[pull] = sum(by for name, by in moved if not name.startswith(f"network.{find_head(body)}."))
    assert 0 < away[20.0] < away[0.0] / 2
    written = RunFolder(tmp_path / "20.0" / "finetune").recipe().objective
    assert written == [{"PullTowards": {"strength": 20.0, "new_head": find_head(body)}}, "CrossEntropy"]
    with pytest.raises(ValueError, match=r"pull is 0\.0 there, 20\.0 here"):
        adapt(body, train, how="finetune", out=tmp_path / "0.0", **{**own, "pull": 20.0})
    with pytest.raises(ValueError, match="-1"):
        adapt(body, train, how="finetune", pull=-1.0)


def test_sharded_weights_are_refused():
    with pytest.raises(ValueError, match="PullTowards compares whole weights"):
        check_shardable(Recipe(shard=True, devices=2, val_pgd_steps=0), PullTowards(CrossEntropy(), net()))


def test_an_empirical_fisher_of_other_classes_is_refused():
    """Label 0 of the source would be read as output 0 of the start model, which is another class."""
    start = kedge.plain(net(), example=(3, 4, 4))
    start.class_names = list("abcde")
    pixels = (IMAGES * 255).to(torch.uint8)
    source = TensorSet(pixels, LABELS, list("bacde"), name="source")
    objective = PullTowards(CrossEntropy(), start, importance="empirical-fisher", source=source)
    with pytest.raises(ValueError, match=r"reads the labels of the source images.*another order"):
        objective.prepare(start)
    PullTowards(CrossEntropy(), start, importance="fisher", source=source).prepare(start)

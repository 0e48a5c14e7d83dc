"""Ordered classes: their order in a recipe, the heads that take it, the penalty of PRESTO, and what is measured."""

import json
import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import cohen_kappa_score
from torch import nn

import kedge
from kedge import data, evaluation, heads, metrics, networks
from kedge.heads._cumulative import SMALLEST, log_probabilities
from kedge.metrics._base import Answers
from kedge.metrics.quadratic_kappa import QuadraticKappa
from kedge.metrics.rank_error import RankError
from kedge.objectives import Anchored, CrossEntropy, Mixup, Presto
from kedge.scores import last_layer
from kedge.training import Recipe, fit
from tests.settings import TINY

DRAWS = torch.Generator().manual_seed(0)
IMAGES = torch.rand(7, 1, 8, 8, generator=DRAWS)
LABELS = torch.tensor([0, 1, 2, 3, 2, 1, 0])
NAMES = ["proportional_odds", "presto"]
HEADS = {"proportional_odds": heads.ProportionalOdds, "presto": heads.Presto}


def network(head="presto", classes=4):
    torch.manual_seed(0)
    return networks.create("kedge_resnet_small", classes, 1, 8, arguments={"width": 4, "head": head})


def fitted(head, x, y, weight=0.0, steps=250):
    """A head on features, by full batches."""
    head = head.double()
    objective = Presto(CrossEntropy(), weight) if isinstance(head, heads.Presto) else CrossEntropy()
    if weight == 0:  # smooth
        smooth = torch.optim.LBFGS(head.parameters(), max_iter=200, line_search_fn="strong_wolfe")

        def closure():
            smooth.zero_grad()
            loss = objective(head, x, y)
            loss.backward()
            return loss

        smooth.step(closure)
        return head.eval()
    optimizer = torch.optim.Adam(head.parameters(), lr=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(steps):
        optimizer.zero_grad()
        objective(head, x, y).backward()
        optimizer.step()
        schedule.step()
    return head.eval()


def drawn(count=500, classes=4, features=3, seed=0):
    """Points whose odds are proportional."""
    draws = torch.Generator().manual_seed(seed)
    x = torch.randn(count, features, generator=draws).double()
    beta = torch.linspace(-1, 1, features).double()
    noise = torch.rand(count, generator=draws).double().logit()
    return x, torch.bucketize(x @ beta + noise, torch.linspace(-1.5, 1.5, classes - 1).double())


# The heads.


@pytest.mark.parametrize("name", NAMES)
def test_the_worked_example(name):
    """α = (-1, 1), β = 0 give 0.2689, 0.4621, 0.2689."""
    head = HEADS[name](5, 3)
    with torch.no_grad():
        head.first.fill_(-1.0)
        head.rises.fill_(math.log(math.expm1(2.0)))
        head.shared.weight.zero_()
    probs = head(torch.randn(2, 5, generator=DRAWS)).exp()
    torch.testing.assert_close(probs, torch.tensor([[0.2689, 0.4621, 0.2689]] * 2), atol=5e-5, rtol=0)


@pytest.mark.parametrize("name", NAMES)
def test_probabilities_are_differences_of_the_cumulative_ones_and_sum_to_1(name):
    head = HEADS[name](6, 5).double()
    x = 3 * torch.randn(50, 6, generator=DRAWS).double()
    rows = head.shared.weight.expand(4, 6)
    if name == "presto":
        with torch.no_grad():
            head.differences.copy_(0.01 * torch.randn(3, 6, generator=DRAWS))
        rows = torch.stack([head.shared.weight[0] + head.differences[:k].sum(0) for k in range(4)])
        torch.testing.assert_close(head.directions(), rows)
    rises = torch.cat([head.first, head.first + F.softplus(head.rises).cumsum(0)])
    below = torch.cat([torch.zeros(50, 1), torch.sigmoid(x @ rows.T + rises), torch.ones(50, 1)], 1)
    torch.testing.assert_close(head(x).exp(), below.diff(dim=1))
    torch.testing.assert_close(head(x).exp().sum(1), torch.ones(50).double())


@pytest.mark.parametrize("name", NAMES)
def test_it_begins_with_classes_that_are_equally_likely(name):
    head = HEADS[name](6, 5)
    torch.testing.assert_close(head(torch.zeros(1, 6)).exp(), torch.full((1, 5), 0.2))


def test_far_from_the_boundaries_nothing_overflows():
    cumulative = torch.tensor([[-200.0, -190], [190, 200], [-80, 80]], requires_grad=True)
    logs = log_probabilities(cumulative)
    assert logs.isfinite().all()
    expected = torch.tensor([[-200.0, -190, 0], [0, -190, -200], [-80, 0, -80]])
    torch.testing.assert_close(logs, expected, atol=1e-3, rtol=1e-4)
    logs.sum().backward()
    assert cumulative.grad.isfinite().all()


def test_the_gradient_at_0_is_that_of_a_logistic():
    cumulative = torch.zeros(1, 1, dtype=torch.float64, requires_grad=True)
    F.cross_entropy(log_probabilities(cumulative), torch.tensor([0])).backward()
    assert float(cumulative.grad) == pytest.approx(-0.5)
    near = torch.tensor([[-0.3, 0.0, 0.02, 1.5]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(log_probabilities, near)


def test_close_boundaries_are_exact():
    """In float32 as in float64: σ(a) - σ(b) would lose all digits."""
    for gap in (1e-5, 1e-3, 0.1):
        cumulative = torch.tensor([[0.3, 0.3 + gap]])
        exact = cumulative.double()
        true = (exact[:, 1].sigmoid() - exact[:, 0].sigmoid()).log()
        assert float(log_probabilities(cumulative)[0, 1]) == pytest.approx(float(true), abs=2e-3)


def test_crossed_boundaries_are_counted_and_parted_by_the_gradient():
    head = heads.Presto(1, 3)
    with torch.no_grad():
        head.shared.weight.fill_(2.0)
        head.differences.fill_(-4.0)
    x = torch.tensor([[3.0], [-3.0], [0.0]])
    assert head.crossed(x).tolist() == [True, False, False]
    logs = head(x)
    assert logs.isfinite().all()
    torch.testing.assert_close(logs.softmax(1).sum(1), torch.ones(3))
    assert float(logs[0].detach().softmax(0)[1]) < SMALLEST
    F.cross_entropy(logs[:1], torch.tensor([1])).backward()
    assert float(head.differences.grad) < 0  # a step makes it larger, and so parts the boundaries at x > 0


def test_with_two_classes_it_is_logistic_regression():
    x, y = drawn(400, classes=2)
    model = LogisticRegression(C=1e10, tol=1e-10, max_iter=1000).fit(x.numpy(), y.numpy())
    for name in NAMES:
        head = fitted(HEADS[name](3, 2), x, y)
        probs = head(x).exp().detach().numpy()
        np.testing.assert_allclose(probs, model.predict_proba(x.numpy()), atol=1e-4)


def test_a_large_weight_gives_proportional_odds():
    x, y = drawn()
    rigid = fitted(heads.ProportionalOdds(3, 4), x, y)
    torch.testing.assert_close(rigid.shared.weight[0].detach(), -torch.linspace(-1, 1, 3).double(), atol=0.25, rtol=0)
    free, drawn_together = (fitted(heads.Presto(3, 4), x, y, weight) for weight in (0.0, 1.0))
    torch.testing.assert_close(drawn_together(x).exp(), rigid(x).exp(), atol=5e-3, rtol=0)
    apart = [float(head.differences.detach().abs().sum()) for head in (drawn_together, free)]
    assert apart[0] < 0.02 < 0.1 < apart[1]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("anchored", [False, True])
def test_it_is_saved_loaded_and_folded(tmp_path, name, anchored):
    model = network(name)
    model = kedge.anchor(model, references=IMAGES[:2]) if anchored else kedge.plain(model, example=(1, 8, 8))
    model.class_names, model.ordered = ["none", "low", "medium", "high"], True
    model.eval()
    loaded = kedge.load(kedge.save(model, tmp_path / "model"))
    assert loaded.ordered
    with torch.no_grad():
        assert torch.equal(loaded(IMAGES), model(IMAGES))
        torch.testing.assert_close(model.fold().eval()(IMAGES), model(IMAGES), rtol=1e-3, atol=1e-3)
    assert last_layer(model, IMAGES) is None
    assert kedge.Ensemble([model, loaded]).ordered


def test_the_exported_file_agrees_also_where_boundaries_cross(tmp_path):
    pytest.importorskip("onnxruntime")
    from kedge.deploy import export, load_onnx

    model = kedge.plain(network("presto"), example=(1, 8, 8)).eval()
    with torch.no_grad():
        model.network.fc.differences[0].fill_(-9.0)
    model.class_names, model.ordered = ["a", "b", "c", "d"], True
    features = model.network.forward_head(model.network.forward_features(model.normalise(IMAGES)), pre_logits=True)
    assert model.network.fc.crossed(features).any()
    exported = load_onnx(export(model, tmp_path / "model.onnx", to="onnx").path)
    assert exported.ordered
    with torch.no_grad():
        torch.testing.assert_close(exported(IMAGES), model(IMAGES), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_in_mixed_precision_boundaries_are_not_rounded(name):
    head = HEADS[name](8, 4).eval()
    features = torch.randn(5, 8, generator=DRAWS)
    expected = head(features)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(head(features), expected)


def test_one_class_is_refused():
    for name in NAMES:
        with pytest.raises(ValueError, match=f"{name} is for two ordered classes or more, not for 1"):
            HEADS[name](3, 1)


# The objective.


def test_the_loss_is_that_inside_and_the_sum_of_differences():
    model = network().train()
    with torch.no_grad():
        model.fc.differences.copy_(torch.randn(2, 16, generator=DRAWS))
    objective = Presto(CrossEntropy(), weight=0.3)
    rows = model.fc.directions().detach()
    differences = sum(float((rows[k + 1] - rows[k]).abs().sum()) for k in range(2))
    loss, plain = (each(model, IMAGES, LABELS) for each in (objective, CrossEntropy()))
    assert float(objective.logged["differences"]) == pytest.approx(differences, rel=1e-5)
    assert float((loss - plain).detach()) == pytest.approx(0.3 * differences, rel=1e-4)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert torch.equal(Presto(CrossEntropy(), 0.0)(model, IMAGES, LABELS), CrossEntropy()(model, IMAGES, LABELS))


def test_small_batches_of_one_class_soft_targets_and_half_precision():
    model = network().train()
    for module in model.modules():  # a batch of one has no variance
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    for count in (1, 3):
        assert Presto(CrossEntropy())(model, IMAGES[:count], torch.zeros(count, dtype=torch.long)).isfinite()
    assert Presto(CrossEntropy())(model, IMAGES, torch.full((7, 4), 0.25)).isfinite()
    assert Mixup(Presto(CrossEntropy()))(model, IMAGES, LABELS).isfinite()
    whole = Presto(CrossEntropy())(model, IMAGES, LABELS)
    half = Presto(CrossEntropy())(model.bfloat16(), IMAGES.bfloat16(), LABELS)
    assert half.dtype == torch.float32
    assert float(half.detach()) == pytest.approx(float(whole.detach()), rel=0.05)


def test_it_nests_in_anchored():
    model = kedge.anchor(network(), references=IMAGES[:3]).train()
    for inner in (CrossEntropy(), kedge.objectives.Adversarial(CrossEntropy(), kedge.attacks.PGD(0.1, steps=1))):
        loss = Anchored(Presto(inner), alpha=0.0)(model, IMAGES, LABELS)
        loss.backward()
        assert loss.isfinite()
    assert Anchored(Presto(CrossEntropy()), alpha=0.5)(model, IMAGES, LABELS).isfinite()


def test_what_the_objective_cannot_take():
    with pytest.raises(ValueError, match=r"one head whose boundaries.*has none: say arguments \{head: presto\}"):
        Presto(CrossEntropy()).prepare(network("proportional_odds"))
    with pytest.raises(ValueError, match="this one has 2"):
        Presto(CrossEntropy()).prepare(nn.ModuleList([network(), network()]))
    with pytest.raises(ValueError, match="weight is a number, 0 or more, got -1"):
        Presto(CrossEntropy(), -1)
    with pytest.raises(ValueError, match="Presto is for classification"):
        Presto(kedge.objectives.SquaredError())


# What is measured.


def answers(predicted, labels, classes=4, ordered=True, n=0):
    probs = F.one_hot(predicted, classes).float()
    columns = {"predicted": predicted, "rank": (predicted != labels).long(), "confidence": torch.ones(len(labels))}
    return Answers(columns, probs, labels, n=n, ordered=ordered)


@pytest.mark.parametrize("seed", range(5))
def test_kappa_is_that_of_scikit_learn(seed):
    draws = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 6, (80,), generator=draws)
    predicted = (labels + torch.randint(-2, 3, (80,), generator=draws)).clamp(0, 5)
    expected = cohen_kappa_score(labels.numpy(), predicted.numpy(), weights="quadratic")
    assert float(metrics.quadratic_kappa(predicted, labels)) == pytest.approx(expected, abs=1e-12)
    assert QuadraticKappa().value(answers(predicted, labels, 6)) == pytest.approx(expected, abs=1e-12)
    weights = torch.randint(0, 3, (4, 80), generator=draws).float()
    drawn_ones = QuadraticKappa().resampled(answers(predicted, labels, 6))(weights)
    for row, value in zip(weights.long(), drawn_ones.tolist(), strict=True):
        again = [each.repeat_interleave(row).numpy() for each in (labels, predicted)]
        assert value == pytest.approx(cohen_kappa_score(*again, weights="quadratic"), abs=1e-9)


def test_worked_kappas_and_rank_errors():
    labels = torch.tensor([0, 1, 2, 3])
    assert float(metrics.quadratic_kappa(labels, labels)) == 1
    assert float(metrics.quadratic_kappa(labels.flip(0), labels)) == -1
    assert float(metrics.quadratic_kappa(torch.ones(4, dtype=torch.long), labels)) == 0
    assert float(metrics.rank_error(labels.flip(0), labels)) == 2
    assert RankError().value(answers(torch.tensor([0, 3, 2, 3]), labels)) == 0.5


def test_they_are_of_ordered_classes_alone():
    labels = torch.tensor([0, 1, 2, 3])
    for metric in (QuadraticKappa(), RankError()):
        assert metric.applies(answers(labels, labels))
        assert not metric.applies(answers(labels, labels, ordered=False))
    assert not QuadraticKappa().applies(answers(torch.zeros(4).long(), torch.zeros(4).long()))
    assert math.isnan(float(metrics.quadratic_kappa(torch.zeros(4).long(), torch.zeros(4).long())))


def test_what_they_cannot_take():
    for measure in (metrics.quadratic_kappa, metrics.rank_error):
        with pytest.raises(ValueError, match=r"predicted must be ranks \[N\].*take the argmax"):
            measure(torch.rand(4, 3), torch.zeros(4).long())
        with pytest.raises(ValueError, match="3 predictions for 4 labels"):
            measure(torch.zeros(3).long(), torch.zeros(4).long())
        with pytest.raises(ValueError, match="no images"):
            measure(torch.zeros(0).long(), torch.zeros(0).long())


def test_intervals_hold_the_value_and_go_below_0():
    draws = torch.Generator().manual_seed(3)
    labels = torch.randint(0, 4, (60,), generator=draws)
    sample = answers(torch.randint(0, 4, (60,), generator=draws), labels, n=400)
    results = metrics._summary.numbers([sample], [QuadraticKappa(), RankError()]).results()
    for key in ("quadratic_kappa", "rank_error"):
        assert results[key]["low"] < results[key]["value"] < results[key]["high"]
    assert results["quadratic_kappa"]["low"] < 0


# The order in a recipe.


@pytest.fixture(scope="module")
def grades(tmp_path_factory):
    """Images in folders whose alphabetical order is not theirs: the brighter, the higher."""
    folder = tmp_path_factory.mktemp("grades")
    draws = np.random.default_rng(0)
    for i in range(150):
        grade = i % 3
        path = folder / ("train" if i < 110 else "test") / ["low", "medium", "high"][grade] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(60 * grade, 60 * grade + 120, (8, 8), dtype=np.uint8), "L").save(path)
    return folder


def settings(tmp_path, grades, **others):
    recipe = {**TINY, "data": str(grades), "runs": str(tmp_path), "name": "run", "train_images": None}
    return {**recipe, "ordered": ["low", "medium", "high"], **others}


@pytest.mark.parametrize("head", NAMES)
def test_a_run_takes_the_order_that_is_stated(tmp_path, grades, head):
    result = fit(
        settings(tmp_path, grades, arguments={"width": 4, "head": head}, epochs=1), progress=False, report=False
    )
    assert result.model.class_names == ["low", "medium", "high"]
    model = kedge.load(tmp_path / "run")
    assert model.ordered
    assert json.loads((tmp_path / "run" / "model" / "config.json").read_text())["ordered"] is True
    test = data.load(str(grades), "test").only_classes(model.class_names)
    results = evaluation.evaluate({"run": model}, test, shift=(), resamples=50)
    predicted = model.predict(test.images / 255).label
    clean = results["models"]["run"]["clean"]
    expected = cohen_kappa_score(test.labels.numpy(), predicted.numpy(), weights="quadratic", labels=[0, 1, 2])
    if expected == expected:
        assert clean["quadratic_kappa"]["value"] == pytest.approx(expected, abs=1e-9)
    assert clean["rank_error"]["value"] == pytest.approx(float((predicted - test.labels).abs().float().mean()))
    assert "mean rank error" in kedge.reporting.render(results)


def test_a_run_that_trains_on_keeps_the_order(tmp_path, grades):
    fit(settings(tmp_path, grades, epochs=1), progress=False, report=False)
    again = {"init_from": str(tmp_path / "run"), "epochs": 1, "device": "cpu", "runs": str(tmp_path), "name": "again"}
    result = fit(again, progress=False, report=False)
    assert result.model.ordered
    assert result.recipe.ordered == ["low", "medium", "high"]
    result = fit({**again, "name": "memory", "init_from": None, "data": str(grades)}, start=result.model,
                 progress=False, report=False)  # fmt: skip
    assert result.model.ordered


def test_without_a_stated_order_there_is_none(tmp_path, grades):
    result = fit(settings(tmp_path, grades, ordered=None, epochs=1), progress=False, report=False)
    assert result.model.class_names == ["high", "low", "medium"]
    assert not result.model.ordered
    model = kedge.load(tmp_path / "run")
    results = evaluation.evaluate({"run": model}, data.load(str(grades), "test"), shift=(), resamples=0)
    assert results["models"]["run"]["clean"]["quadratic_kappa"] is None


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"ordered": None, "arguments": {"head": "presto"}}, "head presto is for classes that have an order"),
        ({"ordered": ["low", "high"]}, r"ordered leaves out medium.*classes: \[low, high\]"),
        ({"ordered": ["low", "medum", "high"]}, "ordered names 'medum', .* has the classes high, low, medium.*medium"),
        ({"ordered": ["low", "low", "high"]}, "ordered names 'low' twice"),
        ({"ordered": ["low"]}, "ordered needs two classes or more"),
        ({"classes": ["low", "medium"]}, "classes and ordered are the same classes, and 'high' is in one of them"),
        ({"objective": ["presto", "cross_entropy"], "anchored": False}, "one head whose boundaries"),
        ({"ordered": "low,medium,high"}, "ordered is a list"),
    ],
)  # fmt: skip
def test_what_is_refused_before_a_run_has_a_folder(tmp_path, grades, fields, words):
    with pytest.raises(ValueError, match=words):
        fit({**settings(tmp_path, grades), **fields}, progress=False, report=False)
    assert not (tmp_path / "run").exists()


def test_some_classes_in_their_order(tmp_path, grades):
    recipe = settings(tmp_path, grades, ordered=["low", "high"], classes=["high", "low"], epochs=1)
    assert fit(recipe, progress=False, report=False).model.class_names == ["low", "high"]


def test_images_in_another_order_that_are_handed_over_are_refused(tmp_path, grades):
    images = data.load(str(grades), "train")
    sets = (images, data.load(str(grades), "test"))
    with pytest.raises(ValueError, match=r"in the order high, low, medium, and ordered says low, medium, high: hand"):
        fit(settings(tmp_path, grades, data=None), sets=sets, progress=False, report=False)


def test_a_head_of_its_own_kind_is_not_probed_and_takes_the_rate_of_a_new_head():
    from kedge.probing.heads import layer_of_classes
    from kedge.training.resolve import resolve_network

    recipe = Recipe(pretrained=True, batch_size=8, model="resnet18", ordered=["a", "b", "c", "d"],
                    arguments={"head": "presto"}, device="cpu", precision="32")  # fmt: skip
    model = kedge.plain(network("presto"), example=(1, 8, 8))
    resolved = resolve_network(recipe, model.network, 60, (1, 8, 8))
    assert (resolved.head, resolved.head_lr) == ("leave", 5.0)
    assert layer_of_classes(model) == "fc"


def test_another_task_has_no_order(tmp_path):
    from kedge.probing.heads import with_head

    torch.manual_seed(0)
    plain = networks.create("kedge_resnet_small", 3, 1, 8, arguments={"width": 4})
    model = kedge.plain(plain, example=(1, 8, 8))
    model.class_names, model.ordered = ["a", "b", "c"], True
    assert not with_head(model, "fc", ["x", "y"]).ordered


def test_the_flag_takes_names_with_commas():
    from kedge.cli.train import parser

    flags = parser()
    for words in (["--ordered", "low,medium,high"], ["--ordered=low, medium,high"], ["--ordered", "[low,medium,high]"]):
        assert list(flags.parse_args(words).ordered) == ["low", "medium", "high"]
    assert list(flags.parse_args(["--classes", "1,2"]).classes) == ["1", "2"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert flags.parse_args(["--ordered", "null"]).ordered is None

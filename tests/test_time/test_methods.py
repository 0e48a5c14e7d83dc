"""The methods against hand-written ones: TENT as its authors' code has it, statistics as torch's layers take them."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn

import kedge
from kedge import catalog
from kedge.cascade import Cascade
from kedge.ensemble import Ensemble
from kedge.test_time import Adapting, BatchStatistics, Tent, WisdomOfCrowds
from kedge.test_time._base import entropy


def in_training_mode(network: nn.Module) -> nn.Module:
    """A copy whose batch-norm layers forget what they stored, as the authors of TENT configure them."""
    network = copy.deepcopy(network).eval().requires_grad_(False)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.train()
            layer.track_running_stats = False
            layer.running_mean = layer.running_var = None
            layer.requires_grad_(True)
    return network


def by_hand(network: nn.Module, batches: list[Tensor], lr: float) -> list[Tensor]:
    """The outputs of TENT, each before the step on it."""
    network = in_training_mode(network)
    optimizer = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr, betas=(0.9, 0.999))
    answers = []
    for batch in batches:
        logits = network(batch)
        answers.append(logits.detach())
        loss = -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return answers


@pytest.fixture
def batches(streams):
    return list(streams(0.35)[0].split(64))[:8]


@pytest.mark.parametrize("name", catalog.names("test_time"))
def test_every_method_says_where_it_comes_from(name, model):
    info = catalog.info("test_time", name)
    assert info.url.startswith("https://arxiv.org/abs/")
    assert catalog.summary("test_time", name).endswith(".")
    assert [p["url"] for p in catalog.citations(Adapting(model, name).methods())] == [info.url]


def test_tent_is_that_of_the_authors_code(model, batches):
    adapting = Adapting(model, Tent(1e-2))
    for batch, expected in zip(batches, by_hand(model.network, batches, 1e-2), strict=True):
        torch.testing.assert_close(adapting.predict(batch).logits, expected, rtol=1e-3, atol=1e-3)
    assert adapting.record.steps == len(batches)


def test_batch_statistics_are_those_of_training_mode(model, batches):
    adapting, expected = Adapting(model, "batch_statistics"), in_training_mode(model.network)
    for batch in batches:
        torch.testing.assert_close(adapting.answers(batch)[0], expected(batch), rtol=1e-4, atol=1e-4)


def test_a_prior_mixes_stored_statistics_and_those_of_the_batch():
    layer = nn.BatchNorm2d(3).eval()
    with torch.no_grad():
        layer.running_mean.uniform_(-1, 1), layer.running_var.uniform_(0.5, 2)
        layer.weight.uniform_(0.5, 2), layer.bias.uniform_(-1, 1)
    network = nn.Sequential(layer, nn.Flatten())
    images = torch.rand(8, 3, 4, 4)
    answers = Adapting(network, BatchStatistics(prior=16)).answers(images)[0].unflatten(1, (3, 4, 4))
    mean = (16 * layer.running_mean + 8 * images.mean((0, 2, 3))) / 24
    var = (16 * layer.running_var + 8 * images.var((0, 2, 3), unbiased=False)) / 24
    shape = (1, 3, 1, 1)
    expected = (images - mean.view(shape)) / (var.view(shape) + layer.eps).sqrt()
    expected = expected * layer.weight.view(shape) + layer.bias.view(shape)
    torch.testing.assert_close(answers, expected, rtol=1e-5, atol=1e-5)
    stored = Adapting(network, BatchStatistics(prior=1e9)).answers(images)[0]
    torch.testing.assert_close(stored, network(images), rtol=1e-5, atol=1e-5)


def test_the_entropy_of_a_known_distribution():
    probs = torch.tensor([[0.7, 0.2, 0.1], [1.0, 0.0, 0.0], [1 / 3, 1 / 3, 1 / 3]])
    torch.testing.assert_close(entropy(probs.log()), torch.tensor([0.801819, 0.0, math.log(3)]), rtol=1e-5, atol=1e-6)


def test_without_a_learning_rate_it_stays_the_model_with_batch_statistics(model, batches):
    still, statistics = Adapting(model, Tent(0.0)), Adapting(model, "batch_statistics")
    for batch in batches * 2:
        assert torch.equal(still.answers(batch)[0], statistics.answers(batch)[0])


def test_the_crowd_keeps_everything_of_the_first_batch(model, batches):
    adapting = Adapting(model, WisdomOfCrowds(original="batch"))
    adapting.answers(batches[0])
    assert adapting.record.chosen == len(batches[0])


def test_the_crowd_keeps_those_whose_confidence_has_not_fallen():
    original = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.5, 0.4, 0.1]]).log()
    adapted = torch.tensor([[0.6, 0.1, 0.3], [0.9, 0.05, 0.05], [0.49, 0.01, 0.5]]).log()
    method = WisdomOfCrowds(diversity=0.5)
    chosen = method.chosen(adapted, original)
    assert chosen.tolist() == [True, False, False]
    mean = adapted.softmax(1).mean(0)
    first = -(adapted[0].exp() * adapted[0]).sum()
    expected = first + 0.5 * (mean * mean.log()).sum()
    torch.testing.assert_close(method.loss(adapted, chosen), expected)


def test_where_nothing_is_chosen_no_step_is_taken(model, batches, monkeypatch):
    adapting = Adapting(model, WisdomOfCrowds(lr=0.1))
    monkeypatch.setattr(adapting.method, "chosen", lambda logits, original: torch.zeros(len(logits), dtype=torch.bool))
    for batch in batches:
        assert bool(adapting.answers(batch)[0].isfinite().all())
    assert (adapting.record.steps, adapting.record.chosen) == (0, 0)


def test_only_scales_and_shifts_change_and_reset_is_to_the_bit(model, batches):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    adapting = Adapting(model, WisdomOfCrowds(lr=1e-2, original="batch"))
    once = [adapting.answers(batch)[0] for batch in batches]
    layers = [f"network.{i}.1." for i in (0, 1, 3)]
    for name, value in adapting.adapted.state_dict().items():
        learns = any(name.startswith(layer) for layer in layers) and name.endswith(("weight", "bias"))
        assert torch.equal(value, before[name]) != learns, name
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    adapting.reset()
    assert all(torch.equal(value, before[name]) for name, value in adapting.adapted.state_dict().items())
    assert adapting.record.images == 0
    assert all(torch.equal(adapting.answers(b)[0], answer) for b, answer in zip(batches, once, strict=True))


def test_reset_before_each_batch_makes_the_order_indifferent(model, batches):
    adapting = Adapting(model, Tent(0.05))

    def episodic(order: list[Tensor]) -> list[Tensor]:
        answers = []
        for batch in order:
            adapting.reset()
            answers.append(adapting.answers(batch)[0])
        return answers

    there, back = episodic(batches), episodic(batches[::-1])[::-1]
    assert all(torch.equal(a, b) for a, b in zip(there, back, strict=True))


def test_predict_outputs_and_answers_say_the_same(model, batches):
    one, two, three = (Adapting(model, Tent(1e-2)) for _ in range(3))
    for batch in batches[:3]:
        prediction, outputs, (logits, _) = one.predict(batch), two.outputs(batch, features=True), three.answers(batch)
        assert torch.equal(prediction.logits, logits)
        assert torch.equal(outputs.logits, logits)
        weight, bias = outputs.head
        torch.testing.assert_close(outputs.features @ weight.T + bias, logits, rtol=1e-4, atol=1e-4)


def test_anchored_models_adapt_with_their_references(model, batches):
    anchored = kedge.anchor(model.network, mean=0.0, std=1.0, example=(1, 8, 8))
    anchored.references = torch.stack([batches[0][0], batches[0][1]])
    adapting = Adapting(anchored.eval(), Tent(1e-2))
    for batch in batches[:3]:
        prediction = adapting.predict(batch)
        assert prediction.uncertainty is not None
    assert adapting.record.steps == 3
    with pytest.raises(ValueError, match="adaptive"):
        adapting.answers(batches[0], "adaptive")


def test_every_member_of_an_ensemble_adapts(model, batches):
    alone, together = Adapting(model, Tent(1e-2)), Adapting(Ensemble([model, model]), Tent(1e-2))
    for batch in batches[:3]:
        probs = alone.predict(batch).probs
        torch.testing.assert_close(together.predict(batch).probs, probs, rtol=2e-2, atol=2e-3)
    assert together.record.steps == 3


def test_half_precision(model, batches):
    half = copy.deepcopy(model).bfloat16()
    adapting = Adapting(half, Tent(1e-2))
    for batch in batches[:2]:
        assert bool(adapting.answers(batch)[0].isfinite().all())


class Vectors(nn.Module):
    num_outputs = 2

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm, self.last = norm, nn.Linear(4, 2)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(self.norm(images.flatten(1)))


def test_what_cannot_adapt_is_refused_in_words(model, batches):
    with pytest.raises(ValueError, match=r"no batch-norm layer.*exported"):
        Adapting(Vectors(nn.LayerNorm(4)))
    with pytest.raises(ValueError, match="no batch-norm layer"):
        Adapting(lambda images: images)
    with pytest.raises(ValueError, match="no scale and shift"):
        Adapting(Vectors(nn.BatchNorm1d(4, affine=False)))
    Adapting(Vectors(nn.BatchNorm1d(4, affine=False)), "batch_statistics")
    with pytest.raises(ValueError, match="adapts already"):
        Adapting(Adapting(model))
    with pytest.raises(ValueError, match=r"test time has no 'tend'.*did you mean tent"):
        Adapting(model, "tend")
    with pytest.raises(ValueError, match="0 or more"):
        Adapting(model, {"tent": {"lr": -1.0}})
    with pytest.raises(ValueError, match="number of images"):
        BatchStatistics(float("nan"))
    with pytest.raises(ValueError, match="'stored' or 'batch'"):
        WisdomOfCrowds(original="crowd")
    with pytest.raises(ValueError, match="weight"):
        WisdomOfCrowds(diversity=-0.5)
    cascade = Cascade(model, model, {"threshold": 0.5})
    for some in (cascade, Ensemble([model, cascade])):
        with pytest.raises(ValueError, match="a cascade asks its large model"):
            Adapting(some)
    adapting = Adapting(model)
    with pytest.raises(ValueError, match="cannot be folded or exported"):
        adapting.fold()
    with pytest.raises(ValueError, match="attack the model without"):
        adapting.for_attack()
    with pytest.raises(TypeError, match="save the model itself"):
        adapting.state()


def test_one_image_alone_has_no_statistics(model, batches):
    adapting = Adapting(model)
    with pytest.raises(ValueError, match="one image has no statistics"):
        adapting.answers(batches[0][:1])
    adapting.answers(batches[0])
    left_over = batches[1][:1]
    assert torch.equal(adapting.answers(left_over)[0], model.answers(left_over)[0])
    assert adapting.record.as_before == 1
    assert len(adapting.answers(batches[0][:0])[0]) == 0
    assert bool(Adapting(model, BatchStatistics(16)).answers(left_over)[0].isfinite().all())


def test_prediction_sets_are_promised_for_the_answers_before(model):
    with pytest.raises(ValueError, match="leave one of the two out"):
        Adapting(model, "tent").set_rule(0.9)

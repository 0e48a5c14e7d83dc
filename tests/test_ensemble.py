"""An ensemble against the mean of probabilities by numpy, its uncertainty against entropies by scipy."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from scipy.special import log_softmax, softmax
from scipy.stats import entropy
from torch import nn

import kedge
from kedge.anchoring.protocol import as_model
from kedge.attacks import PGD, distance
from kedge.scores import Disagreement, Energy, outputs_of


class Small(nn.Module):
    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3, padding=1)
        self.head = nn.Linear(6, classes)

    def forward(self, x):
        return 5 * self.head(torch.tanh(3 * self.conv(x)).mean((2, 3)))


def member(seed: int, bank: int = 0, names: str | None = "abcd") -> kedge.anchoring.PixelModel:
    torch.manual_seed(seed)
    model = kedge.plain(Small().eval(), example=(3, 6, 6), mean=0.1 * seed, std=0.3)
    if bank:
        model = kedge.anchor(model, references=torch.rand(bank, 3, 6, 6))
        nn.init.normal_(model.stem.reference.weight)
    model.class_names = None if names is None else list(names)
    return model.eval()


@pytest.fixture
def images():
    return torch.rand(7, 3, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def members():
    found = [member(0), member(1, bank=3), member(2, names=None)]
    found[0].set_temperature(1.6)
    return found


def test_the_mean_of_probabilities_and_the_mutual_information(members, images):
    prediction = kedge.Ensemble(members).predict(images)
    each = np.stack([softmax(m.predict(images).logits.double().numpy(), -1) for m in members])
    np.testing.assert_allclose(prediction.probs, each.mean(0), rtol=1e-5)
    np.testing.assert_allclose(prediction.logits.double().exp().sum(1), 1, rtol=1e-5)
    information = entropy(each.mean(0), axis=-1) - entropy(each, axis=-1).mean(0)
    np.testing.assert_allclose(prediction.uncertainty, information, rtol=1e-3, atol=1e-6)
    assert prediction.label.tolist() == each.mean(0).argmax(-1).tolist()


def test_saturated_members_keep_their_log_odds(images):
    loud = [member(0), member(1)]
    for each in loud:
        with torch.no_grad():
            each.network.head.weight.mul_(300)
    prediction = kedge.Ensemble(loud).predict(images)
    logits = np.stack([m.predict(images).logits.double().numpy() for m in loud])
    expected = np.logaddexp.reduce(log_softmax(logits, -1), 0) - np.log(2)
    np.testing.assert_allclose(prediction.logits, expected, rtol=1e-4, atol=1e-4)
    assert bool(prediction.uncertainty.isfinite().all())
    assert bool((prediction.uncertainty <= np.log(2) + 1e-5).all())


def test_one_member_alone_is_itself(images):
    alone = member(1, bank=3)
    prediction = kedge.Ensemble([alone]).predict(images)
    torch.testing.assert_close(prediction.probs, alone.predict(images).probs)
    assert prediction.uncertainty is None


def test_references_are_those_of_the_anchored_members(members, images):
    found = kedge.Ensemble(members).predict(images, references=1).probs
    each = [members[0].predict(images), members[1].predict(images, references=1), members[2].predict(images)]
    torch.testing.assert_close(found, torch.stack([p.probs for p in each]).mean(0))


def test_gradients_are_those_of_all_members_and_their_banks(members, images):
    ensemble = kedge.Ensemble(members)
    x = images.clone().requires_grad_()
    faced = ensemble.for_attack()
    logits = faced(x)
    torch.testing.assert_close(logits.detach(), ensemble.predict(images).logits, atol=1e-5, rtol=1e-5)
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), x)
    bank = members[1]
    by_hand = [
        members[0](x).softmax(1),
        torch.stack([bank(x, references=r[None]) for r in bank.references]).mean(0).softmax(1),
        members[2](x).softmax(1),
    ]
    (expected,) = torch.autograd.grad(torch.stack(by_hand).mean(0).log()[:, 1].sum(), x)
    torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-4)
    labels = ensemble.predict(images).label
    adversarial = PGD(0.1, 5)(faced, images, labels)
    assert float(distance(adversarial, images, "linf").max()) <= 0.1 + 1e-6
    own = ensemble.predict(adversarial).probs.gather(1, labels[:, None])
    assert float(own.mean()) < float(ensemble.predict(images).confidence.mean())


def test_scores_and_steps(members, images):
    ensemble = kedge.Ensemble(members)
    outputs = outputs_of(ensemble, images, features=True, masked=True)
    assert outputs.features is None
    assert outputs.masked is None
    torch.testing.assert_close(Disagreement().score(outputs), -ensemble.predict(images).uncertainty)
    torch.testing.assert_close(outputs.logits.logsumexp(1), torch.zeros(7), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="0 for every image"):
        Energy().score(outputs)
    before = ensemble.predict(images)
    ensemble.set_temperature(2.0)
    torch.testing.assert_close(ensemble.predict(images).logits, before.logits / 2)
    torch.testing.assert_close(ensemble.predict(images).uncertainty, before.uncertainty)
    torch.testing.assert_close(ensemble(images), before.logits / 2, atol=1e-5, rtol=1e-5)
    described = ensemble.describe()
    assert described["kind"] == "ensemble"
    assert described["network"] == "mean of 3: Small"
    assert described["parameters"] == sum(p.numel() for m in members for p in m.parameters())


def test_scores_that_mean_nothing_for_the_mean_of_several_models_are_left_out(members, images):
    """The log of a mean probability has the free energy log Σ exp = log 1 = 0; AMP's τ is a sum over references."""
    from kedge.scores import AMP, MSP, Disagreement, Energy, MaxLogit, usable

    ensemble = kedge.Ensemble(members)
    scores = [MSP(), MaxLogit(), Energy(), Disagreement(), AMP()]
    for temperature in (None, 1.7):
        if temperature:
            ensemble.set_temperature(temperature)
        outputs = ensemble.outputs(images)
        assert [s.name for s in usable(scores, outputs)] == ["msp", "max_logit", "disagreement"]
        assert [s.name for s in usable(scores, members[1].outputs(images))] == [s.name for s in scores]
        with pytest.raises(ValueError, match="ensemble"):
            AMP()(ensemble, images)
    names = [str(i) for i in range(ensemble.num_outputs)]
    for each in (ensemble, *members):
        each.class_names = names
    pixels = (images * 255).to(torch.uint8)
    familiar = kedge.data.TensorSet(pixels, torch.arange(len(images)) % len(names), names, "familiar")
    away = kedge.data.TensorSet(255 - pixels, torch.zeros(len(images)).long(), ["other"], "away")
    models = {"mean": ensemble, "logs": lambda x: ensemble(x), "anchored": members[1]}
    results = kedge.evaluation.evaluate(models, familiar, shift=(), ood=away, scores=scores, resamples=0)["models"]
    assert "log probabilities" in results["mean"]["skipped_scores"]["energy"]
    assert "references" in results["mean"]["skipped_scores"]["amp"]
    assert not results["anchored"]["skipped_scores"]
    assert set(results["mean"]["ood"]["away"]["scores"]) == {"msp", "max_logit", "disagreement"}


def test_an_attack_that_would_overlook_a_member_is_refused(images):
    """A member without a gradient, as an exported file is, would leave an attack on the others alone."""
    from kedge.anchoring.base import PlainModel

    class Exported(PlainModel):
        def network_logits(self, images, references=None):
            return super().network_logits(images).detach()

        def forward(self, images):
            return super().forward(images).detach()

    plain = member(0)
    exported = Exported(Small(), mean=plain.mean, std=plain.std, input_shape=(3, 6, 6), num_outputs=4).eval()
    ensemble = kedge.Ensemble([plain, exported])
    assert ensemble(images).shape == (7, 4)
    with pytest.raises(ValueError, match="member 1 of the ensemble carry no gradient"):
        PGD(8 / 255, steps=1)(ensemble.for_attack(), images, torch.zeros(7).long())


@pytest.mark.parametrize("how", ["alone", "resized", "nested", "folded"])
def test_a_member_that_detaches_its_input_is_refused_though_its_weights_have_gradients(images, how):
    """The gradient of the mean would be that of the other members, and the mean look robust."""

    class Detaching(Small):
        def forward(self, x):
            return super().forward(x.detach())

    detaching = kedge.plain(Detaching(), example=(3, 6, 6)).eval()
    inner = kedge.Ensemble([member(0), detaching])
    model = {
        "alone": inner.for_attack,
        "resized": lambda: inner.for_attack(prepare=lambda x: x * 0.5),
        "nested": kedge.Ensemble([member(1), inner]).for_attack,
        "folded": inner.fold,
    }[how]()
    images.requires_grad_(False)
    with torch.no_grad():
        assert model(images).shape == (7, 4)
    with pytest.raises(ValueError, match="member 1 of the ensemble carry no gradient"):
        PGD(8 / 255, steps=1)(model.requires_grad_(True), images, torch.zeros(7).long())
    with pytest.raises(ValueError, match="member 1 of the ensemble carry no gradient"):
        model(images.clone().requires_grad_())


@pytest.mark.parametrize("to", ["torch", "onnx"])
def test_it_is_folded_and_exported_where_each_member_has_one_reference(members, images, to, tmp_path):
    if to == "onnx" and find_spec("onnxscript") is None:
        pytest.skip("no onnxscript")
    ensemble = kedge.Ensemble(members)
    with pytest.raises(ValueError, match="member 1 of the ensemble predicts with 3 references"):
        kedge.deploy.export(ensemble, tmp_path / f"m{kedge.deploy.FORMATS[to]}", to=to)
    members[1].references = members[1].references[:1]
    ensemble.set_temperature(1.3)
    done = kedge.deploy.export(ensemble, tmp_path / f"m{kedge.deploy.FORMATS[to]}", to=to, check_images=images)
    torch.testing.assert_close(done.load()(images), ensemble.predict(images).logits, atol=1e-5, rtol=1e-5)


def test_what_it_cannot_do_is_said(members, tmp_path):
    ensemble = kedge.Ensemble(members)
    with pytest.raises(TypeError, match="save its members"):
        kedge.save(ensemble, tmp_path / "m")
    with pytest.raises(ValueError, match="one of its members"):
        kedge.anchor(ensemble)
    with pytest.raises(ValueError, match="needs members"):
        kedge.Ensemble([])
    with pytest.raises(TypeError, match=r"got Small: kedge\.plain"):
        kedge.Ensemble([members[0], Small()])
    with pytest.raises(ValueError, match="'c' stands where one has 'x'"):
        kedge.Ensemble([members[0], member(4, names="abxd")])
    five = kedge.plain(Small(5).eval(), example=(3, 6, 6))
    with pytest.raises(ValueError, match="differ in num_outputs: 4 and 5"):
        kedge.Ensemble([members[0], five])


def test_a_bare_network_and_a_function_are_models_at_the_door(images):
    network = Small().eval()
    for model in (network, lambda x: network(x)):
        asked = as_model(model)
        assert as_model(asked) is asked
        outputs = asked.outputs(images, features=True, masked=True)
        torch.testing.assert_close(outputs.logits, network(images).detach())
        assert (outputs.features is None) == (model is not network)
        assert outputs.masked is None
        assert asked.count() == 0
        assert asked.describe()["kind"] == "callable"
        x = images.clone().requires_grad_()
        assert asked.for_attack(prepare=lambda y: y * 0.5)(x).requires_grad
    assert torch.equal(as_model(network).fold()(images), network(images))
    with pytest.raises(TypeError, match="torch module"):
        as_model(lambda x: x).fold()
    with pytest.raises(TypeError, match="not int"):
        as_model(3)


def test_every_kind_describes_itself(members):
    plain, anchored = members[:2]
    assert plain.describe() | {"parameters": 0} == {
        "kind": "plain",
        "network": "Small",
        "parameters": 0,
        "references": None,
        "steps": ["temperature 1.6"],
    }
    assert anchored.describe()["references"] == 3
    assert anchored.describe(2)["references"] == 2
    assert anchored.describe("blt")["references"] == "blt"
    assert anchored.state() == {"kind": "anchored", "first_layer": "conv"}

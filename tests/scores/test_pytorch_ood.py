"""Every detector of the installed pytorch-ood on a small trained classifier, plain and anchored."""

import builtins
import logging

import numpy as np
import pytest
import timm
import torch
from torch import nn

import kedge
from kedge import scores
from kedge.metrics import auroc
from kedge.scores import Outputs, PytorchOOD, outputs_of
from kedge.scores._splitting import Cut, stages

pytest.importorskip("pytorch_ood")
from kedge.scores._pytorch_ood import detectors

CLASSES = 3
# Those that an ordinary classifier cannot run, and what they want besides.
NEED_MORE = {"MCM": "text_embeddings", "WeightedEBO": "weights"}
READ_IMAGES = {
    "GradNorm",
    "GradUncertainty",
    "Gram",
    "MCD",
    "MahalanobisODIN",
    "MultiMahalanobis",
    "NACUE",
    "ODIN",
    "RankFeat",
}
ALL = [name for name in detectors() if name not in NEED_MORE]
logging.getLogger("pytorch_ood").setLevel(logging.ERROR)


def photos(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise, brighter in the channel of its class."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % CLASSES
    images = 0.6 * torch.rand(n, 3, 16, 16, generator=generator)
    images[torch.arange(n), labels] += 0.4
    return images, labels


TRAIN, LABELS = photos(150, 0)
TEST, TEST_LABELS = photos(30, 1)
STRIPES = (torch.arange(16) % 2).float().expand(30, 3, 16, 16).contiguous()
BATCHES = list(zip(TRAIN.split(50), LABELS.split(50), strict=True))


def trained() -> nn.Module:
    torch.manual_seed(0)
    network = kedge.networks.create("kedge_resnet_small", CLASSES, arguments={"width": 8, "drop_rate": 0.2})
    optimizer = torch.optim.Adam(network.parameters(), 0.01)
    network.train()
    for _ in range(12):
        for images, labels in BATCHES:
            optimizer.zero_grad()
            nn.functional.cross_entropy(network((images - 0.4) / 0.2), labels).backward()
            optimizer.step()
    return network.eval()


@pytest.fixture(scope="module")
def models() -> dict[str, nn.Module]:
    network = trained()
    anchored = kedge.anchor(network, mean=0.4, std=0.2, example=TRAIN)
    anchored.references = TRAIN[:4]
    with torch.no_grad():
        anchored.stem.reference.weight.mul_(1.05)
    plain = kedge.plain(network, mean=0.4, std=0.2, example=TRAIN)
    for model in (plain, anchored):
        assert bool((outputs_of(model, TRAIN).logits.argmax(1) == LABELS).all())
    return {"plain": plain, "anchored": anchored, "bare": plain.fold()}


@pytest.mark.parametrize("kind", ["plain", "anchored"])
@pytest.mark.parametrize("name", ALL)
def test_every_detector_runs(name: str, kind: str, models):
    model = models[kind]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    score = PytorchOOD(name, **({"k": 20} if name == "KNN" else {})).fit_model(model, BATCHES)
    found = score(model, TEST)
    assert found.shape == (30,)
    assert found.dtype == torch.float32
    assert bool(found.isfinite().all())
    assert float(found.std()) > 0
    assert not found.requires_grad
    again = score(model, TEST)
    torch.testing.assert_close(found, again)
    assert not model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())
    assert (score.reads == "images") == (name in READ_IMAGES)
    assert score(model, TEST[:0]).shape == (0,)


def test_every_detector_of_the_package_is_accounted_for():
    assert set(ALL) | set(NEED_MORE) == set(detectors())
    assert len(ALL) >= 32
    assert set(ALL) >= READ_IMAGES


@pytest.mark.parametrize("name", NEED_MORE)
def test_what_a_classifier_cannot_give_is_named_and_can_be_given(name: str, models):
    with pytest.raises(ValueError, match=NEED_MORE[name]):
        PytorchOOD(name)
    settings = {"weights": torch.ones(CLASSES)} if name == "WeightedEBO" else {"text_embeddings": torch.eye(32)[:3]}
    assert PytorchOOD(name, **settings)(models["plain"], TEST).shape == (30,)


def test_the_sign_is_turned_and_our_own_scores_agree(models):
    train, test = (outputs_of(models["anchored"], x, features=True) for x in (TRAIN, TEST))
    pairs = {
        "MaxSoftmax": scores.MSP(),
        "MaxLogit": scores.MaxLogit(),
        "EnergyBased": scores.Energy(),
        "Entropy": scores.Entropy(),
        "KNN": scores.KNN(50),
    }
    for name, ours in pairs.items():
        theirs = PytorchOOD(name).fit(train, LABELS).score(test)
        own = ours.fit(train, LABELS).score(test)
        own = own.sigmoid() if name == "MaxSoftmax" else own  # ours are log odds
        np.testing.assert_allclose(theirs, own, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["KNN", "ViM", "ReAct", "Mahalanobis", "Gram", "NNGuide"])
def test_strange_images_score_lower(name: str, models):
    score = PytorchOOD(name).fit_model(models["plain"], BATCHES)
    assert float(auroc(score(models["plain"], TEST), score(models["plain"], STRIPES))) > 0.9


def test_odin_steps_in_pixels(models):
    score = PytorchOOD("ODIN", eps=0.1, temperature=10.0)
    network = models["bare"]
    found = score(models["plain"], TEST)
    x = TEST.clone().requires_grad_()
    logits = network(x) / 10
    nn.functional.cross_entropy(logits, logits.argmax(1)).backward()
    with torch.no_grad():
        expected = (network(TEST - 0.1 * x.grad.sign()) / 10).softmax(1).amax(1)
    torch.testing.assert_close(found, expected)


def test_an_anchored_model_is_what_its_forward_is(models):
    model = models["anchored"]
    found = PytorchOOD("ODIN", eps=0.0, temperature=1.0)(model, TEST)
    with torch.no_grad():
        torch.testing.assert_close(found, model(TEST).softmax(1).amax(1), rtol=1e-4, atol=1e-5)
        other = model(TEST, references=model.references[2:3]).softmax(1).amax(1)
    torch.testing.assert_close(
        PytorchOOD("ODIN", reference=2, eps=0.0, temperature=1.0)(model, TEST), other, rtol=1e-4, atol=1e-5
    )


def test_rankfeat_puts_its_maps_back(models):
    network = models["bare"]
    cut = Cut(network, network.network.blocks)
    with torch.no_grad():
        assert torch.equal(cut.head(cut.backbone(TEST)), network(TEST))
        assert not torch.equal(cut.head(0.5 * cut.backbone(TEST)), network(TEST))


def test_stages_and_named_layers(models):
    network = models["bare"]
    found = stages(network, TEST)
    shapes = []
    handles = [m.register_forward_hook(lambda _, __, o: shapes.append(tuple(o.shape[1:]))) for m in found]
    with torch.no_grad():
        network(TEST)
    for handle in handles:
        handle.remove()
    assert shapes == [(8, 16, 16), (16, 8, 8), (32, 4, 4)]
    score = PytorchOOD("Gram", layers=["network.blocks.1"]).fit_model(models["plain"], BATCHES)
    assert score(models["plain"], TEST).isfinite().all()
    with pytest.raises(ValueError, match="no layer 'layer4'"):
        PytorchOOD("Gram", layers=["layer4"]).fit_model(models["plain"], BATCHES)
    flat = nn.Sequential(nn.Flatten(), nn.Linear(768, CLASSES))
    with pytest.raises(ValueError, match="feature maps"):
        PytorchOOD("Gram").fit_model(flat, BATCHES)


@pytest.mark.parametrize("name", ["ODIN", "GradNorm", "MultiMahalanobis", "MahalanobisODIN", "RankFeat", "NACUE"])
def test_a_resnet_of_timm(name: str):
    model = timm.create_model("test_resnet", num_classes=CLASSES)
    images = torch.rand(12, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    score = PytorchOOD(name).fit_model(model, [(images, torch.arange(12) % CLASSES)])
    assert score(model, images).isfinite().all()


@pytest.mark.parametrize("name", ["ODIN", "GradNorm", "ReAct", "ViM", "GradUncertainty"])
def test_a_transformer_of_timm(name: str):
    model = timm.create_model("test_vit", num_classes=CLASSES, img_size=32)
    nn.init.normal_(model.head.weight)
    images = torch.rand(70, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    score = PytorchOOD(name).fit_model(model, [(images, torch.arange(70) % CLASSES)])
    assert score(model, images[:5]).isfinite().all()


def test_what_goes_wrong_is_said(models):
    outputs = outputs_of(models["plain"], TRAIN, features=True)
    with pytest.raises(ValueError, match="no detector 'Odin'"):
        PytorchOOD("Odin")
    with pytest.raises(ValueError, match=r"no setting 'epsilon'; it has .*eps"):
        PytorchOOD("ODIN", epsilon=1)
    with pytest.raises(ValueError, match="reads images"):
        PytorchOOD("ODIN").score(outputs)
    with pytest.raises(RuntimeError, match="fit"):
        PytorchOOD("ReAct").score(outputs)
    with pytest.raises(RuntimeError, match="fit"):
        PytorchOOD("Gram")(models["plain"], TEST)
    with pytest.raises(ValueError, match="is every class"):
        PytorchOOD("SHE").fit(outputs, LABELS.clamp(min=1))
    with pytest.raises(ValueError, match="features"):
        PytorchOOD("DICE").score(Outputs(outputs.logits))
    with pytest.raises(TypeError, match="not a function"):
        PytorchOOD("ODIN")(lambda x: x.mean((2, 3)), TEST)
    with pytest.raises(ValueError, match="no dropout"):
        PytorchOOD("MCD")(nn.Sequential(nn.Flatten(), nn.Linear(768, 3)), TEST)
    assert scores.usable([PytorchOOD("ODIN"), PytorchOOD("GEN"), PytorchOOD("ViM")], outputs)[0].name.endswith("gen")


def test_without_the_package(monkeypatch):
    real = builtins.__import__

    def missing(name, *args, **kwargs):
        if name.startswith("pytorch_ood"):
            raise ImportError(f"No module named {name!r}")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=r"pip install 'pytorch-ood<0.5'"):
        PytorchOOD("ODIN")


@pytest.mark.parametrize("name", ["EnergyBased", "RankFeat"])
def test_an_energy_of_an_ensemble_is_refused(models, name):
    """The logarithms of mean probabilities have the free energy log 1 = 0 for every image, which tells nothing."""
    ensemble = kedge.Ensemble([kedge.plain(trained(), example=TRAIN) for _ in range(2)])
    assert float(outputs_of(ensemble, TEST).logits.logsumexp(1).abs().max()) < 1e-5
    with pytest.raises(ValueError, match="0 for every image"):
        PytorchOOD(name)(ensemble, TEST)
    assert float(PytorchOOD(name)(ensemble.members[0], TEST).std()) > 1e-3
    if name == "EnergyBased":
        assert not scores.usable([PytorchOOD(name)], outputs_of(ensemble, TEST))
        assert scores.usable([PytorchOOD(name)], outputs_of(ensemble.members[0], TEST))

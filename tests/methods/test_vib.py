import copy

import pytest
import torch
from torch import nn

import kedge
from kedge import heads, networks
from kedge.objectives import DBAT, TRADES, VIB, Anchored, CrossEntropy, OutlierExposure, set_progress, set_streams
from kedge.objectives.vib import divergence
from kedge.scores import last_layer
from kedge.training import fit
from tests.settings import TINY

IMAGES = torch.rand(7, 1, 8, 8, generator=torch.Generator().manual_seed(1))
LABELS = torch.randint(5, (7,), generator=torch.Generator().manual_seed(2))


def network(head="vib", classes=5):
    torch.manual_seed(0)
    arguments = {"width": 4} if head is None else {"width": 4, "head": head}
    return networks.create("kedge_resnet_small", classes, 1, 8, arguments=arguments)


def loss_of(objective, model, images=IMAGES, labels=LABELS, seed=3):
    torch.manual_seed(seed)
    return objective(model, images, labels)


@pytest.mark.parametrize("round_it", [OutlierExposure, lambda inner: DBAT(inner, network())])
@pytest.mark.parametrize("anchored", [False, True])
def test_images_without_a_label_beside_its_own_have_no_price(round_it, anchored):
    logged = []
    for outside in (True, False):
        objective = VIB(CrossEntropy()) if outside else VIB(round_it(CrossEntropy()))
        whole = round_it(objective) if outside else objective
        whole = Anchored(whole, alpha=0.0) if anchored else whole
        set_streams(whole, outliers=IMAGES.flip(0) ** 3, unlabelled=IMAGES.flip(0) ** 3)
        loss_of(whole, (kedge.anchor if anchored else kedge.plain)(network(), example=(1, 8, 8)).train())
        logged.append(objective.logged["kl"])
    torch.testing.assert_close(*logged)


def test_the_worked_examples():
    """μ 1, σ² 1: 0.5; μ 0, σ² e: (e - 2) / 2 = 0.359; the standard normal: 0."""
    values = divergence(torch.tensor([[1.0], [0.0], [0.0]]), torch.tensor([[0.0], [1.0], [0.0]]))
    assert values.tolist() == pytest.approx([0.5, 0.359141, 0.0], abs=1e-6)


def test_it_is_torchs_divergence():
    draws = torch.Generator().manual_seed(0)
    mean, log_variance = torch.randn(4, 6, generator=draws), torch.randn(4, 6, generator=draws)
    normal = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    expected = torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).sum(1)
    torch.testing.assert_close(divergence(mean, log_variance), expected)
    half = divergence(mean.bfloat16(), log_variance.bfloat16())
    assert half.dtype == torch.float32


def test_the_loss_is_that_of_the_draw_and_the_price_of_its_distribution():
    model = network().train()
    objective = VIB(CrossEntropy(), weight=0.3, anneal=0.0)
    plain = loss_of(CrossEntropy(), copy.deepcopy(model))
    loss = loss_of(objective, model)
    features = copy.deepcopy(network()).train()
    features.fc = nn.Identity()
    read = features(IMAGES)
    expected = divergence(model.fc.mean(read), model.fc.log_variance(read)).mean()
    assert float(objective.logged["kl"]) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert float((loss - plain).detach()) == pytest.approx(0.3 * float(expected.detach()), rel=1e-5)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_without_price_and_noise_it_is_the_plain_network():
    model = network().train()
    with torch.no_grad():
        model.fc.log_variance.weight.zero_()
        model.fc.log_variance.bias.fill_(-200.0)
    plain = copy.deepcopy(model)
    plain.fc = nn.Sequential(plain.fc.mean, plain.fc.classifier)
    assert torch.equal(loss_of(VIB(CrossEntropy(), weight=0.0), model), loss_of(CrossEntropy(), plain))


def test_the_price_grows_with_training():
    objective = VIB(CrossEntropy(), weight=0.2, anneal=0.5)
    betas = []
    for share in (0.0, 0.25, 0.5, 1.0):
        set_progress(objective, share)
        betas.append(objective.beta)
    assert betas == pytest.approx([0, 0.1, 0.2, 0.2])
    objective = VIB(CrossEntropy(), weight=0.2, anneal=0.0)
    set_progress(objective, 0.0)
    assert objective.beta == 0.2


def test_it_draws_in_training_by_torchs_seed_and_takes_the_mean_in_eval_mode():
    head = heads.VIB(6, 3)
    with torch.no_grad():
        head.log_variance.bias.zero_()
    features = torch.randn(4000, 6, generator=torch.Generator().manual_seed(0))[:1].expand(4000, 6)
    torch.manual_seed(1)
    one = head.train()(features)
    torch.manual_seed(1)
    assert torch.equal(head(features), one)
    assert not torch.equal(head(features), one)
    mean = head.eval()(features)
    assert torch.equal(mean[0], mean[1])
    assert torch.equal(mean, head(features))
    deviation = (one - mean).std(0)
    noise = (0.5 * head.log_variance(features[:1])).exp() * head.classifier.weight
    torch.testing.assert_close(deviation, noise.norm(dim=1), rtol=0.08, atol=0)
    assert float((one - mean).detach().mean(0).abs().max()) < 0.1


@pytest.mark.parametrize("anchored", [False, True])
def test_it_is_saved_loaded_and_folded(tmp_path, anchored):
    model = network()
    model = kedge.anchor(model, references=IMAGES[:2]) if anchored else kedge.plain(model, example=(1, 8, 8))
    model.eval()
    kedge.save(model, tmp_path / "model")
    loaded = kedge.load(tmp_path / "model")
    assert isinstance(loaded.network.fc, heads.VIB)
    with torch.no_grad():
        assert torch.equal(loaded(IMAGES), model(IMAGES))
        folded = model.fold().eval()
        torch.testing.assert_close(folded(IMAGES), model(IMAGES), rtol=1e-4, atol=1e-4)
    assert last_layer(model, IMAGES) is model.network.fc.classifier


def test_it_nests_in_anchored_and_outside_of_an_attack():
    model = kedge.anchor(network(), references=IMAGES[:3]).train()
    attacking = TRADES(CrossEntropy(), attack=kedge.attacks.PGD(0.1, steps=1, random_start=True))
    for inner in (CrossEntropy(), attacking):
        loss = loss_of(Anchored(VIB(inner, weight=0.1), alpha=0.0), model)
        loss.backward()
        assert loss.isfinite()


@pytest.mark.parametrize("count", [1, 3])
def test_small_batches_of_one_class(count):
    model = network().train()
    for module in model.modules():  # a batch of one has no variance
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    loss = loss_of(VIB(CrossEntropy()), model, IMAGES[:count], torch.zeros(count, dtype=torch.long))
    assert loss.isfinite()
    soft = torch.full((count, 5), 0.2)
    assert loss_of(VIB(CrossEntropy()), model, IMAGES[:count], soft).isfinite()


def test_what_it_cannot_take():
    with pytest.raises(ValueError, match=r"one head that draws, and this one has none: say arguments \{head: vib\}"):
        VIB(CrossEntropy()).prepare(network(None))
    two = nn.ModuleList([network(), network()])
    with pytest.raises(ValueError, match="this one has 2"):
        VIB(CrossEntropy()).prepare(two)
    with pytest.raises(ValueError, match="train mode"):
        VIB(CrossEntropy())(network().eval(), IMAGES, LABELS)
    with pytest.raises(ValueError, match="weight is a number, 0 or more, got -1"):
        VIB(CrossEntropy(), -1)
    with pytest.raises(ValueError, match="anneal is a share of training, 0 to 1, got 2"):
        VIB(CrossEntropy(), anneal=2)


@pytest.mark.parametrize("value", ["nothing", "module:Class", 3, ["vib"], {"vib": 1}])
def test_a_head_that_is_none_is_refused(value):
    with pytest.raises(ValueError, match=r"network argument head is cosine or .*vib, not"):
        network(value)


def test_a_network_without_a_linear_last_layer_is_refused():
    with pytest.raises(ValueError, match="takes the place of one linear last layer"):
        networks.create("torchvision/squeezenet1_1", 5, arguments={"head": "vib"})


def test_a_run_without_the_head_is_refused_before_it_has_a_folder(tmp_path):
    recipe = {
        **TINY,
        "runs": str(tmp_path),
        "name": "run",
        "epochs": 1,
        "objective": ["Anchored", "VIB", "CrossEntropy"],
    }
    with pytest.raises(ValueError, match="one head that draws"):
        fit(recipe, progress=False, report=False)
    assert not (tmp_path / "run").exists()

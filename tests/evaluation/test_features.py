import numpy as np
import pytest
import torch
from torch import nn

import kedge
from kedge import networks
from kedge.evaluation import centred_alignment, effective_rank, feature_report
from kedge.evaluation.features import features_of, layers_of


def hsic(k, ell):
    """The unbiased estimator of Song et al. (JMLR 2012), equation 5, term by term."""
    n = len(k)
    k, ell = k.copy(), ell.copy()
    np.fill_diagonal(k, 0)
    np.fill_diagonal(ell, 0)
    ones = np.ones(n)
    cross = ones @ k @ ones * (ones @ ell @ ones) / ((n - 1) * (n - 2))
    return (np.trace(k @ ell) + cross - 2 / (n - 2) * (ones @ k @ ell @ ones)) / (n * (n - 3))


def test_cka_is_that_of_the_unbiased_hsic():
    x, y = np.random.default_rng(0).normal(size=(2, 60, 5))
    y = 0.5 * y + x @ np.diag([2, 1, 1, 0.5, 0])
    k, ell = x @ x.T, y @ y.T
    expected = hsic(k, ell) / np.sqrt(hsic(k, k) * hsic(ell, ell))
    value, low, high = centred_alignment(torch.tensor(x), torch.tensor(y))
    assert value == pytest.approx(expected, rel=1e-9)
    assert low < value < high


def test_cka_knows_no_rotation_no_scale_and_no_dimension():
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(200, 30, generator=draws, dtype=torch.float64)
    q, _ = torch.linalg.qr(torch.randn(30, 30, generator=draws, dtype=torch.float64))
    assert centred_alignment(x, 7 * x @ q + 3)[0] == pytest.approx(1, abs=1e-9)
    value, low, high = centred_alignment(torch.randn(64, 4096, generator=draws), torch.randn(64, 4096, generator=draws))
    assert abs(value) < 0.05  # where plain CKA is near 1
    assert low < 0 < high


def test_the_interval_of_cka_covers_the_value_of_many_images():
    draws = torch.Generator().manual_seed(1)
    mix = torch.randn(6, 6, generator=draws, dtype=torch.float64)

    def pair(n):
        x = torch.randn(n, 6, generator=draws, dtype=torch.float64)
        return x, x @ mix + torch.randn(n, 6, generator=draws, dtype=torch.float64)

    truth = centred_alignment(*pair(1200))[0]
    held = sum(low <= truth <= high for _, low, high in (centred_alignment(*pair(80)) for _ in range(30)))
    assert held >= 25


def test_effective_rank():
    q, _ = np.linalg.qr(np.random.default_rng(0).normal(size=(100, 8)))
    q = q - q.mean(0)
    q, _ = np.linalg.qr(q)
    assert effective_rank(torch.tensor(q)) == pytest.approx(8)  # equal singular values
    weights = np.array([4, 2, 1, 1, 0, 0, 0, 0])
    shares = weights[:4] / 8
    expected = np.exp(-(shares * np.log(shares)).sum())
    assert effective_rank(torch.tensor(q * weights) + 5) == pytest.approx(expected, rel=1e-6)
    assert effective_rank(torch.ones(50, 3)) == 0
    with pytest.raises(ValueError, match="finite"):
        effective_rank(torch.full((5, 3), torch.nan))


@pytest.fixture(scope="module")
def digits():
    return kedge.data.load("digits", "train").subset(range(300)), kedge.data.load("digits", "test").subset(range(200))


def small(seed=0, anchored=False):
    torch.manual_seed(seed)
    network = networks.create("kedge_resnet_small", 10, 1, 8, arguments={"width": 8})
    model = (kedge.anchor if anchored else kedge.plain)(network, example=(1, 8, 8))
    if anchored:
        model.references = torch.rand(3, 1, 8, 8)
        with torch.no_grad():
            model.stem.reference.weight.mul_(0.5)
    return model.eval()


def test_a_model_beside_itself_is_the_same_in_every_layer(digits):
    train, test = digits
    report = feature_report(small(), small(), train, test, ["blocks.1", "blocks.2"])
    assert [row["name"] for row in report["layers"]] == ["blocks.1", "blocks.2"]
    for row in report["layers"]:
        assert row["cka"]["value"] == pytest.approx(1, abs=1e-5)
        assert row["before"] == row["after"]
    assert report["outliers"]["before"] == report["outliers"]["after"]


def test_probes_read_what_scikit_learn_reads(digits):
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    train, test = digits
    model = small()
    report = feature_report(model, small(1), train, test, ["blocks.1"])
    for row in report["layers"]:
        known, held = (features_of(model, [row["name"]], each)[row["name"]].numpy() for each in (train, test))
        scale = StandardScaler().fit(known)
        fit = LogisticRegression(C=10, max_iter=3000).fit(scale.transform(known), train.labels)
        theirs = fit.score(scale.transform(held), test.labels)
        assert row["before"]["probe"]["value"] == pytest.approx(theirs, abs=0.06)


def test_features_are_means_over_places_and_over_the_bank(digits):
    _, test = digits
    model = small(anchored=True)
    few = test.subset(range(7))
    own = features_of(model, ["blocks.0"], few, batch_size=3)["blocks.0"]
    expected = torch.zeros(7, own.shape[1])
    with torch.no_grad():
        for reference in model.references:
            outputs = []
            handle = model.network.blocks[0].register_forward_hook(lambda m, i, o, to=outputs: to.append(o))
            model(few.images / 255, references=reference[None])
            handle.remove()
            expected += outputs[0].mean((2, 3)) / 3
    torch.testing.assert_close(own, expected)


def test_layers_that_are_found():
    import timm

    image = torch.rand(3, 64, 64)
    resnet = kedge.plain(timm.create_model("test_resnet", num_classes=4), example=(3, 64, 64))
    assert layers_of(resnet, "it", image)[-2:] == ["layer4", "fc"]
    vit = kedge.plain(timm.create_model("test_vit", num_classes=4), example=(3, 160, 160))
    names = layers_of(vit, "it", image)
    assert "patch_embed" in names
    assert {"blocks.0", "blocks.1"} <= set(names)
    deep = nn.Sequential(nn.Flatten(), *[nn.Linear(64, 64) for _ in range(30)])
    listed = layers_of(kedge.plain(deep, example=(1, 8, 8)), "it", torch.rand(1, 8, 8))
    assert len(listed) == 12
    assert (listed[0], listed[-1]) == ("1", "30")


def test_what_has_no_layers_or_none_in_common_is_refused(digits):
    train, test = digits
    with pytest.raises(ValueError, match="the model after has no layers to look at"):
        feature_report(small(), kedge.Ensemble([small(), small(1)]), train, test)
    with pytest.raises(ValueError, match="no layers to look at"):
        feature_report(lambda images: images.flatten(1), small(), train, test)
    other = kedge.plain(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), example=(1, 8, 8))
    with pytest.raises(ValueError, match=r"no layer in common \(before: .*; after: 1\)"):
        feature_report(small(), other, train, test)
    with pytest.raises(ValueError, match="the network has no layer 'layer9'; it has stem"):
        feature_report(small(), small(), train, test, layers=["layer9"])
    with pytest.raises(ValueError, match="30 images to judge probes, and it takes 40 or more"):
        feature_report(small(), small(), train, test.subset(range(30)))
    with pytest.raises(ValueError, match="300 test images are training images"):
        feature_report(small(), small(), train, train)
    with pytest.raises(ValueError, match="no training image of 9"):
        feature_report(small(), small(), train.subset(train.labels != 9), test)
    broken = small()
    nn.init.constant_(broken.network.fc.bias, float("nan"))
    with pytest.raises(ValueError, match=r"finite|NaN"):
        feature_report(small(), broken, train, test, ["fc"])

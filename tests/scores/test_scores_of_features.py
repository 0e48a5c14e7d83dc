"""KNN, Mahalanobis and ViM against scikit-learn, numpy and pytorch-ood."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from sklearn.covariance import EmpiricalCovariance, ShrunkCovariance
from sklearn.neighbors import NearestNeighbors

from kedge.scores import KNN, Mahalanobis, Outputs, ViM

D, C = 12, 4


def made(n: int = 300, d: int = D, classes: int = C, seed: int = 0, far: float = 0.0) -> tuple[Outputs, torch.Tensor]:
    """Features round class means, some directions almost flat, and the logits of a random head."""
    generator = torch.Generator().manual_seed(seed)
    means = 2 * torch.randn(classes, d, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(n) % classes
    scale = torch.logspace(0, -2, d)
    features = means[labels] + scale * torch.randn(n, d, generator=generator) + far
    head = torch.randn(classes, d, generator=torch.Generator().manual_seed(98)), torch.linspace(-1, 1, classes)
    return Outputs(features @ head[0].T + head[1], features=features, head=head), labels


TRAIN, LABELS = made()
TEST, _ = made(50, seed=1, far=0.3)


def numbers(outputs: Outputs) -> np.ndarray:
    return outputs.features.double().numpy()


@pytest.mark.parametrize("k", [1, 7, 300])
def test_knn_is_scikit_learns(k: int):
    def unit(x: np.ndarray) -> np.ndarray:
        return x / np.linalg.norm(x, axis=1, keepdims=True)

    oracle = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(unit(numbers(TRAIN)))
    expected = -oracle.kneighbors(unit(numbers(TEST)))[0][:, -1]
    np.testing.assert_allclose(KNN(k).fit(TRAIN, LABELS).score(TEST), expected, atol=1e-6)


def test_knn_in_parts_and_at_distance_zero(monkeypatch):
    score = KNN(3).fit(TRAIN, LABELS)
    whole = score.score(TEST)
    monkeypatch.setattr("kedge.scores.knn.AT_ONCE", 1000)
    assert torch.equal(score.score(TEST), whole)
    assert float(KNN(1).fit(TRAIN, LABELS).score(TRAIN).abs().max()) < 1e-6
    assert KNN(1).fit(TRAIN, LABELS).score(Outputs(TEST.logits[:0], features=TEST.features[:0])).shape == (0,)


@pytest.mark.parametrize("shrinkage", [0.0, 0.2])
@pytest.mark.parametrize("relative", [False, True])
def test_mahalanobis_is_scikit_learns(relative: bool, shrinkage: float):
    x, y, z = numbers(TRAIN), LABELS.numpy(), numbers(TEST)
    means = np.stack([x[y == c].mean(0) for c in range(C)])
    kind = ShrunkCovariance(shrinkage=shrinkage, assume_centered=True) if shrinkage else EmpiricalCovariance()
    shared = kind.fit(x - means[y])
    expected = np.min([shared.mahalanobis(z - mean + shared.location_) for mean in means], axis=0)
    if relative:
        kind = ShrunkCovariance(shrinkage=shrinkage) if shrinkage else EmpiricalCovariance()
        expected -= kind.fit(x).mahalanobis(z)
    ours = Mahalanobis(relative=relative, shrinkage=shrinkage).fit(TRAIN, LABELS).score(TEST)
    np.testing.assert_allclose(ours, -expected, rtol=1e-4, atol=1e-4)


def test_mahalanobis_does_not_care_for_the_units_of_features():
    ours = Mahalanobis().fit(TRAIN, LABELS).score(TEST)
    matrix = torch.randn(D, D, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    turned = [Outputs(o.logits, features=o.features.double() @ matrix + 5) for o in (TRAIN, TEST)]
    np.testing.assert_allclose(Mahalanobis().fit(turned[0], LABELS).score(turned[1]), ours, rtol=1e-3)


@pytest.mark.parametrize("dimension", [1, 5, None])
def test_vim_is_the_published_formula_in_numpy(dimension: int | None):
    w, b = (part.double().numpy() for part in TRAIN.head)
    d = dimension or D // 2
    origin = -np.linalg.pinv(w) @ b
    x = numbers(TRAIN) - origin
    values, vectors = np.linalg.eig(x.T @ x / len(x))
    outside = vectors[:, np.argsort(-values.real)[d:]].real
    alpha = (numbers(TRAIN) @ w.T + b).max(1).mean() / np.linalg.norm(x @ outside, axis=1).mean()
    virtual = alpha * np.linalg.norm((numbers(TEST) - origin) @ outside, axis=1)
    expected = logsumexp(numbers(TEST) @ w.T + b, axis=1) - virtual
    np.testing.assert_allclose(ViM(dimension).fit(TRAIN, LABELS).score(TEST), expected, rtol=1e-4, atol=1e-4)


def test_vim_does_not_feel_a_temperature():
    colder = [Outputs(o.logits / 3, features=o.features, head=o.head) for o in (TRAIN, TEST)]
    assert torch.equal(ViM().fit(colder[0], LABELS).score(colder[1]), ViM().fit(TRAIN, LABELS).score(TEST))


@pytest.mark.parametrize(("size", "expected"), [(2048, 1000), (768, 512), (512, 256), (3, 1)])
def test_vim_takes_the_authors_dimension(size: int, expected: int, monkeypatch):
    monkeypatch.setattr(torch.linalg, "eigh", lambda m: (m[0], torch.eye(len(m)).double()))
    monkeypatch.setattr(torch.linalg, "pinv", lambda m: torch.zeros_like(m.T))
    outputs, labels = made(20, size)
    score = ViM().fit(outputs, labels)
    assert score._learned[1].shape == (size, size - expected)


def test_pytorch_ood_agrees_where_it_defines_the_same():
    detector = pytest.importorskip("pytorch_ood.detector")
    pairs = [
        (KNN(5), detector.KNN(None, k=5), 1.0),
        (ViM(5), detector.ViM(None, 5, *TRAIN.head), 1.0),
        # Its covariance is not divided by the number of images.
        (Mahalanobis(), detector.Mahalanobis(None), 2 * 300.0),
        (Mahalanobis(relative=True), detector.RMD(None), 300.0),
    ]
    for ours, theirs, factor in pairs:
        theirs.fit_features(TRAIN.features, LABELS)
        expected = -factor * theirs.predict_features(TEST.features)
        np.testing.assert_allclose(ours.fit(TRAIN, LABELS).score(TEST), expected, rtol=3e-3, atol=3e-3)


@pytest.mark.parametrize("score", [KNN(3), Mahalanobis(), Mahalanobis(relative=True), ViM()])
class TestEvery:
    def test_far_away_scores_lower(self, score):
        score.fit(TRAIN, LABELS)
        away = Outputs(TEST.logits, features=TEST.features + 3 * (torch.arange(D) >= 8), head=TEST.head)
        assert float(score.score(away).median()) < float(score.score(made(50, seed=2)[0]).median())

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
    def test_other_dtypes(self, score, dtype):
        expected = score.fit(TRAIN, LABELS).score(TEST)
        cast = [
            Outputs(o.logits.to(dtype), features=o.features.to(dtype), head=tuple(p.to(dtype) for p in o.head))
            for o in (TRAIN, TEST)
        ]
        found = score.fit(cast[0], LABELS).score(cast[1])
        assert found.isfinite().all()
        assert np.corrcoef(found, expected)[0, 1] > (0.999 if dtype == torch.float64 else 0.6)

    def test_fewer_images_than_features(self, score):
        few, labels = made(9, 40)
        score = ViM(4) if isinstance(score, ViM) else score
        assert score.fit(few, labels).score(made(5, 40, seed=4)[0]).isfinite().all()

    def test_before_fit_and_without_features(self, score):
        fresh = type(score)()
        with pytest.raises(RuntimeError, match="fit"):
            fresh.score(TEST)
        with pytest.raises(ValueError, match="features=True"):
            fresh.fit(Outputs(TRAIN.logits), LABELS)
        with pytest.raises(ValueError, match="features=True"):
            score.fit(TRAIN, LABELS).score(Outputs(TEST.logits))

    def test_what_cannot_be_fitted(self, score):
        broken = TRAIN.features.clone()
        broken[0, 0] = torch.nan
        with pytest.raises(ValueError, match="1 of 300 images are NaN"):
            score.fit(Outputs(TRAIN.logits, features=broken, head=TRAIN.head), LABELS)
        with pytest.raises(ValueError, match=r"300 images and labels torch.int64 \[299\]"):
            score.fit(TRAIN, LABELS[1:])

    def test_an_absent_class(self, score):
        kept = LABELS != 1
        some = Outputs(TRAIN.logits[kept], features=TRAIN.features[kept], head=TRAIN.head)
        assert score.fit(some, LABELS[kept]).score(TEST).isfinite().all()

    def test_dead_features(self, score):
        dead = [
            Outputs(o.logits, features=torch.cat([o.features, torch.zeros(len(o), 5)], 1), head=wider(o.head))
            for o in (TRAIN, TEST)
        ]
        assert score.fit(dead[0], LABELS).score(dead[1]).isfinite().all()

    def test_seen_once_and_asked_by_parts(self, score):
        whole = score.fit(TRAIN, LABELS).score(TEST)
        one = Outputs(TEST.logits[:1], features=TEST.features[:1], head=TEST.head)
        torch.testing.assert_close(score.score(one), whole[:1], rtol=1e-4, atol=1e-4)


def wider(head: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.cat([head[0], torch.ones(C, 5)], 1), head[1]


def test_one_image_per_class_and_too_few_for_a_residual():
    single, labels = made(C)
    with pytest.raises(ValueError, match="differ within a class"):
        Mahalanobis().fit(single, labels)
    few, labels = made(4)
    with pytest.raises(ValueError, match="nothing outside the 8 principal directions of 4"):
        ViM(8).fit(few, labels)
    with pytest.raises(ValueError, match="only 12 features"):
        ViM(12).fit(TRAIN, LABELS)
    with pytest.raises(ValueError, match="50th nearest of 4"):
        KNN(50).fit(few, labels)


def test_the_neighbour_is_one_in_a_thousand_unless_told():
    generator = torch.Generator().manual_seed(0)
    many = Outputs(torch.zeros(3000, C), features=torch.randn(3000, 6, generator=generator))
    labels = torch.zeros(3000, dtype=torch.long)
    new = Outputs(torch.zeros(40, C), features=torch.randn(40, 6, generator=generator))
    assert torch.equal(KNN().fit(many, labels).score(new), KNN(3).fit(many, labels).score(new))


@pytest.mark.parametrize("make", [lambda: KNN(0), lambda: ViM(0), lambda: Mahalanobis(shrinkage=1.5)])
def test_bad_settings(make):
    with pytest.raises(ValueError, match=r"0|1\.5"):
        make()


@settings(max_examples=30, deadline=None)
@given(n=st.integers(2, 30), d=st.integers(2, 20), b=st.integers(0, 5), seed=st.integers(0, 99))
def test_any_shape_scores_or_says_why(n: int, d: int, b: int, seed: int):
    train, labels = made(n, d, classes=3, seed=seed)
    test, _ = made(b, d, classes=3, seed=seed + 1)
    said: list[str] = []
    for score in (KNN(2), Mahalanobis(), ViM()):
        try:
            score.fit(train, labels)
        except ValueError as error:
            said.append(str(error))
            continue
        found = score.score(test)
        assert found.shape == (b,)
        assert found.dtype == torch.float32
        assert found.isfinite().all()
    assert all("training images" in words or "features" in words for words in said)

"""The parts of an audit, each against what it is by definition."""

import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from scipy.optimize import nnls
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from kedge.auditing import Curve, Heads, look, near_duplicates, opposing_groups, reduced, subsampled, suspects
from kedge.auditing.findings import of_looks
from kedge.auditing.gathering import gather
from kedge.auditing.learning_curve import _line, extrapolate, learning_curve
from kedge.auditing.opposing import edge_losses, largest_rise
from kedge.auditing.whole import divided
from kedge.data.near import Pair, groups


def photo(seed, size=(96, 80)):
    """A picture with large and small structure, unlike any other."""
    draws = np.random.default_rng(seed)
    layers = [
        np.asarray(Image.fromarray(draws.integers(0, 256, (n, n, 3), dtype=np.uint8)).resize(size, 3), dtype=float)
        for n in (4, 12, max(40, min(size) // 2))
    ]
    return Image.fromarray((sum(layers) / 3).clip(0, 255).astype(np.uint8))


def saved(folder, name, image, **how):
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **how)
    return path


def looked(folder):
    looks, pool = look(gather(str(folder)))
    return looks, pool, {pool.file(i).rpartition("/")[2]: i for i in range(len(pool))}


@pytest.fixture(scope="module")
def album(tmp_path_factory):
    folder = tmp_path_factory.mktemp("album")
    for i in range(24):
        saved(folder, f"{'ab'[i % 2]}/p{i}.png", photo(i))
    one = photo(3)
    (folder / "a" / "exact.png").write_bytes((folder / "b" / "p3.png").read_bytes())
    saved(folder, "a/jpeg.jpg", photo(5), quality=50)
    saved(folder, "a/small.png", photo(7).resize((60, 50)))
    saved(folder, "a/cut.png", photo(9).crop((6, 4, 92, 76)))
    saved(folder, "b/dark.png", Image.fromarray((np.asarray(photo(100)) * 0.12).astype(np.uint8)))
    saved(folder, "b/blurred.png", photo(101).filter(ImageFilter.GaussianBlur(5)))
    saved(folder, "b/white.png", Image.new("RGB", one.size, "white"))
    saved(folder, "b/huge.png", photo(102, (960, 800)))
    saved(
        folder, "b/long.png", Image.fromarray(np.concatenate([np.asarray(photo(i))[:60] for i in (103, 104, 105)], 1))
    )
    return folder


def test_copies_are_named_whatever_was_done_to_them_and_nothing_else(album):
    looks, _, at = looked(album)
    pairs, words = near_duplicates(looks)
    named = {frozenset((p.first, p.second)): p.kind for p in pairs}
    expected = {("exact.png", "p3.png"): "exact", ("jpeg.jpg", "p5.png"): "near", ("small.png", "p7.png"): "near",
                ("cut.png", "p9.png"): "cut"}  # fmt: skip
    assert named == {frozenset((at[a], at[b])): kind for (a, b), kind in expected.items()}
    assert words == ""
    assert all(p.first < p.second and 0.9 <= p.similarity <= 1.0001 for p in pairs)


def test_looks_that_are_far_from_the_others(album):
    looks, pool, at = looked(album)
    kinds = {(f.kind, f.image) for f in of_looks(looks, pool)}
    expected = {"dark": "dark.png", "blurred": "blurred.png", "one colour": "white.png", "odd size": "huge.png",
                "odd shape": "long.png"}  # fmt: skip
    assert kinds == {(kind, at[name]) for kind, name in expected.items()}
    grey = np.asarray(photo(4).convert("L"), dtype=float) / 255
    i = at["p4.png"]
    assert float(looks.brightness[i]) == pytest.approx(np.percentile(grey, 95))
    assert float(looks.spread[i]) == pytest.approx(grey.std())
    assert (int(looks.width[at["long.png"]]), int(looks.height[at["long.png"]])) == (288, 60)


def test_images_that_are_all_the_same_are_copies_of_the_first(tmp_path):
    for i in range(7):
        saved(tmp_path, f"{'ab'[i % 2]}/{i}.png", photo(0))
    looks, pool, _ = looked(tmp_path)
    pairs, _ = near_duplicates(looks)
    assert [(p.first, p.second, p.kind) for p in pairs] == [(0, i, "exact") for i in range(1, 7)]
    assert groups(pairs, len(pool)).tolist() == [0] * 7


def test_groups_are_the_connected_components():
    draws = np.random.default_rng(0)
    edges = draws.integers(0, 60, (35, 2))
    pairs = [Pair(int(min(e)), int(max(e)), "near", 1.0) for e in edges if e[0] != e[1]]
    ours = groups(pairs, 60)
    matrix = coo_array((np.ones(len(pairs)), ([p.first for p in pairs], [p.second for p in pairs])), (60, 60))
    _, theirs = connected_components(matrix, directed=False)
    assert all((ours[i] == ours[j]) == (theirs[i] == theirs[j]) for i in range(60) for j in range(60))
    assert all(int(ours[i]) == min(j for j in range(60) if theirs[j] == theirs[i]) for i in range(60))


def test_memorisation_is_the_difference_of_two_shares():
    draws = torch.Generator().manual_seed(0)
    inside, right = torch.rand(20, 9, generator=draws) < 0.7, torch.rand(20, 9, generator=draws) < 0.5
    inside[:, 0] = True
    right[:, 1] = inside[:, 1]  # always right in, never out
    score = Heads(inside, right, torch.zeros(9, 2), torch.zeros(9)).memorisation()
    assert bool(score[0].isnan())
    assert float(score[1]) == 1
    for i in range(2, 9):
        among = [bool(r) for r, s in zip(right[:, i], inside[:, i], strict=True) if s]
        apart = [bool(r) for r, s in zip(right[:, i], inside[:, i], strict=True) if not s]
        assert float(score[i]) == pytest.approx(np.mean(among) - np.mean(apart))


@pytest.fixture(scope="module")
def blobs():
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(90) % 3
    rows = torch.eye(3)[labels] * 6 + torch.randn(90, 3, generator=draws)
    rows = torch.cat([rows, torch.randn(90, 12, generator=draws)], 1)
    wrong = torch.tensor([4, 17, 50])
    return rows, labels.index_put((wrong,), (labels[wrong] + 1) % 3), wrong


def test_wrong_labels_are_memorised_doubtful_and_hard(blobs):
    rows, labels, wrong = blobs
    heads = subsampled(reduced(rows), labels, 3, heads=24, steps=500)
    assert heads.inside.sum(1).tolist() == [63] * 24
    doubtful, likely, margin = suspects(heads.apart, labels)
    assert doubtful.nonzero()[:, 0].tolist() == wrong.tolist()
    assert likely[wrong].tolist() == ((labels[wrong] + 2) % 3).tolist()
    assert set(margin.topk(3).indices.tolist()) == set(wrong.tolist())
    assert set(heads.el2n.topk(3).indices.tolist()) == set(wrong.tolist())
    assert float(heads.memorisation()[wrong].min()) > 0.8
    assert 0 <= float(heads.el2n.min()) <= float(heads.el2n.max()) <= 2**0.5
    again = subsampled(reduced(rows), labels, 3, heads=24, steps=500)
    assert torch.equal(again.apart, heads.apart)
    other = subsampled(reduced(rows), labels, 3, heads=24, steps=200, seed=1)
    assert not torch.equal(other.inside, heads.inside)


def test_copies_are_in_the_same_parts(blobs):
    rows, labels, _ = blobs
    together = torch.arange(90) // 2
    heads = subsampled(rows, labels, 3, heads=6, steps=150, groups=together)
    assert torch.equal(heads.inside[:, ::2], heads.inside[:, 1::2])


def test_heads_are_refused_in_words(blobs):
    rows, labels, _ = blobs
    with pytest.raises(ValueError, match="one class"):
        subsampled(rows, torch.zeros(90, dtype=torch.long), 3)
    with pytest.raises(ValueError, match="got 1 on"):
        subsampled(rows, labels, 3, heads=1)
    with pytest.raises(ValueError, match=r"on 1\.0"):
        subsampled(rows, labels, 3, share=1.0)


def test_suspects_by_the_definition_of_confident_learning():
    draws = np.random.default_rng(1)
    probs, labels = draws.dirichlet([1, 1, 1, 1], 200), draws.integers(0, 3, 200)  # the fourth class has no image
    ours, likely, margin = suspects(torch.from_numpy(probs), torch.from_numpy(labels))
    thresholds = [probs[labels == c, c].mean() if (labels == c).any() else np.inf for c in range(4)]
    for i in range(200):
        above = [c for c in range(4) if probs[i, c] >= thresholds[c]]
        best = max(above, key=lambda c: probs[i, c]) if above else labels[i]
        others = [c for c in range(4) if c != labels[i]]
        assert int(likely[i]) == max(others, key=lambda c: probs[i, c])
        assert float(margin[i]) == pytest.approx(max(probs[i, c] for c in others) - probs[i, labels[i]])
        assert bool(ours[i]) == (best != labels[i] and float(margin[i]) > 0)


@pytest.mark.parametrize("width", [30, 60])
def test_principal_components_keep_what_lies_between_images(width):
    rows = torch.randn(40, width, generator=torch.Generator().manual_seed(0))
    kept = reduced(rows, 20)
    assert kept.shape == (40, 20)
    assert float(kept.mean(0).abs().max()) < 1e-5
    assert float(kept.square().mean()) == pytest.approx(1, rel=1e-5)
    values = torch.linalg.svdvals(rows.double() - rows.double().mean(0))[:20]
    ours = torch.linalg.svdvals(kept.double())
    torch.testing.assert_close(ours / ours[0], values / values[0], rtol=1e-4, atol=1e-5)


def test_opposing_groups_by_hand():
    before = torch.tensor([1.0, 1, 1, 1, 1, 1])
    after = torch.tensor([1.5, 0.2, 1.0, 1.1, 0.9, 3.0])
    groups = opposing_groups(before, after, 2)
    assert groups.worse.tolist() == [5, 0]
    assert groups.better.tolist() == [1, 4]
    assert groups.carried == pytest.approx(2 / (0.5 + 0.8 + 0 + 0.1 + 0.1 + 2), rel=1e-6)
    assert opposing_groups(before, after, 9).worse.tolist() == [5, 0, 3]
    for wrong in ((before, after[:3], 1), (before, after, 0), (before, after * torch.nan, 1)):
        with pytest.raises(ValueError):
            opposing_groups(*wrong)


def test_the_largest_rise_of_the_mean():
    assert largest_rise(torch.tensor([[3.0, 3], [2, 2], [2, 3], [1, 6], [1, 1]])) == 2  # 2.5 to 3.5
    assert largest_rise(torch.tensor([[3.0], [2], [2]])) is None
    losses = edge_losses(
        torch.randn(30, 5, generator=torch.Generator().manual_seed(0)), torch.arange(30) % 3, 3, steps=20
    )
    assert losses.shape == (20, 30)
    assert float(losses[-1].mean()) < float(losses[0].mean())


def test_a_line_without_negative_parts_is_that_of_nnls():
    draws = np.random.default_rng(2)
    for _ in range(50):
        x, y, w = draws.random(4) + 0.5, draws.random(4) - 0.1, draws.random(4) + 0.1
        root = np.sqrt(w)
        theirs, _ = nnls(np.stack([root, root * x], 1), root * y)
        ours = [max(0.0, float(v)) for v in _line(*map(torch.from_numpy, (x, y, w)))]
        assert ours == pytest.approx(theirs.tolist(), abs=1e-9)


@pytest.mark.parametrize(("floor", "exponent"), [(0.05, 0.5), (0.0, 1.0), (0.2, 0.25)])
def test_a_curve_of_a_power_is_continued(floor, exponent):
    images = (100, 200, 400, 800)
    error = floor + 0.3 * (torch.tensor(images, dtype=torch.float64) / 100) ** -exponent
    draws = torch.Generator().manual_seed(0)
    told = [float(extrapolate(images, error, torch.full((4,), 1e-5), 3200, draws)) for _ in range(20)]
    assert told == pytest.approx([floor + 0.3 * 32**-exponent] * 20, abs=2e-3)


def test_a_learning_curve(blobs):
    rows, labels, _ = blobs
    training, judged = torch.arange(60), torch.arange(60, 90)
    curve = learning_curve(reduced(rows), labels, 3, training, judged, draws=3, steps=60)
    assert curve.images[-1] == 60
    assert len(curve.images) == 4
    assert curve.right.shape == (4, 3, 30)
    means = curve.accuracy()
    assert [m for m, _, _ in means] == pytest.approx(curve.right.double().mean((1, 2)).tolist())
    assert all(low <= mean <= high for mean, low, high in means)
    assert means[-1][0] > means[0][0]
    mean, low, high = curve.expected(120)
    assert low <= mean <= high <= 1
    assert curve.expected(120) == (mean, low, high)
    row = curve.of_class(1)
    own = labels[judged] == 1
    assert row["recall"] == pytest.approx(float(curve.right[-1][:, own].double().mean()))
    assert row["gain"] == pytest.approx(row["recall"] - float(curve.halved[1][:, own].double().mean()))
    with pytest.raises(ValueError, match="not trained on"):
        learning_curve(rows, labels, 3, training, torch.arange(59, 62))
    with pytest.raises(ValueError, match="one has 1 of"):
        learning_curve(rows, labels, 3, torch.arange(6), judged)


def test_a_flat_curve_foretells_what_is_there():
    right = torch.ones(4, 3, 50, dtype=torch.bool)
    right[..., :10] = False
    curve = Curve((10, 20, 40, 80), right, torch.zeros(50, dtype=torch.long), {})
    mean, low, high = curve.expected(160)
    assert mean == pytest.approx(0.8, abs=0.02)
    assert low < 0.8 < high


def test_copies_judge_nothing():
    together = torch.tensor([0, 1, 2, 0, 4, 5])
    training, judged = divided(["train", "train", "train", "test", "test", "val"], together, 0)
    assert (training.tolist(), judged.tolist()) == ([0, 1, 2], [4, 5])
    training, judged = divided(["all"] * 6, together, 0)
    assert sorted([*training.tolist(), *judged.tolist()]) == list(range(6))
    assert set(together[training].tolist()).isdisjoint(together[judged].tolist())


def test_a_picture_has_the_look_of_its_stream():
    """A JPEG that is decoded smaller is measured as it would be whole, about."""
    stream = io.BytesIO()
    photo(1, (640, 560)).save(stream, "JPEG")
    from kedge.auditing.looks import _measures

    whole = _measures(Image.open(io.BytesIO(stream.getvalue())))
    smaller = Image.open(io.BytesIO(stream.getvalue()))
    smaller.draft(None, (160, 160))
    assert _measures(smaller)[:3] == pytest.approx(whole[:3], abs=0.02)

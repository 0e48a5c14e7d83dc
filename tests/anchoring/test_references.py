import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from kedge.anchoring import choose_references, choose_residuals, derangement

IMAGES = torch.randint(0, 256, (60, 3, 6, 6), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
LABELS = torch.tensor([0] * 40 + [1] * 15 + [2] * 5)
DATASET = list(zip(IMAGES, LABELS.tolist(), strict=True))


@given(st.integers(2, 200), st.integers(0, 10))
def test_a_derangement_is_a_permutation_without_fixed_points(n, seed):
    drawn = derangement(n, torch.Generator().manual_seed(seed))
    assert sorted(drawn.tolist()) == list(range(n))
    assert (drawn != torch.arange(n)).all()
    assert torch.equal(drawn, derangement(n, torch.Generator().manual_seed(seed)))


def test_partners_are_uniform_over_the_others():
    generator = torch.Generator().manual_seed(0)
    counts = torch.zeros(5, 5)
    for _ in range(4000):
        counts[torch.arange(5), derangement(5, generator)] += 1
    assert counts.diagonal().sum() == 0
    others = counts[~torch.eye(5, dtype=torch.bool)]
    assert (others - 1000).abs().max() < 130  # 4.7 standard deviations of a binomial(4000, 1/4)


def test_one_element_has_no_derangement():
    with pytest.raises(ValueError, match="at least 2"):
        derangement(1)


@pytest.mark.parametrize("how", ["random", "stratified", "kcenter", "mean"])
def test_every_way_is_seeded_and_in_range(how):
    bank = choose_references(DATASET, 7, how=how, seed=3)
    assert bank.shape == (7, 3, 6, 6)
    assert bank.min() >= 0
    assert bank.max() <= 1
    assert torch.equal(bank, choose_references(DATASET, 7, how=how, seed=3))
    if how != "mean":
        assert not torch.equal(bank, choose_references(DATASET, 7, how=how, seed=4)) or how == "kcenter"
        assert len({tuple(image.flatten().tolist()) for image in bank}) == 7


def origin(bank):
    return [int(torch.cdist(r.flatten()[None], IMAGES.flatten(1).float() / 255).argmin()) for r in bank]


def test_stratified_takes_the_classes_in_turn():
    for k in (3, 6, 12):
        chosen = LABELS[origin(choose_references(DATASET, k, how="stratified"))]
        assert torch.bincount(chosen, minlength=3).tolist() == [k // 3] * 3


def test_kcenter_takes_the_farthest_point_each_time():
    bank = choose_references(DATASET, 5, how="kcenter")
    points = IMAGES.flatten(1).float() / 255
    distances = torch.cdist(points, bank.flatten(1))
    for i in range(1, 5):
        nearest = distances[:, :i].amin(1)
        assert nearest[origin(bank)[i]] == pytest.approx(float(nearest.max()), abs=1e-4)


def test_kcenter_does_not_depend_on_how_many_differences_are_held(monkeypatch):
    expected = choose_references(DATASET, 9, how="kcenter")
    for held in (1, 1000):
        monkeypatch.setattr("kedge.anchoring.references.HELD", held)
        assert torch.equal(choose_references(DATASET, 9, how="kcenter"), expected)


def test_mean_holds_means_of_groups():
    assert torch.allclose(choose_references(DATASET, 1, how="mean")[0], IMAGES.float().mean(0) / 255, atol=1e-6)
    bank = choose_references(DATASET, 6, how="mean")
    assert torch.allclose(bank.mean(0), IMAGES.float().mean(0) / 255, atol=1e-6)


def test_other_kinds_of_sets():
    pil = [(Image.fromarray(image.permute(1, 2, 0).numpy()), label) for image, label in DATASET]
    assert torch.equal(choose_references(pil, 4), choose_references(DATASET, 4))
    assert torch.equal(choose_references(IMAGES, 4, "random"), choose_references(DATASET, 4, "random"))
    grey = [(Image.fromarray(image[0].numpy()), label) for image, label in DATASET]
    assert choose_references(grey, 2).shape == (2, 1, 6, 6)


def test_other_depths_are_scaled_and_values_out_of_range_refused():
    deep = [(Image.fromarray(image[0].numpy().astype("uint16") * 257), label) for image, label in DATASET]
    grey = [(image[:1], label) for image, label in DATASET]
    assert torch.allclose(choose_references(deep, 4), choose_references(grey, 4), atol=1e-6)
    with pytest.raises(ValueError, match=r"float in \[0, 1\], got \["):
        choose_references([(image.float(), label) for image, label in DATASET], 3)
    with pytest.raises(TypeError, match=r"dict with \['image', 'label'\]"):
        choose_references([{"image": image, "label": 0} for image in IMAGES], 3, how="random")


def test_bad_requests():
    with pytest.raises(ValueError, match="how must be one of"):
        choose_references(DATASET, 3, how="best")
    with pytest.raises(ValueError, match="between 1 and the 60 images"):
        choose_references(DATASET, 61)
    mixed = [*DATASET[:5], (torch.zeros(3, 7, 7), 0)]
    with pytest.raises(ValueError, match="one size"):
        choose_references(mixed, 6)


def test_residuals_are_differences_between_images_and_bank():
    bank = choose_references(DATASET, 4)
    residuals = choose_residuals(DATASET, bank, 10, seed=2)
    candidates = (IMAGES.float() / 255)[:, None] - bank
    for residual in residuals:
        assert (candidates - residual).abs().amax((2, 3, 4)).min() < 1e-6
    assert torch.equal(residuals, choose_residuals(DATASET, bank, 10, seed=2))
    with pytest.raises(ValueError, match="image_size"):
        choose_residuals(DATASET, torch.rand(2, 3, 5, 5), 4)


def test_class_means_are_of_one_class_each():
    labels = torch.tensor([2] * 7 + [0] * 4 + [5] * 3)
    images = torch.rand(14, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    dataset = [(image, int(label)) for image, label in zip(images, labels, strict=True)]
    bank = choose_references(dataset, 3, how="class-mean")
    expected = torch.stack([images[labels == c].mean(0) for c in (0, 2, 5)])
    assert torch.allclose(bank, expected, atol=1e-6)
    # One more: class 0 is cut in two, and the first half of each class comes before the second of any.
    four = choose_references(dataset, 4, how="class-mean")
    assert torch.allclose(four[1:3], expected[1:], atol=1e-6)
    assert torch.allclose((four[0] + four[3]) / 2, expected[0], atol=1e-6)
    assert torch.equal(four, choose_references(dataset, 4, how="class-mean"))
    with pytest.raises(ValueError, match="3 classes do not fit into k=2"):
        choose_references(dataset, 2, how="class-mean")


@pytest.mark.parametrize("how", ["mean", "class-mean"])
def test_no_mean_is_of_one_photo(how):
    images = torch.rand(14, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    dataset = [(image, i % 2) for i, image in enumerate(images)]
    choose_references(dataset, 7 if how == "mean" else 6, how=how)
    with pytest.raises(ValueError, match=r"would be one image alone: take fewer"):
        choose_references(dataset, 10, how=how)

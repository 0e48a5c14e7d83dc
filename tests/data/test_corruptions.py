"""Corruptions against their definitions, written out for one image with numpy, scipy, scikit-image and Pillow."""

import io
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kedge.data.corruptions import CORRUPTIONS, NAMES, SEVERITIES, check, corrupt, variant
from kedge.data.corruptions.draws import normal
from kedge.data.seeds import derive_keys

from .conftest import picture

# the published parameters: (ImageNet-C, CIFAR-10-C)
PUBLISHED = {
    "gaussian_noise": ([0.08, 0.12, 0.18, 0.26, 0.38], [0.04, 0.06, 0.08, 0.09, 0.10]),
    "gaussian_blur": ([1, 2, 3, 4, 6], [0.4, 0.6, 0.7, 0.8, 1]),
    "brightness": ([0.1, 0.2, 0.3, 0.4, 0.5], [0.05, 0.1, 0.15, 0.2, 0.3]),
    "contrast": ([0.4, 0.3, 0.2, 0.1, 0.05], [0.75, 0.5, 0.4, 0.3, 0.15]),
    "pixelate": ([0.6, 0.5, 0.4, 0.3, 0.25], [0.95, 0.9, 0.85, 0.75, 0.65]),
    "jpeg_compression": ([25, 18, 15, 10, 7], [80, 65, 58, 50, 40]),
}


def photos(count: int, height: int, width: int, channels: int = 3, seed: int = 0) -> torch.Tensor:
    """Smooth images with some grain, in steps of 1/255: [B, C, H, W]."""
    mode = {1: "L", 3: "RGB"}[channels]
    rng = np.random.default_rng(seed)
    stack = np.stack([np.array(picture(seed + i, height, width, mode)) for i in range(count)])
    stack = stack.reshape(count, height, width, channels) + rng.normal(0, 12, (count, height, width, channels))
    return torch.from_numpy(stack.clip(0, 255).round().astype(np.float32) / 255).permute(0, 3, 1, 2).contiguous()


def oracle(name: str, image: np.ndarray, level, rng: np.random.Generator) -> np.ndarray:
    """The definition for one image [H, W, 3], float64 in [0, 1]."""
    from scipy import ndimage
    from skimage import color

    if name == "gaussian_noise":
        out = image + rng.normal(0, level, image.shape)
    elif name == "gaussian_blur":
        out = ndimage.gaussian_filter(image, (level, level, 0), mode="nearest", truncate=4)
    elif name == "brightness":
        hsv = color.rgb2hsv(image)
        hsv[..., 2] = np.clip(hsv[..., 2] + level, 0, 1)
        out = color.hsv2rgb(hsv)
    elif name == "contrast":
        mean = image.mean((0, 1), keepdims=True)
        out = (image - mean) * level + mean
    else:
        pil = Image.fromarray((image * 255).round().astype(np.uint8))
        if name == "pixelate":
            small = (int(pil.width * level), int(pil.height * level))
            pil = pil.resize(small, Image.Resampling.BOX).resize(pil.size, Image.Resampling.BOX)
        else:
            file = io.BytesIO()
            pil.save(file, "JPEG", quality=level)
            pil = Image.open(file)
        out = np.asarray(pil) / 255
    return np.clip(out, 0, 1)


def level_of(name: str, size: int, severity: int):
    return PUBLISHED[name][0 if size > 64 else 1][severity - 1]


def test_every_corruption_has_published_parameters_here():
    assert tuple(PUBLISHED) == NAMES
    assert all(len(c.tiny) == 5 for c in CORRUPTIONS.values())


@pytest.mark.parametrize("size", [(32, 32), (28, 28), (64, 48), (96, 128)])
@pytest.mark.parametrize("name", [n for n in NAMES if n != "gaussian_noise"])
def test_agrees_with_the_definition(name, size):
    images = photos(3, *size)
    tolerance = 1.6 / 255 if name == "pixelate" else 2e-5  # Pillow rounds to 8 bits after each pass
    for severity in SEVERITIES:
        level = level_of(name, min(size), severity)
        ours = corrupt(images, name, severity).permute(0, 2, 3, 1).numpy()
        theirs = np.stack([oracle(name, i.astype(np.float64), level, None) for i in images.permute(0, 2, 3, 1).numpy()])
        np.testing.assert_allclose(ours, theirs, atol=tolerance)


@pytest.mark.parametrize("size", [32, 96])
def test_noise_changes_an_image_as_much_as_the_definition(size):
    rng = np.random.default_rng(99)  # not the generator of the images' own grain
    images = photos(20, size, size)
    clean = images.permute(0, 2, 3, 1).numpy().astype(np.float64)
    for severity in SEVERITIES:
        ours = float((corrupt(images, "gaussian_noise", severity) - images).square().mean())
        level = level_of("gaussian_noise", size, severity)
        theirs = np.mean([(oracle("gaussian_noise", i, level, rng) - i) ** 2 for i in clean])
        assert ours == pytest.approx(theirs, rel=0.03)


def test_noise_is_standard_normal_and_independent():
    from scipy import stats

    draws = normal(derive_keys(torch.arange(400), 0, "test"), (3, 16, 17))
    assert draws.shape == (400, 3, 16, 17)
    assert stats.kstest(draws.flatten().numpy(), "norm").pvalue > 0.01
    rows = draws.flatten(1)
    between_images = torch.corrcoef(rows[:100])
    assert (between_images - torch.eye(100)).abs().max() < 0.2  # 816 values each: sd 0.035
    for lag in (1, 2, 17, 16 * 17):
        pairs = (rows[:, :-lag] * rows[:, lag:]).mean()
        assert pairs.abs() < 4 / (400 * (816 - lag)) ** 0.5
    assert normal(derive_keys(torch.arange(2), 0), (1,)).shape == (2, 1)


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from(NAMES),
    st.integers(1, 5),
    st.integers(8, 80),
    st.integers(8, 80),
    st.sampled_from([1, 2, 3, 4]),
    st.integers(0, 1000),
)
def test_any_size_and_depth_alone_or_in_a_batch(name, severity, height, width, channels, seed):
    images = torch.rand(5, channels, height, width, generator=torch.Generator().manual_seed(seed))
    before = images.clone()
    indices = torch.tensor([7, 0, 123456, 3, 2**40])
    state = torch.get_rng_state()
    together = corrupt(images, name, severity, indices, seed)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(images, before)  # not written to
    assert together.shape == images.shape
    assert together.dtype == torch.float32
    assert together.min() >= 0
    assert together.max() <= 1
    order = torch.tensor([4, 2, 0, 1, 3])
    assert torch.equal(corrupt(images[order], name, severity, indices[order], seed), together[order])
    for i in range(5):
        assert torch.equal(corrupt(images[i : i + 1], name, severity, indices[i : i + 1], seed)[0], together[i])


def test_noise_depends_on_index_severity_and_seed():
    images = torch.full((2, 3, 16, 16), 0.5)
    first, second = corrupt(images, "gaussian_noise", 1)
    assert not torch.equal(first, second)
    assert torch.equal(corrupt(images, "gaussian_noise", 1, torch.tensor([1, 0]))[0], second)
    assert not torch.equal(corrupt(images, "gaussian_noise", 1, seed=1)[0], first)
    harder = corrupt(images, "gaussian_noise", 2)[0] - 0.5
    assert abs(torch.corrcoef(torch.stack([harder.flatten(), first.flatten() - 0.5]))[0, 1]) < 0.2


@pytest.mark.parametrize("size", [28, 32, 64, 224])
@pytest.mark.parametrize("channels", [1, 3])
def test_harder_severities_change_more(size, channels):
    images = photos(8 if size < 200 else 2, size, size, channels)
    for name in NAMES:
        change = [float((corrupt(images, name, s) - images).square().mean()) for s in SEVERITIES]
        assert change == sorted(change), name
        assert change[0] > 0


def test_harder_severities_change_digits_more():
    import kedge.data as kd

    images = kd.load("digits", "test").images.float() / 255
    for name in NAMES:
        change = [float((corrupt(images, name, s) - images).square().mean()) for s in SEVERITIES]
        assert all(b > 1.05 * a > 0 for a, b in pairwise(change)), name


@pytest.mark.parametrize("name", ["brightness", "contrast", "gaussian_blur", "pixelate"])
def test_a_grey_image_is_treated_as_its_colour_copy(name):
    grey = photos(2, 40, 40, 1)
    colour = grey.expand(2, 3, 40, 40).contiguous()
    torch.testing.assert_close(corrupt(colour, name, 3), corrupt(grey, name, 3).expand(2, 3, 40, 40))


def test_jpeg_of_a_grey_image_is_grey_jpeg():
    grey = photos(1, 32, 32, 1)
    file = io.BytesIO()
    Image.fromarray((grey[0, 0] * 255).round().to(torch.uint8).numpy()).save(file, "JPEG", quality=58)
    expected = torch.from_numpy(np.array(Image.open(file))).float() / 255
    torch.testing.assert_close(corrupt(grey, "jpeg_compression", 3)[0, 0], expected)


def test_black_gets_grey_and_white_stays():
    assert torch.equal(corrupt(torch.zeros(1, 3, 32, 32), "brightness", 5), torch.full((1, 3, 32, 32), 0.3))
    assert torch.equal(corrupt(torch.ones(1, 3, 32, 32), "brightness", 5), torch.ones(1, 3, 32, 32))


def test_size_chooses_the_parameters():
    assert [variant(s, s) for s in (8, 15, 16, 32, 64, 65, 224)] == ["tiny"] * 2 + ["cifar"] * 3 + ["imagenet"] * 2
    assert variant(160, 28) == "cifar"


def test_large_batches_are_worked_on_in_parts_with_the_same_result():
    images = photos(60, 96, 96)
    parts = torch.cat(
        [corrupt(images[i : i + 7], "gaussian_noise", 2, torch.arange(60)[i : i + 7]) for i in range(0, 60, 7)]
    )
    assert torch.equal(corrupt(images, "gaussian_noise", 2), parts)


@pytest.mark.parametrize("name", NAMES)
def test_other_types_and_layouts(name):
    images = photos(2, 32, 32)
    exact = corrupt(images, name, 3)
    half = corrupt(images.to(torch.bfloat16), name, 3)
    assert half.dtype == torch.bfloat16
    assert (half.float() - exact).abs().mean() < 0.01
    last = images.contiguous(memory_format=torch.channels_last)
    assert torch.equal(corrupt(last, name, 3), exact)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(corrupt(images, name, 3), exact)
    assert corrupt(images[:0], name, 3).shape == (0, 3, 32, 32)
    assert not corrupt(images.clone().requires_grad_(), name, 3).requires_grad


def test_faults_are_said_plainly():
    images = torch.zeros(2, 3, 32, 32)
    with pytest.raises(ValueError, match="no corruption called 'gausian_noise'; did you mean gaussian_noise"):
        corrupt(images, "gausian_noise", 1)
    for severity in (0, 6):
        with pytest.raises(ValueError, match=f"got {severity}"):
            check("contrast", severity)
    with pytest.raises(TypeError, match="divide uint8 by 255"):
        corrupt(images.to(torch.uint8), "contrast", 1)
    with pytest.raises(ValueError, match=r"\[0, 255\]"):
        corrupt(torch.tensor([0.0, 255.0]).view(2, 1, 1, 1), "contrast", 1)
    with pytest.raises(ValueError, match="nan"):
        corrupt(images.fill_(float("nan")), "contrast", 1)
    with pytest.raises(ValueError, match=r"got \[3, 8, 8\]"):
        corrupt(torch.zeros(3, 8, 8), "contrast", 1)
    with pytest.raises(ValueError, match="2 images need 2 indices"):
        corrupt(torch.zeros(2, 3, 8, 8), "contrast", 1, torch.arange(3))

"""What holds for every corruption: shapes, ranges, determinism, order of severities, plain errors."""

import io
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kedge.data.corruptions import CORRUPTIONS, GROUPS, HENDRYCKS, NAMES, SEVERITIES, check, corrupt, expand, variant
from kedge.data.corruptions._draws import normal
from kedge.seeds import derive_keys

from .conftest import picture


def photos(count: int, height: int, width: int, channels: int = 3, seed: int = 0) -> torch.Tensor:
    """Smooth images with some grain, in steps of 1/255: [B, C, H, W]."""
    mode = {1: "L", 3: "RGB"}[channels]
    rng = np.random.default_rng(seed)
    stack = np.stack([np.array(picture(seed + i, height, width, mode)) for i in range(count)])
    stack = stack.reshape(count, height, width, channels) + rng.normal(0, 12, (count, height, width, channels))
    return torch.from_numpy(stack.clip(0, 255).round().astype(np.float32) / 255).permute(0, 3, 1, 2).contiguous()


def test_groups():
    assert len(NAMES) == 19
    assert HENDRYCKS == NAMES
    parts = [name for group in ("noise", "blur", "weather", "digital", "extra") for name in GROUPS[group]]
    assert sorted(parts) == sorted(NAMES)
    assert expand("corruptions") == list(NAMES)
    assert expand(["fog", "weather", "snow"]) == ["fog", "snow", "frost", "brightness"]
    assert expand([]) == []
    with pytest.raises(ValueError, match="did you mean weather"):
        expand("wether")
    with pytest.raises(ValueError, match="'motion_blurr'; did you mean motion_blur"):
        expand(["fog", "motion_blurr"])
    assert all(len(c.tiny) == len(c.cifar) == len(c.imagenet) == 5 for c in CORRUPTIONS.values())


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


@pytest.mark.slow
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
    images = torch.rand(3, channels, height, width, generator=torch.Generator().manual_seed(seed))
    before = images.clone()
    indices = torch.tensor([7, 0, 2**40])
    state = torch.get_rng_state()
    together = corrupt(images, name, severity, indices, seed)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(images, before)  # not written to
    assert together.shape == images.shape
    assert together.dtype == torch.float32
    assert together.min() >= 0
    assert together.max() <= 1
    order = torch.tensor([2, 0, 1])
    assert torch.equal(corrupt(images[order], name, severity, indices[order], seed), together[order])
    for i in range(3):
        assert torch.equal(corrupt(images[i : i + 1], name, severity, indices[i : i + 1], seed)[0], together[i])


def test_noise_depends_on_index_severity_and_seed():
    images = torch.full((2, 3, 16, 16), 0.5)
    first, second = corrupt(images, "gaussian_noise", 1)
    assert not torch.equal(first, second)
    assert torch.equal(corrupt(images, "gaussian_noise", 1, torch.tensor([1, 0]))[0], second)
    assert not torch.equal(corrupt(images, "gaussian_noise", 1, seed=1)[0], first)
    harder = corrupt(images, "gaussian_noise", 2)[0] - 0.5
    assert abs(torch.corrcoef(torch.stack([harder.flatten(), first.flatten() - 0.5]))[0, 1]) < 0.2


# the published parameters do not rise in one direction, or not at both sizes
NOT_ORDERED = ("saturate", "elastic_transform", "glass_blur", "frost", "spatter", "motion_blur")


@pytest.mark.parametrize("size", [28, 64, 224])
@pytest.mark.parametrize("channels", [1, 3])
def test_harder_severities_change_more(size, channels):
    images = photos(12 if size < 200 else 3, size, size, channels)
    for name in NAMES:
        change = [float((corrupt(images, name, s) - images).square().mean()) for s in SEVERITIES]
        if channels == 1 and name == "saturate":  # grey has no saturation
            assert change == [0] * 5
            continue
        assert change[0] > 0
        if name not in NOT_ORDERED:
            assert all(b > 0.93 * a for a, b in pairwise(change)), (name, change)
            assert change[-1] > change[0]


def test_harder_severities_change_digits_more():
    import kedge.data as kd

    images = kd.load("digits", "test").images.float() / 255
    for name in NAMES:
        change = [float((corrupt(images, name, s) - images).square().mean()) for s in SEVERITIES]
        if name == "saturate":
            continue
        assert all(b > 1.05 * a > 0 for a, b in pairwise(change)), name


# the others draw for each channel, colour the image, or know colour from grey
COLOURLESS = ("brightness", "contrast", "gaussian_blur", "pixelate", "defocus_blur", "glass_blur", "motion_blur")
COLOURLESS += ("zoom_blur", "snow", "fog", "elastic_transform")


@pytest.mark.parametrize("name", COLOURLESS)
def test_a_grey_image_is_treated_as_its_colour_copy(name):
    grey = photos(2, 40, 40, 1)
    colour = grey.expand(2, 3, 40, 40).contiguous()
    torch.testing.assert_close(corrupt(colour, name, 3), corrupt(grey, name, 3).expand(2, 3, 40, 40))


@pytest.mark.parametrize("name", ["frost", "spatter"])
def test_on_grey_the_colour_added_has_its_luma(name):
    grey = photos(2, 40, 40, 1) * 0.2
    colour = corrupt(grey.expand(2, 3, 40, 40).contiguous(), name, 2)
    as_grey = (colour * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    torch.testing.assert_close(as_grey, corrupt(grey, name, 2), atol=1e-5, rtol=0)


@pytest.mark.parametrize("size", [(28, 28), (512, 28), (65, 130), (512, 512)])
@pytest.mark.parametrize("channels", [1, 3])
def test_from_28_to_512_pixels(size, channels):
    images = photos(1, *size, channels)
    for name in NAMES:
        out = corrupt(images, name, 5)
        assert out.shape == images.shape
        assert bool(out.isfinite().all())


@pytest.mark.parametrize("threads", [1, 3])
def test_neither_batch_nor_threads_change_a_bit(threads):
    """Above a few ten thousand values, sums and products are split between threads."""
    images = photos(3, 224, 160, 1)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads)
        for name in NAMES:
            together = corrupt(images, name, 4)
            alone = torch.cat([corrupt(images[i : i + 1], name, 4, torch.tensor([i])) for i in range(3)])
            assert torch.equal(together, alone), name
            torch.set_num_threads(4 - threads)
            assert torch.equal(corrupt(images[:2], name, 4), together[:2]), name
            torch.set_num_threads(threads)
    finally:
        torch.set_num_threads(before)


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
    assert (half.float() - exact).abs().mean() < 0.02
    assert corrupt(images.half(), name, 3).dtype == torch.float16
    double = corrupt(images.double(), name, 3)
    assert double.dtype == torch.float64
    assert torch.equal(double.float(), exact)
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

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from kedge.evaluation.inputs import conversion, convert, to_unit


@settings(max_examples=60, deadline=None)
@given(
    have=st.tuples(st.sampled_from([1, 3, 4]), st.integers(1, 40), st.integers(1, 40)),
    want=st.tuples(st.sampled_from([1, 3]), st.integers(1, 40), st.integers(1, 40)),
)
def test_any_image_fits(have: tuple[int, int, int], want: tuple[int, int, int]):
    made = convert(torch.rand(2, *have), want)
    assert tuple(made.shape) == (2, *want)
    assert 0 <= float(made.min()) <= float(made.max()) <= 1


def test_what_fits_is_not_touched():
    images = torch.rand(2, 3, 8, 9)
    assert convert(images, (3, 8, 9)) is images
    assert conversion((3, 8, 9), (3, 8, 9)) is None


def test_luma_is_that_of_pil():
    pixels = np.random.default_rng(0).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    theirs = np.asarray(Image.fromarray(pixels).convert("L"), dtype=np.float32)
    ours = convert(to_unit(torch.from_numpy(pixels).permute(2, 0, 1)[None]), (1, 6, 7))[0, 0].numpy() * 255
    assert np.abs(ours - theirs).max() <= 1


def test_resizing_agrees_with_pil():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    theirs = np.asarray(Image.fromarray(pixels).resize((16, 16), Image.Resampling.BILINEAR), dtype=np.float32)
    ours = convert(to_unit(torch.from_numpy(pixels)[None, None]), (1, 16, 16))[0, 0].numpy() * 255
    assert np.abs(ours - theirs).max() <= 1.5


def test_the_middle_of_a_wide_image_is_kept_undistorted():
    images = torch.zeros(1, 1, 8, 24)
    images[..., 8:16] = 1
    assert bool((convert(images, (1, 8, 8)) == 1).all())


def test_channels_that_mean_something_else_are_refused():
    with pytest.raises(ValueError, match="5 channels cannot be turned into 3"):
        convert(torch.rand(1, 5, 4, 4), (3, 4, 4))


def test_words():
    assert conversion((1, 28, 28), (3, 32, 32)) == "grey to colour, 28×28 resized to 32×32"
    assert conversion((5, 8, 8), (1, 8, 8)) == "5 channels to grey"

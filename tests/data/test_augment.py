import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kedge.data import BatchAugmentation, augment_batch
from kedge.data.augment import AUGMENTATIONS, photo_transform

from .conftest import picture


def shifted(image: np.ndarray, padding: int, down: int, right: int, mirrored: bool) -> np.ndarray:
    """The definition for one image [C, H, W]: pad by reflection, cut out a window, mirror the window."""
    _, height, width = image.shape
    padded = np.pad(image, ((0, 0), (padding, padding), (padding, padding)), mode="reflect")
    window = padded[:, padding + down : padding + down + height, padding + right : padding + right + width]
    return window[:, :, ::-1] if mirrored else window


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 3), st.integers(5, 12), st.integers(5, 12), st.integers(0, 4), st.booleans(), st.integers(0, 99))
def test_every_image_is_a_shifted_and_mirrored_view_of_itself(channels, height, width, padding, flip, seed):
    images = torch.randint(0, 256, (4, channels, height, width), generator=torch.Generator().manual_seed(seed))
    images = images.to(torch.uint8)
    out = augment_batch(images, torch.Generator().manual_seed(seed), padding, flip)
    assert out.dtype == torch.uint8
    assert out.shape == images.shape
    for before, after in zip(images.numpy(), out.numpy(), strict=True):
        views = (
            shifted(before, padding, down, right, mirrored)
            for down in range(-padding, padding + 1)
            for right in range(-padding, padding + 1)
            for mirrored in ((False, True) if flip else (False,))
        )
        assert any(np.array_equal(after, view) for view in views)


def test_shifts_and_mirrors_are_uniform():
    image = torch.arange(81, dtype=torch.uint8).view(1, 1, 9, 9).expand(20_000, 1, 9, 9)
    out = augment_batch(image, torch.Generator().manual_seed(0), padding=2)
    views = {
        shifted(image[0].numpy(), 2, down, right, mirrored).tobytes(): 0
        for down in range(-2, 3)
        for right in range(-2, 3)
        for mirrored in (False, True)
    }
    assert len(views) == 50
    for after in out.numpy():
        views[after.tobytes()] += 1
    counts = np.array(list(views.values()))
    assert counts.sum() == 20_000
    assert ((counts - 400) ** 2 / 400).sum() < 90  # chi-square with 49 degrees of freedom, p = 0.0003


def test_the_same_generator_gives_the_same_batch_and_the_global_one_is_left_alone():
    images = torch.rand(8, 3, 32, 32)
    state = torch.get_rng_state()
    first, second = (augment_batch(images, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(first, augment_batch(images, torch.Generator().manual_seed(4)))
    assert not torch.equal(first, images)


@pytest.mark.parametrize("count", [0, 1, 5])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_layout_of_the_images_does_not_change_what_is_drawn(count, dtype, layout):
    """Against one gather over the places of all pixels, with the same draws; the result is channels_last."""
    images = torch.randint(0, 200, (count, 3, 9, 13)).to(dtype).contiguous(memory_format=layout)
    draws = torch.Generator().manual_seed(1)
    down, right = torch.randint(-1, 2, (2, count, 1), generator=draws)
    mirrored = torch.rand((count, 1), generator=draws) < 0.5
    padded = torch.from_numpy(np.pad(images.float().numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect"))
    expected = [padded[i, :, 1 + down[i] : 10 + down[i], 1 + right[i] : 14 + right[i]] for i in range(count)]
    out = augment_batch(images, torch.Generator().manual_seed(1))
    assert out.dtype == dtype
    assert out.is_contiguous(memory_format=torch.channels_last)
    for after, view, mirror in zip(out, expected, mirrored, strict=True):
        assert torch.equal(after.float(), view.flip(2) if mirror else view)


def test_default_padding_is_an_eighth():
    images = torch.zeros(500, 1, 32, 32)
    images[:, :, 16, 16] = 1
    rows = augment_batch(images, torch.Generator().manual_seed(0), flip=False).amax((1, 3)).argmax(1)
    assert (rows.min(), rows.max()) == (12, 20)


def test_no_padding_no_flip_is_the_image():
    images = torch.rand(3, 3, 8, 8)
    assert torch.equal(augment_batch(images, None, padding=0, flip=False), images)


def test_padding_must_be_smaller_than_the_image():
    with pytest.raises(ValueError, match="padding must be 0 to 7 for 8x8 images, got 8"):
        augment_batch(torch.zeros(1, 1, 8, 8), None, padding=8)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("augment", ["auto", "crop-flip", "trivial", "randaugment"])
def test_photo_transforms_take_grey_and_colour(augment, mode):
    transform = photo_transform(augment, 40, mirror=True)
    for seed in range(40):
        torch.manual_seed(seed)
        assert transform(picture(seed, 60, 90, mode)).size == (40, 40)


def test_photo_transform_names():
    assert photo_transform("none", 40, True) is None
    assert "Flip" not in str(photo_transform("crop-flip", 40, mirror=False))
    with pytest.raises(ValueError, match="'flip'"):
        photo_transform("flip", 40, True)
    with pytest.raises(ValueError, match="pixmix is for images up to 64 px; larger ones take trivial or randaugment"):
        photo_transform("pixmix", 224, True)


def test_recipes_know_the_same_names():
    from kedge.training.recipe_checks import CHOICES

    assert CHOICES["augment"] == AUGMENTATIONS


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_whole_batches_by_the_name_in_a_recipe(augment, channels):
    images = torch.randint(0, 256, (17, channels, 20, 20), dtype=torch.uint8)
    before = images.clone()
    made, again, other = (
        BatchAugmentation(augment, seed=7)(images, torch.Generator().manual_seed(s)) for s in (1, 1, 2)
    )
    assert torch.equal(images, before)
    assert torch.equal(made, again)
    assert (made.shape, made.dtype) == (images.shape, torch.uint8)
    assert torch.equal(made, other) is (augment == "none")
    assert torch.equal(made, images) is (augment == "none")
    plain = augment_batch(images, torch.Generator().manual_seed(1))
    assert torch.equal(made, plain) is (augment in ("auto", "crop-flip"))
    large = torch.zeros(2, channels, 65, 40, dtype=torch.uint8)  # read and augmented one by one
    assert BatchAugmentation(augment)(large, None) is large


def test_the_seed_decides_the_pictures_of_pixmix():
    images = torch.zeros(64, 3, 16, 16, dtype=torch.uint8)
    one, other = (BatchAugmentation("pixmix", seed=s)(images, torch.Generator().manual_seed(0)) for s in (1, 2))
    assert not torch.equal(one, other)
    with pytest.raises(ValueError, match="'augmix'"):
        BatchAugmentation("augmix")

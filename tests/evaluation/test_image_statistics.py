"""Numbers of images whose value is known by how the images are made."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from kedge.evaluation.image_statistics import STATISTICS, image_statistics, on_scale

KEYS = [each.key for each in STATISTICS]


def of(images, key):
    return image_statistics(images)[:, KEYS.index(key)]


def smooth(count=4, side=48, seed=0):
    """Random smooth colour images in [0.2, 0.8]."""
    coarse = torch.rand(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return 0.2 + 0.6 * torch.nn.functional.interpolate(coarse, size=(side, side), mode="bicubic").clamp(0, 1)


def test_every_number_is_finite_on_what_images_can_be():
    for images in (smooth(), torch.zeros(2, 3, 8, 8), torch.ones(2, 1, 5, 7), torch.rand(3, 1, 33, 20)):
        values = image_statistics(images)
        assert values.shape == (len(images), len(STATISTICS))
        assert values.isfinite().all()
        assert on_scale(values).isfinite().all()


def test_an_image_has_the_same_numbers_alone_and_among_others():
    images = smooth()
    torch.testing.assert_close(image_statistics(images)[1:2], image_statistics(images[1:2]))


@pytest.mark.parametrize("level", [0.02, 0.05, 0.1])
def test_noise_is_the_standard_deviation_of_white_noise(level):
    noise = level * torch.randn(1, 1, 128, 128, generator=torch.Generator().manual_seed(0))
    assert float(of(0.5 + noise, "noise")) == pytest.approx(level, rel=0.05)


def test_brightness_contrast_and_shares():
    grey = torch.full((1, 1, 8, 8), 0.25)
    assert float(of(grey, "brightness")) == pytest.approx(0.25)
    assert float(of(grey, "flat")) == 1
    grey[0, 0, :, :4] = 0.75
    assert float(of(grey, "contrast")) == pytest.approx(np.full((8, 8), 0.25).std() + 0.25 * np.sqrt(64 / 63))
    grey[0, 0, 0] = 0
    assert float(of(grey, "black")) == 1 / 8
    red = torch.tensor([1.0, 0.0, 0.0])[None, :, None, None].expand(1, 3, 8, 8)
    assert float(of(red, "saturation")) == 1
    assert float(of(red, "colour")) == pytest.approx(0.3 * (1 + 0.25) ** 0.5)  # rg = 1, yb = 1/2, no spread
    assert float(of(red, "white")) == pytest.approx(1 / 3)
    assert float(of(red.flip(1), "warmth")) == pytest.approx(-1)


def test_isolated_pixels_are_counted_and_edges_are_not():
    image = torch.full((1, 1, 20, 20), 0.5)
    image[0, 0, :, 10:] = 0.9
    assert float(of(image, "isolated")) == 0
    image[0, 0, 3, 3], image[0, 0, 8, 15] = 1.0, 0.0
    assert float(of(image, "isolated")) == pytest.approx(2 / 400)


def test_stripes_have_one_direction():
    stripes = (torch.arange(32) % 4 < 2).float().expand(1, 1, 32, 32)
    assert float(of(stripes, "direction")) == pytest.approx(1)
    assert float(of(torch.rand(1, 1, 64, 64, generator=torch.Generator().manual_seed(0)), "direction")) < 0.1


def test_strong_jpeg_has_blocks_and_less_noise():
    noisy = (smooth() + 0.05 * torch.randn(4, 3, 48, 48, generator=torch.Generator().manual_seed(1))).clamp(0, 1)
    packed = []
    for image in noisy:
        file = io.BytesIO()
        Image.fromarray((image.permute(1, 2, 0).numpy() * 255).astype(np.uint8)).save(file, "JPEG", quality=8)
        packed.append(torch.from_numpy(np.asarray(Image.open(file)).copy()).permute(2, 0, 1) / 255)
    worse = torch.stack(packed)
    assert (of(worse, "blocks") > 1.5 * of(noisy, "blocks")).all()
    assert (of(worse, "noise") < of(noisy, "noise")).all()


def test_blur_takes_sharpness_and_the_finest_structure():
    sharp = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    blurred = torch.nn.functional.avg_pool2d(sharp, 3, 1, 1)
    for key in ("sharpness", "detail", "finest", "noise"):
        assert (of(blurred, key) < of(sharp, key)).all(), key
    assert (of(blurred, "coarse") > of(sharp, "coarse")).all()


def test_a_sharp_middle_before_a_blurred_border():
    image = torch.full((1, 1, 32, 32), 0.5)
    image[0, 0, 12:20, 12:20] = torch.rand(8, 8)
    assert float(of(image, "centre")) > 10


@pytest.mark.parametrize("shape", [(1, 3, 4, 9), (1, 2, 9, 9), (1, 4, 9, 9)])
def test_other_images_are_refused(shape):
    with pytest.raises(ValueError, match="5 pixels a side or more"):
        image_statistics(torch.rand(shape))

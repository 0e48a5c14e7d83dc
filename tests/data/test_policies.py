"""Against torchvision, which transforms one image at a time."""

import math

import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from kedge.data.policies import BINS, OPERATIONS, SIGNED, randaugment, transform, trivial

# Magnitudes as torchvision's policies hand them to its functions.
GIVEN = {
    "shear_x": [0.0, 0.3, -0.99, 0.5],
    "shear_y": [0.0, 0.3, -0.99, 0.5],
    "translate_x": [0.0, 3.9, -7.2, 32.0],
    "translate_y": [0.0, 3.9, -7.2, 32.0],
    "rotate": [0.0, 30.0, -135.0, 77.3],
    "identity": [0.0, 1.0],
    "brightness": [0.0, 0.3, -0.99, 0.99],
    "color": [0.0, 0.3, -0.99, 0.99],
    "contrast": [0.0, 0.3, -0.99, 0.99],
    "sharpness": [0.0, 0.3, -0.99, 0.99],
    "posterize": [8.0, 4.0, 2.0],
    "solarize": [1.0, 0.0, 0.5],
    "autocontrast": [0.0],
    "equalize": [0.0],
}


def reference(image, name, magnitude):
    """One image by torchvision's function."""
    none = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]}
    degrees = math.degrees(math.atan(magnitude))
    return {
        "shear_x": lambda: tv.affine(image, **{**none, "shear": [degrees, 0.0]}, center=[0, 0]),
        "shear_y": lambda: tv.affine(image, **{**none, "shear": [0.0, degrees]}, center=[0, 0]),
        "translate_x": lambda: tv.affine(image, **{**none, "translate": [int(magnitude), 0]}),
        "translate_y": lambda: tv.affine(image, **{**none, "translate": [0, int(magnitude)]}),
        "rotate": lambda: tv.rotate(image, magnitude),
        "identity": lambda: image,
        "brightness": lambda: tv.adjust_brightness(image, 1 + magnitude),
        "color": lambda: tv.adjust_saturation(image, 1 + magnitude),
        "contrast": lambda: tv.adjust_contrast(image, 1 + magnitude),
        "sharpness": lambda: tv.adjust_sharpness(image, 1 + magnitude),
        "posterize": lambda: tv.posterize(image, int(magnitude)),
        "solarize": lambda: tv.solarize(image, 255 * magnitude),
        "autocontrast": lambda: tv.autocontrast(image),
        "equalize": lambda: tv.equalize(image),
    }[name]()


def pictures(count, channels, height, width, seed=0):
    """Smooth pictures with noise, of few levels, and of one colour."""
    draws = torch.Generator().manual_seed(seed)
    small = torch.rand((count, channels, 4, 4), generator=draws)
    smooth = torch.nn.functional.interpolate(small, (height, width), mode="bilinear")
    images = (200 * smooth + 40 * torch.rand((count, channels, height, width), generator=draws)).to(torch.uint8)
    images[-1] = images[-1] // 64 * 64
    images[-2] = 77
    return images


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize(("channels", "height", "width"), [(3, 32, 32), (1, 9, 14)])
def test_each_operation_does_what_torchvision_does(name, channels, height, width):
    images = pictures(6, channels, height, width)
    for magnitude in GIVEN[name]:
        kinds = torch.full((6,), OPERATIONS.index(name))
        made = transform(images, kinds, torch.full((6,), magnitude))
        expected = torch.stack([reference(image, name, magnitude) for image in images])
        assert made.dtype == torch.uint8
        assert made.is_contiguous(memory_format=torch.channels_last)
        if name in OPERATIONS[:5]:  # a pixel halfway between two may be taken from either
            assert (made != expected).any(1).float().mean() < 0.02, (name, magnitude)
        else:
            assert (made.int() - expected.int()).abs().max() <= 1, (name, magnitude)


def test_each_image_gets_its_own_operation_and_magnitude():
    images = pictures(40, 3, 16, 16, seed=1)
    kinds = torch.arange(40) % len(OPERATIONS)
    magnitudes = torch.tensor([GIVEN[OPERATIONS[k]][i % len(GIVEN[OPERATIONS[k]])] for i, k in enumerate(kinds)])
    together = transform(images, kinds, magnitudes)
    alone = [transform(images[i : i + 1], kinds[i : i + 1], magnitudes[i : i + 1]) for i in range(40)]
    assert torch.equal(together, torch.cat(alone))
    assert transform(images[:0], kinds[:0], magnitudes[:0]).shape == (0, 3, 16, 16)


def drawn(monkeypatch, policy, images, generator):
    """What a policy hands to `transform`: a list of (kinds, magnitudes)."""
    seen = []
    monkeypatch.setattr("kedge.data.policies.transform", lambda i, k, m: seen.append((k, m)) or i)
    policy(images, generator)
    return seen


@pytest.mark.parametrize(("policy", "theirs"), [(trivial, v2.TrivialAugmentWide()), (randaugment, v2.RandAugment())])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (20, 28)])
def test_magnitudes_are_those_of_torchvision(monkeypatch, policy, theirs, height, width):
    images = torch.zeros(4000, 3, height, width, dtype=torch.uint8)
    rounds = drawn(monkeypatch, policy, images, torch.Generator().manual_seed(0))
    assert len(rounds) == (1 if policy is trivial else 2)
    names = {name.lower().replace("_", ""): name for name in OPERATIONS}
    for kinds, magnitudes in rounds:
        assert kinds.unique().tolist() == list(range(len(OPERATIONS)))
        for key, (make, signed) in theirs._AUGMENTATION_SPACE.items():
            name = names[key.lower()]
            found = magnitudes[kinds == OPERATIONS.index(name)]
            assert len(found) == pytest.approx(4000 / 14, rel=0.3)
            bins = make(BINS, height, width)
            if bins is None:
                assert (found == 0).all()
                continue
            bins = bins.float() if policy is trivial else bins[9:10].float()
            assert signed == (name in SIGNED)
            allowed = torch.cat([bins, -bins]) if signed else bins
            assert torch.isin(found, allowed).all() or (found[:, None] - allowed).abs().min(1).values.max() < 1e-4
            assert signed == bool((found < 0).any())
            if policy is trivial:
                assert len(found.abs().unique()) > 0.8 * len(bins.unique())


@pytest.mark.parametrize("policy", [trivial, randaugment])
def test_a_generator_decides(policy):
    images = pictures(33, 3, 16, 16)
    first, again, other = (policy(images, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert first.shape == images.shape
    torch.manual_seed(5)
    policy(images, None)


def test_other_channels_are_refused():
    with pytest.raises(ValueError, match="grey or colour images, not for 4 channels"):
        trivial(torch.zeros(2, 4, 8, 8, dtype=torch.uint8), None)

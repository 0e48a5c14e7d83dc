"""The ten of C-bar against their definitions for one image, and what must hold for every corruption."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from kedge.data.corruptions import CBAR, GROUPS, SEVERITIES, check, corrupt, corruption, expand
from kedge.data.corruptions._draws import stream

from . import cbar_definitions as definitions
from .test_corruptions_published import Replay, batch, pictures

# severities: (ImageNet-C-bar where it has the corruption, CIFAR-10-C-bar)
PUBLISHED = {
    "blue_noise_sample": ((0.8, 1.6, 2.4, 4.0, 5.6), (0.7, 1.4, 2.1, 3.5, 4.2)),
    "brownish_noise": ((1.0, 2.0, 3.0, 4.0, 5.0), (2.5, 4.0, 5.5, 6.5, 7.0)),
    "checkerboard_cutout": ((2.0, 3.0, 4.0, 5.0, 6.0), (1.0, 2.0, 3.0, 4.0, 5.0)),
    "inverse_sparkles": ((1.0, 2.0, 4.0, 9.0, 10.0), (1.0, 1.5, 2.5, 4.5, 5.0)),
    "pinch_and_twirl": (None, (5.5, 6.0, 6.5, 8.5, 10.0)),
    "ripple": (None, (5.5, 6.0, 6.5, 7.5, 8.0)),
    "circular_motion_blur": (None, (2.8, 3.6, 4.4, 5.2, 6.0)),
    "lines": (None, (0.5, 1.0, 1.5, 2.0, 2.5)),
    "sparkles": ((1.0, 2.0, 3.0, 5.0, 6.0), (0.7, 3.5, 5.6, 6.3, 7.0)),
    "transverse_chromatic_aberration": (None, (1.0, 2.0, 5.0, 9.0, 10.0)),
}
STREAMED = ("checkerboard_cutout", "inverse_sparkles", "lines")


class Draws(Replay):
    def __init__(self, name, severity, index, seed):
        super().__init__(name, severity, index, seed)
        self.streamed = name in STREAMED

    def child(self, number):
        own = object.__new__(Draws)
        own.keys, own.streamed, own.calls = stream(self.keys, number), True, 0
        return own


def level_of(name: str, size: int, severity: int):
    level = (corruption(name).imagenet if size > 64 else PUBLISHED[name][1])[severity - 1]
    return (level, 3) if name == "pinch_and_twirl" and size <= 64 else level


def defined(name, image, level, rng):
    return np.clip(getattr(definitions, name)(image, level, rng), 0, 1)


def test_the_severities_are_the_published_ones():
    assert tuple(PUBLISHED) == CBAR == GROUPS["cbar"]
    assert expand(["cbar"]) == list(CBAR)
    for name, (imagenet, cifar) in PUBLISHED.items():
        entry = corruption(name)
        levels = [[v[0] if isinstance(v, tuple) else v for v in column] for column in (entry.imagenet, entry.cifar)]
        assert tuple(levels[1]) == cifar
        assert tuple(levels[0]) == imagenet or (imagenet is None and levels[0] == sorted(levels[0]))
        check(name, 5)
    with pytest.raises(ValueError, match="did you mean transverse_chromatic_aberration"):
        check("transverse_chromatic_abberation")


@pytest.mark.parametrize("size", [28, 32, 72])
@pytest.mark.parametrize("name", CBAR)
def test_with_the_same_draws_it_is_the_definition(name, size):
    images = pictures(2, size, size)
    for severity in SEVERITIES if size == 32 else (1, 5):
        level = level_of(name, size, severity)
        ours = corrupt(batch(images), name, severity, torch.tensor([3, 41]), seed=11).permute(0, 2, 3, 1).numpy()
        theirs = np.stack(
            [defined(name, x, level, Draws(name, severity, i, 11)) for x, i in zip(images, (3, 41), strict=True)]
        )
        apart = np.abs(ours - theirs)
        if name == "lines":  # their smooth edges are drawn by another rule there
            assert apart.mean() < 0.15 * np.abs(theirs - images).mean() + 1e-4
        else:  # a pixel may fall on the other side of an edge
            assert (apart > 5e-4).mean() <= (0.005 if name in ("blue_noise_sample", "checkerboard_cutout") else 0.002)
        change = ((theirs - images) ** 2).mean()
        assert ((ours - images) ** 2).mean() == pytest.approx(change, rel=0.12 if name == "lines" else 0.02, abs=1e-6)


@pytest.mark.parametrize("name", definitions.RANDOM)
def test_with_draws_of_its_own_it_changes_an_image_as_much(name):
    slow = name in ("checkerboard_cutout", "pinch_and_twirl", "inverse_sparkles", "sparkles")
    images = pictures(12 if slow else 40, 32, 32)
    rng = np.random.default_rng(99)
    for severity in (1, 5):
        level = level_of(name, 32, severity)
        ours = ((corrupt(batch(images), name, severity).permute(0, 2, 3, 1).numpy() - images) ** 2).mean((1, 2, 3))
        theirs = np.array([((defined(name, i, level, rng) - i) ** 2).mean() for i in images])
        spread = (ours - theirs).std(ddof=1) / len(images) ** 0.5  # the same images: what they are like drops out
        assert abs(ours.mean() - theirs.mean()) < 4.5 * spread + 0.03 * theirs.mean()


@pytest.mark.parametrize("size", [(28, 28), (8, 8), (40, 65), (96, 80), (512, 30)])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_any_size_and_depth_alone_or_in_a_batch(size, channels):
    images = torch.rand(3, channels, *size, generator=torch.Generator().manual_seed(1))
    for name in CBAR:
        together = corrupt(images, name, 4, torch.tensor([7, 0, 2**40]), 5)
        assert together.shape == images.shape
        assert together.min() >= 0
        assert together.max() <= 1
        assert torch.equal(corrupt(images[1:2], name, 4, torch.tensor([0]), 5), together[1:2])
        if name not in ("lines", "pinch_and_twirl") or size != (8, 8):
            assert not torch.equal(together, images)


@pytest.mark.parametrize("size", [(1, 1), (1, 5), (2, 2), (5, 4)])
def test_a_handful_of_pixels_is_no_reason_to_fail(size):
    for name in expand(["corruptions", "cbar"]):
        for severity in (1, 5):
            assert bool(corrupt(torch.rand(2, 3, *size), name, severity).isfinite().all()), name


def test_harder_severities_change_more():
    images = batch(pictures(60, 32, 32))
    for name in CBAR:
        change = [float((corrupt(images, name, s) - images).square().mean()) for s in SEVERITIES]
        assert change[0] > 0
        assert change[-1] > 1.2 * change[0] or name == "circular_motion_blur"
        assert all(b > 0.85 * a for a, b in pairwise(change)), (name, change)


@pytest.mark.parametrize("threads", [1, 3])
def test_neither_batch_nor_threads_change_a_bit(threads):
    images = batch(pictures(3, 128, 128))
    before = torch.get_num_threads()
    try:
        for name in CBAR:
            torch.set_num_threads(threads)
            together = corrupt(images, name, 3)
            torch.set_num_threads(4 - threads)
            for i in range(3):
                assert torch.equal(corrupt(images[i : i + 1], name, 3, torch.tensor([i])), together[i : i + 1]), name
    finally:
        torch.set_num_threads(before)

"""The nineteen against their published definitions, written out for one image in corruption_definitions.py."""

import numpy as np
import pytest
import torch
from PIL import Image

from kedge.data.corruptions import CORRUPTIONS, NAMES, SEVERITIES, corrupt
from kedge.data.corruptions._draws import integers, normal, poisson, stream, uniform
from kedge.data.corruptions.frost import _generated, read_textures, texture_files
from kedge.seeds import derive_keys

from . import corruption_definitions as definitions

# the published parameters: (ImageNet-C, CIFAR-10-C)
PUBLISHED = {
    "gaussian_noise": ([0.08, 0.12, 0.18, 0.26, 0.38], [0.04, 0.06, 0.08, 0.09, 0.10]),
    "shot_noise": ([60, 25, 12, 5, 3], [500, 250, 100, 75, 50]),
    "impulse_noise": ([0.03, 0.06, 0.09, 0.17, 0.27], [0.01, 0.02, 0.03, 0.05, 0.07]),
    "defocus_blur": (
        [(3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)],
        [(0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)],
    ),
    "glass_blur": (
        [(0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)],
        [(0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)],
    ),
    "motion_blur": (
        [(10, 3), (15, 5), (15, 8), (15, 12), (20, 15)],
        [(6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)],
    ),
    "zoom_blur": (
        [np.arange(1, e, s) for e, s in ((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03))],
        [np.arange(1, e, 0.01) for e in (1.06, 1.11, 1.16, 1.21, 1.26)],
    ),
    "snow": (
        [
            (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
            (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
            (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
            (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
            (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
        ],
        [
            (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
            (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
            (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
            (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
            (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
        ],
    ),
    "frost": (
        [(1, 0.4, 1), (0.8, 0.6, 1), (0.7, 0.7, 1), (0.65, 0.7, 1), (0.6, 0.75, 1)],
        [(1, 0.2, 5), (1, 0.3, 5), (0.9, 0.4, 5), (0.85, 0.4, 5), (0.75, 0.45, 5)],
    ),
    "fog": (
        [(1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)],
        [(0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)],
    ),
    "brightness": ([0.1, 0.2, 0.3, 0.4, 0.5], [0.05, 0.1, 0.15, 0.2, 0.3]),
    "contrast": ([0.4, 0.3, 0.2, 0.1, 0.05], [0.75, 0.5, 0.4, 0.3, 0.15]),
    "elastic_transform": (
        [(488, 170.8, 24.4), (488, 19.52, 48.8), (12.2, 2.44, 4.88), (17.08, 2.44, 4.88), (29.28, 2.44, 4.88)],
        [(0, 0, 2.56), (1.6, 6.4, 2.24), (2.56, 1.92, 1.92), (3.2, 1.28, 1.6), (3.2, 0.96, 0.96)],
    ),
    "pixelate": ([0.6, 0.5, 0.4, 0.3, 0.25], [0.95, 0.9, 0.85, 0.75, 0.65]),
    "jpeg_compression": ([25, 18, 15, 10, 7], [80, 65, 58, 50, 40]),
    "speckle_noise": ([0.15, 0.2, 0.35, 0.45, 0.6], [0.06, 0.1, 0.12, 0.16, 0.2]),
    "gaussian_blur": ([1, 2, 3, 4, 6], [0.4, 0.6, 0.7, 0.8, 1]),
    "spatter": (
        [
            (0.65, 0.3, 4, 0.69, 0.6, 0),
            (0.65, 0.3, 3, 0.68, 0.6, 0),
            (0.65, 0.3, 2, 0.68, 0.5, 0),
            (0.65, 0.3, 1, 0.65, 1.5, 1),
            (0.67, 0.4, 1, 0.65, 1.5, 1),
        ],
        [
            (0.62, 0.1, 0.7, 0.7, 0.5, 0),
            (0.65, 0.1, 0.8, 0.7, 0.5, 0),
            (0.65, 0.3, 1, 0.69, 0.5, 0),
            (0.65, 0.1, 0.7, 0.69, 0.6, 1),
            (0.65, 0.1, 0.5, 0.68, 0.6, 1),
        ],
    ),
    "saturate": (
        [(0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)],
        [(0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)],
    ),
}
STREAMED = ("glass_blur", "snow", "frost", "elastic_transform")  # several kinds of draws


class Replay:
    """Gives a definition the draws that `corrupt` makes for one image."""

    def __init__(self, name: str, severity: int, index: int, seed: int) -> None:
        self.keys = derive_keys(torch.tensor([index]), seed, name, severity)
        self.streamed = name in STREAMED
        self.calls = 0

    def _draw(self, kind, shape, *args):
        keys = stream(self.keys, self.calls) if self.streamed else self.keys
        self.calls += 1
        planes = (shape[2], *shape[:2]) if len(shape) == 3 and shape[2] == 3 else shape
        draws = kind(keys, planes, *args)[0].double().numpy()
        return draws.transpose(1, 2, 0) if planes != shape else draws

    def normal(self, mean, deviation, shape):
        return mean + deviation * self._draw(normal, shape)

    def uniform(self, low, high, shape):
        return self._draw(uniform, shape, low, high)

    def integers(self, low, high, shape):
        return self._draw(integers, shape, low, high).astype(int)

    def poisson(self, rates):
        planes = torch.from_numpy(rates).float().permute(2, 0, 1)[None]
        return poisson(self.keys, planes)[0].permute(1, 2, 0).double().numpy()


def pictures(count: int, height: int, width: int) -> np.ndarray:
    """Crops of two real photographs, reduced, [N, H, W, 3] in steps of 1/255."""
    from PIL import Image
    from sklearn.datasets import load_sample_images

    rng = np.random.default_rng(5)
    crops = []
    for i in range(count):
        photo = load_sample_images().images[i % 2]
        scale = 1.0 if min(height, width) > 150 else float(rng.uniform(1, 2.5))
        box = int(height * scale), int(width * scale)
        top, left = rng.integers(0, photo.shape[0] - box[0]), rng.integers(0, photo.shape[1] - box[1])
        crop = Image.fromarray(photo[top : top + box[0], left : left + box[1]])
        crops.append(np.asarray(crop.resize((width, height))) / 255)
    return np.stack(crops)


def batch(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2).float()


def defined(name: str, image: np.ndarray, level, rng) -> np.ndarray:
    extra = {"textures": _generated().pictures} if name == "frost" else {}
    return np.clip(getattr(definitions, name)(image, level, rng, **extra), 0, 1)


def level_of(name: str, size: tuple[int, int], severity: int):
    return PUBLISHED[name][0 if min(size) > 64 else 1][severity - 1]


def test_the_parameters_are_the_published_ones():
    assert set(PUBLISHED) == set(NAMES)
    for name, (imagenet, cifar) in PUBLISHED.items():
        for ours, theirs in ((CORRUPTIONS[name].imagenet, imagenet), (CORRUPTIONS[name].cifar, cifar)):
            assert len(ours) == 5
            for a, b in zip(ours, theirs, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-12, err_msg=name)


@pytest.mark.parametrize("size", [(32, 32), (28, 28), (64, 48), (72, 90)])
@pytest.mark.parametrize("name", NAMES)
def test_with_the_same_draws_it_is_the_definition(name, size):
    images = pictures(2, *size)
    # Pillow rounds to 8 bits after each pass, glass blur cuts to 8 bits: float32 may end one level away
    tolerance = {"pixelate": 1.6 / 255, "glass_blur": 1.1 / 255}.get(name, 1e-4)
    # a value may fall on the other side of a threshold
    rare = 0.003 if name in ("snow", "spatter", "shot_noise") else 0
    for severity in SEVERITIES:
        level = level_of(name, size, severity)
        indices = torch.tensor([3, 41])
        ours = corrupt(batch(images), name, severity, indices, seed=11).permute(0, 2, 3, 1).numpy()
        theirs = np.stack(
            [
                defined(name, im, level, Replay(name, severity, int(i), 11))
                for im, i in zip(images, indices, strict=True)
            ]
        )
        apart = np.abs(ours - theirs)
        assert (apart > tolerance).mean() <= rare
        change = ((theirs - images) ** 2).mean()
        assert ((ours - images) ** 2).mean() == pytest.approx(change, rel=0.01, abs=1e-7)


@pytest.mark.parametrize("name", definitions.RANDOM)
def test_with_draws_of_its_own_it_changes_an_image_as_much(name):
    images = pictures(40, 32, 32)
    rng = np.random.default_rng(99)
    for severity in (2, 5):
        level = level_of(name, (32, 32), severity)
        ours = ((corrupt(batch(images), name, severity).permute(0, 2, 3, 1).numpy() - images) ** 2).mean((1, 2, 3))
        theirs = np.array([((defined(name, i, level, rng) - i) ** 2).mean() for i in images])
        spread = (ours - theirs).std(ddof=1) / len(images) ** 0.5  # the same images: what they are like drops out
        assert abs(ours.mean() - theirs.mean()) < 4.5 * spread + 0.005 * theirs.mean()


def test_poisson_counts_have_the_poisson_distribution():
    from scipy import stats

    for rate in (0.0, 0.3, 4.0, 9.99, 10.0, 25.0, 500.0):
        counts = poisson(derive_keys(torch.arange(20), 0, str(rate)), torch.full((20, 10000), rate)).flatten().numpy()
        seen = np.bincount(counts.astype(int)) / counts.size
        expected = stats.poisson.pmf(np.arange(len(seen)), rate)
        often = expected * counts.size > 20
        chi2 = ((seen - expected)[often] ** 2 / expected[often]).sum() * counts.size
        assert stats.chi2.sf(chi2, often.sum() - 1) > 1e-4 or rate == 0
        assert counts.mean() == pytest.approx(rate, abs=5 * (rate / counts.size) ** 0.5)


def test_integers_and_uniform_draws_are_even():
    from scipy import stats

    draws = integers(derive_keys(torch.arange(50), 0), (2000,), -4, 4).flatten().numpy()
    assert set(draws) == set(range(-4, 4))
    assert stats.chisquare(np.bincount(draws + 4)).pvalue > 1e-4
    even = uniform(derive_keys(torch.arange(50), 1), (2000,), -2, 3).flatten().numpy()
    assert stats.kstest(even, "uniform", (-2, 5)).pvalue > 1e-4
    keys = derive_keys(torch.arange(50), 2)
    apart = torch.stack([uniform(stream(keys, n), (2000,)).flatten() for n in range(3)])
    assert (torch.corrcoef(apart) - torch.eye(3)).abs().max() < 0.02


def test_frost_from_a_folder_of_textures(tmp_path):
    images = torch.full((40, 3, 96, 96), 0.5)
    for number, shape in enumerate([(200, 150), (50, 40)]):  # the second is smaller than the image
        Image.fromarray(np.full((*shape, 3), 100 * (number + 1), np.uint8)).save(tmp_path / f"frost{number}.png")
    (tmp_path / "notes.txt").write_text("not a picture")
    out = corrupt(images, "frost", 1, frost_textures=tmp_path)
    values = {round(float(v), 4) for v in out.unique()}
    assert values == {round(0.5 + 0.4 * 100 / 255, 4), round(0.5 + 0.4 * 200 / 255, 4)}
    ramp = np.arange(300 * 300, dtype=np.uint32).reshape(300, 300) % 251
    other = tmp_path / "other"
    other.mkdir()
    Image.fromarray(np.repeat(ramp[..., None], 3, 2).astype(np.uint8)).save(other / "a.png")
    piece = corrupt(torch.zeros(2, 3, 80, 80), "frost", 1, frost_textures=str(other)) / 0.4 * 255
    steps = (piece[0, 0].round().long().diff() % 251).unique()
    assert steps.tolist() == [300 % 251] or steps.tolist() == [1]  # rows and columns of one picture, unscaled
    assert not torch.equal(piece[0], piece[1])
    with pytest.raises(ValueError, match="there is no folder"):
        read_textures(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no frost texture"):
        read_textures(tmp_path / "empty")


def test_of_the_published_folder_the_first_five_pictures_are_drawn(tmp_path):
    names = ["frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg", "frost6.jpg"]
    for name in names:
        Image.new("RGB", (40, 40)).save(tmp_path / name)
    assert [f.name for f in texture_files(tmp_path)] == names[:5]  # np.random.randint(5) in the published code
    Image.new("RGB", (40, 40)).save(tmp_path / "mine.png")
    assert len(texture_files(tmp_path)) == 6
    (tmp_path / "frost2.png").unlink()  # another collection, of which nothing is known
    assert "frost6.jpg" in [f.name for f in texture_files(tmp_path)]


# Measured on the published photographs, every fifth pixel of each side (the second and third are one picture): mean of
# red, green and blue, deviation of the luma, and its correlation from a pixel to the next.
PHOTOGRAPHS = (
    ((0.30, 0.58, 0.65), 0.072, 0.68),
    ((0.79, 0.81, 0.84), 0.086, 0.59),
    ((0.79, 0.81, 0.84), 0.086, 0.59),
    ((0.54, 0.60, 0.65), 0.114, 0.47),
    ((0.44, 0.48, 0.53), 0.170, 0.58),
)


def test_generated_textures_have_the_colours_contrast_and_fineness_of_the_published():
    for picture, (colours, deviation, alike) in zip(_generated().pictures, PHOTOGRAPHS, strict=True):
        taken = picture[2::5, 2::5].astype(float) / 255
        luma = taken @ (0.299, 0.587, 0.114)
        assert np.allclose(taken.mean((0, 1)), colours, atol=0.02)
        assert luma.std() == pytest.approx(deviation, rel=0.06)
        z = (luma - luma.mean()) / luma.std()
        found = ((z[:, 1:] * z[:, :-1]).mean() + (z[1:] * z[:-1]).mean()) / 2
        assert found == pytest.approx(alike, abs=0.1)

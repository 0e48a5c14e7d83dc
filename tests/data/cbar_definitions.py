"""The ten corruptions of C-bar as they are defined for one square image, [N, N, 3] float64 in [0, 1], with numpy, scipy
and scikit-image; `rng` as in corruption_definitions.py. `level` is the published severity, 0 to 10."""

import math
from itertools import permutations

import numpy as np
from scipy import ndimage
from skimage.draw import line_aa

RANDOM = (
    "blue_noise_sample", "brownish_noise", "checkerboard_cutout", "inverse_sparkles", "pinch_and_twirl", "ripple",
    "lines", "sparkles", "transverse_chromatic_aberration",
)  # fmt: skip


def spectral(size, amplitude, rng, channels):
    """Noise of unit deviation, [N, N, C], an amplitude for each distance from frequency 0."""
    phases = 2 * np.pi * rng.uniform(0, 1, (channels, size * size)).reshape(channels, size, size)
    half = size * size // 2
    out = []
    for plane in phases:
        flat = plane.ravel().copy()
        flat[size * size - half :] = flat[:half][::-1]  # a half-turn about the middle leaves the phases as they are
        y, x = np.mgrid[:size, :size] - size / 2
        spectrum = amplitude(np.hypot(y, x)) * np.exp(1j * flat.reshape(size, size))
        noise = np.fft.ifft2(np.roll(spectrum, (size // 2, size // 2), (0, 1))).real
        out.append((noise - noise.mean()) / noise.std())
    return np.stack(out, 2)


def blue_noise_sample(x, level, rng):
    return x * (spectral(len(x), lambda f: f, rng, 1) > 0.3 * level - 2.5)


def brownish_noise(x, level, rng):
    return x + 6.4 * level / 255 * spectral(len(x), lambda f: 1 / (f**2 + 1), rng, 3)


def checkerboard_cutout(x, level, rng):
    turn, size = rng.uniform(0, 1, (2,))
    size = max((0.1 + 0.15 * size) * len(x), 1)
    grid = rng.uniform(0, 1, (32 * 32,)).reshape(32, 32) < level / 10
    cos, sin = math.cos(2 * math.pi * turn), math.sin(2 * math.pi * turn)
    out = x.copy()
    for row in range(len(x)):
        for column in range(len(x)):
            across, down = (cos * row + sin * column) / size, (cos * column - sin * row) / size
            if int(across % 2) == int(down % 2) and grid[int(across), int(down)]:
                out[row, column] = 128 / 255
    return out


def lines(x, level, rng):
    size = len(x)
    turn, variation = rng.uniform(0, 1, (2,))
    out = x.copy()
    for a, b, c in rng.uniform(0, 1, (int(level / 10 * size), 3)):
        angle = 2 * math.pi * (turn + (0.1 + 0.9 * variation) * (c - 0.5))
        dy, dx = math.cos(angle) * size, math.sin(angle) * size
        rows, columns, cover = line_aa(*(int(v) for v in (a * size - dy, b * size - dx, a * size + dy, b * size + dx)))
        inside = (rows >= 0) & (rows < size) & (columns >= 0) & (columns < size)
        rows, columns, cover = rows[inside], columns[inside], cover[inside, None]
        out[rows, columns] = (1 - cover) * out[rows, columns] + cover * 128 / 255
    return out


def star(size, middle, radius, power, shortest, rng):
    rays = int(rng.integers(50, 200, ()))
    lengths = np.maximum(radius * (1 + rng.normal(0, 0.25, (200,))), shortest)
    light = np.empty((size, size, 1))
    for row in range(size):
        for column in range(size):
            dy, dx = row - middle[0], column - middle[1]
            place = (math.atan2(dx, dy) + math.pi) / (2 * math.pi) * rays
            ray, between = int(place), place - int(place)
            length = lengths[ray % rays] + between * (lengths[(ray + 1) % rays] - lengths[ray % rays])
            strength = (length**2 / (dy**2 + dx**2 + 1e-4)) ** power
            light[row, column] = (1 - (between - 0.5) ** 2) * strength
    return light.clip(0, 1)


def sparkles(x, level, rng):
    for number in range(5):
        own = rng.child(number) if hasattr(rng, "child") else rng
        middle = own.uniform(0, len(x), (2,))
        light = star(len(x), middle, 0.01 * level * len(x), 1.0, 1.0, own)
        x = x + light * (1 - x)
    return x


def inverse_sparkles(x, level, rng):
    middle = (0.25 + 0.5 * rng.uniform(0, 1, (2,))) * len(x)
    return 1 + star(len(x), middle, 0.25 * len(x), 0.13 * level, -np.inf, rng) * (x - 1)


def linear(x, at):
    return np.stack([ndimage.map_coordinates(np.pad(c, 1), at + 1, order=1) for c in x.transpose(2, 0, 1)], 2)


def pinch_and_twirl(x, level, rng):
    severity, cells = level
    signs = 2 * rng.integers(0, 2, (cells * cells,)) - 1
    size = len(x) // cells
    out = x.copy()
    for i in range(cells):
        for j in range(cells):
            middle = np.array([i, j]) * size + size / 2
            for row in range(i * size, (i + 1) * size):
                for column in range(j * size, (j + 1) * size):
                    away = np.array([row, column]) - middle
                    share = np.hypot(*away) / (size / 2)
                    if share > 1 or np.hypot(*away) < 1e-3:
                        continue
                    away = away * math.sin(math.pi / 2 * share) ** -(0.1 + 0.04 * severity)
                    angle = signs[i * cells + j] * severity / 10 * math.pi / 2 * (1 - share) ** 2
                    cos, sin = math.cos(angle), math.sin(angle)
                    at = middle + np.array([[cos, -sin], [sin, cos]]) @ away
                    out[row, column] = linear(x, at[:, None, None])[0, 0]
    return out


def ripple(x, level, rng):
    draws = rng.uniform(0, 1, (2, 2))
    size = len(x)
    at = np.mgrid[:size, :size].astype(float)
    for axis in (0, 1):
        wavelength, phase = (0.1 + 0.2 * draws[0, axis]) * size, 2 * np.pi * draws[1, axis]
        at[axis] += 0.0025 * level * size * np.sin(2 * np.pi * at[axis] / wavelength + phase)
    return linear(x, at)


def circular_motion_blur(x, level, rng):
    times = np.linspace(-1, 1, 21)
    factors = np.exp(-2 * times**2)
    turned = [ndimage.rotate(x, t * 1.5 * level, reshape=False) for t in times]
    return sum(f * t for f, t in zip(factors, turned, strict=True)) / factors.sum()


def transverse_chromatic_aberration(x, level, rng):
    factors = [1, 1 + 0.025 * level, 1 + 0.05 * level]
    order = list(permutations(range(3)))[int(rng.integers(0, 6, ()))]
    out = []
    for channel, number in zip(x.transpose(2, 0, 1), order, strict=True):
        large = ndimage.zoom(channel, factors[number], prefilter=False)
        edge = (len(large) - len(x)) // 2
        out.append(large[edge : edge + len(x), edge : edge + len(x)])
    return np.stack(out, 2)

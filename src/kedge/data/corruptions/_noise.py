"""Noise that neighbouring pixels share: with a colour, its amplitude depending on the frequency, and clouds."""

import math

import torch

from kedge.data.corruptions import _pixels as pixels
from kedge.data.corruptions._draws import uniform


def coloured(keys: torch.Tensor, channels: int, height: int, width: int, slope: float) -> torch.Tensor:
    """Return noise of standard deviation 1, float32 [B, C, H, W]: amplitude f (slope 1) or 1 / (f^2 + 1) (slope -2).

    f is the frequency in cycles along the longer side. As published, a frequency and the one opposite to it have the
    same phase, and of the inverse Fourier transform the real part is kept.
    """
    count = height * width
    phases = uniform(keys, (channels, count)) * (2 * math.pi)
    place = torch.arange(count, device=keys.device)
    phases = phases[:, :, torch.minimum(place, count - 1 - place)].view(-1, channels, height, width).double()
    side = max(height, width)
    row = (torch.arange(height, device=keys.device, dtype=torch.float64) / height - 0.5) * side
    column = (torch.arange(width, device=keys.device, dtype=torch.float64) / width - 0.5) * side
    square = row[:, None] ** 2 + column**2
    amplitude = square.sqrt() if slope > 0 else 1 / (square + 1)
    spectrum = torch.complex(phases.cos() * amplitude, phases.sin() * amplitude)
    noise = torch.fft.ifft2(spectrum.roll((height // 2, width // 2), (2, 3))).real
    noise = noise - pixels.mean(noise)
    noise = noise / pixels.mean(noise * noise).sqrt().clamp(min=1e-12)  # a single pixel has none
    # the transform's last bits may depend on the batch: they are cut off
    return ((noise * 2.0**20).round() / 2.0**20).float()


def plasma(keys: torch.Tensor, size: int, decay: float) -> torch.Tensor:
    """Return clouds in [0, 1], float32 [B, S, S], S the power of two at or above `size`.

    Diamond-square on a torus: midpoints are the mean of their four neighbours plus a uniform draw, the range of which
    shrinks by the square of `decay` each time the grid is halved.
    """
    side = 1 << max(1, (size - 1).bit_length())
    # every pixel is filled once, so that it has one draw
    clouds = uniform(keys, (side, side), -1, 1)
    clouds[:, 0, 0] = 0
    step, wobble = side, 1.0
    while step >= 2:
        half = step // 2
        corners = clouds[:, ::step, ::step]
        rows = corners + corners.roll(-1, 1)
        middle = clouds[:, half::step, half::step]
        middle.mul_(wobble).add_((rows + rows.roll(-1, 2)) / 4)
        above = middle + middle.roll(1, 1) + (corners + corners.roll(-1, 2))
        left = middle + middle.roll(1, 2) + (corners + corners.roll(-1, 1))
        clouds[:, ::step, half::step].mul_(wobble).add_(above / 4)
        clouds[:, half::step, ::step].mul_(wobble).add_(left / 4)
        step, wobble = half, wobble / decay**2
    low, high = clouds.amin((1, 2), keepdim=True), clouds.amax((1, 2), keepdim=True)
    return (clouds - low) / (high - low)

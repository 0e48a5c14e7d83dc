"""Noise and covering of the C-bar set. Every function: (images float32 [B, C, H, W], level, keys long [B]) -> the same
shape, `level` being the number that Mintun et al. call the severity, 0 to 10."""

import math

import torch

from kedge.data.corruptions import pixels
from kedge.data.corruptions.draws import integers, normal, stream, uniform

_GREY = 128 / 255
_CELLS = 32  # of a checkerboard, each way; an image meets fewer than 30
_RAYS = 200  # of a sparkle, at most


def blue_noise_sample(images: torch.Tensor, level: float, keys: torch.Tensor) -> torch.Tensor:
    """Blacken the pixels where noise of an amplitude that grows with frequency lies below 0.3 * level - 2.5."""
    noise = _coloured(keys, 1, images.shape[2], images.shape[3], 1.0)
    return images * (noise > 0.3 * level - 2.5)


def brownish_noise(images: torch.Tensor, level: float, keys: torch.Tensor) -> torch.Tensor:
    """Add noise of amplitude 1 / (frequency^2 + 1) to each channel, its standard deviation 6.4 / 255 * level."""
    channels, height, width = images.shape[1:]
    return images + 6.4 / 255 * level * _coloured(keys, channels, height, width, -2.0)


def checkerboard_cutout(images: torch.Tensor, level: float, keys: torch.Tensor) -> torch.Tensor:
    """Cover a tenth times `level` of the black squares of a turned chessboard with grey.

    The squares are 0.1 to 0.25 of the shorter side wide.
    """
    height, width = images.shape[2:]
    angle, size = uniform(stream(keys, 0), (2,)).unbind(1)
    angle = (angle * (2 * math.pi)).view(-1, 1, 1)
    size = ((0.1 + 0.15 * size) * min(height, width)).clamp(min=1).view(-1, 1, 1)
    y, x = _places(images)
    across = (angle.cos() * y + angle.sin() * x) / size
    down = (angle.cos() * x - angle.sin() * y) / size
    black = across.floor().long() % 2 == down.floor().long() % 2
    # rounded towards zero, as published: the squares about the axes share their chance
    cell = (across.trunc().long() % _CELLS) * _CELLS + down.trunc().long() % _CELLS
    chosen = uniform(stream(keys, 1), (_CELLS**2,)) < level / 10
    covered = black & chosen.gather(1, cell.flatten(1)).view(cell.shape)
    return torch.where(covered[:, None], _GREY, images)


def lines(images: torch.Tensor, level: float, keys: torch.Tensor) -> torch.Tensor:
    """Draw grey lines, one pixel wide and with smooth edges: a tenth times `level` of the shorter side in number.

    They pass through random points, to the length of the shorter side both ways, at angles that differ by up to a
    tenth to all of a turn around a common one. Ends lie at whole pixels.
    """
    height, width = images.shape[2:]
    side = min(height, width)
    count = int(level / 10 * side)
    if count == 0:
        return images.clone()
    common, variation = uniform(stream(keys, 0), (2,)).unbind(1)
    where = uniform(stream(keys, 1), (count, 3))
    middle_y, middle_x = where[..., 0] * height, where[..., 1] * width
    angles = 2 * math.pi * (common[:, None] + (0.1 + 0.9 * variation[:, None]) * (where[..., 2] - 0.5))
    step_y, step_x = angles.cos() * side, angles.sin() * side
    y, x = _places(images)
    kept = torch.ones(len(images), height, width, device=images.device)
    for number in range(count):
        at = [v[:, number].trunc().view(-1, 1, 1) for v in (middle_y - step_y, middle_x - step_x)]
        to = [v[:, number].trunc().view(-1, 1, 1) for v in (middle_y + step_y, middle_x + step_x)]
        dy, dx = to[0] - at[0], to[1] - at[1]
        length = (dy * dy + dx * dx).sqrt().clamp(min=1)
        along = ((y - at[0]) * dy + (x - at[1]) * dx) / length
        cover = (1 - ((y - at[0]) * dx - (x - at[1]) * dy).abs() / length).clamp(min=0)
        kept = kept * (1 - cover * ((along >= 0) & (along <= length)))
    kept = kept[:, None]
    return images * kept + _GREY * (1 - kept)


def sparkles(images: torch.Tensor, level: float, keys: torch.Tensor) -> torch.Tensor:
    """Put five white stars of 50 to 199 rays on the image, their radius 0.01 * level of the shorter side."""
    radius = 0.01 * level * min(images.shape[2:])
    for number in range(5):
        own = stream(keys, number)
        place = uniform(stream(own, 0), (2,))
        light = _star(own, place * _sides(images), radius, 1.0, 1.0, images)
        images = images + light * (1 - images)
    return images


def inverse_sparkles(images: torch.Tensor, level: float, keys: torch.Tensor) -> torch.Tensor:
    """Whiten all but a star, of radius a quarter of the shorter side, in the middle half of the image.

    The image fades with distance to the power 0.26 * level.
    """
    place = 0.25 + 0.5 * uniform(stream(keys, 0), (2,))
    radius = 0.25 * min(images.shape[2:])
    seen = _star(keys, place * _sides(images), radius, 0.13 * level, -math.inf, images)
    return 1 + seen * (images - 1)


def _star(
    keys: torch.Tensor,
    middle: torch.Tensor,
    radius: float,
    power: float,
    shortest: float,
    images: torch.Tensor,
) -> torch.Tensor:
    """Return the light, in [0, 1], [B, 1, H, W], of a star about `middle` [B, 2] with rays of random lengths.

    It is (1 - (f - 1/2)^2) * (length^2 / distance^2)^power, f the place between two rays and length their interpolated
    length, normal with a standard deviation of a quarter of the radius.
    """
    y, x = _places(images)
    dy, dx = y - middle[:, 0].view(-1, 1, 1), x - middle[:, 1].view(-1, 1, 1)
    square = dy * dy + dx * dx
    distance = square.sqrt()
    rays = integers(stream(keys, 1), (), 50, _RAYS).view(-1, 1, 1)
    # atan2(dx, dy), whose last bits depend on the place in memory, by half its angle
    half = torch.where(distance + dy > 0, (dx / (distance + dy).clamp(min=1e-12)).atan(), math.pi / 2)
    turn = ((half / math.pi + 0.5) * rays).clamp(min=0)
    ray = turn.floor()
    between = turn - ray
    lengths = (radius * (1 + 0.25 * normal(stream(keys, 2), (_RAYS,)))).clamp(min=shortest)
    ends = [lengths.gather(1, ((ray.long() + i) % rays).flatten(1)).view(ray.shape) for i in (0, 1)]
    length = ends[0] + between * (ends[1] - ends[0])
    ratio = length * length / (square + 1e-4)
    light = (1 - (between - 0.5).square()) * (ratio.log() * power).exp()
    return light.clamp(0, 1)[:, None]


def _coloured(keys: torch.Tensor, channels: int, height: int, width: int, slope: float) -> torch.Tensor:
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


def _places(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    rows = torch.arange(images.shape[2], device=images.device, dtype=torch.float32)
    columns = torch.arange(images.shape[3], device=images.device, dtype=torch.float32)
    return rows.view(1, -1, 1), columns.view(1, 1, -1)


def _sides(images: torch.Tensor) -> torch.Tensor:
    return torch.tensor(images.shape[2:], device=images.device)

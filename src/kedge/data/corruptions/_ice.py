"""Pictures of frost on a window, drawn by us: feathers of ice, one over the other, on a cloudy pane."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter

from kedge.data.corruptions._draws import normal, uniform
from kedge.data.corruptions._noise import plasma
from kedge.seeds import derive_keys

COUNT = 5
VERSION = 2  # rises when the pictures change, so that what was measured on others is not taken for it
HEIGHT, WIDTH = 600, 900
NEEDLES = 60_000


@dataclass(frozen=True)
class _Look:
    """How a texture looks: chosen so that the statistics of the published photographs are met, see `ice`.

    Attributes:
        mean, deviation: of its brightness.
        tint: the colour of the pane relative to its brightness.
        grey: how much the pane is in places grey, in places of its colour.
        count, length: of the feathers, and of each in pixels.
        fine: share of the variance that needles have, structure of one to three pixels.
        cloudy: of what is left, the share of the clouds; the rest is that of the feathers.
    """

    mean: float
    deviation: float
    tint: tuple[float, float, float]
    grey: float
    count: int
    length: float
    fine: float
    cloudy: float


# Dark panes with few crystals to white ones.
_LOOKS = (
    _Look(0.508, 0.072, (0.40, 1.20, 1.42), 0.9, 900, 80, 0.17, 0.7),
    _Look(0.804, 0.086, (0.95, 1.02, 1.13), 0.0, 1600, 60, 0.28, 0.7),
    _Look(0.804, 0.086, (0.95, 1.02, 1.13), 0.0, 1000, 100, 0.28, 0.7),
    _Look(0.589, 0.114, (0.87, 1.03, 1.16), 0.0, 3000, 30, 0.41, 0.7),
    _Look(0.476, 0.170, (0.88, 1.01, 1.16), 0.0, 1700, 50, 0.15, 0.6),
)


def ice(number: int) -> np.ndarray:
    """Return frost texture `number`, 0 to 4, uint8 [600, 900, 3]; always the same one.

    Of the five photographs it has the mean colour, the contrast, and how alike neighbouring pixels are: those five
    apart, which CIFAR's variant takes, are correlated by 0.5 to 0.7, a third to a half of their variance is finer.
    """
    look = _LOOKS[number]
    keys = derive_keys(torch.arange(8), number, "frost texture")
    clouds = plasma(keys[:2], WIDTH, 1.5)[:, :HEIGHT, :WIDTH].numpy()
    layers = (_needles(keys[7:8], clouds[1]), clouds[0], _feathers(keys[2:6], look.count, look.length, clouds[1]))
    rest = 1 - look.fine
    shares = (look.fine, rest * look.cloudy, rest * (1 - look.cloudy))
    layer = sum(share**0.5 * (each - each.mean()) / each.std() for share, each in zip(shares, layers, strict=True))
    layer = np.clip(look.mean + look.deviation * layer / layer.std(), 0, 1)
    # what is bright is white, what is dark shows the colour of the pane
    white = np.clip(layer**2 + look.grey * (clouds[0] - clouds[0].mean()), 0, 1)[..., None]
    rgb = layer[..., None] * (np.array(look.tint) * (1 - white) + white)
    return (np.clip(rgb, 0, 1) * 255).round().astype(np.uint8)


def _needles(keys: torch.Tensor, field: np.ndarray) -> np.ndarray:
    """Return short needles of ice, light and dark, [600, 900], which lie along a field of directions in [0, 1]."""
    places = uniform(keys, (NEEDLES, 5))[0].numpy()
    x, y = places[:, 0] * WIDTH, places[:, 1] * HEIGHT
    turn = field[y.astype(int).clip(0, HEIGHT - 1), x.astype(int).clip(0, WIDTH - 1)]
    angle = 2 * np.pi * (2 * turn + 0.5 * places[:, 2])
    length = 2 + 8 * places[:, 3] ** 2
    along = np.minimum(np.arange(11.0), length[:, None])  # a pixel further each, up to the end
    columns = (x[:, None] + along * np.cos(angle)[:, None]).round().astype(int).clip(0, WIDTH - 1)
    rows = (y[:, None] + along * np.sin(angle)[:, None]).round().astype(int).clip(0, HEIGHT - 1)
    canvas = np.full((HEIGHT, WIDTH), 128, np.uint8)
    canvas[rows, columns] = (255 * places[:, 4:]).astype(np.uint8)  # of needles that cross, the last is on top
    return np.asarray(Image.fromarray(canvas).filter(ImageFilter.GaussianBlur(0.5)), float)


def _feathers(keys: torch.Tensor, count: int, length: float, field: np.ndarray) -> np.ndarray:
    """Return ferns of ice in [0, 1], [600, 900], which lie along a field of directions in [0, 1]."""
    canvas = Image.new("L", (WIDTH, HEIGHT), 60)
    draw = ImageDraw.Draw(canvas)
    places = uniform(keys[:1], (count, 2))[0].numpy()
    shapes = uniform(keys[1:2], (count, 5))[0].numpy()
    sizes = normal(keys[2:3], (count,))[0].numpy()
    flicker = uniform(keys[3:4], (count, 128))[0].numpy()
    for i in range(count):
        x, y = places[i, 0] * WIDTH, places[i, 1] * HEIGHT
        turn = field[min(int(y), HEIGHT - 1), min(int(x), WIDTH - 1)]
        angle = 2 * math.pi * (2 * turn + 0.35 * shapes[i, 0] + (shapes[i, 1] > 0.5) / 2)
        _feather(draw, (x, y), angle, length * math.exp(0.45 * sizes[i]), shapes[i], flicker[i])
    sharp = np.asarray(canvas.filter(ImageFilter.GaussianBlur(0.6)), float) / 255
    glow = np.asarray(canvas.filter(ImageFilter.GaussianBlur(4)), float) / 255
    return 0.8 * sharp + 0.2 * glow


def _feather(
    draw: ImageDraw.ImageDraw,
    start: tuple[float, float],
    angle: float,
    length: float,
    shape: np.ndarray,
    flicker: np.ndarray,
) -> None:
    """Draw one: a slightly bent spine with barbs on both sides, on a leaf a little darker than they are."""
    bend = (shape[2] - 0.5) * 1.0 / max(length, 1)
    spread = math.radians(28 + 30 * shape[3])
    width = length * (0.1 + 0.12 * shape[4])
    spacing = 2.5
    steps = max(4, int(length / spacing))
    points, heading = [start], angle
    for _ in range(steps):
        heading += bend * spacing
        x, y = points[-1]
        points.append((x + spacing * math.cos(heading), y + spacing * math.sin(heading)))
    sides: list[list[tuple[float, float]]] = [[], []]
    for step, (x, y) in enumerate(points):
        share = step / steps
        barb = width * min(1.0, 4 * share + 0.15) * (1 - share) ** 0.8 * (0.75 + 0.5 * flicker[step % 128])
        for side, sign in enumerate((-1, 1)):
            towards = angle + bend * spacing * step + sign * spread
            sides[side].append((x + barb * math.cos(towards), y + barb * math.sin(towards)))
    base = 40 + 70 * shape[0]
    draw.polygon(sides[0] + sides[1][::-1], fill=int(base))
    for step, point in enumerate(points):
        for side in (0, 1):
            light = base + 55 + 95 * flicker[(step * 2 + side) % 128]
            draw.line([point, sides[side][step]], fill=int(min(light, 255)), width=1)
    draw.line(points, fill=int(min(base + 150, 255)), width=2 if length > 60 else 1)

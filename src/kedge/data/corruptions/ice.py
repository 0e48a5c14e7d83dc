"""Pictures of frost on a window, drawn by us: feathers of ice, one over the other, on a cloudy pane."""

import math

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFilter

from kedge.data.corruptions.draws import normal, uniform
from kedge.data.corruptions.weather import plasma
from kedge.data.seeds import derive_keys

COUNT = 5
HEIGHT, WIDTH = 600, 900
# For each texture: mean and standard deviation of its brightness and its colour relative to that, chosen near those of
# the published photographs, which range from dark panes with few crystals to white ones; how many feathers, how long.
_LOOKS = (
    (0.52, 0.09, (0.80, 1.05, 1.18), 900, 80),
    (0.79, 0.09, (0.96, 1.00, 1.06), 1600, 60),
    (0.78, 0.10, (0.95, 1.00, 1.07), 1000, 100),
    (0.59, 0.12, (0.89, 1.01, 1.12), 3000, 30),
    (0.48, 0.17, (0.88, 1.01, 1.13), 1700, 50),
)


def ice(number: int) -> np.ndarray:
    """Return frost texture `number`, 0 to 4, uint8 [600, 900, 3]; always the same one."""
    mean, deviation, tint, count, length = _LOOKS[number]
    keys = derive_keys(torch.arange(8), number, "frost texture")
    clouds = plasma(keys[:2], WIDTH, 1.5)[:, :HEIGHT, :WIDTH].numpy()
    feathers = _feathers(keys[2:6], count, length, clouds[1])
    grain = normal(keys[6:7], (HEIGHT, WIDTH))[0].numpy()
    # crystals stand out where there is much ice
    layer = feathers * (0.45 + 0.9 * clouds[0]) + 0.8 * clouds[0] + 0.02 * grain
    layer = (layer - layer.mean()) / layer.std()
    layer = np.clip(mean + deviation * layer, 0, 1)
    # what is bright is white, what is dark shows the colour of the pane
    white = layer[..., None] ** 2
    rgb = layer[..., None] * (np.array(tint) * (1 - white) + white)
    return (np.clip(rgb, 0, 1) * 255).round().astype(np.uint8)


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

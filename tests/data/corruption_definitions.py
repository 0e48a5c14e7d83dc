"""The nineteen corruptions as they are defined for one image, [H, W, 3] float64 in [0, 1], with numpy, scipy,
scikit-image and Pillow: slow and plain, to compare `kedge.data.corruptions` with.

`rng` is a numpy Generator or anything with its methods normal, uniform, integers and poisson.
"""

import io
import math

import numpy as np
from PIL import Image
from scipy import ndimage

RANDOM = (
    "gaussian_noise", "shot_noise", "impulse_noise", "glass_blur", "motion_blur", "snow", "frost", "fog",
    "elastic_transform", "speckle_noise", "spatter",
)  # fmt: skip


def gaussian_noise(x, level, rng):
    return x + rng.normal(0, level, x.shape)


def shot_noise(x, level, rng):
    return rng.poisson(x * level) / level


def impulse_noise(x, level, rng):
    draw = rng.uniform(0, 1, x.shape)
    return np.where(draw < level / 2, 1, np.where(draw < level, 0, x))


def speckle_noise(x, level, rng):
    return x + x * rng.normal(0, level, x.shape)


def gaussian_blur(x, level, rng):
    return ndimage.gaussian_filter(x, (level, level, 0), mode="nearest", truncate=4)


def disc(radius, sigma):
    reach = 8 if radius <= 8 else radius
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    kernel = (x**2 + y**2 <= radius**2).astype(float)
    kernel /= kernel.sum()
    size = 1 if radius <= 8 else 2
    weights = np.exp(-(np.arange(-size, size + 1) ** 2) / (2 * sigma**2))
    weights /= weights.sum()
    for axis in (0, 1):
        kernel = ndimage.correlate1d(kernel, weights, axis, mode="mirror")
    return kernel


def defocus_blur(x, level, rng):
    kernel = disc(*level)
    return np.stack([ndimage.correlate(x[..., c], kernel, mode="mirror") for c in range(x.shape[2])], 2)


def glass_blur(x, level, rng):
    sigma, reach, rounds = level
    height, width = x.shape[:2]
    x = np.floor(gaussian_blur(x, sigma, rng) * 255 + 1e-6)
    for _ in range(rounds):
        moves = rng.integers(-reach, reach, (2, height * width)).reshape(2, height, width)
        for row in range(height - reach, reach, -1):
            for column in range(width - reach, reach, -1):
                dy, dx = moves[:, row, column]
                x[row, column] = x[row + dy, column + dx]
    return gaussian_blur(x / 255, sigma, rng)


def smear(x, radius, sigma, degrees):
    height, width = x.shape[:2]
    weights = np.exp(-(np.arange(2 * radius + 1) ** 2) / (2 * sigma**2))
    rows, columns = np.arange(height), np.arange(width)
    total = np.zeros_like(x)
    for i, weight in enumerate(weights / weights.sum()):
        dy = math.ceil(i * math.sin(math.radians(degrees)) - 0.5)
        dx = math.ceil(i * math.cos(math.radians(degrees)) - 0.5)
        total += weight * x[np.clip(rows + dy, 0, height - 1)][:, np.clip(columns + dx, 0, width - 1)]
    return total


def motion_blur(x, level, rng):
    return smear(x, *level, float(rng.uniform(-45, 45, ())))


def clipped_zoom(x, factor):
    height, width = x.shape[:2]
    rows, columns = math.ceil(height / factor), math.ceil(width / factor)
    top, left = (height - rows) // 2, (width - columns) // 2
    crop = x[top : top + rows, left : left + columns]
    large = ndimage.zoom(crop, (factor, factor, 1), order=1, mode="nearest")
    top, left = (large.shape[0] - height) // 2, (large.shape[1] - width) // 2
    return large[top : top + height, left : left + width]


def zoom_blur(x, level, rng):
    return (x + sum(clipped_zoom(x, factor) for factor in level)) / (len(level) + 1)


def snow(x, level, rng):
    mean, deviation, factor, threshold, radius, sigma, kept = level
    flakes = clipped_zoom(rng.normal(mean, deviation, x.shape[:2])[..., None], factor)
    flakes[flakes < threshold] = 0
    flakes = smear(np.clip(flakes, 0, 1), radius, sigma, float(rng.uniform(-135, -45, ())))
    grey = (x @ [0.299, 0.587, 0.114])[..., None]
    x = kept * x + (1 - kept) * np.maximum(x, grey * 1.5 + 0.5)
    return x + flakes + np.rot90(flakes, k=2)


def frost(x, level, rng, textures):
    kept, added, step = level
    texture = textures[int(rng.integers(0, len(textures), ()))]
    texture = texture[step // 2 :: step, step // 2 :: step] / 255
    place = rng.uniform(0, 1, (2,))
    top = int(place[0] * (texture.shape[0] - x.shape[0]))
    left = int(place[1] * (texture.shape[1] - x.shape[1]))
    return kept * x + added * texture[top : top + x.shape[0], left : left + x.shape[1]]


def diamond_square(size, decay, rng):
    draw = rng.uniform(-1, 1, (size, size))
    heights = np.zeros((size, size))
    step, wobble = size, 1.0
    while step >= 2:
        half = step // 2
        for row in range(half, size, step):
            for column in range(half, size, step):
                around = [(row + a) % size for a in (-half, half)], [(column + a) % size for a in (-half, half)]
                heights[row, column] = heights[np.ix_(*around)].mean() + wobble * draw[row, column]
        for row in range(0, size, half):
            for column in range(half if row % step == 0 else 0, size, step):
                beside = [(row, (column + a) % size) for a in (-half, half)]
                beside += [((row + a) % size, column) for a in (-half, half)]
                heights[row, column] = np.mean([heights[p] for p in beside]) + wobble * draw[row, column]
        step, wobble = half, wobble / decay**2
    heights -= heights.min()
    return heights / heights.max()


def fog(x, level, rng):
    thickness, decay = level
    size = 2 ** math.ceil(math.log2(max(x.shape[:2])))
    clouds = diamond_square(size, decay, rng)[: x.shape[0], : x.shape[1], None]
    return (x + thickness * clouds) * x.max() / (x.max() + thickness)


def _in_hsv(x, change):
    from skimage import color

    hsv = color.rgb2hsv(x)
    change(hsv)
    return color.hsv2rgb(np.clip(hsv, 0, 1))


def brightness(x, level, rng):
    def change(hsv):
        hsv[..., 2] += level

    return _in_hsv(x, change)


def saturate(x, level, rng):
    def change(hsv):
        hsv[..., 1] = hsv[..., 1] * level[0] + level[1]

    return _in_hsv(x, change)


def contrast(x, level, rng):
    mean = x.mean((0, 1), keepdims=True)
    return (x - mean) * level + mean


def elastic_transform(x, level, rng):
    strength, sigma, shift = level
    height, width = x.shape[:2]
    middle, reach = np.array([width // 2, height // 2]), min(height, width) // 3
    points = middle + reach * np.array([[1.0, 1], [1, -1], [-1, -1]])
    moved = points + rng.uniform(-shift, shift, (3, 2))
    ones = np.ones((3, 1))
    # where each pixel of the result comes from, (x, y, 1) @ back
    back = np.linalg.solve(np.hstack([moved, ones]), points)
    rows, columns = np.mgrid[:height, :width].astype(float)
    from_x, from_y = np.moveaxis(np.stack([columns, rows, np.ones_like(rows)], 2) @ back, 2, 0)
    x = np.stack(
        [ndimage.map_coordinates(c, [from_y, from_x], order=1, mode="mirror") for c in x.transpose(2, 0, 1)], 2
    )
    field = rng.uniform(-1, 1, (2, height, width))
    dx, dy = (ndimage.gaussian_filter(f, sigma, mode="reflect", truncate=3) * strength for f in field)
    at = [rows + dy, columns + dx]
    return np.stack([ndimage.map_coordinates(c, at, order=1, mode="reflect") for c in x.transpose(2, 0, 1)], 2)


def _pil(x):
    return Image.fromarray((x * 255).round().astype(np.uint8))


def pixelate(x, level, rng):
    image = _pil(x)
    small = (int(image.width * level), int(image.height * level))
    return np.asarray(image.resize(small, Image.Resampling.BOX).resize(image.size, Image.Resampling.BOX)) / 255


def jpeg_compression(x, level, rng):
    file = io.BytesIO()
    _pil(x).save(file, "JPEG", quality=level)
    return np.asarray(Image.open(file)) / 255


def canny(levels, low, high):
    """Edges of whole numbers 0 to 255: Sobel's slopes, |dx| + |dy|, one pixel wide, joined from high down to low."""
    dx = ndimage.sobel(levels, 1, mode="nearest")
    dy = ndimage.sobel(levels, 0, mode="nearest")
    strength = np.pad(abs(dx) + abs(dy), 1)
    peak = np.zeros(levels.shape, bool)
    for row in range(levels.shape[0]):
        for column in range(levels.shape[1]):
            here = strength[row + 1, column + 1]
            slope = math.degrees(math.atan2(abs(dy[row, column]), abs(dx[row, column])))
            if here <= low:
                continue
            around = strength[row : row + 3, column : column + 3]
            if slope < 22.5:
                peak[row, column] = here > around[1, 0] and here >= around[1, 2]
            elif slope > 67.5:
                peak[row, column] = here > around[0, 1] and here >= around[2, 1]
            elif dx[row, column] * dy[row, column] >= 0:
                peak[row, column] = here > max(around[0, 0], around[2, 2])
            else:
                peak[row, column] = here > max(around[0, 2], around[2, 0])
    groups, _ = ndimage.label(peak, np.ones((3, 3)))
    strong = np.unique(groups[peak & (strength[1:-1, 1:-1] > high)])
    return peak & np.isin(groups, strong)


def chamfer(edges):
    """Length of the shortest path to an edge, up to 20: steps of 1, diagonal 1.4, knight's moves 2.1969."""
    best = np.pad(np.where(edges, 0.0, 20.0), 2, constant_values=20.0)
    inner = best[2:-2, 2:-2]
    cost = {(0, 1): 1.0, (1, 1): 1.4, (1, 2): 2.1969}
    moves = [(dy, dx) for dy in range(-2, 3) for dx in range(-2, 3) if tuple(sorted((abs(dy), abs(dx)))) in cost]
    while True:
        before = inner.copy()
        for dy, dx in moves:
            there = best[2 + dy : best.shape[0] - 2 + dy, 2 + dx : best.shape[1] - 2 + dx]
            np.minimum(inner, there + cost[tuple(sorted((abs(dy), abs(dx))))], out=inner)
        if np.array_equal(before, inner):
            return inner


def equalised(levels):
    counts = np.bincount(levels.ravel(), minlength=256)
    first = counts.nonzero()[0][0]
    if counts[first] == levels.size:
        return levels
    table = np.round((counts.cumsum() - counts[first]) * 255 / (levels.size - counts[first]))
    return table.clip(0, 255).astype(int)[levels]


def spatter(x, level, rng):
    mean, deviation, sigma, threshold, strength, mud = level
    liquid = ndimage.gaussian_filter(rng.normal(mean, deviation, x.shape[:2]), sigma, mode="nearest", truncate=4)
    liquid[liquid < threshold] = 0
    if mud:
        cover = ndimage.gaussian_filter((liquid > threshold).astype(float), strength, mode="nearest", truncate=4)
        cover[cover < 0.8] = 0
        return x * (1 - cover[..., None]) + cover[..., None] * np.array([63, 42, 20]) / 255
    levels = np.floor(np.clip(liquid, 0, 1) * 255)
    edges = canny(levels, 50, 150)
    distance = ndimage.uniform_filter(chamfer(edges), 3, mode="mirror")
    relief = equalised(np.floor(distance + 1e-5).astype(int)).astype(float)
    relief = ndimage.correlate(relief, np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]]), mode="mirror").clip(0, 255)
    drops = levels * np.round(ndimage.uniform_filter(relief, 3, mode="mirror"))
    drops = strength * drops / max(drops.max(), 1)
    return x + drops[..., None] * np.array([175, 238, 238]) / 255

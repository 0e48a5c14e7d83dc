"""What each image looks like, in one pass over the files: how bright, how sharp, what shape, and small copies of it."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from kedge.auditing.gathering import Pool
from kedge.data.near import grey_of, small_copy
from kedge.data.report import UnreadableImage

__all__ = ["Looks", "look"]

MEASURED = 160  # px of the shorter side at which sharpness is measured, so that it is the same for all sizes
THUMBNAIL = 96


@dataclass(frozen=True)
class Looks:
    """What was seen of N images.

    Attributes:
        grey: `[N, 64, 64]`, in [0, 1]; the whole image, whatever its shape.
        colour: `[N, 3, 16, 16]`, in [0, 1].
        brightness: `[N]`, the 95th percentile of grey values in [0, 1]: how bright the bright parts are.
        darkness: `[N]`, the 5th percentile: how dark the dark parts are.
        spread: `[N]`, standard deviation of grey values.
        sharpness: `[N]`, log10 of what a slight blur takes from the differences of neighbouring pixels, as a share.
        height, width: `[N]`, as stored.
        keys: the same for images that are equal bit for bit.
    """

    grey: Tensor
    colour: Tensor
    brightness: Tensor
    darkness: Tensor
    spread: Tensor
    sharpness: Tensor
    height: Tensor
    width: Tensor
    keys: list[bytes]


def look(pool: Pool, progress: Callable[[int, int], None] | None = None) -> tuple[Looks, Pool]:
    """(what the images look like, the pool of those that can be read), each image decoded once.

    Raises:
        ValueError: none can be read.
    """
    rows: list[tuple[Tensor, Tensor, list[float]]] = []
    keys: list[bytes] = []
    damaged: dict[int, str] = {}
    for i, (number, row) in enumerate(pool.places):
        part = pool.parts[number]
        try:
            image = part.image(row, MEASURED)
            rows.append((*_copies(image), [*_measures(image), *map(float, part.stored(row))]))
            keys.append(part.digest(row))
        except UnreadableImage as error:
            damaged[i] = error.reason
        if progress is not None:
            progress(i + 1, len(pool))
    sound = pool.without(damaged)
    if not rows:
        file, reason = sound.unreadable[0]
        raise ValueError(f"none of the {len(pool):,} images of {pool.name} can be read; the first, {file}: {reason}")
    measures = torch.tensor([each[2] for each in rows], dtype=torch.float64)
    grey, colour = torch.stack([each[0] for each in rows]), torch.stack([each[1] for each in rows])
    high, low, spread, sharpness, height, width = measures.T
    return Looks(grey, colour, high, low, spread, sharpness, height, width, keys), sound


def _copies(image: Image.Image) -> tuple[Tensor, Tensor]:
    small = small_copy(image)
    tiny = small.resize((16, 16), Image.Resampling.BOX)
    return grey_of(small), torch.from_numpy(np.asarray(tiny, dtype=np.float32) / 255).permute(2, 0, 1)


def _measures(image: Image.Image) -> list[float]:
    """Brightness, darkness, spread and sharpness of an image."""
    grey = image.convert("L")
    if (scale := MEASURED / min(grey.size)) < 1:
        grey = grey.resize([max(1, round(scale * side)) for side in grey.size], Image.Resampling.BILINEAR)
    values = np.asarray(grey, dtype=np.float64) / 255
    low, high = np.percentile(values, [5, 95])
    return [float(high), float(low), float(values.std()), _sharpness(values)]


def _sharpness(values: np.ndarray) -> float:
    """log10 of the share of the variation between neighbours that is lost where each is the mean with its neighbours.

    A blurred image has little left to lose. Crete et al., Human Vision and Electronic Imaging 2007, compare with a
    blurred copy likewise.
    """
    if min(values.shape) < 3:
        return 0.0
    shares = []
    for grid in (values, values.T):
        smooth = (grid[:-2] + grid[1:-1] + grid[2:]) / 3
        variation = np.abs(np.diff(grid[1:-1], axis=0)).sum()
        lost = variation - np.abs(np.diff(smooth, axis=0)).sum()
        shares.append((lost + 1e-6) / (variation + 1e-5))
    return float(np.log10(max(min(shares), 1e-4)))

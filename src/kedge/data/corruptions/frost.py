"""A random piece of an icy texture over the image.

Files of textures can be given; see `kedge.data.corruptions`. The published ones are photographs that are not ours to
ship, so that the textures used by default are made by `ice`.
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch

from kedge.data.corruptions import _pixels as pixels
from kedge.data.corruptions._base import IMAGENET_C
from kedge.data.corruptions._draws import integers, stream, uniform
from kedge.data.corruptions._ice import COUNT, ice
from kedge.data.corruptions._ice import VERSION as VERSION
from kedge.data.formats import opened

info = IMAGENET_C
groups = ("corruptions", "weather")
place = 9
# Share of the image, share of the texture, step between the texture's pixels.
imagenet = ((1, 0.4, 1), (0.8, 0.6, 1), (0.7, 0.7, 1), (0.65, 0.7, 1), (0.6, 0.75, 1))
cifar = ((1, 0.2, 5), (1, 0.3, 5), (0.9, 0.4, 5), (0.85, 0.4, 5), (0.75, 0.45, 5))
tiny = ((1, 0.2, 10), (1, 0.3, 10), (0.9, 0.4, 10), (0.85, 0.45, 10), (0.75, 0.5, 10))

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
DRAWN = ("frost1.png", "frost2.png", "frost3.png", "frost4.jpg", "frost5.jpg")  # of the published folder
NOT_DRAWN = "frost6.jpg"  # lies beside them; the published code draws one of the first five


@dataclass(frozen=True, eq=False)
class Textures:
    """Pictures uint8 [H, W, 3] each, of any sizes; told apart by identity, so that what is made of them is kept."""

    pictures: tuple[np.ndarray, ...]


def frost(
    images: torch.Tensor,
    level: tuple[float, float, int],
    keys: torch.Tensor,
    textures: Textures | None = None,
) -> torch.Tensor:
    """Add a piece, at a random place, of one of the textures to the image; all chosen at equal chances.

    Args:
        images: float32 [B, C, H, W] in [0, 1].
        level: what the image and the texture are multiplied by, and the step at which the texture's pixels are taken
            (5 for CIFAR: the published textures were shrunk to a fifth).
        keys: long [B].
        textures: see `read_textures`; None for ours. One that is smaller than the images goes on mirrored.
    """
    image_share, texture_share, step = level
    height, width = images.shape[2:]
    layer, sizes, starts = _joined(_generated() if textures is None else textures, step)
    layer = layer.to(images.device)
    chosen = integers(stream(keys, 0), (), 0, len(sizes))
    rows, columns = sizes.to(images.device)[chosen].unbind(1)
    place = uniform(stream(keys, 1), (2,))
    top = (place[:, 0] * (rows - height).clamp(min=1)).long()
    left = (place[:, 1] * (columns - width).clamp(min=1)).long()
    # folded() by hand, each image having a texture of its own size
    y = (top[:, None] + torch.arange(height, device=images.device)) % (2 * rows[:, None])
    x = (left[:, None] + torch.arange(width, device=images.device)) % (2 * columns[:, None])
    y = torch.minimum(y, 2 * rows[:, None] - 1 - y)
    x = torch.minimum(x, 2 * columns[:, None] - 1 - x)
    index = starts.to(images.device)[chosen].view(-1, 1, 1) + y[:, :, None] * columns.view(-1, 1, 1) + x[:, None]
    crystals = layer[:, index].transpose(0, 1).float() / 255  # [B, 3, H, W]
    if images.shape[1] != 3:
        crystals = pixels.luma(crystals)
    return images * image_share + crystals * texture_share


def read_textures(folder: str | Path) -> Textures:
    """Return the pictures of `texture_files`, at their own sizes; ValueError as there."""
    return _read(tuple((str(f), f.stat().st_size, f.stat().st_mtime_ns) for f in texture_files(folder)))


def texture_files(folder: str | Path) -> list[Path]:
    """The pictures in a folder that frost draws from, in the order of their names.

    All of them; of the published folder frost1 to frost5, as the published code.

    Raises:
        ValueError: the folder is missing or has no picture.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"frost textures are read from a folder of pictures, and there is no folder {folder}")
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES)
    if not files:
        raise ValueError(f"no frost texture in {folder}: it has no file ending in {', '.join(SUFFIXES)}")
    published = set(DRAWN) <= {f.name for f in files}
    return [f for f in files if not (published and f.name == NOT_DRAWN)]


@lru_cache(maxsize=4)
def _read(files: tuple[tuple[str, int, int], ...]) -> Textures:
    """The pictures; sizes and times of the files are there so that changed ones are read again."""
    textures = []
    for file, *_ in files:
        with opened(file) as image:
            textures.append(np.asarray(image.convert("RGB")))
    return Textures(tuple(textures))


@lru_cache(maxsize=1)
def _generated() -> Textures:
    return Textures(tuple(ice(number) for number in range(COUNT)))


@lru_cache(maxsize=8)
def _joined(textures: Textures, step: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return all textures one after the other [3, pixels], their sizes [T, 2] and starts [T]."""
    thinned = [t[min(step // 2, len(t) - 1) :: step, min(step // 2, t.shape[1] - 1) :: step] for t in textures.pictures]
    layer = torch.from_numpy(np.concatenate([t.reshape(-1, 3) for t in thinned]).T.copy())
    starts = np.cumsum([0, *(t.shape[0] * t.shape[1] for t in thinned)])[:-1]
    return layer, torch.tensor([t.shape[:2] for t in thinned]), torch.from_numpy(starts)

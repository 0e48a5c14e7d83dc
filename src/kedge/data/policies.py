"""TrivialAugment and RandAugment on whole batches of small images: each image its own operation and magnitude.

The images of a batch are grouped by the operation that was drawn for them, and each group is transformed at once, on
the batch's device. Operations and ranges are those of torchvision's `v2.TrivialAugmentWide` and `v2.RandAugment`, which
transform one image at a time; nearest pixels, black where there are none, as there.
"""

from collections.abc import Callable
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

GEOMETRIC = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
OPERATIONS = (
    *GEOMETRIC,
    *("identity", "brightness", "color", "contrast", "sharpness", "posterize", "solarize", "autocontrast", "equalize"),
)
SIGNED = (*GEOMETRIC, "brightness", "color", "contrast", "sharpness")
BINS = 31


def trivial(images: Tensor, generator: torch.Generator | None) -> Tensor:
    """TrivialAugment, wide: one operation for each image, at a random one of 31 magnitudes.

    Müller and Hutter, "TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation", ICCV 2021.

    Args:
        images: uint8 `[B, C, H, W]` with 1 or 3 channels, on any device.
        generator: on the images' device; None draws from torch's global generator.

    Raises:
        ValueError: another number of channels.
    """
    count, device = len(images), images.device
    kinds = torch.randint(len(OPERATIONS), (count,), generator=generator, device=device)
    bins = torch.randint(BINS, (count,), generator=generator, device=device)
    ranges = _magnitudes(0.99, 32.0, 32.0, 135.0, 0.99, 6, device)
    return transform(images, kinds, _with_signs(ranges[kinds, bins], kinds, generator))


def randaugment(images: Tensor, generator: torch.Generator | None, rounds: int = 2, magnitude: int = 9) -> Tensor:
    """RandAugment: `rounds` operations one after another for each image, all at one of 31 magnitudes (0 to 30).

    Cubuk et al., "RandAugment: Practical Automated Data Augmentation with a Reduced Search Space", 2020; N = 2 and
    M = 9 as in torchvision. Arguments and errors as `trivial`.
    """
    count, device = len(images), images.device
    height, width = images.shape[2:]
    ranges = _magnitudes(0.3, 150 / 331 * width, 150 / 331 * height, 30.0, 0.9, 4, device)
    for _ in range(rounds):
        kinds = torch.randint(len(OPERATIONS), (count,), generator=generator, device=device)
        images = transform(images, kinds, _with_signs(ranges[kinds, magnitude], kinds, generator))
    return images


def transform(images: Tensor, kinds: Tensor, magnitudes: Tensor) -> Tensor:
    """Apply to each image the operation of its kind.

    Args:
        images: uint8 `[B, C, H, W]` with 1 or 3 channels.
        kinds: long `[B]`, places in OPERATIONS.
        magnitudes: float `[B]`: the shear, pixels (whole ones are taken), degrees anticlockwise, what is added to the
            factor 1 of brightness, color, contrast and sharpness, bits kept, the share of 255 from which on pixels are
            inverted; without meaning for the others.

    Returns:
        A new tensor, uint8, in channels_last memory format.

    Raises:
        ValueError: another number of channels.
    """
    if images.shape[1] not in (1, 3):
        raise ValueError(f"these operations are for grey or colour images, not for {images.shape[1]} channels")
    groups = (kinds - len(GEOMETRIC) + 1).clamp(min=0)  # the geometric operations are one group
    order = groups.argsort(stable=True)
    counts = (groups[:, None] == torch.arange(len(GROUPS), device=groups.device)).sum(0).tolist()
    pixels = images.permute(0, 2, 3, 1).contiguous()
    out = pixels.clone()
    for operation, rows in zip(GROUPS, order.split(counts), strict=True):
        if len(rows) == 0 or operation is None:
            continue
        some = pixels.index_select(0, rows).permute(0, 3, 1, 2)
        changed = operation(some, magnitudes[rows], kinds[rows])
        out.index_copy_(0, rows, changed.permute(0, 2, 3, 1))
    return out.permute(0, 3, 1, 2)


@cache
def _magnitudes(
    shear: float, right: float, down: float, degrees: float, factor: float, bits: int, device: torch.device
) -> Tensor:
    """Magnitudes `[operations, BINS]` from none to the largest ones given; posterize keeps 8 to 8 - bits bits."""
    largest = {"shear_x": shear, "shear_y": shear, "translate_x": right, "translate_y": down, "rotate": degrees}
    largest |= dict.fromkeys(("brightness", "color", "contrast", "sharpness"), factor)
    rows = [torch.linspace(0, largest.get(name, 0.0), BINS) for name in OPERATIONS]
    rows[OPERATIONS.index("posterize")] = (8 - torch.arange(BINS) / ((BINS - 1) / bits)).round()
    rows[OPERATIONS.index("solarize")] = torch.linspace(1, 0, BINS)
    return torch.stack(rows).to(device)


def _with_signs(magnitudes: Tensor, kinds: Tensor, generator: torch.Generator | None) -> Tensor:
    """Turn half of the magnitudes round, of the operations that have two directions."""
    turned = torch.rand(len(kinds), generator=generator, device=kinds.device) < 0.5
    signed = torch.tensor([name in SIGNED for name in OPERATIONS], device=kinds.device)[kinds]
    return torch.where(turned & signed, -magnitudes, magnitudes)


def _moved(images: Tensor, magnitudes: Tensor, kinds: Tensor) -> Tensor:
    """Shear, translate or rotate, all by one affine map for each image from its pixels to those they are taken from."""
    count, _, height, width = images.shape
    device = images.device
    zero, one, m = torch.zeros_like(magnitudes), torch.ones_like(magnitudes), magnitudes
    angle, whole = torch.deg2rad(m), m.trunc()
    # Rows (x from x, x from y, y from x, y from y, right, down), about the centre; shears keep the top or left edge.
    maps = torch.stack(
        [
            torch.stack([one, m, zero, one, m * height / 2, zero]),
            torch.stack([one, zero, m, one, zero, m * width / 2]),
            torch.stack([one, zero, zero, one, -whole, zero]),
            torch.stack([one, zero, zero, one, zero, -whole]),
            torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos(), zero, zero]),
        ]
    )
    xx, xy, yx, yy, right, down = maps[kinds, :, torch.arange(count, device=device)].T[:, :, None, None]
    y = torch.arange(height, device=device)[:, None] - (height - 1) / 2
    x = torch.arange(width, device=device) - (width - 1) / 2
    columns = (xx * x + xy * y + right + (width - 1) / 2).round().long()
    rows = (yx * x + yy * y + down + (height - 1) / 2).round().long()
    inside = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    first = torch.arange(count, device=device)[:, None, None] * height
    places = (first + rows.clamp(0, height - 1)) * width + columns.clamp(0, width - 1)
    pixels = images.permute(0, 2, 3, 1).reshape(count * height * width, -1)
    moved = pixels.index_select(0, places.flatten()).mul_(inside.flatten()[:, None])
    return moved.view(count, height, width, -1).permute(0, 3, 1, 2)


def _blended(images: Tensor, other: Tensor | float, magnitudes: Tensor) -> Tensor:
    """`factor` parts of float images and 1 - factor parts of the other, `factor` = 1 + magnitude; uint8."""
    factor = (1 + magnitudes)[:, None, None, None]
    return (images * factor + other * (1 - factor)).clamp_(0, 255).to(torch.uint8)


def _grey(images: Tensor) -> Tensor:
    """Whole grey levels `[B, 1, H, W]` of float images by ITU-R 601."""
    if images.shape[1] == 1:
        return images
    red, green, blue = images.unbind(1)
    return (0.2989 * red + 0.587 * green + 0.114 * blue).floor_()[:, None]


def _brightness(images: Tensor, magnitudes: Tensor, kinds: Tensor) -> Tensor:
    return _blended(images.float(), 0.0, magnitudes)


def _color(images: Tensor, magnitudes: Tensor, kinds: Tensor) -> Tensor:
    pixels = images.float()
    return _blended(pixels, _grey(pixels), magnitudes)


def _contrast(images: Tensor, magnitudes: Tensor, kinds: Tensor) -> Tensor:
    pixels = images.float()
    return _blended(pixels, _grey(pixels).mean((1, 2, 3), keepdim=True), magnitudes)


def _sharpness(images: Tensor, magnitudes: Tensor, kinds: Tensor) -> Tensor:
    """Blend with a blur of 3×3 whose centre counts five times; the pixels at the edges stay."""
    if min(images.shape[2:]) <= 2:
        return images
    pixels = images.float()
    around = F.avg_pool2d(pixels, 3, stride=1) * 9
    blurred = pixels.clone()
    blurred[..., 1:-1, 1:-1] = ((around + 4 * pixels[..., 1:-1, 1:-1]) / 13).round()
    return _blended(pixels, blurred, magnitudes)


def _posterize(images: Tensor, magnitudes: Tensor, kinds: Tensor) -> Tensor:
    """Keep the highest bits."""
    lost = (8 - magnitudes.int())[:, None, None, None]
    return ((images.int() >> lost) << lost).to(torch.uint8)


def _solarize(images: Tensor, magnitudes: Tensor, kinds: Tensor) -> Tensor:
    """Invert the pixels from the threshold on."""
    return torch.where(images >= 255 * magnitudes[:, None, None, None], 255 - images, images)


def _autocontrast(images: Tensor, magnitudes: Tensor, kinds: Tensor) -> Tensor:
    """Stretch each channel to 0 to 255; a channel of one value stays."""
    pixels = images.float()
    low, high = pixels.amin((2, 3), keepdim=True), pixels.amax((2, 3), keepdim=True)
    stretched = (pixels - low) / ((high - low) / 255).where(high > low, 1.0)
    return stretched.clamp_(0, 255).to(torch.uint8).where(high > low, images)


def _equalize(images: Tensor, magnitudes: Tensor, kinds: Tensor) -> Tensor:
    """Spread the values of each channel evenly, by Pillow's whole numbers: level v becomes (n + step // 2) // step.

    n is the number of pixels below v, and step the number of pixels below the channel's largest value over 255.
    """
    batch, channels, height, width = images.shape
    levels = images.reshape(batch * channels, height * width).long()
    counts = torch.zeros((len(levels), 256), dtype=torch.long, device=images.device)
    counts.scatter_add_(1, levels, torch.ones_like(levels))
    below = counts.cumsum(1) - counts
    step = below.gather(1, levels.amax(1, keepdim=True)) // 255
    table = ((below + step // 2) // step.clamp(min=1)).clamp_(0, 255)
    table = torch.where(step > 0, table, torch.arange(256, device=images.device))
    return table.gather(1, levels).to(torch.uint8).view(batch, channels, height, width)


Operation = Callable[[Tensor, Tensor, Tensor], Tensor]
GROUPS: tuple[Operation | None, ...] = (
    _moved,
    None,
    _brightness,
    _color,
    _contrast,
    _sharpness,
    _posterize,
    _solarize,
    _autocontrast,
    _equalize,
)

"""Digital faults. Every function: (images float32 [B, C, H, W] in [0, 1], level, keys long [B]) -> the same shape."""

import io

import numpy as np
import torch
from PIL import Image

from kedge.data.corruptions import pixels
from kedge.data.formats import opened


def contrast(images: torch.Tensor, level: float, keys: torch.Tensor) -> torch.Tensor:
    """Scale every channel's distance from its mean over the image by `level`."""
    mean = pixels.mean(images)
    return (images - mean) * level + mean


def saturate(images: torch.Tensor, level: tuple[float, float], keys: torch.Tensor) -> torch.Tensor:
    """Set the saturation of the HSV colour to factor * saturation + shift, level = (factor, shift).

    As published, grey pixels count as red of saturation 0, so that a shift makes them reddish. Images with another
    number of channels than three have no saturation and stay as they are.
    """
    if images.shape[1] != 3:
        return images.clone()
    factor, shift = level
    value = images.amax(1, keepdim=True)
    span = value - images.amin(1, keepdim=True)
    saturation = (span / value.clamp(min=1e-12) * factor + shift).clamp(0, 1)
    # how far each channel lies below the highest, 0 to 1; red: (0, 1, 1)
    red = torch.tensor([0.0, 1, 1], device=images.device).view(1, 3, 1, 1)
    below = torch.where(span > 0, (value - images) / span.clamp(min=1e-12), red)
    return value * (1 - saturation * below)


def pixelate(images: torch.Tensor, level: float, keys: torch.Tensor) -> torch.Tensor:
    """Shrink to `level` times the size and enlarge again, both with a box filter."""
    for dim in (2, 3):
        length = images.shape[dim]
        images = _box_resized(_box_resized(images, dim, max(1, int(length * level))), dim, length)
    return images


def jpeg_compression(images: torch.Tensor, level: int, keys: torch.Tensor) -> torch.Tensor:
    """Encode as JPEG of quality `level` (chroma at half resolution) and decode, by the codec itself on the CPU."""
    batch, channels, height, width = images.shape
    levels = (images * 255).round().to("cpu", torch.uint8)
    if channels != 3:
        levels = levels.reshape(batch * channels, 1, height, width)  # each channel as a grey image
    # copied where a value is one byte: the codec wants the channels last
    levels = levels.permute(0, 2, 3, 1).contiguous()
    decoded = torch.from_numpy(np.stack([_jpeg(image, level) for image in levels.numpy()]))
    return decoded.permute(0, 3, 1, 2).contiguous().view(images.shape).to(images.device).float().div_(255)


def _box_resized(images: torch.Tensor, dim: int, length: int) -> torch.Tensor:
    """Resize one axis with Pillow's box filter: the mean of the pixels whose centres lie below the new pixel."""
    old = images.shape[dim]
    if length == old:
        return images
    scale = old / length
    support = 0.5 * max(scale, 1.0)
    centres = (torch.arange(length, dtype=torch.float64) + 0.5) * scale
    first = (centres - support + 0.5).floor().long().clamp(min=0)
    last = (centres + support + 0.5).floor().long().clamp(max=old)  # not included
    count = last - first
    total = torch.zeros_like(images.narrow(dim, 0, 1)).expand(
        *(length if d == dim else n for d, n in enumerate(images.shape))
    )
    shape = [length if d == dim else 1 for d in range(images.ndim)]
    for step in range(int(count.max())):
        index = (first + step).clamp(max=old - 1).to(images.device)
        inside = (step < count).to(images.device, images.dtype).view(shape)
        total = total + images.index_select(dim, index) * inside
    return total / count.to(images.device, images.dtype).view(shape)


def _jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    grey = image.shape[2] == 1
    file = io.BytesIO()
    Image.fromarray(image[:, :, 0] if grey else image).save(file, "JPEG", quality=quality)
    with opened(file.getvalue()) as encoded:
        decoded = np.asarray(encoded)
    return decoded[:, :, None] if grey else decoded

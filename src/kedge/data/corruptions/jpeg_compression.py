"""JPEG, by the codec itself."""

import io

import numpy as np
import torch
from PIL import Image

from kedge.data.corruptions._base import IMAGENET_C
from kedge.data.formats import opened

info = IMAGENET_C
groups = ("corruptions", "digital")
place = 15
# Quality.
imagenet = (25, 18, 15, 10, 7)
cifar = (80, 65, 58, 50, 40)
tiny = imagenet


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


def _jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    grey = image.shape[2] == 1
    file = io.BytesIO()
    Image.fromarray(image[:, :, 0] if grey else image).save(file, "JPEG", quality=quality)
    with opened(file.getvalue()) as encoded:
        decoded = np.asarray(encoded)
    return decoded[:, :, None] if grey else decoded

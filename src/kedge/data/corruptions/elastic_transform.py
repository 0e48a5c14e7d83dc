"""An affine change of the whole image, then a random displacement of every pixel."""

import torch

from kedge.data.corruptions import _pixels as pixels
from kedge.data.corruptions._base import IMAGENET_C
from kedge.data.corruptions._draws import stream, uniform

info = IMAGENET_C
groups = ("corruptions", "digital")
place = 13
# Strength, sigma, shift: parts of 244 px (as published, not 224) and of 32 px.
imagenet = (
    (244 * 2, 244 * 0.7, 244 * 0.1),
    (244 * 2, 244 * 0.08, 244 * 0.2),
    (244 * 0.05, 244 * 0.01, 244 * 0.02),
    (244 * 0.07, 244 * 0.01, 244 * 0.02),
    (244 * 0.12, 244 * 0.01, 244 * 0.02),
)
cifar = (
    (0, 0, 32 * 0.08),
    (32 * 0.05, 32 * 0.2, 32 * 0.07),
    (32 * 0.08, 32 * 0.06, 32 * 0.06),
    (32 * 0.1, 32 * 0.04, 32 * 0.05),
    (32 * 0.1, 32 * 0.03, 32 * 0.03),
)
tiny = ((0, 0, 0.3), (0, 0, 0.45), (0.8, 1, 0.45), (1.6, 1, 0.45), (2.4, 1, 0.45))


def elastic_transform(images: torch.Tensor, level: tuple[float, float, float], keys: torch.Tensor) -> torch.Tensor:
    """Distort images, float32 [B, C, H, W] in [0, 1]; keys long [B].

    Three points about the middle move by up to `shift` pixels in x and y, and the image with them (mirrored beyond
    its border). Then each pixel takes the value found `strength` times a smooth field away: uniform draws in (-1, 1)
    blurred with a Gaussian of `sigma` pixels, cut at three standard deviations. Both steps interpolate linearly.

    Args:
        level: (strength, sigma, shift) in pixels.
    """
    strength, sigma, shift = level
    height, width = images.shape[2:]
    row = torch.arange(height, device=images.device).view(1, -1, 1)
    column = torch.arange(width, device=images.device).view(1, 1, -1)

    reach = max(1, min(height, width) // 3)
    middle = torch.tensor([width // 2, height // 2], dtype=torch.float64, device=images.device)
    corners = middle + reach * torch.tensor([[1.0, 1], [1, -1], [-1, -1]], dtype=torch.float64, device=images.device)
    moved = corners + uniform(stream(keys, 0), (3, 2), -shift, shift).double()
    # images of the unit steps in x and y, and their inverse
    along_x, along_y = (moved[:, 1] - moved[:, 2]) / (2 * reach), (moved[:, 0] - moved[:, 1]) / (2 * reach)
    area = along_x[:, 0] * along_y[:, 1] - along_x[:, 1] * along_y[:, 0]
    area = torch.where(area.abs() < 1e-6, 1e-6, area)[:, None, None]
    dx = column - moved[:, 1, 0].view(-1, 1, 1)
    dy = row - moved[:, 1, 1].view(-1, 1, 1)
    ax, ay = along_x.view(-1, 2, 1, 1).unbind(1)
    bx, by = along_y.view(-1, 2, 1, 1).unbind(1)
    x = corners[1, 0] + (dx * by - dy * bx) / area
    y = corners[1, 1] + (dy * ax - dx * ay) / area
    images = pixels.sampled(images, y.float(), x.float(), "mirror")
    if strength == 0:
        return images

    field = uniform(stream(keys, 1), (2, height, width), -1, 1)
    if sigma > 0:
        field = pixels.gaussian(field, sigma, border="reflect", truncate=3)
    field = field * strength
    return pixels.sampled(images, row + field[:, 1], column + field[:, 0], "reflect")

"""Predict from several views of an image, as anchored models do from several references."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CORNERS = ((0, 0), (-1, -1), (1, 1), (-1, 1), (1, -1))
MOST = 2 * len(CORNERS)


class Views(nn.Module):
    """A model `[B, C, H, W]` -> `[B, classes]` that answers with the mean of its logits over fixed views of an image.

    The views are the image, its mirror image, and both moved by `reach` pixels towards each corner, in this order,
    the border reflected: the ten crops of Krizhevsky et al. (NIPS 2012), from the crops and flips that small images are
    trained with. Nothing is drawn at random.

    Args:
        model: from images in [0, 1] to logits.
        count: how many views, 1 to 10.
        reach: of the moves; None: a sixteenth of the shorter side (2 at 32 px), half of the largest move in training.
    """

    def __init__(self, model: nn.Module, count: int = MOST, reach: int | None = None) -> None:
        super().__init__()
        if not 1 <= count <= MOST:
            raise ValueError(f"views is a number from 1 to {MOST}, got {count}")
        if reach is not None and reach < 0:
            raise ValueError(f"reach is a number of pixels, 0 or more, got {reach}")
        self.model, self.count, self.reach = model, count, reach

    def forward(self, images: Tensor) -> Tensor:
        """The mean logits."""
        logits: list[Tensor] = [self.model(view) for view in self.views(images)]
        return torch.stack(logits).mean(0)

    def views(self, images: Tensor) -> Iterator[Tensor]:
        """The views of a batch, one after another, each `[B, C, H, W]`."""
        height, width = images.shape[2:]
        reach = min(height, width) // 16 if self.reach is None else self.reach
        padded = F.pad(images, (reach,) * 4, mode="reflect") if reach else images
        for number in range(self.count):
            down, right = CORNERS[number // 2]
            top, left = reach * (1 + down), reach * (1 + right)
            view = padded[:, :, top : top + height, left : left + width]
            yield view.flip(3) if number % 2 else view

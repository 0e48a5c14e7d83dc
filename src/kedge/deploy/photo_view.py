"""The evaluation view of a photo as PyTorch operations, with the integer arithmetic of Pillow's resizing."""

import torch
from PIL import __version__ as pillow
from torch import Tensor, nn

from kedge.data.decode import OBLONG, convert_channels, shorter_side

# From 13 on Pillow begins with the columns where a photo is shrunk that is more than twice as high as wide.
COLUMNS_FIRST = int(pillow.partition(".")[0]) >= 13
PRECISION = float(1 << 22)  # weights are whole multiples of 1 / PRECISION


class PhotoView(nn.Module):
    """A photo, uint8 `[H, W, 3]` of any size, to its evaluation view, float32 `[1, C, side, side]` in [0, 1].

    The same levels as `kedge.data.read_image` has from Pillow: along rows, then along columns, rounded in between.

    Args:
        shape: (C, side, side), C = 1 or 3.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.channels, self.side, _ = shape
        self.shorter = shorter_side(self.side)

    def extra_repr(self) -> str:
        """What `repr` shows."""
        return f"channels={self.channels}, side={self.side}, shorter={self.shorter}"

    def forward(self, photo: Tensor) -> Tensor:
        """The view of one photo."""
        height, width = photo.shape[0], photo.shape[1]
        least = torch.sym_min(height, width)
        across, down = self._weights(width, least), self._weights(height, least)
        exact = photo.permute(2, 0, 1).double()
        sides = torch.full((), height), torch.full((), width)
        high = (sides[0] > 2 * sides[1]) & (sides[1] > self.shorter) & COLUMNS_FIRST
        if torch.compiler.is_exporting():
            small = torch.cond(high, _columns_first, _rows_first, (exact, across, down))
        else:  # where `cond` would compile for each size
            small = (_columns_first if bool(high) else _rows_first)(exact, across, down)
        levels = small.to(torch.uint8)
        return (convert_channels(levels, self.channels).float() / 255)[None]

    def _weights(self, size: int, least: int | torch.SymInt) -> Tensor:
        """`[side, size]` float64: what each pixel of an axis counts for in each output, in whole numbers."""
        inner = torch.sym_min(size, OBLONG * least)  # without the ends of what is very long
        outer = size - inner
        cut = (outer + outer // 2 % 2) // 2  # half of it; halves to even, as Python rounds
        total = torch.full((), inner, dtype=torch.float64)
        resized = torch.full((), self.shorter * inner // least, dtype=torch.float64)
        scale = total / resized
        reach = scale.clamp(min=1)
        before = ((resized - self.side) * 0.5).round()  # half to even, as Python rounds
        centre = (torch.arange(self.side, dtype=torch.float64)[:, None] + before + 0.5) * scale
        low = (centre - reach + 0.5).floor().clamp(min=0)
        high = torch.minimum((centre + reach + 0.5).floor(), total)
        pixel = torch.arange(size, dtype=torch.float64) - cut
        tent = (1 - ((pixel - centre + 0.5) * (1 / reach)).abs()).clamp(min=0)
        weight = torch.where((pixel >= low) & (pixel < high), tent, 0.0)
        return (weight / weight.sum(1, keepdim=True) * PRECISION + 0.5).floor()


def _rows_first(exact: Tensor, across: Tensor, down: Tensor) -> Tensor:
    return _rounded(down @ _rounded(exact @ across.T))


def _columns_first(exact: Tensor, across: Tensor, down: Tensor) -> Tensor:
    return _rounded(_rounded(down @ exact) @ across.T)


def _rounded(sums: Tensor) -> Tensor:
    """Whole levels of sums of levels and weights; all of these numbers are whole, and float64 holds them exactly."""
    return ((sums + PRECISION / 2) / PRECISION).floor().clamp(max=255)

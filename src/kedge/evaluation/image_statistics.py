"""What an image looks like in numbers: brightness, sharpness, noise and the like, of pixels alone."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kedge.evaluation.inputs import convert

EPS = 1e-3
CELL = 4  # pixels a side of the cells that local contrast and unevenness are of
BLOCK = 8  # pixels a side of the blocks of JPEG


@dataclass(frozen=True)
class Statistic:
    """One number of an image.

    Attributes:
        key, label: for files, and for people.
        words: what it is.
        of: from the views of a batch to `[B]`.
        log: whether it spans orders of magnitude, so that its logarithm is what distances are taken of.
    """

    key: str
    label: str
    words: str
    of: "Callable[[_Views], Tensor]"
    log: bool = False


class _Views:
    """A batch of images `[B, C, H, W]` in [0, 1] with what several statistics read, each made once."""

    def __init__(self, images: Tensor) -> None:
        self.images = images
        self.grey = convert(images, (1, *images.shape[2:]))[:, 0]
        self.across, self.down = self.grey.diff(dim=2).abs(), self.grey.diff(dim=1).abs()
        self.laplace = _filtered(self.grey, ((0, 1, 0), (1, -4, 1), (0, 1, 0)))
        self.grain = _filtered(self.grey, ((1, -2, 1), (-2, 4, -2), (1, -2, 1)))
        self.inner = self.grey[:, 1:-1, 1:-1]
        height, width = (max(side // CELL, 1) for side in self.grey.shape[1:])
        cells = F.adaptive_avg_pool2d(self.grey[:, None], (height, width))
        squares = F.adaptive_avg_pool2d(self.grey[:, None].square(), (height, width))
        self.cells, self.spreads = cells.flatten(1), (squares - cells.square()).clamp(min=0).sqrt().flatten(1)
        self.power = _power(self.grey)


def _filtered(grey: Tensor, kernel: tuple[tuple[int, ...], ...]) -> Tensor:
    """`[B, H - 2, W - 2]`: a 3×3 filter where it lies within the image."""
    return F.conv2d(grey[:, None], grey.new_tensor(kernel)[None, None])[:, 0]


def _power(grey: Tensor) -> Tensor:
    """`[B, 4]`: the share of the power spectrum from coarse to fine: below 1/8, 1/4, 3/8 cycles a pixel, above."""
    height, width = grey.shape[1:]
    window = torch.hann_window(height, device=grey.device)[:, None] * torch.hann_window(width, device=grey.device)
    power = torch.fft.rfft2((grey - grey.mean((1, 2), keepdim=True)) * window).abs().square()
    up = torch.fft.fftfreq(height, device=grey.device)[:, None]
    band = (torch.hypot(up, torch.fft.rfftfreq(width, device=grey.device)) * 8).long().clamp(max=3).flatten()
    sums = power.new_zeros(len(grey), 4).index_add_(1, band, power.flatten(1))
    return sums / sums.sum(1, keepdim=True).clamp(min=1e-12)


def _mean(values: Tensor) -> Tensor:
    return values.flatten(1).mean(1)


def _colours(views: _Views) -> tuple[Tensor, Tensor]:
    """Red against green and yellow against blue, `[B, H, W]` each; zeros of grey images."""
    if views.images.shape[1] == 1:
        return torch.zeros_like(views.grey), torch.zeros_like(views.grey)
    red, green, blue = views.images.unbind(1)
    return red - green, (red + green) / 2 - blue


def _black(views: _Views) -> Tensor:
    return _mean((views.images <= 2.5 / 255).float())


def _white(views: _Views) -> Tensor:
    return _mean((views.images >= 252.5 / 255).float())


def _sharpness(views: _Views) -> Tensor:
    return views.laplace.flatten(1).std(1)


def _detail(views: _Views) -> Tensor:
    return (_mean(views.across) + _mean(views.down)) / 2


def _noise(views: _Views) -> Tensor:
    return _mean(views.grain.abs()) * (torch.pi / 2) ** 0.5 / 6


def _colourfulness(views: _Views) -> Tensor:
    pairs = [each.flatten(1) for each in _colours(views)]
    spread = sum(each.var(1, correction=0) for each in pairs)
    return torch.as_tensor(spread).sqrt() + 0.3 * torch.as_tensor(sum(each.mean(1).square() for each in pairs)).sqrt()


def _colour_grain(views: _Views) -> Tensor:
    kernel = ((1, -2, 1), (-2, 4, -2), (1, -2, 1))
    return _mean(torch.stack([_filtered(each, kernel).abs() for each in _colours(views)], 1))


def _saturation(views: _Views) -> Tensor:
    high, low = views.images.amax(1), views.images.amin(1)
    return _mean((high - low) / high.clamp(min=0.02))


def _kurtosis(views: _Views) -> Tensor:
    squares = views.laplace.square()
    return _mean(squares.square()) / (_mean(squares).square() + 1e-9)


def _grain_of_bright(views: _Views) -> Tensor:
    """Grain in the brighter half of an image over that in the darker half."""
    grain = views.grain.abs().flatten(1)
    level = views.inner.flatten(1)
    bright = (level > level.median(1, keepdim=True).values).float()
    dark = 1 - bright
    means = [(grain * part).sum(1) / part.sum(1).clamp(min=1) for part in (bright, dark)]
    return (means[0] + EPS) / (means[1] + EPS)


def _isolated(views: _Views) -> Tensor:
    """Share of pixels that are far from all their neighbours."""
    padded = F.pad(views.grey[:, None], (1, 1, 1, 1), mode="replicate")
    around = F.unfold(padded, 3)
    around = torch.cat([around[:, :4], around[:, 5:]], 1)
    level = views.grey.flatten(1)
    beyond = torch.maximum(level - around.amax(1), around.amin(1) - level)
    return (beyond > 0.1).float().mean(1)


def _flat(views: _Views) -> Tensor:
    """Share of neighbouring pairs that are the same."""
    pairs = [views.images.diff(dim=dim).abs().amax(1).flatten(1) for dim in (2, 3)]
    return (torch.cat(pairs, 1) < 1 / 255).float().mean(1)


def _blocks(views: _Views) -> Tensor:
    """Steps across the borders of 8×8 blocks over steps within them; 1 of images too small to tell."""
    sides = []
    for steps in (views.across, views.down.transpose(1, 2)):
        border = torch.arange(steps.shape[2], device=steps.device) % BLOCK == BLOCK - 1
        if int(border.sum()):
            sides.append((_mean(steps[:, :, border]) + EPS) / (_mean(steps[:, :, ~border]) + EPS))
    return torch.stack(sides).mean(0) if sides else torch.ones(len(views.grey), device=views.grey.device)


def _direction(views: _Views) -> Tensor:
    """Coherence of the structure tensor: 0 with edges in all directions alike, 1 with all of them in one."""
    grey = views.grey  # differences of the two neighbours: those with the pixel itself make noise look diagonal
    x = (grey[:, 1:-1, 2:] - grey[:, 1:-1, :-2]).flatten(1)
    y = (grey[:, 2:, 1:-1] - grey[:, :-2, 1:-1]).flatten(1)
    xx, yy, xy = x.square().mean(1), y.square().mean(1), (x * y).mean(1)
    return ((xx - yy).square() + 4 * xy.square()).sqrt() / (xx + yy + 1e-9)


def _centre(views: _Views) -> Tensor:
    """Detail in the middle of an image over that near its border."""
    detail = views.laplace.abs()
    height, width = detail.shape[1:]
    inside = torch.zeros(height, width, device=detail.device)
    inside[height // 4 : height - height // 4, width // 4 : width - width // 4] = 1
    means = [(detail * part).sum((1, 2)) / part.sum().clamp(min=1) for part in (inside, 1 - inside)]
    return (means[0] + EPS) / (means[1] + EPS)


STATISTICS = (
    Statistic("brightness", "brightness", "mean of the grey values", lambda v: _mean(v.grey)),
    Statistic("contrast", "contrast", "standard deviation of the grey values", lambda v: v.grey.flatten(1).std(1)),
    Statistic("black", "black share", "share of values of 2/255 or less", _black),
    Statistic("white", "white share", "share of values of 253/255 or more", _white),
    Statistic("colour", "colourfulness", "of Hasler and Süsstrunk (2003), in [0, 1] scale", _colourfulness),
    Statistic("saturation", "saturation", "largest less smallest channel, over the largest", _saturation),
    Statistic("warmth", "warmth", "mean of yellow against blue", lambda v: _mean(_colours(v)[1])),
    Statistic("sharpness", "sharpness", "standard deviation of the Laplacian", _sharpness, True),
    Statistic("detail", "detail", "mean difference of neighbouring pixels", _detail, True),
    Statistic("noise", "noise", "standard deviation of white noise of this grain (Immerkær 1996)", _noise, True),
    Statistic("colour_noise", "noise in colour", "grain of the colour channels", _colour_grain, True),
    Statistic("bright_noise", "noise in bright parts", "grain of bright over dark parts", _grain_of_bright, True),
    Statistic("isolated", "isolated pixels", "share of pixels far from all neighbours", _isolated),
    Statistic("tails", "heavy edges", "kurtosis of the Laplacian", _kurtosis, True),
    Statistic("flat", "flat share", "share of neighbouring pixels that are the same", _flat),
    Statistic("blocks", "blocks of 8", "steps across the borders of 8×8 blocks over those within", _blocks, True),
    Statistic("direction", "one direction", "coherence of the structure tensor", _direction),
    Statistic("centre", "sharper centre", "detail in the middle over that near the border", _centre, True),
    Statistic("local_contrast", "local contrast", "deviation within 4×4 cells", lambda v: v.spreads.mean(1), True),
    Statistic("uneven", "unevenness", "standard deviation between 4×4 cells", lambda v: v.cells.std(1, correction=0)),
    Statistic("coarse", "coarse structure", "share of the power below 1/8 cycle a pixel", lambda v: v.power[:, 0]),
    Statistic("middle", "middle structure", "share of the power from 1/8 to 1/4", lambda v: v.power[:, 1], True),
    Statistic("fine", "fine structure", "share of the power from 1/4 to 3/8", lambda v: v.power[:, 2], True),
    Statistic("finest", "finest structure", "share of the power above 3/8", lambda v: v.power[:, 3], True),
)  # fmt: skip
LEAST = 5  # pixels a side


def image_statistics(images: Tensor) -> Tensor:
    """The numbers `[B, len(STATISTICS)]` of images `[B, C, H, W]` in [0, 1], float32, in the order of `STATISTICS`.

    Raises:
        ValueError: for images of fewer than 5 pixels a side, and of other than 1 or 3 channels.
    """
    if images.shape[1] not in (1, 3) or min(images.shape[2:]) < LEAST:
        raise ValueError(
            f"statistics are of grey or RGB images of {LEAST} pixels a side or more, got {list(images.shape[1:])}"
        )
    views = _Views(images.float())
    return torch.stack([each.of(views) for each in STATISTICS], 1)


def on_scale(statistics: Tensor) -> Tensor:
    """Statistics `[B, S]` on the scale that distances are taken on: the logarithm of those that span magnitudes."""
    logs = torch.tensor([each.log for each in STATISTICS], device=statistics.device)
    return torch.where(logs, (statistics.clamp(min=0) + EPS).log(), statistics)

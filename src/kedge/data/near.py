"""Near duplicates: the same picture again, as it was, compressed anew, in another size or with its edges cut off."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

__all__ = ["ALIKE", "CLOSE", "FLOOR", "SIDE", "Pair", "Seen", "blurred", "grey_of", "groups", "near_duplicates",
           "small_copy", "unit"]  # fmt: skip

SIDE = 64  # px of the small copies: enough to find a picture again, too few to see how it was compressed

CLOSE = 0.15  # distance of two copies, as a share of how far their neighbours are
ALIKE = 0.9  # correlation below which two pictures are never called the same
NEIGHBOURS = 5  # whose distance is the yardstick
FLOOR = 0.01  # of the yardstick: pictures all of which are alike are not told apart by less
CROPS = 30_000  # images beyond which cut copies are not looked for: the search takes tens of minutes there
ROWS = 512  # compared with all others at a time
SCALES, PLACES = (0.86, 0.93), 3  # windows that a cut copy may show; the nearest one is then moved


class Seen(Protocol):
    """What is to be known of N images: small copies `grey` `[N, 64, 64]`, their `spread` `[N]`, and `keys`."""

    @property
    def grey(self) -> Tensor:
        """In [0, 1]."""

    @property
    def spread(self) -> Tensor:
        """Standard deviation of the grey values of each."""

    @property
    def keys(self) -> list[bytes]:
        """The same for images that are equal bit for bit."""


@dataclass(frozen=True)
class Pair:
    """Two images that show the same picture.

    Attributes:
        first, second: their places; `first` is the earlier one.
        kind: "exact" (bit for bit), "near", or "cut" (one is a part of the other).
        similarity: correlation of the small copies, of a cut one with the window that it shows, at most 1.
    """

    first: int
    second: int
    kind: str
    similarity: float


def near_duplicates(looks: Seen, close: float = CLOSE) -> tuple[list[Pair], str]:
    """(pairs, sorted by place, and in words what was not looked for or "").

    Two images are copies where the correlation r of their small copies is 0.9 or more and 1 - r is at most `close` of
    what it is to the fifth nearest neighbour, the smaller of the two images': in a set whose images are all much alike,
    such as digits of 8 px, more is asked for. A cut copy is looked for among windows of 86 and 93 % of each side, and
    from the best one on by moving and resizing. Images of one grey are copies only bit for bit. The yardstick and its
    threshold are kedge's own.
    """
    pairs = _exact(looks.keys)
    taken = {(p.first, p.second) for p in pairs}
    count = len(looks.keys)
    # Of images that are equal bit for bit one stands for all, so that copies are no yardstick of each other.
    first = dict(zip(reversed(looks.keys), reversed(range(count)), strict=True))
    own = torch.tensor([i for i in range(count) if (not looks.keys[i] or first[looks.keys[i]] == i)
                        and float(looks.spread[i]) > 0.01], dtype=torch.long)  # fmt: skip
    if len(own) < 2:
        return pairs, ""
    grey = looks.grey[own]
    nearest, yardstick = _neighbours(_whole(grey))
    for i, (value, j) in enumerate(nearest):
        for r, k in zip(value.tolist(), j.tolist(), strict=True):
            far = max(FLOOR, float(torch.minimum(yardstick[i], yardstick[k])))
            a, b = sorted((int(own[i]), int(own[k])))
            if r >= ALIKE and 1 - r <= close * far and (a, b) not in taken:
                taken.add((a, b))
                pairs.append(Pair(a, b, "near", r))
    words = ""
    if len(own) > CROPS:
        words = f"copies with their edges cut off were not looked for: {len(own):,} images are more than {CROPS:,}"
    else:
        for i, k, r in _cut_copies(grey, yardstick, close):
            a, b = sorted((int(own[i]), int(own[k])))
            if (a, b) not in taken:
                taken.add((a, b))
                pairs.append(Pair(a, b, "cut", r))
    return sorted(pairs, key=lambda p: (p.first, p.second)), words


def groups(pairs: list[Pair], count: int) -> Tensor:
    """A number for each of `count` images, long `[N]`, the same for images that pairs join: the smallest place."""
    root = list(range(count))

    def top(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    for pair in pairs:
        a, b = sorted((top(pair.first), top(pair.second)))
        root[b] = a
    return torch.tensor([top(i) for i in range(count)], dtype=torch.long)


def small_copy(image: Image.Image) -> Image.Image:
    """The whole image at 64 px, whatever its shape, in colour."""
    box = max(image.size) > 4 * SIDE
    return image.convert("RGB").resize((SIDE, SIDE), Image.Resampling.BOX if box else Image.Resampling.BILINEAR)


def grey_of(small: Image.Image) -> Tensor:
    """Grey values of a small copy, `[64, 64]` in [0, 1]."""
    return torch.from_numpy(np.asarray(small.convert("L"), dtype=np.float32) / 255)


def _exact(keys: list[bytes]) -> list[Pair]:
    first: dict[bytes, int] = {}
    pairs = []
    for i, key in enumerate(keys):
        if key and first.setdefault(key, i) != i:
            pairs.append(Pair(first[key], i, "exact", 1.0))
    return pairs


def _neighbours(unit: Tensor) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
    """Of unit vectors `[N, D]`: (similarity, place) of the five nearest of each, and 1 - that of the fifth, `[N]`."""
    most = min(NEIGHBOURS, len(unit) - 1)
    nearest, far = [], []
    for start in range(0, len(unit), ROWS):
        similar = unit[start : start + ROWS] @ unit.T
        similar[torch.arange(len(similar)), torch.arange(start, start + len(similar))] = -2
        values, places = similar.topk(most, dim=1)
        nearest += list(zip(values, places, strict=True))
        far.append(1 - values[:, -1])
    # Fewer than five others are no yardstick: what two unrelated pictures differ by, about, stands for it.
    return nearest, torch.cat(far) if most == NEIGHBOURS else torch.full((len(unit),), 0.5)


def _cut_copies(grey: Tensor, yardstick: Tensor, close: float) -> list[tuple[int, int, float]]:
    """(image, image that is a window of it, correlation)."""
    spans = torch.tensor([
        (s, (2 * i / (PLACES - 1) - 1) * (1 - s), (2 * j / (PLACES - 1) - 1) * (1 - s))
        for s in SCALES for i in range(PLACES) for j in range(PLACES)
    ])  # fmt: skip
    coarse, most = _coarse(grey, None), min(NEIGHBOURS, len(grey) - 1)
    images, windows, others = [], [], []
    for start in range(0, len(grey), ROWS):
        part = grey[start : start + ROWS]
        best = torch.full((len(part), len(grey)), -1.0)
        which = torch.zeros((len(part), len(grey)), dtype=torch.uint8)
        for number, span in enumerate(spans):
            similar = _coarse(part, span) @ coarse.T
            better = similar > best
            best[better], which[better] = similar[better], number
        best[torch.arange(len(part)), torch.arange(start, start + len(part))] = -2
        values, places = best.topk(most, dim=1)
        # Worth a closer look where one stands out from the others, or there are none to stand out from.
        stands_out = 1 - values[:, 0] <= 0.5 * (1 - values[:, -1]).clamp(min=FLOOR)
        out = (values[:, 0] > 0.7) & (stands_out | (most < NEIGHBOURS))
        rows = out.nonzero()[:, 0]
        images.append(rows + start)
        others.append(places[rows, 0])
        windows.append(spans[which[rows, places[rows, 0]].long()])
    image, other = torch.cat(images), torch.cat(others)
    reached = _refined(grey[image], grey[other], torch.cat(windows)) if len(image) else torch.zeros(0)
    far = torch.minimum(yardstick[image], yardstick[other]).clamp(min=FLOOR)
    copies = (reached >= ALIKE) & (1 - reached <= close * far)
    return list(zip(image[copies].tolist(), other[copies].tolist(), reached[copies].tolist(), strict=True))


def _refined(images: Tensor, parts: Tensor, spans: Tensor) -> Tensor:
    """Correlation `[M]` of each part with the window of its image that fits best, near the one to start from.

    The window is chosen by middle frequencies, which tell best how two pictures lie on each other.
    """
    fine, step = unit(blurred(parts, 1) - blurred(parts, 4)), 0.035
    moves = torch.cartesian_prod(*[torch.tensor([-1.0, 0.0, 1.0])] * 3)
    for _ in range(4):
        best, at = torch.full((len(images),), -2.0), spans
        for move in moves:
            tried = spans + step * move
            tried[:, 0] = tried[:, 0].clamp(0.6, 1)
            room = 1.02 - tried[:, :1]
            tried[:, 1:] = torch.minimum(torch.maximum(tried[:, 1:], -room), room)
            shown = _windows(images, tried)
            reached = (unit(blurred(shown, 1) - blurred(shown, 4)) * fine).sum(-1)
            better = reached > best
            best, at = torch.where(better, reached, best), torch.where(better[:, None], tried, at)
        spans, step = at, step / 1.9
    return (_whole(_windows(images, spans)) * _whole(parts)).sum(-1)


def _whole(grey: Tensor) -> Tensor:
    return unit(blurred(grey, 1))


def _coarse(grey: Tensor, span: Tensor | None) -> Tensor:
    """Unit vectors `[N, 256]` of low frequencies, of the whole image or of a window (size, down, right)."""
    down = across = torch.eye(SIDE)
    if span is not None:
        down, across = _resampling(span[0], span[1]), _resampling(span[0], span[2])
    pool = torch.kron(torch.eye(16), torch.full((1, SIDE // 16), 16 / SIDE))

    def at(sigma: float) -> Tensor:
        return pool @ _blur(sigma) @ down @ grey @ (pool @ _blur(sigma) @ across).T

    return unit(at(2) - at(8))


def _windows(grey: Tensor, spans: Tensor) -> Tensor:
    down, across = _resampling(spans[:, 0], spans[:, 1]), _resampling(spans[:, 0], spans[:, 2])
    return down @ grey @ across.transpose(-1, -2)


def _resampling(size: Tensor, shift: Tensor) -> Tensor:
    """Matrices `[..., 64, 64]` that stretch a window over the whole side; positions in [-1, 1], by the nearest two."""
    places = (torch.arange(SIDE) + 0.5) / SIDE * 2 - 1
    at = ((places * size[..., None] + shift[..., None] + 1) * SIDE / 2 - 0.5).clamp(0, SIDE - 1)
    return (1 - (at[..., None] - torch.arange(SIDE)).abs()).clamp(min=0)


def blurred(grey: Tensor, sigma: float) -> Tensor:
    """Images `[..., 64, 64]` under a Gaussian of `sigma` px, which sums to 1 at the edges too."""
    return _blur(sigma) @ grey @ _blur(sigma).T


def _blur(sigma: float) -> Tensor:
    """A Gaussian as a matrix `[64, 64]` along one side, which sums to 1 at the edges too."""
    apart = (torch.arange(SIDE)[:, None] - torch.arange(SIDE)).float()
    weights = torch.exp(-apart.square() / (2 * sigma**2))
    return weights / weights.sum(1, keepdim=True)


def unit(images: Tensor) -> Tensor:
    """Images `[..., H, W]` as vectors `[..., H W]` of mean 0 and length 1: their products are correlations."""
    flat = images.flatten(-2)
    flat = flat - flat.mean(-1, keepdim=True)
    return flat / flat.norm(dim=-1, keepdim=True).clamp(min=1e-4)

"""Two rates of stability: answers that flip under changes nobody sees, and answers kept after the object is destroyed.

Both come from the images themselves, changed a little or beyond recognition; nothing is trained, and no label is used.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kedge.binomial import exact_interval
from kedge.catalog import Info
from kedge.data.corruptions.jpeg_compression import jpeg_compression
from kedge.metrics._bootstrap import percentile_interval, resamples
from kedge.metrics._results import Estimate
from kedge.metrics._summary import FEWEST
from kedge.seeds import generator

info = Info(
    "AES Systems Are Both Overstable And Oversensitive: Explaining Why And Proposing Defenses", "Kumar et al.", "arXiv",
    2021, "https://arxiv.org/abs/2109.11728", "abstract",
)  # fmt: skip
CONFIDENT = 0.9  # an answer that is kept at this confidence or above
SMALLEST = 4  # pixels of the shorter side, below which there is nothing to shuffle or to erase
SEEN = 28  # pixels of the shorter side, below which a change of one pixel can be seen
UNSEEN, DESTROYED = "unseen", "destroyed"


@dataclass(frozen=True)
class Change:
    """One change of images.

    Attributes:
        name, title: in results, and for people.
        kind: "unseen", a change that nobody sees, or "destroyed", after which the object is gone.
        make: (images `[B, C, H, W]` in [0, 1], their positions `[B]`, seed) -> images.
    """

    name: str
    title: str
    kind: str
    make: Callable[[Tensor, Tensor, int], Tensor]


def shifted(images: Tensor, positions: Tensor, seed: int) -> Tensor:
    """Moved by one pixel, each image up, down, left or right as drawn by its position; the border is repeated."""
    moved = torch.stack([_rolled(images, dim, step) for dim in (2, 3) for step in (1, -1)])
    which = _drawn(positions, seed, "shift", lambda g: torch.randint(4, (), generator=g))
    return moved[which.to(images.device), torch.arange(len(images), device=images.device)]


def _rolled(images: Tensor, dim: int, step: int) -> Tensor:
    size = images.shape[dim]
    return images.index_select(dim, (torch.arange(size, device=images.device) - step).clamp(0, size - 1))


def noisy(images: Tensor, positions: Tensor, seed: int) -> Tensor:
    """With uniform noise below one grey level of 255."""
    shape = images.shape[1:]
    noise = _drawn(positions, seed, "noise", lambda g: torch.rand(shape, generator=g) * 2 - 1)
    return (images + 0.999 / 255 * noise.to(images)).clamp(0, 1)


def recoded(images: Tensor, positions: Tensor, seed: int) -> Tensor:
    """Encoded as JPEG of quality 95 and decoded."""
    return jpeg_compression(images.clamp(0, 1), 95, positions)


def shuffled(images: Tensor, positions: Tensor, seed: int) -> Tensor:
    """Cut into 4 x 4 patches (2 x 2 below 16 px), none of which stays where it was; what is left over stays."""
    side = 4 if min(images.shape[2:]) >= 16 else 2
    high, wide = (size // side for size in images.shape[2:])
    whole = images[:, :, : high * side, : wide * side]
    patches = whole.unflatten(3, (side, wide)).unflatten(2, (side, high)).permute(0, 2, 4, 1, 3, 5).flatten(1, 2)
    order = _drawn(positions, seed, "patches", lambda g: _elsewhere(side * side, g)).to(images.device)
    mixed = patches[torch.arange(len(images), device=images.device)[:, None], order]
    mixed = mixed.unflatten(1, (side, side)).permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
    changed = images.clone()
    changed[:, :, : high * side, : wide * side] = mixed
    return changed


def erased(images: Tensor, positions: Tensor, seed: int) -> Tensor:
    """The middle, three quarters of each side, replaced by grey."""
    changed = images.clone()
    high, wide = images.shape[2:]
    top, left = round(high / 8), round(wide / 8)
    changed[:, :, top : high - top, left : wide - left] = 0.5
    return changed


def grey(images: Tensor, positions: Tensor, seed: int) -> Tensor:
    """Nothing but grey."""
    return torch.full_like(images, 0.5)


CHANGES = (
    Change("shift", "moved by one pixel", UNSEEN, shifted),
    Change("noise", "noise below one grey level", UNSEEN, noisy),
    Change("jpeg", "JPEG of quality 95", UNSEEN, recoded),
    Change("patches", "patches shuffled", DESTROYED, shuffled),
    Change("centre", "centre erased", DESTROYED, erased),
    Change("grey", "grey image", DESTROYED, grey),
)


def _drawn(positions: Tensor, seed: int, what: str, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
    """What `draw` gives for each image, by its position alone: neither batch nor device has a part in it."""
    return torch.stack([draw(generator(seed, what, position)) for position in positions.tolist()])


def _elsewhere(count: int, drawn: torch.Generator) -> Tensor:
    """A permutation that leaves nothing where it was."""
    order = torch.randperm(count, generator=drawn)
    places = torch.empty(count, dtype=torch.long)
    places[order] = order.roll(1)  # a single cycle
    return places


def check_size(shape: Sequence[int]) -> None:
    """Raise ValueError for images `[C, H, W]` too small to be destroyed."""
    if min(shape[1:]) < SMALLEST:
        raise ValueError(
            f"stability: images of {shape[1]} x {shape[2]} px are too small to be taken apart; it takes {SMALLEST} px"
        )


def rates(
    answers: Mapping[str, tuple[Tensor, Tensor]], clean: Tensor, shape: Sequence[int], n: int = 1000, seed: int = 0
) -> dict[str, Any]:
    """Both rates with intervals, and every change's own.

    "oversensitive" is the share of answers that flip, over images and the changes nobody sees; "overstable" the share
    that is kept with a confidence of 0.9 or more, over images and the ways to destroy the object. A model that always
    gives the same sure answer has 0 and 1.

    Args:
        answers: name of a change to the predicted classes and confidences `[N]`; changes may be missing.
        clean: predicted classes `[N]` of the images as they are.
        shape: `(C, H, W)` of the images, for what is to be said of small ones.
        n, seed: of the bootstrap over images.

    Returns:
        JSON: "oversensitive" and "overstable" (None where a change of its kind is missing), "confidence",
        "images", "changes" (each with name, title, kind, the share that flips or is kept as "rate", that of answers
        "kept" at any confidence, and the mean confidence), "notes".
    """
    if len(clean) == 0:
        raise ValueError("stability is of answers to images, and there are none")
    changes: list[dict[str, Any]] = []
    per_image: dict[str, list[Tensor]] = {UNSEEN: [], DESTROYED: []}
    for change in CHANGES:
        if change.name not in answers:
            continue
        predicted, confidence = answers[change.name]
        same = predicted.long() == clean.long()
        counted = ~same if change.kind == UNSEEN else same & (confidence >= CONFIDENT)
        per_image[change.kind].append(counted.double())
        changes.append(
            {
                "name": change.name,
                "title": change.title,
                "kind": change.kind,
                "rate": _share(counted),
                "kept": _share(same),
                "mean_confidence": float(confidence.double().mean()),
            }
        )
    wanted = {kind: sum(change.kind == kind for change in CHANGES) for kind in per_image}
    over = {
        kind: _mean(torch.stack(own).mean(0), n, seed) if len(own) == wanted[kind] else None
        for kind, own in per_image.items()
    }
    return {
        "oversensitive": over[UNSEEN],
        "overstable": over[DESTROYED],
        "confidence": CONFIDENT,
        "images": len(clean),
        "changes": changes,
        "notes": list(_notes(clean, shape)),
    }


def _share(column: Tensor) -> dict[str, Any]:
    count = int(column.sum())
    return Estimate(count / len(column), *exact_interval(count, len(column))).to_json()


def _mean(per_image: Tensor, n: int, seed: int) -> dict[str, Any]:
    """The mean over images with percentiles of the bootstrap: changes of one image hang together, images do not."""
    size, value = len(per_image), float(per_image.mean())
    if n == 0 or size < FEWEST:
        return Estimate(value).to_json()
    draws = torch.cat([weights.double() @ per_image / size for weights in resamples(size, n, seed)])
    low, high = percentile_interval(draws, value, size)
    return Estimate(value, max(0.0, low), min(1.0, high)).to_json()


def _notes(clean: Tensor, shape: Sequence[int]) -> Iterator[str]:
    if min(shape[1:]) < SEEN:
        yield (
            f"on images of {shape[1]} x {shape[2]} px a shift of one pixel and the blocks of JPEG can be seen: not "
            "every flipped answer is the model's fault"
        )
    if len(clean.unique()) == 1:
        yield "every image gets the same answer, which no change can flip: both rates say nothing but that"
    if len(clean) < FEWEST:
        yield f"{len(clean)} image{'s are' if len(clean) > 1 else ' is'} too few for intervals of the two rates"

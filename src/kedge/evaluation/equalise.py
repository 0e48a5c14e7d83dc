"""Whether two sets can be told apart by how their files were made, and one step for both that hides it.

A detector of strange images may have learnt to see JPEG blocks, or the blur of enlargement, where one set was
compressed or enlarged and the other was not. `difference` says so; `equalise` passes both sides through the same step.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kedge.data import ImageSet
from kedge.data.corruptions.jpeg_compression import jpeg_compression
from kedge.evaluation.inputs import convert

_SHRUNK = 2.0  # from this factor on, shrinking averages the traces of JPEG away
_ENLARGED = 1.05  # from this factor on, enlarging shows
_UNLIKE = 1.25  # ratio from which on two enlargements differ
_SHARE = 0.3  # of the files: sets whose shares of lossy files differ by less count as alike
_QUALITY_GAP = 10
_UNKNOWN_QUALITY = 75  # of lossy files that are not JPEG


@dataclass(frozen=True)
class Step:
    """What all images go through, whichever set they are from.

    Attributes:
        size: shorter side in pixels that they are resized to first; None for none.
        quality: 1 to 100, of the JPEG that they are encoded as there and decoded from; None for none.
    """

    size: int | None = None
    quality: int | None = None

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise ValueError(f"size must be 1 pixel or more, got {self.size}")
        if self.quality is not None and not 1 <= self.quality <= 100:
            raise ValueError(f"the quality of a JPEG is 1 to 100, got {self.quality}")

    def words(self, shape: tuple[int, ...]) -> str:
        """For the report; `shape` (C, H, W) is what the model takes."""
        height, width = _inner(shape, self.size)
        parts = [] if (height, width) == tuple(shape[1:]) else [f"resized to {height}×{width}"]
        if self.quality is not None:
            chroma = ", chroma at half resolution" if shape[0] == 3 else ""
            parts.append(f"encoded as JPEG of quality {self.quality}{chroma} and decoded")
        parts.append(f"resized to {shape[1]}×{shape[2]}")
        return f"every image, of the data and of the other sets alike, {', '.join(parts)}"


def equalise(images: Tensor, shape: tuple[int, ...], how: Step) -> Tensor:
    """Bring float images `[B, C, H, W]` in [0, 1] to `shape` (C, H, W) through the step `how`.

    Channels and size are converted as by `convert`; the JPEG is made by the codec itself, on the CPU. The result is on
    the device of `images`. Hand over images in their own size where that is smaller than the model's: the blur of an
    earlier enlargement stays.
    """
    images = convert(images, (shape[0], *_inner(shape, how.size)))
    if how.quality is not None:
        images = jpeg_compression(images.clamp(0, 1), how.quality, torch.arange(len(images)))  # draws nothing by place
    return convert(images, shape)


def common_step(inside: ImageSet, outside: Sequence[ImageSet], shape: tuple[int, ...] | None = None) -> Step:
    """The mildest step after which `inside` and all of `outside` have the same history.

    Resized to the smallest original size among the sets (not below half of what the model takes, for the sake of a
    stray tiny image), and, where files of a set still show their compression at that size, encoded as JPEG of the
    lowest quality among those sets.
    """
    shape = inside.image_shape if shape is None else shape
    final = min(shape[1:])
    sets = [inside, *outside]
    sides = [side for side in map(_smallest_side, sets) if side is not None]
    size = max(min([*sides, final]), -(-final // 2))
    lossy = [images for images in sets if _traces(images, size)]
    quality = min((images.origin.jpeg_quality or _UNKNOWN_QUALITY for images in lossy), default=None)
    return Step(None if size == final else size, quality)


def difference(inside: ImageSet, outside: ImageSet, shape: tuple[int, ...] | None = None) -> str | None:
    """How a detector could tell the two sets apart without looking at what they show, in words; None if not so.

    Files of a lossy format that keep their size (or lose less than half of it) show their compression, and enlarged
    images lack fine detail; sets that differ in either, or in the quality of their JPEG, are warned of. `shape`
    (C, H, W) is what the model takes, by default the shape of `inside`.
    """
    shape = inside.image_shape if shape is None else shape
    final = min(shape[1:])
    reasons = [w for w in (_format_words(inside, outside, final), _size_words(inside, outside, final)) if w]
    if not reasons:
        return None
    return (
        f"{'; '.join(reasons)}: a detector can tell these sets apart without looking at what they show (--equalise, "
        "equalise=True, passes both through the same steps)"
    )


def _format_words(inside: ImageSet, outside: ImageSet, final: int) -> str | None:
    ours, theirs = _traces(inside, final), _traces(outside, final)
    if abs((ours or 0.0) - (theirs or 0.0)) >= _SHARE:
        return f"{_history(inside, ours)}, {_history(outside, theirs)}"
    one, other = inside.origin.jpeg_quality, outside.origin.jpeg_quality
    if ours and theirs and one and other and abs(one - other) >= _QUALITY_GAP:
        return f"{inside.name} is JPEG of quality {one}, {outside.name} of quality {other}, both near their final size"
    return None


def _history(images: ImageSet, traces: float | None) -> str:
    if traces is None:
        return f"{images.name} came as arrays, whose past is not known"
    if traces:
        return f"{images.name} was compressed at nearly its final size ({images.origin.words()})"
    lossless = "lossless" if not images.origin.lossy else "shrunk after compression"
    return f"{images.name} is {lossless} ({images.origin.words()})"


def _size_words(inside: ImageSet, outside: ImageSet, final: int) -> str | None:
    ours, theirs = _enlargement(inside, final), _enlargement(outside, final)
    alike = (ours > _ENLARGED) == (theirs > _ENLARGED)
    if alike and max(ours, theirs) / min(ours, theirs) < _UNLIKE:
        return None
    return ", ".join(_enlarged_words(images, final, by) for images, by in ((inside, ours), (outside, theirs)))


def _enlarged_words(images: ImageSet, final: int, by: float) -> str:
    if by <= _ENLARGED or images.origin.sizes is None:
        return f"{images.name} is not enlarged"
    smallest, largest = images.origin.sizes
    often = "" if smallest == largest else "some of "
    return f"{often}{images.name} is enlarged ({min(smallest)} to {final} px)"


def _traces(images: ImageSet, final: int) -> float | None:
    """The share of images that show their compression at `final` pixels; None where nothing is known."""
    lossy, side = images.origin.lossy, _smallest_side(images)
    if lossy is None or side is None:
        return None
    return lossy if side < _SHRUNK * final else 0.0


def _enlargement(images: ImageSet, final: int) -> float:
    side = _smallest_side(images)
    return 1.0 if side is None else max(1.0, final / side)


def _smallest_side(images: ImageSet) -> int | None:
    return None if images.origin.sizes is None else min(images.origin.sizes[0])


def _inner(shape: tuple[int, ...], size: int | None) -> tuple[int, int]:
    """(height, width) whose shorter side is `size`, in the proportions of `shape`."""
    height, width = shape[1:]
    if size is None or size >= min(height, width):
        return height, width
    return max(1, round(height * size / min(height, width))), max(1, round(width * size / min(height, width)))

"""Draw references: a derangement of a batch in training, a chosen bank for prediction."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kedge.anchoring.stem import at_least_float32
from kedge.checks import unit_images, whole_labels

WAYS = ("random", "stratified", "kcenter", "mean", "class-mean")
# k-centre looks at no more candidates than this: its cost is candidates * k * pixels.
CANDIDATES = 5000
# Differences between images held at a time (512 KB in float32).
HELD = 2**17


def derangement(n: int, generator: torch.Generator | None = None, device: Any = None) -> Tensor:
    """A random permutation `[n]` without a fixed point, drawn as one random cycle; needs n >= 2.

    Each image gets every other image of the batch with equal probability, and none gets itself: a residual of
    zero would teach nothing.
    """
    if n < 2:
        raise ValueError(f"a derangement needs at least 2 elements, got {n}")
    order = torch.randperm(n, generator=generator, device=generator.device if generator else "cpu").to(device)
    partner = torch.empty_like(order)
    partner[order] = order.roll(1)
    return partner


def choose_references(dataset: Any, k: int, how: str = "stratified", seed: int = 0) -> Tensor:
    """Choose a bank of k references `[k, C, H, W]`, float in [0, 1], from a data set of (image, label).

    Args:
        dataset: anything with a length and items (image, label), or images alone as a tensor `[N, C, H, W]`;
            images are tensors (uint8, or float in [0, 1]) or PIL images, all of one size.
        k: how many.
        how: "random": any images; what the authors evaluate with.
            "stratified": equal numbers of each class, drawn in turn; the default, as few references then cover
            the classes whatever their shares.
            "kcenter": images far from each other (greedy k-centre on pixels, among at most 5,000 candidates); for
            references that disagree as much as the data allows, which sharpens uncertainty.
            "mean": means of k groups of images, cut along the classes; the bank then holds no single photograph.
            "class-mean": of each class its mean, of a k above their number means of parts of each; no photograph.
        seed: the same seed gives the same bank.

    Raises:
        ValueError: for an unknown `how`, a k the set cannot serve, or images of different sizes.
    """
    if how not in WAYS:
        raise ValueError(f"how must be one of {WAYS}, got {how!r}")
    if not 1 <= k <= len(dataset):
        raise ValueError(f"k must be between 1 and the {len(dataset)} images of the set, got {k}")
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(dataset), generator=generator)
    if how == "random":
        return _first_images(dataset, order, k)
    if how == "kcenter":
        images = _first_images(dataset, order, min(CANDIDATES, len(order)), k)
        return images[_k_centre(images.flatten(1), k)]
    labels = _labels(dataset)[order]
    if how == "stratified":
        return _first_images(dataset, order[_in_turn(labels)], k)
    by_class = order[torch.argsort(labels, stable=True)]
    groups = by_class.tensor_split(k) if how == "mean" else _parts_of_classes(by_class, labels, k)
    if alone := sum(len(group) < 2 for group in groups):
        raise ValueError(
            f"{how} references are means of images, and {alone} of {k} would be one image alone: take fewer of them"
        )
    return torch.stack([_mean_image(dataset, group) for group in groups])


def choose_residuals(dataset: Any, references: Tensor, m: int, seed: int = 0) -> Tensor:
    """Draw m residuals x - r `[m, C, H, W]` between images of `dataset` and the bank, for `references="blt"`."""
    generator = torch.Generator().manual_seed(seed)
    if not 1 <= m <= len(dataset):
        raise ValueError(f"m must be between 1 and the {len(dataset)} images of the set, got {m}")
    images = _first_images(dataset, torch.randperm(len(dataset), generator=generator), m)
    if images.shape[1:] != references.shape[1:]:
        raise ValueError(
            f"the images of the set are {list(images.shape[1:])} and the references {list(references.shape[1:])}; "
            "load the set with image_size= of the model"
        )
    partner = torch.randint(len(references), (m,), generator=generator)
    return images - references.detach().cpu().float()[partner]


def blurred(references: Tensor, side: int) -> Tensor:
    """References `[K, C, H, W]` averaged over boxes of `side` pixels, odd; 0: as they are."""
    if not side:
        return references
    if references.ndim != 4:
        raise ValueError(f"blur is of images [B, C, H, W], got {list(references.shape)}")
    return F.avg_pool2d(references, side, 1, side // 2, count_include_pad=False)


def resized(images: Tensor, size: Sequence[int]) -> Tensor:
    """Images `[K, C, *size]`, linearly interpolated (in float32 or better); as they are if they fit."""
    if tuple(images.shape[2:]) == tuple(size):
        return images
    mode = ("linear", "bilinear", "trilinear")[len(size) - 1]
    # Linear weights keep the range of what they average.
    return F.interpolate(images.to(at_least_float32(images)), tuple(size), mode=mode, antialias=mode == "bilinear")


def _in_turn(labels: Tensor) -> Tensor:
    """Positions that take the classes in turn: the first of each class, then the second of each, ..."""
    by_class = torch.argsort(labels, stable=True)
    counts = torch.bincount(labels[by_class] - labels.min())
    counts = counts[counts > 0]
    turn = torch.cat([torch.arange(int(n)) for n in counts])
    return by_class[torch.argsort(turn, stable=True)]


def _parts_of_classes(by_class: Tensor, labels: Tensor, k: int) -> list[Tensor]:
    """k groups of places, each of one class, the first of every class before the second of any."""
    members = by_class.split([n for n in torch.bincount(labels - labels.min()).tolist() if n])
    if k < len(members):
        raise ValueError(
            f"class-mean references are one of each class or more, and {len(members)} classes do not fit into k={k}: "
            'take more, or "mean"'
        )
    parts = [own.tensor_split(k // len(members) + (c < k % len(members))) for c, own in enumerate(members)]
    return [own[i] for i in range(len(parts[0])) for own in parts if i < len(own)]


def _k_centre(points: Tensor, k: int) -> list[int]:
    """Greedy k-centre: start at the point nearest the mean, then always take the point farthest from those chosen."""
    chosen = [int(_squared_distances(points, points.mean(0)).argmin())]
    distance = _squared_distances(points, points[chosen[0]])
    while len(chosen) < min(k, len(points)):
        chosen.append(int(distance.argmax()))
        distance = torch.minimum(distance, _squared_distances(points, points[chosen[-1]]))
    if len(chosen) < k:
        raise ValueError(f"kcenter chooses among at most {CANDIDATES} images, got k={k}")
    return chosen


def _squared_distances(points: Tensor, point: Tensor) -> Tensor:
    """`[N]` of points `[N, D]` to one `[D]`."""
    # In parts that stay in the cache: the differences of all points at once take ten times as long.
    parts = points.split(max(1, HELD // points.shape[1]))
    return torch.cat([(part - point).square_().sum(1) for part in parts])


def _labels(dataset: Any) -> Tensor:
    for name in ("labels", "targets"):
        labels = getattr(dataset, name, None)
        if labels is not None and len(labels) == len(dataset):
            return whole_labels(labels, "the set")
    if isinstance(dataset, Tensor):
        return torch.zeros(len(dataset), dtype=torch.long)
    return whole_labels([dataset[i][1] for i in range(len(dataset))], "the set")


def stack_images(dataset: Any, indices: Tensor) -> Tensor:
    """The images of `dataset` at `indices` as one float tensor `[n, C, H, W]` in [0, 1]; ValueError if sizes differ."""
    return _stacked([_image(dataset, int(i)) for i in indices])


def _first_images(dataset: Any, indices: Tensor, count: int, least: int | None = None) -> Tensor:
    """The first `count` images at `indices` that can be read, as `stack_images`; those that cannot are passed over.

    Raises:
        UnreadableImage: fewer than `least` (default `count`) can be read.
    """
    images: list[Tensor] = []
    wrong: ValueError | None = None
    for i in indices.tolist():
        if len(images) == count:
            break
        try:
            images.append(_image(dataset, i))
        except ValueError as error:
            from kedge.data.report import UnreadableImage  # not before it is needed: it comes with PIL

            if not isinstance(error, UnreadableImage):
                raise
            wrong = wrong or error
    if wrong is not None and len(images) < (count if least is None else least):
        raise wrong
    return _stacked(images)


def _stacked(images: list[Tensor]) -> Tensor:
    shapes = {tuple(image.shape) for image in images}
    if len(shapes) > 1:
        some = " and ".join(str(list(shape)) for shape in sorted(shapes)[:2])
        raise ValueError(f"references must have one size, got images of {some}; resize the set first")
    stacked = torch.stack(images)
    # Not >, so that NaN is refused.
    if stacked.ndim == 4 and not bool((stacked.amax() <= 1 + 1e-3) & (stacked.amin() >= -1e-3)):
        raise ValueError(
            f"images of the set must be uint8 or float in [0, 1], got [{stacked.min():.3g}, {stacked.max():.3g}]"
        )
    return stacked


def _mean_image(dataset: Any, indices: Tensor) -> Tensor:
    chunks = [_first_images(dataset, chunk, len(chunk), 0) for chunk in indices.split(256)]
    return torch.stack([images.sum(0) for images in chunks]).sum(0) / sum(len(images) for images in chunks)


def _image(dataset: Any, index: int) -> Tensor:
    item = dataset[index]
    image = item[0] if isinstance(item, tuple | list) else item
    if isinstance(image, dict):
        raise TypeError(
            f"items must be (image, label), got a dict with {sorted(image)}; wrap the set, or kedge.data.load it"
        )
    if not isinstance(image, Tensor):
        import numpy as np

        if str(getattr(image, "mode", "")).startswith("P"):
            raise ValueError(
                'a PIL image of the set is of mode "P", places in a palette and no colours: use image.convert("RGB"), '
                "or kedge.data.load the set"
            )
        deep = str(getattr(image, "mode", "")).startswith("I;16")
        array = torch.as_tensor(np.asarray(image) / np.float32(65535) if deep else np.asarray(image).copy())
        image = array[None] if array.ndim == 2 else array.permute(2, 0, 1) if array.ndim == 3 else array
    return image.float() if image.is_floating_point() else unit_images(image, "images of the set")

"""A few synthetic images in place of many: of each class random networks see the same mean features in both."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from kedge.data.report import DataError
from kedge.data.sets import ImageSet, TensorSet, check_set
from kedge.seeds import generator

__all__ = ["BEGIN", "distilled", "feature_distance"]

BEGIN = ("means", "photos", "noise")
BATCH = 64  # photos of a class in a step
WIDTH, DEPTH, SMALLEST = 64, 3, 4  # channels and most layers of a random network; a layer halves what is no smaller
RATE = 0.02  # of Adam, of pixels in [0, 1]; it falls to 0


def distilled(images: ImageSet, each: int = 1, seed: int = 0, steps: int = 200, begin: str = "means") -> TensorSet:
    """Return `each` synthetic images of every class, made so that random networks see in them what they see in all.

    In every step a fresh random network f (3x3 convolutions, instance normalisation, ReLU, halving) looks at up to 64
    photos of each class and at the synthetic images S_c, and the pixels descend

        sum over classes c of | mean f(photos of c) - mean f(S_c) |²

    and stay in [0, 1]. No network is trained. The images stand class by class, in the order of the class names. As a
    training set they keep part of the accuracy of all images; as references, `kedge.anchoring.choose_references` takes
    them like any set. With "means" or "noise" none of them begins as a photo, which is no promise that nothing of a
    photo can be made out in them.

    Args:
        images: a set in memory, with images of every class; with "means" two for each that is wanted.
        each: how many of every class.
        seed: the same seed gives the same images.
        steps: 0 leaves the images that they begin as.
        begin: "means" of parts of the class, "photos" of it, or "noise".

    Raises:
        ValueError: for a value out of range; for a class with too few images; for images below 4 px.
        DataError: for a set that is not in memory.

    Source: distribution matching, Zhao and Bilen, WACV 2023 (arXiv 2110.04181), as in its code, without augmentation.
        Our reading: Adam in place of SGD, so that one rate suits all sizes, fewer channels, and the three beginnings.
    """
    whole = _in_memory(images)
    for name, value, least in (("each", each, 1), ("steps", steps, 0)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name} must be a whole number of {least} or more, got {value!r}")
    if begin not in BEGIN:
        raise ValueError(f"distilled images begin as {', '.join(BEGIN)}, not {begin!r}")
    places = _by_class(whole, each, begin)
    photos, draws = whole.images.float() / 255, generator(seed, "distilled")
    labels = torch.arange(len(places)).repeat_interleave(each)
    pixels = _beginning(photos, places, each, begin, draws).requires_grad_()
    mean, std = _statistics(photos)
    optimizer = torch.optim.Adam([pixels], lr=RATE)
    for step in range(steps):
        network = _random_network(whole.image_shape, draws)
        drawn = [own[torch.randperm(len(own), generator=draws)[:BATCH]] for own in places]
        seen = torch.arange(len(places)).repeat_interleave(torch.tensor([len(own) for own in drawn]))
        with torch.no_grad():
            target = _class_means(_features((photos[torch.cat(drawn)] - mean) / std, network), seen)
        optimizer.param_groups[0]["lr"] = RATE * (1 - step / steps)
        optimizer.zero_grad()
        loss = (_class_means(_features((pixels - mean) / std, network), labels) - target).square().sum()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            pixels.clamp_(0, 1)
    result = TensorSet(
        (pixels.detach() * 255).round().to(torch.uint8),
        labels,
        whole.class_names,
        f"{whole.name} (distilled)",
        whole.split,
    )
    result.mirror = whole.mirror
    return result


def feature_distance(images: ImageSet, others: ImageSet, networks: int = 10, seed: int = 0) -> float:
    """How far two sets of the same classes are apart for random networks: what `distilled` makes small, 0 or more.

    The squared distance of the mean features of a class, summed over features, mean over classes and `networks`. It is
    0 for the same images.

    Raises:
        ValueError: for other classes, images of another shape or below 4 px, a class without images.
        DataError: for a set that is not in memory.
    """
    first, second = _in_memory(images), _in_memory(others)
    if first.class_names != second.class_names or first.image_shape != second.image_shape:
        raise ValueError(
            f"{first.name} and {second.name} must have the same classes in the same order and images of one shape"
        )
    for each in (first, second):
        _by_class(each, 1, "photos")
    mean, std = _statistics(first.images.float() / 255)
    draws, total = generator(seed, "feature distance"), 0.0
    with torch.no_grad():
        for _ in range(networks):
            network = _random_network(first.image_shape, draws)
            one, other = (
                _class_means(_features((each.images.float() / 255 - mean) / std, network), each.labels)
                for each in (first, second)
            )
            total += float((one - other).square().sum(1).mean())
    return total / networks


def _in_memory(images: ImageSet) -> TensorSet:
    check_set(images, "the images to distil")
    if not isinstance(images, TensorSet):
        raise DataError(
            f"{images.name} is not in memory, and only such sets are distilled: load files with a smaller image_size"
        )
    if min(images.image_shape[1:]) < SMALLEST:
        shape = "x".join(map(str, images.image_shape))
        raise ValueError(f"images to distil have {SMALLEST} px a side or more, those of {images.name} are {shape}")
    return images


def _by_class(images: TensorSet, each: int, begin: str) -> list[Tensor]:
    """The places of the images of each class; ValueError where they are too few."""
    places = [(images.labels == c).nonzero().squeeze(1) for c in range(len(images.class_names))]
    least = {"means": 2 * each, "photos": each, "noise": 1}[begin]
    if not places:
        raise ValueError(f"{images.name} has no classes, and images are distilled class by class")
    for name, own in zip(images.class_names, places, strict=True):
        if not len(own):
            raise ValueError(f"{images.name} has no image of class {name}: only_classes leaves such classes out")
        if len(own) < least:
            why = "; a mean of one would be that photo" if begin == "means" else ""
            raise ValueError(
                f"class {name} of {images.name} has {len(own)} images, {each} that begin as {begin} need {least}{why}"
            )
    return places


def _beginning(photos: Tensor, places: list[Tensor], each: int, begin: str, draws: torch.Generator) -> Tensor:
    if begin == "noise":
        return torch.rand(len(places) * each, *photos.shape[1:], generator=draws)
    mixed = [own[torch.randperm(len(own), generator=draws)] for own in places]
    if begin == "photos":
        return photos[torch.cat([own[:each] for own in mixed])]
    return torch.stack([photos[part].mean(0) for own in mixed for part in own.tensor_split(each)])


def _statistics(photos: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each channel `[C, 1, 1]`; images that are all alike keep their scale."""
    std = photos.std((0, 2, 3), correction=0)
    return photos.mean((0, 2, 3))[:, None, None], torch.where(std > 0, std, 1.0)[:, None, None]


def _random_network(shape: tuple[int, int, int], draws: torch.Generator) -> list[Tensor]:
    """Weights of layers, as many as halve images of this shape and leave two pixels a side, three at most."""
    channels, side = shape[0], min(shape[1:])
    depth = min(DEPTH, side.bit_length() - 2)
    widths = [channels, *[WIDTH] * depth]
    # The scale is for the first layer's sake alone, as the normalisation takes it out again.
    return [torch.randn(wide, narrow, 3, 3, generator=draws) / (9 * narrow) ** 0.5 for narrow, wide in pairwise(widths)]


def _features(images: Tensor, network: list[Tensor]) -> Tensor:
    """`[N, F]`."""
    for weight in network:
        images = F.avg_pool2d(F.instance_norm(F.conv2d(images, weight, padding=1)).relu(), 2)
    return images.flatten(1)


def _class_means(features: Tensor, labels: Tensor) -> Tensor:
    """`[C, F]` of `[N, F]`, by a product, which adds up in the same order every time."""
    shares = F.one_hot(labels).T.to(features.dtype)
    return shares @ features / shares.sum(1, keepdim=True)

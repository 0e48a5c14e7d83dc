"""Sets made without labels of one's own: images labelled by a model, sets joined, and quarter turns to tell apart."""

from typing import Any

import torch

from kedge.checks import unlike_classes
from kedge.data.report import DataError
from kedge.data.sets import ImageSet, TensorSet, check_set

__all__ = ["TURNS", "joined", "pseudo_labelled", "rotated"]

TURNS = ("0°", "90°", "180°", "270°")


def pseudo_labelled(model: Any, images: ImageSet, batch_size: int = 256, workers: int = 0) -> ImageSet:
    """Return the same images with the classes that a model answers, without augmentation, once, for `joined`.

    Every image gets its most likely class, however unsure the model is: the labels that the images have, if they have
    any, count for nothing. The name of the set says that its labels are a model's.
    Source: Yang and Xu, "Rethinking the Value of Labels for Improving Class-Imbalanced Learning", NeurIPS 2020 (arXiv
    2006.07529), as in its code.

    Args:
        model: of kedge, with names of its classes. It answers as it predicts: in eval mode, with all its references.
        images: in the shape that the model takes.

    Raises:
        ValueError: for a model that is no classifier or does not know what its classes are called, images of another
            shape, none at all.
    """
    check_set(images, "the unlabelled images")
    if getattr(model, "task", None) != "classification" or not model.class_names:
        raise ValueError("labels come from a classifier of kedge that knows what its classes are called (class_names)")
    if tuple(model.input_shape) != tuple(images.image_shape):
        wants, has = ("x".join(map(str, shape)) for shape in (model.input_shape, images.image_shape))
        raise ValueError(f"the model takes images of {wants} (C, H, W), those of {images.name} are {has}")
    if not len(images):
        raise ValueError(f"{images.name} holds no images to label")
    device = model.mean.device
    parts = [model.predict(loaded.to(device) / 255).label.cpu() for loaded, _ in images.batches(batch_size, workers)]
    labelled = images.relabelled(torch.cat(parts).long())
    labelled.class_names = list(model.class_names)
    labelled.name = f"{images.name} (labels of a model)"
    return labelled


def joined(first: ImageSet, second: ImageSet) -> TensorSet:
    """Return the images of both sets as one in memory, those of `first` first, with its name, split and mirroring.

    Raises:
        ValueError: for other classes, or the same in another order; for images of another shape.
        DataError: for sets that are not in memory: load larger images smaller, or put the files into one folder.
    """
    for images, what in ((first, "the first set"), (second, "the second set")):
        check_set(images, what)
        if not isinstance(images, TensorSet):
            raise DataError(
                f"{images.name} is not in memory, and only such sets are joined: load it with a smaller image_size, or "
                "put the files of both into one folder"
            )
    names = (first.name, second.name)
    if (unlike := unlike_classes(first.class_names, second.class_names, names)) is not None:
        raise ValueError(f"sets of other classes cannot be one: {unlike}")
    if first.image_shape != second.image_shape:
        shapes = ["x".join(map(str, each.image_shape)) for each in (first, second)]
        raise ValueError(f"the images of {names[0]} are {shapes[0]} (C, H, W), those of {names[1]} {shapes[1]}")
    assert isinstance(first, TensorSet)
    assert isinstance(second, TensorSet)
    both = TensorSet(
        torch.cat([first.images, second.images]),
        torch.cat([first.labels, second.labels]),
        first.class_names,
        first.name,
        first.split,
    )
    both.mirror = first.mirror and second.mirror
    if first.source is not None and second.source is not None and first.source[1] == second.source[1]:
        both.source = first.source[0] + second.source[0], first.source[1]
    return both


def rotated(images: ImageSet) -> TensorSet:
    """Return each image turned by 0, 1, 2 and 3 quarter turns to the left, which are the four classes: 4 N images.

    To learn from images without labels what is up: train on this, then give the network a head for the classes
    (`kedge.adaptation.with_head`) and train on. The turns of an image stand together. `mirror` is off: a mirrored image
    turned to the left is one turned to the right.
    Source: Gidaris et al., "Unsupervised Representation Learning by Predicting Image Rotations", ICLR 2018 (arXiv
    1803.07728), as used for imbalanced classes in arXiv 2006.07529.

    Raises:
        ValueError: for images that are not square.
        DataError: for a set that is not in memory.
    """
    check_set(images, "the images to turn")
    if not isinstance(images, TensorSet):
        raise DataError(f"{images.name} is not in memory, and only such sets are turned: load it with a smaller size")
    channels, height, width = images.image_shape
    if height != width:
        raise ValueError(
            f"only square images keep their shape when turned, those of {images.name} are {height}x{width}"
        )
    turned = torch.stack([images.images.rot90(turns, (2, 3)) for turns in range(4)], 1)
    labels = torch.arange(4).repeat(len(images))
    result = TensorSet(turned.reshape(-1, channels, height, width), labels, TURNS, images.name, images.split)
    result.mirror = False
    return result

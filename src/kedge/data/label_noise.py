"""Wrong labels on purpose: how well a way of training bears them."""

import torch

from kedge.data.sets import ImageSet
from kedge.seeds import generator


def with_label_noise(images: ImageSet, share: float, seed: int) -> ImageSet:
    """Return the same images, a share of whose labels became another class, each other one equally likely.

    Symmetric noise. The images whose labels change, round(share * N) of them, and their new labels depend on the seed,
    the number of images and the labels alone.

    Args:
        images: a set of two classes or more.
        share: in [0, 1).
        seed: another seed, other images and other labels.

    Raises:
        ValueError: a share outside [0, 1), or a single class.
    """
    if not 0 <= share < 1:
        raise ValueError(f"the share of wrong labels must be 0 or more and below 1, got {share}")
    classes = len(images.class_names)
    if classes < 2:
        raise ValueError(f"{images.name} has a single class: its labels have no other class to become")
    draws = generator(seed, "label noise")
    chosen = torch.randperm(len(images), generator=draws)[: round(share * len(images))]
    step = torch.randint(1, classes, (len(chosen),), generator=draws)
    labels = images.labels.clone()
    labels[chosen] = (labels[chosen] + step) % classes
    return images.relabelled(labels)

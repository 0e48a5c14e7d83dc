"""A few images of each class, drawn by seed."""

import torch

from kedge.data import ImageSet, generator

__all__ = ["draw_shots", "parse_shots"]


def draw_shots(images: ImageSet, shots: int | None, seed: int = 0, draw: int = 0) -> ImageSet:
    """`shots` images of each class, in the order of the set; None: all of them.

    Drawn class by class from (seed, draw): more shots of one draw hold the fewer ones.

    Raises:
        ValueError: if a class has fewer images.
    """
    if shots is None:
        return images
    if shots < 1:
        raise ValueError(f"shots must be 1 or more, got {shots}")
    counts = torch.bincount(images.labels, minlength=len(images.class_names))
    if int(counts.min()) < shots:
        name, least = images.class_names[int(counts.argmin())], int(counts.min())
        raise ValueError(f"{shots} shots: class {name!r} of {images.name} has {least} images to draw from")
    chosen = []
    for label in range(len(images.class_names)):
        members = (images.labels == label).nonzero().squeeze(1)
        order = torch.randperm(len(members), generator=generator(seed, "shots", draw, label))
        chosen.append(members[order[:shots]])
    return images.subset(torch.cat(chosen).sort().values)


def parse_shots(words: list[str]) -> list[int | None]:
    """Numbers of images of each class, and None for `all`, in the order given. Raises ValueError for anything else."""
    found: list[int | None] = []
    for word in words:
        if word != "all" and not (word.isdigit() and int(word) > 0):
            raise ValueError(f"--shots are whole numbers above 0, or all, got {word!r}")
        value = None if word == "all" else int(word)
        if value not in found:
            found.append(value)
    return found

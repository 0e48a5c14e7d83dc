"""How far a linear boundary leans from the line between two class means, and how near to them it comes for that."""

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["BoundaryTilt", "boundary_tilt"]


@dataclass(frozen=True)
class BoundaryTilt:
    """Of every pair of classes, symmetric `[C, C]` with NaN on the diagonal and where a class has no image.

    Attributes:
        angle: in degrees, 0 to 180, between the weights' difference and the difference of the class means.
        distance: the mean signed distance of the two class means to the boundary, in units of the features: half the
            distance of the means times the cosine of the angle, whatever the bias is.
    """

    angle: Tensor
    distance: Tensor


def boundary_tilt(features: Tensor, labels: Tensor, weight: Tensor) -> BoundaryTilt:
    """The tilt of a linear head between each pair of classes, without an attack (Tanay and Griffin 2016).

    A boundary that leans passes close to the images of both classes although it separates them: what it takes to cross
    it grows as the cosine of the angle falls.

    Args:
        features: what the head reads `[N, D]`.
        labels: `[N]`, class indices.
        weight: of the head `[C, D]`; its bias moves the boundary and not the mean distance.

    Raises:
        ValueError: for shapes that do not fit, labels beyond the head's classes, or fewer than two classes with images.
    """
    if features.ndim != 2 or weight.ndim != 2 or features.shape[1] != weight.shape[1]:
        raise ValueError(
            f"features [N, D] and weight [C, D] share D; they are {list(features.shape)} and {list(weight.shape)}"
        )
    if labels.shape != features.shape[:1]:
        raise ValueError(f"labels are [N] for features [N, D]; they are {list(labels.shape)}, {list(features.shape)}")
    classes = len(weight)
    if labels.numel() and not (int(labels.min()) >= 0 and int(labels.max()) < classes):
        raise ValueError(
            f"the head has {classes} classes, the labels go from {int(labels.min())} to {int(labels.max())}"
        )
    features, weight = features.double(), weight.double()
    members = torch.nn.functional.one_hot(labels.long(), classes).double()
    counts = members.sum(0)
    if int((counts > 0).sum()) < 2:
        raise ValueError(f"a boundary lies between two classes; {int((counts > 0).sum())} of {classes} has images")
    means = (members.T @ features) / counts[:, None]  # a class without images is NaN, and so are its pairs
    apart, across = means[:, None] - means[None], weight[:, None] - weight[None]
    along = (apart * across).sum(2) / across.norm(dim=2)
    cosine = (along / apart.norm(dim=2)).clamp(-1, 1)
    return BoundaryTilt(angle=torch.rad2deg(torch.arccos(cosine)), distance=along / 2)

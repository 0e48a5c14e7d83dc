"""Unlabelled images in the batch of a step, and means over those whose answer masking did not take away."""

from torch import Tensor, nn

from kedge.objectives._base import Objective
from kedge.objectives._views import without_labels
from kedge.objectives.outlier_exposure import WithOutliers

__all__ = ["beside", "mean_over", "present"]


def beside(objective: Objective, model: nn.Module, images: Tensor) -> WithOutliers:
    """A view of `model` that sees the stream `unlabelled` in the batch of `images`, with the references and masks.

    Raises:
        ValueError: for unlabelled images of another shape or number, and for a model that is not in train mode.
        RuntimeError: without unlabelled images.
    """
    unlabelled = objective.stream("unlabelled", images)
    name = type(objective).__name__
    if not model.training:
        raise ValueError(f"{name} is for a model in train mode, whose step has unlabelled images too: model.train()")
    return WithOutliers(model, unlabelled)


def present(model: nn.Module, images: Tensor) -> Tensor:
    """How much each image of a step counts `[B]`: 0 where masking took away what the model could answer by, else 1."""
    masked = without_labels(model)
    return images.new_ones(len(images)) if masked is None else (~masked).to(images.dtype)


def mean_over(counts: Tensor, values: Tensor) -> Tensor:
    """The mean of `values` `[B, ...]` over the images, each counted by `counts` `[B]`; 0 where none counts."""
    shares = counts.to(values.dtype) / counts.sum().clamp(min=1).to(values.dtype)
    return (shares.view(-1, *[1] * (values.ndim - 1)) * values).sum(0)

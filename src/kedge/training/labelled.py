"""Further images whose labels an objective needs: of the training classes, and none of them trained on."""

from collections.abc import Mapping

from torch import nn

from kedge.checks import unlike_classes
from kedge.data import ImageSet
from kedge.objectives import Objective

__all__ = ["check_labelled"]


def check_labelled(objective: nn.Module, extra: Mapping[str, ImageSet], train: ImageSet) -> None:
    """Raise ValueError for further images with labels that have other classes, or that are trained on bit for bit.

    Files and images in memory cannot be compared with each other.
    """
    asking = {
        name: each for each in objective.modules() if isinstance(each, Objective) for name in each.labelled_streams
    }
    for name, each in asking.items():
        images, who = extra[name], type(each).__name__
        if (unlike := unlike_classes(train.class_names, images.class_names, ("the training set", name))) is not None:
            raise ValueError(
                f"extra: {who} reads the labels of {name}, which have to be the classes of the training images, a "
                f"folder for each: {unlike}"
            )
        if images.keys_of != train.keys_of:
            continue
        own = set(train.keys())
        if shared := sum(key in own for key in images.keys()):  # noqa: SIM118
            raise ValueError(
                f"extra: {shared:,} of the {len(images):,} images of {name} are training images too, and {who} needs "
                "some that are not trained on: move them from one folder to the other"
            )

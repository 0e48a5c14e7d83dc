"""What the name of a model leads to: a folder that `kedge.save` wrote, the run it is of, or published weights.

Imports nothing slow.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedge.files import is_locked
from kedge.own_code import near_names

if TYPE_CHECKING:
    from kedge.anchoring import PlainModel

__all__ = ["TIMM", "has_weights", "model_folder", "published", "run_of", "with_class_names"]

TIMM = "timm/"
INSIDE = ("model", "best", "last", "start")  # the model folders in the folder of a run


def model_folder(path: Path) -> Path | None:
    """The model folder that a path is, or that of the run that it is; None without one.

    Raises:
        FileNotFoundError: for a run that has no model yet.
    """
    for folder in (path / "model", path):
        if (folder / "config.json").is_file():
            return folder
    if (path / "recipe.yaml").is_file():
        raise FileNotFoundError(f"the run {path} has no model yet: {_unfinished(path)}")
    return None


def _unfinished(run: Path) -> str:
    """Why a run has no model yet, as far as its folder's lock tells, and what to do."""
    finish = f"kedge train --resume {run}"
    locked = is_locked(run)
    if locked is None:
        return f"it is being trained, or was broken off; wait for it, or go on with {finish}"
    return (
        "it is being trained at this moment; wait for it" if locked else f"it was broken off; finish it with {finish}"
    )


def run_of(folder: Path) -> Path | None:
    """The run that a model folder belongs to, its snapshots too; None if it belongs to none."""
    parent = folder.resolve().parent
    if parent.name == "snapshots":
        parent = parent.parent
    elif folder.resolve().name not in INSIDE:
        return None
    return parent if (parent / "recipe.yaml").is_file() else None


def has_weights(name: str) -> bool:
    """Whether weights were published for a network of timm or torchvision."""
    import timm

    from kedge import networks

    if _of_timm(name):
        return bool(timm.is_model_pretrained(name.removeprefix(TIMM)))
    return name.removeprefix("torchvision/") in networks.names()


def published(name: str) -> "PlainModel":
    """A network of timm or torchvision with its published weights and classes, behind its normalisation, in eval mode.

    Raises:
        ValueError: for one without published weights, or whose weights have no classes.
        kedge.networks.PretrainedUnavailable: the weights exist but cannot be had here.
    """
    import timm

    from kedge import networks

    bare = name.removeprefix(TIMM)
    if not has_weights(name):
        near = near_names(bare, timm.list_pretrained(f"{bare.split('_')[0].split('.')[0]}*"))
        raise ValueError(f"no weights were published for {name!r}, and random ones have nothing to show or teach{near}")
    settings = timm.models.get_pretrained_cfg(bare) if _of_timm(name) else None
    classes = 1000 if settings is None else settings.num_classes  # torchvision's are all of ImageNet
    if not classes:
        raise ValueError(f"{name!r} gives features, not classes: choose weights with a classifier")
    return with_class_names(networks.create(name, classes, pretrained=True))


def with_class_names(network: Any) -> "PlainModel":
    """A network behind its normalisation in eval mode, with the names of ImageNet's classes where it has as many."""
    from kedge.anchoring import plain
    from kedge.data.label_spaces import imagenet

    model = plain(network).eval()
    if model.num_outputs == len(imagenet()):
        model.class_names = list(imagenet())
    return model


def _of_timm(name: str) -> bool:
    import timm

    return not name.startswith("torchvision/") and bool(timm.is_model(name.removeprefix(TIMM)))

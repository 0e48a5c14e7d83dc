"""What a model remembers of its classes' features, in its folder: classes can then be added without photos."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from kedge.anchoring import PixelModel
from kedge.checks import unlike_classes
from kedge.data import ImageSet
from kedge.data.sets import check_set
from kedge.files import whole
from kedge.json_text import parse_json
from kedge.probing.class_features import ClassFeatures, class_features, of_tensors
from kedge.probing.features import features
from kedge.probing.heads import find_head

__all__ = ["FILE", "Remembered", "body_digest", "remember"]

FILE = "remembered.safetensors"


@dataclass(frozen=True)
class Remembered:
    """What is kept of each class.

    Attributes:
        class_names: in the order of the outputs.
        body: hex digits of the weights below the head, with the bank: for others the features are others.
        features: of each class.
    """

    class_names: list[str]
    body: str
    features: ClassFeatures

    def write(self, folder: Path) -> Path:
        """Write it beside the weights in a model folder, whole or not at all; gives the file."""
        about = {"format": "kedge remembered", "format_version": "1", "how": self.features.how, "body": self.body}
        about["class_names"] = json.dumps({"names": self.class_names}, ensure_ascii=False)
        with whole(folder / FILE) as temporary:
            save_file({name: value.contiguous() for name, value in self.features.tensors().items()}, temporary, about)
        return folder / FILE

    @classmethod
    def read(cls, folder: Path) -> "Remembered | None":
        """What a model folder holds; None if it holds nothing of the kind. Raises ValueError for a damaged file."""
        if not (path := folder / FILE).is_file():
            return None
        try:
            with safe_open(path, framework="pt") as file:
                about = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
            names = parse_json(about["class_names"], "class_names")["names"]
            kept = of_tensors(about["how"], tensors)
            if not isinstance(names, list) or len(names) != len(kept) or not all(isinstance(n, str) for n in names):
                raise ValueError(f"it names {len(names)} classes and holds {len(kept)}")
            return cls(names, about["body"], kept)
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path} cannot be read ({error}): put it back from a copy, or make it anew") from error

    def check(self, model: PixelModel, head: str) -> None:
        """Raise ValueError where it is not of this model."""
        if (unlike := unlike_classes(self.class_names, model.class_names or model.num_outputs, _NAMES)) is not None:
            raise ValueError(f"the statistics are of other classes than the model's: {unlike}. Make them anew")
        if self.body != body_digest(model, head):
            raise ValueError(
                "the statistics are of other weights than the model's, which was trained on since: make them anew, "
                "which takes the old photos"
            )


_NAMES = ("the statistics", "the model")


@torch.no_grad()
def remember(
    model: PixelModel,
    images: ImageSet,
    how: str = "full",
    *,
    photos: int = 20,
    head: str | None = None,
    seed: int = 0,
    batch_size: int = 256,
    workers: int = 0,
) -> Remembered:
    """Statistics of the features of each class of a trained model, for adding classes when the photos are gone.

    The features are what the last layer reads, of an anchored model the mean over its bank, as it predicts; they are
    of images as they are, without augmentation. `full` is the best; `diagonal` is small where features are many.

    Args:
        model: it stays as it is.
        images: photos of all its classes, those it was trained on.
        how: `full` or `diagonal`: a Gaussian of each class, and no photo's own features; `sparse-uniform`, `random` or
            `central`: the features of a few photos, see `kedge.probing.class_features`.
        photos: how many of each class, of the last three.
        head: the last layer, by its name; None: found.
        seed: of the choice `random`.

    Raises:
        ValueError: for images of other classes, or classes without an image; for a model that has no linear last layer
            or does not know what its classes are called.
    """
    check_set(images, "images")
    named_classes(model)
    names = (images.name, "the model")
    if (unlike := unlike_classes(images.class_names, model.class_names or [], names)) is not None:
        raise ValueError(f"statistics are of all classes of the model: {unlike}")
    head = find_head(model, head)
    rows = features(model, head, images, batch_size, workers, others=True)
    kept = class_features(rows, images.labels, model.num_outputs, how, photos, seed)
    return Remembered(list(images.class_names), body_digest(model, head), kept)


def named_classes(model: PixelModel) -> list[str]:
    """The names of the model's classes. Raises ValueError where it has none, or is no classifier."""
    if model.task != "classification":
        raise ValueError(f"the model is for {model.task}: it has no classes to add to")
    if not model.class_names:
        raise ValueError(
            "the model does not know what its classes are called, so no class can be told from a new one: set "
            "model.class_names, and save it again"
        )
    return list(model.class_names)


def body_digest(model: PixelModel, head: str) -> str:
    """Hex digits of all that decides the features: weights, statistics and normalisation, without the head."""
    digest = hashlib.sha256()
    own = f"network.{head}." if head else "network."
    for name, value in sorted(model.state_dict().items()):
        if not name.startswith(own):
            digest.update(f"{name} {value.dtype} {list(value.shape)} ".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).float().numpy().tobytes())
    return digest.hexdigest()

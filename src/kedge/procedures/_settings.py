"""The settings of an adaptation."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from kedge.devices import chosen_device

__all__ = ["Settings"]


@dataclass(frozen=True)
class Settings:
    """What `adapt` can be told.

    Attributes:
        seed: of every draw: references, the fresh head, the order of images.
        head: name of the layer to replace, inside the network; None: found by running it.
        alpha: share of masking of the anchored probe.
        drawn: references drawn for each image, of the anchored probe.
        strength: of the probes' regularisation; None: chosen, see `fit_probe`.
        neighbours: of smote: among so many nearest images of its class an image has its partner.
        outliers: of rcal: the share of images of a class that its statistics leave out; None: by their outlier factor.
        borrow: of rcal: from so many of the nearest frequent classes a rare one borrows statistics.
        gamma: of rcal: the weight of what is borrowed, 0 to 1.
        share: of the fine-tuned weights in wise-ft, 0 to 1, or "val": the best of eleven on the validation images.
        epochs: of fine-tuning; None: ten, and at least a hundred steps where there are few images.
        lr: of fine-tuning, for lp-ft a tenth of it; None: by optimizer and batch, see `kedge.training`.
        layer_lr: of fine-tuning: factors on the learning rate of the stages of the body, from the image on, "search":
            those that are best on held-out images, or None: all 1.
        stages: of a search: into how many consecutive parts the layers before the head are cut.
        budget: of a search: how many factors are tried at most.
        pull: of fine-tuning: how strongly the weights are held near those of the body, the head's not; 0: not at all.
        layers: of levi: adapting layers, the last one on the features of the body.
        small: of levi: the network that learns beside the body, by its name in timm; None: by the size of the images.
        references: size of an anchored model's bank; None: as many as the model had.
        objective: of fine-tuning, as in a recipe; None: cross-entropy, of anchored models with masking.
        augment: of fine-tuning, as in a recipe.
        batch_size: images at a time where nothing is trained.
        workers: processes that decode images.
        device: auto, cpu, cuda or mps.
        source: what the model is called in records; None: by its class.
        data: what the images are called in recipes; None: their own name.
        val_fraction: part of the training images that was held out, for the record.
        split_seed: which images those were, for the record; None: the seed.
    """

    seed: int = 0
    head: str | None = None
    alpha: float = 0.4
    drawn: int = 4
    strength: float | None = None
    neighbours: int = 5
    outliers: float | None = None
    borrow: int = 3
    gamma: float = 0.2
    share: float | str = 0.5
    epochs: int | None = None
    lr: float | None = None
    layer_lr: list[float] | str | None = None
    stages: int = 3
    budget: int = 12
    pull: float = 0.0
    layers: int = 3
    small: str | None = None
    references: int | None = None
    objective: list[Any] | None = None
    augment: str = "auto"
    batch_size: int = 256
    workers: int = 0
    device: str = "auto"
    source: str | None = None
    data: str | None = None
    val_fraction: float = 0.1
    split_seed: int | None = None

    def check(self) -> None:
        """Raise ValueError for a value that cannot be."""
        if not 0 <= self.alpha < 1:
            raise ValueError(f"alpha is the share of masking, 0 or more and below 1, got {self.alpha}")
        if isinstance(self.share, str):
            if self.share != "val":
                raise ValueError(f"share is a number from 0 to 1, or val, got {self.share!r}")
        elif not 0 <= self.share <= 1:
            raise ValueError(f"share is a number from 0 (the probe) to 1 (the fine-tuned), or val, got {self.share}")
        if self.outliers is not None and not 0 <= self.outliers <= 0.5:
            raise ValueError(f"outliers is the share that is left out, 0 to 0.5, got {self.outliers}")
        if not 0 <= self.gamma <= 1:
            raise ValueError(f"gamma is the weight of what is borrowed, 0 to 1, got {self.gamma}")
        if not 0 <= self.pull < math.inf:
            raise ValueError(f"pull is how strongly weights are held where they start, 0 or more, got {self.pull}")
        if isinstance(self.layer_lr, str) and self.layer_lr != "search":
            raise ValueError(f"layer_lr is a list of factors, or search, got {self.layer_lr!r}")
        if self.budget < 2:
            raise ValueError(f"budget is how many factors are tried, 2 or more, got {self.budget}")
        for name in ("drawn", "neighbours", "borrow", "stages", "layers", "epochs", "references", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be 1 or more, got {value}")
        for name in ("stages", "layers", "budget"):
            if getattr(self, name) > 1000:
                raise ValueError(f"{name} must be 1,000 or less, got {getattr(self, name)}")
        for name in ("strength", "lr"):
            value = getattr(self, name)
            if value is not None and not (0 < value < math.inf):
                raise ValueError(f"{name} must be a positive number, got {value}")
        chosen_device(self.device)

    def torch_device(self) -> torch.device:
        """The device, found where it is left open."""
        return torch.device(chosen_device(self.device))

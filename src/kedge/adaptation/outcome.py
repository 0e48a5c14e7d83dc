"""The settings of an adaptation, and the run folder that it leaves."""

import json
import math
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from kedge import checkpoint, metrics
from kedge.anchoring import AnchoredModel, PixelModel
from kedge.data import ImageSet
from kedge.devices import chosen_device
from kedge.files import folder_in_place_of, write_text
from kedge.training.folder import surroundings
from kedge.training.held_out import record_of
from kedge.training.init_model import started
from kedge.training.recipe import Recipe
from kedge.training.record import FILE
from kedge.training.recorded import recorded_facts
from kedge.training.threshold import predict_logits, reject_rule

__all__ = ["Settings", "finished", "load_outcome", "recipe_for", "write_outcome"]


@dataclass(frozen=True)
class Settings:
    """What `adapt` can be told.

    Attributes:
        seed: of every draw: references, the fresh head, the order of images.
        head: name of the layer to replace, inside the network; None: found by running it.
        alpha: share of masking of the anchored probe.
        drawn: references drawn for each image, of the anchored probe.
        strength: of the probes' regularisation; None: chosen, see `fit_probe`.
        share: of the fine-tuned weights in wise-ft, 0 to 1, or "val": the best of eleven on the validation images.
        epochs: of fine-tuning; None: ten, and at least a hundred steps where there are few images.
        lr: of fine-tuning, for lp-ft a tenth of it; None: by optimizer and batch, see `kedge.training`.
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
    share: float | str = 0.5
    epochs: int | None = None
    lr: float | None = None
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
        for name in ("drawn", "epochs", "references", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be 1 or more, got {value}")
        for name in ("strength", "lr"):
            value = getattr(self, name)
            if value is not None and not (0 < value < math.inf):
                raise ValueError(f"{name} must be a positive number, got {value}")
        chosen_device(self.device)

    def torch_device(self) -> torch.device:
        """The device, found where it is left open."""
        return torch.device(chosen_device(self.device))


def finished(folder: Path) -> bool:
    """Whether a run folder holds a finished adaptation."""
    try:
        facts = recorded_facts(folder)
    except (OSError, ValueError):
        return False
    return "finished" in facts and "adaptation" in facts


def load_outcome(folder: Path, like: PixelModel) -> PixelModel:
    """The model of a run; `like` has the network for one that has no name to be made again by."""
    unnamed = checkpoint.read_config(folder / "model")["architecture"] is None and not isinstance(like, AnchoredModel)
    return checkpoint.load(folder / "model", model=like.network if unnamed else None)


def recipe_for(model: PixelModel, how: str, out: Path, train: ImageSet, settings: Settings) -> Recipe:
    """The recipe of a run `out/how`: what names its network and its images."""
    recipe = Recipe.from_dict(
        {
            "name": how,
            "runs": str(out),
            "data": settings.data or train.name,
            "image_size": train.image_shape[-1],
            "val_fraction": settings.val_fraction,
            "split_seed": settings.seed if settings.split_seed is None else settings.split_seed,
            "seed": settings.seed,
            "augment": settings.augment,
            "workers": settings.workers,
            "device": settings.device,
            "references": min(Recipe.references, len(train)),
            "init_from": settings.source or type(model.network).__name__,
            "epochs": settings.epochs,
            "lr": settings.lr,
            "objective": settings.objective,
        }
    )
    return started(recipe, model, None)


def write_outcome(
    model: PixelModel, folder: Path, train: ImageSet, val: ImageSet | None, settings: Settings, record: dict[str, Any]
) -> None:
    """Write the run folder of a model that no training loop made, whole or not at all."""
    facts = {**surroundings(), "seed": settings.seed, "data": data_record(train, val)}
    facts |= set_rule(model, val, settings)
    recipe = replace(recipe_for(model, folder.name, folder.parent, train, settings), objective=None)
    words = f"# Made by kedge adapt, {folder.name}: names the network and the images; what was done is in run.json.\n"
    facts |= {"adaptation": record, "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z")}
    with folder_in_place_of(folder, ("model", "recipe.yaml", "run.json", FILE)) as new:
        checkpoint.save(model, new / "model")
        record_of(recipe, train, val, in_memory=True).write(new)
        write_text(new / "recipe.yaml", words + recipe.to_yaml())
        write_text(new / "run.json", json.dumps(facts, indent=2, ensure_ascii=False) + "\n")


def data_record(train: ImageSet, val: ImageSet | None) -> dict[str, Any]:
    """What run.json says of the images."""
    held = 0 if val is None else len(val)
    return {"train": len(train), "val": held, "image_shape": list(train.image_shape), "classes": train.class_names}


def set_rule(model: PixelModel, val: ImageSet | None, settings: Settings) -> dict[str, Any]:
    """Set the reject threshold on validation images, and say how the model does there; without any neither."""
    model.reject = None
    if val is None:
        return {"validation": {}, "reject": None, "steps": {}}
    logits, labels = predict_logits(model.to(settings.torch_device()), val, settings.batch_size, settings.workers)
    model.cpu()
    model.reject = reject_rule(logits, labels, Recipe.coverage)
    probs = logits.softmax(1)
    measured = {
        "accuracy": float(metrics.accuracy(probs, labels)),
        "nll": float(metrics.nll(probs, labels)),
        "ece": float(metrics.calibration_error(probs, labels)),
    }
    return {"validation": measured, "reject": model.reject, "steps": {}}

"""Models that the objective of a run is given, such as a teacher: loaded by name, and known again when it goes on."""

import hashlib
import json
from collections.abc import Iterable, Mapping

import torch
from torch import nn

from kedge import checkpoint
from kedge.data import ImageSet
from kedge.named_model import published, run_of
from kedge.training.record import ImageRecord
from kedge.training.start_from import find_start

__all__ = ["NamedModels", "model_digest"]

IN_MEMORY = " (in memory)"


class NamedModels:
    """What the models in a recipe's objective are.

    Args:
        in_memory: models by the name of the argument that takes them.
        before: digests of the models that a run began with; None where it begins now.

    Attributes:
        digests: of the models so far, by their names.
    """

    def __init__(self, in_memory: Mapping[str, nn.Module], before: Mapping[str, str] | None = None) -> None:
        self._before = before
        self._records: dict[str, ImageRecord | None] = {}
        self.digests: dict[str, str] = {}
        for name, model in in_memory.items():
            self._note(f"{name}{IN_MEMORY}", model)

    def load(self, name: str) -> nn.Module:
        """The model of a name: a run, a model folder, timm/NAME or one of the hub.

        Raises:
            FileNotFoundError: there is none.
            ValueError: for another model than the run began with, and for a network without published weights.
        """
        folder = find_start(str(name), "a model of the objective")
        model = published(str(name)) if folder is None else checkpoint.load(folder)
        self._records[name] = ImageRecord.read(None if folder is None else run_of(folder))
        self._note(name, model)
        return model

    def remarks(self, judged: ImageSet, folds: int = 0) -> Iterable[str]:
        """What is to be said of models that were trained on images which judge this run: held out, or in `folds`."""
        which = f"images that its {folds} folds judge by" if folds else "validation images"
        way = "take another model, or folds 0 and" if folds else "start with"
        for name, record in self._records.items():
            if record is not None and (count := record.count(judged)):
                yield (
                    f"careful: {name}, which this run learns from, was trained on {count:,} of its {len(judged):,} "
                    f"{which}, whose accuracy says too much: {way} the split_seed of that run"
                )

    def _note(self, name: str, model: nn.Module) -> None:
        digest = model_digest(model)
        if self._before is not None and self._before.get(name) != digest:
            raise ValueError(
                f"{name} is not the model that the run began with: it was trained further, or is another one of that "
                "name. Put it back from a copy, or start a new run"
            )
        self.digests[name] = digest


def model_digest(model: nn.Module) -> str:
    """Hex digits of the weights, the buffers and the steps after the logits of a model."""
    digest = hashlib.sha256(json.dumps(getattr(model, "steps", {}), sort_keys=True, default=str).encode())
    for name, value in model.state_dict().items():
        value = value.detach().cpu().contiguous()
        digest.update(f"{name} {value.dtype} {list(value.shape)}".encode())
        digest.update(value.view(-1).view(torch.uint8).numpy() if value.numel() else b"")
    return digest.hexdigest()

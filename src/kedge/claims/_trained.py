"""A claim about trainings: recipes that differ in a few keys, on small images, judged on the test images."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from kedge import metrics
from kedge.claims._base import Claim
from kedge.data import ImageSet
from kedge.training import RunResult, fit

__all__ = ["Judged", "Trained", "judged"]


class Judged(NamedTuple):
    """What a model answers: probabilities `[N, C]` and labels `[N]`."""

    probs: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Images:
    """The images of a seed.

    Attributes:
        train, val, test: what is trained on, validated by (the temperature too), and judged on.
        extra: further images by name, for the objective.
    """

    train: ImageSet
    val: ImageSet
    test: ImageSet
    extra: Mapping[str, ImageSet]


class Trained(Claim):
    """A claim whose variants are trainings by a recipe.

    Attributes:
        base: keys of the recipe that all variants share.
        changes: of each variant, the keys that it changes.
    """

    base: Mapping[str, Any] = {}
    changes: Mapping[str, Mapping[str, Any]] = {}

    def images(self, variant: str, seed: int) -> Images:
        """The images of a variant and seed."""
        raise NotImplementedError

    def recipe(self, variant: str, seed: int) -> dict[str, Any]:
        """What is run: on the CPU, the weights of the last epoch, so that no variant chooses by validation images."""
        fixed = {"seed": seed, "device": "cpu", "workers": 0}
        return {"keep": "last", **self.base, **self.changes.get(variant, {}), **fixed}

    def train(self, variant: str, images: Images, seed: int, folder: Path, **others: Any) -> RunResult:
        """One training in a folder; `others` are arguments of `kedge.training.fit`."""
        recipe = {**self.recipe(variant, seed), "runs": str(folder), "name": variant}
        sets, extra = (images.train, images.val), dict(images.extra) or None
        return fit(recipe, sets=sets, extra=extra, progress=False, report=False, **others)

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """Train, and measure on the test images; the cost is the mean time of a training step."""
        images = self.images(variant, seed)
        with tempfile.TemporaryDirectory(prefix="kedge-claim-") as folder:
            result = self.train(variant, images, seed, Path(folder))
        return {**self.measure(result.model, images), "seconds a step": step_seconds(result, len(images.train))}

    def measure(self, model: Any, images: Images) -> dict[str, float]:
        """Accuracy, ECE and NLL on the test images, in percent (NLL in nats)."""
        answers = judged(model, images.test)
        return {
            "accuracy": 100 * float(metrics.accuracy(answers.probs, answers.labels)),
            "ECE": 100 * float(metrics.calibration_error(answers.probs, answers.labels)),
            "NLL": float(metrics.nll(answers.probs, answers.labels)),
        }


def judged(model: Any, images: ImageSet, batch_size: int = 512) -> Judged:
    """What a model of kedge answers to all images of a set, as `predict` does: with all references and steps."""
    with torch.no_grad():
        parts = [model.predict(loaded / 255).probs for loaded, _ in images.batches(batch_size)]
    return Judged(torch.cat(parts), images.labels)


def step_seconds(result: RunResult, count: int) -> float:
    """The mean time of a training step, from the epochs of a run, the first left out where there are more."""
    rows = result.history[1:] or result.history
    steps = -(-count // int(result.recipe.batch_size or count))
    return sum(row["seconds"] for row in rows) / len(rows) / steps

"""What is measured of each image before two sets of images are compared: statistics, answers, features, files."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from kedge.anchoring.outputs import Outputs
from kedge.anchoring.protocol import as_model
from kedge.data.corruptions import corrupt
from kedge.evaluation.evaluated_model import Subject, faults
from kedge.evaluation.image_statistics import image_statistics, on_scale
from kedge.evaluation.inputs import convert, to_unit
from kedge.evaluation.runner import batches

COMPONENTS = 16  # of features: the directions in which the images of both sets vary most
FEW_EACH = 10  # images that each component needs


@dataclass(frozen=True)
class Seen:
    """What is measured of N images.

    Attributes:
        statistics: `[N, S]`, in the order of `STATISTICS`.
        outputs: logits, and features where the model gives some.
    """

    statistics: Tensor
    outputs: Outputs

    def __len__(self) -> int:
        return len(self.statistics)

    def at(self, chosen: Tensor) -> "Seen":
        """Those at `chosen`, `[M]`."""
        features = None if self.outputs.features is None else self.outputs.features[chosen]
        return Seen(self.statistics[chosen], replace(self.outputs, logits=self.outputs.logits[chosen],
                                                     uncertainty=None, features=features))  # fmt: skip

    @staticmethod
    def cat(parts: "list[Seen]") -> "Seen":
        """Several as one."""
        return Seen(torch.cat([part.statistics for part in parts]), Outputs.cat([part.outputs for part in parts]))


class Embedding:
    """Numbers `[N, D]` in which images are compared: statistics on their scale, and the main components of features.

    The components are those of both sets together, so that a test that relabels their images is exact.
    """

    def __init__(self, first: Seen, second: Seen) -> None:
        self.basis: Tensor | None = None
        ours, theirs = first.outputs.features, second.outputs.features
        if ours is not None and theirs is not None:
            pooled = torch.cat([ours, theirs]).double()
            count = min(COMPONENTS, pooled.shape[1], max(1, len(pooled) // FEW_EACH))
            covariance = torch.cov(pooled.T).reshape(pooled.shape[1], -1)
            self.basis = torch.linalg.eigh(covariance).eigenvectors[:, -count:].flip(1)

    def __call__(self, seen: Seen) -> Tensor:
        """The numbers `[N, D]` of what was seen."""
        own = on_scale(seen.statistics).double()
        if self.basis is None or seen.outputs.features is None:
            return own
        return torch.cat([own, seen.outputs.features.double() @ self.basis], 1)


class Asker:
    """A model, and the shape in which it and the statistics take images.

    Args:
        model: of kedge, or any callable from images in [0, 1] to logits.
        images: a few of them tell whether it will do.
        references: for anchored models: how many of the bank.

    Raises:
        ValueError: for a model that is no classifier of images, fails on them or gives logits that are not finite.
        TypeError: for what cannot be called.
    """

    def __init__(self, model: Any, images: Any, references: Any = None) -> None:
        model = as_model(model)
        if model.task != "classification":
            raise ValueError(f"the model was made for {model.task}; answers are compared of classifiers")
        if model.input_shape is not None and len(model.input_shape) != 3:
            raise ValueError(f"the model takes vectors of shape {list(model.input_shape)}, not images")
        tensors = [*model.parameters(), *model.buffers()]
        first = next((t for t in tensors if t.is_floating_point()), torch.empty(0))
        shape = tuple(images.image_shape if model.input_shape is None else model.input_shape)
        subject = Subject("model", model, first.device, first.dtype, shape, references)
        few = convert(to_unit(images.first(8).to(first.device)), shape)
        try:
            outputs = model.outputs(few.to(first.dtype), references, features=True)
        except (ValueError, TypeError) as error:
            raise type(error)(f"the model: {error}") from error
        except Exception as error:
            raise ValueError(
                f"the model failed on {len(few)} images of shape {list(few.shape[1:])}: {type(error).__name__}: {error}"
            ) from error
        if words := faults(outputs.logits):
            raise ValueError(f"the model gave {words}")
        self.subject = replace(subject, fields=outputs.present())
        self.classes = list(model.class_names or [str(i) for i in range(outputs.logits.shape[1])])
        if len(self.classes) != outputs.logits.shape[1]:
            raise ValueError(f"the model names {len(self.classes)} classes and gives {outputs.logits.shape[1]} logits")

    def look(self, images: Tensor) -> Seen:
        """What is measured of float images `[B, C, H, W]` in [0, 1], in the model's shape and on its device."""
        outputs = self.subject.outputs(images, features=True)
        features = None if outputs.features is None else outputs.features.float().cpu()
        return Seen(image_statistics(images).cpu(), Outputs(outputs.logits.float().cpu(), features=features))

    def shown(self, images: Any, batch_size: int, workers: int = 0) -> Iterator[Tensor]:
        """The batches of a set as the model takes them."""
        for batch, _ in batches(images, batch_size, workers):
            yield convert(to_unit(batch.to(self.subject.device)), self.subject.shape)

    def set_seen(self, images: Any, batch_size: int, workers: int, tick: Callable[[int], None]) -> Seen:
        """What is measured of a set. Raises ValueError for logits that are not finite."""
        parts = []
        for batch in self.shown(images, batch_size, workers):
            parts.append(self.look(batch))
            tick(len(batch))
        seen = Seen.cat(parts)
        if words := faults(seen.outputs.logits):
            raise ValueError(f"the model gave {words} ({images.name})")
        return seen

    def corrupted(
        self, images: Tensor, name: str, severity: int, positions: Tensor, seed: int, batch_size: int
    ) -> Seen:
        """What is measured of images as `shown`, corrupted, in the 256 levels of a file."""
        parts = []
        for batch, where in zip(images.split(batch_size), positions.split(batch_size), strict=True):
            worse = corrupt(batch, name, severity, indices=where.to(batch.device), seed=seed)
            parts.append(self.look((worse * 255).round() / 255))
        return Seen.cat(parts)

"""Models that take pixels: images in [0, 1], normalised inside, so that distances are in pixel units."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kedge.anchoring.bare_network import (
    check_module,
    resolve_normalisation,
    resolve_shape,
    run,
    warn_of_probabilities,
)
from kedge.anchoring.outputs import collecting, features_of
from kedge.anchoring.prediction import Prediction, summarise, vetted
from kedge.anchoring.protocol import Model, independent
from kedge.anchoring.prototypes import nearest, reads_features
from kedge.anchoring.twin import evaluating, in_eval
from kedge.checks import check_images, check_tensor
from kedge.postprocess import apply, check_steps, kind_of, placed

TASKS = ("classification", "regression")


class PixelModel(Model):
    """A network behind its normalisation: images `[B, C, H, W]` in [0, 1] (or vectors `[B, D]`) to `[B, num_outputs]`.

    Attributes:
        network: the module that sees normalised images.
        mean, std: buffers `[1, C, 1, 1]` (`[1, D]` or `[1, 1]` for vectors).
        input_shape: `(C, H, W)` or `(D,)`, the shape the model was made with.
        num_outputs: the number of classes, or of regression targets.
        task: "classification" or "regression".
        class_names: a name for each output, or None.
        ordered: whether the classes are grades of one thing, from the lowest to the highest.
        reject: the stored rule for saying "I am not sure", or None.
        prototypes: buffer `[K, D]` of directions of features, of length 1, or None; what `unknown` may be by.
        unknown: the stored rule for saying "none of these", or None; see `kedge.unknown`.
        steps: what is done to the logits after the network (`kedge.postprocess`), by name, in this order; empty, or
            `{"temperature": {"value": T, ...}}` (see `kedge.training.calibrate`): in eval mode the logits of `forward`
            and `predict` are divided by T. In training mode, in `uncertainty` and in `per_reference` they are not.
    """

    mean: Tensor
    std: Tensor
    network: nn.Module
    input_shape: tuple[int, ...]
    num_outputs: int
    network_logits: Callable[..., Tensor]
    predict: Callable[..., Prediction]
    # What an anchored model has and no other; `count()` says whether there are any.
    references: Tensor
    residuals: Tensor | None
    # What a file has that takes photos, and no other; `takes_photos` says whether it is one.
    predict_photos: Callable[..., Prediction]

    def __init__(
        self,
        network: nn.Module,
        *,
        mean: Tensor,
        std: Tensor,
        input_shape: Sequence[int],
        num_outputs: int,
        task: str = "classification",
    ) -> None:
        super().__init__()
        if task not in TASKS:
            raise ValueError(f"task must be one of {TASKS}, got {task!r}")
        self.network = network
        self.register_buffer("mean", mean)
        self.register_buffer("std", std)
        self.input_shape = tuple(int(n) for n in input_shape)
        self.num_outputs = int(num_outputs)
        self.task = task
        self.class_names: list[str] | None = None
        self.ordered = False
        # No part of the state dict: weights of training and averages have none. A saved model has them beside it.
        self.register_buffer("prototypes", None, persistent=False)
        self.reject: dict[str, Any] | None = None
        self.unknown: dict[str, Any] | None = None
        self.steps: dict[str, dict[str, Any]] = {}

    def extra_repr(self) -> str:
        """What `repr` shows."""
        steps = "".join(f", {step}" for step in self.describe_steps())
        return f"input_shape={self.input_shape}, num_outputs={self.num_outputs}, task={self.task!r}{steps}"

    def set_step(self, name: str, value: Any, **record: Any) -> None:
        """Do a step of `kedge.postprocess` in eval mode: in place of one of its name, else before later stages.

        `record` (what it was fitted on, for instance) is kept with it. A reject threshold set before no longer fits.
        Raises ValueError for a value that the step does not take, and unless the model is a classifier.
        """
        check_steps({name: {"value": value}}, self.task, self.num_outputs)
        self.steps = placed(self.steps, name, {"value": value, **record})

    def set_temperature(self, value: float, **record: Any) -> None:
        """Divide the logits by `value` > 0 in eval mode, see `set_step`: labels do not change, confidences do."""
        self.set_step("temperature", value, **record)

    def remove_step(self, name: str) -> dict[str, Any]:
        """Take out a step, give back its record; the logits are as before it, to the bit, and so are the rules.

        Raises KeyError where there is none of this name, ValueError where a rule is one that was set with a later
        step in force.
        """
        if name not in self.steps:
            have = ", ".join(self.steps) or "no step"
            raise KeyError(f"the model has no step {name!r}; it has {have}")
        later = list(self.steps)[list(self.steps).index(name) + 1 :]
        if blocking := [other for other in later if {"reject_before", "unknown_before"} & self.steps[other].keys()]:
            raise ValueError(f"the thresholds were set with {blocking[-1]} in force: take that out before {name}")
        if resting := [other for other in later if kind_of(other).keeps_logits]:
            raise ValueError(f"{resting[-1]} was set on answers with {name} in force: take that out before {name}")
        record = self.steps.pop(name)
        if "reject_before" in record:
            self.reject = record["reject_before"]
        if "unknown_before" in record:
            self.unknown = record["unknown_before"]
        return record

    @property
    def temperature(self) -> float | None:
        """What the logits are divided by in eval mode, or None."""
        return self.steps["temperature"]["value"] if "temperature" in self.steps else None

    def answers(self, images: Tensor, references: Any = None) -> tuple[Tensor, Tensor | None]:
        """Logits and uncertainty of `predict` with these references."""
        prediction = self.predict(images, references, check=False)
        return prediction.logits, prediction.uncertainty

    @contextmanager
    def _familiar(
        self, images: Tensor, references: Any = None, max_rows: int | None = None
    ) -> Iterator[Callable[[Prediction], Prediction]]:
        """A function that adds to the prediction made within how familiar the images are, if the rule asks for it."""
        prototypes = self.prototypes
        if not reads_features(self.unknown) or prototypes is None:
            yield lambda prediction: prediction
            return
        if (layer := self.feature_layer(images, references)) is None:
            # Of "adaptive", where images meet different numbers of references, that of the first.
            first = self.outputs(images, 1, features=True, check=False).features if self.count() else None
            score = None if first is None else nearest(first, prototypes)
            yield lambda prediction: replace(prediction, familiarity=score)
            return
        with collecting(layer) as passes:

            def added(prediction: Prediction) -> Prediction:
                features = features_of(layer, passes, self.count(references), len(images), max_rows)
                score = None if features is None else nearest(features, prototypes)
                return replace(prediction, familiarity=score)

            yield added

    def _stepped(self, logits: Tensor) -> Tensor:
        """The logits after the steps; in training mode as they are."""
        return logits if self.training or not self.steps else apply(self.steps, logits)

    def normalise(self, images: Tensor) -> Tensor:
        """Check `images` and return `(images - mean) / std` in the model's dtype."""
        return self._normalised(self.checked(images))

    def checked(self, images: Tensor) -> Tensor:
        """Check `images`, floating point with the channels of the model, and return them in the model's dtype."""
        check_tensor(images)
        if images.ndim != len(self.input_shape) + 1 or images.shape[1] != self.input_shape[0]:
            expected = ", ".join(str(n) for n in self.input_shape)
            raise ValueError(
                f"the model takes a batch of shape [B, {expected}], got {list(images.shape)}"
                + ("; add a batch axis with images[None]" if images.ndim == len(self.input_shape) else "")
                + _channels_last(images.shape, self.input_shape)
            )
        if not images.is_floating_point():
            raise TypeError(f"images must be floating point in [0, 1], got {images.dtype}; for uint8 pass images / 255")
        return images.to(self.mean.dtype)

    def _normalised(self, images: Tensor) -> Tensor:
        # In place in what the subtraction has just made: at 224 px memory costs more than arithmetic.
        return (images - self.mean).div_(self.std)


def _channels_last(shape: Sequence[int], expected: Sequence[int]) -> str:
    """How to turn images around whose channels come last; nothing where that is not what is wrong."""
    if len(expected) != 3 or len(shape) not in (3, 4) or shape[-1] != expected[0] or shape[-3] == expected[0]:
        return ""
    return f"; the channels come first: images.permute({'0, 3, 1, 2' if len(shape) == 4 else '2, 0, 1'})"


class PlainModel(PixelModel):
    """An ordinary network behind its normalisation, with the same `predict` and `fold` as an anchored model."""

    kind: ClassVar[str] = "plain"

    def network_logits(self, images: Tensor) -> Tensor:
        """Logits `[B, num_outputs]` before the model's `steps`."""
        return self.network(self.normalise(images))

    def forward(self, images: Tensor) -> Tensor:
        """Logits `[B, num_outputs]` of images `[B, C, H, W]` in [0, 1]."""
        return self._stepped(self.network_logits(images))

    @torch.no_grad()
    def predict(self, images: Tensor, *, check: bool = True) -> Prediction:
        """Predict as in eval mode without gradients; a plain model has no reference, so `uncertainty` is None.

        The model is only read, whatever mode it is in: threads may predict with it at once. `check` looks at the images
        and at the outputs, see `AnchoredModel.predict`.
        """
        if check:
            check_images(images)
        with self._familiar(images) as familiarity, in_eval(self.network) as network:
            prediction = summarise([network(self.normalise(images))[None]], self.task, steps=self.steps)
            prediction = familiarity(prediction)
        return vetted(prediction, self.steps) if check else prediction

    def answers(self, images: Tensor, references: Any = None) -> tuple[Tensor, Tensor | None]:
        """The logits of `predict`; a plain model has no uncertainty."""
        return self.predict(images, check=False).logits, None

    def bare(self) -> nn.Module:
        """The network, which sees normalised images."""
        return self.network

    def fold(self, reference: int = 0) -> nn.Module:
        """Return an independent copy in eval mode that takes pixels: what is exported; it has no `reference`."""
        return independent(self).eval()


def plain(
    model: nn.Module,
    *,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    example: Tensor | Sequence[int] | None = None,
    task: str = "classification",
) -> PlainModel:
    """Put a copy of `model` behind its normalisation: images in [0, 1] to logits. Arguments as in `kedge.anchor`."""
    check_module(model, "kedge.plain")
    network = independent(model)
    shape = resolve_shape(model, example, None)
    mean_, std_ = resolve_normalisation(model, shape, mean, std)
    probe = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)).to(mean_)
    with torch.no_grad(), evaluating(network):
        outputs = run(network, (probe - mean_) / std_, "the model")
    warn_of_probabilities(outputs, task)
    plain_model = PlainModel(network, mean=mean_, std=std_, input_shape=shape, num_outputs=outputs.shape[1], task=task)
    return plain_model.train(model.training)

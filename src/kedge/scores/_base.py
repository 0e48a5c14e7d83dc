"""What every score has, and what scores read of a model."""

import math
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

from torch import Tensor

from kedge.anchoring.outputs import Outputs
from kedge.anchoring.protocol import as_model

WHERE_FROM = {
    "uncertainty": "an anchored model and two or more references: a plain model, or references=1, has no uncertainty",
    "reference_spread": "an anchored model and two or more references: a plain model has no uncertainty, and that of "
    "an ensemble is of another kind",
    "unnormalised": "logits whose exponentials do not sum to 1: of log probabilities it is 0 for every image",
    "features": "features: outputs_of(..., features=True), of a network whose last layer is affine",
    "head": "the last layer: outputs_of(..., features=True), of a network whose last layer is affine",
    "masked": "masked logits: outputs_of(..., masked=True), of an anchored model",
    "reverse": "labelled training images: outputs_of(..., reverse=(images, labels)), of an anchored model",
}


class Score:
    """Base of the scores: higher = more in-distribution.

    Attributes:
        room: so that recipes can name a score as an argument.
        name: short name, as in tables: that of its file.
        title: the name for people.
        place: where it stands in tables, from the top; of equals by name.
        needs: fields of `Outputs` that must not be None, besides `logits`.
        fits: whether `fit` must see outputs on training images before `score`.
        on_request: whether it is left out of "all": it costs many passes of its own.
        uniform_masking: whether its sign rests on masked images having been trained to be uniform.
    """

    room: ClassVar[str] = "scores"
    place: ClassVar[float] = math.inf
    name: ClassVar[str]
    title: ClassVar[str]
    needs: ClassVar[tuple[str, ...]] = ()
    fits: ClassVar[bool] = False
    uniform_masking: ClassVar[bool] = False
    on_request: ClassVar[bool] = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not hasattr(cls, "name"):
            cls.name = cls.__module__.rpartition(".")[2]

    def fit(self, outputs: Outputs, labels: Tensor) -> "Score":
        """Learn from in-distribution training data, where the score does; here there is nothing to learn."""
        return self

    def learns_from(self, images: int) -> int:
        """How many of so many training images it looks at."""
        return images

    def score(self, outputs: Outputs) -> Tensor:
        """`[B]` scores, higher = more in-distribution. Raises ValueError when `outputs` lacks what it needs."""
        raise NotImplementedError

    def __call__(self, model: Callable[[Tensor], Any], images: Tensor, references: Any = None) -> Tensor:
        """`[B]` scores of `images` `[B, C, H, W]` in [0, 1]: `score(outputs_of(model, images, references))`."""
        features, masked = "features" in self.needs, "masked" in self.needs
        return self.score(outputs_of(model, images, references, features=features, masked=masked))

    def _take(self, outputs: Outputs, field: str) -> Any:
        value = getattr(outputs, field)
        if value is None:
            raise ValueError(f"{self.name} needs {WHERE_FROM[field]}; these outputs hold none")
        return value

    def _check_unnormalised(self, of_members: bool) -> None:
        """Raise ValueError for an ensemble, whose logits are the logarithms of mean probabilities."""
        if of_members:
            raise ValueError(f"{self.name} needs {WHERE_FROM['unnormalised']}; an ensemble gives log probabilities")

    def _fitted(self, value: Any) -> Any:
        if value is None:
            raise RuntimeError(
                f"{self.name} learns from training images: call fit(outputs, labels) with theirs before score(outputs)"
            )
        return value

    def _training(self, outputs: Outputs, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Features `[N, D]` as in `precise` and labels `[N]`, checked."""
        features = self._take(outputs, "features")
        if labels.shape != features.shape[:1] or labels.is_floating_point() or len(labels) == 0:
            raise ValueError(
                f"{self.name} is fitted to N >= 1 training images and their class indices [N], but there are "
                f"{len(features)} images and labels {labels.dtype} {list(labels.shape)}"
            )
        if not bool(features.isfinite().all()):
            bad = int((~features.isfinite()).any(1).sum())
            raise ValueError(
                f"{self.name} cannot be fitted: the features of {bad} of {len(features)} images are NaN or inf"
            )
        features = precise(features)
        return features, labels.to(features.device)


def precise(tensor: Tensor) -> Tensor:
    """In float64, without gradients; on the CPU where the device has no float64."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).detach().double()


def usable(scores: Iterable[Score], outputs: Outputs) -> list[Score]:
    """Those of `scores` whose needs `outputs` meets."""
    return [score for score in scores if all(getattr(outputs, need, None) is not None for need in score.needs)]


def outputs_of(
    model: Callable[[Tensor], Any],
    images: Tensor,
    references: Any = None,
    *,
    features: bool = False,
    masked: bool = False,
    reverse: tuple[Tensor, Tensor] | None = None,
    check: bool = True,
) -> Outputs:
    """Run `model` on `images` `[B, C, H, W]` in [0, 1], without gradients and in eval mode.

    The model is only read, so that threads may ask it at once. A kedge model is asked through `predict`, an anchored
    one with `references` (an int, a tensor, "blt", "adaptive", or None for the whole bank); any other callable must
    return logits `[B, C]`. Raises ValueError when it returns something else, and for images that cannot be in [0, 1].

    Args:
        model: what to run.
        images: the batch.
        references: which references an anchored model uses.
        features: also collect what the last layer reads, in the same pass. A callable that is no module, and a
            network whose last layer is not found (see `last_layer`), has none, nor has "adaptive", where inputs meet
            different numbers of references.
        masked: also run the masked passes of an anchored model, one for each reference; "blt" and "adaptive" take
            the whole bank.
        reverse: K labelled training images `[K, C, H, W]` in [0, 1] and their labels `[K]`: also run an anchored model
            on these with each of `images` as their reference, K passes an image.
        check: look at the images, for which the device is waited for.
    """
    return as_model(model).outputs(images, references, features=features, masked=masked, reverse=reverse, check=check)

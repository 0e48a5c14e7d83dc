"""The plain losses."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kedge.anchoring import PixelModel
from kedge.checks import check_images, check_target_values, check_tensor, class_indices, readable


class Objective(nn.Module):
    """Base of all objectives: called with (model, images, targets), returns a scalar loss.

    `targets_kind` says what the loss can take: "soft" (class indices `[B]` or probabilities `[B, C]`), "indices"
    (class indices only) or "values" (regression targets). A wrapper has the kind of its inner objective.
    `mixes_targets` says that an image's target ends up in other images too.

    What a training loop may do with any objective, and `kedge.training` does: say how far it is with `set_progress`,
    call `prepare` before it starts and `on_gradients` between backward and the optimizer's step, and read `logged` and
    `passes`. An objective that needs more than its call says so.

    The first batch is looked at, for which the device is waited for: images that cannot be in [0, 1] (for a model of
    kedge; for another only NaN and infinity), labels out of range and soft targets that are no probabilities raise
    ValueError. Later batches are taken as they are; see `set_looks`.

    Attributes:
        looks: how many more batches are looked at.
        progress: the share of training that is done, 0 to 1; 1 where nobody says.
        logged: scalars of the last step, detached, by name.
    """

    targets_kind: str = "soft"
    mixes_targets: bool = False
    progress: float = 1.0
    looks: int = 1

    def __init__(self) -> None:
        super().__init__()
        self.logged: dict[str, Tensor] = {}

    def __call__(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The loss, with a look at the batch while `looks` says so."""
        if self.looks < 1:
            return self._loss(model, images, targets)
        check_tensor(images)
        check_tensor(targets, "targets", "[B] or [B, C]")
        if not (readable(images) and readable(targets)):
            return self._loss(model, images, targets)
        core, classes = unwrapped(model), stated_outputs(model)
        few = targets.ndim == 0 or len(images) != len(targets)
        if few and classes is not None and self.targets_kind != "values":  # else the loss says so, which sees logits
            b, seen = len(images), f"{targets.dtype} {list(targets.shape)}"
            raise ValueError(f"targets must be class indices [{b}] or probabilities [{b}, {classes}], got {seen}")
        check_images(images, ranged=isinstance(core, PixelModel))  # others may take normalised images
        if self.targets_kind == "values":
            check_images(targets, "targets", ranged=False)
            loss = self._loss(model, images, targets)
        elif classes is None or (targets.ndim == 2 and targets.shape[1] != classes):
            loss = self._loss(model, images, targets)  # which sees logits, and whether the shape of targets fits
            check_target_values(targets, None)
        else:
            check_target_values(targets, classes)
            loss = self._loss(model, images, targets)
        self.looks -= 1
        return loss

    def _loss(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        loss: Tensor = super().__call__(model, images, targets)
        return loss

    @property
    def passes(self) -> float:
        """Forward and backward passes of the network for each image of a step: what a step costs."""
        inner = getattr(self, "inner", None)
        return inner.passes if isinstance(inner, Objective) else 1.0

    def prepare(self, model: nn.Module) -> None:
        """Make what has to be there before training begins, and before a checkpoint of it is read; here nothing."""

    def on_gradients(self, model: nn.Module) -> None:
        """Change the gradients of `model` between backward and the optimizer's step; here nothing."""

    def forward(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The loss of `model` on a batch."""
        raise NotImplementedError


def check_inner(inner: Any, outer: Objective) -> Any:
    """`inner` itself. Raises TypeError where it is no objective: a name, or a class that is not called yet."""
    if not callable(inner) or isinstance(inner, type):
        seen = f"the class {inner.__name__}: {inner.__name__}() makes one" if isinstance(inner, type) else repr(inner)
        raise TypeError(f"{type(outer).__name__} takes an objective, got {seen}")
    return inner


class CrossEntropy(Objective):
    """Cross-entropy of the logits with class indices `[B]` or probabilities `[B, C]`, the mean over the images.

    With class weights w it is 1/B Σ_i v_i ℓ_i, where image i of target t counts v_i = Σ_c w_c t_c, and 1 if masking
    took its target away (see `image_weights`). Its mean over batches is the weighted risk E[w_y ℓ] whatever the size
    of a batch and the number of processes. Dividing by Σ_i v_i, as `torch.nn.functional.cross_entropy(weight=...)`
    does, gives that only for batches that hold the classes in the shares of the whole set; where a class is rarer than
    one image in a batch, most of its weight is divided away again (of a batch of one, all), and masked images would
    count for more or less by the labels beside them.

    So weights have a size: 1 is the weight of an image of the unweighted loss and of a masked one, and the rate of
    learning stays what it was with weights whose mean over the training images is 1, as N / (C n_c) of the n_c of N
    images in each of C classes. Others are brought to it by w / w[labels].mean().

    Args:
        label_smoothing: share ε of the target that is spread evenly: (1 - ε) t + ε / C; it does not change v.
        class_weights: `[C]`, 0 or more, or None.

    Raises:
        ValueError: for label_smoothing out of range; for weights that are negative, not finite, or all below or all
            above 1, whose mean over no set of images is 1; when called, for another number of them than of outputs.
    """

    class_weights: Tensor | None

    def __init__(self, label_smoothing: float = 0.0, class_weights: Tensor | Sequence[float] | None = None) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
        self.label_smoothing = label_smoothing
        weights = None if class_weights is None else check_weights(class_weights)
        self.register_buffer("class_weights", weights, persistent=False)

    def extra_repr(self) -> str:
        """What `repr` shows."""
        return f"label_smoothing={self.label_smoothing}, weighted={self.class_weights is not None}"

    def forward(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The mean cross-entropy."""
        return self._logits_and_loss(model, images, targets)[1]

    def _logits_and_loss(self, model: nn.Module, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logits = model(images)
        targets = check_targets(targets, logits)
        if self.class_weights is None:
            return logits, F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)
        if len(self.class_weights) != logits.shape[1]:
            c = len(self.class_weights)
            raise ValueError(f"class_weights has {c} values, but the model has {logits.shape[1]} outputs")
        weights = image_weights(model, targets, self.class_weights.to(logits.device))
        losses = F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing, reduction="none")
        return logits, (weights * losses).mean()


class SquaredError(Objective):
    """Mean squared error for regression: targets are values `[B, num_outputs]` (or `[B]` for one output)."""

    targets_kind = "values"

    def forward(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The mean over the batch and the outputs."""
        outputs = model(images)
        targets = targets[:, None] if targets.ndim == 1 else targets
        if targets.shape != outputs.shape:
            raise ValueError(f"targets must have shape {list(outputs.shape)}, got {list(targets.shape)}")
        return F.mse_loss(outputs, targets.to(outputs.dtype))


def set_progress(objective: nn.Module, share: float) -> None:
    """Tell an objective and all inside it how far training is, 0 to 1: schedules of theirs follow it."""
    for each in objective.modules():
        if isinstance(each, Objective):
            each.progress = share


def set_looks(objective: nn.Module, count: int) -> None:
    """Let an objective and all inside it look at the next `count` batches.

    A loop that waits for the device anyway may ask for another look; 0, before the first batch, is for images that are
    meant to lie beyond [0, 1], such as those with strong noise.
    """
    for each in objective.modules():
        if isinstance(each, Objective):
            each.looks = count


def check_targets(targets: Tensor, logits: Tensor) -> Tensor:
    """Insist on class indices `[B]` (integers, given back as int64) or probabilities `[B, C]` that fit `logits`."""
    fits = len(targets) == len(logits) and (
        (targets.ndim == 1 and not targets.is_floating_point())
        or (targets.shape == logits.shape and targets.is_floating_point())
    )
    if not fits:
        b, c = logits.shape
        raise ValueError(
            f"targets must be class indices [{b}] or probabilities [{b}, {c}], "
            f"got {targets.dtype} {list(targets.shape)}"
        )
    # A uint8 index would be read as a mask.
    return class_indices(targets, "targets") if targets.ndim == 1 else targets


def check_weights(class_weights: Tensor | Sequence[float]) -> Tensor:
    """Insist on class weights `[C]` that are 0 or more and can average 1 over images, given back in float32."""
    weights = torch.as_tensor(class_weights, dtype=torch.float32)
    shown = [round(w, 4) for w in weights.flatten().tolist()[:6]]
    if weights.ndim != 1 or len(weights) == 0 or not bool((weights.isfinite() & (weights >= 0)).all()):
        raise ValueError(f"class_weights are numbers [C], 0 or more, one for each class, got {shown}")
    if bool((weights < 1 - 1e-4).all() | (weights > 1 + 1e-4).all()):
        raise ValueError(
            f"class_weights are relative to an image of weight 1, and all of these are on one side of it: {shown}. "
            "Scale them so that the training images weigh 1 on average: weights / weights[labels].mean()"
        )
    return weights


def image_weights(model: Any, targets: Tensor, class_weights: Tensor) -> Tensor:
    """How much each image of a step counts, `[B]`, for class weights `[C]`: Σ_c w_c t_c of its target.

    An image whose target masking replaced by the uniform one (`Anchored`, mask_target="uniform") has no label, and
    counts as one image, 1: the mean of the class weights, which that sum would be, has nothing to do with how often
    images are masked, and is large where a class is rare. With class weights that average 1 over the images, masked
    ones then make up the share alpha of the loss's weight.

    Args:
        model: what the objective was called with.
        targets: class indices `[B]` or probabilities `[B, C]`.
        class_weights: `[C]`.
    """
    weights = class_weights[targets] if targets.ndim == 1 else targets.to(class_weights.dtype) @ class_weights
    unlabelled = without_labels(model)
    return weights if unlabelled is None else torch.where(unlabelled, 1, weights)


def without_labels(model: Any) -> Tensor | None:
    """Which images of a step have the uniform target in place of their own, `[B]` bool; None where all have theirs.

    Asked of the model that an objective is called with: a view of it says so in `unlabelled`, whatever views are
    round that one.
    """
    views = model.modules() if isinstance(model, nn.Module) else ()
    return next((mask for view in views if (mask := vars(view).get("unlabelled")) is not None), None)


def soft_targets(targets: Tensor, num_classes: int) -> Tensor:
    """Targets as probabilities `[B, C]` float32, from class indices `[B]` or as they are."""
    if targets.ndim == 2:
        return targets
    return F.one_hot(class_indices(targets, "targets"), num_classes).float()


def num_outputs(model: nn.Module) -> int:
    """How many outputs `model` says it has (`num_outputs`, or `num_classes` as in timm); the model may be wrapped."""
    for name in ("num_outputs", "num_classes"):
        count = getattr(unwrapped(model), name, None)
        if isinstance(count, int):
            return count
    raise ValueError(f"{type(model).__name__} does not say how many outputs it has: set model.num_outputs")


def stated_outputs(model: nn.Module) -> int | None:
    """As `num_outputs`; None where neither the model nor the one that it is a view of says it."""
    try:
        return num_outputs(model)
    except ValueError:
        return None


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside `torch.compile` and data-parallel wrappers."""
    while True:
        inner = getattr(model, "_orig_mod", getattr(model, "module", None))
        if not isinstance(inner, nn.Module):
            return model
        model = inner

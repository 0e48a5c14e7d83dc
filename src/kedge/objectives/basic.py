"""The plain losses."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Objective(nn.Module):
    """Base of all objectives: called with (model, images, targets), returns a scalar loss.

    `targets_kind` says what the loss can take: "soft" (class indices `[B]` or probabilities `[B, C]`), "indices"
    (class indices only) or "values" (regression targets). A wrapper has the kind of its inner objective.
    `mixes_targets` says that an image's target ends up in other images too.

    What a training loop may do with any objective, and `kedge.training` does: say how far it is with `set_progress`,
    call `prepare` before it starts and `on_gradients` between backward and the optimizer's step, and read `logged` and
    `passes`. An objective that needs more than its call says so.

    Attributes:
        progress: the share of training that is done, 0 to 1; 1 where nobody says.
        logged: scalars of the last step, detached, by name.
    """

    targets_kind: str = "soft"
    mixes_targets: bool = False
    progress: float = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.logged: dict[str, Tensor] = {}

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


class CrossEntropy(Objective):
    """Cross-entropy of the logits with class indices `[B]` or probabilities `[B, C]`.

    Args:
        label_smoothing: share ε of the target that is spread evenly: (1 - ε) t + ε / C.
        class_weights: `[C]`, or None. A sample's loss is weighted by the weight of its target, Σ_c w_c t_c, and the
            mean is over weights; for class indices this is `torch.nn.functional.cross_entropy(weight=...)`, and a
            uniform target keeps the uniform distribution as its minimum.
    """

    class_weights: Tensor | None

    def __init__(self, label_smoothing: float = 0.0, class_weights: Tensor | Sequence[float] | None = None) -> None:
        super().__init__()
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
        self.label_smoothing = label_smoothing
        weights = None if class_weights is None else torch.as_tensor(class_weights, dtype=torch.float32)
        self.register_buffer("class_weights", weights, persistent=False)

    def extra_repr(self) -> str:
        """What `repr` shows."""
        return f"label_smoothing={self.label_smoothing}, weighted={self.class_weights is not None}"

    def forward(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The mean cross-entropy."""
        logits = model(images)
        targets = check_targets(targets, logits)
        if self.class_weights is None:
            return F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)
        weights = self.class_weights.to(logits.device)
        if len(weights) != logits.shape[1]:
            raise ValueError(f"class_weights has {len(weights)} values, but the model has {logits.shape[1]} outputs")
        sample = weights[targets] if targets.ndim == 1 else targets.to(weights.dtype) @ weights
        losses = F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing, reduction="none")
        return (sample * losses).sum() / sample.sum()


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
    return targets.long() if targets.ndim == 1 else targets


def soft_targets(targets: Tensor, num_classes: int) -> Tensor:
    """Targets as probabilities `[B, C]` float32, from class indices `[B]` or as they are."""
    if targets.ndim == 2:
        return targets
    return F.one_hot(targets.long(), num_classes).float()


def num_outputs(model: nn.Module) -> int:
    """How many outputs `model` says it has (`num_outputs`, or `num_classes` as in timm); the model may be wrapped."""
    for name in ("num_outputs", "num_classes"):
        found = getattr(unwrapped(model), name, None)
        if isinstance(found, int):
            return found
    raise ValueError(f"{type(model).__name__} does not say how many outputs it has: set model.num_outputs")


def unwrapped(model: nn.Module) -> nn.Module:
    """The model inside `torch.compile` and data-parallel wrappers."""
    while True:
        inner = getattr(model, "_orig_mod", getattr(model, "module", None))
        if not isinstance(inner, nn.Module):
            return model
        model = inner

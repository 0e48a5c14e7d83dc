"""What all objectives share: the base, what a loop tells them, and the targets."""

import math
from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor, nn

from kedge.anchoring import PixelModel
from kedge.checks import check_images, check_target_values, check_tensor, class_indices, readable
from kedge.objectives._views import stated_outputs, unwrapped


class Objective(nn.Module):
    """Base of all objectives: called with (model, images, targets), returns a scalar loss.

    `targets_kind` says what the loss can take: "soft" (class indices `[B]` or probabilities `[B, C]`), "indices"
    (class indices only) or "values" (regression targets). A wrapper has the kind of its inner objective.
    `mixes_targets` says that an image's target ends up in other images too, `changes_images` that the inner objective
    gets other images than this one, or that the model sees others beside them. `equal_classes` says that it corrects
    for how often classes come: the probabilities of what it trains are those of classes that are equally frequent.
    `reads_layers` says that it takes logits from layers inside the model in place of what the model puts out, so that
    no objective round it can map them.

    What a training loop may do with any objective, and `kedge.training` does: say how far it is with `set_progress`,
    call `prepare` before it starts and `on_gradients` between backward and the optimizer's step, and read `logged` and
    `passes`. An objective that needs more than its call says so: `streams` names the batches of further images that a
    loop hands over with `set_streams` before each step, and parameters of its own that require gradients are trained
    with those of the model.

    The first batch is looked at, for which the device is waited for: images that cannot be in [0, 1] (for a model of
    kedge; for another only NaN and infinity), labels out of range and soft targets that are no probabilities raise
    ValueError. Later batches are taken as they are; see `set_looks`.

    Attributes:
        looks: how many more batches are looked at.
        progress: the share of training that is done, 0 to 1; 1 where nobody says.
        logged: scalars of the last step, detached, by name.
        needs_temperature: whether the softmax of the logits is no probability until a temperature is fitted.
        streams: the names of the further images that a step needs, such as ("outliers",).
        labelled_streams: those of them whose labels `[M]` it needs too, handed over as `NAME_labels`: they have the
            classes of the training images, and none of these is among them.
        one_process: whether it is for one process alone, with a model that is not compiled.
        in_repr: the names of the arguments that `repr` shows.
    """

    room = "objectives"
    streams: tuple[str, ...] = ()
    labelled_streams: tuple[str, ...] = ()
    one_process: bool = False
    in_repr: tuple[str, ...] = ()
    targets_kind: str = "soft"
    mixes_targets: bool = False
    changes_images: bool = False
    equal_classes: bool = False
    reads_layers: bool = False
    needs_temperature: bool = False
    progress: float = 1.0
    looks: int = 1

    def __init__(self) -> None:
        super().__init__()
        self.logged: dict[str, Tensor] = {}
        self._streams: Mapping[str, Tensor] = {}

    def __call__(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The loss, with a look at the batch while `looks` says so. Raises ValueError for a batch without images."""
        check_tensor(images)
        if not len(images):  # its mean is NaN, and so would the weights be
            raise ValueError(f"a batch without images has no loss, got {list(images.shape)}: leave it out of the loop")
        if self.looks < 1:
            return self._loss(model, images, targets)
        check_tensor(targets, "targets", "[B] or [B, C]")
        if not (readable(images) and readable(targets)):
            return self._loss(model, images, targets)
        core, classes = unwrapped(model), stated_outputs(model)
        few = targets.ndim == 0 or len(images) != len(targets)
        if few and classes is not None and self.targets_kind != "values":  # else the loss says so, which sees logits
            b, other = len(images), f"{targets.dtype} {list(targets.shape)}"
            raise ValueError(f"targets must be class indices [{b}] or probabilities [{b}, {classes}], got {other}")
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

    def extra_repr(self) -> str:
        """What `repr` shows."""
        return ", ".join(f"{name}={getattr(self, name)!r}" for name in self.in_repr)

    def stream(self, name: str, images: Tensor | None = None) -> Tensor:
        """The further images `[M, C, H, W]` of this step that are called `name`.

        With the `images` of the step they are as many and as large as these, of their kind and on their device.

        Raises:
            RuntimeError: without them.
            ValueError: for another shape or number than the `images`.
        """
        if name not in self._streams:
            raise RuntimeError(
                f"{type(self).__name__} needs {name} in each step: call kedge.objectives.set_streams(objective, "
                f"{name}=images) before it; in a recipe write extra: {{{name}: FOLDER}}"
            )
        further = self._streams[name]
        if images is None:
            return further
        if further.shape != images.shape:
            raise ValueError(
                f"{type(self).__name__}: {name} images are as many and as large as the images {list(images.shape)}, "
                f"got {list(further.shape)}"
            )
        return further.to(images)

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


def set_progress(objective: nn.Module, share: float) -> None:
    """Tell an objective and all inside it how far training is, 0 to 1: schedules of theirs follow it."""
    for each in objective.modules():
        if isinstance(each, Objective):
            each.progress = share


def set_streams(objective: nn.Module, **batches: Tensor) -> None:
    """Hand the further images of a step `[M, C, H, W]`, by their names, to an objective and all inside it.

    They are pixels in [0, 1] as the images are, of the same shape, and as a rule as many. Labels `[M]` of those called
    NAME, where an objective needs them, are called NAME_labels.
    """
    for each in objective.modules():
        if isinstance(each, Objective):
            each._streams = batches


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


def soft_targets(targets: Tensor, num_classes: int) -> Tensor:
    """Targets as probabilities `[B, C]` float32, from class indices `[B]` or as they are."""
    if targets.ndim == 2:
        return targets
    return F.one_hot(class_indices(targets, "targets"), num_classes).float()


def check_share(name: str, value: float, what: str = "a share") -> None:
    """Raise ValueError unless `value` is in [0, 1]."""
    if not 0 <= value <= 1:
        raise ValueError(f"{name} is {what}, 0 to 1, got {value}")


def check_weight(name: str, value: float, what: str = "a number") -> None:
    """Raise ValueError unless `value` is finite and 0 or more."""
    if not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{name} is {what}, 0 or more, got {value}")

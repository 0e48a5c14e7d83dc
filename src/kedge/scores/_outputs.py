"""What a model says about a batch, computed once and shared by all scores."""

import dataclasses
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kedge.anchoring import AnchoredModel, PixelModel
from kedge.anchoring.inference import budget_of, references_at_a_time
from kedge.anchoring.last_layer import affine, inputs_of, last_layer
from kedge.anchoring.twin import in_eval
from kedge.checks import check_images


@dataclass(frozen=True)
class Outputs:
    """What scores read, for B images.

    Attributes:
        logits: `[B, C]`.
        uncertainty: `[B]` disagreement between references, higher = less sure; None where there is none.
        features: `[B, D]` what the last layer reads (for an anchored model the mean over the references used), or
            None when it was not collected or the network has no such layer.
        masked: `[B, C]` logits of [0, x - r], the reference hidden, the mean over the references used; None for
            other than anchored models and when it was not collected.
        head: the last layer's weight `[C, D]` and bias `[C]` where there are features. W·features + b is what the
            network returned: `logits` of a model with a temperature are that, divided by it.
        temperature: what `logits` were divided by; nothing else was.
    """

    logits: Tensor
    uncertainty: Tensor | None = None
    features: Tensor | None = None
    masked: Tensor | None = None
    head: tuple[Tensor, Tensor] | None = None
    temperature: float = 1.0

    def __len__(self) -> int:
        return len(self.logits)

    @staticmethod
    def cat(parts: Sequence["Outputs"]) -> "Outputs":
        """The batches as one. What is None in one of them is None, and the head is that of the first."""
        if not parts:
            raise ValueError("there are no outputs to put together: parts is empty")
        joined: dict[str, Any] = {}
        for name in ("logits", "uncertainty", "features", "masked"):
            values = [getattr(part, name) for part in parts]
            joined[name] = None if any(value is None for value in values) else torch.cat(values)
        head = parts[0].head if joined["features"] is not None else None
        return Outputs(**joined, head=head, temperature=parts[0].temperature)

    def to(self, device: torch.device | str) -> "Outputs":
        """The same on another device."""
        moved: dict[str, Any] = {
            field.name: tuple(t.to(device) for t in value) if isinstance(value, tuple) else value.to(device)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), Tensor | tuple)
        }
        return Outputs(**moved, temperature=self.temperature)


@torch.no_grad()
def outputs_of(
    model: Callable[[Tensor], Any],
    images: Tensor,
    references: Any = None,
    *,
    features: bool = False,
    masked: bool = False,
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
        check: look at the images, for which the device is waited for.
    """
    if check:
        check_images(images)
    adaptive = isinstance(model, AnchoredModel) and isinstance(references, str) and references == "adaptive"
    layer = last_layer(model, images) if features and not adaptive and isinstance(model, nn.Module) else None
    with _collecting(layer) as seen:
        if isinstance(model, AnchoredModel):
            count = _count(model, references)
            prediction = model.predict(images, references=references, check=False)
            outputs = Outputs(prediction.logits, prediction.uncertainty)
        elif isinstance(model, PixelModel):
            count = 1
            outputs = Outputs(model.predict(images, check=False).logits)  # type: ignore[operator]
        else:
            count = 1
            outputs = Outputs(_logits_of(model, images))
    if layer is not None and (seen or len(images) == 0):
        weight, bias = affine(layer)
        parts = [inputs_of(layer, x) for x in seen if len(x)]
        if not parts:
            collected = weight.new_zeros(0, weight.shape[1])
        else:
            collected = torch.cat(parts) if count == 1 else _mean_of_passes(parts, count, len(images))
        outputs = dataclasses.replace(outputs, features=collected, head=(weight, bias))
    temperature = (model.temperature or 1.0) if isinstance(model, PixelModel) else 1.0
    if masked and isinstance(model, AnchoredModel):
        outputs = dataclasses.replace(outputs, masked=_masked_logits(model, images, references) * temperature)
    return dataclasses.replace(outputs, temperature=temperature)


def _mean_of_passes(passes: list[Tensor], count: int, batch: int) -> Tensor:
    """The mean over `count` references `[B, D]` of what their passes gave, `[k * b, D]` each, reference-major."""
    budget = budget_of(batch, None)
    at_a_time, each = references_at_a_time(count, batch, budget), iter(passes)
    total = torch.zeros(())
    for k in [min(at_a_time, count - first) for first in range(0, count, at_a_time)]:
        sums = [next(each).unflatten(0, (k, -1)).float().sum(0) for _ in range(-(-batch // (budget // k)))]
        total = total.to(sums[0]) + torch.cat(sums)
    return total / count


def _logits_of(model: Callable[[Tensor], Any], images: Tensor) -> Tensor:
    if isinstance(model, nn.Module):
        with in_eval(model) as quiet:
            logits = quiet(images)
    else:
        logits = model(images)
    if not isinstance(logits, Tensor):
        raise ValueError(
            f"a model must return logits [B, C] as a torch tensor, but it returned {type(logits).__name__}; "
            "wrap it in a function that returns a tensor of the logits alone"
        )
    if logits.ndim != 2 or len(logits) != len(images):
        seen = f"a tensor {list(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
        raise ValueError(
            f"a model must return logits [B, C], but for {len(images)} images {type(model).__name__} returned {seen}; "
            "wrap it in a function that returns the logits alone"
        )
    return logits


@contextmanager
def _collecting(layer: nn.Module | None) -> Iterator[list[Tensor]]:
    """What `layer` reads within, call by call of this thread."""
    seen: list[Tensor] = []
    if layer is None:
        yield seen
        return
    thread = threading.get_ident()

    def read(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        if threading.get_ident() == thread:
            seen.append(inputs[0].detach())

    handle = layer.register_forward_pre_hook(read)
    try:
        yield seen
    finally:
        handle.remove()


def _count(model: AnchoredModel, references: Any) -> int:
    """How many references every image meets in one prediction."""
    if isinstance(references, str):
        return 1  # "blt": its best one
    if isinstance(references, Tensor):
        return 1 if references.ndim == len(model.input_shape) else len(references)
    return len(model.references) if references is None else int(references)


def _masked_logits(model: AnchoredModel, images: Tensor, references: Any) -> Tensor:
    """Logits `[B, C]` of [0, x - r], the mean over the references."""
    if isinstance(references, Tensor):
        bank = references if references.ndim == images.ndim else references[None]
    else:
        bank = model.references if references is None or isinstance(references, str) else model.references[:references]
    hidden = torch.ones(len(images), dtype=torch.bool, device=images.device)
    with in_eval(model) as quiet:
        total = sum(quiet(images, references=r, mask=hidden).float() for r in bank.split(1))
    assert isinstance(total, Tensor)
    return total / len(bank)

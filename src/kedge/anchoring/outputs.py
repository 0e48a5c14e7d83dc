"""What a model says about a batch, computed once and shared by all who read it."""

import dataclasses
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from kedge.anchoring.budget import budget_of, references_at_a_time
from kedge.anchoring.last_layer import affine, inputs_of
from kedge.anchoring.stem import at_least_float32
from kedge.postprocess import undo


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
        reverse: `[B, K]` -log p of the true class of each of K labelled images, with this image as their reference,
            before the steps; None for other than anchored models and when it was not collected.
        head: the last layer's weight `[C, D]` and bias `[C]` where there are features. W·features + b is what the
            network returned, see `network_logits`.
        steps: those that `logits` went through after the network, such as a temperature; nothing else did.
        members: `[B, M]` int64, the class that each member of an ensemble, or each reference of an anchored model,
            answers by itself; None where it was not asked for, there is one only, or there are more than 64.
        of_members: whether the uncertainty is the disagreement of an ensemble's members, in nats, not of references.
        familiarity: `[B]`, how near the images are to prototypes, where the rule for `unknown` goes by that and there
            are no features to tell it from: of an exported file, of references="adaptive"; else None.
    """

    logits: Tensor
    uncertainty: Tensor | None = None
    features: Tensor | None = None
    masked: Tensor | None = None
    reverse: Tensor | None = None
    head: tuple[Tensor, Tensor] | None = None
    steps: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    of_members: bool = False
    members: Tensor | None = None
    familiarity: Tensor | None = None

    @property
    def reference_spread(self) -> Tensor | None:
        """`[B]` the uncertainty where it is the disagreement between references: std of the sigmoids of logits."""
        return None if self.of_members else self.uncertainty

    @property
    def unnormalised(self) -> Tensor | None:
        """The logits; None where the network gives log probabilities, whose free energy is 0 for every image."""
        sums = self.network_logits().logsumexp(dim=1).abs()
        return None if len(sums) and bool((sums < 1e-2).all()) else self.logits

    def present(self) -> frozenset[str]:
        """The names of all that is there and that a score can need."""
        names = [each.name for each in dataclasses.fields(self)] + ["reference_spread", "unnormalised"]
        return frozenset(name for name in names if getattr(self, name) is not None)

    def network_logits(self) -> Tensor:
        """`[B, C]` in float32 or better: the logits as the network gave them, without the model's steps."""
        return undo(self.steps, self.logits.to(at_least_float32(self.logits)))

    @property
    def temperature(self) -> float:
        """What the logits were divided by; 1 where they were not."""
        return float(self.steps["temperature"]["value"]) if "temperature" in self.steps else 1.0

    def __len__(self) -> int:
        return len(self.logits)

    @staticmethod
    def cat(parts: Sequence["Outputs"]) -> "Outputs":
        """The batches as one. What is None in one of them is None, and the head is that of the first."""
        if not parts:
            raise ValueError("there are no outputs to put together: parts is empty")
        joined: dict[str, Any] = {}
        for name in ("logits", "uncertainty", "features", "masked", "reverse", "members", "familiarity"):
            values = [getattr(part, name) for part in parts]
            joined[name] = None if any(value is None for value in values) else torch.cat(values)
        head = parts[0].head if joined["features"] is not None else None
        return Outputs(**joined, head=head, steps=parts[0].steps, of_members=parts[0].of_members)

    def to(self, device: torch.device | str) -> "Outputs":
        """The same on another device."""
        moved: dict[str, Any] = {
            each.name: tuple(t.to(device) for t in value) if isinstance(value, tuple) else value.to(device)
            for each in dataclasses.fields(self)
            if isinstance(value := getattr(self, each.name), Tensor | tuple)
        }
        return dataclasses.replace(self, **moved)


@contextmanager
def collecting(layer: nn.Module | None) -> Iterator[list[Tensor]]:
    """What `layer` reads within, call by call of this thread."""
    inputs: list[Tensor] = []
    if layer is None:
        yield inputs
        return
    thread = threading.get_ident()

    def read(_: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        if threading.get_ident() == thread:
            inputs.append(arguments[0].detach())

    with layer.register_forward_pre_hook(read):
        yield inputs


def features_of(
    layer: nn.Module, passes: list[Tensor], count: int, batch: int, max_rows: int | None = None
) -> Tensor | None:
    """Features `[B, D]`, the mean over `count` references of what `layer` read in passes; None if it read nothing."""
    if not passes and batch:
        return None
    parts = [inputs_of(layer, x) for x in passes if len(x)]
    if not parts:
        weight = affine(layer)[0]
        return weight.new_zeros(0, weight.shape[1])
    return torch.cat(parts) if count <= 1 else mean_of_passes(parts, count, batch, max_rows)


def mean_of_passes(passes: list[Tensor], count: int, batch: int, max_rows: int | None = None) -> Tensor:
    """The mean over `count` references `[B, D]` of what their passes gave, `[k * b, D]` each, reference-major."""
    budget = budget_of(batch, max_rows)
    at_a_time, each = references_at_a_time(count, batch, budget), iter(passes)
    total = torch.zeros(())
    for k in [min(at_a_time, count - first) for first in range(0, count, at_a_time)]:
        sums = [next(each).unflatten(0, (k, -1)).float().sum(0) for _ in range(-(-batch // (budget // k)))]
        total = total.to(sums[0]) + torch.cat(sums)
    return total / count

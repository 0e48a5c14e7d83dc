"""The first layer of an anchored network, affine in its input, as a function of the image and its reference."""

import copy
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

PLAIN_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def is_plain(layer: nn.Module) -> bool:
    """Whether `layer` is exactly a torch convolution or linear layer, its weight used as stored."""
    return (
        type(layer) in PLAIN_LAYERS
        and getattr(layer, "groups", 1) == 1
        and set(layer._parameters) == {"weight", "bias"}
        and isinstance(layer._parameters["weight"], nn.Parameter)
        and not layer._forward_pre_hooks
        and not layer._forward_hooks
    )


def unwatched(layer: nn.Module) -> bool:
    """Whether nobody but the caller holds what a plain `layer` returns: no hook, on it or on all modules, saw it."""
    return not layer._forward_hooks and not torch.nn.modules.module._global_forward_hooks


def apply_plain(layer: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Run the plain `layer` with another weight; padding, stride and padding mode are its own."""
    if isinstance(layer, nn.Linear):
        return F.linear(inputs, weight, bias)
    return layer._conv_forward(inputs, weight, bias)


class InPlaceOf(nn.Module):
    """A module that stands where a layer was: other attributes are those of the layer that `stands_for` names.

    Networks ask their first layer for its dtype or its stride.
    """

    stands_for: ClassVar[str]

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            # Not the layer's own way of being copied or pickled.
            if name.startswith("_"):
                raise
            return getattr(super().__getattr__(self.stands_for), name)


class AnchoredStem(InPlaceOf):
    """Two copies of an affine layer, `residual` (f_d) and `reference` (f_r): f_d(x) + (f_r(r) - f_d(r)).

    That is the widened layer W = [W_r | W_d] applied to [r, x - r], for any affine f. The input holds two halves
    [a | b] on the channel axis and the output is f_d(a) + (f_r(b) - f_d(b)): (a, b) = (x, r) is the anchored
    tuple, (x - r, 0) the masked one. A plain layer runs once, with the weight [W_d | W_r - W_d]; the difference
    is formed in float32, or a small reference term would drown in the rounding of half precision.

    Inside `bound(terms)` the input is x alone and the reference part is already computed.
    """

    stands_for = "residual"
    # A torch layer of one of several kinds; its weight and bias are looked at only where it is plain.
    residual: Any
    reference: Any

    def __init__(self, layer: nn.Module, axis: int) -> None:
        super().__init__()
        self.residual = layer
        self.reference = copy.deepcopy(layer)
        self.widened = is_plain(layer)
        self.axis = axis
        if self.widened:
            # f_d's bias cancels in f_r(r) - f_d(r), so one bias is enough.
            self.reference.bias = None
        self._bound = _Bound()

    @property
    def at_hand(self) -> bool:
        """Whether the weights can be read at any time; sharded ones (FSDP) are whole while the network runs."""
        return not any(hasattr(parameter, "full_tensor") for parameter in self.parameters())

    def difference(self) -> Tensor:
        """W_r - W_d of a plain layer, in float32 or better."""
        dtype = at_least_float32(self.residual.weight)
        return self.reference.weight.to(dtype) - self.residual.weight.to(dtype)

    def reference_terms(self, references: Tensor) -> Tensor:
        """f_r(r) - f_d(r) for normalised references `[K, ...]` as they arrive at the layer, at least float32."""
        dtype = at_least_float32(references)
        with torch.autocast(references.device.type, enabled=False):
            if self.widened:
                return apply_plain(self.residual, references.to(dtype), self.difference(), None)
            if dtype == references.dtype:
                return self.reference(references) - self.residual(references)
            r = references.to(dtype)
            f_r, f_d = (functional_call(f, _in(f, dtype), (r,)) for f in (self.reference, self.residual))
            return f_r - f_d

    @contextmanager
    def bound(self, terms: Tensor) -> Iterator[None]:
        """Within, inputs are K copies `[K * B, ...]` of a batch, reference-major, and `terms` is `[K, ...]`."""
        self._bound.terms = terms
        try:
            yield
        finally:
            self._bound.terms = None

    def forward(self, inputs: Tensor) -> Tensor:
        """The layer's outputs for [a | b], or for x alone inside `bound`."""
        terms = self._bound.terms
        if terms is not None:
            outputs = self.residual(inputs[: len(inputs) // len(terms)])
            fresh = self.widened and unwatched(self.residual) and not outputs.requires_grad
            return outputs.add_(terms) if fresh and len(terms) == 1 else add_terms(outputs, terms)
        if self.widened:
            weight = self.residual.weight
            widened = torch.cat([weight, self.difference().to(weight.dtype)], 1)
            return apply_plain(self.residual, inputs, widened, self.residual.bias)
        x, r = inputs.chunk(2, self.axis)
        outputs = self.residual(x)
        return (outputs + self.reference_terms(r)).to(outputs.dtype)


class _Bound(threading.local):
    """What `bound` holds: each thread has its own, or concurrent predictions would mix their references."""

    terms: Tensor | None = None

    def __reduce__(self) -> tuple[type["_Bound"], tuple[()]]:
        return _Bound, ()


def add_terms(outputs: Tensor, terms: Tensor) -> Tensor:
    """Add K reference terms `[K, ...]` to the layer's outputs `[B, ...]`: `[K * B, ...]`, reference-major."""
    if len(terms) == 1:
        return (outputs + terms).to(outputs.dtype)
    return (outputs[None] + terms[:, None]).flatten(0, 1).to(outputs.dtype)


def at_least_float32(tensor: Tensor) -> torch.dtype:
    """The dtype of `tensor`, or float32 for half precision."""
    return torch.promote_types(tensor.dtype, torch.float32)


def _in(layer: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    named = [*layer.named_parameters(), *layer.named_buffers()]
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in named}

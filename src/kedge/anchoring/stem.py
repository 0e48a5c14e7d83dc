"""The first layer of an anchored network, affine in its input, as a function of the image and its reference."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

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


def apply_plain(layer: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Run the plain `layer` with another weight; padding, stride and padding mode are its own."""
    if isinstance(layer, nn.Linear):
        return F.linear(inputs, weight, bias)
    return layer._conv_forward(inputs, weight, bias)


class AnchoredStem(nn.Module):
    """Two copies of an affine layer, `residual` (f_d) and `reference` (f_r): f_d(x) + (f_r(r) - f_d(r)).

    That is the widened layer W = [W_r | W_d] applied to [r, x - r], for any affine f. The input holds two halves
    [a | b] on the channel axis and the output is f_d(a) + (f_r(b) - f_d(b)): (a, b) = (x, r) is the anchored
    tuple, (x - r, 0) the masked one. A plain layer runs once, with the weight [W_d | W_r - W_d]; the difference
    is formed in float32, or a small reference term would drown in the rounding of half precision.

    Inside `bound(terms)` the input is x alone and the reference part is already computed.
    """

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
        self._terms: Tensor | None = None

    def difference(self) -> Tensor:
        """W_r - W_d of a plain layer, in float32."""
        return self.reference.weight.float() - self.residual.weight.float()

    def reference_terms(self, references: Tensor) -> Tensor:
        """f_r(r) - f_d(r) for normalised references `[K, ...]` as they arrive at the layer: `[K, ...]`."""
        with torch.autocast(references.device.type, enabled=False):
            if self.widened:
                term = apply_plain(self.residual, references.float(), self.difference(), None)
                return term.to(self.residual.weight.dtype)
            return self.reference(references) - self.residual(references)

    @contextmanager
    def bound(self, terms: Tensor) -> Iterator[None]:
        """Within, inputs are K copies `[K * B, ...]` of a batch, reference-major, and `terms` is `[K, ...]`."""
        self._terms = terms
        try:
            yield
        finally:
            self._terms = None

    def forward(self, inputs: Tensor) -> Tensor:
        """The layer's outputs for [a | b], or for x alone inside `bound`."""
        if self._terms is not None:
            return add_terms(self.residual(inputs[: len(inputs) // len(self._terms)]), self._terms)
        if self.widened:
            weight = self.residual.weight
            widened = torch.cat([weight, self.difference().to(weight.dtype)], 1)
            return apply_plain(self.residual, inputs, widened, self.residual.bias)
        x, r = inputs.chunk(2, self.axis)
        return self.residual(x) + (self.reference(r) - self.residual(r))


def add_terms(outputs: Tensor, terms: Tensor) -> Tensor:
    """Add K reference terms `[K, ...]` to the layer's outputs `[B, ...]`: `[K * B, ...]`, reference-major."""
    terms = terms.to(outputs.dtype)
    if len(terms) == 1:
        return outputs + terms
    return (outputs[None] + terms[:, None]).flatten(0, 1)

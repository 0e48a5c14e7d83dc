"""Fold a reference and the normalisation into an ordinary network."""

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kedge.anchoring.protocol import independent
from kedge.anchoring.referenced import ReferencedModel
from kedge.anchoring.stem import AnchoredStem, InPlaceOf, unwatched
from kedge.postprocess import Stepped


class FoldedStem(InPlaceOf):
    """An affine layer on pixels that holds everything constant: normalisation, bias and the reference's part.

    A plain layer takes 1 / std into its weight, and its outputs for a black image, the reference's part with them, are
    a constant: merged into its bias where they are the same everywhere, else a map. Padding acts after normalisation,
    so that the mean makes a map at the borders: where the reference's part alone is the same everywhere (that of the
    mean reference is zero), the mean is taken off the pixels instead, which is cheaper than a map on many channels,
    and takes images of any size.
    Another affine layer runs on pixels / std, with a map.
    """

    stands_for = "layer"
    CONSTANTS: ClassVar[tuple[str, ...]] = ("mean", "scale", "map", "bias")
    mean: Tensor | None
    scale: Tensor | None
    map: Tensor | None

    def __init__(self, stem: AnchoredStem, black: Tensor, reference: Tensor, mean: Tensor, scale: Tensor) -> None:
        super().__init__()
        layer: Any = copy.deepcopy(stem.residual)
        terms = stem.reference_terms(reference)
        whole = (stem.residual(black) + terms).to(black.dtype)
        self.plain = stem.widened
        self.register_buffer("mean", None)
        self.register_buffer("scale", None if self.plain else scale)
        self.register_buffer("map", None)
        if self.plain:
            weight = layer.weight
            by_channel = scale.flatten(2)[..., 0] if scale.ndim > 2 else scale
            weight.mul_(by_channel.reshape(1, -1, *[1] * (weight.ndim - 2)))
            bias, part = _constant(layer, whole), _constant(layer, terms.to(black.dtype))
            if bias is not None:
                layer.bias = nn.Parameter(bias)
            elif part is not None:
                self.mean = mean
                layer.bias = nn.Parameter(part if layer.bias is None else layer.bias + part)
            else:
                layer.bias, self.map = None, whole
        else:
            self.map = whole - layer(torch.zeros_like(black))
        self.layer = layer

    def description(self) -> dict[str, Any]:
        """What `empty` needs beside the layer: plain, and the shapes of the constants that there are."""
        constants = {
            "mean": self.mean,
            "scale": self.scale,
            "map": self.map,
            "bias": self.layer.bias if self.plain else None,
        }
        return {"plain": self.plain, "shapes": {name: list(x.shape) for name, x in constants.items() if x is not None}}

    @classmethod
    def empty(cls, layer: Any, plain: bool, shapes: dict[str, list[int]]) -> "FoldedStem":
        """One without a reference in it, for a state dict to fill: `layer` as it was before, constants of zero."""
        stem = cls.__new__(cls)
        nn.Module.__init__(stem)
        stem.plain = plain
        for name in ("mean", "scale", "map"):
            stem.register_buffer(name, torch.zeros(shapes[name]) if name in shapes else None)
        if plain:
            layer.bias = nn.Parameter(torch.zeros(shapes["bias"])) if "bias" in shapes else None
        stem.layer = layer
        return stem

    def forward(self, pixels: Tensor) -> Tensor:
        """The layer's outputs for images in [0, 1]."""
        if self.mean is not None:
            pixels = pixels - self.mean
        if self.scale is not None:
            pixels = pixels * self.scale
        outputs = self.layer(pixels)
        if self.map is None:
            return outputs
        if outputs.shape[1:] != self.map.shape[1:]:
            raise ValueError(
                f"this network was folded for one image size, and {list(pixels.shape[2:])} is another; "
                "fold again with image_size="
            )
        # A plain layer has just made these outputs; another kind might hold on to them.
        return outputs.add_(self.map) if self.plain and unwatched(self.layer) else outputs + self.map


def _constant(layer: nn.Module, outputs: Tensor) -> Tensor | None:
    """The value of each output channel `[C_out]` of a layer's outputs `[1, ...]`; None where positions differ."""
    positions = outputs[..., None] if isinstance(layer, nn.Linear) else outputs.flatten(2)
    spread = float((positions - positions[..., :1]).abs().max())
    same = spread <= 1e-7 * max(1.0, float(positions.abs().max()))
    return positions[..., 0].flatten() if same else None


@torch.no_grad()
def fold_network(model: ReferencedModel, reference: Tensor, image_size: tuple[int, int] | None) -> nn.Module:
    """The network of `model` with `reference` `[1, C, H, W]` and the normalisation in its first layer; checked.

    With steps after the logits it is wrapped in a module that does them.
    """
    twin = independent(model).eval()
    shape = twin.input_shape if image_size is None else (twin.input_shape[0], *image_size)
    black = twin.mean.new_zeros(1, *shape)
    r = twin._fitted(reference, black)
    images = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)).to(black)
    expected = twin(images, references=reference)

    # One value for each channel, unless the layer sees the image flattened.
    scale = 1 / twin.std if twin.stem.axis == 1 else twin._arriving((1 / twin.std).expand(1, *shape))
    folded = FoldedStem(twin.stem, twin._arriving(twin.normalise(black)), twin._arriving(r), twin.mean, scale)
    network: nn.Module = twin.network
    parent, _, child = twin.first_layer.rpartition(".")
    setattr(network.get_submodule(parent), child, folded)
    network.requires_grad_(False)
    if model.steps:
        network = Stepped(network, model.steps).eval()

    error = float((expected - network(images)).abs().max())
    if error > tolerance(black.dtype, expected):
        raise ValueError(
            f"the folded network disagrees with the anchored one by {error:.3g}; the model changes its input "
            "before the first layer in a way that cannot be folded"
        )
    return network


def tolerance(dtype: torch.dtype, outputs: Tensor) -> float:
    """The largest difference that rounding explains for outputs of this size."""
    base = {torch.float64: 1e-9, torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}
    return base.get(dtype, 1e-5) * max(1.0, float(outputs.float().abs().max()))

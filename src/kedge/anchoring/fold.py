"""Fold a reference and the normalisation into an ordinary network."""

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kedge.anchoring.stem import AnchoredStem, InPlaceOf
from kedge.anchoring.steps import Tempered

if TYPE_CHECKING:
    from kedge.anchoring.model import AnchoredModel


class FoldedStem(InPlaceOf):
    """An affine layer on pixels: the layer's linear part on x / std, plus a map that holds everything constant.

    The map is the anchored layer's output for a black image, so padding, which acts after normalisation, is exact
    at the borders. A plain layer takes 1 / std into its weight, and a map that is the same everywhere into its bias.
    """

    stands_for = "layer"
    scale: Tensor | None
    map: Tensor | None

    def __init__(self, stem: AnchoredStem, black: Tensor, reference: Tensor, scale: Tensor) -> None:
        super().__init__()
        layer: Any = copy.deepcopy(stem.residual)
        whole = (stem.residual(black) + stem.reference_terms(reference)).to(black.dtype)
        if stem.widened:
            weight = layer.weight
            by_channel = scale.flatten(2)[..., 0] if scale.ndim > 2 else scale
            weight.mul_(by_channel.reshape(1, -1, *[1] * (weight.ndim - 2)))
            positions = whole[..., None] if isinstance(layer, nn.Linear) else whole.flatten(2)
            spread = float((positions - positions[..., :1]).abs().max())
            same = spread <= 1e-7 * max(1.0, float(positions.abs().max()))
            layer.bias = nn.Parameter(positions[..., 0].flatten()) if same else None
            self.register_buffer("scale", None)
            self.register_buffer("map", None if same else whole)
        else:
            self.register_buffer("scale", scale)
            self.register_buffer("map", whole - layer(torch.zeros_like(black)))
        self.layer = layer

    def forward(self, pixels: Tensor) -> Tensor:
        """The layer's outputs for images in [0, 1]."""
        outputs = self.layer(pixels if self.scale is None else pixels * self.scale)
        if self.map is None:
            return outputs
        if outputs.shape[1:] != self.map.shape[1:]:
            raise ValueError(
                f"this network was folded for one image size, and {list(pixels.shape[2:])} is another; "
                "fold again with image_size="
            )
        return outputs + self.map


@torch.no_grad()
def fold_network(model: "AnchoredModel", reference: Tensor, image_size: tuple[int, int] | None) -> nn.Module:
    """The network of `model` with `reference` `[1, C, H, W]` and the normalisation in its first layer; checked.

    With a temperature it is wrapped in a module that divides by it.
    """
    twin = copy.deepcopy(model).eval()
    shape = twin.input_shape if image_size is None else (twin.input_shape[0], *image_size)
    black = twin.mean.new_zeros(1, *shape)
    r = twin._fitted(reference, black)

    scale = twin._arriving((1 / twin.std).expand(1, *shape))
    folded = FoldedStem(twin.stem, twin._arriving(twin.normalise(black)), twin._arriving(r), scale)
    network: nn.Module = twin.network
    parent, _, child = twin.first_layer.rpartition(".")
    setattr(network.get_submodule(parent), child, folded)
    network.requires_grad_(False)
    if model.temperature is not None:
        network = Tempered(network, model.temperature).eval()

    images = torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)).to(black)
    expected, got = model.predict(images, references=reference).logits, network(images)
    error = float((expected - got).abs().max())
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

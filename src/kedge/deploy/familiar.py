"""A folded network that says beside its logits how familiar images are, for a rule for `unknown` by prototypes."""

import torch
from torch import Tensor, nn

from kedge.anchoring import PixelModel
from kedge.anchoring.last_layer import inputs_of, last_layer
from kedge.anchoring.outputs import collecting
from kedge.anchoring.prototypes import nearest, reads_features
from kedge.postprocess import Stepped

OUTPUT = "familiarity"  # the name of the output in an exported file


class Familiar(nn.Module):
    """Images `[B, C, H, W]` in [0, 1] to logits `[B, C]` and familiarity `[B]`, of one pass."""

    def __init__(self, network: nn.Module, layer: nn.Module, prototypes: Tensor) -> None:
        super().__init__()
        self.network = network
        self.layer = layer
        self.register_buffer("prototypes", prototypes)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and familiarity."""
        with collecting(self.layer) as passes:
            logits = self.network(images)
        prototypes: Tensor = self.prototypes  # type: ignore[assignment]
        return logits, nearest(inputs_of(self.layer, passes[0]), prototypes)


def with_familiarity(model: PixelModel, folded: nn.Module) -> nn.Module:
    """The network that `model` was folded to, with the familiarity as a second output where its rule asks for one.

    Raises ValueError where no layer of the folded network is its last one.
    """
    prototypes = model.prototypes
    if not reads_features(model.unknown) or prototypes is None:
        return folded
    inner = folded.network if isinstance(folded, Stepped) else folded
    example = torch.rand(2, *model.input_shape, generator=torch.Generator().manual_seed(0))
    if (layer := last_layer(inner, example)) is None:
        raise ValueError(
            "the rule for unknown reads what the last layer of the network reads, and in the folded network there is "
            "none to be found: leave the rule out (model.unknown = None), or train with --familiar null"
        )
    return Familiar(folded, layer, prototypes.detach().clone()).eval()

"""A network cut open for detectors that read more than its logits: stages, feature maps, features with gradients."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from kedge.anchoring.last_layer import inputs_of, last_layer
from kedge.anchoring.twin import evaluating


@torch.no_grad()
def stages(network: nn.Module, example: Tensor) -> list[nn.Module]:
    """The last module at each size of the feature maps, from the largest to the smallest: what is usually a stage.

    Found by running the first two images of `example` `[B, C, H, W]`; maps of a single pixel do not count. Raises
    ValueError for a network without feature maps.
    """
    recorded: dict[tuple[int, ...], nn.Module] = {}

    def note(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and output.shape[2:].numel() > 1:
            recorded[tuple(output.shape[2:])] = module

    with ExitStack() as hooks, evaluating(network):
        for module in network.modules():
            if module is not network:
                hooks.enter_context(module.register_forward_hook(note))
        network(example[:2])
    if not recorded:
        raise ValueError(
            f"{type(network).__name__} has no feature maps [B, C, H, W]; name its layers with layers=[...]"
        )
    return list(recorded.values())


def named_layers(network: nn.Module, names: Sequence[str]) -> list[nn.Module]:
    """The modules of these names, e.g. `["layer3", "layer4"]`. Raises ValueError with the choice for an unknown one."""
    modules = dict(network.named_modules())
    for name in names:
        if name not in modules:
            outer = [n for n in modules if n and n.count(".") <= 1][:40]
            raise ValueError(f"the network has no layer {name!r}; among its layers are {', '.join(outer)}")
    return [modules[name] for name in names]


class Features:
    """Callable: images `[B, C, H, W]` to what the last layer reads, `[B, D]`, with gradients."""

    def __init__(self, network: nn.Module, example: Tensor) -> None:
        layer = last_layer(network, example)
        if layer is None:
            raise ValueError(f"{type(network).__name__} has no affine last layer whose input could be its features")
        self.network, self.layer = network, layer

    def __call__(self, images: Tensor) -> Tensor:
        """Features `[B, D]`."""
        recorded: list[Tensor] = []
        with self.layer.register_forward_pre_hook(lambda _, inputs: recorded.append(inputs[0])):
            self.network(images)
        return inputs_of(self.layer, recorded[0])


class Cut:
    """A network cut after `layer`: `backbone(images)` is its output, `head(maps)` the logits that follow from it.

    The head runs the whole network on the images of the last `backbone` call and puts `maps` in the place of what the
    layer gives, which works for any architecture at the price of a second pass.
    """

    def __init__(self, network: nn.Module, layer: nn.Module) -> None:
        self.network, self.layer = network, layer
        self.images: Tensor | None = None

    def backbone(self, images: Tensor) -> Tensor:
        """Feature maps `[B, C, H, W]`."""
        self.images = images
        recorded: list[Tensor] = []
        self._run(lambda _, __, output: recorded.append(output))
        return recorded[0]

    def head(self, maps: Tensor) -> Tensor:
        """Logits `[B, C]`."""
        return self._run(lambda _, __, ___: maps)

    def _run(self, hook: Any) -> Tensor:
        assert self.images is not None, "head() before backbone()"
        with self.layer.register_forward_hook(hook):
            return self.network(self.images)


class Chain:
    """A network as consecutive steps: `steps[i]` turns the output of step i - 1 into that of `layers[i]`.

    The first step runs the network and keeps the outputs of all `layers`; the others, and `head` for the logits, hand
    out what was kept. So layers of any architecture look like a sequence.
    """

    def __init__(self, network: nn.Module, layers: Sequence[nn.Module]) -> None:
        self.network, self.layers = network, list(layers)
        self.outputs: list[Tensor] = []
        self.logits: Tensor | None = None
        self.steps = [_Step(self, i) for i in range(len(self.layers))]

    def run(self, images: Tensor) -> None:
        """Keep the outputs of all layers and the logits for `images` `[B, C, H, W]`."""
        recorded: dict[int, Tensor] = {}
        with ExitStack() as hooks:
            for i, layer in enumerate(self.layers):
                note = layer.register_forward_hook(lambda _, __, output, i=i: recorded.__setitem__(i, output))
                hooks.enter_context(note)
            self.logits = self.network(images)
        self.outputs = [recorded[i] for i in range(len(self.layers))]

    def head(self, _: Tensor) -> Tensor:
        """The logits kept by the first step."""
        assert self.logits is not None
        return self.logits


class _Step(nn.Module):
    def __init__(self, chain: Chain, index: int) -> None:
        super().__init__()
        # Not a submodule: the step owns no weights.
        self.__dict__["chain"], self.index = chain, index

    def forward(self, inputs: Tensor) -> Tensor:
        chain: Chain = self.__dict__["chain"]
        if self.index == 0:
            chain.run(inputs)
        return chain.outputs[self.index]

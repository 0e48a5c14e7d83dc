"""A frozen trained network and a small one that learns beside it, read together at several depths: `kedge_levi`."""

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import timm
import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

from kedge.residual import _CFG

__all__ = ["LayerEnsemble", "layer_ensemble_of", "mean_answer", "pooling"]

NAME = "kedge_levi"
default_cfgs = generate_default_cfgs({NAME: {**_CFG, "first_conv": None, "classifier": None}})


class LayerEnsemble(nn.Module):
    """L adapting layers, images `[B, C, H, W]` -> the log of the mean of their probabilities `[B, classes]`.

    Adapting layer l is linear on [g_l, h], g_l the pooled output of a layer of the trained network `body` and h
    `[B, d_s]` the features of `small`; the last one reads the features of the body. The body does not learn: its
    weights require no gradient, and it is in eval mode whatever mode the rest is in. One layer answers with its own
    logits.

    Args:
        body, small: each {name in timm: {argument: value}}, without a last layer.
        layers: names of the layers inside the body that are read besides its features, maps `[B, d_l, h, w]`.
        widths: of these layers and of the features, d_l.
        num_classes, in_chans: as of any network.

    Raises:
        ValueError: without body and small, for a name that is no layer, and for more or fewer `widths`.
    """

    def __init__(
        self,
        body: Mapping[str, Mapping[str, Any]] | None = None,
        small: Mapping[str, Mapping[str, Any]] | None = None,
        layers: Sequence[str] = (),
        widths: Sequence[int] = (),
        num_classes: int = 10,
        in_chans: int = 3,
    ) -> None:
        super().__init__()
        if not body or not small:
            raise ValueError(f"{NAME} is made of a trained network and a small one: kedge adapt MODEL --how levi")
        if len(widths) != len(layers) + 1:
            raise ValueError(f"widths are those of {len(layers)} layers and of the features, got {list(widths)}")
        self.body, self.small = (_without_head(each, in_chans) for each in (body, small))
        if unknown := set(layers) - {name for name, _ in self.body.named_modules() if name}:
            raise ValueError(f"layers are names of layers inside the body, which has no {sorted(unknown)[0]!r}")
        self.layers, self.num_classes = list(layers), num_classes
        self.num_features = self.small.head_hidden_size
        self.each = nn.ModuleList(nn.Linear(width + self.num_features, num_classes) for width in widths)
        self.apart = nn.Identity()  # the logits of all adapting layers [B, L, classes], for who records them
        self.body.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "LayerEnsemble":
        """Put all but the body in training mode."""
        super().train(mode)
        self.body.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Images `[B, C, H, W]` -> logits `[B, classes]`, whose softmax is the mean of the layers' probabilities."""
        with pooling(self.body, self.layers) as pooled:
            features = self.body(x)
        own = self.small(x)
        views = [*(pooled[name] for name in self.layers), features]
        logits = [layer(torch.cat([view, own], 1)) for layer, view in zip(self.each, views, strict=True)]
        return mean_answer(self.apart(torch.stack(logits, 1)))


def mean_answer(logits: Tensor) -> Tensor:
    """Of logits `[B, L, C]` the log of the mean of the L answers, log 1/L Σ softmax(z_l), `[B, C]`; of one itself."""
    if logits.shape[1] == 1:
        return logits[:, 0]
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return wide.log_softmax(2).logsumexp(1) - math.log(logits.shape[1])


@contextmanager
def pooling(network: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Within, by name the mean over positions `[B, d]` of what layers put out, maps `[B, d, h, w]`, in this thread."""
    pooled: dict[str, Tensor] = {}
    thread = threading.get_ident()

    def keep(name: str) -> Any:
        def hook(_: nn.Module, __: Any, output: Tensor) -> None:
            if threading.get_ident() == thread:
                pooled[name] = output.mean((2, 3))  # at once: a later layer may change maps in place

        return hook

    with ExitStack() as hooks:
        for name in layers:
            hooks.enter_context(network.get_submodule(name).register_forward_hook(keep(name)))
        yield pooled


def layer_ensemble_of(model: nn.Module) -> tuple[str, LayerEnsemble]:
    """(name of the layer that holds the logits of all adapting layers, the network) of a network or a model.

    Raises:
        ValueError: if it has no adapting layers.
    """
    for name, module in model.named_modules():
        if isinstance(module, LayerEnsemble):
            return f"{name}.apart" if name else "apart", module
    raise ValueError(
        f"{type(getattr(model, 'network', model)).__name__} has no adapting layers beside a trained network: "
        "kedge adapt MODEL --data FOLDER --how levi makes a network with them"
    )


def _without_head(part: Mapping[str, Mapping[str, Any]], in_chans: int) -> Any:
    ((name, sizes),) = part.items()
    return timm.create_model(name, num_classes=0, in_chans=in_chans, **sizes)


@register_model
def kedge_levi(pretrained: bool = False, **kwargs: Any) -> LayerEnsemble:
    """A frozen `body`, a `small` network, and adapting layers on both: made by `kedge adapt --how levi`."""
    return build_model_with_cfg(LayerEnsemble, NAME, pretrained, **kwargs)

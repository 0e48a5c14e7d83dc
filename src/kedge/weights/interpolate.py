"""The straight line between two sets of weights: state dicts, and the models that hold them."""

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kedge.anchoring import PixelModel, anchor
from kedge.anchoring.stem import at_least_float32
from kedge.checks import unlike_classes
from kedge.postprocess import trained_through


@torch.no_grad()
def interpolate(a: Mapping[str, Any], b: Mapping[str, Any], alpha: float) -> dict[str, Any]:
    """(1 - alpha) a + alpha b for every entry of two state dicts: WiSE-FT (Wortsman et al., arXiv 2109.01903, eq. 2).

    Works where both are trained from the same start; two networks of different starts have a barrier between them.
    Batch-norm statistics are interpolated like weights and do not fit the result: see `reestimate_batch_norm`.

    Args:
        a: the state dict at alpha = 0, such as the one before fine-tuning. Neither is changed.
        b: the state dict at alpha = 1, such as the one after.
        alpha: in [0, 1].

    Returns:
        New tensors on b's devices. Floating-point entries are computed in float32 or better and have the dtype they
        came with; alpha = 0 gives a and alpha = 1 gives b, bit for bit, and an entry that is equal in both stays so.
        What is not floating point (`num_batches_tracked`) is not averaged: it is b's, for alpha = 0 it is a's.

    Raises:
        ValueError: for an alpha outside [0, 1], and for entries that are missing, or of other shapes or dtypes.
    """
    alpha = checked_alpha(alpha)
    _check_alike(a, b)
    mixed: dict[str, Any] = {}
    for name, end in b.items():
        start = a[name]
        if not isinstance(end, Tensor):
            mixed[name] = copy.deepcopy(start if alpha == 0 else end)
            continue
        start = start.detach().to(end.device)
        end = end.detach()
        if alpha in (0, 1) or not (end.is_floating_point() or end.is_complex()):
            mixed[name] = (start if alpha == 0 else end).clone()
            continue
        wide = at_least_float32(end)
        between = (1 - alpha) * start.to(wide) + alpha * end.to(wide)
        # Rounding must not move a frozen weight, and infinities (in attention masks) have no average.
        mixed[name] = torch.where(start == end, end, between.to(end.dtype))
    return mixed


def interpolate_models(a: nn.Module, b: nn.Module, alpha: float) -> Any:
    """A new model like `b` whose network has the weights (1 - alpha) a + alpha b; neither model is changed.

    For two kedge models everything but the network's weights is b's: normalisation, references and residuals, class
    names, steps that it was trained through. A plain `a` is anchored for an anchored `b` first, which changes nothing
    that it computes. The temperature and the rules of `b` for unsure and unknown are left out: they were fitted to
    other logits. Any two modules of one kind will do as well. Mode (training or eval) is b's.

    Args:
        a: the model at alpha = 0, such as the one before fine-tuning.
        b: the model at alpha = 1.
        alpha: in [0, 1].

    Raises:
        ValueError: for an alpha outside [0, 1], networks that differ, and kedge models that differ in normalisation,
            input shape, task or classes, or of which only `a` is anchored.
    """
    alpha = checked_alpha(alpha)
    known = [isinstance(each, PixelModel) for each in (a, b)]
    if known[0] != known[1]:
        bare = "b" if known[0] else "a"
        raise ValueError(
            f"one is a kedge model and {bare} is a bare network, whose normalisation is not known: "
            f"wrap it with kedge.plain(network, mean=..., std=...)"
        )
    if not isinstance(a, PixelModel) or not isinstance(b, PixelModel):
        _check_networks(a, b)
        between = copy.deepcopy(b)
        between.load_state_dict(interpolate(a.state_dict(), b.state_dict(), alpha))
        return between
    a = _fitted(a, b)
    weights = interpolate(a.network.state_dict(), b.network.state_dict(), alpha)
    copied = copy.deepcopy(b)
    copied.network.load_state_dict(weights)
    copied.steps, copied.reject, copied.unknown = trained_through(b.steps), None, None
    copied.prototypes = None
    return copied


def checked_alpha(alpha: Any) -> float:
    """`alpha` as a float. Raises ValueError unless it is a number in [0, 1]."""
    try:
        value = float(alpha)
    except (TypeError, ValueError):
        raise ValueError(f"alpha is a number between 0 (the first model) and 1 (the second), got {alpha!r}") from None
    if not math.isfinite(value) or not 0 <= value <= 1:
        raise ValueError(
            f"alpha must be between 0 (the first model) and 1 (the second), got {value:g}: beyond them there are "
            "weights that nothing was trained for"
        )
    return value


def _check_alike(a: Mapping[str, Any], b: Mapping[str, Any]) -> None:
    """Raise ValueError unless two state dicts hold the same entries."""
    for one, other, which in ((a, b, "second"), (b, a, "first")):
        if lacking := [name for name in one if name not in other]:
            more = f" and {len(lacking) - 1} more" if len(lacking) > 1 else ""
            raise ValueError(f"these are weights of different networks: the {which} has no {lacking[0]!r}{more}")
    for name, end in b.items():
        start = a[name]
        if isinstance(start, Tensor) != isinstance(end, Tensor):
            raise ValueError(f"{name!r} is a tensor in one state dict and {type(end).__name__} in the other")
        if not isinstance(end, Tensor):
            continue
        if start.shape != end.shape:
            raise ValueError(
                f"these are weights of different networks: {name!r} is {list(start.shape)} in the first and "
                f"{list(end.shape)} in the second"
            )
        if start.dtype != end.dtype:
            raise ValueError(
                f"{name!r} is {start.dtype} in the first and {end.dtype} in the second: bring both to one dtype, "
                "with model.float() for instance"
            )


def _fitted(a: PixelModel, b: PixelModel) -> PixelModel:
    """`a` as the same kind of model as `b`; raises ValueError where they cannot be averaged."""
    for what in ("input_shape", "task", "num_outputs"):
        if getattr(a, what) != getattr(b, what):
            raise ValueError(f"the models differ in {what}: {getattr(a, what)} and {getattr(b, what)}")
    if unlike := unlike_classes(a.class_names or a.num_outputs, b.class_names or b.num_outputs):
        raise ValueError(f"the models have other classes, so their outputs mean other things: {unlike}")
    for what in ("mean", "std"):
        one, other = getattr(a, what).float().cpu(), getattr(b, what).float().cpu()
        if not torch.allclose(one, other, atol=1e-6):
            raise ValueError(
                f"the models normalise differently: {what} is {_values(one)} in the first and {_values(other)} in the "
                "second, so the same weights would see other images. Train the second with the first one's"
            )
    if a.count() and not b.count():
        raise ValueError(
            "the first model is anchored and the second is not: the widened first layer has no counterpart. Anchor "
            "the second with kedge.anchor, or swap them"
        )
    if b.count() and not a.count():
        name = _inside(b.state()["first_layer"], a.network)
        a = anchor(a, first_layer=name, references=b.references.to(a.mean))
    if (one := a.state()["first_layer"]) != (other := b.state()["first_layer"]):
        raise ValueError(f"the models are anchored at different layers: {one!r} and {other!r}")
    _check_networks(a.network, b.network)
    return a


def _inside(first_layer: str, network: nn.Module) -> str | None:
    """The name of the layer to anchor; None, which is to find it, for a network that is one layer."""
    return first_layer if first_layer in dict(network.named_modules()) else None


def _check_networks(a: nn.Module, b: nn.Module) -> None:
    """Raise ValueError for networks that say they are of different kinds, though their weights might fit."""
    if (one := _kind(a)) != (other := _kind(b)):
        raise ValueError(f"the networks differ: {one} and {other}. Only weights of one architecture can be averaged")


def _kind(network: nn.Module) -> str:
    recorded: Any = getattr(network, "kedge_architecture", None)
    if isinstance(recorded, Mapping) and "name" in recorded:
        return str(recorded["name"])
    config: Any = getattr(network, "pretrained_cfg", None)
    name = config.get("architecture") if isinstance(config, Mapping) else None
    return str(name) if name else type(network).__name__


def _values(tensor: Tensor) -> list[float]:
    return [round(value, 4) for value in tensor.flatten()[:4].tolist()]

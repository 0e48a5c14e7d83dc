"""Published weights from a file on this machine: read without running code, fitted to a network by name and shape."""

import os
import re
import sys
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

__all__ = ["LEAST", "Fit", "load_weights", "outputs_of_head", "read_weights"]

LEAST = 0.9  # share of the network's own tensors, the head left out, that a file must fill
_NUMBER = re.compile(r"\d+")
_INSIDE = ("state_dict", "model_state_dict", "model", "module", "net", "weights")


@dataclass(frozen=True)
class Fit:
    """What of a file fitted a network.

    Attributes:
        loaded: tensors of the network that were filled, the head among them if it was.
        body: tensors of the network without its head.
        missing: names in the network that the file lacks or has in another shape, the head left out.
        unused: names in the file that the network has no place for, the head left out.
        head: "loaded", or why the head is fresh.
        prefixes: of the names in the file, where several are followed by as many of the network's: the first was read.
    """

    loaded: int
    body: int
    missing: tuple[str, ...]
    unused: tuple[str, ...]
    head: str
    prefixes: tuple[str, ...] = ()

    def line(self, source: str) -> str:
        """One line of words: what matched and what did not."""
        filled = self.body - len(self.missing)
        words = [f"weights of {source}: {filled} of {self.body} tensors of the body", f"head {self.head}"]
        if len(self.prefixes) > 1:
            first, *others = (repr(prefix) for prefix in self.prefixes)
            words.insert(1, f"of several networks in the file the one under {first}, not {', '.join(others)}")
        for what, names in (("not in the file, or in another shape", self.missing), ("not used", self.unused)):
            if names:
                words.append(f"{what}: {', '.join(names[:3])}{f' and {len(names) - 3} more' if names[3:] else ''}")
        return "; ".join(words)


def read_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Tensors by name from a safetensors file or a torch file, which is read by `weights_only`: no code is run.

    A dict that holds the weights under state_dict, model, ... is opened. A name that is no path is looked up in the
    folder $KEDGE_WEIGHTS.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for a file that is neither, or that holds no tensors by name, or sparse or quantised ones.
    """
    path = _located(Path(path))
    state: Any
    try:
        state = load_file(path) if path.suffix == ".safetensors" else _torch_file(path)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"weights: {path} is not a safetensors file: {error}") from error
    for _ in range(3):  # such as {"state_dict": {"model": {...}}}
        inner = next((state[k] for k in _INSIDE if isinstance(state, dict) and isinstance(state.get(k), dict)), None)
        if inner is None:
            break
        state = inner
    entries = state.items() if isinstance(state, dict) else ()
    tensors = {k: v for k, v in entries if isinstance(k, str) and isinstance(v, Tensor)}
    if not tensors:
        raise ValueError(f"weights: {path} holds no tensors by name; a state_dict is needed, not a whole model")
    for name, value in tensors.items():
        if value.is_quantized or value.is_meta or value.layout != torch.strided:
            kind = "quantised" if value.is_quantized else "without its values" if value.is_meta else "sparse"
            raise ValueError(f"weights: {name!r} in {path} is {kind}: save it as an ordinary tensor of floats")
    return tensors


def load_weights(network: nn.Module, path: str | os.PathLike[str], head: Sequence[str], keep_head: bool) -> Fit:
    """Fill `network` with the weights of a file, in place.

    Args:
        network: of any architecture; its first layer may take other channels than the file's, whose kernel is then
            adapted as timm does. Names of the original releases and position embeddings of another image size are
            brought to a network of timm by timm's own conversion, the latter to torchvision's too.
        path: as of `read_weights`.
        head: names of the last layers in the network, such as ("classifier",).
        keep_head: whether the classes are those of the file. False: the head stays fresh even where its shape fits, for
            as many classes need not be the same classes.

    Raises:
        FileNotFoundError, ValueError: as of `read_weights`; fewer than 9 in 10 tensors of the body fit, or the first
            layer does not, or more than 1 in 10 of the file are of further layers (weights of another network); with
            `keep_head` a head that does not fit; a tensor that is not finite, of whole numbers where the network's is
            not, or of variances below 0.
    """
    own = network.state_dict()
    tensors = read_weights(path)
    prefixes = _prefixes(tensors, own)
    state = _converted(network, _behind(prefixes[0], tensors))
    _adapt_first_layer(network, state, own)
    heads = {name for name in (*own, *state) if name.startswith(tuple(f"{each}." for each in head))}
    counted = {name for name in own if name not in heads and not name.endswith("num_batches_tracked")}
    fitting = {name for name, value in state.items() if name in own and own[name].shape == value.shape}
    missing = tuple(name for name in own if name in counted and name not in fitting)
    unused = tuple(name for name in state if name not in own and name not in heads)
    filled = len(counted) - len(missing)
    if filled < LEAST * len(counted):
        lacking = f"{missing[0]} {list(own[missing[0]].shape)}"
        raise ValueError(
            f"weights: {path} is of another network: {filled} of {len(counted)} tensors of {_called(network)} are in "
            f"it by name and shape, {lacking} is not; the file has {_some(state)}"
            + (_same_shapes([own[name] for name in own if name in counted], state) or _other_network(path))
        )
    if (first := _first_weight(network)) in missing:
        layer, _, _ = first.rpartition(".")
        how = (
            "it is of an anchored model of kedge: go on from its run, --init-from RUN, or kedge adapt RUN"
            if {f"{layer}.reference.weight", f"{layer}.residual.weight"} <= set(unused)
            else f"the file has {_some(state)}"
        )
        raise ValueError(
            f"weights: the first layer of {_called(network)}, {first} {list(own[first].shape)}, is not in {path}, and "
            f"all layers after it would see other features than they were trained on; {how}"
        )
    beyond = _beyond([name for name in unused if state[name].ndim], own)
    if len(beyond) > (1 - LEAST) * len(state):
        raise ValueError(
            f"weights: {path} is of another network, with more layers: {len(beyond)} of its {len(state)} tensors are "
            f"of layers that {_called(network)} has no more of, such as {beyond[0]} {list(state[beyond[0]].shape)}"
            + _other_network(path)
        )
    head_fits = {name for name in own if name in heads} <= fitting
    if keep_head and not head_fits:
        shapes = {name: list(state[name].shape) for name in heads if name in state}
        raise ValueError(f"weights: the head ({', '.join(head)}) does not fit: {shapes or 'nothing of it'} in {path}")
    used = {name: state[name] for name in own if name in fitting and (keep_head or name not in heads)}
    whole = [n for n, v in used.items() if own[n].is_floating_point() and not v.is_floating_point()]
    if whole:
        kind = str(used[whole[0]].dtype).removeprefix("torch.")
        raise ValueError(
            f"weights: {whole[0]!r} in {path} is of {kind} ({len(whole)} such tensors), as where weights were "
            "quantised: without their scales they are other weights. Take the file of floating-point numbers"
        )
    broken = [n for n, v in used.items() if v.is_floating_point() and not bool(v.isfinite().all())]
    if broken:
        raise ValueError(f"weights: {broken[0]!r} in {path} holds NaN or infinity ({len(broken)} such tensors)")
    negative = [n for n, v in used.items() if n.endswith("running_var") and bool((v < 0).any())]
    if negative:  # of which the root is taken: every output would be NaN
        raise ValueError(f"weights: {negative[0]!r} in {path} holds a variance below 0 ({len(negative)} such tensors)")
    network.load_state_dict(used, strict=False)
    if keep_head:
        words = "loaded"
    elif head_fits:
        words = "fresh (that of the file has as many outputs, but nothing says that they are these classes)"
    else:
        words = "fresh"
    return Fit(len(used), len(counted), missing, unused, words, prefixes)


def outputs_of_head(path: str | os.PathLike[str], network: nn.Module, head: Sequence[str]) -> int | None:
    """How many classes the head in a file for `network` gives, whatever those of `network`; None if it has none."""
    tensors = read_weights(path)
    state = _converted(network, _behind(_prefixes(tensors, network.state_dict())[0], tensors))
    return next((len(value) for name, value in state.items() if name in {f"{each}.weight" for each in head}), None)


def _located(path: Path) -> Path:
    """The file itself, or the one of that name in $KEDGE_WEIGHTS."""
    room = os.environ.get("KEDGE_WEIGHTS")
    places = [path] if room is None or path.is_absolute() else [path, Path(room) / path]
    for place in places:
        if place.is_file():
            return place
    beside = (
        f"$KEDGE_WEIGHTS ({room}) has none of that name" if room else "$KEDGE_WEIGHTS, a folder of weights, is not set"
    )
    raise FileNotFoundError(f"weights: there is no file {str(path)!r}, and {beside}")


def _torch_file(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a broken or a foreign file can raise nearly anything in the reader
        first = str(error).strip().split("\n")[0][:160]
        raise ValueError(
            f"weights: {path} cannot be read as tensors alone ({type(error).__name__}: {first}). A file that holds "
            "Python objects is not opened: save model.state_dict() of it where you trust it, or a safetensors file"
        ) from error


def _prefixes(state: dict[str, Tensor], own: dict[str, Tensor]) -> tuple[str, ...]:
    """The prefix (`module.`, `model.`, ..., or none) behind which most names of the network stand, the shortest first.

    Where the file holds several networks, all of theirs, in the order of the file: the same each time.
    """
    starts = dict.fromkeys("".join(f"{part}." for part in name.split(".")[:n]) for name in state for n in range(3))
    counts = {prefix: len(_behind(prefix, state).keys() & own.keys()) for prefix in sorted(starts, key=len)}
    first = max(counts, key=lambda prefix: counts[prefix])
    whole = counts[first] >= LEAST * len(own)  # of parts of a network some have as many names as others by chance
    return tuple(prefix for prefix, count in counts.items() if count == counts[first]) if whole else (first,)


def _behind(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with the prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _converted(network: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors as the network's library brings them to it where it reads published files itself."""
    if "encoder.pos_embedding" in state and hasattr(network, "image_size"):  # torchvision's ViT
        from torchvision.models.vision_transformer import interpolate_embeddings

        try:
            return interpolate_embeddings(network.image_size, network.patch_size, state)
        except ValueError:
            return state
    convert = getattr(sys.modules.get(type(network).__module__), "checkpoint_filter_fn", None)
    if convert is None:
        return state
    try:
        return {k: v for k, v in convert(dict(state), network).items() if isinstance(v, Tensor)}
    except Exception:  # weights of another network can break it in any way; they are refused for what they lack
        return state


def _called(network: nn.Module) -> str:
    """The network's name in its library, or that of its class."""
    name: str = getattr(network, "kedge_architecture", {}).get("name", type(network).__name__)
    return name


def _other_network(path: str | os.PathLike[str]) -> str:
    """What to do about a file of another network; its own name may tell which."""
    stem = Path(path).name.partition(".")[0]
    named = f"{stem}, as the file is called, is one" if timm.is_model(stem) else "its source says which"
    return f". Name the network that it is of ({named}), or take a file of this one"


def _beyond(unused: Sequence[str], own: Collection[str]) -> list[str]:
    """The unused names that differ from the network's own in nothing but numbers: of further layers of its kinds."""
    kinds = {_NUMBER.sub("#", name) for name in own}
    return [name for name in unused if _NUMBER.sub("#", name) in kinds]


def _same_shapes(body: Sequence[Tensor], state: dict[str, Tensor]) -> str:
    """What to say where the file holds tensors of the body's shapes in its order; else nothing."""
    ours, theirs = ([v.shape for v in values if v.is_floating_point()] for values in (body, state.values()))
    if theirs[: len(ours)] != ours:
        return ""
    return (
        ". All shapes are those of the network, in its order: it may be this network under other names. "
        "timm.models.load_checkpoint(network, file, remap=True) reads it by order; save network.state_dict() of that"
    )


def _first_weight(network: nn.Module) -> str:
    """The name of the weight that meets the image; "" where no layer has one."""
    layers = (f"{name}.weight" for name, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear))
    return next(layers, "")


def _adapt_first_layer(network: nn.Module, state: dict[str, Tensor], own: dict[str, Tensor]) -> None:
    """Change the kernel of the first convolution in `state` from three channels to those of the network."""
    from timm.models import adapt_input_conv

    first = _first_weight(network)
    if first in own and first in state and own[first].ndim == state[first].ndim == 4:
        have, want = state[first], own[first]
        if have.shape[1] == 3 != want.shape[1] and have.shape[::2] == want.shape[::2]:
            state[first] = adapt_input_conv(want.shape[1], have)


def _some(state: dict[str, Tensor]) -> str:
    named = [(name, value) for name, value in state.items() if value.ndim] or list(state.items())
    return ", ".join(f"{name} {list(value.shape)}" for name, value in named[:3]) + ", ..."

"""Networks for small images that timm lacks, and `create`: a network by its timm or torchvision name.

Importing this module registers the networks with timm, so `timm.create_model("kedge_resnet18")` finds them.
"""

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import timm
from torch import nn

from kedge import catalog, torchvision_networks
from kedge.cifar_resnet import CifarResNet, kedge_resnet20, kedge_resnet56
from kedge.layer_ensemble import LayerEnsemble, kedge_levi
from kedge.members import MEMBERS, Members, kedge_members
from kedge.own_code import near_names
from kedge.residual import NORMS, ResidualNetwork, kedge_resnet18, kedge_resnet_small, kedge_wrn_40_2

__all__ = [
    "CifarResNet",
    "LayerEnsemble",
    "Members",
    "PretrainedUnavailable",
    "ResidualNetwork",
    "create",
    "kedge_levi",
    "kedge_members",
    "kedge_resnet18",
    "kedge_resnet20",
    "kedge_resnet56",
    "kedge_resnet_small",
    "kedge_wrn_40_2",
    "names",
    "rebuild",
]

# What a checkpoint may ask for: sizes, rates, two words for the normalisation of kedge's own networks, which of them a
# network of members is made of, and the name of a head in `kedge.heads`; of two networks in one, each by its name in
# timm with its own sizes, and the names of layers; nothing that names other code, a file or an address.
_ARGUMENTS = frozenset(
    """num_classes in_chans img_size drop_rate drop_path_rate global_pool width depth patch_size embed_dim
    num_heads window_size dynamic_img_size dynamic_img_pad output_stride norm
    head heads members network body small layers widths""".split()  # noqa: SIM905
)
_NO_COUNTS = {
    "drop_rate",
    "drop_path_rate",
    "global_pool",
    "dynamic_img_size",
    "dynamic_img_pad",
    "norm",
    "head",
    "network",
    "body",
    "small",
    "layers",
}
_COUNTS = _ARGUMENTS - _NO_COUNTS
_LARGEST = 100_000


class PretrainedUnavailable(RuntimeError):
    """Published weights exist but cannot be had here (no network, no cache)."""


def names() -> list[str]:
    """Every name `create` knows: timm's (kedge's own among them), and torchvision's classifiers."""
    return sorted({*timm.list_models(), *torchvision_networks.names()})


def create(
    name: str,
    num_outputs: int,
    in_channels: int = 3,
    image_size: int | None = None,
    pretrained: bool = False,
    arguments: dict[str, Any] | None = None,
) -> nn.Module:
    """Make a network by name: timm's if timm has it, else torchvision's (`torchvision/NAME` forces that).

    `image_size` (pixels) reaches only networks built for one size, such as ViT and Swin. `arguments`: further
    sizes and rates, e.g. `{"width": 16, "drop_rate": 0.1}`, `{"norm": "group"}` for kedge's own networks, and
    `{"head": "vib"}`, a fresh last layer of `kedge.heads` in place of the network's. The network carries
    `kedge_architecture`, from which `rebuild` makes it again. Raises ValueError for an unknown name (with near ones) or
    argument, and `PretrainedUnavailable` if weights are asked for and cannot be had.
    """
    library, name = locate(name)
    for key, value in (("num_classes", num_outputs), ("in_chans", in_channels)):
        if (arguments or {}).get(key, value) != value:
            raise ValueError(f"network argument {key} is {value}, as the images are, not {(arguments or {})[key]!r}")
    sizes = {"num_classes": num_outputs, "in_chans": in_channels, **(arguments or {})}
    if image_size is not None and _has_fixed_size(library, name):
        sizes.setdefault("img_size", image_size)
    architecture = {"library": library, "name": name, "arguments": sizes}
    network = rebuild(architecture)  # first without weights: a wrong argument is not a missing download
    if not pretrained:
        return network
    if library == "timm" and not timm.is_model_pretrained(name):
        raise ValueError(f"no pretrained weights were published for {name!r}: train it with pretrained=False")
    own = {key: value for key, value in sizes.items() if key != "head"}
    try:
        if library == "timm":
            with _short_wait():
                network = timm.create_model(name, pretrained=True, **own)
            _put_head(network, name, sizes.get("head"))
        else:
            torchvision_networks.load_published(network, name, own)
    except Exception as error:  # the hub raises a dozen types; arguments were proven good just above
        why = str(error).strip().split(". ")[0].split("\n")[0] or type(error).__name__
        raise PretrainedUnavailable(f"the published weights of {name!r} could not be had: {why}") from error
    network.kedge_architecture = architecture  # type: ignore[assignment]
    return network


def rebuild(architecture: dict[str, Any]) -> nn.Module:
    """Make the network that `kedge_architecture` describes, with fresh weights.

    Safe on text from a stranger: only registered names, sizes and rates are accepted; nothing is downloaded.
    Raises ValueError for anything else.
    """
    if not isinstance(architecture, dict) or set(architecture) != {"library", "name", "arguments"}:
        raise ValueError(f"an architecture has the keys library, name and arguments, not {architecture!r}")
    library, name, arguments = architecture["library"], architecture["name"], architecture["arguments"]
    if library not in ("timm", "torchvision") or not isinstance(name, str) or not isinstance(arguments, dict):
        raise ValueError(f"not an architecture of timm or torchvision: {architecture!r}")
    if locate(f"{library}/{name}") != (library, name):
        raise ValueError(f"{library} has no network named {name!r}")
    _check_arguments(arguments)
    own = {key: value for key, value in arguments.items() if key != "head"}
    try:
        if library == "timm":
            network = timm.create_model(name, pretrained=False, **own)
        else:
            network = torchvision_networks.make(name, own)
        _put_head(network, name, arguments.get("head"))
    except (TypeError, RuntimeError, AssertionError, ValueError, LookupError, ArithmeticError) as error:
        raise ValueError(f"{library} cannot make {name!r} with {arguments}: {error}") from error
    network.kedge_architecture = {"library": library, "name": name, "arguments": dict(arguments)}  # type: ignore
    return network


def heads(network: nn.Module) -> tuple[str, ...]:
    """Names of the layers that give the classes: what timm says of its own, else the last linear layer."""
    listed = (getattr(network, "pretrained_cfg", None) or {}).get("classifier")
    if listed:
        return (listed,) if isinstance(listed, str) else tuple(listed)
    kinds = nn.Linear | nn.Conv2d  # SqueezeNet's is a convolution
    return tuple(name for name, module in network.named_modules() if isinstance(module, kinds))[-1:]


def _put_head(network: nn.Module, name: str, head: str | None) -> None:
    """Put a head of `kedge.heads` in place of the last layer; ValueError for a network that has not one linear one."""
    if head is None:
        return
    layers = {each: network.get_submodule(each) for each in heads(network)}
    linear = [(each, layer) for each, layer in layers.items() if isinstance(layer, nn.Linear)]
    if len(layers) != 1 or not linear:
        raise ValueError(
            f"head {head} takes the place of one linear last layer, {name} has {', '.join(layers) or 'none'}"
        )
    ((place, layer),) = linear
    network.set_submodule(place, catalog.get("heads", head)(layer.in_features, layer.out_features))


def locate(name: str) -> tuple[str, str]:
    """(timm or torchvision, the name there) of a network; ValueError with near names for one or weights not known."""
    library, _, rest = name.partition("/")
    if library in ("timm", "torchvision") and rest:
        known = timm.is_model(rest) if library == "timm" else rest in torchvision_networks.names()
        if known:
            if library == "timm":
                _check_tag(rest)
            return library, rest
    elif timm.is_model(name):
        _check_tag(name)
        return "timm", name
    elif name in torchvision_networks.names():
        return "torchvision", name
    hint = near_names(name.split("/")[-1], names(), 4) or "; kedge.networks.names() lists all"
    raise ValueError(f"no network is named {name!r} in timm, torchvision or kedge{hint}")


def _check_tag(name: str) -> None:
    """Raise ValueError where `NAME.TAG` names weights that timm does not have; NAME is one of its networks."""
    architecture, _, tag = name.partition(".")
    if tag and name not in (full := timm.list_pretrained(f"{architecture}.*")):
        hint = near_names(name, full) or (f"; it has {', '.join(full[:5])}" if full else "")
        raise ValueError(f"timm has no weights {tag!r} for {architecture}{hint}")


def _check_arguments(arguments: dict[str, Any]) -> None:
    for key, value in arguments.items():
        if key not in _ARGUMENTS:
            near = difflib.get_close_matches(str(key), _ARGUMENTS, n=1)
            raise ValueError(
                f"network argument {key!r} is not one of {', '.join(sorted(_ARGUMENTS))}"
                + (f"; did you mean {near[0]!r}?" if near else "")
            )
        if key in ("body", "small"):
            _check_part(key, value)
            continue
        if key == "layers":
            if not (
                isinstance(value, list | tuple) and all(isinstance(each, str) and len(each) < 200 for each in value)
            ):
                raise ValueError(f"network argument layers is a list of names of layers, not {value!r}")
            continue
        words = {"norm": NORMS, "head": catalog.names("heads"), "network": MEMBERS}.get(key)
        if words is not None:
            if value not in words:
                raise ValueError(f"network argument {key} is {' or '.join(words)}, not {value!r}")
            continue
        parts = value if isinstance(value, list | tuple) else [value]
        if key in _COUNTS and (wrong := [part for part in parts if isinstance(part, float)]):
            raise ValueError(f"network argument {key} is a whole number, not {wrong[0]!r}")
        for part in parts:
            text = isinstance(part, str) and key == "global_pool" and len(part) < 32
            number = isinstance(part, int | float) and 0 <= part <= (1000 if key == "depth" else _LARGEST)
            if not (part is None or text or number):
                raise ValueError(f"network argument {key} cannot be {value!r}")


def _check_part(key: str, part: Any) -> None:
    """Raise ValueError unless it is {name of a network of timm: its sizes}, none that is made of two itself."""
    ((name, sizes),) = part.items() if isinstance(part, dict) and len(part) == 1 else ((None, None),)
    known = isinstance(name, str) and timm.is_model(name) and not name.startswith(kedge_levi.__name__)
    if not known or not isinstance(sizes, dict) or {"num_classes", "in_chans", "head"} & sizes.keys():
        raise ValueError(f"network argument {key} is {{NAME: {{size: value}}}}, a network of timm, not {part!r:.200}")
    _check_arguments(sizes)


def _has_fixed_size(library: str, name: str) -> bool:
    if library == "torchvision":
        return name.startswith(("vit_", "maxvit"))
    return bool(getattr(timm.models.get_pretrained_cfg(name), "fixed_input_size", False))


@contextmanager
def _short_wait() -> Iterator[None]:
    """Ask the hub once, briefly: without a network its client retries for a minute before it gives up."""
    from huggingface_hub import constants, get_session

    before = constants.HF_HUB_OFFLINE
    try:
        get_session().head(constants.ENDPOINT, timeout=5)
    except Exception:  # offline, whatever the reason: weights in the cache still serve
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before

"""Networks for small images that timm lacks, and `create`: a network by its timm or torchvision name.

Importing this module registers the networks with timm, so `timm.create_model("kedge_resnet18")` finds them.
Sources: He et al., "Deep Residual Learning", 2016 (the CIFAR stem: 3×3, no pooling); Zagoruyko and Komodakis,
"Wide Residual Networks", 2016 (WRN-40-2, pre-activation blocks).
"""

import difflib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import timm
import torch
from timm.models import adapt_input_conv, build_model_with_cfg, generate_default_cfgs, register_model
from torch import nn
from torch.nn import functional as F

__all__ = ["PretrainedUnavailable", "ResidualNetwork", "create", "names", "rebuild"]

_CFG = {
    "num_classes": 10,
    "input_size": (3, 32, 32),
    "pool_size": None,
    "crop_pct": 1.0,
    "mean": (0.4914, 0.4822, 0.4465),  # of CIFAR-10's training images
    "std": (0.2470, 0.2435, 0.2616),
    "first_conv": "stem",
    "classifier": "fc",
}
default_cfgs = generate_default_cfgs({"kedge_resnet18": _CFG, "kedge_resnet_small": _CFG, "kedge_wrn_40_2": _CFG})
# What a checkpoint may ask for: sizes and rates only, nothing that names code, a file or an address.
_ARGUMENTS = frozenset(
    """num_classes in_chans img_size drop_rate drop_path_rate global_pool width depth patch_size embed_dim
    num_heads window_size dynamic_img_size dynamic_img_pad output_stride""".split()  # noqa: SIM905
)
_LARGEST = 100_000


class PretrainedUnavailable(RuntimeError):
    """Published weights exist but cannot be had here (no network, no cache)."""


class _Block(nn.Module):
    """Two 3×3 convolutions and a skip, `[B, in, H, W]` -> `[B, out, H/stride, W/stride]`."""

    def __init__(self, inputs: int, outputs: int, stride: int, preactivation: bool) -> None:
        super().__init__()
        self.preactivation = preactivation
        self.norm1 = nn.BatchNorm2d(inputs if preactivation else outputs)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.skip: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            skip = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.skip = skip if preactivation else nn.Sequential(skip, nn.BatchNorm2d(outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.preactivation:
            out = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
            return F.relu(out + self.skip(x))
        active = F.relu(self.norm1(x))
        # The projection sees the activated input (as in the paper's code), the identity the raw one.
        skip = x if isinstance(self.skip, nn.Identity) else self.skip(active)
        return skip + self.conv2(F.relu(self.norm2(self.conv1(active))))


class ResidualNetwork(nn.Module):
    """Residual network with a 3×3 stem and no pooling: images `[B, C, H, W]` -> logits `[B, classes]`.

    `stem`: channels after the stem; `widths`: channels of each stage, the later ones halve H and W;
    `blocks`: blocks in each stage. Takes any H and W of 4 or more.
    """

    def __init__(
        self,
        stem: int,
        widths: tuple[int, ...],
        blocks: int,
        preactivation: bool = False,
        num_classes: int = 10,
        in_chans: int = 3,
        drop_rate: float = 0.0,
        global_pool: str = "avg",
    ) -> None:
        super().__init__()
        if global_pool not in ("avg", ""):
            raise ValueError(f"global_pool is 'avg' or '' (no pooling) here, not {global_pool!r}")
        self.num_classes, self.num_features, self.head_hidden_size = num_classes, widths[-1], widths[-1]
        self.drop_rate, self.global_pool = drop_rate, global_pool
        self.stem = nn.Conv2d(in_chans, stem, 3, 1, 1, bias=False)
        self.norm_stem = nn.Identity() if preactivation else nn.Sequential(nn.BatchNorm2d(stem), nn.ReLU())
        layers, inputs = [], stem
        for stage, width in enumerate(widths):
            for block in range(blocks):
                stride = 2 if stage > 0 and block == 0 else 1
                layers.append(_Block(inputs, width, stride, preactivation))
                inputs = width
        self.blocks = nn.Sequential(*layers)
        self.norm = nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU()) if preactivation else nn.Identity()
        self.fc: nn.Module = nn.Linear(inputs, num_classes) if num_classes > 0 else nn.Identity()
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def get_classifier(self) -> nn.Module:
        """Return the last layer, as timm's networks do."""
        return self.fc

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the last layer by a fresh one with `num_classes` outputs (0: none)."""
        self.num_classes = num_classes
        self.global_pool = self.global_pool if global_pool is None else global_pool
        self.fc = nn.Linear(self.num_features, num_classes) if num_classes > 0 else nn.Identity()

    def forward_features(self, x: torch.Tensor) -> torch.Tensor:
        """Images `[B, C, H, W]` -> feature maps `[B, num_features, h, w]`."""
        return self.norm(self.blocks(self.norm_stem(self.stem(x))))

    def forward_head(self, x: torch.Tensor, pre_logits: bool = False) -> torch.Tensor:
        """Feature maps -> logits `[B, classes]`, or pooled features with `pre_logits`."""
        if self.global_pool:
            x = x.mean((2, 3))
        x = F.dropout(x, self.drop_rate, self.training)
        return x if pre_logits else self.fc(x)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images `[B, C, H, W]` -> logits `[B, classes]`."""
        return self.forward_head(self.forward_features(x))


@register_model
def kedge_resnet18(pretrained: bool = False, width: int = 64, **kwargs: Any) -> ResidualNetwork:
    """ResNet-18 for 32 px: 3×3 stem, no pooling, stages of `width` × 1, 2, 4, 8; 11.2 M parameters."""
    sizes: dict[str, Any] = {"stem": width, "widths": (width, 2 * width, 4 * width, 8 * width), "blocks": 2}
    return build_model_with_cfg(ResidualNetwork, "kedge_resnet18", pretrained, **sizes, **kwargs)


@register_model
def kedge_wrn_40_2(pretrained: bool = False, width: int = 2, depth: int = 40, **kwargs: Any) -> ResidualNetwork:
    """Wide ResNet, pre-activation: `depth` 6n + 4 layers, `width` times the channels; 2.2 M parameters."""
    if depth < 10 or (depth - 4) % 6:
        raise ValueError(f"the depth of a wide ResNet is 6n + 4 (10, 16, 22, 28, 40, ...), not {depth}")
    widths = (16 * width, 32 * width, 64 * width)
    sizes: dict[str, Any] = {"stem": 16, "widths": widths, "blocks": (depth - 4) // 6, "preactivation": True}
    return build_model_with_cfg(ResidualNetwork, "kedge_wrn_40_2", pretrained, **sizes, **kwargs)


@register_model
def kedge_resnet_small(pretrained: bool = False, width: int = 32, **kwargs: Any) -> ResidualNetwork:
    """Small residual CNN for 8 to 32 px: one block in each of three stages; 0.3 M parameters at width 32."""
    sizes: dict[str, Any] = {"stem": width, "widths": (width, 2 * width, 4 * width), "blocks": 1}
    return build_model_with_cfg(ResidualNetwork, "kedge_resnet_small", pretrained, **sizes, **kwargs)


def names() -> list[str]:
    """Every name `create` knows: timm's (kedge's own among them), and torchvision's classifiers."""
    return sorted({*timm.list_models(), *_torchvision_names()})


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
    sizes and rates, e.g. `{"width": 16, "drop_rate": 0.1}`. The network carries `kedge_architecture`, from
    which `rebuild` makes it again. Raises ValueError for an unknown name (with near ones) or argument, and
    `PretrainedUnavailable` if weights are asked for and cannot be had.
    """
    library, name = _locate(name)
    given = {"num_classes": num_outputs, "in_chans": in_channels, **(arguments or {})}
    if image_size is not None and _has_fixed_size(library, name):
        given.setdefault("img_size", image_size)
    architecture = {"library": library, "name": name, "arguments": given}
    network = rebuild(architecture)  # first without weights: a wrong argument is not a missing download
    if not pretrained:
        return network
    if library == "timm" and not timm.is_model_pretrained(name):
        raise ValueError(f"no pretrained weights were published for {name!r}: train it with pretrained=False")
    try:
        if library == "timm":
            with _short_wait():
                network = timm.create_model(name, pretrained=True, **given)
        else:
            _load_torchvision(network, name, given)
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
    library, name, given = architecture["library"], architecture["name"], architecture["arguments"]
    if library not in ("timm", "torchvision") or not isinstance(name, str) or not isinstance(given, dict):
        raise ValueError(f"not an architecture of timm or torchvision: {architecture!r}")
    if _locate(f"{library}/{name}") != (library, name):
        raise ValueError(f"{library} has no network named {name!r}")
    _check_arguments(given)
    try:
        if library == "timm":
            network = timm.create_model(name, pretrained=False, **given)
        else:
            network = _make_torchvision(name, given)
    except (TypeError, RuntimeError, AssertionError, KeyError, IndexError, ZeroDivisionError) as error:
        raise ValueError(f"{library} cannot make {name!r} with {given}: {error}") from error
    network.kedge_architecture = {"library": library, "name": name, "arguments": dict(given)}  # type: ignore
    return network


def _locate(name: str) -> tuple[str, str]:
    """Which library has `name`; ValueError with near names if none has."""
    library, _, rest = name.partition("/")
    if library in ("timm", "torchvision") and rest:
        known = timm.is_model(rest) if library == "timm" else rest in _torchvision_names()
        if known:
            return library, rest
    elif timm.is_model(name):
        return "timm", name
    elif name in _torchvision_names():
        return "torchvision", name
    near = difflib.get_close_matches(name.split("/")[-1], names(), n=4)
    hint = f" Did you mean {', '.join(near)}?" if near else " kedge.networks.names() lists all."
    raise ValueError(f"no network is named {name!r} in timm, torchvision or kedge.{hint}")


def _check_arguments(given: dict[str, Any]) -> None:
    for key, value in given.items():
        if key not in _ARGUMENTS:
            near = difflib.get_close_matches(str(key), _ARGUMENTS, n=1)
            raise ValueError(
                f"network argument {key!r} is not one of {', '.join(sorted(_ARGUMENTS))}"
                + (f"; did you mean {near[0]!r}?" if near else "")
            )
        parts = value if isinstance(value, list | tuple) else [value]
        for part in parts:
            text = isinstance(part, str) and key == "global_pool" and len(part) < 32
            number = isinstance(part, int | float) and 0 <= part <= (1000 if key == "depth" else _LARGEST)
            if not (part is None or text or number):
                raise ValueError(f"network argument {key} cannot be {value!r}")


def _has_fixed_size(library: str, name: str) -> bool:
    if library == "torchvision":
        return name.startswith(("vit_", "maxvit"))
    return bool(getattr(timm.models.get_pretrained_cfg(name), "fixed_input_size", False))


def _torchvision_names() -> list[str]:
    import torchvision

    return torchvision.models.list_models(module=torchvision.models)


def _make_torchvision(name: str, given: dict[str, Any]) -> nn.Module:
    import torchvision

    extra = {{"img_size": "image_size", "drop_rate": "dropout"}.get(k, k): v for k, v in given.items()}
    channels = extra.pop("in_chans", 3)
    if name in ("googlenet", "inception_v3"):
        extra |= {"aux_logits": False, "init_weights": True}  # one output in training too
    if name.startswith("maxvit") and "image_size" in extra:
        extra["input_size"] = (extra.pop("image_size"),) * 2
    network = torchvision.models.get_model(name, weights=None, **extra)
    if channels != 3:
        path, conv = next((n, m) for n, m in network.named_modules() if isinstance(m, nn.Conv2d))
        kernel, stride, padding = conv.kernel_size, conv.stride, conv.padding
        fresh = nn.Conv2d(channels, conv.out_channels, kernel, stride, padding, bias=conv.bias is not None)  # type: ignore[arg-type]
        network.set_submodule(path, fresh)
    return network


def _load_torchvision(network: nn.Module, name: str, given: dict[str, Any]) -> None:
    """Copy torchvision's weights into `network`; the head stays fresh where the number of classes differs."""
    import torchvision

    state = torchvision.models.get_model(name, weights="DEFAULT").state_dict()
    own = network.state_dict()
    if "encoder.pos_embedding" in state and "img_size" in given:
        from torchvision.models.vision_transformer import interpolate_embeddings

        state = interpolate_embeddings(given["img_size"], network.patch_size, state)
    first = next(n for n, m in network.named_modules() if isinstance(m, nn.Conv2d)) + ".weight"
    state[first] = adapt_input_conv(given.get("in_chans", 3), state[first])
    fitting = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    network.load_state_dict(fitting, strict=False)


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


def channels_last(network: nn.Module) -> nn.Module:
    """`network` itself, its weights laid out so that convolutions run faster where they do, with batch normalisation.

    Measured on a CPU: ResNets and EfficientNets take 0.6 to 0.9 of the time, ConvNeXt 1.1, transformers the same. The
    values are the same; results differ in rounding.
    """
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in network.modules()):
        network.to(memory_format=torch.channels_last)
    return network

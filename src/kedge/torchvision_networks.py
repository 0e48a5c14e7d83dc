"""torchvision's classifiers by name: made, filled with their published weights, and what these expect of images.

torchvision is imported when one is asked for.
"""

from typing import Any

import torch
from timm.models import adapt_input_conv
from torch import nn

__all__ = ["load_published", "make", "names", "note_published_images", "published_images"]


def names() -> list[str]:
    """The name of every classifier of torchvision."""
    import torchvision

    return torchvision.models.list_models(module=torchvision.models)


def make(name: str, arguments: dict[str, Any]) -> nn.Module:
    """One of fresh weights, by `arguments` under timm's names (`num_classes`, `in_chans`, `img_size`, `drop_rate`)."""
    import torchvision

    extra = {{"img_size": "image_size", "drop_rate": "dropout"}.get(k, k): v for k, v in arguments.items()}
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


def load_published(network: nn.Module, name: str, arguments: dict[str, Any]) -> None:
    """Copy torchvision's weights into `network`; the head stays fresh where the number of classes differs.

    The network carries what the weights expect of images as `pretrained_cfg`, where timm's networks have it.
    """
    import torchvision

    published = torchvision.models.get_model(name, weights="DEFAULT")
    state = published.state_dict()
    own = network.state_dict()
    if "encoder.pos_embedding" in state and "img_size" in arguments:
        from torchvision.models.vision_transformer import interpolate_embeddings

        state = interpolate_embeddings(arguments["img_size"], network.patch_size, state)
    first = next(n for n, m in network.named_modules() if isinstance(m, nn.Conv2d)) + ".weight"
    state[first] = adapt_input_conv(arguments.get("in_chans", 3), state[first])
    fitting = {key: value for key, value in state.items() if key in own and own[key].shape == value.shape}
    network.load_state_dict(fitting, strict=False)
    network.pretrained_cfg = published_images(name, published)  # type: ignore[assignment]


def note_published_images(network: nn.Module) -> None:
    """Let a network of torchvision whose weights are from a file carry what the library's own weights expect."""
    import torchvision

    architecture: Any = network.kedge_architecture
    if architecture["library"] == "torchvision":
        name = architecture["name"]
        changing: dict[str, Any] = {"transform_input": True, "init_weights": False}
        settings = changing if name in ("googlenet", "inception_v3") else {}
        published = torchvision.models.get_model(name, weights=None, **settings) if settings else network
        network.pretrained_cfg = published_images(name, published)  # type: ignore[assignment]


def published_images(name: str, published: nn.Module) -> dict[str, Any]:
    """What torchvision's weights of `name` expect of images in [0, 1], under the keys of timm's `pretrained_cfg`.

    `mean` and `std` are those of the weights' own `transforms()`. GoogLeNet and Inception, as `published`, change
    normalised images once more inside (`transform_input`): with (x - m) / s and then a z + c that is one normalisation,
    by m - c s / a and s / a. The networks that `create` makes leave it out, or nothing could be put before it.
    """
    import torchvision

    images = torchvision.models.get_model_weights(name).DEFAULT.transforms()
    mean, std = (torch.tensor(values, dtype=torch.float64) for values in (images.mean, images.std))
    if getattr(published, "transform_input", False):
        black_and_white = torch.stack([torch.zeros_like(mean), torch.ones_like(mean)])[:, :, None, None]
        c, at_one = published._transform_input(black_and_white)[:, :, 0, 0]  # type: ignore[operator]
        mean, std = mean - c * std / (at_one - c), std / (at_one - c)
    size = images.crop_size[0]
    return {
        "mean": mean.tolist(),
        "std": std.tolist(),
        "input_size": (len(mean), size, size),
        "crop_pct": size / images.resize_size[0],
        "interpolation": images.interpolation.value,
    }

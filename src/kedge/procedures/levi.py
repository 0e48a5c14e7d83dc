"""The body frozen, a small network trained beside it, and layers that read both at several depths of the body."""

import warnings
from typing import Any

import timm
import torch
from torch import Tensor, nn

from kedge import networks
from kedge.anchoring import PixelModel, plain
from kedge.anchoring.last_layer import inputs_of
from kedge.anchoring.outputs import collecting
from kedge.anchoring.twin import evaluating
from kedge.architectures import describe
from kedge.data import ImageSet, derive_seed
from kedge.layer_ensemble import NAME, pooling
from kedge.objectives.levi import info as info
from kedge.probing.heads import find_head
from kedge.procedures._base import Context, Procedure
from kedge.procedures._settings import Settings
from kedge.procedures._stages import tune
from kedge.scores._splitting import stages
from kedge.training.resolve import SMALL

# Beside the body, of images up to `SMALL` pixels and of larger ones.
USUAL: tuple[tuple[str, dict[str, Any]], ...] = (("kedge_resnet_small", {"width": 16}), ("resnet10t", {}))


class Levi(Procedure):
    """LEVI: adapting layers, linear on [an intermediate output of the body, the features of the small network].

    The last one reads the body's features, as a linear probe does, the others the mean over positions of its feature
    maps at the deepest sizes before its last: `layers` in all. Each has its cross-entropy, and the losses are summed;
    the answer is the mean of their probabilities. Adapting layers and small network learn, as from scratch; the body
    keeps its weights and batch-norm statistics to the bit. Both networks see images normalised as the body has them.

    Our reading: which layers, that an adapting layer is linear, the small network, and a mean of probabilities where
    the text says an ensemble. Source: Roh et al., "LEVI: Generalizable Fine-tuning via Layer-wise Ensemble of Different
    Views", ICML 2024 (arXiv 2402.04644), abstract and a public summary of the method.

    Raises:
        ValueError: before training, for an anchored body, one that cannot be made again by a name in timm, one without
            feature maps `[B, C, H, W]` of as many sizes, and a small network that timm does not have.
    """

    decided_by = ("seed", "head", "epochs", "lr", "augment", "layers", "small")

    def check(self, settings: Settings, val: ImageSet | None) -> None:
        """Raise ValueError for a small network that is none."""
        if settings.small is not None and (networks.locate(settings.small)[0] != "timm" or settings.small == NAME):
            raise ValueError(f"small is the name of a network in timm, such as {USUAL[0][0]}, not {settings.small!r}")

    def run(self, context: Context) -> PixelModel:
        """The trained model."""
        model = ensemble(context)
        network: Any = model.network
        context.record["layers"] = [*network.layers, "features"]
        return tune(context, model, scratch=True, objective=["Levi"])


def ensemble(context: Context) -> PixelModel:
    """The network of the body and a fresh small one, with the body's weights."""
    settings, train, model = context.settings, context.train, context.model
    spec, body = without_head(model, find_head(model, settings.head))
    layers, widths = depths(body, model, settings.layers)
    channels, side, _ = model.input_shape
    name, sizes = USUAL[side > SMALL] if settings.small is None else (settings.small, {})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(settings.seed, "weights"))
        known: Any = networks.create(name, 1, channels, side, arguments=sizes).kedge_architecture
        sizes = {key: value for key, value in known["arguments"].items() if key not in ("num_classes", "in_chans")}
        arguments = {"body": spec, "small": {known["name"]: sizes}, "layers": layers, "widths": widths}
        network: Any = networks.create(NAME, len(train.class_names), channels, arguments=arguments)
    network.body.load_state_dict(body.state_dict())
    mean, std = model.mean.flatten().tolist(), model.std.flatten().tolist()
    together = plain(network.to(model.mean), mean=mean, std=std, example=model.input_shape)
    together.class_names = list(train.class_names)
    return together


def without_head(model: PixelModel, head: str) -> tuple[dict[str, dict[str, Any]], nn.Module]:
    """({its name in timm: its sizes}, the network that puts out what `head` read, with the weights) of a model.

    Raises:
        ValueError: for an anchored model, one without such a name, and one that is otherwise without its last layer.
    """
    what = type(model.network).__name__
    if model.count():
        raise ValueError(
            "levi reads intermediate outputs of one pass, and an anchored model answers with the mean over passes: "
            "take a plain model (kedge train --anchored false), or --how linear-probe for this one"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        architecture = describe(model)
    if architecture is None or architecture["library"] != "timm" or "folded" in architecture:
        raise ValueError(
            f"levi makes the network again from its name in timm, to save it with the small one, and {what} "
            "is none of timm or kedge: take another --how"
        )
    name, dropped = architecture["name"], ("num_classes", "in_chans", "head")
    sizes = {key: value for key, value in architecture["arguments"].items() if key not in dropped}
    if name == NAME:
        raise ValueError("levi puts a small network beside one network, and this model has one beside it already")
    body = timm.create_model(name, num_classes=0, in_chans=model.input_shape[0], **sizes).to(model.mean).eval()
    wanted, state = set(body.state_dict()), model.network.state_dict()
    different = f"levi cannot take the last layer off {name}: without it it is another network; take another --how"
    if not wanted <= set(state) or any(state[key].shape != value.shape for key, value in body.state_dict().items()):
        raise ValueError(different)
    body.load_state_dict({key: value for key, value in state.items() if key in wanted})
    images, layer = example(model), model.network.get_submodule(head) if head else model.network
    with torch.no_grad(), evaluating(model), collecting(layer) as calls:
        model(images)
    with torch.no_grad():
        features = body((images - model.mean) / model.std)
    (read,) = calls
    expected = inputs_of(layer, read)
    if features.shape != expected.shape or not torch.allclose(features, expected, rtol=1e-3, atol=1e-4):
        raise ValueError(different)
    return {name: sizes}, body


def depths(body: nn.Module, model: PixelModel, count: int) -> tuple[list[str], list[int]]:
    """(names of the `count - 1` deepest layers before the features, widths of them and of the features).

    A layer is the last one at a size of the feature maps; the smallest maps are those that the features are of.

    Raises:
        ValueError: where the body has fewer.
    """
    images, named = (example(model) - model.mean) / model.std, {module: name for name, module in body.named_modules()}
    try:
        at_sizes = [named[module] for module in stages(body, images)] if count > 1 else []
    except ValueError:
        at_sizes = []
    shapes: dict[str, torch.Size] = {}
    handles = [
        body.get_submodule(name).register_forward_hook(lambda _, __, out, name=name: shapes.update({name: out.shape}))
        for name in at_sizes
    ]
    with torch.no_grad():
        width = body(images).shape[1]
    for handle in handles:
        handle.remove()
    height, across = model.input_shape[1:]
    maps = [name for name in at_sizes if abs(shapes[name][2] * across - shapes[name][3] * height) < max(height, across)]
    names = maps[:-1][len(maps) - count :] if count > 1 else []
    if len(names) < count - 1:
        raise ValueError(
            f"levi has an adapting layer at each of so many sizes of feature maps [B, C, H, W], and "
            f"{type(body).__name__} has {len(maps)}: {count} layers are too many; "
            f"--layers {max(1, len(maps))} is the most"
        )
    with torch.no_grad(), pooling(body, names) as pooled:
        body(images)
    return names, [*(pooled[name].shape[1] for name in names), width]


def example(model: PixelModel) -> Tensor:
    """Two images of noise."""
    return torch.rand(2, *model.input_shape, generator=torch.Generator().manual_seed(0)).to(model.mean)

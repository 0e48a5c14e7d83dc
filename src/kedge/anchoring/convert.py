"""Turn any network into an anchored one that computes the same function."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kedge.anchoring.bare_network import (
    check_module,
    resolve_normalisation,
    resolve_shape,
    run,
    warn_of_probabilities,
)
from kedge.anchoring.base import PixelModel
from kedge.anchoring.first_layer import find_first_layer
from kedge.anchoring.fold import tolerance
from kedge.anchoring.model import AnchoredModel
from kedge.anchoring.protocol import independent
from kedge.anchoring.stem import AnchoredStem
from kedge.anchoring.twin import evaluating


@torch.inference_mode(False)
@torch.no_grad()
def anchor(
    model: nn.Module,
    *,
    mean: Sequence[float] | float | None = None,
    std: Sequence[float] | float | None = None,
    first_layer: str | None = None,
    references: Tensor | None = None,
    example: Tensor | Sequence[int] | None = None,
    task: str = "classification",
) -> AnchoredModel:
    """Anchor a copy of `model`: the same function of the normalised image, for every reference.

    Both halves of the widened first layer start as the model's own weights, W [r, x - r] = W r + W (x - r) = W x,
    so a trained model keeps what it knows and training goes on from there (arXiv 2406.00529 trains from scratch).

    Args:
        model: a module from normalised inputs `[B, C, H, W]` (or `[B, D]`) to outputs `[B, num_outputs]` whose first
            layer is affine in the input: a convolution, a patch embedding, a linear layer. It is not changed. A
            `kedge.plain` model is anchored with its own normalisation.
        mean, std: the normalisation, one value or one for each channel; default: timm's `pretrained_cfg`, else 0 and 1.
        first_layer: the layer's name, e.g. "conv1"; found by running the model if not given.
        references: the bank `[K, C, H, W]` in [0, 1]; default: one image of the mean colour.
        example: a batch the model takes, or its shape without the batch axis; default: the shape of `references`,
            else timm's `pretrained_cfg`.
        task: "classification" or "regression".

    Raises:
        ValueError: if the input shape is not known, no affine first layer is found (the message lists what was
            tried), or the anchored model differs from `model` (the message gives the size of the difference).
    """
    if isinstance(model, PixelModel):
        network = model.bare()
        mean = model.mean.flatten().tolist() if mean is None else mean
        std = model.std.flatten().tolist() if std is None else std
        example = model.input_shape if example is None and references is None else example
        model = network
    check_module(model, "kedge.anchor")
    model = getattr(model, "_orig_mod", model)
    if any(parameter.is_meta for parameter in model.parameters()):
        raise ValueError("the model's weights are on the meta device: give them values first, with model.to_empty")
    shape = resolve_shape(model, example, references)
    mean_, std_ = resolve_normalisation(model, shape, mean, std)
    generator = torch.Generator().manual_seed(0)
    images, others = torch.rand(2, 2, *shape, generator=generator).to(mean_)
    x = (images - mean_) / std_
    network = independent(model)
    if not any(True for _ in network.children()):
        network = nn.Sequential(network)
    with evaluating(network):
        expected = run(network, x, "the model")
        warn_of_probabilities(expected, task)
        name, arriving = find_first_layer(network, x, first_layer)
        if not any(arriving.shape == whole.shape and torch.equal(arriving, whole) for whole in (x, x.flatten(1))):
            raise ValueError(
                f"the first layer with weights, {name!r}, does not get the image itself: it gets shape "
                f"{list(arriving.shape)} of an input of {list(x.shape)}. What the model does to its input before that "
                "layer belongs outside: a normalisation in mean= and std=, anything else in the data"
            )
        put_stem(network, name, axis=-1 if arriving.ndim == 2 else 1)
        if references is None:
            references = mean_.expand(1, *shape)
            references = references.clamp(0, 1) if len(shape) > 1 else references
        anchored = AnchoredModel(
            network,
            name,
            references,
            mean=mean_,
            std=std_,
            input_shape=shape,
            num_outputs=expected.shape[1],
            task=task,
        )
        anchored.eval()
        try:
            predicted = anchored.predict(images, check=False).logits
            answers = [anchored(images, references=others), anchored(images, references=others[:1]), predicted]
            error = max(float((expected - logits).abs().max()) for logits in answers)
            if error <= tolerance(x.dtype, expected):
                error = _disagreement(anchored, images, others[:1])
        except Exception as failure:
            raise ValueError(
                f"the model cannot be anchored at {name!r}: with the reference beside the image it fails with "
                f"{type(failure).__name__}: {failure}. Its input is used elsewhere, or changed before that layer; a "
                "normalisation inside the model belongs in mean= and std="
            ) from failure
    if not error <= tolerance(x.dtype, expected):
        raise ValueError(
            f"after anchoring at {name!r} the outputs differ from the model's by {error:.3g}: the model uses its "
            "input or the layer's weights elsewhere too (a normalisation inside the model belongs in mean= and std=); "
            "name another layer with first_layer="
        )
    return anchored.train(model.training)


def put_stem(network: nn.Module, name: str, axis: int | None = None) -> bool:
    """Put an anchored first layer in the place of layer `name` of `network`; whether its axis could be told.

    Nothing is run or checked, as `anchor` does. Without `axis` it is that of convolutions and of linear layers, which
    see images as they are and flattened.
    """
    layer = network.get_submodule(name)
    if axis is None:
        if not isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear):
            return False
        axis = -1 if isinstance(layer, nn.Linear) else 1
    network.set_submodule(name, AnchoredStem(layer, axis))
    return True


def _disagreement(model: AnchoredModel, images: Tensor, reference: Tensor) -> float:
    """How far the two ways to hand over a reference are apart once the halves of the layer differ, as after training.

    With equal halves the reference has no effect, and a model that treats it wrongly would pass.
    """
    weights = list(model.stem.reference.parameters())
    values = [weight.clone() for weight in weights]
    generator = torch.Generator().manual_seed(0)
    for weight in weights:
        noise = torch.randn(weight.shape, generator=generator).to(weight)
        weight.add_(0.1 * weight.float().std(correction=0).nan_to_num().to(weight) * noise)
    stacked, shared = model(images, references=reference.expand_as(images)), model(images, references=reference)
    for weight, value in zip(weights, values, strict=True):
        weight.copy_(value)
    return float((stacked - shared).abs().max())

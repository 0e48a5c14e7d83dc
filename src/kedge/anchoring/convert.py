"""Turn any network into an anchored one that computes the same function."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kedge.anchoring.first_layer import find_first_layer
from kedge.anchoring.fold import tolerance
from kedge.anchoring.model import AnchoredModel
from kedge.anchoring.pixels import PlainModel, evaluating, resolve_normalisation, resolve_shape, run
from kedge.anchoring.stem import AnchoredStem


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
    if isinstance(model, AnchoredModel):
        raise ValueError("the model is anchored already; change its references with model.references = ...")
    if isinstance(model, PlainModel):
        mean = model.mean.flatten().tolist() if mean is None else mean
        std = model.std.flatten().tolist() if std is None else std
        example = model.input_shape if example is None and references is None else example
        model = model.network
    shape = resolve_shape(model, example, references)
    mean_, std_ = resolve_normalisation(model, shape, mean, std)
    generator = torch.Generator().manual_seed(0)
    images, others = torch.rand(2, 2, *shape, generator=generator).to(mean_)
    x = (images - mean_) / std_
    network = copy.deepcopy(model)
    with torch.no_grad(), evaluating(network):
        expected = run(network, x, "the model")
        name, arriving = find_first_layer(network, x, first_layer)
        if not name:
            network, name = nn.Sequential(network), "0"
        parent, _, child = name.rpartition(".")
        stem = AnchoredStem(network.get_submodule(name), axis=-1 if arriving.ndim == 2 else 1)
        setattr(network.get_submodule(parent), child, stem)
        if arriving.shape not in (x.shape, x.flatten(1).shape):
            raise ValueError(
                f"the image reaches {name!r} with shape {list(arriving.shape)}, rearranged from {list(x.shape)}; only "
                "layers that see the image as it is, or flattened, can be anchored"
            )
        if references is None:
            references = mean_.expand(1, *shape).float().clamp(0, 1) if len(shape) > 1 else mean_.expand(1, *shape)
        made = AnchoredModel(
            network,
            name,
            references,
            mean=mean_,
            std=std_,
            input_shape=shape,
            num_outputs=expected.shape[1],
            task=task,
        )
        made.eval()
        try:
            stacked = made(images, references=others)
        except Exception as failure:
            raise ValueError(
                f"the model cannot be anchored at {name!r}: with the reference beside the image it fails with "
                f"{type(failure).__name__}: {failure}. Its input is used elsewhere, or changed before that layer; a "
                "normalisation inside the model belongs in mean= and std="
            ) from failure
        got = [stacked, made(images, references=others[:1]), made.predict(images).logits]
    error = max(float((expected.float() - logits.float()).abs().max()) for logits in got)
    if not error <= tolerance(x.dtype, expected):
        raise ValueError(
            f"after anchoring at {name!r} the outputs differ from the model's by {error:.3g}: the model uses its "
            "input elsewhere too, or changes it before that layer (a normalisation inside the model belongs in "
            "mean= and std=); name another layer with first_layer="
        )
    return made.train(model.training)

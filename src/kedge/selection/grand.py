"""GraNd: the length of an image's own gradient, over all weights, early in training."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from kedge.anchoring.twin import in_eval
from kedge.data.sets import ImageSet
from kedge.selection.el2n import info as info

VALUES = 2**25  # of gradients that are held at a time: 128 MB


def grand(model: Any, images: ImageSet, batch_size: int = 256) -> Tensor:
    """|∇ CE|₂ of each image by itself over all parameters of the model, `[N]` in float64.

    In eval mode, so that batch norm has its running statistics, and without augmentation; of an anchored model with the
    first reference of its bank. Of a network whose last layer alone is trained it is EL2N times the length of what that
    layer reads. Of untrained weights it says nothing of the labels: train for a few epochs first.

    Args:
        model: of kedge.
        images: with labels.
        batch_size: images at a time, fewer of a large network, whose gradients are held for each.
    """
    with in_eval(model) as network:
        fixed = {name: value.detach() for name, value in network.named_parameters()}
        buffers = dict(network.named_buffers())
        count = sum(value.numel() for value in fixed.values())
        squares = vmap(lambda image, label: _square(network, fixed, buffers, image, label))
        parts = []
        for pixels, labels in images.batches(max(1, min(batch_size, VALUES // count))):
            device = network.mean.device
            parts.append(squares((pixels / 255).to(device), labels.to(device)).cpu())
    return torch.cat(parts).sqrt()


def _square(
    network: nn.Module, fixed: dict[str, Tensor], buffers: dict[str, Tensor], image: Tensor, label: Tensor
) -> Tensor:
    """The squared length of the gradient of one image `[C, H, W]`."""

    def loss(weights: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(functional_call(network, (weights, buffers), (image[None],)), label[None])

    return torch.stack([each.double().square().sum() for each in grad(loss)(fixed).values()]).sum()

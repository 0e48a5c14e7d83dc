"""The diagonal of the Fisher information of a classifier: how much each weight decides about its answers."""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from kedge.anchoring.references import stack_images
from kedge.seeds import generator

__all__ = ["diagonal_fisher"]


def diagonal_fisher(
    model: nn.Module, images: Dataset, names: Sequence[str], count: int = 500, seed: int = 0, empirical: bool = False
) -> list[Tensor]:
    """The mean over images of (∂ log p(ŷ | x) / ∂w)², for the parameters of these names, as they are shaped.

    ŷ is drawn from the model's own answer for the image, which gives the Fisher information itself; `empirical` takes
    the label of the image in its place. The model is in eval mode, and is not changed.

    Args:
        model: images in [0, 1] to logits.
        images: an indexable set of (image, label).
        names: of parameters.
        count: at most so many images, drawn by the seed.
        seed: of the images and of the drawn labels.
        empirical: labels in place of drawn ones.

    Raises:
        ValueError: for images of another shape than the model takes, and labels that it has no output for.
    """
    model = copy.deepcopy(model).eval().requires_grad_(True)
    chosen: Any = images
    device = next(model.parameters()).device
    places = torch.randperm(len(chosen), generator=generator(seed, "fisher images"))[:count]
    draws = generator(seed, "fisher labels")
    of_name = dict(model.named_parameters())
    weights = [of_name[name] for name in names]
    sums = [torch.zeros_like(each) for each in weights]
    for place in places:
        image = stack_images(chosen, place[None])
        wanted = getattr(model, "input_shape", image.shape[1:])
        if tuple(image.shape[1:]) != tuple(wanted):
            raise ValueError(f"the source images are {list(image.shape[1:])} and the start model takes {list(wanted)}")
        log_probs = model(image.to(device)).float().log_softmax(1)[0]
        if empirical:
            label = int(chosen[int(place)][1])
            if not 0 <= label < len(log_probs):
                raise ValueError(f"a source image has label {label}, and the start model has {len(log_probs)} outputs")
        else:
            label = int(torch.multinomial(log_probs.detach().exp().cpu(), 1, generator=draws))
        slopes = torch.autograd.grad(log_probs[label], weights, allow_unused=True)
        for total, slope in zip(sums, slopes, strict=True):
            if slope is not None:
                total.add_(slope.square())
    return [total / len(places) for total in sums]

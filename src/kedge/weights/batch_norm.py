"""Running statistics of batch norm, estimated anew: those of averaged weights are not the average of those."""

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from kedge.anchoring import derangement
from kedge.anchoring.protocol import as_model
from kedge.objectives._views import BoundReferences

Attack = Callable[[Any, Tensor, Tensor], Tensor]


def tracked(model: nn.Module) -> list[_BatchNorm]:
    """The batch-norm layers of `model` that keep running statistics."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


def same_statistics(a: nn.Module, b: nn.Module) -> bool:
    """Whether the running statistics of two models of one architecture are equal: frozen while one became the other."""
    pairs = zip(tracked(a), tracked(b), strict=True)
    return all(torch.equal(x.cpu(), y.cpu()) for m, n in pairs for x, y in zip(_moments(m), _moments(n), strict=True))


def _moments(layer: _BatchNorm) -> list[Tensor]:
    return [t for t in (layer.running_mean, layer.running_var) if t is not None]


def freeze_statistics(model: nn.Module) -> None:
    """Put the batch-norm layers of `model` in eval mode: they use their statistics and do not move them.

    Scale and shift still train. `model.train()` undoes it: call this after it. A few thousand photos in small batches
    are worse statistics than those of the images that a network was published with: on 540 photos one pass in training
    mode, with no weight changed, took a network from 78 to 58 % (docs/photos.md).
    """
    for layer in tracked(model):
        layer.eval()


@torch.no_grad()
def reestimate_batch_norm(model: nn.Module, images: Iterable[Any], seed: int = 0, attack: Attack | None = None) -> int:
    """Forget the running statistics of batch norm and estimate them on training images; gives the number of batches.

    As `torch.optim.swa_utils.update_bn` does, mean and (unbiased) variance are averaged over the batches, each batch
    counting the same: shuffle them, and leave out a last one that is much smaller. The model is in training mode
    meanwhile, so an anchored model draws its references from the batch, and dropout drops; the modes are restored.
    A part that no `train()` reaches, a frozen network beside one that learns, keeps its statistics.
    Nothing is read from `images` if the network has no batch norm. After an error the statistics are the old ones.

    Adversarially trained weights have met attacked images alone, whose statistics differ: give their attack. An
    anchored model then gets references from the batch before the attack, which faces them, as in training.

    Args:
        model: the model, changed in place.
        images: batches `[B, C, H, W]`, or tuples that begin with one; uint8 is divided by 255. With an attack pairs
            of images and labels `[B]`.
        seed: of the draws, those of an attack from torch's global generator too, such as `PGD.training()`; the
            generators are left as they were.
        attack: `(model, images, labels) -> images`. What it makes of the images passes, for a frozen copy in eval mode
            with the statistics from before: with those that are only just being estimated it would be no network.

    Raises:
        ValueError: if there is no batch, as with a generator that was used up before; without labels for an attack.
    """
    modes = [(module, module.training) for module in model.modules()]
    layers = [layer for layer in tracked(model.train()) if layer.training]
    for module, mode in modes:
        module.training = mode
    if not layers:
        return 0
    device = next(t for t in (layers[0].running_mean,) if t is not None).device
    before = [(layer, layer.momentum, [buffer.clone() for buffer in layer.buffers(recurse=False)]) for layer in layers]
    attacked = None if attack is None else copy.deepcopy(model).eval().requires_grad_(False)
    batches = 0
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(seed)
            for layer in layers:
                layer.reset_running_stats()
                layer.momentum = None  # the mean over all batches instead of a moving average
            model.train()
            for batch in images:
                pixels = _pixels(batch, device)
                if attack is None:
                    model(pixels)
                else:
                    _pass_attacked(model, attacked, attack, pixels, _labels(batch, device))
                batches += 1
        if batches == 0:
            raise ValueError(
                "there was no batch of images to estimate batch-norm statistics on; a generator is used up after one "
                "pass: give a list or a DataLoader"
            )
    except BaseException:
        for layer, _, buffers in before:
            for buffer, value in zip(layer.buffers(recurse=False), buffers, strict=True):
                buffer.copy_(value)
        raise
    finally:
        for layer, momentum, _ in before:
            layer.momentum = momentum
        for module, mode in modes:
            module.training = mode
    return batches


def _pixels(batch: Any, device: torch.device) -> Tensor:
    images = batch[0] if isinstance(batch, tuple | list) else batch
    images = images.to(device)
    return images.float() / 255 if images.dtype == torch.uint8 else images


def _labels(batch: Any, device: torch.device) -> Tensor:
    if not isinstance(batch, tuple | list) or len(batch) < 2:
        raise ValueError(f"an attack needs labels: give batches (images, labels), not {type(batch).__name__} of images")
    labels: Tensor = batch[1].to(device)
    return labels


def _pass_attacked(model: nn.Module, attacked: Any, attack: Attack, pixels: Tensor, labels: Tensor) -> None:
    """Hand what the attack makes of a batch for `attacked` to `model`."""
    references = {}
    if as_model(model).count() and len(pixels) > 1:
        references = {"references": pixels[derangement(len(pixels), device=pixels.device)]}
        attacked = BoundReferences(attacked, references["references"], None, None)
    with torch.enable_grad():
        adversarial = attack(attacked, pixels, labels)
    model(adversarial.detach(), **references)

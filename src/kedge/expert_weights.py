"""How much each of several experts counts: one alone, chosen by a few labels, or weights from unlabelled images."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kedge.anchoring import PixelModel
from kedge.anchoring.twin import evaluating
from kedge.checks import unlike_classes
from kedge.data import ImageSet
from kedge.data.augment import augment_batch
from kedge.experts import Experts, experts_of
from kedge.postprocess import trained_through
from kedge.seeds import generator

__all__ = ["aggregate", "disputed", "select_head", "similarity"]

STOP = 0.05  # a weight below this, rounded to two decimals, ends the search


def aggregate(
    model: PixelModel, images: ImageSet, seed: int = 0, epochs: int = 5, batch_size: int = 128, lr: float = 0.1
) -> Tensor:
    """Weigh the experts of a model by unlabelled images, as SADE does while testing; gives the weights `[H]`.

    **Harmful: leave it alone, keep the mean.** What it maximises is reached best by constant answers, and the expert of
    rare classes comes nearest to those. In a first study (a small MLP, three seeds) accuracy fell from 69 to 36 % on
    the shares of training and from 62 to 38 % on equal ones; in the claim `diverse_experts` it changed next to nothing.
    It is here so that this can be seen.

    Weights are s = softmax(ω), equal at first. ω moves up the mean cosine similarity of softmax(Σ s_e z_e) of two
    augmented views of an image (shifts and, where the set allows, mirrored images; the authors change colours too), by
    SGD with momentum 0.9, Nesterov and weight decay 5e-4; it ends after an epoch in which a weight falls below 0.05.
    The model changes in place: its prediction stays a function of the image alone, and is saved with the weights. Steps
    after the logits and the reject threshold were fitted to other answers, and are taken out, but for a map that the
    model was trained through.

    Args:
        model: a model with experts, see `experts_of`; its network is in eval mode meanwhile.
        images: unlabelled images of the kind to come; labels are not looked at.
        seed: of order and views.
        epochs, batch_size, lr: as published.

    Raises:
        ValueError: for a model without experts, or no images.

    Source: Zhang et al., "Self-supervised aggregation of diverse experts", NeurIPS 2022, arXiv 2107.09249 (their code).
    """
    _, experts = experts_of(model)
    if not len(images):
        raise ValueError("there are no images to weigh the experts by")
    omega = torch.zeros(experts.heads, requires_grad=True)
    rule = torch.optim.SGD([omega], lr=lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
    device = experts.weights.device
    model.steps, model.reject, model.unknown = trained_through(model.steps), None, None
    with evaluating(model):
        for epoch in range(epochs):
            draws = generator(seed, "aggregate", epoch)
            order = torch.randperm(len(images), generator=draws)
            for part in order.split(batch_size):
                pixels = torch.cat([batch for batch, _ in images.subset(part).batches(batch_size)])
                views = [augment_batch(pixels, draws, flip=images.mirror).to(device) / 255 for _ in range(2)]
                answers = [_logits(model, experts, view).cpu() for view in views]
                rule.zero_grad()
                loss = -similarity(omega, *answers)
                loss.backward()
                rule.step()
            if bool((omega.detach().softmax(0).mul(100).round() / 100 < STOP).any()):
                break
    experts.weights.copy_(omega.detach().softmax(0))
    return experts.weights.clone()


def similarity(omega: Tensor, one: Tensor, other: Tensor) -> Tensor:
    """Mean cosine similarity of the probabilities of two views, from the experts' logits `[B, H, C]` and ω `[H]`."""
    weights = omega.softmax(0)
    first, second = (torch.einsum("h,bhc->bc", weights, logits).softmax(1) for logits in (one, other))
    return F.cosine_similarity(first, second).mean()


def disputed(model: PixelModel, images: ImageSet, count: int, batch_size: int = 256) -> Tensor:
    """Places `[count]` of the images on which the experts disagree most: those worth a label, for `select_head`.

    Disagreement is the mean of |p^i - p^j| over pairs of experts and classes, as in DivDis (arXiv 2202.03418). Labels
    of the images are not looked at.

    Raises:
        ValueError: for a model without experts; for a count that is below 1 or above the number of images.
    """
    _, experts = experts_of(model, 2)
    if not 1 <= count <= len(images):
        raise ValueError(f"count is from 1 to {len(images)}, the number of images, not {count}")
    probs = _answers(model, experts, images, batch_size).softmax(2)
    apart = (probs[:, :, None] - probs[:, None]).abs().mean((1, 2, 3))
    return apart.argsort(descending=True, stable=True)[:count]


def select_head(model: PixelModel, few: ImageSet, batch_size: int = 256) -> int:
    """Let the one expert answer that is right on most of a few labelled images; gives its number, the lowest of equals.

    The images are some of where the model is to work, best those that `disputed` names: on training images all experts
    are right. The model changes in place, and is saved so. Steps after the logits and the reject threshold were fitted
    to other answers, and are taken out, but for a map that the model was trained through.

    Raises:
        ValueError: for a model without experts, no images, or other classes than the model's.

    Source: Lee, Yao and Finn, "Diversify and Disambiguate", ICLR 2023, arXiv 2202.03418.
    """
    _, experts = experts_of(model, 2)
    if not len(few):
        raise ValueError("there are no images to choose an expert by")
    own = model.class_names or model.num_outputs
    if (unlike := unlike_classes(few.class_names, own, (few.name, "the model"))) is not None:
        raise ValueError(f"the classes of {few.name} are not those of the model: {unlike}")
    logits = _answers(model, experts, few, batch_size)
    right = (logits.argmax(2) == few.labels[:, None]).sum(0)
    best = int(right.argmax())
    with torch.no_grad():
        experts.weights.copy_(torch.eye(experts.heads)[best])
    model.steps, model.reject, model.unknown = trained_through(model.steps), None, None
    return best


def _answers(model: nn.Module, experts: Experts, images: ImageSet, batch_size: int) -> Tensor:
    """The logits of every expert for a whole set `[N, H, C]`, in eval mode, on the CPU."""
    device = experts.weights.device
    with evaluating(model):
        parts = [_logits(model, experts, batch.to(device) / 255).cpu() for batch, _ in images.batches(batch_size)]
    return torch.cat(parts)


@torch.no_grad()
def _logits(model: nn.Module, experts: Experts, images: Tensor) -> Tensor:
    """The logits of every expert `[B, H, C]`."""
    outputs: list[Tensor] = []
    hook = experts.each.register_forward_hook(lambda layer, inputs, output: outputs.append(output))
    try:
        model(images)
    finally:
        hook.remove()
    return experts.apart(outputs[-1].float())

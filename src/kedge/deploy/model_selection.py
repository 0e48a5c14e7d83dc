"""The one image that a folded model keeps: that with which it answers most like the whole bank."""

from dataclasses import dataclass

import torch
from torch import Tensor

from kedge.anchoring import AnchoredModel
from kedge.data import ImageSet


@dataclass(frozen=True)
class FoldChoice:
    """What `choose_folded` chose, and from what.

    Attributes:
        name: "reference 3 of 10" or "the mean of the bank".
        mean: whether it is the mean.
        reference: `[C, H, W]` in [0, 1].
        divergence: mean KL divergence of the answers with it from those of the bank, in nats.
        first: that of the first reference of the bank.
        images: how many images it was measured on.
        right: `[N]` bool, which of them the whole bank answers rightly.
        label: `[N]`, the bank's answers.
    """

    name: str
    mean: bool
    reference: Tensor
    divergence: float
    first: float
    images: int
    right: Tensor
    label: Tensor


@torch.no_grad()
def choose_folded(model: AnchoredModel, images: ImageSet, batch_size: int = 64) -> FoldChoice:
    """Choose among the K images of the bank and their mean the one whose answers are nearest to the bank's.

    Nearest by KL(bank || one), the mean over `images` (held out from training, in the model's shape), in eval mode and
    before any temperature: each image is asked K + 1 times. The labels take no part, so that these images still judge
    what was chosen. To first order the mean is the bank: what a reference adds to the first layer is linear in it, so
    the mean image adds the mean of what the bank adds; where the network is far from linear, one of the bank can be
    nearer. Raises ValueError for a regression model or an empty set.
    """
    if model.task != "classification" or len(images) == 0:
        raise ValueError(f"a reference is chosen for a classifier and on images, got {model.task} and {len(images)}")
    bank = model.references
    mean = bank.mean(0, keepdim=True)
    totals, labels = torch.zeros(len(bank) + 1, dtype=torch.float64), []
    for batch, _ in images.batches(batch_size):
        pixels = batch.to(model.mean.device).float() / 255
        each = model.predict(pixels, keep_per_reference=True)
        alone = model.predict(pixels, references=mean, keep_per_reference=True)
        assert each.per_reference is not None
        assert alone.per_reference is not None
        logits = torch.cat([each.per_reference, alone.per_reference]).double()
        whole = each.per_reference.double().mean(0).log_softmax(-1)
        totals += (whole.exp() * (whole - logits.log_softmax(-1))).sum(-1).sum(1).cpu()
        labels.append(each.logits.argmax(1).cpu())
    divergences, label = totals / len(images), torch.cat(labels)
    best = int(divergences.argmin())
    return FoldChoice(
        name="the mean of the bank" if best == len(bank) else f"reference {best + 1} of {len(bank)}",
        mean=best == len(bank),
        reference=(mean[0] if best == len(bank) else bank[best]).clone(),
        divergence=float(divergences[best]),
        first=float(divergences[0]),
        images=len(images),
        right=label == images.labels,
        label=label,
    )

"""EL2N: how far probabilities are from the label, early in training: hard images, and wrong labels, are far."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kedge.catalog import Info
from kedge.data.sets import ImageSet

info = Info(
    "Deep Learning on a Data Diet: Finding Important Examples Early in Training", "Paul et al.", "NeurIPS", 2021,
    "https://arxiv.org/abs/2107.07075", "code",
)  # fmt: skip


def el2n(model: Any, images: ImageSet, batch_size: int = 256) -> Tensor:
    """|p - onehot(y)|₂ of each image, `[N]` in float64, from 0 to the root of 2.

    p is what the model predicts for the image as it is, without augmentation: of an anchored one the mean over its
    references. The authors average over ten runs a few epochs into training (`kedge.selection.score` does).

    Args:
        model: of kedge.
        images: with labels.
        batch_size: images at a time.
    """
    parts = []
    with torch.no_grad():
        for pixels, labels in images.batches(batch_size):
            probs = model.predict((pixels / 255).to(model.mean.device)).probs.double().cpu()
            parts.append((probs - F.one_hot(labels, probs.shape[1])).norm(dim=1))
    return torch.cat(parts)

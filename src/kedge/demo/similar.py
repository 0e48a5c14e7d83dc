"""Which training photos a photo is most like, by what the last layer reads."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kedge.anchoring import PixelModel
from kedge.data import ImageSet
from kedge.evaluation.inputs import to_unit

MOST = 1000  # training photos that are looked at, spread over all
NEAREST = 4
BATCH = 32


def features(model: PixelModel, images: Tensor) -> Tensor | None:
    """`[B, D]` what the last layer reads, of length 1; with one reference of an anchored model. None: it has none."""
    found = model.outputs(images, 1 if model.count() else None, features=True, check=False).features
    return None if found is None else F.normalize(found.float(), dim=1).cpu()


class Similar:
    """Training photos, to find those whose features lie nearest to a photo's (cosine).

    Of more than 1,000 photos 1,000 are looked at, spread evenly. Their features are held, not the photos: a photo is
    read again when it is shown.

    Args:
        model: a classifier whose last layer can be read.
        photos: those that it was trained on.
        progress: called with how many were looked at, and of how many.

    Raises:
        ValueError: the model has no layer whose features could be compared.
    """

    def __init__(self, model: PixelModel, photos: ImageSet, progress: Callable[[int, int], None] | None = None) -> None:
        count = min(len(photos), MOST)
        self.photos = photos.subset([i * len(photos) // count for i in range(count)])
        self.of = len(photos)
        parts: list[Tensor] = []
        for batch, _ in self.photos.batches(BATCH):
            found = features(model, to_unit(batch).to(model.mean.device))
            if found is None:
                raise ValueError("the model has no layer whose features could be compared")
            parts.append(found)
            if progress is not None:
                progress(sum(map(len, parts)), count)
        self._features = torch.cat(parts)

    def nearest(self, model: PixelModel, image: Tensor, count: int = NEAREST) -> list[dict[str, Any]]:
        """The nearest first: `image` (uint8 `[C, H, W]`), `label` and `likeness`, the cosine in [-1, 1]."""
        found = features(model, image[None])
        assert found is not None
        likeness = self._features @ found[0]
        order = likeness.argsort(descending=True, stable=True)[:count].tolist()
        names = self.photos.class_names
        return [
            {"image": self.photos[i][0], "label": names[int(self.photos.labels[i])], "likeness": float(likeness[i])}
            for i in order
        ]

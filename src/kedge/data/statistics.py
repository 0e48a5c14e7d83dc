"""Training images to estimate the statistics of batch norm on."""

from collections.abc import Iterator

import torch

from kedge.data.augment import CROP, BatchAugmentation
from kedge.data.batches import training_batches
from kedge.data.sets import ImageSet
from kedge.seeds import generator


class NormBatches:
    """Shuffled training images, augmented as in training, the same in every pass: (uint8 `[B, C, H, W]`, labels `[B]`).

    Unlike images have unlike statistics: those estimated on images as they are do not fit weights that were trained on
    augmented ones. All batches have one size, as each counts the same.

    Args:
        images: the training set.
        batch_size: images of a batch.
        augment: as in the recipe of the training: "auto", "crop-flip", "trivial", ... or "none".
        most: at most so many images, a random subset.
        workers: processes that decode images.
        seed: of the subset, the order and the augmentation.
        crop: as in the recipe: smallest share of the area that a random crop keeps.
    """

    def __init__(
        self,
        images: ImageSet,
        batch_size: int,
        augment: str = "auto",
        most: int = 5000,
        workers: int | None = None,
        seed: int = 0,
        crop: float = CROP,
    ) -> None:
        count = min(most, len(images))
        count = max(count - count % batch_size, min(count, batch_size))
        chosen = torch.randperm(len(images), generator=generator(seed, "batch norm", "images"))[:count]
        self.images = images.subset(chosen.sort().values)
        self.augment = augment
        self._augmentation = BatchAugmentation(augment, self.images.mirror, seed)
        self.seed = seed
        self._batches = training_batches(self.images, batch_size, seed, augment=augment, workers=workers, crop=crop)

    def __len__(self) -> int:
        return len(self._batches)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        draws = generator(self.seed, "batch norm", "augment")
        for images, labels in self._batches:
            yield self._augmentation(images, draws), labels

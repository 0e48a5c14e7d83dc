"""scikit-learn's handwritten digits, 8x8 and grey, with a fixed division into train, val and test."""

from functools import cache

import torch

from kedge.data.decode import Size, convert_channels, sides
from kedge.data.report import DataError, LoadReport
from kedge.data.sets import TensorSet
from kedge.seeds import shuffled


class Digits:
    """The digits as a source: of arrays, so that there is nothing to list or to decode."""

    name = "digits"
    splits = ("train", "val", "test")

    def load(self, split: str, image_size: Size | None, channels: int | None) -> TensorSet:
        """See `kedge.data.load`."""
        images, labels = _all_digits()
        index = digits_split(labels, split)
        images = images[index]
        if image_size is not None and (size := sides(image_size)) != images.shape[-2:]:
            if min(size) < 1:
                raise DataError(f"image_size must be at least 1 pixel, got {image_size}")
            from torchvision.transforms.v2 import functional as v2

            images = v2.resize(images, list(size), antialias=True)
        if channels is not None:
            images = convert_channels(images, channels)
        names = [str(i) for i in range(10)]
        return TensorSet(images, labels[index], names, self.name, split, LoadReport(total=len(index)))


@cache
def _all_digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Images `[1797, 1, 8, 8]` and labels, read once: scikit-learn parses a text file."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.from_numpy(data.images).mul(255 / 16).round().to(torch.uint8)[:, None]
    return images, torch.from_numpy(data.target).long()


def digits_split(labels: torch.Tensor, split: str) -> torch.Tensor:
    """Return the indices of scikit-learn's digits in "train" (70 %), "val" (10 %) or "test" (20 %), stratified.

    The split is fixed for good: it rests on SplitMix64, not on the random generator of any library's version.
    """
    chosen = []
    order = shuffled(len(labels), 0, "split")
    for members in (order[labels[order] == c] for c in range(int(labels.max()) + 1)):
        test, val = round(0.2 * len(members)), round(0.1 * len(members))
        parts = {"test": members[:test], "val": members[test : test + val], "train": members[test + val :]}
        chosen.append(parts[split])
    return torch.cat(chosen).sort().values

"""What holds a model that adapts: labelled images that were kept, and what the stream itself shows of its order."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kedge.checks import unlike_classes
from kedge.confidence import log_odds
from kedge.metrics import auroc
from kedge.seeds import generator

FEWEST = 50  # kept images: of fewer a fall of the accuracy is chance
MOST = 200  # kept images that are looked at; half as many unknown ones are made of them
EARLIER = 2000  # answers that a batch is compared with
SHUFFLES = 200
APART = 6.0  # standard deviations by which shuffled answers are less apart than those of a stream that is not mixed


@dataclass(frozen=True)
class Measured:
    """How a model fares on kept images: which answers are right `[N]`, and AUROC of telling them from unknown ones."""

    right: Tensor
    auroc: float

    @property
    def accuracy(self) -> float:
        """The share that is right."""
        return float(self.right.double().mean())


class Brake:
    """When to stop adapting, and go back.

    Three things are looked at, none of which needs a label of the stream:

    - before the first batch of a size: kept images in batches of that size. Where statistics of so few images cost more
      than `statistics` of the accuracy, batches of that size are answered by the model as it was;
    - every so many batches: kept images, and unknown images made of them (the left half of one and the right half of
      another of another class), together in batches of the stream's size. Where accuracy, or the AUROC by which the
      confidence tells kept from unknown ones, is more than `tolerance` below that of the first weights, the last
      weights for which it was not come back, and no further step is taken. Entropy falls where a model grows surer of
      everything, and the accuracy alone does not show that;
    - at each batch: whether the classes that the model as it was answers are those of the batches before it, but for
      chance. Where they are not, the images are not mixed (sorted by class, say), their statistics are of classes and
      not of a shift, and the model as it was answers from then on. A stream of one class from its first to its last
      image cannot be told so.

    What stopped holds until `reset`. It cannot see what happens to the shifted images themselves: kept images are not.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        tolerance: float = 0.04,
        statistics: float = 0.1,
        every: int = 5,
        seed: int = 0,
    ) -> None:
        """Take labelled images that the model was not trained on.

        Args:
            images: `[N, C, H, W]` as the model takes them, uint8 or floating point in [0, 1]; at most 200 are used.
            labels: long `[N]`.
            tolerance: by how much accuracy and AUROC may fall with the weights; that of the accuracy is at least two
                standard errors.
            statistics: by how much the accuracy may fall with the statistics of a batch.
            every: batches from one look to the next.
            seed: of which images are used.

        Raises:
            ValueError: for fewer than 50 images, images of one class, and settings out of range.
        """
        if len(images) != len(labels):
            raise ValueError(f"{len(images)} images and {len(labels)} labels")
        if len(images) < FEWEST:
            raise ValueError(f"the brake rests on kept images, {FEWEST} at least, got {len(images)}")
        if int(labels.min()) == int(labels.max()):
            raise ValueError("the kept images are of one class: no fall of an accuracy would show on them")
        for name, value in (("tolerance", tolerance), ("statistics", statistics)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is a fall of an accuracy, 0 to 1, got {value}")
        if every < 1:
            raise ValueError(f"every is a number of batches, 1 or more, got {every}")
        self.tolerance, self.statistics, self.every, self.seed = float(tolerance), float(statistics), every, seed
        chosen = torch.randperm(len(images), generator=generator(seed, "brake"))[: min(MOST, len(images) // 2 * 2)]
        unit = images[chosen].float() / (1 if images.is_floating_point() else 255)
        self.images, self.labels = unit, labels[chosen].long()
        self.unknown = _unknown(self.images, self.labels)

    @classmethod
    def of(cls, images: Any, model: Any, **settings: Any) -> "Brake":
        """The brake for a model, of a `kedge.data.ImageSet` with its classes and in its size.

        Raises:
            ValueError: for other classes or another size, and as of the class.
        """
        own = getattr(model, "class_names", None) or getattr(model, "num_outputs", None)
        if own is not None and (unlike := unlike_classes(images.class_names, own, (images.name, "the model"))):
            raise ValueError(f"the brake needs images with the classes of the model: {unlike}")
        shape = getattr(model, "input_shape", None)
        if shape is not None and tuple(images.image_shape) != tuple(shape):
            raise ValueError(f"the brake needs images as the model takes them, {shape}, not {images.image_shape}")
        places = torch.randperm(len(images), generator=generator(settings.get("seed", 0), "brake", "set"))[:MOST]
        some = images.subset(places)
        return cls(torch.cat([pixels for pixels, _ in some.batches(MOST)]), some.labels, **settings)

    def settings(self) -> dict[str, Any]:
        """What it goes by, for the record."""
        return {
            "images": len(self.images), "tolerance": self.tolerance, "statistics": self.statistics,
            "every": self.every, "seed": self.seed,
        }  # fmt: skip

    def costs(
        self, before: Callable[[Tensor], Tensor], ask: Callable[[Tensor], Tensor], size: int, like: Tensor
    ) -> float:
        """By how much the accuracy on kept images falls with the statistics of batches of the size."""
        parts = self._parts(self.images, size, like)
        was, now = (torch.cat([f(part).argmax(1).cpu() for part in parts]) for f in (before, ask))
        labels = self.labels[: len(was)]
        return float((was == labels).double().mean() - (now == labels).double().mean())

    def measure(self, ask: Callable[[Tensor], Tensor], size: int, like: Tensor) -> Measured:
        """How a model, which gives logits, fares on kept and unknown images, together in batches of the size."""
        mixed = torch.stack([self.images[0::2], self.images[1::2], self.unknown], 1).flatten(0, 1)
        logits = torch.cat([ask(part).float().cpu() for part in self._parts(mixed, size, like)])
        places = torch.arange(len(logits))
        known = places % 3 < 2
        labels = torch.stack([self.labels[0::2], self.labels[1::2]], 1).flatten()[: int(known.sum())]
        odds = log_odds(logits).nan_to_num(nan=-1e4)
        return Measured(logits[known].argmax(1) == labels, float(auroc(odds[known], odds[~known])))

    def fall(self, first: Measured, now: Measured) -> str | None:
        """What fell from the first weights to those of now, in words; None where nothing did, but for chance."""
        change = first.right.double() - now.right.double()
        chance = 2 * float(change.std()) / len(change) ** 0.5
        if float(change.mean()) > max(self.tolerance, chance):
            return f"accuracy on kept images fell from {first.accuracy:.1%} to {now.accuracy:.1%}"
        if first.auroc - now.auroc > self.tolerance:
            return (
                "confidence no longer tells kept images from unknown ones made of them: AUROC fell from "
                f"{first.auroc:.1%} to {now.auroc:.1%}"
            )
        return None

    def _parts(self, images: Tensor, size: int, like: Tensor) -> list[Tensor]:
        """Whole batches of the size, or all images where they are fewer; dtype and device are those of `like`."""
        whole = max(1, len(images) // size)
        return [part.to(like) for part in images[: whole * size].split(size)]


class Order:
    """Whether the classes that a model answers are the same from batch to batch, but for chance."""

    def __init__(self, seed: int) -> None:
        self._answers = torch.empty(0, dtype=torch.long)
        self._draws = generator(seed, "order")

    def mixed(self, answers: Tensor) -> bool:
        """Whether this batch, long `[B]`, is like those before it, among which it is then counted.

        χ² of the table of batch and earlier ones against classes, in standard deviations above its mean over shuffles
        of the same answers, which hold for few images of many classes too.
        """
        answers, earlier = answers.cpu(), self._answers
        self._answers = torch.cat([earlier, answers])[-EARLIER:]
        if len(earlier) == 0 or len(answers) < 2:
            return True
        together, own = torch.unique(torch.cat([answers, earlier]), return_inverse=True)
        shuffled = torch.rand(SHUFFLES, len(own), generator=self._draws).argsort(1)[:, : len(answers)]
        drawn = torch.cat([torch.arange(len(answers))[None], shuffled])
        counts = torch.zeros(len(drawn), len(together), dtype=torch.float64)
        counts.scatter_add_(1, own[drawn], torch.ones(drawn.shape, dtype=torch.float64))
        expected = own.bincount().double() * len(answers) / len(own)
        apart = ((counts - expected) ** 2 / expected).sum(1)
        by_chance = apart[1:]
        return bool(apart[0] <= by_chance.mean() + APART * by_chance.std().clamp(min=1e-9))


def _unknown(images: Tensor, labels: Tensor) -> Tensor:
    """Half as many images: the left half of one and the right half of another of another class."""
    left = torch.arange(0, len(images) - 1, 2)
    others = [int((labels != labels[i]).roll(-int(i)).nonzero()[0]) for i in left]
    right = (left + torch.tensor(others)) % len(images)
    halved = images[left].clone()
    half = images.shape[-1] // 2
    halved[..., half:] = images[right][..., half:]
    return halved

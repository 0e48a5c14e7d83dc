"""What is kept of a class in place of its photos: a Gaussian of its features, or the features of a few photos."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from kedge.seeds import generator

__all__ = ["CHOICES", "KINDS", "FeatureExemplars", "FeatureGaussians", "chosen", "class_features", "of_tensors"]

GAUSSIANS = ("full", "diagonal")
CHOICES = ("sparse-uniform", "random", "central")
KINDS = (*GAUSSIANS, *CHOICES)


@dataclass(frozen=True)
class FeatureGaussians:
    """A Gaussian of the features of each class: mean and covariance, full or its diagonal alone, as float32.

    No photo is kept: a class takes d + d(d+1)/2 numbers, or 2 d. The covariance is that of the class's images, divided
    by n - 1; a class of one image has none, and every draw is its mean. HiDe-Prompt adds 1e-4 to the diagonal; here
    nothing is added, as draws come from the eigenvectors, which bear a covariance that has no inverse.
    Source: Wang et al., "Hierarchical Decomposition of Prompt-Based Continual Learning", NeurIPS 2023 (arXiv
    2310.07234), whose last stage this is, on the features of a network without prompts.

    Attributes:
        means: `[C, D]`.
        spread: `[C, D(D+1)/2]`, the lower triangle of the covariance row by row, or `[C, D]`, its diagonal.
        how: `full` or `diagonal`.
    """

    means: Tensor
    spread: Tensor
    how: str = "full"

    @classmethod
    def fit(cls, features: Tensor, labels: Tensor, classes: int, how: str = "full") -> "FeatureGaussians":
        """Fit to features `[N, D]` and labels `[N]`, each of the `classes` at least once.

        Raises:
            ValueError: for a class without an image, features that are not finite, another word than full or diagonal.
        """
        if how not in GAUSSIANS:
            raise ValueError(f"the covariance of a class is {' or '.join(GAUSSIANS)}, not {how!r}")
        means, spread = [], []
        for rows in _by_class(features, labels, classes):
            mean = rows.mean(0)
            centred = (rows - mean) / max(1, len(rows) - 1) ** 0.5
            means.append(mean)
            spread.append(centred.square().sum(0) if how == "diagonal" else _packed(centred.T @ centred))
        return cls(torch.stack(means).float(), torch.stack(spread).float(), how)

    def rows(self, label: int, count: int, seed: int) -> Tensor:
        """`[count, D]` drawn from the Gaussian of a class, float32; the seed and the class's place decide the draws."""
        draws = generator(seed, "replay", label)
        mean, spread = self.means[label].double(), self.spread[label].double()
        noise = torch.randn(count, len(mean), generator=draws, dtype=torch.float64)
        if self.how == "diagonal":
            return (mean + noise * spread.sqrt()).float()
        values, vectors = torch.linalg.eigh(_unpacked(spread, len(mean)))
        # Below that is what rounding to float32 leaves of directions without spread.
        least = len(mean) * torch.finfo(torch.float32).eps * values.max()
        return (mean + noise * torch.where(values > least, values, 0).sqrt() @ vectors.T).float()

    def tensors(self) -> dict[str, Tensor]:
        """What a file has to hold."""
        return {"means": self.means, "spread": self.spread}

    def joined(self, other: "FeatureGaussians") -> "FeatureGaussians":
        """These classes, then those of `other`, which are kept in the same way."""
        return FeatureGaussians(torch.cat([self.means, other.means]), torch.cat([self.spread, other.spread]), self.how)

    def __len__(self) -> int:
        return len(self.means)

    @property
    def drawn(self) -> bool:
        """Whether there are other rows to be drawn by another seed."""
        return True


@dataclass(frozen=True)
class FeatureExemplars:
    """The features of a few photos of each class, as float32: a class takes n d numbers. See `chosen`.

    Attributes:
        parts: of each class `[n, D]`.
        how: by what they were chosen.
    """

    parts: tuple[Tensor, ...]
    how: str = "sparse-uniform"

    @classmethod
    def fit(
        cls,
        features: Tensor,
        labels: Tensor,
        classes: int,
        how: str = "sparse-uniform",
        photos: int = 20,
        seed: int = 0,
    ) -> "FeatureExemplars":
        """Choose `photos` of each class from features `[N, D]` and labels `[N]`.

        Raises:
            ValueError: for a class without an image, features that are not finite, a choice that is none, no photos.
        """
        own = _by_class(features, labels, classes)
        parts = [rows[chosen(rows, photos, how, generator(seed, "exemplars", k))] for k, rows in enumerate(own)]
        return cls(tuple(rows.float() for rows in parts), how)

    def rows(self, label: int, count: int, seed: int) -> Tensor:
        """All that is kept of a class, `[n, D]`, whatever is asked for."""
        return self.parts[label]

    def tensors(self) -> dict[str, Tensor]:
        """What a file has to hold."""
        return {"rows": torch.cat(self.parts), "counts": torch.tensor([len(rows) for rows in self.parts])}

    def joined(self, other: "FeatureExemplars") -> "FeatureExemplars":
        """These classes, then those of `other`, which are kept in the same way."""
        return FeatureExemplars((*self.parts, *other.parts), self.how)

    def __len__(self) -> int:
        return len(self.parts)

    @property
    def drawn(self) -> bool:
        """Whether there are other rows to be drawn by another seed."""
        return False


ClassFeatures = FeatureGaussians | FeatureExemplars


def class_features(
    features: Tensor, labels: Tensor, classes: int, how: str = "full", photos: int = 20, seed: int = 0
) -> ClassFeatures:
    """What is kept of each class, by a word of `KINDS`; `photos` and `seed` are for the choice of exemplars.

    Raises:
        ValueError: for another word; as of `FeatureGaussians.fit` and `FeatureExemplars.fit`.
    """
    if how in GAUSSIANS:
        return FeatureGaussians.fit(features, labels, classes, how)
    return FeatureExemplars.fit(features, labels, classes, how, photos, seed)


def of_tensors(how: str, tensors: Mapping[str, Tensor]) -> ClassFeatures:
    """What `tensors` gave; ValueError, in words, where that cannot be."""
    if any(tensor.is_floating_point() and not tensor.isfinite().all() for tensor in tensors.values()):
        raise ValueError("they hold NaN or infinity")
    if how in GAUSSIANS and tensors.keys() == {"means", "spread"}:
        means, spread = tensors["means"].float(), tensors["spread"].float()
        wide = {"full": means.shape[-1] * (means.shape[-1] + 1) // 2, "diagonal": means.shape[-1]}[how]
        if means.ndim == 2 and spread.shape == (len(means), wide):
            return FeatureGaussians(means, spread, how)
    if how in CHOICES and tensors.keys() == {"rows", "counts"}:
        rows, counts = tensors["rows"].float(), tensors["counts"].long()
        if rows.ndim == 2 and counts.ndim == 1 and bool((counts > 0).all()) and int(counts.sum()) == len(rows):
            return FeatureExemplars(tuple(rows.split(counts.tolist())), how)
    shapes = ", ".join(f"{name} {list(tensor.shape)}" for name, tensor in tensors.items())
    raise ValueError(f"they are no statistics of the kind {how!r} ({shapes})")


def chosen(rows: Tensor, photos: int, how: str = "sparse-uniform", draws: torch.Generator | None = None) -> Tensor:
    """Places, long `[min(photos, N)]`, in order, of the images of a class that are kept: features `[N, D]`.

    - `central`: those whose features are most like the mean, by cosine;
    - `random`: drawn by `draws`;
    - `sparse-uniform`: sorted by that likeness and cut into photos / 2 pieces of about equal length, of each its middle
      and the image least like it, by cosine. Of an odd number the last piece, the one farthest out, gives its middle.

    Multiplying all features by a number changes nothing.
    Source: Cheng et al., "Stacking Brick by Brick: Aligned Feature Isolation for Incremental Face Forgery Detection",
    CVPR 2025 (arXiv 2411.11396). The released choice of the middle (the image most stable under shuffling its quarters)
    needs the images, not their features; this is the plain one.

    Raises:
        ValueError: for a choice that is none, fewer than one photo.
    """
    if how not in CHOICES:
        raise ValueError(f"exemplars are chosen by {', '.join(CHOICES)}, not {how!r}")
    if photos < 1:
        raise ValueError(f"photos must be 1 or more of each class, got {photos}")
    if photos >= len(rows):
        return torch.arange(len(rows))
    if how == "random":
        return torch.randperm(len(rows), generator=draws)[:photos].sort().values
    wide = rows.double()
    likeness = F.cosine_similarity(wide, wide.mean(0, keepdim=True))
    order = likeness.argsort(descending=True, stable=True)
    if how == "central":
        return order[:photos].sort().values
    places: list[int] = []
    for piece in order.tensor_split((photos + 1) // 2):
        middle = piece[len(piece) // 2]
        like = F.cosine_similarity(wide[piece], wide[middle][None])
        like[len(piece) // 2] = torch.inf  # not itself, where all are alike
        places += [int(middle), int(piece[like.argmin()])]
    return torch.tensor(places[:photos]).sort().values


def _by_class(features: Tensor, labels: Tensor, classes: int) -> Sequence[Tensor]:
    """Of each class its rows, float64."""
    if not bool(features.isfinite().all()):
        raise ValueError("the features hold NaN or infinity: the network's weights may be broken")
    counts = torch.bincount(labels, minlength=classes)
    if len(counts) > classes or int(counts.min()) == 0:
        raise ValueError(f"each of {classes} classes needs an image, but they have {counts.tolist()}")
    return [features[labels == label].double() for label in range(classes)]


def _packed(matrix: Tensor) -> Tensor:
    rows, columns = torch.tril_indices(*matrix.shape)
    return matrix[rows, columns]


def _unpacked(packed: Tensor, size: int) -> Tensor:
    rows, columns = torch.tril_indices(size, size)
    matrix = torch.zeros(size, size, dtype=packed.dtype)
    matrix[rows, columns] = packed
    matrix[columns, rows] = packed
    return matrix

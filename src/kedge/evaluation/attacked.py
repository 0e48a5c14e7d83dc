"""Accuracy under attack: what is predicted for images made to mislead, batch by batch, and against epsilon."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kedge.anchoring.protocol import as_model
from kedge.anchoring.twin import evaluating
from kedge.attacks import as_attack, distance
from kedge.binomial import exact_interval
from kedge.checks import answers_right, class_indices
from kedge.evaluation.inputs import convert, to_unit
from kedge.metrics._results import Estimate
from kedge.metrics.class_disparity import class_disparity

SLACK = 1e-6  # an image further away than eps by more than this was not made within eps
Attack = Callable[..., Tensor]
Batches = Iterable[tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Attacked:
    """What an attack did to B images.

    Attributes:
        correct: `[B]` bool, right on the clean image.
        robust: `[B]` bool, right on the clean image and under attack.
        distance: `[B]` float32, how far the adversarial image is, in the attack's norm and pixel units.
        images: `[B, C, H, W]` the adversarial images; the clean one where that was misclassified already.
    """

    correct: Tensor
    robust: Tensor
    distance: Tensor
    images: Tensor

    def columns(self) -> dict[str, Tensor]:
        """What results rest on, `[B]` on the CPU: everything but the images."""
        return {"correct": self.correct.cpu(), "robust": self.robust.cpu(), "distance": self.distance.cpu()}


def predictor(
    model: Callable[[Tensor], Tensor],
    references: Any = None,
    shape: tuple[int, ...] | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """What `evaluate` measures of `model`, with gradients: images of the data set, [0, 1], to logits `[B, C]`.

    An anchored model is its `Bank`: the mean over `references` (how many of the bank, a tensor, or None for all). With
    `shape` (C, H, W) and `dtype`, images are first brought to what the model takes, so that epsilon is a distance
    between images of the data set whatever the model's input size. Raises ValueError for references="blt".
    """

    def prepare(images: Tensor) -> Tensor:
        images = images if shape is None else convert(images, shape)
        return images if dtype is None else images.to(dtype)

    return as_model(model).for_attack(references, prepare)


def attack_batch(
    model: nn.Module,
    attack: Attack,
    images: Tensor,
    labels: Tensor,
    indices: Tensor | Sequence[int] | None = None,
    *,
    made_on: nn.Module | None = None,
) -> Attacked:
    """Attack the images that `model` gets right, and judge what comes back.

    Args:
        model: in eval mode or not, what is judged; see `predictor`. Its modes are left as they were.
        attack: `(model, images, targets) -> images`; has `eps` and `norm`, to which what it returns is held.
        images: `[B, C, H, W]` uint8, or floating point in [0, 1], on the model's device.
        labels: class indices `[B]`.
        indices: `[B]`, the images' places in their set, for attacks that draw by them.
        made_on: the model that the images are made on, if another one (transfer).

    Raises:
        ValueError: when the attack returns images further away than eps, outside [0, 1] or not finite.
    """
    images = to_unit(images)
    labels = class_indices(labels).to(images.device)
    with torch.no_grad(), evaluating(model):
        correct = answers_right(model(images), labels)
    rows = correct.nonzero()[:, 0]
    adversarial, robust = images.clone(), correct.clone()
    away = torch.zeros(len(images), device=images.device)
    if len(rows):
        places = None if indices is None else torch.as_tensor(indices)[rows.cpu()].tolist()
        changed = at_places(attack, model if made_on is None else made_on, images[rows], labels[rows], places)
        away[rows] = _checked_distance(attack, changed, images[rows])
        with torch.no_grad(), evaluating(model):
            robust[rows] = answers_right(model(changed), labels[rows])
        adversarial[rows] = changed
    return Attacked(correct, robust, away, adversarial)


def at_places(attack: Attack, model: nn.Module, images: Tensor, labels: Tensor, places: Sequence[int] | None) -> Tensor:
    """What `attack` makes of `images`; one that draws by their places in their set gets those."""
    if places is not None and "indices" in inspect.signature(attack).parameters:
        return attack(model, images, labels, indices=places)
    return attack(model, images, labels)


class MadeOnce:
    """An attack on one model whose image of each index is made once, however many other models are shown it."""

    def __init__(self, attack: Any) -> None:
        self.attack, self.eps, self.norm = attack, attack.eps, attack.norm
        self.images: dict[int, Tensor] = {}

    def __call__(self, model: nn.Module, images: Tensor, targets: Tensor, indices: Sequence[int]) -> Tensor:
        """Adversarial images `[B, C, H, W]` of `images` at `indices` of their set."""
        rows = [row for row, index in enumerate(indices) if index not in self.images]
        if rows:
            new = at_places(self.attack, model, images[rows], targets[rows], [indices[row] for row in rows])
            self.images.update(zip((indices[row] for row in rows), new, strict=True))
        return torch.stack([self.images[index] for index in indices])


def attacked(
    model: nn.Module, attack: Attack, batches: Batches, *, skip: int = 0, made_on: nn.Module | None = None
) -> Iterator[Attacked]:
    """`attack_batch` for each of `batches` of (images, labels), one after another.

    An image's place in the set is its place among all batches. With attacks that draw by it, what comes out for a batch
    depends on nothing before it: the first `skip` batches can be left out when their results are there from before.
    """
    for images, labels, indices in _numbered(batches, skip):
        yield attack_batch(model, attack, images, labels, indices, made_on=made_on)


def _numbered(batches: Batches, skip: int) -> Iterator[tuple[Tensor, Tensor, range]]:
    """The batches after the first `skip`, with the places of their images among those of all batches."""
    start = 0
    for number, (images, labels) in enumerate(batches):
        if number >= skip:
            yield images, labels, range(start, start + len(images))
        start += len(images)


def attack_summary(
    columns: dict[str, Tensor],
    attack: Attack,
    seconds: float | None = None,
    transfer: bool = False,
    labels: Tensor | None = None,
) -> dict[str, Any]:
    """Accuracy clean and under attack, with exact binomial intervals, from the columns of all batches, `[N]`.

    With the `labels` `[N]` also how far the best class is above the worst, clean and under attack.

    An image counts as right under attack when it is right clean and under attack, so that eps = 0 is clean accuracy.
    """
    record = as_attack(attack).record()  # title, norm, eps, steps, restarts and kind, None where it does not say
    if transfer:
        record |= {"title": f"{record['title']}, made on another model", "kind": "transfer"}
    return {
        **record,
        "images": len(columns["correct"]),
        "clean_accuracy": _share(columns["correct"]),
        "accuracy": _share(columns["robust"]),
        **(
            {}
            if labels is None
            else {
                "clean_class_disparity": class_disparity(columns["correct"], labels).to_json(),
                "class_disparity": class_disparity(columns["robust"], labels).to_json(),
            }
        ),
        "largest_distance": float(columns["distance"].max()) if len(columns["distance"]) else 0.0,
        "seconds": seconds,
    }


def broken_at(
    model: nn.Module,
    attack_factory: Callable[[float], Attack],
    eps_grid: Sequence[float],
    images: Tensor,
    labels: Tensor,
    indices: Tensor | Sequence[int] | None = None,
    *,
    made_on: nn.Module | None = None,
) -> Tensor:
    """The smallest eps of the grid at which each image is misclassified, `[B]` float32; 0: clean; inf: at none.

    An image broken at one eps is broken at all larger ones, whose balls hold it: only the others are attacked again.
    """
    grid = _checked_grid(eps_grid)
    images = to_unit(images)
    places = torch.arange(len(images)) if indices is None else torch.as_tensor(indices)
    broken = torch.full((len(images),), torch.inf, device=images.device)
    rows, labels = torch.arange(len(images), device=images.device), labels.to(images.device)
    for eps in grid:
        if len(rows) == 0:
            break
        attack = attack_factory(eps)
        result = attack_batch(model, attack, images[rows], labels[rows], places[rows.cpu()], made_on=made_on)
        broken[rows[~result.correct]] = 0.0
        broken[rows[result.correct & ~result.robust]] = eps
        rows = rows[result.robust]
    return broken.cpu()


def accuracy_against_epsilon(
    model: nn.Module,
    attack_factory: Callable[[float], Attack],
    eps_grid: Sequence[float],
    batches: Batches,
    *,
    skip: int = 0,
    made_on: nn.Module | None = None,
) -> Iterator[Tensor]:
    """`broken_at` for each of `batches` of (images, labels), one after another; `skip` as in `attacked`.

    `attack_factory` makes an attack for an eps: `lambda eps: PGD(eps, 20)`.
    """
    for images, labels, indices in _numbered(batches, skip):
        yield broken_at(model, attack_factory, eps_grid, images, labels, indices, made_on=made_on)


def epsilon_curve(broken: Tensor, eps_grid: Sequence[float], norm: str) -> dict[str, Any]:
    """Accuracy against eps with exact intervals, from what `broken_at` gave `[N]`; the first point is clean."""
    grid = [0.0, *_checked_grid(eps_grid)]
    # Compared in the dtype of the column: 8/255 in float32 is not 8/255.
    radii = torch.tensor(grid, dtype=broken.dtype)
    return {
        "norm": norm,
        "points": [{"eps": eps, "accuracy": _share(broken > radius)} for eps, radius in zip(grid, radii, strict=True)],
    }


def _checked_grid(eps_grid: Sequence[float]) -> list[float]:
    grid = [float(eps) for eps in eps_grid if eps != 0]
    if not grid or sorted(set(grid)) != grid or grid[0] < 0:
        raise ValueError(f"eps_grid must hold positive values in rising order, got {list(eps_grid)}")
    return grid


def _share(column: Tensor) -> dict[str, Any]:
    correct, total = int(column.sum()), len(column)
    return Estimate(correct / total, *exact_interval(correct, total)).to_json()


def _checked_distance(attack: Attack, changed: Tensor, images: Tensor) -> Tensor:
    """The distances `[B]` of what an attack returned; raises ValueError where it broke its own rules."""
    name = as_attack(attack).title
    eps, norm = getattr(attack, "eps", None), getattr(attack, "norm", None)
    if eps is None or norm is None:
        raise ValueError(f"the attack {name} does not say its eps and norm: set them as attributes, in pixel units")
    if changed.shape != images.shape:
        raise ValueError(f"the attack {name} returned images {list(changed.shape)} for {list(images.shape)}")
    away = distance(changed, images, norm)
    low, high, furthest = float(changed.min()), float(changed.max()), float(away.max())
    if not (low >= 0 and high <= 1):
        raise ValueError(f"the attack {name} returned images with values in [{low:.4g}, {high:.4g}], outside [0, 1]")
    if not furthest <= eps + SLACK * max(1.0, eps):
        raise ValueError(f"the attack {name} says eps={eps:.6g} ({norm}), but an image is {furthest:.6g} away")
    return away.float()

"""A model in three numbers, on validation images: what to choose between models by."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from kedge.attacks import Attack
from kedge.binomial import exact_interval
from kedge.checks import answers_right
from kedge.data.corruptions import corrupt, expand
from kedge.evaluation.attacked import attacked, predictor
from kedge.evaluation.inputs import to_unit
from kedge.evaluation.sets import check_images, check_severities, limited

PICKS = ("clean", "shifted", "pgd", "mean")


class Measure:
    """Accuracy clean, under a few corruptions and under attack: `measure(model) -> {"clean": 0.99, ...}`.

    Args:
        images: an `ImageSet` of the model's size and classes, of which nothing was trained on.
        shift: corruptions or groups of them; their mean is "shifted". None: not measured.
        severity: of the corruptions, 1 to 5.
        attack: what "pgd" is: the share that is right clean and under this attack. None: not measured.
        attack_images: at most so many images are attacked, a random subset.
        references: how many of an anchored model's bank to use, also under attack; None: all, as `predict` does.
        batch_size: images that go through the network at a time.
        workers: processes that decode images.
        seed: of the subset and the corruptions.

    Raises:
        ValueError: for no images, an unknown corruption and a wrong severity.
    """

    def __init__(
        self,
        images: Any,
        *,
        shift: Sequence[str] = (),
        severity: int = 3,
        attack: Attack | None = None,
        attack_images: int = 500,
        references: int | None = None,
        batch_size: int = 128,
        workers: int = 0,
        seed: int = 0,
    ) -> None:
        check_images(images)
        check_severities([severity])
        self.images = images
        self.shift = expand(shift)
        self.severity = severity
        self.attack = attack
        self.attacked_images = limited(images, attack_images, seed)[0] if attack is not None else None
        self.references = references
        self.batch_size = batch_size
        self.workers = workers
        self.seed = seed

    def names(self) -> list[str]:
        """What is measured: "clean", "shifted" and "pgd", where asked for, and their "mean"."""
        single = ["clean", *["shifted"] * bool(self.shift), *["pgd"] * (self.attack is not None)]
        return [*single, "mean"] if len(single) > 1 else single

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Shares in [0, 1]: those of `names`, and of every corruption by its name. The model is in eval mode."""
        faced = predictor(model, self.references).eval()
        right, single = self._right(model, faced)
        shares = {"clean": right}
        if self.shift:
            shares["shifted"] = sum(single.values()) / len(single)
        if self.attack is not None and self.attacked_images is not None:
            results = attacked(faced, self.attack, self._batches(model, self.attacked_images))
            shares["pgd"] = float(torch.cat([result.robust for result in results]).double().mean())
        if len(shares) > 1:
            shares["mean"] = sum(shares.values()) / len(shares)
        return {**shares, **single}

    def intervals(self, shares: dict[str, float]) -> dict[str, list[float]]:
        """Exact binomial 95 % intervals of what was counted on one set of images: "clean" and "pgd"."""
        counted = {"clean": len(self.images)}
        if self.attacked_images is not None:
            counted["pgd"] = len(self.attacked_images)
        return {name: list(exact_interval(round(shares[name] * total), total)) for name, total in counted.items()}

    def about_attack(self, title: str) -> dict[str, Any] | None:
        """The attack for the record, under its title; None where nothing is attacked."""
        if self.attack is None or self.attacked_images is None:
            return None
        settings = {"eps": self.attack.eps, "norm": self.attack.norm, "steps": self.attack.steps}
        settings["step_size"] = getattr(self.attack, "length", None)
        return {"title": title, **settings, "images": len(self.attacked_images)}

    @torch.no_grad()
    def _right(self, model: nn.Module, faced: nn.Module) -> tuple[float, dict[str, float]]:
        """Accuracy on the images as they are, and for each corruption."""
        clean, single, start = 0, dict.fromkeys(self.shift, 0), 0
        for images, labels in self._batches(model, self.images):
            places = torch.arange(start, start + len(images))
            start += len(images)
            clean += int(answers_right(faced(images), labels).sum())
            for name in self.shift:
                changed = corrupt(images, name, self.severity, indices=places, seed=self.seed)
                single[name] += int(answers_right(faced(changed), labels).sum())
        return clean / start, {name: count / start for name, count in single.items()}

    def _batches(self, model: nn.Module, images: Any) -> Any:
        device = next(iter([*model.parameters(), *model.buffers()])).device
        for batch, labels in images.batches(self.batch_size, self.workers):
            yield to_unit(batch.to(device)), labels.to(device)


def best(rows: Sequence[dict[str, float]], pick: str) -> dict[str, float]:
    """The row with the highest `pick`; among equals that with the highest mean, then the highest alpha.

    Raises:
        ValueError: if that was not measured.
    """
    if not rows or pick not in rows[0]:
        measured = [name for name in PICKS if rows and name in rows[0]]
        raise ValueError(f"cannot pick by {pick}: what was measured is {', '.join(measured) or 'nothing'}")
    # Rounded, for the mean of equal counts may differ in the last bit.
    return max(rows, key=lambda row: (round(row[pick], 9), round(row.get("mean", 0.0), 9), row.get("alpha", 0.0)))

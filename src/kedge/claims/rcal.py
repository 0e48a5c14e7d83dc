"""With wrong labels and rare classes, Gaussians without outliers, borrowing from frequent classes, beat balance."""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from kedge.claims import Claim, Criterion, held_apart
from kedge.claims._rare import by_class, counts_of
from kedge.data import ImageSet, imbalanced
from kedge.probing.probe import ProbeData, fit_probe
from kedge.procedures.rcal import filled_up
from kedge.procedures.rcal import info as info
from kedge.procedures.smote import filled_up as smote
from kedge.seeds import generator

WRONG = 0.3
COMPONENTS = 32


class Rcal(Claim):
    """Digits, 80 images of the most frequent class down to 4 of the rarest, 30 % of the labels flipped by frequency.

    A linear head on 32 principal components of the pixels, as no features learnt without labels are at hand; strength
    by validation images whose labels are as wrong.
    """

    methods = ("procedures.rcal",)
    variants = (
        "as they come", "class weights", "oversampled", "Gaussians", "without outliers", "RCAL", "clean labels",
    )  # fmt: skip
    seeds = 5
    criteria = (
        Criterion("mends rare classes", "class accuracy", "RCAL", "as they come", "above", 3),
        Criterion("better than balance alone", "class accuracy", "RCAL", "class weights"),
        Criterion("better for not counting outliers", "class accuracy", "without outliers", "Gaussians"),
        Criterion("better for borrowing", "class accuracy", "RCAL", "without outliers"),
    )

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """Accuracy by class on the clean test images."""
        drawn = held_apart("digits", seed, 878, 200)
        train = imbalanced(drawn.train, 20, "long-tailed", seed, largest=80)
        counts = counts_of(train).double()
        labels = flipped(train.labels, counts, seed)
        if variant == "clean labels":
            labels = train.labels
        x, val, test = components(train, drawn.val, drawn.test)
        how: dict[str, dict[str, Any]] = {
            "as they come": {},
            "oversampled": {"resampled": partial(smote, seed=seed, reach=0.0)},
            "Gaussians": {"resampled": partial(filled_up, seed=seed, outliers=0, gamma=0.0)},
            "without outliers": {"resampled": partial(filled_up, seed=seed, outliers=WRONG, gamma=0.0)},
            "RCAL": {"resampled": partial(filled_up, seed=seed, outliers=WRONG)},
        }
        data = ProbeData(x[None], labels, 10, balanced=variant != "as they come", **how.get(variant, {}))
        probe = fit_probe(data, (val, flipped(drawn.val.labels, counts, seed + 1000)))
        assert probe.bias is not None
        return by_class(test @ probe.weight.T + probe.bias, drawn.test.labels, counts)


def flipped(labels: Tensor, counts: Tensor, seed: int) -> Tensor:
    """Labels of which each becomes class j with probability `WRONG` times the share of j in `counts`."""
    draws = generator(seed, "flips by frequency")
    others = torch.multinomial(counts, len(labels), replacement=True, generator=draws)
    return torch.where(torch.rand(len(labels), generator=draws) < WRONG, others, labels)


def components(train: ImageSet, *others: ImageSet) -> list[Tensor]:
    """Principal components `[N, 32]` of the pixels, those of `train` for all."""
    pixels = [next(each.batches(len(each)))[0].double().flatten(1) / 255 for each in (train, *others)]
    mean = pixels[0].mean(0)
    _, _, axes = torch.linalg.svd(pixels[0] - mean, full_matrices=False)
    return [((each - mean) @ axes[:COMPONENTS].T).float() for each in pixels]

"""Images that are right only where they were trained on are worth more to a network than others."""

from functools import cache

import torch
from torch import Tensor

from kedge.auditing.subsampled import reduced, subsampled, trained
from kedge.catalog import Info
from kedge.claims import Claim, Criterion
from kedge.data import load
from kedge.seeds import generator

info = Info(
    "Does Learning Require Memorization? A Short Tale about a Long Tail", "Feldman", "STOC", 2020,
    "https://arxiv.org/abs/1906.05271", "abstract",
)  # fmt: skip
TRAIN, SHARE, NETWORKS = 1200, 0.05, 30
RANDOM, MEMORISED = "without a random twentieth", "without the most memorised twentieth"


class Memorisation(Claim):
    """Digits, 1,200 images; 30 networks with a hidden layer of 48 units, on all and without a twentieth of them.

    Memorisation is the difference of how often 40 networks are right about an image that they were trained on, 70 % of
    all, and about one that they were not. The control leaves out as many images at random. The other 597 images are for
    the test.
    """

    part = "measuring"
    variants = ("all", RANDOM, MEMORISED)
    seeds = 5
    criteria = (Criterion("the most memorised are worth more", "accuracy", RANDOM, MEMORISED, "above", 0.2),)

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """Mean accuracy of 30 networks on test images, in percent; how much is memorised."""
        rows, labels, train, test = _digits(seed)
        scores = _memorisation(seed)
        count = round(SHARE * TRAIN)
        chosen = train
        if variant == RANDOM:
            chosen = train[torch.randperm(TRAIN, generator=generator(seed, "left out"))[count:]]
        elif variant == MEMORISED:
            chosen = train[scores.argsort(descending=True, stable=True)[count:]]
        inside = torch.zeros(NETWORKS, len(labels), dtype=torch.bool)
        inside[:, chosen] = True
        (logits,) = trained(rows, labels, 10, inside, seed=seed).values()
        right = logits.argmax(-1) == labels
        return {
            "accuracy": 100 * float(right[:, test].double().mean()),
            "training accuracy": 100 * float(right[:, chosen].double().mean()),
            "mean memorisation": 100 * float(scores.mean()),
            "above a quarter": 100 * float((scores > 0.25).double().mean()),
        }


@cache
def _digits(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(rows, labels) of all digits, and the places that the seed draws for training and for the test."""
    sets = [load("digits", split) for split in ("train", "val", "test")]
    pixels = torch.cat([torch.stack([images[i][0] for i in range(len(images))]) for images in sets])
    order = torch.randperm(len(pixels), generator=generator(seed, "digits"))
    return (
        reduced(pixels.flatten(1).float()),
        torch.cat([images.labels for images in sets]),
        order[:TRAIN],
        order[TRAIN:],
    )


@cache
def _memorisation(seed: int) -> Tensor:
    rows, labels, train, _ = _digits(seed)
    return subsampled(rows[train], labels[train], 10, seed=seed).memorisation()

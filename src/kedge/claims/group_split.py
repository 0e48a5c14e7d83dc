"""Photos of one thing on both sides of a split promise more than new things give; split by thing, they do not."""

import torch

from kedge.catalog import Info
from kedge.claims import Claim, Criterion, packed
from kedge.claims._images import cut
from kedge.claims._looped import Labelled, accuracy, network, pixels, trained
from kedge.data import Groups, TensorSet
from kedge.data.splitting import split_validation
from kedge.seeds import generator

info = Info("Subject-wise splits in the detection of drowsy drivers and of activities from wearables")

THINGS, PHOTOS, NOISE, HELD = 120, 8, 0.1, 1 / 3


class GroupSplit(Claim):
    """120 digits, eight noisy photos of each; a third of the photos held out, or of the digits; and new digits.

    The promise is the accuracy on what was held out, the truth that on photos of the test digits.
    """

    part = "measuring"
    variants = ("split by image", "split by thing")
    criteria = (
        Criterion("a split by image promises too much", "promise minus truth", "split by image", None, "above", 5),
        Criterion("a split by thing does not", "promise minus truth", "split by thing", None, "below", 2),
        Criterion("it trains on fewer things for that", "truth", "split by thing", "split by image", "below"),
    )
    seeds = 10

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """Accuracies in percent."""
        things = cut(packed("digits", "train"), THINGS, seed)
        images, labels = photographed(pixels(things), seed)
        names = [str(place // PHOTOS) for place in range(len(labels))]
        groups = Groups.of(names, "thing") if variant == "split by thing" else None
        taken = TensorSet((images * 255).round().byte(), labels, things.class_names)
        train, val = split_validation(taken, HELD, seed, groups=groups)
        model = trained(network(seed, 8), pixels(train), 20, 0.05, seed)
        promise = accuracy(model, pixels(val))
        truth = accuracy(model, photographed(pixels(packed("digits", "test")), seed + 1))
        return {"promise": promise, "truth": truth, "promise minus truth": promise - truth}


def photographed(things: Labelled, seed: int) -> Labelled:
    """Eight noisy photos of each thing, one thing after another."""
    images, labels = (each.repeat_interleave(PHOTOS, 0) for each in things)
    noise = torch.randn(images.shape, generator=generator(seed, "noise"))
    return (images + NOISE * noise).clamp(0, 1), labels

"""Which few old photos to keep: spread over the likeness with the class's centre, not those nearest to it."""

from kedge.catalog import Info
from kedge.claims import Claim, Criterion
from kedge.claims._replayed import accuracy, one_after_another

info = Info(
    "Stacking Brick by Brick: Aligned Feature Isolation for Incremental Face Forgery Detection", "Cheng et al.",
    "CVPR", 2025, "https://arxiv.org/abs/2411.11396", "code",
)  # fmt: skip


class ExemplarChoice(Claim):
    """MNIST at 14 px in five tasks of two digits, as in `feature_replay`, with 4 or 10 photos of each digit kept.

    The detector of the paper is not built, nor its choice by shuffled quarters of an image: this is the choice alone.
    """

    variants = (
        "4 photos, random", "4 photos, central", "4 photos, sparse-uniform",
        "10 photos, random", "10 photos, central", "10 photos, sparse-uniform",
    )  # fmt: skip
    criteria = (
        Criterion("of 4, better than central", "accuracy", variants[2], variants[1], "above", 3),
        Criterion("of 10, better than central", "accuracy", variants[5], variants[4], "above", 3),
        Criterion("of 4, better than random", "accuracy", variants[2], variants[0]),
        Criterion("of 10, better than random", "accuracy", variants[5], variants[3]),
    )
    data = ("mnist", "fashion_mnist")

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """Accuracy on 2,000 test images, and on those of the first two digits."""
        photos, how = variant.split(" photos, ")
        return accuracy(one_after_another(seed, how, int(photos)), seed)

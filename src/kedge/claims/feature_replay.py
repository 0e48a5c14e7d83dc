"""Classes that come later, learnt without the photos of the earlier ones: Gaussians of features stand in for these."""

from kedge.catalog import Info
from kedge.claims import Claim, Criterion
from kedge.claims._replayed import accuracy, jointly, one_after_another, side_by_side

info = Info(
    "Hierarchical Decomposition of Prompt-Based Continual Learning: Rethinking Obscured Sub-optimality", "Wang et al.",
    "NeurIPS", 2023, "https://arxiv.org/abs/2310.07234", "code",
)  # fmt: skip


class FeatureReplay(Claim):
    """MNIST at 14 px in five tasks of two digits, on frozen features of a network trained on Fashion-MNIST.

    After each task a linear head is fitted to its photos and to what is kept of the earlier digits: nothing but their
    heads, 10 photos each, or a Gaussian of their features, of which 150 are drawn. The ceiling is the head fitted to
    all photos at once.
    """

    variants = ("heads side by side", "all photos at once", "10 photos, random", "diagonal", "full covariance")
    criteria = (
        Criterion("within six points of all photos", "accuracy", "full covariance", "all photos at once", "near", 6),
        Criterion("ten photos are not", "accuracy", "10 photos, random", "all photos at once", "below", 6),
        Criterion("replay is what does it", "accuracy", "full covariance", "heads side by side", "above", 10),
        Criterion("the covariance matters", "accuracy", "full covariance", "diagonal", "above", 3),
    )
    data = ("mnist", "fashion_mnist")

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """Accuracy on 2,000 test images, and on those of the first two digits."""
        if variant == "all photos at once":
            return accuracy(jointly(seed), seed)
        if variant == "heads side by side":
            return accuracy(side_by_side(seed), seed)
        how = {"10 photos, random": "random", "diagonal": "diagonal"}.get(variant, "full")
        return accuracy(one_after_another(seed, how), seed)

"""With rare classes, images labelled by a first model, and turns told apart before any label, make a better model."""

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

from kedge.catalog import Info
from kedge.claims import Criterion, Images, Trained
from kedge.claims._rare import BASE, SIDE, by_class, counts_of, rare_images
from kedge.claims._trained import step_seconds
from kedge.data import ImageSet, imbalanced, joined, load, pseudo_labelled, rotated
from kedge.probing.heads import find_head, with_head
from kedge.training.calibration import predict_logits

info = Info(
    "Rethinking the Value of Labels for Improving Class-Imbalanced Learning", "Yang & Xu", "NeurIPS", 2020,
    "https://arxiv.org/abs/2006.07529", "code",
)  # fmt: skip
EPOCHS = 8
PLAIN, STEPS, COST = "cross-entropy", "cross-entropy, steps as with more images", "cross-entropy, steps as with turns"
OWN, TRUE, TURNS = "own labels", "true labels", "turns first"


class SemiSupervised(Trained):
    """Fashion-MNIST at 14 px, 100 images of the most frequent class down to 2, five times as many without labels.

    The images without labels are of equally frequent classes. A first model labels all of them, and another is trained
    anew on the union, each image alike; or quarter turns of the labelled images are told apart first. The controls are
    plain training with as many steps in all, and the true labels, which are the ceiling.
    """

    variants = (PLAIN, STEPS, OWN, TRUE, COST, TURNS)
    criteria = (
        Criterion("a model's labels look like a gain", "class accuracy", OWN, PLAIN),
        Criterion("and are one at equal steps", "class accuracy", OWN, STEPS, "above", 1),
        Criterion("for rare classes too", "rare classes", OWN, STEPS, "above", 1),
        Criterion("true labels would be one", "class accuracy", TRUE, STEPS, "above", 3),
        Criterion("turns first are a gain at equal steps", "class accuracy", TURNS, COST, "above", 1),
    )
    data = ("fashion_mnist",)
    base = {**BASE, "epochs": EPOCHS}
    changes = {STEPS: {"epochs": 6 * EPOCHS}, COST: {"epochs": 5 * EPOCHS}}

    def images(self, variant: str, seed: int) -> Images:
        """The labelled images, more of them where the variant has labels for those, 200 and 3,000 others."""
        few = rare_images(seed, 50, "long-tailed", 100)
        if variant not in (OWN, TRUE):
            return few
        more = _unlabelled(seed) if variant == TRUE else pseudo_labelled(_labelling(seed), _unlabelled(seed))
        return Images(joined(few.train, more), few.val, few.test, {})

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """Accuracy by class on the test images, and how many of a model's labels are right."""
        images = self.images(variant, seed)
        counts = counts_of(self.images(PLAIN, seed).train)
        with tempfile.TemporaryDirectory(prefix="kedge-claim-") as folder:
            how: dict[str, Any] = {}
            if variant == TURNS:
                how["start"] = self._turned(images, seed, Path(folder) / "turns")
            result = self.train(variant, images, seed, Path(folder), **how)
        measures = by_class(*predict_logits(result.model, images.test), counts)
        if variant == OWN:
            right = images.train.labels[int(counts.sum()) :] == _unlabelled(seed).labels
            measures["labels right"] = 100 * float(right.double().mean())
        return {**measures, "seconds a step": step_seconds(result, len(images.train))}

    def recipe(self, variant: str, seed: int) -> dict[str, Any]:
        """Of what starts from a model the network is that model's."""
        recipe = super().recipe(variant, seed)
        return {key: value for key, value in recipe.items() if variant != TURNS or key not in ("model", "arguments")}

    def _turned(self, images: Images, seed: int, folder: Path) -> Any:
        """A network that tells quarter turns of the labelled images apart, with a fresh head for their classes."""
        parts = Images(rotated(images.train), rotated(images.val), rotated(images.val), {})
        model = self.train(PLAIN, parts, seed, folder).model
        return with_head(model, find_head(model), images.train.class_names, seed=seed)


@cache
def _labelling(seed: int) -> Any:
    """The model that labels the others: trained on the labelled images as long as the control, not cut short."""
    claim = SemiSupervised()
    with tempfile.TemporaryDirectory(prefix="kedge-claim-") as folder:
        return claim.train(STEPS, claim.images(STEPS, seed), seed, Path(folder)).model


@cache
def _unlabelled(seed: int) -> ImageSet:
    """Five times as many images, equally many of each class, none of them labelled or for validation."""
    few = rare_images(seed, 50, "long-tailed", 100)
    whole, known = load("fashion_mnist", "train", SIDE, 1), {*few.train.keys(), *few.val.keys()}
    others = whole.subset([i for i, key in enumerate(whole.keys()) if key not in known])
    return imbalanced(others, 1, seed=seed + 1, largest=len(few.train) // 2)

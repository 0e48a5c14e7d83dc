"""On a long tail, training with balanced softmax makes rare classes right, judged on equally frequent classes."""

from typing import Any

from kedge.claims import Criterion, Images, Trained
from kedge.claims._rare import BASE, by_class, counts_of, rare_images
from kedge.objectives.balanced_softmax import info as info
from kedge.training.calibration import predict_logits


class BalancedSoftmax(Trained):
    """Fashion-MNIST at 14 px, 400 images down to 8; cross-entropy, with class weights, and balanced softmax."""

    methods = ("objectives.balanced_softmax",)
    variants = ("cross-entropy", "balanced weights", "balanced softmax")
    criteria = (
        Criterion("more classes right", "class accuracy", "balanced softmax", "cross-entropy", "above", 5),
        Criterion("rare ones above all", "rare classes", "balanced softmax", "cross-entropy", "above", 10),
        Criterion("more than class weights", "class accuracy", "balanced softmax", "balanced weights"),
    )
    data = ("fashion_mnist",)
    base = {**BASE, "epochs": 9}
    changes = {
        "balanced weights": {"class_weights": "balanced"},
        "balanced softmax": {"objective": ["BalancedSoftmax"]},
    }

    def images(self, variant: str, seed: int) -> Images:
        """1,116 training images and the first 3,000 test images."""
        return rare_images(seed, 50, "long-tailed", 400)

    def measure(self, model: Any, images: Images) -> dict[str, float]:
        """By class, on test images of equal classes."""
        return by_class(*predict_logits(model, images.test), counts_of(images.train))

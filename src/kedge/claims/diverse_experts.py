"""Three experts on one body do well on any class shares by their mean, and better by weights learned while testing."""

import copy
import statistics
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from kedge.claims import Criterion, Images, Trained
from kedge.claims._rare import BASE, counts_of, rare_images
from kedge.data import ImageSet, imbalanced
from kedge.expert_weights import aggregate
from kedge.experts import experts_of
from kedge.objectives.diverse_experts import info as info
from kedge.training.calibration import predict_logits

THREE = {"objective": ["DiverseExperts"], "arguments": {"width": 8, "heads": 3}}


class DiverseExperts(Trained):
    """Fashion-MNIST at 14 px, 400 images down to 8, judged on such a tail, equal classes and the reversed tail."""

    methods = ("objectives.diverse_experts",)
    variants = ("cross-entropy", "expert 2 alone", "experts, mean", "experts, learned weights")
    criteria = (
        Criterion("their mean is better on equal classes", "equal", "experts, mean", "cross-entropy", "above", 5),
        Criterion("and on reversed shares", "reversed", "experts, mean", "cross-entropy", "above", 10),
        Criterion("learned weights are better than the mean", "all three", "experts, learned weights", "experts, mean"),
        Criterion(
            "they favour the first expert on the tail of training", "weight of expert 1 on the tail",
            "experts, learned weights", None, "above", 1 / 3,
        ),
        Criterion(
            "and the third on the reversed one", "weight of expert 3 on the reversed",
            "experts, learned weights", None, "above", 1 / 3,
        ),
    )  # fmt: skip
    data = ("fashion_mnist",)
    base = {**BASE, "epochs": 9}
    changes = {"expert 2 alone": THREE, "experts, mean": THREE, "experts, learned weights": THREE}

    def images(self, variant: str, seed: int) -> Images:
        """1,116 training images and the first 3,000 test images; what differs between variants comes after training."""
        self._variant, self._seed = variant, seed
        return rare_images(seed, 50, "long-tailed", 400)

    def measure(self, model: Any, images: Images) -> dict[str, float]:
        """Accuracy on each stream, and the weights of the experts there."""
        counts = counts_of(images.train)
        accuracies, weights = {}, {}
        for name, stream in _streams(images.test, counts, self._seed):
            accuracies[name], own = self._on(model, stream)
            weights[name] = [own[0], own[-1]]
        return {
            **accuracies,
            "all three": statistics.fmean(accuracies.values()),
            "weight of expert 1 on the tail": weights["tail"][0],
            "weight of expert 3 on the reversed": weights["reversed"][1],
        }

    def _on(self, model: Any, stream: ImageSet) -> tuple[float, list[float]]:
        """Accuracy in percent, and the weights by which the experts answered; 1 where there are none."""
        weights = torch.ones(1)
        if "expert" in self._variant:
            model = copy.deepcopy(model)
            _, experts = experts_of(model)
            if self._variant == "experts, learned weights":
                aggregate(model, stream, self._seed)
            elif self._variant == "expert 2 alone":
                experts.weights.copy_(torch.tensor([0.0, 1.0, 0.0]))
            weights = experts.weights
        logits, labels = predict_logits(model, stream)
        return 100 * float((logits.argmax(1) == labels).double().mean()), weights.tolist()


def _streams(test: ImageSet, counts: Tensor, seed: int) -> Iterator[tuple[str, ImageSet]]:
    """Test images with the shares of training, with equal and with reversed ones."""
    order = counts.argsort(stable=True, descending=True).tolist()
    yield "tail", imbalanced(test, 50, "long-tailed", seed, order=order)
    yield "equal", imbalanced(test, 1, "long-tailed", seed)
    yield "reversed", imbalanced(test, 50, "long-tailed", seed, order=order[::-1])

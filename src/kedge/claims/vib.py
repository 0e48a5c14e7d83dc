"""A variational information bottleneck before the logits calibrates and is steadier under noise, from few images."""

from typing import Any

import torch

from kedge import metrics
from kedge.claims import Criterion, Images, Trained, held_apart, judged
from kedge.data import ImageSet, TensorSet
from kedge.objectives.vib import info as info
from kedge.seeds import generator

NOISE = 0.2  # standard deviation, of pixels in [0, 1]
HEAD = {"width": 8, "head": "vib"}


class VIB(Trained):
    """Digits, 300 images: a linear head; the noisy head without a price, with β = 0.01, and with β annealed to it."""

    methods = ("objectives.vib", "heads.vib")
    variants = ("linear head", "no price", "priced", "annealed")
    criteria = (
        Criterion("better calibrated", "ECE", "annealed", "linear head", "below", 1),
        Criterion("steadier under noise", "noisy accuracy", "annealed", "linear head", "above", 1),
        Criterion("the price does it", "noisy accuracy", "annealed", "no price", "above", 1),
        Criterion("as accurate", "accuracy", "annealed", "linear head", "near", 1),
    )
    base = {
        "model": "kedge_resnet_small",
        "arguments": {"width": 8},
        "anchored": False,
        "objective": ["CrossEntropy"],
        "epochs": 20,
        "batch_size": 32,
        "optimizer": {"sgd": {"lr": 0.05, "momentum": 0.9}},
    }
    changes = {
        "no price": {"arguments": HEAD},
        "priced": {"arguments": HEAD, "objective": [{"VIB": {"weight": 0.01, "anneal": 0.0}}, "CrossEntropy"]},
        "annealed": {"arguments": HEAD, "objective": [{"VIB": {"weight": 0.01, "anneal": 0.5}}, "CrossEntropy"]},
    }

    def images(self, variant: str, seed: int) -> Images:
        """300 and 100 images, and all test images."""
        return held_apart("digits", seed, 300, 100)

    def measure(self, model: Any, images: Images) -> dict[str, float]:
        """Accuracy, ECE and NLL, and the first two on test images with noise."""
        noisy = judged(model, _noisy(images.test))
        return {
            **super().measure(model, images),
            "noisy accuracy": 100 * float(metrics.accuracy(noisy.probs, noisy.labels)),
            "noisy ECE": 100 * float(metrics.calibration_error(noisy.probs, noisy.labels)),
        }


def _noisy(images: ImageSet) -> ImageSet:
    """x + 0.2 ξ, cut off at 0 and 1, the same for all variants and seeds."""
    ((pixels, labels),) = images.batches(len(images))
    noise = NOISE * torch.randn(pixels.shape, generator=generator(0, "noisy"))
    changed = (pixels / 255 + noise).clamp(0, 1).mul(255).round().to(torch.uint8)
    return TensorSet(changed, labels, images.class_names, name="noisy digits", split=images.split)

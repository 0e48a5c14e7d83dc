"""A penalty on the gradient's norm makes loss and outputs flatter, and wrong labels hurt less."""

from typing import Any

import torch

from kedge.claims import Criterion, Images, Trained, held_apart
from kedge.optim.rules.gradient_norm import info as info

SGD = {"sgd": {"lr": 0.05, "momentum": 0.9}}
BOUND = 1.0  # on the norm of the output's gradient


class GradientNorm(Trained):
    """Digits, 600 images with 20 % wrong labels: plain, SAM, a penalty on loss or output, the output held to a bound.

    The norms are those over all training images, in eval mode, of the trained weights.
    """

    methods = ("optim.rules.gradient_norm", "optim.rules.sam")
    variants = ("plain", "SAM", "loss penalised", "output penalised", "output held")
    criteria = (
        Criterion("a flatter loss", "gradient of the loss", "loss penalised", "plain", "below", 0),
        Criterion("flatter outputs", "gradient of the output", "output penalised", "plain", "below", 0.5),
        Criterion("the bound holds", "gradient of the output", "output held", None, "below", BOUND),
        Criterion("more accurate, loss", "accuracy", "loss penalised", "plain", "above", 1),
        Criterion("more accurate, output", "accuracy", "output penalised", "plain", "above", 1),
        Criterion("as good as SAM", "accuracy", "loss penalised", "SAM", "near", 1),
    )
    base = {
        "model": "kedge_resnet_small",
        "arguments": {"width": 8},
        "anchored": False,
        "objective": ["CrossEntropy"],
        "epochs": 20,
        "batch_size": 32,
        "optimizer": SGD,
    }
    changes = {
        "SAM": {"optimizer": ["sam", SGD]},
        "loss penalised": {"optimizer": ["gradient_norm", SGD]},
        "output penalised": {"optimizer": [{"gradient_norm": {"target": "output", "weight": 1.0}}, SGD]},
        "output held": {
            "optimizer": [
                {"gradient_norm": {"target": "output", "weight": 0.0, "bound": 0.05 * BOUND, "dual_rate": 0.05}},
                SGD,
            ]
        },
    }

    def images(self, variant: str, seed: int) -> Images:
        """600 and 200 images with wrong labels, the clean test images."""
        return held_apart("digits", seed, 600, 200, wrong_labels=0.2)

    def measure(self, model: Any, images: Images) -> dict[str, float]:
        """Accuracy, ECE, NLL, and the two norms."""
        ((loaded, labels),) = images.train.batches(len(images.train))
        logits = model.eval()(loaded / 255)
        loss = torch.nn.functional.cross_entropy(logits, labels)
        return {
            **super().measure(model, images),
            "gradient of the loss": _norm(loss, model),
            "gradient of the output": _norm(logits.max(1).values.mean(), model),
        }


def _norm(value: torch.Tensor, model: torch.nn.Module) -> float:
    weights = [p for p in model.parameters() if p.requires_grad]
    gradients = torch.autograd.grad(value, weights, retain_graph=True, allow_unused=True)
    return float(torch.stack([g.norm() for g in gradients if g is not None]).norm())

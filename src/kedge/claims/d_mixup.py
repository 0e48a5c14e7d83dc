"""Where classes overlap, a temperature leaves more of the calibration error, and mixing more points less."""

import tempfile
from pathlib import Path
from typing import Any

from torch import Tensor

from kedge import metrics
from kedge.catalog import Info
from kedge.claims import Criterion, Images, Trained, held_apart
from kedge.claims._trained import step_seconds
from kedge.data import ImageSet, with_label_noise
from kedge.postprocess.temperature import fit_temperature
from kedge.training.calibration import predict_logits

info = Info(
    "On the Limitations of Temperature Scaling for Distributions with Overlaps", "Chidambaram & Ge", "ICLR", 2024,
    "https://arxiv.org/abs/2306.00740", "code",
)  # fmt: skip
SHARE = 0.4  # of wrong labels, where there are any


class DMixup(Trained):
    """Fashion-MNIST at 14 pixels, 400 images, trained until cross-entropy remembers every label; Adam without decay.

    Each class has one other that it is taken for, in 40 % of the training and validation images. The temperature is set
    on those validation images. Judged are the first 2,000 test images with their own labels ("clean"), and with labels
    as wrong as in training, which is what the temperature was set for. The controls are cross-entropy, with wrong
    labels and without, and label smoothing.
    """

    methods = ("objectives.mixup",)
    data = ("fashion_mnist",)
    variants = (
        "cross-entropy", "cross-entropy, no noise", "smoothing", "2 points", "2 points, no noise", "3 points",
        "5 points",
    )  # fmt: skip
    criteria = (
        Criterion(
            "with overlap the temperature leaves more",
            "ECE with T",
            "cross-entropy",
            "cross-entropy, no noise",
            "above",
        ),
        Criterion("mixing leaves less than the temperature", "ECE with T", "5 points", "cross-entropy", "below"),
        Criterion("and a lower loss", "NLL with T", "5 points", "cross-entropy", "below"),
        Criterion("mixing does without a temperature", "ECE", "2 points", "cross-entropy", "below", 10),
        Criterion("more points, more so", "ECE", "5 points", "2 points", "below"),
    )
    base: Any = {
        "model": "kedge_resnet_small",
        "arguments": {"width": 8},
        "anchored": False,
        "augment": "none",
        "objective": ["CrossEntropy"],
        "label_noise": SHARE,
        "label_noise_kind": "pair",
        "label_noise_val": True,
        "epochs": 60,
        "batch_size": 50,
        "optimizer": {"adamw": {"lr": 0.002, "weight_decay": 0}},
        "schedule": "constant",
    }
    CLEAN: Any = {"label_noise": 0.0, "label_noise_kind": "symmetric", "label_noise_val": False}
    changes = {
        "cross-entropy, no noise": CLEAN,
        "smoothing": {"objective": [{"CrossEntropy": {"label_smoothing": 0.1}}]},
        "2 points": {"objective": [{"Mixup": {"points": 2}}, "CrossEntropy"]},
        "2 points, no noise": {**CLEAN, "objective": [{"Mixup": {"points": 2}}, "CrossEntropy"]},
        "3 points": {"objective": [{"Mixup": {"points": 3}}, "CrossEntropy"]},
        "5 points": {"objective": [{"Mixup": {"points": 5}}, "CrossEntropy"]},
    }

    def images(self, variant: str, seed: int) -> Images:
        """400 training and 300 validation images with the labels that they have: the recipe makes them wrong."""
        return held_apart("fashion_mnist", seed, 400, 300, side=14, test=2000)

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """Train; on labels as wrong as in training NLL and ECE without and with the temperature, on clean ones too."""
        images = self.images(variant, seed)
        share = self.recipe(variant, seed)["label_noise"]

        def wrong(part: ImageSet, name: str) -> Tensor:
            return with_label_noise(part, share, seed, "pair", name).labels

        with tempfile.TemporaryDirectory(prefix="kedge-claim-") as folder:
            result = self.train(variant, images, seed, Path(folder))
        model = result.model
        remembered = predict_logits(model, images.train)[0].argmax(1) == wrong(images.train, "train")
        temperature = fit_temperature(predict_logits(model, images.val)[0], wrong(images.val, "val"))
        logits, clean = predict_logits(model, images.test)
        noisy = wrong(images.test, "test")
        plain, scaled = logits.softmax(1), (logits / temperature).softmax(1)
        return {
            "train accuracy": 100 * float(remembered.double().mean()),
            "accuracy, clean": 100 * float(metrics.accuracy(plain, clean)),
            "ECE": 100 * float(metrics.calibration_error(plain, noisy)),
            "ECE with T": 100 * float(metrics.calibration_error(scaled, noisy)),
            "NLL": float(metrics.nll(plain, noisy)),
            "NLL with T": float(metrics.nll(scaled, noisy)),
            "T": temperature,
            "ECE, clean": 100 * float(metrics.calibration_error(plain, clean)),
            "ECE with T, clean": 100 * float(metrics.calibration_error(scaled, clean)),
            "NLL with T, clean": float(metrics.nll(scaled, clean)),
            "seconds a step": step_seconds(result, len(images.train)),
        }

"""Two ways to fit the labels differ where unlabelled images let them: mixed ones for DivDis, opposed ones for D-BAT."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kedge.catalog import Info
from kedge.claims import Criterion, Images, Trained
from kedge.claims._dominoes import dominoes
from kedge.claims._trained import step_seconds
from kedge.data import ImageSet
from kedge.experts import experts_of
from kedge.training.calibration import predict_logits

info = Info(
    "Unraveling the Key Components of OOD Generalization via Diversification", "Benoit et al.", "ICLR", 2024,
    "https://arxiv.org/abs/2312.16313", "abstract",
)  # fmt: skip

AGREE = {"alike": 1.0, "mixed": 0.5, "opposed": 0.0}  # the halves of the unlabelled images
LABELS = 16
HEADS = {"width": 4, "heads": 2}


class Diversification(Trained):
    """Dominoes of 10 px halves, MNIST above Fashion-MNIST, 1,000 labelled images whose halves agree, 1,000 unlabelled.

    Judged on 2,000 test images with a random upper half, by the class of the lower one: the better of two heads or
    networks, and the one that is right more often on the 16 unlabelled images on which they differ most. "Worst as
    trained" is the worse of the two on test images whose halves agree. DivDis is one network with two heads, D-BAT two
    networks, of which the second contradicts the first. Controls are the same without the term.
    """

    methods = ("objectives.divdis", "objectives.dbat")
    variants = (
        "two heads", "two networks", "DivDis, alike", "DivDis, mixed", "DivDis, opposed", "D-BAT, alike",
        "D-BAT, mixed", "D-BAT, opposed",
    )  # fmt: skip
    criteria = (
        Criterion("mixed images let DivDis find the hard half", "best", "DivDis, mixed", "two heads", "above", 5),
        Criterion("opposed ones let D-BAT find it", "best", "D-BAT, opposed", "two networks", "above", 10),
        Criterion(
            "images like those of training do nothing for DivDis", "best", "DivDis, alike", "two heads", "near", 5
        ),
        Criterion("nor for D-BAT", "best", "D-BAT, alike", "two networks", "near", 5),
        Criterion("mixed images suit DivDis better than D-BAT", "best", "DivDis, mixed", "D-BAT, mixed"),
        Criterion("opposed ones suit D-BAT better", "best", "D-BAT, opposed", "DivDis, opposed"),
    )
    data = ("mnist", "fashion_mnist")
    base = {
        "model": "kedge_resnet_small",
        "arguments": {"width": 4},
        "anchored": False,
        "augment": "none",
        "objective": ["CrossEntropy"],
        "epochs": 10,
        "batch_size": 50,
        "optimizer": {"adamw": {"lr": 0.002, "weight_decay": 0.01}},
    }
    changes = {
        "two heads": {"arguments": HEADS, "objective": [{"DivDis": {"weight": 0, "balance": 0}}]},
        **{f"DivDis, {name}": {"arguments": HEADS, "objective": ["DivDis"]} for name in AGREE},
        **{f"D-BAT, {name}": {"objective": ["DBAT", "CrossEntropy"]} for name in AGREE},
    }

    def images(self, variant: str, seed: int) -> Images:
        """Images whose halves agree to train and validate on, unlabelled ones as the variant says, test images."""
        extra = {}
        if "network" not in variant:
            agree = AGREE[variant.partition(", ")[2] or "mixed"]
            extra["unlabelled"] = dominoes("train", 1000, agree, seed, "unlabelled", start=600)
        train, val = (dominoes("train", count, 1, seed, what, start)
                      for count, what, start in ((1000, "train", 100), (200, "val", 0)))  # fmt: skip
        return Images(train, val, dominoes("test", 2000, 0.5, 0, "test"), extra)

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """Train one network with two heads, or two networks, the second with other first weights; and judge both."""
        images, models = self.images(variant, seed), []
        with tempfile.TemporaryDirectory(prefix="kedge-claim-") as folder:
            if "heads" in self.recipe(variant, seed)["arguments"]:
                result = self.train(variant, images, seed, Path(folder))
            else:
                alone = Images(images.train, images.val, images.test, {})
                models = [self.train("two networks", alone, seed, Path(folder) / "first").model]
                further = {"models": {"against": models[0]}} if images.extra else {}
                result = self.train(variant, images, seed + 100, Path(folder), **further)
        models.append(result.model)
        disputed = dominoes("train", 1000, AGREE[variant.partition(", ")[2] or "mixed"], seed, "unlabelled", start=600)
        ours, labels = _answers(models, images.test)
        theirs, own = _answers(models, disputed)
        few = (theirs[:, 0] - theirs[:, 1]).abs().sum(1).argsort(descending=True, stable=True)[:LABELS]
        kept = int((theirs[few].argmax(2) == own[few, None]).sum(0).argmax())
        of, alike = _right(ours, labels), _right(*_answers(models, dominoes("test", 1000, 1, 0, "alike")))
        return {
            "best": float(of.max()),
            f"chosen by {LABELS} labels": float(of[kept]),
            "worst as trained": float(alike.min()),
            "seconds a step": step_seconds(result, len(images.train)),
        }


def _answers(models: list[Any], images: ImageSet) -> tuple[Tensor, Tensor]:
    """Probabilities of each head or network `[N, 2, C]`, and labels `[N]`."""
    if len(models) > 1:
        each = [predict_logits(model, images) for model in models]
    else:
        experts, each = experts_of(models[0], 2)[1], []
        for head in range(2):
            experts.weights.copy_(torch.eye(2)[head])
            each.append(predict_logits(models[0], images))
    return torch.stack([logits for logits, _ in each], 1).softmax(2), each[0][1]


def _right(probs: Tensor, labels: Tensor) -> Tensor:
    """Accuracy of each in percent, `[2]`."""
    return 100 * (probs.argmax(2) == labels[:, None]).double().mean(0)

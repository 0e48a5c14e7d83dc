"""With a learned share a student is at least as good as with the best fixed one, and the share tells who is wrong."""

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kedge import metrics
from kedge.claims import Criterion, Images, Trained, cut, packed
from kedge.claims._trained import step_seconds
from kedge.data import ImageSet, with_label_noise
from kedge.objectives import CrossEntropy
from kedge.objectives.tgeo_kd import TGeoKD as Objective
from kedge.objectives.tgeo_kd import info as info
from kedge.training import RunResult
from kedge.training.calibration import predict_logits

TAUGHT, TRAIN, VAL, META = 1000, 800, 200, 200  # images of the teacher, of the student, and held out for it twice
WRONG = 0.3  # the share of the teacher's labels, and of the student's where they are wrong
SIDE, LOOK_AHEAD = 10, 0.1
NAMES = ("cross-entropy", "cross-entropy, meta too", "half", "learned")


def _objective(name: str) -> list[Any]:
    if name == "half":
        return [{"Distill": {"temperature": 1.5, "weight": 0.5}}, "CrossEntropy"]
    if name == "learned":
        return [{"TGeoKD": {"temperature": 1.5, "look_ahead": LOOK_AHEAD}}, "CrossEntropy"]
    return ["CrossEntropy"]


class TGeoKD(Trained):
    """Fashion-MNIST at 10 pixels: a teacher of 1,000 images with 30 % wrong labels, a student of 800 others.

    The student is half as wide. Its labels are right, or 30 % of them wrong too. Shares of the teacher, T = 1.5: none,
    a half, and learned with 200 more images, whose labels are right (`meta`); a control trains on these too, without a
    teacher. Judged are the first 2,000 test images. "teacher's error" and "wrong label" are how much higher the learned
    share is, after training, on training images that the teacher gets wrong, or whose label is wrong, than on others.
    """

    methods = ("objectives.tgeo_kd",)
    data = ("fashion_mnist",)
    variants = ("cross-entropy", "half", "learned", *(f"{name}, wrong" for name in NAMES))
    criteria = (
        Criterion("lower where the teacher is wrong", "teacher's error", "learned", None, "below", 0),
        Criterion("higher where the label is wrong", "wrong label", "learned, wrong", None, "above", 0),
        Criterion("as good as without", "accuracy", "learned", "cross-entropy"),
        Criterion("as good as a half", "accuracy", "learned", "half"),
        Criterion("with wrong labels as good as a half", "accuracy", "learned, wrong", "half, wrong"),
        Criterion("and as without", "accuracy", "learned, wrong", "cross-entropy, wrong"),
        Criterion("and worth the images it takes", "accuracy", "learned, wrong", "cross-entropy, meta too, wrong"),
    )
    base: Any = {
        "model": "kedge_resnet_small",
        "arguments": {"width": 4},
        "anchored": False,
        "augment": "none",
        "epochs": 8,
        "batch_size": 50,
        "optimizer": {"adamw": {"lr": 0.01, "weight_decay": 0.0}},
    }
    changes = {
        "teacher": {"arguments": {"width": 8}, "objective": ["CrossEntropy"]},
        **{f"{name}{more}": {"objective": _objective(name)} for name in NAMES for more in ("", ", wrong")},
    }

    def images(self, variant: str, seed: int) -> Images:
        """The images of the teacher, or of the student with right or with wrong labels."""
        drawn, test = cut(_pack("train"), TAUGHT + TRAIN + VAL + META, seed), _pack("test").subset(range(2000))
        first, last = TAUGHT + TRAIN, TAUGHT + TRAIN + VAL
        val, meta = drawn.subset(range(first, last)), drawn.subset(range(last, len(drawn)))
        if variant == "teacher":
            return Images(with_label_noise(drawn.subset(range(TAUGHT)), WRONG, seed), val, test, {})
        train = drawn.subset(range(TAUGHT, first))
        train = with_label_noise(train, WRONG, seed + 1) if variant.endswith("wrong") else train
        if "meta too" in variant:
            labels = torch.cat([train.labels, meta.labels])
            train = drawn.subset([*range(TAUGHT, first), *range(last, len(drawn))]).relabelled(labels)
        return Images(train, val, test, {"meta": meta} if variant.startswith("learned") else {})

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """Train with the teacher of the seed; accuracy, ECE and NLL, and what the learned share tells."""
        images, taught = self.images(variant, seed), _teacher(seed)
        models = None if variant.startswith("cross-entropy") else {"teacher": taught}
        with tempfile.TemporaryDirectory(prefix="kedge-claim-") as folder:
            result = self.train(variant, images, seed, Path(folder), models=models)
            share = _share(result, taught, images) if variant.startswith("learned") else None
        judged, labels = predict_logits(taught, images.test)
        values = {
            **self.measure(result.model, images),
            "teacher's accuracy": 100 * float(metrics.accuracy(judged.softmax(1), labels)),
            "seconds a step": step_seconds(result, len(images.train)),
        }
        if share is None:
            return values
        right = self.images("", seed).train.labels
        answers = predict_logits(taught, images.train)[0].argmax(1)
        return {
            **values,
            "share": float(share.mean()),
            "teacher's error": _apart(share, answers != right),
            "wrong label": _apart(share, images.train.labels != right),
        }


@cache
def _pack(split: str) -> ImageSet:
    """The first 10,000 images of a part."""
    return packed("fashion_mnist", split, SIDE).subset(range(10_000))


@cache
def _teacher(seed: int) -> Any:
    """The teacher of all students of a seed."""
    each = TGeoKD()
    with tempfile.TemporaryDirectory(prefix="kedge-claim-") as folder:
        return each.train("teacher", each.images("teacher", seed), seed, Path(folder)).model


def _share(result: RunResult, taught: Any, images: Images) -> Tensor:
    """The learned share of the training images `[N]`, by the networks as they are after training."""
    objective = Objective(CrossEntropy(), taught)
    objective.prepare(result.model)
    saved = torch.load(result.folder / "last.ckpt", weights_only=True)["state_dict"]
    own = {name.removeprefix("objective."): v for name, v in saved.items() if name.startswith("objective.")}
    objective.load_state_dict(own)
    (student, labels), (teacher, _) = (predict_logits(model, images.train) for model in (result.model, taught))
    with torch.no_grad():
        return objective.share(student, teacher, labels, torch.zeros(len(labels)))


def _apart(share: Tensor, these: Tensor) -> float:
    """How much higher the mean share of these images is than of the others; 0 where there are none."""
    return float(share[these].mean() - share[~these].mean()) if bool(these.any()) else 0.0

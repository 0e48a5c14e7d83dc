"""Logit adjustment corrects for rare classes of the new images, not for those of pretraining; averages do."""

import tempfile
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from kedge.catalog import Info
from kedge.claims import Claim, Criterion, cut, packed
from kedge.claims._rare import BASE, SIDE, TEST, VAL, by_class, counts_of
from kedge.data import ImageSet, imbalanced
from kedge.seeds import generator
from kedge.training import fit
from kedge.training.calibration import predict_logits

info = Info(
    "Rethinking the Bias of Foundation Model under Long-tailed Distribution", "Chen et al.", "ICML", 2025,
    "https://arxiv.org/abs/2501.15955", "code",
)  # fmt: skip

ORDERS = 3


class LongTailedStart(Claim):
    """Fashion-MNIST at 14 px: three pretrainings on tails of different class orders, tuned on a fourth tail.

    A tuning that ends below its start on validation images is averaged with it, as every run of kedge's is.
    """

    methods = ("objectives.balanced_softmax",)
    variants = ("cross-entropy", "logit adjustment", "average of one order, three seeds", "average of three orders")
    criteria = (
        Criterion("adjusting helps", "class accuracy", "logit adjustment", "cross-entropy", "above", 3),
        Criterion(
            "what is left goes by how often a class came in pretraining", "correlation with pretraining",
            "logit adjustment", None, "above", 0.4,
        ),
        Criterion(
            "averaging models of different pretrainings does more than averaging seeds", "class accuracy",
            "average of three orders", "average of one order, three seeds", "above", 3,
        ),
    )  # fmt: skip
    data = ("fashion_mnist",)

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """Means over three models, or of their average, on the first 3,000 test images."""
        loss = "CrossEntropy" if variant == "cross-entropy" else "BalancedSoftmax"
        places = [(0, start) for start in range(ORDERS)] if "one order" in variant else [(o, 0) for o in range(ORDERS)]
        answers = [_tuned(seed, order, start, loss) for order, start in places]
        labels, often = _test().labels, [_pretraining(seed, order) for order, _ in places]
        if variant.startswith("average"):
            mean = torch.stack([logits.softmax(1) for logits in answers]).mean(0).log()
            return _measured([mean], labels, seed, often)
        return _measured(answers, labels, seed, often)


def _measured(answers: Sequence[Tensor], labels: Tensor, seed: int, often: Sequence[ImageSet]) -> dict[str, float]:
    """Means over models; the correlation is of the accuracies of the classes with the logarithm of their numbers."""
    counts = counts_of(_tail(seed))
    each = [by_class(logits, labels, counts) for logits in answers]
    pairs = [(answers[min(i, len(answers) - 1)], counts_of(images)) for i, images in enumerate(often)]
    correlations = [_correlation(logits, labels, of.double().log()) for logits, of in pairs]
    measures = {name: sum(one[name] for one in each) / len(each) for name in each[0]}
    return {**measures, "correlation with pretraining": sum(correlations) / len(correlations)}


def _correlation(logits: Tensor, labels: Tensor, often: Tensor) -> float:
    right = (logits.argmax(1) == labels).double()
    of = torch.stack([right[labels == c].mean() for c in range(len(often))])
    return float(torch.corrcoef(torch.stack([of, often]))[0, 1])


@cache
def _whole(split: str) -> ImageSet:
    return packed("fashion_mnist", split, SIDE)


@cache
def _test() -> ImageSet:
    return _whole("test").subset(range(TEST))


@cache
def _halves(seed: int) -> tuple[ImageSet, ImageSet, ImageSet]:
    """Images to validate by, to pretrain on and to tune on; none in two of them."""
    drawn = cut(_whole("train"), len(_whole("train")), seed)
    half = VAL + (len(drawn) - VAL) // 2
    return drawn.subset(range(VAL)), drawn.subset(range(VAL, half)), drawn.subset(range(half, len(drawn)))


def _order(seed: int, number: int) -> list[int]:
    order: list[int] = torch.randperm(10, generator=generator(seed, "class order", number)).tolist()
    return order


@cache
def _pretraining(seed: int, order: int) -> ImageSet:
    return imbalanced(_halves(seed)[1], 50, "long-tailed", seed, order=_order(seed, order), largest=400)


@cache
def _tail(seed: int) -> ImageSet:
    return imbalanced(_halves(seed)[2], 20, "long-tailed", seed, order=_order(seed, ORDERS), largest=200)


@cache
def _pretrained(seed: int, order: int, start: int) -> Any:
    return _fit(_pretraining(seed, order), _halves(seed)[0], seed=ORDERS * seed + start, epochs=9)


@cache
def _tuned(seed: int, order: int, start: int, loss: str) -> Tensor:
    """Logits for the test images: the whole pretrained network, its head too, trained on at a fifth of the rate."""
    begin = _pretrained(seed, order, start)
    rate = {"optimizer": {"sgd": {"lr": 0.01, "momentum": 0.9}}, "batch_norm": "train"}
    model = _fit(_tail(seed), _halves(seed)[0], begin, seed=seed, epochs=8, objective=[loss], **rate)
    return predict_logits(model, _test())[0]


def _fit(train: ImageSet, val: ImageSet, start: Any = None, **changes: Any) -> Any:
    with tempfile.TemporaryDirectory(prefix="kedge-claim-") as folder:
        recipe = {**BASE, **changes, "keep": "last", "device": "cpu", "workers": 0, "runs": folder, "name": "run"}
        if start is not None:
            recipe.pop("model"), recipe.pop("arguments")
        return fit(recipe, sets=(train, val), start=start, progress=False, report=False).model

"""Move probabilities from the class shares of training to those of the images to come; labels may change.

With p(y | x) of a network that was trained on images with shares p(y), images with shares q(y) of the same looks,
q(x | y) = p(x | y), have q(y | x) proportional to p(y | x) q(y) / p(y): log(q(y) / p(y)) is added to the logits
(Saerens et al. 2002, equation 2.4). With equal q it is the post-hoc logit adjustment of Menon et al. (ICLR 2021) with
τ = 1. The logits must be those of a network that was trained without weights by class, and should be calibrated: a
temperature stands before it.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from kedge.catalog import Info
from kedge.postprocess._base import Step

info = Info(
    "Adjusting the Outputs of a Classifier to New a Priori Probabilities: A Simple Procedure",
    "Saerens et al.",
    "Neural Computation",
    2002,
    "https://doi.org/10.1162/089976602753284446",
    "derived",
)
KEYS = ("target", "train")


class ClassPrior(Step):
    """log(target / train) added to the logits: `value` is {"target": [C], "train": [C]}, shares that sum to 1."""

    stage = 1
    changes_labels = True
    sentence = "Probabilities are moved from the class shares of the training images to other ones"

    def check(self, classes: int | None = None) -> None:
        """Raise ValueError unless both are shares above 0 of so many classes."""
        value = self.value
        if not isinstance(value, dict) or set(value) != set(KEYS):
            raise ValueError(
                f"the value of the step 'class_prior' must be shares {' and '.join(KEYS)}, got {value!r:.80}"
            )
        for key in KEYS:
            shares(value[key], classes, f"{key} of the step 'class_prior'")
        if len(value["target"]) != len(value["train"]):
            counts = f"{len(value['target'])} and {len(value['train'])}"
            raise ValueError(f"target and train of the step 'class_prior' are of {counts} classes")

    def __call__(self, logits: Tensor) -> Tensor:
        """The logits with the logarithm of the ratio of shares."""
        return logits + self._shift(logits)

    def undo(self, logits: Tensor) -> Tensor:
        """The logits without it."""
        return logits - self._shift(logits)

    def _shift(self, logits: Tensor) -> Tensor:
        target, train = (torch.tensor(self.value[key], dtype=torch.float64) for key in KEYS)
        return (target.log() - train.log()).to(logits)

    def __str__(self) -> str:
        """In words, such as `class prior uniform` or `class prior 0.9, 0.1`."""
        target = self.value["target"]
        if max(target) - min(target) < 1e-9:
            return "class prior uniform"
        few = ", ".join(f"{share:.3g}" for share in target[:5])
        return f"class prior {few}{', ...' if len(target) > 5 else ''}"

    @classmethod
    def fit(
        cls,
        logits: Tensor,
        labels: Tensor,
        prior: str | Sequence[float] | None = None,
        train_prior: Sequence[float] | None = None,
        train_counts: Sequence[int] | None = None,
    ) -> dict[str, list[float]]:
        """The value for the shares `prior`, "uniform" (also None) or one number for each class, on any scale.

        Args:
            logits, labels: say how many classes there are.
            prior: the class shares of the images to come.
            train_prior: those of the training images; None: as `train_counts` has them.
            train_counts: how many training images there were of each class.

        Raises:
            ValueError: for shares that are not above 0, of another number of classes, or where those of the training
                images are not known.
        """
        classes = logits.shape[1]
        if train_prior is None and train_counts is None:
            raise ValueError(
                "class_prior needs to know the class shares of the training images, which no record has here: state "
                "them (train_prior, --train_prior), one number for each class"
            )
        if isinstance(prior, str) and prior != "uniform":
            raise ValueError(f"prior must be uniform or one number for each class, got {prior!r}")
        target = [1.0] * classes if prior is None or isinstance(prior, str) else prior
        train = train_prior if train_prior is not None else train_counts
        return {
            "target": shares(target, classes, "prior", rescale=True),
            "train": shares(train, classes, "the prior of the training images", rescale=True),
        }


def shares(values: Any, classes: int | None, what: str, rescale: bool = False) -> list[float]:
    """`values` as shares that sum to 1. Raises ValueError unless they are numbers above 0, one for each class."""
    listed = isinstance(values, Sequence) and not isinstance(values, str)
    if not listed or not values or (classes is not None and len(values) != classes):
        actual = f"{len(values)} values" if listed else repr(values)
        raise ValueError(f"{what} must be one number for each of {classes or 'the'} classes, got {actual}")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ValueError(f"{what} must be positive finite numbers, one for each class, got {value!r}")
    total = math.fsum(values)
    if not rescale and abs(total - 1) > 1e-6:
        raise ValueError(f"{what} must sum to 1, got {total:g}")
    return [value / total for value in values]

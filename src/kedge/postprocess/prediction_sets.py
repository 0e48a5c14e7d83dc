"""Prediction sets: beside the answer all classes that fit, which hold the true one with a stated chance; logits stay.

Split conformal prediction (Vovk et al. 2005; scores: Sadinle et al. 2019, Romano et al. 2020, Angelopoulos et al.
2021). The chance is a promise about images like those that the threshold was set on, and about no others: `Outlook`
says, without labels, when images are unlike those.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kedge.catalog import Info
from kedge.postprocess._base import Step
from kedge.postprocess._conformal import (
    check_score,
    conformal_threshold,
    images_needed,
    place_of_threshold,
    set_scores,
)

info = Info(
    "Uncertainty Sets for Image Classifiers using Conformal Prediction",
    "Angelopoulos et al.",
    "ICLR",
    2021,
    "https://arxiv.org/abs/2009.14193",
    "derived",
)
KEYS = ("score", "coverage", "thresholds", "by_class", "images", "penalty", "free", "usual")
USUAL = ("accuracy", "entropy", "energy")
RARE = 0.05  # the share of calibration images whose energy is called unfamiliar
FEWEST = 50  # images, fewer say nothing of whether they are like those of calibration
APART, CHANCE = 0.05, 1e-3  # a difference in shares that counts, and how seldom like images show as large a one


class PredictionSets(Step):
    """The logits as they are; `sets` says which classes fit, by a threshold for each score (`set_scores`).

    `value` is {"score": lac, aps or raps, "coverage": c, "by_class": bool, "thresholds": [1], or [C] with by_class,
    "images": [1 or C] how many each was set on, "penalty", "free": of raps, "usual": {"accuracy": on those images,
    "entropy", "energy": what `outlook` compares with}}. With by_class class k is in the set by a threshold of its own,
    and the promise holds for the images of each class.
    """

    stage = 2
    keeps_logits = True
    sentence = "Prediction sets hold the true class of images like the calibration images with the stated chance"

    def check(self, classes: int | None = None) -> None:
        """Raise ValueError unless the value can be applied to so many classes."""
        value = self.value
        if not isinstance(value, dict) or set(value) != set(KEYS):
            raise ValueError(f"the value of the step 'prediction_sets' has {', '.join(KEYS)}, got {value!r:.80}")
        check_score(value["score"], value["penalty"], value["free"])
        if not isinstance(value["by_class"], bool):
            raise ValueError(f"by_class of the step 'prediction_sets' is true or false, got {value['by_class']!r}")
        count = classes if value["by_class"] else 1
        for key in ("thresholds", "images"):
            each = value[key]
            if not isinstance(each, list) or not each or (count is not None and len(each) != count):
                raise ValueError(
                    f"{key} of the step 'prediction_sets' is a list of {count or 'one a class'}, got {each!r:.80}"
                )
        for number in value["thresholds"]:
            if not _is_number(number):
                raise ValueError(f"a threshold of the step 'prediction_sets' is a finite number, got {number!r}")
        for number in value["images"]:
            if isinstance(number, bool) or not isinstance(number, int):
                raise ValueError(f"images of the step 'prediction_sets' are whole numbers, got {number!r}")
            if place_of_threshold(number, value["coverage"]) > number:
                raise ValueError(f"{number} images have no threshold for a coverage of {value['coverage']:g}")
        usual = value["usual"]
        if not isinstance(usual, dict) or set(usual) != set(USUAL) or not all(map(_is_number, usual.values())):
            raise ValueError(f"usual of the step 'prediction_sets' has numbers {', '.join(USUAL)}, got {usual!r:.80}")

    def __call__(self, logits: Tensor) -> Tensor:
        """The logits."""
        return logits

    def undo(self, logits: Tensor) -> Tensor:
        """The logits."""
        return logits

    def __str__(self) -> str:
        """In words, such as `prediction sets (lac) of 90 % coverage`."""
        classes = " of each class" if self.value["by_class"] else ""
        return f"prediction sets ({self.value['score']}) of {100 * self.value['coverage']:g} % coverage{classes}"

    @property
    def coverage(self) -> float:
        """What they promise, in (0, 1)."""
        return float(self.value["coverage"])

    def sets(self, logits: Tensor) -> Tensor:
        """Which classes are in the sets, `[..., C]` bool on the CPU, of logits `[..., C]` after the steps before."""
        scores = set_scores(logits.detach().cpu(), self.value["score"], None, self.value["penalty"], self.value["free"])
        return scores <= torch.tensor(self.value["thresholds"], dtype=torch.float64)

    def formula(self) -> str:
        """How a program without kedge gets the sets, from the logits of an exported file and this value."""
        penalty, free = self.value["penalty"], self.value["free"]
        score = {
            "lac": "1 - p[k]",
            "aps": "the sum of all p[j] > p[k]",
            "raps": f"the sum of all p[j] > p[k], + {penalty:g} * max(0, 1 + (number of p[j] > p[k]) - {free})",
        }[self.value["score"]]
        place = "thresholds[k]" if self.value["by_class"] else "thresholds[0]"
        return f"p = softmax(logits) in float64; class k is in the set if s[k] <= {place}, s[k] = {score}"

    def usual(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Of each image `[B]` bool: whether ATC counts its answer as right, and whether its energy is unfamiliar.

        ATC (Garg et al. 2022): the share of images above the entropy threshold is the accuracy on calibration images.
        """
        entropy, energy = _watched(logits)
        return entropy >= self.value["usual"]["entropy"], energy < self.value["usual"]["energy"]

    def outlook(self, images: int, right: int, unfamiliar: int) -> "Outlook":
        """What can be said of the promise for so many images, of which `usual` counted `right` and `unfamiliar`."""
        return Outlook(self.coverage, sum(self.value["images"]), self.value["usual"]["accuracy"], images, right,
                       unfamiliar)  # fmt: skip

    def facts(self, logits: Tensor, labels: Tensor) -> dict[str, Any]:
        """Of calibration images: the mean size of the sets, the share that are empty, the share of right answers."""
        sizes = self.sets(logits).sum(1).double()
        right = (logits.argmax(1).cpu() == labels.cpu()).double().mean()
        return {"size": float(sizes.mean()), "empty": float((sizes == 0).double().mean()), "accuracy": float(right)}

    def again(self) -> dict[str, Any]:
        """What `fit` takes to set it anew on other logits."""
        return {"coverage": self.coverage, "sets": self.value["score"], "by_class": self.value["by_class"],
                "penalty": self.value["penalty"], "free": self.value["free"]}  # fmt: skip

    @classmethod
    def fit(
        cls,
        logits: Tensor,
        labels: Tensor,
        coverage: float | None = None,
        sets: str | None = None,
        by_class: bool | None = None,
        penalty: float = 0.1,
        free: int = 1,
        class_names: Sequence[str] | None = None,
    ) -> dict[str, Any]:
        """The value for a coverage in (0, 1), of logits `[N, C]` of images that the model was not trained on.

        Args:
            logits, labels: of the calibration images; `labels` `[N]` class indices.
            coverage: the chance that the set of an image like these holds its class.
            sets: lac (None), aps or raps, see `set_scores`.
            by_class: a threshold for each class, so that the chance is that for the images of each class too.
            penalty, free: of raps.
            class_names: for the words of an error.

        Raises:
            ValueError: for no coverage or one outside (0, 1), and for fewer images (of a class) than have a threshold,
                saying how many that takes.
        """
        if coverage is None:
            raise ValueError("prediction sets need the coverage that they promise: coverage=0.9 (--coverage 0.9)")
        score = "lac" if sets is None else sets
        check_score(score, penalty, free)
        logits, labels = logits.detach().cpu(), labels.detach().cpu().long()
        _check(logits, labels)
        needed, classes = images_needed(coverage), logits.shape[1]
        counts = torch.bincount(labels, minlength=classes).tolist() if by_class else [len(labels)]
        if min(counts) < needed:
            few = [k for k, count in enumerate(counts) if count < needed]
            first = few[0] if class_names is None else repr(class_names[few[0]])
            which = f"class {first} has" if by_class else "there are"
            more = f", and {len(few) - 1} more classes too few" if len(few) > 1 else ""
            raise ValueError(
                f"a coverage of {coverage:g}{' of each class' if by_class else ''} needs {needed} calibration images"
                f"{' of each class' if by_class else ''} or more, and {which} {counts[few[0]]}{more}: with fewer the "
                "threshold is infinite, and every set would hold every class. Take more images, or a lower coverage"
            )
        own = set_scores(logits, score, None, penalty, free).gather(1, labels[:, None])[:, 0]
        parts = [own[labels == k] for k in range(classes)] if by_class else [own]
        entropy, energy = _watched(logits)
        right = int((logits.argmax(1) == labels).sum())
        # Above the threshold lies the share of right answers; where none is right, above all of them.
        least = entropy.sort(descending=True).values[max(0, right - 1)] if right else entropy.max() + 1
        return {
            "score": score,
            "coverage": float(coverage),
            "by_class": bool(by_class),
            "thresholds": [conformal_threshold(part, coverage) for part in parts],
            "images": counts,
            "penalty": penalty,
            "free": free,
            "usual": {
                "accuracy": right / len(labels),
                "entropy": float(least),
                "energy": float(energy.sort().values[int(RARE * len(energy))]),
            },
        }


@dataclass(frozen=True)
class Outlook:
    """Whether what sets promise can be relied on for images without labels.

    Attributes:
        coverage: what is promised.
        calibrated: how many images that rests on.
        accuracy: on those.
        images: how many it is about.
        right: how many of them ATC counts as rightly answered.
        unfamiliar: how many have an energy that 95 % of the calibration images are above.
    """

    coverage: float
    calibrated: int
    accuracy: float
    images: int
    right: int
    unfamiliar: int

    @property
    def expected(self) -> float:
        """The accuracy expected of these images."""
        return self.right / self.images if self.images else math.nan

    @property
    def too_few(self) -> bool:
        """Whether nothing can be said."""
        return self.images < FEWEST

    @property
    def broken(self) -> bool:
        """Whether the images are unlike those of calibration, by more than chance makes of as many of these.

        The expected accuracy is 5 points lower, or the unfamiliar are 5 points more, and of images like those of
        calibration one set in a thousand would show as many: of m of them the number below the (k + 1)-th of n scores
        is beta-binomial, with k + 1 and n - k.
        """
        if self.too_few:
            return False
        wrong = round((1 - self.accuracy) * self.calibrated)
        return self._more(self.images - self.right, wrong) or self._more(self.unfamiliar, int(RARE * self.calibrated))

    def _more(self, count: int, before: int) -> bool:
        """Whether `count` of these images are more than `before` of the calibration images."""
        from scipy.stats import betabinom

        rise = count / self.images - before / self.calibrated
        return rise > APART and bool(
            betabinom.sf(count - 1, self.images, before + 1, self.calibrated - before) < CHANCE
        )

    def __str__(self) -> str:
        """In a sentence."""
        promise = f"the coverage of {100 * self.coverage:g} %"
        if self.too_few:
            return f"whether {promise} holds for {self.images} images cannot be told: that takes {FEWEST} or more"
        about = (
            f"an expected {self.expected:.0%} of the answers are right, against {self.accuracy:.0%} on the calibration "
            f"images, and {self.unfamiliar / self.images:.0%} look unfamiliar, against {RARE:.0%}"
        )
        if self.broken:
            return f"{promise} is not to be relied on for these images, they are unlike those it was set on: {about}"
        return f"nothing speaks against {promise} for these images: {about}"


def _watched(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Negative entropy and energy of logits `[B, C]`, `[B]` float64 each; of log probabilities the largest of them."""
    logits = logits.detach().cpu().double()
    log_probs, energy = logits.log_softmax(1), logits.logsumexp(1)
    entropy = (log_probs.exp() * log_probs.clamp(min=-1e4)).sum(1)
    normalised = len(energy) > 0 and bool((energy.abs() < 1e-2).all())  # a mean of probabilities has no energy
    return entropy, log_probs.amax(1) if normalised else energy


def _check(logits: Tensor, labels: Tensor) -> None:
    if logits.ndim != 2 or labels.shape != logits.shape[:1] or len(labels) == 0:
        raise ValueError(f"logits [N, C] and labels [N], N >= 1, are {list(logits.shape)} and {list(labels.shape)}")
    if bool(((labels < 0) | (labels >= logits.shape[1])).any()):
        raise ValueError(
            f"labels must be in 0..{logits.shape[1] - 1}, but they are in {int(labels.min())}..{int(labels.max())}"
        )
    if broken := int(logits.softmax(1).isnan().any(1).sum()):
        raise ValueError(f"{broken} of {len(logits)} rows of logits hold NaN or infinity: they have no prediction set")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)

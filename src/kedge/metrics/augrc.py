"""AUGRC: the mean risk of an undetected failure, while more and more images are answered in order of confidence.

The generalised risk at a threshold is the chance that an image is answered *and* wrong: wrong answers among all images,
not among those that are answered. Its area over coverage is between 0 and 1/2, moves by the same whether a mistake is
among few answers or among many, and with a the accuracy and A the AUROC of telling right answers from wrong ones by
their confidence it is (1 - A) a (1 - a) + (1 - a)² / 2.
"""

import torch
from torch import Tensor

from kedge.catalog import Info
from kedge.metrics._base import Answers
from kedge.metrics._families import Ranked
from kedge.metrics._selective import at_thresholds

info = Info(
    "Overcoming Common Flaws in the Evaluation of Selective Classification Systems", "Traub et al.", "NeurIPS", 2024,
    "https://arxiv.org/abs/2407.01032", "code",
)  # fmt: skip


def augrc(confidence: Tensor, correct: Tensor) -> Tensor:
    """Area under the generalised risk-coverage curve, a scalar in [0, 1/2]; lower is better.

    `confidence` `[N]`, higher = more certain (best as log odds); `correct` `[N]` bool. Equal confidences are taken
    together: between thresholds the curve is straight. Traub et al., NeurIPS 2024, arXiv 2407.01032 (their tables print
    it times 1000). Raises ValueError for no samples and NaN.
    """
    answered, wrong = at_thresholds(confidence, correct)
    return area(answered[None], wrong[None])[0]


def area(answered: Tensor, wrong: Tensor) -> Tensor:
    """`[R]` from counts `[R, G]` at falling thresholds: trapezoids from (0, 0) on."""
    zero = answered.new_zeros(len(answered), 1)
    width, before = answered.diff(dim=1, prepend=zero), torch.cat([zero, wrong[:, :-1]], 1)
    return ((before + wrong) / 2 * width).sum(1) / answered[:, -1].square()


class AUGRC(Ranked):
    """The mean over all coverages of the share of images that are answered wrongly."""

    label = "risk of an undetected failure (AUGRC)"
    top = 0.5
    order = 215
    words = (
        "As AURC, but of all images, not of those that are answered: how likely an image is answered and wrong, on "
        "average over all thresholds. 0 is perfect, 50 % the worst. A mistake weighs the same wherever it stands."
    )
    convention = (
        "area under the curve of generalised risk (images answered wrongly, of all images) against coverage; interval: "
        "bootstrap percentiles"
    )

    def value(self, sample: Answers) -> float:
        return float(augrc(sample["log_odds"], sample.correct))

    def area(self, answered: Tensor, wrong: Tensor) -> Tensor:
        return area(answered, wrong)

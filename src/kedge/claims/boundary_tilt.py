"""A linear boundary that separates more closely leans more, and passes nearer to the images of both classes."""

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression

from kedge.catalog import Info
from kedge.claims import Claim, Criterion, Curve, packed
from kedge.probing.tilt import boundary_tilt

info = Info(
    "A Boundary Tilting Perspective on the Phenomenon of Adversarial Examples", "Tanay and Griffin", "arXiv", 2016,
    "https://arxiv.org/abs/1608.07690", "derived",
)  # fmt: skip

DECAYS = (1e4, 1e3, 1e2, 10.0, 1.0, 0.1, 0.01, 0.001, 0.0001)


class BoundaryTilt(Claim):
    """The digits 3 and 8 by logistic regression, from strong to weak decay; control: the line between their means.

    The mean distance of the two classes to the boundary is half the distance of their means times the cosine of the
    tilt, whatever the bias: exact, and checked against the distances of the images themselves.
    """

    part = "measuring"
    variants = ("between the means", "logistic regression")
    criteria = (
        Criterion("the distance is the formula's", "largest difference from the formula", "logistic regression", None,
                  "below", 1e-6),
        Criterion("weaker decay leans more", "smallest rise of the angle", "logistic regression", None, "above", 0),
        Criterion("and comes nearer", "smallest fall of the distance", "logistic regression", None, "above", 0),
        Criterion("and separates better", "accuracy, decay of 0.01", "logistic regression", "between the means"),
        Criterion("the line between the means is farther away", "mean distance, decay of 0.01", "between the means",
                  "logistic regression"),
    )  # fmt: skip
    curve = Curve("angle", "decay of", log_x=True)

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """Angles in degrees, mean distances and test accuracies, by the weight of the decay (1 / C of scikit-learn)."""
        train, labels = pair("train")
        rows = np.random.default_rng(seed).permutation(len(labels))[: len(labels) // 2]
        train, labels = train[rows], labels[rows]
        test, truth = pair("test")
        measures: dict[str, float] = {}
        off = 0.0
        for decay in DECAYS:
            means = [train[labels == label].mean(0) for label in (0, 1)]
            if variant == "between the means":
                weight, bias = means[1] - means[0], float((means[0] @ means[0] - means[1] @ means[1]) / 2)
            else:
                model = LogisticRegression(C=1 / decay, max_iter=20_000, tol=1e-8).fit(train, labels)
                weight, bias = model.coef_[0], float(model.intercept_[0])
            head = torch.from_numpy(np.stack([-weight / 2, weight / 2]))
            tilt = boundary_tilt(torch.from_numpy(train), torch.from_numpy(labels), head)
            distances = (2 * labels - 1) * (train @ weight + bias) / np.linalg.norm(weight)
            mean = float(np.mean([distances[labels == label].mean() for label in (0, 1)]))
            off = max(off, abs(mean - float(tilt.distance[0, 1])))
            measures |= {
                f"angle, decay of {decay:g}": float(tilt.angle[0, 1]),
                f"mean distance, decay of {decay:g}": mean,
                f"accuracy, decay of {decay:g}": 100 * float(((test @ weight + bias > 0) == truth).mean()),
            }
        weak = [decay for decay in DECAYS if decay <= 100]
        return {
            **measures,
            "largest difference from the formula": off,
            "smallest rise of the angle": float(min(np.diff([measures[f"angle, decay of {d:g}"] for d in weak]))),
            "smallest fall of the distance": float(
                -max(np.diff([measures[f"mean distance, decay of {d:g}"] for d in weak]))
            ),
        }


def pair(split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images of the digits 3 and 8 as rows in [0, 1], and whether each is an 8."""
    ((images, labels),) = packed("digits", split).batches(10_000)
    both = (labels == 3) | (labels == 8)
    return images[both].flatten(1).double().numpy() / 255, (labels[both] == 8).long().numpy()

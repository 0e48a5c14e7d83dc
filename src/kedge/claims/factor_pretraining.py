"""Features found without labels save labels where these are few, and nothing where they are many."""

import numpy as np
from numpy.typing import NDArray

from kedge.catalog import Info
from kedge.claims import Claim, Criterion, Curve

info = Info(
    "On the Provable Advantage of Unsupervised Pretraining", "Ge, Tang, Fan and Jin", "ICLR", 2024,
    "https://arxiv.org/abs/2303.01566", "abstract",
)  # fmt: skip

INPUTS, FACTORS, STRENGTH, NOISE = 100, 5, 2.0, 0.1
LABELLED = (20, 50, 200, 1000)
UNLABELLED = {"ridge on all inputs": None, "factors, no further inputs": 0, "factors, 1000 further inputs": 1000}
DRAWS, TEST = 30, 1000
RIDGES = np.logspace(-3, 5, 33)
Floats = NDArray[np.float64]


class FactorPretraining(Claim):
    """100 inputs that five factors move, a target linear in the factors; a seed is the mean of 30 draws.

    Principal components of all inputs, labelled or not, then least squares on five coordinates; the control is ridge
    regression on the inputs with the penalty that is best on the test points, which no user could choose.
    """

    part = "measuring"
    variants = tuple(UNLABELLED)
    criteria = (
        Criterion("better by a fifth with 20 labels", "% below the ridge, 20 labels", "factors, 1000 further inputs",
                  None, "above", 20),
        Criterion("by little with 1000", "% below the ridge, 1000 labels", "factors, 1000 further inputs", None,
                  "below", 8),
        Criterion("the inputs without labels are what helps", "error, 20 labels", "factors, 1000 further inputs",
                  "factors, no further inputs", "below"),
    )  # fmt: skip
    curve = Curve("error", "labels", log_x=True)

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """Mean squared error on new points, and how far it is below the ridge's."""
        measures = {}
        for count in LABELLED:
            draws = np.random.default_rng((seed, count))
            errors = np.array([errors_of(draws, count, UNLABELLED[variant]) for _ in range(DRAWS)]).mean(0)
            measures[f"error, {count} labels"] = float(errors[0])
            measures[f"% below the ridge, {count} labels"] = float(100 * (1 - errors[0] / errors[1]))
        return measures


def errors_of(draws: np.random.Generator, labelled: int, further: int | None) -> tuple[float, float]:
    """Of the fit, and of the ridge, on the same draw; `further` None: the ridge twice."""
    loadings = np.linalg.qr(draws.normal(size=(INPUTS, FACTORS)))[0] * np.sqrt(STRENGTH)
    slope = draws.normal(size=FACTORS)
    slope /= np.linalg.norm(slope)

    def points(count: int) -> tuple[Floats, Floats]:
        factors = draws.normal(size=(count, FACTORS))
        inputs = factors @ loadings.T + draws.normal(size=(count, INPUTS))
        return inputs, factors @ slope + np.sqrt(NOISE) * draws.normal(size=count)

    (inputs, targets), (test, truth) = points(labelled), points(TEST)
    left, values, right = np.linalg.svd(inputs, full_matrices=False)
    turned = left.T @ targets
    guesses = (test @ right.T) @ (turned * values / (np.square(values) + RIDGES[:, None])).T
    ridge = float(np.square(guesses - truth[:, None]).mean(0).min())
    if further is None:
        return ridge, ridge
    pooled = np.vstack([inputs, points(further)[0]])
    basis = np.linalg.eigh(pooled.T @ pooled)[1][:, -FACTORS:]
    fit = np.linalg.lstsq(inputs @ basis, targets, rcond=None)[0]
    return float(np.square(test @ basis @ fit - truth).mean()), ridge

"""A low-rank matrix is recovered from measurements with gross errors, the closer the smaller the start."""

import numpy as np

from kedge.catalog import Info
from kedge.claims import Claim, Criterion, Curve

info = Info(
    "Global Convergence of Sub-gradient Method for Robust Matrix Recovery", "Ma and Fattahi", "arXiv", 2022,
    "https://arxiv.org/abs/2202.08788", "abstract",
)  # fmt: skip

SIDE, RANK, MEASUREMENTS, WRONG = 20, 2, 1600, 0.2
STARTS = (1.0, 0.1, 0.01, 0.001, 0.0001)
STEPS, RATE, FALL = 600, 0.3, 0.985


class RobustRecovery(Claim):
    """U U' of rank 2 and side 20, U of rank 20; a fifth of the 1,600 measurements is off by ten standard deviations.

    Absolute errors against squared ones, whose residuals are divided by their mean size so that steps are as long.
    Nothing in kedge rests on this: it is far from images, and here as the plainest case of small starts.
    """

    part = "measuring"
    variants = ("squared error", "absolute error")
    criteria = (
        Criterion("a small start recovers more closely", "error of the start 1 over that of 0.0001", "absolute error",
                  None, "above", 50),
        Criterion("squared errors do not recover", "relative error, start of 0.0001", "squared error",
                  "absolute error", "above", 0.05),
    )  # fmt: skip
    curve = Curve("relative error", "start of", log_x=True, log_y=True)

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """The relative error of U U' after 600 steps, by the size of the start."""
        errors = {start: recovered(variant == "squared error", start, seed) for start in STARTS}
        return {
            **{f"relative error, start of {start:g}": error for start, error in errors.items()},
            "error of the start 1 over that of 0.0001": errors[1.0] / errors[0.0001],
        }


def recovered(squared: bool, start: float, seed: int) -> float:
    """The relative error in Frobenius norm from a start of this size."""
    draws = np.random.default_rng(seed)
    factor = draws.normal(size=(SIDE, RANK)) / np.sqrt(SIDE)
    truth = factor @ factor.T
    sensing = draws.normal(size=(MEASUREMENTS, SIDE * SIDE))
    seen = sensing @ truth.ravel()
    wrong = draws.random(MEASUREMENTS) < WRONG
    seen = seen + np.where(wrong, 10 * seen.std() * draws.normal(size=MEASUREMENTS), 0.0)
    guess = start * np.linalg.qr(draws.normal(size=(SIDE, SIDE)))[0]
    for step in range(STEPS):
        off = sensing @ (guess @ guess.T).ravel() - seen
        weights = off / np.abs(off).mean() if squared else np.sign(off)
        slope = (weights @ sensing).reshape(SIDE, SIDE) / MEASUREMENTS
        guess = guess - RATE * FALL**step * (slope + slope.T) @ guess
    return float(np.linalg.norm(guess @ guess.T - truth) / np.linalg.norm(truth))

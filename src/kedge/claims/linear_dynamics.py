"""A linear student overfits with time only where its weights are about as many as its examples."""

import numpy as np
from numpy.typing import NDArray

from kedge.catalog import Info
from kedge.claims import Claim, Criterion, Curve

info = Info(
    "High-dimensional dynamics of generalization error in neural networks", "Advani and Saxe", "Neural Networks", 2020,
    "https://arxiv.org/abs/1710.03667", "derived",
)  # fmt: skip

EXAMPLES, DRAWS, SNR = 100, 20, 5.0
SIZES = (0.2, 0.5, 0.9, 1.0, 1.1, 2.0, 5.0)  # weights an example
Floats = NDArray[np.float64]


class LinearDynamics(Claim):
    """100 examples of a linear teacher with a fifth of noise; gradient flow in closed form, at its best and at its end.

    A seed is the mean of 20 draws. The end is compared with the limit of large sizes: σ² / (P/N − 1) with more
    examples than weights, and (1 − P/N)(1 + σ₀²) + σ² (P/N) / (1 − P/N) with fewer.
    """

    part = "measuring"
    variants = ("zero start", "large start")
    criteria = (
        Criterion("ruined by time at as many weights as examples", "log10 of end over best at 1", "zero start", None,
                  "above", 1.7),
        Criterion("hardly hurt by time elsewhere", "largest end over best at 0.2, 2 and 5", "zero start", None,
                  "below", 1.5),
        Criterion("the end is the formula's at 2", "% off the formula at 2", "zero start", None, "below", 15),
        Criterion("a large start costs with more weights than examples", "error at the end, 2 weights an example",
                  "large start", "zero start"),
        Criterion("and with many more", "error at the end, 5 weights an example", "large start", "zero start"),
    )  # fmt: skip
    curve = Curve("error at the end", "weights an example", log_y=True)

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """Errors at the best time and at the end, by size."""
        spread = 3.0 if variant == "large start" else 0.0
        draws = np.random.default_rng(seed)
        errors = {size: np.mean([errors_of(draws, size, spread) for _ in range(DRAWS)], axis=0) for size in SIZES}
        over = {size: float(end / best) for size, (best, end) in errors.items()}
        return {
            "log10 of end over best at 1": float(np.log10(over[1.0])),
            "largest end over best at 0.2, 2 and 5": max(over[size] for size in (0.2, 2.0, 5.0)),
            "% off the formula at 2": 100 * abs(float(errors[2.0][1]) / limit(2.0, spread) - 1),
            **{f"error at the end, {size:g} weights an example": float(end) for size, (_, end) in errors.items()},
            **{f"error at best, {size:g} weights an example": float(best) for size, (best, _) in errors.items()},
        }


def errors_of(draws: np.random.Generator, size: float, spread: float) -> tuple[float, float]:
    """The error at the best time and at the end, of one draw; `spread`: the standard deviation of the first weights."""
    count = round(size * EXAMPLES)
    inputs = draws.normal(size=(EXAMPLES, count)) / np.sqrt(count)
    teacher, first = draws.normal(size=count), spread * draws.normal(size=count)
    targets = inputs @ teacher + draws.normal(size=EXAMPLES) / np.sqrt(SNR)
    rates, basis = np.linalg.eigh(inputs.T @ inputs)
    learnt = rates > 1e-9 * rates.max()  # the other directions hold no example and never move
    solved = np.where(learnt, basis.T @ (inputs.T @ targets) / np.where(learnt, rates, 1.0), basis.T @ first)
    left = np.exp(-np.outer(np.logspace(-2, 5, 200), np.where(learnt, rates, 0.0)))  # of the start, `[time, weight]`
    path = left * (basis.T @ first) + (1 - left) * solved
    off: Floats = np.square(path - basis.T @ teacher).mean(1)
    end = float(np.square(solved - basis.T @ teacher).mean())
    return min(float(off.min()), end), end


def limit(size: float, spread: float) -> float:
    """The error at the end for large sizes, with `size` weights an example, not 1."""
    many, noise = 1 / size, 1 / SNR
    return noise / (many - 1) if many > 1 else (1 - many) * (1 + spread**2) + noise * many / (1 - many)

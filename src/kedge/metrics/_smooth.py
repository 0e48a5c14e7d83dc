"""Smooth calibration error (Błasiok & Nakkiran, "Smooth ECE", ICLR 2024, arXiv 2309.12236).

Residuals y - f are smoothed with the Gaussian kernel reflected at 0 and 1, K_σ, and

    smECE_σ = ∫₀¹ |E (y - f) K_σ(t, f)| dt,      smECE = smECE_σ* at the one σ* with smECE_σ* = σ*.

No bins to choose, and a continuous function of the confidences. On [0, 1] the reflected Gaussian is diagonal in
cosines, K_σ(t, s) = 1 + 2 Σ_k exp(-(πkσ)²/2) cos πkt cos πks, so on a grid the smoothing is a Fourier transform.
"""

import torch
from torch import Tensor

from kedge.metrics._calibration import SUM_DTYPE, resampled_sums
from kedge.metrics._checks import check_confidence, check_probs

# Nodes of the grid less one. A confidence is shared out between the two nodes beside it, which keeps its mean; the
# error of the result is below 2e-6 where it is above 0.005, and never above one step of the grid.
GRID = 2048
# For resamples a coarser one does: its error, below 2e-4, is small beside their spread, and it is four times as fast.
COARSE = 512
_STEPS = 8  # of a root search that gains a factor with each, or of halvings at worst
_CLOSE = 1e-5  # from the root is close enough for resamples, whose grid is coarser than that
_FADED = 6.0  # πkσ from which on a cosine is left out of resamples: it is damped to exp(-18)


def grid_sums(confidence: Tensor, correct: Tensor, weights: Tensor | None = None, grid: int = GRID) -> Tensor:
    """`[grid + 1]` sums of correct - confidence near each node of the grid, or `[R, grid + 1]` with `weights` `[R, N]`.

    `confidence` `[N]` in [0, 1], `correct` `[N]` bool or 0/1. Sums of parts of a set add up to those of the whole.
    """
    return shared_sums(confidence, correct.to(SUM_DTYPE) - confidence.to(SUM_DTYPE), weights, grid)


def shared_sums(confidence: Tensor, values: Tensor, weights: Tensor | None = None, grid: int = GRID) -> Tensor:
    """As `grid_sums`, of any `values` `[N]`."""
    dtype = SUM_DTYPE if weights is None else weights.dtype
    place = confidence.to(SUM_DTYPE).clamp(0, 1) * grid
    left = place.floor().clamp(max=grid - 1)
    right = (place - left).to(dtype)
    values = values.to(dtype)
    if weights is None:
        return shared_sums(confidence, values, values.new_ones(1, len(values)), grid)[0]
    nodes = torch.cat([left, left + 1]).long()
    return resampled_sums(weights, nodes, torch.cat([values * (1 - right), values * right]), grid + 1)


def smooth_error_of(sums: Tensor, total: Tensor, coarse: bool = False) -> Tensor:
    """`[R]` smooth calibration errors of `grid_sums` `[R, nodes]` over `total` samples `[R]` or a scalar.

    `coarse` is for resamples: the integral has as many nodes as the smoothed residuals need, and the search for σ*
    ends at 1e-5, both well below the error of a `COARSE` grid.
    """
    if sums.device.type == "mps":
        sums, total = sums.cpu(), total.cpu()
    grid = sums.shape[1] - 1
    density = sums / total.reshape(-1, 1)
    cosines = _cosines(density)
    exponent = -(torch.pi * torch.arange(grid + 1, device=sums.device, dtype=sums.dtype)).square() / 2

    def smoothed(sigma: Tensor) -> Tensor:
        """smECE_σ `[R]` for σ `[R]`, by the trapezoidal rule."""
        nodes = grid
        if coarse:
            needed = 2 * _FADED / (torch.pi * max(float(sigma.min()), 1e-9))  # two nodes for the shortest wave
            while nodes >= 2 * max(needed, 64):
                nodes //= 2
        spectrum = cosines[:, : nodes + 1] * (exponent[: nodes + 1] * sigma.square()[:, None]).exp()
        values = torch.fft.irfft(spectrum * 2, n=2 * nodes)[:, : nodes + 1].abs()
        return values.sum(1) - (values[:, 0] + values[:, -1]) / 2

    # smECE_σ falls with σ and is never below |E (y - f)|: the fixed point lies between that and smECE there.
    low = density.sum(1).abs()
    above = smoothed(low) - low  # at least 0
    high = torch.maximum(low + above, low)
    below = smoothed(high) - high  # at most 0
    side = torch.zeros_like(low)
    for _ in range(_STEPS):
        # The secant's root (regula falsi); an end that stays has its value halved (Illinois), so that both close in.
        span = above - below
        middle = torch.where(span > 0, (above * high - below * low) / span.clamp(min=1e-30), low)
        middle = torch.minimum(torch.maximum(middle, low), high)
        value = smoothed(middle) - middle
        if coarse and bool((value.abs() < _CLOSE).all()):
            break
        right = value > 0
        above, below = (
            torch.where(right, value, torch.where(side < 0, above / 2, above)),
            torch.where(right, torch.where(side > 0, below / 2, below), value),
        )
        low, high = torch.where(right, middle, low), torch.where(right, high, middle)
        side = torch.where(right, torch.ones_like(side), -torch.ones_like(side))
    return middle


def _cosines(sums: Tensor) -> Tensor:
    """`[R, nodes]` coefficients of sums `[R, nodes]`: Σ_j sums_j cos(πk j / grid)."""
    ends = sums.clone()  # the nodes at 0 and 1 are their own mirror images
    ends[:, [0, -1]] *= 2
    return torch.fft.rfft(torch.cat([ends, ends[:, 1:-1].flip(1)], 1)).real / 2


def smoothed_sums(sums: Tensor, sigma: Tensor) -> Tensor:
    """`[R, nodes]` of sums `[R, nodes]` on the grid, each smoothed with the reflected Gaussian of its σ `[R]`.

    A value is the smoothed density at a node times the step of the grid.
    """
    grid = sums.shape[1] - 1
    waves = torch.pi * torch.arange(grid + 1, device=sums.device, dtype=sums.dtype)
    damping = (-(waves * sigma[:, None]).square() / 2).exp()
    return torch.fft.irfft(_cosines(sums) * damping * 2, n=2 * grid)[:, : grid + 1]


def smooth_error(confidence: Tensor, correct: Tensor) -> Tensor:
    """Smooth calibration error, a scalar in [0, 1]; lower is better.

    `confidence` `[N]` in [0, 1] of the whole set, `correct` `[N]` bool or 0/1: of the top prediction, or of any event
    and its probability. Raises ValueError for no samples, another shape, NaN and a confidence outside [0, 1].
    """
    check_confidence(confidence, correct)
    count = torch.tensor(len(confidence), dtype=SUM_DTYPE, device=confidence.device)
    return smooth_error_of(grid_sums(confidence, correct)[None], count)[0]


def smooth_calibration_error(probs: Tensor, labels: Tensor) -> Tensor:
    """Smooth calibration error of the top prediction, a scalar in [0, 1]; lower is better.

    `probs` `[N, C]` of the whole set, `labels` `[N]`. Raises ValueError for logits and for no samples.
    """
    check_probs(probs, labels)
    confidence, predicted = probs.max(dim=1)
    return smooth_error(confidence.clamp(max=1), predicted == labels)


def resampled_smooth_error(confidence: Tensor, correct: Tensor, weights: Tensor) -> Tensor:
    """`[R]` smooth calibration errors of R resamples; `weights` `[R, N]` is how often each sample was drawn.

    Raises ValueError as `smooth_error`.
    """
    check_confidence(confidence, correct)
    return smooth_error_of(grid_sums(confidence, correct, weights, COARSE), weights.sum(1), coarse=True)

"""Cubic B-splines."""

import numpy as np


def cubic(share: np.ndarray) -> np.ndarray:
    """Return the cubic B-spline's weights of the pixels -1, 0, 1 and 2 for a place in [0, 1): [4, ...]."""
    rest = 1 - share
    inner = [4 - 6 * s**2 + 3 * s**3 for s in (share, rest)]
    return np.stack([rest**3, *inner, share**3]) / 6

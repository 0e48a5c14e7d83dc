"""Temperature scaling: the logits divided by one number, fitted on validation images; no label changes."""

import math
import warnings

import torch
from torch import Tensor

from kedge.catalog import Info
from kedge.postprocess._base import Step

info = Info(
    "On Calibration of Modern Neural Networks",
    "Guo et al.",
    "ICML",
    2017,
    "https://arxiv.org/abs/1706.04599",
    "derived",
)
BOUNDS = (0.01, 100.0)
_ROWS = 1 << 22  # values whose float64 copies are held at once


class Temperature(Step):
    """Logits divided by `value` > 0."""

    sentence = "Logits are divided by a temperature"

    def check(self, classes: int | None = None) -> None:
        """Raise ValueError unless the value is positive and finite."""
        value = self.value
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise ValueError(f"the value of the step 'temperature' must be a positive finite number, got {value!r}")

    def __call__(self, logits: Tensor) -> Tensor:
        """The logits divided by the temperature."""
        return logits / self.value

    def undo(self, logits: Tensor) -> Tensor:
        """The logits times the temperature."""
        return logits * self.value

    def __str__(self) -> str:
        """In words, such as `temperature 1.32`."""
        return f"temperature {self.value:.3g}"

    @classmethod
    def fit(cls, logits: Tensor, labels: Tensor) -> float:
        """The temperature with the smallest mean NLL, see `fit_temperature`."""
        return fit_temperature(logits, labels)


def fit_temperature(logits: Tensor, labels: Tensor, smoothing: float = 0.0) -> float:
    """The T > 0 for which softmax(logits / T) has the smallest mean NLL on these labels.

    `logits` `[N, C]` as the network gives them, `labels` `[N]` class indices, of images that the network was not
    trained on. The NLL is convex in 1/T; Newton's steps, kept inside a bracket, find its minimum in float64. Where
    the images cannot decide T, a warning says why and T stays 1: every answer is right (the NLL only falls as T goes
    to 0), or T changes nothing (one class, equal or saturated logits). A minimum outside 0.01..100 is cut off there,
    with a warning.

    `smoothing`, in [0, 1), is the share of each label that is spread evenly over the classes, as in a training with
    label smoothing: the temperature is then that of its loss, and is decided also where every answer is right.

    Raises:
        ValueError: for other shapes, labels out of range, no rows, NaN or infinity, a smoothing out of range.
    """
    _check(logits, labels)
    if not 0 <= smoothing < 1:
        raise ValueError(f"smoothing must be in [0, 1), got {smoothing}")
    logits, labels = logits.detach().cpu(), labels.detach().cpu().long()
    own = logits.gather(1, labels[:, None])[:, 0]
    margin = own - logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    if smoothing == 0 and logits.shape[1] > 1 and bool((margin >= 0).all() & (margin > 0).any()):
        warnings.warn(
            f"all {len(labels)} answers are right, so the NLL only falls as the temperature goes to 0: these images "
            "cannot decide it, and it stays 1. Take more of them, or harder ones",
            stacklevel=2,
        )
        return 1.0
    low, high = 1 / BOUNDS[1], 1 / BOUNDS[0]
    (at_low, _), (at_high, _) = (_slope(logits, labels, end, smoothing) for end in (low, high))
    if at_low == at_high == 0:
        warnings.warn(
            f"no temperature changes the NLL of these {len(labels)} images (one class, or equal logits): it stays 1",
            stacklevel=2,
        )
        return 1.0
    for beyond, bound in ((at_low >= 0, BOUNDS[1]), (at_high <= 0, BOUNDS[0])):
        if beyond:
            warnings.warn(
                f"the NLL of these {len(labels)} images has its minimum beyond a temperature of {bound:g}, where it is "
                "cut off: the logits are hardly better than chance, or of a strange scale",
                stacklevel=2,
            )
            return bound
    inverse = 1.0
    for _ in range(200):
        slope, curvature = _slope(logits, labels, inverse, smoothing)
        low, high = (inverse, high) if slope < 0 else (low, inverse)
        step = inverse - slope / curvature if curvature > 0 else math.nan
        new = step if low < step < high else math.sqrt(low * high)
        if abs(new - inverse) <= 1e-12 * inverse or slope == 0:
            break
        inverse = new
    return 1 / inverse


def _slope(logits: Tensor, labels: Tensor, inverse: float, smoothing: float) -> tuple[float, float]:
    """First and second derivative of the mean NLL of softmax(logits * inverse) by `inverse`."""
    slope = curvature = 0.0
    rows = max(1, _ROWS // logits.shape[1])
    for z, y in zip(logits.split(rows), labels.split(rows), strict=True):
        z = z.double()
        z = z - z.gather(1, y[:, None])  # so that the label's own logit is 0
        p = (z * inverse).softmax(1)
        mean = (p * z).sum(1)
        slope += float((mean - smoothing * z.mean(1)).sum())
        curvature += float((p * (z - mean[:, None]).square()).sum())
    return slope / len(labels), curvature / len(labels)


def _check(logits: Tensor, labels: Tensor) -> None:
    if logits.ndim != 2 or not logits.is_floating_point() or labels.shape != logits.shape[:1] or len(labels) == 0:
        raise ValueError(
            f"logits must be floating point [N, C] and labels [N], N >= 1, but they are {logits.dtype} "
            f"{list(logits.shape)} and {list(labels.shape)}"
        )
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be integer class indices, but their dtype is {labels.dtype}")
    if bool(((labels < 0) | (labels >= logits.shape[1])).any()):
        raise ValueError(
            f"labels must be in 0..{logits.shape[1] - 1}, but they are in {int(labels.min())}..{int(labels.max())}"
        )
    if broken := int((~logits.isfinite()).any(1).sum()):
        raise ValueError(f"{broken} of {len(logits)} rows of logits hold NaN or infinity: no temperature can be fitted")

"""How sure an answer is, as log odds: what answers are ranked by and thresholds are compared with.

The confidence p of an answer and its log odds log(p / (1 - p)) put answers in the same order. But p is exactly 1 in
float32 from log odds of about 17 on, and a network that was trained for long is that sure of many images: from there
on only the log odds tell one answer from another.
"""

import torch
from torch import Tensor

from kedge.rejection import CERTAIN


def log_odds(logits: Tensor) -> Tensor:
    """Log odds of the most probable class: max z - logsumexp(other z), `[...]` from logits z `[..., C]`.

    In float32 or better whatever the dtype of the logits; from -log(C - 1) to 1e38, which stands for an answer without
    an alternative (one class, or all others at minus infinity). NaN where the softmax is NaN: a logit that is NaN or
    plus infinity, or all at minus infinity. Raises ValueError unless logits are floating point with C >= 1.
    """
    if logits.ndim == 0 or logits.shape[-1] == 0 or not logits.is_floating_point():
        raise ValueError(
            f"logits must be floating point [..., C] with C >= 1, but they are {logits.dtype} {list(logits.shape)}"
        )
    logits = _precise(logits)
    top, label = logits.max(-1, keepdim=True)
    others = (logits - top).scatter(-1, label, -torch.inf).logsumexp(-1)
    # Nothing for a number; NaN where the largest logit is infinite, which the difference would not always show.
    return (-others + (top - top)[..., 0]).clamp(max=CERTAIN)


def log_odds_of_references(per_reference: Tensor) -> Tensor:
    """Log odds of the most probable class by the mean over references of the *probabilities*: `[B]` from `[K, B, C]`.

    For those who average probabilities rather than logits, which is what `Prediction.confidence` is of. Computed from
    the logarithms of p and of 1 - p of each reference, so that it does not saturate where every reference is sure.
    Range, NaN and errors as of `log_odds`, and ValueError for fewer than two dimensions or no reference.
    """
    if per_reference.ndim < 2 or len(per_reference) == 0:
        raise ValueError(
            f"per_reference must be logits [K, B, C] of K >= 1 references, but its shape is {list(per_reference.shape)}"
        )
    log_probs = _precise(per_reference).log_softmax(-1)
    label = log_probs.logsumexp(0).argmax(-1, keepdim=True).expand(*log_probs.shape[:-1], 1)
    own = log_probs.gather(-1, label)[..., 0].logsumexp(0)
    others = log_probs.scatter(-1, label, -torch.inf).logsumexp(-1).logsumexp(0)
    return (own - others).clamp(max=CERTAIN)


def log_odds_of_probs(probs: Tensor) -> Tensor:
    """Log odds of the most probable class where there are only probabilities: `[...]` from `[..., C]` that sum to 1.

    The largest probability is set against the sum of the others, which tells apart what 1 - p no longer does; how far
    it reaches is up to whoever rounded the probabilities, and others that are all 0 read as 1e38. Raises ValueError for
    values outside [0, 1].
    """
    if bool(((probs < 0) | (probs > 1 + 1e-3)).any()):
        raise ValueError(
            f"probs must lie in [0, 1], but they are in {float(probs.min()):.4g}..{float(probs.max()):.4g}; "
            "for logits use log_odds(logits)"
        )
    return log_odds(_precise(probs).log())


def _precise(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))

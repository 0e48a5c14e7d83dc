"""What every metric asks of its input: probabilities are given as probabilities, never guessed from logits."""

import torch
from torch import Tensor


def check_shapes(probs: Tensor, labels: Tensor) -> None:
    """Raise ValueError unless `probs` is floating `[B, C]` and `labels` is integer `[B]`."""
    if probs.ndim != 2 or not probs.is_floating_point():
        raise ValueError(f"probs must be floating point [B, C], but they are {probs.dtype} {list(probs.shape)}")
    if labels.shape != probs.shape[:1]:
        raise ValueError(
            f"labels must be class indices of shape [{probs.shape[0]}], one per row of probs, "
            f"but their shape is {list(labels.shape)}"
        )
    if labels.is_floating_point() or labels.dtype == torch.bool:
        raise ValueError(f"labels must be integer class indices, but their dtype is {labels.dtype}")


def deviation(probs: Tensor, labels: Tensor) -> Tensor:
    """How far `probs` `[B, C]` are from probabilities with valid labels: 0 is perfect, NaN and inf are far.

    A scalar that stays on the device, so that a loop can collect it and look once at the end.
    """
    if probs.numel() == 0:
        return torch.zeros((), device=probs.device)
    probs = probs.detach()
    slack = 0.02 if probs.dtype in (torch.bfloat16, torch.float16) else 1e-3
    probs = probs.float()
    outside = torch.maximum(-probs.amin(), probs.amax() - 1).clamp(min=0) / 1e-3
    sums = (probs.sum(dim=1) - 1).abs().amax() / slack
    bad_label = ((labels < 0) | (labels >= probs.shape[1])).any().float() * 1e9
    return torch.maximum(torch.maximum(outside, sums), bad_label)


def check_deviation(worst: Tensor) -> None:
    """Raise ValueError when a `deviation` says that some batch did not hold probabilities or valid labels."""
    value = float(worst)
    if value >= 1e9:
        raise ValueError("a label is negative or not below the number of classes (the columns of probs)")
    if not value <= 1:
        raise ValueError(
            "probs must be probabilities: every value in [0, 1] and every row summing to 1. "
            "These are not (logits? NaN?): apply .softmax(dim=1) to logits first"
        )


def check_probs(probs: Tensor, labels: Tensor) -> None:
    """Raise ValueError unless `probs` `[B, C]` are probabilities and `labels` `[B]` class indices; B >= 1."""
    check_shapes(probs, labels)
    if probs.shape[0] == 0:
        raise ValueError("a metric of no samples is undefined: probs has 0 rows")
    check_deviation(deviation(probs, labels))

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


def check_top_k(top_k: int, classes: int | None = None) -> None:
    """Raise ValueError unless `top_k` is a whole number, 1 or more and at most `classes` if they are known."""
    if isinstance(top_k, bool) or not isinstance(top_k, int) or top_k < 1:
        raise ValueError(f"top_k must be a whole number, 1 or more, but it is {top_k!r}")
    if classes is not None and top_k > classes:
        raise ValueError(f"top_k must be between 1 and the number of classes {classes}, but it is {top_k}")


def check_scores(name: str, scores: Tensor) -> Tensor:
    """`scores` on the CPU, without gradients. Raises ValueError unless they are `[N]`, N >= 1, without NaN."""
    if scores.ndim != 1 or scores.numel() == 0:
        raise ValueError(f"{name} must be of shape [N], N >= 1, without NaN, but the shape is {list(scores.shape)}")
    if bool(scores.isnan().any()):
        raise ValueError(
            f"{int(scores.isnan().sum())} of {scores.numel()} {name} are NaN, and they must be without NaN"
        )
    return scores.detach().cpu()


def check_flags(name: str, flags: Tensor, scores: Tensor) -> Tensor:
    """`flags` on the CPU. Raises ValueError unless they are bool, one for each of `scores`."""
    if flags.shape != scores.shape or flags.dtype != torch.bool:
        raise ValueError(
            f"{name} must be bool of shape {list(scores.shape)}, one for each score, but it is "
            f"{flags.dtype} {list(flags.shape)}"
        )
    return flags.detach().cpu()


def check_confidence(confidence: Tensor, correct: Tensor, fewest: int = 1) -> None:
    """Raise ValueError unless `confidence` is `[N]` in [0, 1], N >= `fewest`, and `correct` is `[N]` bool or 0/1."""
    if confidence.ndim != 1 or confidence.shape != correct.shape or len(confidence) < fewest:
        raise ValueError(
            f"confidence and correct must be [N], N >= {fewest}, but they are {list(confidence.shape)} and "
            f"{list(correct.shape)}"
        )
    if not bool(((confidence >= 0) & (confidence <= 1)).all()):
        raise ValueError("confidence must be in [0, 1] without NaN: these are no probabilities")
    if correct.dtype != torch.bool and not bool(((correct == 0) | (correct == 1)).all()):
        raise ValueError("correct must be bool or 0/1, whether each answer was right: these look like class indices")


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

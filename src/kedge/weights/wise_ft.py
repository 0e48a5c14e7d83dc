"""What happens along the straight line between two models: the curve of WiSE-FT."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from torch import nn

from kedge.weights.batch_norm import Attack, reestimate_batch_norm, same_statistics
from kedge.weights.interpolate import checked_alpha, interpolate_models


def between(
    a: nn.Module,
    b: nn.Module,
    alpha: float,
    batches: Iterable[Any] | None = None,
    seed: int = 0,
    attack: Attack | None = None,
) -> Any:
    """The model at `alpha` between `a` and `b` in eval mode, its batch-norm statistics estimated on `batches`.

    The ends keep the statistics that they were trained with, and what lies between them too where both have the same:
    frozen ones belong to the images that a network was published with. Arguments as in `wise_ft_curve`.
    """
    model = interpolate_models(a, b, alpha)
    if batches is not None and 0 < alpha < 1 and not same_statistics(a, b):
        reestimate_batch_norm(model, batches, seed, attack)
    return model.eval()


def wise_ft_curve(
    a: nn.Module,
    b: nn.Module,
    alphas: Sequence[float],
    evaluate: Callable[[Any], Mapping[str, float]],
    batches: Iterable[Any] | None = None,
    seed: int = 0,
    attack: Attack | None = None,
) -> list[dict[str, float]]:
    """Evaluate the models on the straight line from `a` to `b` (Wortsman et al., arXiv 2109.01903).

    Choose alpha on images that no model was trained on and that none is to be judged by.

    Args:
        a: the model at alpha = 0, such as the one before fine-tuning; a kedge model, or any module.
        b: the model at alpha = 1. Neither is changed.
        alphas: where to look, each in [0, 1].
        evaluate: what to measure of a model in eval mode: `{"clean": 0.99, "pgd": 0.5}`.
        batches: training images for `reestimate_batch_norm` at each alpha between the ends, read once for each: a
            list or a DataLoader. None leaves the statistics interpolated like the weights. Not read where both have
            the same statistics, which are kept.
        seed: of the draws of references, dropout and the attack meanwhile.
        attack: that of the training, `(model, images, labels) -> images`, where `b` was trained on attacked images;
            batches are then (images, labels). Statistics of images as they are cost averages robustness that the end,
            which keeps its own, has: the curve would lean towards it.

    Returns:
        For each alpha, in the order given, `{"alpha": alpha, ...}` with what `evaluate` gave.

    Raises:
        ValueError: before anything is evaluated, for no alphas, one outside [0, 1], models that cannot be averaged
            and batches that can be read only once.
    """
    points = [checked_alpha(alpha) for alpha in alphas]
    if not points:
        raise ValueError("alphas is empty: give some numbers between 0 and 1")
    inside = [alpha for alpha in points if 0 < alpha < 1]
    if batches is not None and iter(batches) is batches and len(inside) > 1 and not same_statistics(a, b):
        raise ValueError("batches can be read only once, but is needed for each alpha: give a list or a DataLoader")
    rows = []
    for alpha in points:
        values = evaluate(between(a, b, alpha, batches, seed, attack))
        if "alpha" in values:
            raise ValueError('evaluate gives a value called "alpha", which is the name of where the model stands')
        rows.append({"alpha": alpha, **values})
    return rows

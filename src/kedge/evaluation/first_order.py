"""Accuracy against epsilon from one backward pass: what attacks would take if the model were linear there."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kedge.attacks._ball import NORMS
from kedge.attacks._losses import evaluated, image_gradient, judge
from kedge.binomial import exact_interval
from kedge.catalog import Info
from kedge.checks import class_indices
from kedge.evaluation.inputs import to_unit
from kedge.evaluation.sanity import SHARE, VANISHED
from kedge.metrics._results import Estimate

info = Info(
    "Intriguing Properties of Adversarial Examples", "Cubuk et al.", "arXiv", 2017, "https://arxiv.org/abs/1711.02846",
    "derived",
)  # fmt: skip
STEPS = 16  # points of a curve from 0 to twice the largest radius asked for


def first_order_radius(model: nn.Module, images: Tensor, labels: Tensor, norm: str = "linf") -> Tensor:
    """How far each image is from a wrong answer, were the model linear there: `[B]` float32 in pixel units.

    (z_y - z_j) / ‖∇ (z_y - z_j)‖, j the best other class and the norm the dual one: l1 for attacks in linf, l2 for l2.
    One forward and one backward pass. For a linear model of two classes it is exact: with probability
    P(|w·x + b| < eps ‖w‖₁) an image is broken within eps. It knows nothing of a class further away that a longer step
    reaches first, of how the gradient turns, and of the edge of the box [0, 1].

    Args:
        model: images in [0, 1] to logits `[B, C]`, C >= 2; of an anchored one the mean over its references
            (`kedge.evaluation.predictor`).
        images: `[B, C, H, W]` uint8, or floating point in [0, 1].
        labels: class indices `[B]`.
        norm: of the attacks, "linf" or "l2".

    Returns:
        -1 for images that are answered wrongly already; infinite where there is no gradient (largest entry below
        1e-12), of which nothing can be said.

    Raises:
        ValueError: for another norm, for one class, and for a model whose logits carry no gradient.
    """
    if norm not in NORMS:
        raise ValueError(f"norm must be one of {NORMS}, got {norm!r}")
    images = to_unit(images)
    labels = class_indices(labels).to(images.device)
    with torch.enable_grad(), evaluated(model):
        leaf = images.clone().requires_grad_()
        logits = model(leaf)
        if logits.ndim == 2 and logits.shape[1] < 2:
            raise ValueError("the distance to another class takes two classes, and the model has one")
        losses, right = judge(logits, labels, "margin")
        gradient = image_gradient(losses, leaf).flatten(1)
    size = gradient.abs().sum(1) if norm == "linf" else gradient.norm(dim=1)
    flat = ~(gradient.abs().amax(1) >= VANISHED)  # NaN is no direction either
    radius = (-losses.detach() / size.clamp(min=1e-30)).float().masked_fill(flat, torch.inf)
    return radius.masked_fill(~right, -1.0)


def first_order_curve(radii: Tensor, grid: Sequence[float], norm: str) -> dict[str, Any]:
    """The accuracy that is left at each eps, predicted from `first_order_radius` `[N]`, as JSON.

    "norm", "images", "points" (each "eps" and "accuracy", whose exact interval is of drawing other images, not of the
    prediction itself), "without_gradient" (how many images have none, which count as right at every eps), and a "note"
    where these are more than one in a hundred. The first point is clean.

    Raises:
        ValueError: without images, and for an eps below 0.
    """
    if len(radii) == 0:
        raise ValueError("a curve is of images, and there are none")
    if any(not eps >= 0 for eps in grid):
        raise ValueError(f"every eps is 0 or more, got {list(grid)}")
    flat = int(radii.isinf().sum())
    points = []
    for eps in sorted({0.0, *map(float, grid)}):
        left = int((radii >= eps).sum())
        accuracy = Estimate(left / len(radii), *exact_interval(left, len(radii)))
        points.append({"eps": eps, "accuracy": accuracy.to_json()})
    note = (
        f"{flat} of {len(radii)} images have no gradient: nothing is known of them, and they count as right everywhere"
        if flat > SHARE * len(radii)
        else ""
    )
    return {"norm": norm, "images": len(radii), "points": points, "without_gradient": flat, "note": note}


def radii_of(attacks: Sequence[Any], curve: Sequence[float]) -> tuple[str, list[float]] | None:
    """The norm of the first attack, and the radii to predict at: those of the attacks in it, and steps beyond them."""
    stated = [(a.norm, float(a.eps)) for a in attacks if getattr(a, "norm", None) in NORMS and getattr(a, "eps", None)]
    if not stated:
        return None
    norm = stated[0][0]
    asked = [eps for own, eps in stated if own == norm] + [float(eps) for eps in curve]
    most = max([2 * max(eps for own, eps in stated if own == norm), *asked])
    return norm, sorted({*asked, *(most * step / STEPS for step in range(1, STEPS + 1))})

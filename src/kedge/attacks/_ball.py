"""The ball of radius eps round an image, in the norm "linf" or "l2", cut to [0, 1]: starts, steps, projection."""

import torch
from torch import Tensor

from kedge.attacks._draws import Draws

NORMS = ("linf", "l2")


def wide(values: Tensor, like: Tensor) -> Tensor:
    """`[B]` as `[B, 1, ...]`, to go with images `[B, ...]`."""
    return values.view(-1, *[1] * (like.ndim - 1))


def length(differences: Tensor, norm: str) -> Tensor:
    """The norm `[B]` of differences `[B, ...]`, in float32 or better."""
    flat = differences.flatten(1)
    flat = flat.to(torch.promote_types(flat.dtype, torch.float32))
    return flat.abs().amax(1) if norm == "linf" else flat.square().sum(1).sqrt()


def distance(adversarial: Tensor, images: Tensor, norm: str = "linf") -> Tensor:
    """How far `adversarial` is from `images`, both `[B, ...]`: `[B]` in pixel units, float32 or better."""
    dtype = torch.promote_types(images.dtype, torch.float32)
    return length(adversarial.to(dtype) - images.to(dtype), norm)


def random_start(images: Tensor, eps: float, norm: str, draws: Draws) -> Tensor:
    """A point drawn uniformly from the ball round each of `images` `[B, ...]`, cut to [0, 1]."""
    if norm == "linf":
        return (images + (2 * draws.uniform(images) - 1) * eps).clamp(0, 1)
    direction = draws.normal(images)
    # The share of the volume within radius ρ is ρ^D.
    radius = eps * draws.uniform(images[:, :1].flatten(1)[:, :1])[:, 0] ** (1 / images[0].numel())
    return (images + direction * wide(radius / length(direction, norm), images)).clamp(0, 1)


def ascend(adversarial: Tensor, gradient: Tensor, size: float, norm: str) -> Tensor:
    """A step of length `size` in the direction of steepest ascent; none where the gradient is zero."""
    if norm == "linf":
        return adversarial + size * gradient.sign()
    # Divided by its largest entry first, the squares of a tiny gradient do not vanish.
    largest = wide(length(gradient, "linf"), gradient)
    gradient = gradient / torch.where(largest > 0, largest, 1)
    return adversarial + gradient * wide(size / length(gradient, norm).clamp_min(1), gradient)


def project(adversarial: Tensor, images: Tensor, eps: float, norm: str) -> Tensor:
    """The nearest point of the ball ("l2": on the ray from the image), then of [0, 1]."""
    if norm == "linf":
        inside = torch.maximum(torch.minimum(adversarial, images + eps), images - eps)
    else:
        away = adversarial - images
        inside = images + away * wide((eps / length(away, norm).clamp_min(1e-12)).clamp_max(1), images)
    # Images lie in [0, 1], so this never takes a pixel further away.
    return inside.clamp(0, 1)


def rounded(adversarial: Tensor, images: Tensor) -> Tensor:
    """`adversarial` in the dtype of `images`, rounded towards `images` so that half precision stays in the ball.

    Both lie in [0, 1]; the spacing of bfloat16 below 1 is 1/256, half of a common eps.
    """
    cast = adversarial.to(images.dtype)
    if cast.dtype == adversarial.dtype:
        return cast
    exact, centre = cast.to(adversarial.dtype), images.to(adversarial.dtype)
    beyond = (exact - centre).abs() > (adversarial - centre).abs()
    # The bits of floats that are not negative are in the order of the floats: one more bit is the next number.
    nearer = (cast.view(torch.int16) + (centre - exact).sign().to(torch.int16)).view(cast.dtype)
    return torch.where(beyond, nearer, cast)

"""One step along the gradient of the loss."""

from typing import Any

from kedge.attacks.pgd import PGD
from kedge.catalog import Info

info = Info(
    "Explaining and Harnessing Adversarial Examples", "Goodfellow et al.", "ICLR", 2015,
    "https://arxiv.org/abs/1412.6572", "derived",
)  # fmt: skip
place = 2


def FGSM(
    eps: float,
    norm: str = "linf",
    random_start: bool = False,
    loss: str = "ce",
    seed: int | None = 0,
    variant: str = "plain",
) -> PGD:
    """One step of length eps along the gradient (its sign, in "linf"): Goodfellow et al., ICLR 2015.

    Weak, and fooled by gradients that point nowhere: for training and for comparison with `PGD`.

    Args:
        eps, norm, random_start, loss, seed: as of `PGD`.
        variant: "plain"; "rs": from a random point of the ball, a step of 1.25 eps, cut off at eps (Wong, Rice and
            Kolter, ICLR 2020); "n": from noise of twice the radius, a step of eps, and nothing cut off, so that images
            lie up to 3 eps away (de Jorge et al., "Make Some Noise", NeurIPS 2022): for training only.

    Raises:
        ValueError: for values out of range, or an unknown variant.
    """
    known: dict[str, dict[str, Any]] = {
        "plain": {"step_size": eps, "random_start": random_start},
        "rs": {"step_size": 1.25 * eps},
        "n": {"step_size": eps, "start": 2.0, "clip": False},
    }
    if variant not in known:
        raise ValueError(f"variant must be one of {tuple(known)}, got {variant!r}")
    return PGD(eps, 1, norm=norm, loss=loss, keep="last", seed=seed, **known[variant])

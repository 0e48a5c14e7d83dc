"""What a run costs, in forward and backward passes of the network for one image."""

from dataclasses import dataclass

from torch import nn

from kedge.objectives import Objective, set_progress

__all__ = ["Cost", "cost_of"]

# Adversarial training from scratch is published with 76 (Zhang et al. 2019) to 200 epochs (Rice et al. 2020).
FROM_SCRATCH = 100


@dataclass(frozen=True)
class Cost:
    """Forward and backward passes, each of one image.

    Attributes:
        passes: of this run.
        earlier: of training the model that it starts from; None if that is not on record, 0 without one.
        from_scratch: of 100 epochs with the same objective and no model to start from.
    """

    passes: float
    earlier: float | None
    from_scratch: float

    def __str__(self) -> str:
        said = f"cost: {_count(self.passes)} passes forward and backward of an image"
        before = self.earlier
        if before:
            said += f", after {_count(before)} for the model it starts from"
        ratio = self.from_scratch / (self.passes + (before or 0))
        unknown = ", what it starts from not counted" if before is None else ""
        return (
            f"{said}\n      {FROM_SCRATCH} epochs of the same from scratch, as is usual: {_count(self.from_scratch)}, "
            f"{ratio:.1f} times as many{unknown}"
        )


def cost_of(
    objective: nn.Module, epochs: int, images: int, batch: int, earlier: float | None, of_step: int = 1
) -> Cost:
    """The cost of `epochs` over `images` training images in batches of `batch`, computed `of_step` times in a step."""
    steps = epochs * -(-images // batch)

    def passes(share: float) -> float:
        set_progress(objective, share)
        return of_step * (objective.passes if isinstance(objective, Objective) else 1.0)

    mean = sum(passes(step / steps) for step in range(steps)) / steps
    return Cost(mean * images * epochs, earlier, passes(1.0) * images * FROM_SCRATCH)


def _count(passes: float) -> str:
    return f"{passes / 1e6:,.3g} million" if passes >= 1e6 else f"{passes:,.0f}"

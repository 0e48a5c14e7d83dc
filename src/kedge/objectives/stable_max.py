"""StableMax in place of softmax: logits mapped by sign(z) log(1 + |z|), so that a loss does not round to zero."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kedge.objectives._base import check_targets
from kedge.objectives._nesting import Wrapper
from kedge.objectives._views import View, bare
from kedge.postprocess.stable_max import StableMax as Step
from kedge.postprocess.stable_max import info as info

NAME = "stable_max"


class StableMax(Wrapper):
    """inner(x, y) of the logits sign(z) log(1 + |z|): cross-entropy of s(z_c) / Σ_j s(z_j) in place of softmax.

    s(z) = z + 1 for z of 0 or more and 1 / (1 - z) below, with slope 1 at 0 from both sides: it grows like z and not
    like e^z. Without weight decay logits grow until float32 has Σ_c exp(z_c - max z) = 1; then the loss is 0 and so is
    its gradient (softmax collapse). Adding a constant to all z changes the probabilities, as it does not with softmax.

    What is trained so predicts so: when training starts a model of kedge gets the step `stable_max`
    (`kedge.postprocess`), which prediction, folding and export apply and which is saved with it. Of a module of another
    kind apply `kedge.postprocess.StableMax(None)` to the logits yourself. An attack inside or outside sees the mapped
    logits. What reads logits itself, such as `Distill` or `TRADES`, belongs inside.

    A run that goes on from such a model (`init_from`, `fit(start=...)`) goes on through the map; an objective without
    it is refused there, as training would start from other confidences than the model has. A model that was trained
    without the map gets it when a run with this objective starts from it: its labels stay, its confidences change.

    `logged["collapsed"]` is the share of images whose cross-entropy is exactly 0, for the targets that it is called
    with. Source: Prieto, Barsbey, Mediano and Birdal, "Grokking at the Edge of Numerical Stability", ICLR 2025, arXiv
    2501.04697; the authors' code computes s in float64, here the map has the precision of the loss, float32 or better.

    Args:
        inner: the loss, of class indices or soft targets.

    Raises:
        ValueError: for an inner objective for regression, or one that takes its logits from layers inside the model,
            such as `DivDis` or `DiverseExperts`, which would not be trained through the map.
    """

    classifies = True
    maps_logits = True

    def prepare(self, model: nn.Module) -> None:
        """Let the model predict as it is trained, where it is one of kedge."""
        core = bare(model)
        if NAME not in getattr(core, "steps", (NAME,)):
            core.set_step(NAME, None)  # type: ignore[operator]

    def forward(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The inner loss of the model with mapped logits."""
        self.prepare(model)  # of a loop that does not
        mapped = Mapped(model)
        loss: Tensor = self.inner(mapped, images, targets)
        if mapped.logits is not None and len(mapped.logits) == len(targets):
            losses = F.cross_entropy(mapped.logits, check_targets(targets, mapped.logits), reduction="none")
            self.logged["collapsed"] = (losses == 0).float().mean()
        return loss


class Mapped(View):
    """A view of a model with the map after its logits, those of the last call in train mode in `logits`, detached."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(model)
        self.logits: Tensor | None = None

    @property
    def module(self) -> nn.Module:
        """The model, as data-parallel wrappers call it: `Anchored` may be inside of this view or outside."""
        return self.model

    def forward(self, images: Tensor, **bound: Tensor | None) -> Tensor:
        """Mapped logits `[B, C]`, float32 or better."""
        logits = super().forward(images, **bound)
        core = bare(self)
        if not core.training and NAME in getattr(core, "steps", ()):
            return logits  # in eval mode the model has mapped them itself
        logits = Step(None)(logits.to(torch.promote_types(logits.dtype, torch.float32)))
        self.logits = logits.detach() if self.training else self.logits
        return logits

    def around(self, other: nn.Module) -> nn.Module:
        """`other` with the map."""
        return Mapped(super().around(other))

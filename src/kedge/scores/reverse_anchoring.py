"""How well labelled training images are classified with the image as their reference."""

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor

from kedge.catalog import Info
from kedge.scores._base import Outputs, Score, outputs_of

info = Info(
    "PAGER: Accurate Failure Characterization in Deep Regression Models", "Thiagarajan et al.", "ICML", 2024,
    "https://arxiv.org/abs/2309.10977", "abstract",
)  # fmt: skip
ANCHORS = 16  # labelled training images that `kedge evaluate` asks about


class ReverseAnchoring(Score):
    """Mean over K labelled training images (r, y) of log p_y of [x, r - x], at most 0: x is their reference.

    Trained with references that are training images, a network knows how to read a residual from one; from an image
    unlike those it reads labelled images worse than it should. PAGER's reverse anchoring is of regressors, the largest
    error |y - f([x, r - x])| over training pairs; -log p_y in its place is our reading for classifiers, `over="worst"`
    its maximum. Nothing of the answer to x itself is in it. K passes for each image; so it is no part of "all".

    Args:
        over: "mean" over the labelled images, or the "worst" of them, as in the paper.
        anchors: labelled training images `[K, C, H, W]` in [0, 1] and their labels `[K]`, for calling the score on a
            model; not needed for `score`, whose outputs hold what came of them.
    """

    place = 11
    title = "reverse anchoring"
    needs = ("reverse",)
    fits = True
    on_request = True

    def __init__(self, over: Literal["mean", "worst"] = "mean", anchors: tuple[Tensor, Tensor] | None = None) -> None:
        if over not in ("mean", "worst"):
            raise ValueError(f"over is mean or worst, got {over!r}")
        self.over, self.anchors = over, anchors

    def __call__(self, model: Callable[[Tensor], Any], images: Tensor, references: Any = None) -> Tensor:
        """`[B]` scores of `images` `[B, C, H, W]` in [0, 1]. Raises ValueError without labelled images."""
        if self.anchors is None:
            raise ValueError(
                f"{self.name} asks about labelled training images: ReverseAnchoring(anchors=(images, labels))"
            )
        return self.score(outputs_of(model, images, references, reverse=self.anchors))

    def learns_from(self, images: int) -> int:
        """So many of the training images are the labelled ones."""
        return min(images, ANCHORS)

    def score(self, outputs: Outputs) -> Tensor:
        """`[B]`, at most 0. Raises ValueError for outputs without the passes with labelled images."""
        losses: Tensor = self._take(outputs, "reverse").float()
        return -(losses.mean(dim=1) if self.over == "mean" else losses.amax(dim=1))

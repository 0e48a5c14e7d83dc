"""Online anchors: squared error to one-hot targets over the mean prediction, about C - 1 and -1."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kedge.catalog import Info
from kedge.objectives._base import check_share, check_targets, soft_targets
from kedge.objectives._views import stated_outputs
from kedge.objectives._weights import ClassWeighted

info = Info(
    "Online Anchor-based Training for Image Classification Tasks", "Tzelepi and Mezaris", "ICIP", 2024,
    "https://arxiv.org/abs/2406.12662", "code",
)  # fmt: skip
CENTRES = ("probabilities", "outputs")


class OAT(ClassWeighted):
    """1/C Σ_c (z_c - t_c)² with t = y / a - 1, the mean over the images: z the outputs, y the target, a the anchor.

    The anchor of a batch is softmax(mean_i softmax(z_i)), each a_c between 1 / (1 + (C - 1)e) and e / (e + C - 1); in
    training it stays within a few percent of 1/C. So this is scaled one-hot squared error: targets C - 1 for the true
    class and -1 for the others. `momentum` 1 is exactly that, and in our runs within a point of it.

    Our reading: the anchor is a running one, a <- m a + (1 - m) a_batch from 1/C, without a gradient; `momentum` 0 is
    that of the batch, as in the paper. The answer is argmax z. The paper decodes with the anchor of the batch that is
    predicted, argmax a (z + 1), which tells the labels of a batch that is sorted by class: that is not done here.

    Outputs are trained to C - 1 and -1, and their softmax is no probability: a recipe with this objective sets
    `temperature`. Source: Tzelepi and Mezaris, "Online Anchor-based Training for Image Classification Tasks", ICIP
    2024, arXiv 2406.12662; formula as in the authors' code, which lets gradients through the anchor.

    Args:
        momentum: m, 0 to 1.
        centre: what the anchor is the softmax of: the mean of "probabilities" (the authors' code), or of "outputs" (the
            batch centre that they describe).
        class_weights: `[C]`, 0 or more, or None; an image of target t counts Σ_c w_c t_c, as in `CrossEntropy`.
        labels: those of the training images `[N]`; with them weights are ratios, brought to a mean of 1 over these.

    Attributes:
        anchor: `[C]`, sums to 1; kept in checkpoints of the run.

    Raises:
        ValueError: for values out of range; for weights that `CrossEntropy` does not take either.
    """

    needs_temperature = True
    in_repr = ("momentum", "centre")
    anchor: Tensor

    def __init__(
        self,
        momentum: float = 0.9,
        centre: str = "probabilities",
        class_weights: Tensor | Sequence[float] | None = None,
        labels: Tensor | None = None,
    ) -> None:
        super().__init__(class_weights, labels)
        check_share("momentum", momentum, "a share of the anchor that stays")
        if centre not in CENTRES:
            raise ValueError(f"centre must be one of {', '.join(CENTRES)}, got {centre!r}")
        self.momentum = momentum
        self.centre = centre
        self.register_buffer("anchor", torch.zeros(0))

    def prepare(self, model: nn.Module) -> None:
        """Start the anchor at 1/C, before a checkpoint is read."""
        if (classes := stated_outputs(model)) is not None:
            self._start(classes, self.anchor.device)

    def forward(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The mean squared error, after the anchor has moved."""
        outputs = model(images)
        targets = check_targets(targets, outputs)
        outputs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        classes = outputs.shape[1]
        if len(self.anchor) != classes:
            self._start(classes, outputs.device)
        centre = outputs.detach().softmax(1) if self.centre == "probabilities" else outputs.detach()
        moved = self.anchor.to(outputs) * self.momentum + centre.mean(0).softmax(0) * (1 - self.momentum)
        if self.training:
            self.anchor.copy_(moved)  # in place: a step of two passes puts it back in between
        losses = (outputs - (soft_targets(targets, classes) / moved - 1)).square().mean(1)
        return self.weighted_mean(losses, model, targets, classes)

    def _start(self, classes: int, device: torch.device) -> None:
        self.anchor = torch.full((classes,), 1 / classes, device=device)

"""Cross-entropy of the logits with labels or soft targets, with label smoothing and class weights."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from kedge.catalog import Info
from kedge.objectives._base import check_targets
from kedge.objectives._weights import ClassWeighted

info = Info("Cross-entropy", checked="code")


class CrossEntropy(ClassWeighted):
    """Cross-entropy of the logits with class indices `[B]` or probabilities `[B, C]`, the mean over the images.

    With class weights w it is 1/B Σ_i v_i ℓ_i, where image i of target t counts v_i = Σ_c w_c t_c, and 1 if masking
    took its target away (see `image_weights`). Its mean over batches is the weighted risk E[w_y ℓ] whatever the size
    of a batch and the number of processes. Dividing by Σ_i v_i, as `torch.nn.functional.cross_entropy(weight=...)`
    does, gives that only for batches that hold the classes in the shares of the whole set; where a class is rarer than
    one image in a batch, most of its weight is divided away again (of a batch of one, all), and masked images would
    count for more or less by the labels beside them.

    So weights have a size: 1 is the weight of an image of the unweighted loss and of a masked one, and the rate of
    learning stays what it was with weights whose mean over the training images is 1, as N / (C n_c) of the n_c of N
    images in each of C classes. Others are brought to it by w / w[labels].mean().

    Args:
        label_smoothing: share ε of the target that is spread evenly: (1 - ε) t + ε / C; it does not change v.
        class_weights: `[C]`, 0 or more, or None.
        labels: those of the training images `[N]`; with them weights are ratios, brought to a mean of 1 over these
            images. None: weights are taken as they are.

    Raises:
        ValueError: for label_smoothing out of range; for weights that are negative, not finite, or all below or all
            above 1, whose mean over no set of images is 1; with labels for fewer weights than classes; when called,
            for another number of them than of outputs.
    """

    def __init__(
        self,
        label_smoothing: float = 0.0,
        class_weights: Tensor | Sequence[float] | None = None,
        labels: Tensor | None = None,
    ) -> None:
        super().__init__(class_weights, labels)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be in [0, 1), got {label_smoothing}")
        self.label_smoothing = label_smoothing

    def extra_repr(self) -> str:
        """What `repr` shows."""
        return f"label_smoothing={self.label_smoothing}, weighted={self.class_weights is not None}"

    def forward(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The mean cross-entropy."""
        return self._logits_and_loss(model, images, targets)[1]

    def losses(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The loss of each image `[B]`, weighed by its class; their mean is the loss of the batch."""
        logits = model(images)
        targets = check_targets(targets, logits)
        losses = F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing, reduction="none")
        return losses if self.class_weights is None else self.weighed(losses, model, targets, logits.shape[1])

    def _logits_and_loss(self, model: nn.Module, images: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        logits = model(images)
        targets = check_targets(targets, logits)
        if self.class_weights is None:
            return logits, F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing)
        losses = F.cross_entropy(logits, targets, label_smoothing=self.label_smoothing, reduction="none")
        return logits, self.weighted_mean(losses, model, targets, logits.shape[1])

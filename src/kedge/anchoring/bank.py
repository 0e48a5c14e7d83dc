"""What `predict` computes, as a module with gradients: the model that an attack on predictions must face."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from kedge.anchoring.budget import budget_of
from kedge.anchoring.referenced import ReferencedModel
from kedge.anchoring.stem import at_least_float32


class Bank(nn.Module):
    """The logits of `model.predict(images, references)`, differentiable with respect to the images.

    In eval mode an anchored model called as a function uses the first reference of its bank; predictions are the mean
    over the bank. An attack on the function leaves a prediction half untouched and overstates its robustness; attack
    this instead. The stored references are fixed, so nothing here is random.

    Args:
        model: the anchored model; not copied.
        references: as in `predict`: how many of the bank (None: all), or images `[K, C, H, W]` in [0, 1].
        max_rows: the memory budget, in images whose activations are kept at a time; default the larger of B and 32.
            More than that are computed again on the way back, which costs a third more time.
        prepare: what is done to the images first, such as a change of size; differentiable.

    Raises:
        TypeError: for a model that is not anchored, and references that are neither a number nor images.
        ValueError: for more references than the bank holds, or "blt" or "adaptive", whose choice of references has no
            gradient.
    """

    images: Tensor | None

    def __init__(
        self,
        model: ReferencedModel,
        references: int | Tensor | None = None,
        *,
        max_rows: int | None = None,
        prepare: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(model, ReferencedModel):
            raise TypeError(f"Bank needs an anchored model, got {type(model).__name__}, which can be attacked as it is")
        if isinstance(references, str):
            raise ValueError(
                f"references={references!r} chooses references for each input, which has no gradient; attack the "
                "mean over the bank (references=None) and judge on that"
            )
        if max_rows is not None and max_rows < 1:
            raise ValueError(f"max_rows must be at least 1, got {max_rows}")
        self.model = model
        chosen = model._bank(references)
        self.count = references if isinstance(references, int) else None
        self.max_rows = max_rows
        self.prepare = prepare
        self.register_buffer("images", chosen if isinstance(references, Tensor) else None, persistent=False)
        self.training = model.training

    @property
    def references(self) -> Tensor:
        """The references in use, `[K, C, H, W]` in [0, 1]."""
        return self.model.references[: self.count] if self.images is None else self.images

    @property
    def num_outputs(self) -> int:
        """The number of classes."""
        return self.model.num_outputs

    def budget(self, batch: int) -> int:
        """How many images' activations are kept at a time, for a batch of `batch` images."""
        return budget_of(batch, self.max_rows)

    def forward(self, images: Tensor, max_rows: int | None = None) -> Tensor:
        """Logits `[B, C]`, in float32 or better, of images `[B, C, H, W]` in [0, 1]: the mean over the references.

        `max_rows` is another budget for this call.
        """
        images = images if self.prepare is None else self.prepare(images)
        if not torch.is_grad_enabled() or len(images) == 0:
            references = self.count if self.images is None else self.images
            return self.model.predict(images, references, max_rows=self.max_rows, check=False).logits
        bank = self.references
        budget = self.budget(len(images)) if max_rows is None else max_rows
        keep = len(images) * len(bank) <= budget
        parts = images.split(budget)
        mean = torch.cat([self._mean(part, bank, max(budget // len(part), 1), keep) for part in parts])
        return self.model._stepped(mean)  # of the mean, as in `predict`

    def single(self, images: Tensor, index: Tensor) -> Tensor:
        """Logits `[B, C]` with one reference for each image: `index` `[B]` says which."""
        images = images if self.prepare is None else self.prepare(images)
        return self.model(images, references=self.references[index.to(self.references.device)])

    def _mean(self, images: Tensor, references: Tensor, at_a_time: int, keep: bool) -> Tensor:
        """The mean over the references, `at_a_time` of them side by side; their activations kept, or made again."""
        total: Tensor | None = None
        for part in references.split(at_a_time):
            if keep:
                summed = self._sum(images, part)
            else:
                summed = checkpoint(self._sum, images, part, use_reentrant=False, preserve_rng_state=False)
            total = summed if total is None else total + summed
        assert total is not None
        return total / len(references)

    def _sum(self, images: Tensor, references: Tensor) -> Tensor:
        """The sum over some references of the logits, in float32 or better."""
        k, b = len(references), len(images)
        if k > 1:
            images = images.expand(k, *images.shape).flatten(0, 1)
            references = references.repeat_interleave(b, 0)
        logits = self.model.network_logits(images, references)
        return logits.to(at_least_float32(logits)).unflatten(0, (k, b)).sum(0)

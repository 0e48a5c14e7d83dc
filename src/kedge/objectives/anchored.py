"""Anchored training with reference masking."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from kedge.anchoring import AnchoredModel, derangement
from kedge.anchoring.references import stack_images
from kedge.checks import unit_images
from kedge.objectives.basic import Objective, num_outputs, soft_targets, unwrapped

# Masking hurts with reference sets up to this size (arXiv 2406.00529, the authors' own curve).
SMALL_REFERENCE_SET = 50


class Anchored(Objective):
    """Draw a reference for every image, hide some of them, and hand the anchored model on to `inner`.

    With probability α the reference slot is zero while the residual keeps the true reference, [0, x - r]; the target
    is then the uniform distribution, so that the network cannot do without its reference. Source: "On the Use of
    Anchoring for Training Vision Models", arXiv 2406.00529, section 4.

    Args:
        inner: the objective that gets the model with references and mask bound, and the targets.
        alpha: the probability of masking; 0 is plain anchoring. The authors use 0.25 on CIFAR and 0.2 on ImageNet.
        mask_target: "uniform" (the paper), or "label": keep the true target (the authors' released code).
        mask_per: "sample" draws for each image; "batch" for the whole batch at once (the paper), which ruins the
            running statistics of batch normalisation with the uniform target.
        reference_set: where references come from: an indexable data set of (image, label), or a tensor
            `[N, C, H, W]`, uint8 or floating point in [0, 1]; un-augmented. None: the batch itself, each image getting
            another one (a batch of one gets the first of the model's bank). Choose the model's own bank from the same
            set.
        augment_reference: `(references [B, C, H, W], generator) -> [B, C, H, W]`, applied to the reference slot
            only, [T(r), x - r], for a random half of the images; sharpens the out-of-distribution score of AMP
            (arXiv 2207.04125).
        generator: for every draw, on the CPU; None: torch's global one.

    Raises:
        ValueError: for values out of range, images of the reference set outside [0, 1], or an inner objective that
            cannot take a uniform target, such as an attack that climbs the margin.
        TypeError: for a reference set of other integers than uint8; when called with a model that is not anchored.
    """

    reference_images: Tensor | None

    def __init__(
        self,
        inner: Objective,
        alpha: float = 0.25,
        mask_target: str = "uniform",
        mask_per: str = "sample",
        reference_set: Any = None,
        augment_reference: Callable[[Tensor, torch.Generator | None], Tensor] | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not 0 <= alpha <= 1:
            raise ValueError(f"alpha is a probability, got {alpha}")
        if mask_target not in ("uniform", "label"):
            raise ValueError(f'mask_target must be "uniform" or "label", got {mask_target!r}')
        if mask_per not in ("sample", "batch"):
            raise ValueError(f'mask_per must be "sample" or "batch", got {mask_per!r}')
        kind = getattr(inner, "targets_kind", "soft")
        if alpha > 0 and mask_target == "uniform" and kind != "soft":
            takes = "class indices" if kind == "indices" else "regression values"
            raise ValueError(
                f"{type(inner).__name__} takes {takes}, not the uniform distribution that masked images are trained "
                'to; use alpha=0 (plain anchoring) or mask_target="label"'
            )
        mixing = [m for m in _nested(inner) if getattr(m, "mixes_targets", False)]
        if alpha > 0 and mask_target == "uniform" and mixing:
            name = type(mixing[0]).__name__
            raise ValueError(
                f"{name} inside Anchored would mix the uniform target of masked images into others; put it outside: "
                f"{name}(Anchored(...)), which draws references from the mixed images"
            )
        if alpha > 0 and mask_target == "uniform" and any(_needs_labels(m) for m in _nested(inner)):
            raise ValueError(
                "an attack with loss='margin' inside Anchored leads away from the label, and masked images have none; "
                "use loss='ce', alpha=0 (plain anchoring) or mask_target=\"label\""
            )
        if reference_set is not None and len(reference_set) == 0:
            raise ValueError("the reference set is empty")
        if reference_set is not None and alpha > 0 and len(reference_set) <= SMALL_REFERENCE_SET:
            warnings.warn(
                f"masking with a reference set of {len(reference_set)} images: in the authors' experiments masking "
                f"hurts with {SMALL_REFERENCE_SET} or fewer; use more references or alpha=0",
                stacklevel=2,
            )
        self.inner = inner
        self.targets_kind = kind
        self.alpha = alpha
        self.mask_target = mask_target
        self.mask_per = mask_per
        self.augment_reference = augment_reference
        self.generator = generator
        images = reference_set if isinstance(reference_set, Tensor) else getattr(reference_set, "images", None)
        if isinstance(images, Tensor) and images.dtype != torch.uint8:
            images = unit_images(images, "the images of the reference set")
        self.register_buffer("reference_images", images if isinstance(images, Tensor) else None, persistent=False)
        self.reference_set = None if isinstance(images, Tensor) else reference_set

    def extra_repr(self) -> str:
        """What `repr` shows."""
        return f"alpha={self.alpha}, mask_target={self.mask_target!r}, mask_per={self.mask_per!r}"

    def forward(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The inner loss of the model with freshly drawn references and mask."""
        core = unwrapped(model)
        if not isinstance(core, AnchoredModel):
            raise TypeError(f"Anchored needs an anchored model, got {type(core).__name__}; make one with kedge.anchor")
        references = self._draw_references(core, images)
        mask = self._draw_mask(images)
        slot = self._draw_slot(references, images)
        unlabelled = mask if self.mask_target == "uniform" else None
        if unlabelled is not None:
            classes = num_outputs(core)
            targets = torch.where(unlabelled[:, None], 1 / classes, soft_targets(targets, classes))
        return self.inner(BoundReferences(model, references, mask, slot, unlabelled), images, targets)

    def _draw_references(self, model: AnchoredModel, images: Tensor) -> Tensor:
        n = len(images)
        if self.reference_images is not None:
            index = self._indices(len(self.reference_images), n).to(self.reference_images.device)
            return as_images(self.reference_images[index], images)
        if self.reference_set is not None:
            return stack_images(self.reference_set, self._indices(len(self.reference_set), n)).to(images)
        if n < 2:
            return model.references[:1].to(images)
        return images.detach()[derangement(n, self.generator, images.device)]

    def _indices(self, size: int, n: int) -> Tensor:
        return torch.randint(size, (n,), generator=self.generator)

    def _draw_mask(self, images: Tensor) -> Tensor | None:
        if self.alpha == 0:
            return None
        draws = torch.rand(len(images) if self.mask_per == "sample" else 1, generator=self.generator)
        return (draws < self.alpha).expand(len(images)).to(images.device)

    def _draw_slot(self, references: Tensor, images: Tensor) -> Tensor | None:
        if self.augment_reference is None:
            return None
        changed = torch.rand(len(images), generator=self.generator).to(images.device) < 0.5
        augmented = self.augment_reference(references, self.generator)
        return torch.where(changed.view(-1, *[1] * (images.ndim - 1)), augmented, references.expand_as(images))


class BoundReferences(nn.Module):
    """A view of an anchored model with references, mask and slot fixed, in train and in eval mode.

    `unlabelled` `[B]` bool says which images have the uniform target in place of their own; None: none.

    An inner objective sees an ordinary classifier; an attack inside it faces the references of the training step
    instead of fresh ones at each of its steps, which would be a randomised defence.
    """

    def __init__(
        self,
        model: nn.Module,
        references: Tensor,
        mask: Tensor | None,
        slot: Tensor | None,
        unlabelled: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.references = references
        self.mask = mask
        self.slot = slot
        self.unlabelled = unlabelled
        self.training = model.training

    @property
    def num_outputs(self) -> int:
        """The number of outputs of the model."""
        return num_outputs(self.model)

    def forward(self, images: Tensor) -> Tensor:
        """Logits `[B, C]` with the references bound; `images` must be the batch they were drawn for, in its order."""
        return self.model(images, references=self.references, mask=self.mask, slot=self.slot)


def _nested(inner: Any) -> list[Any]:
    """The objectives inside `inner`, itself first; a plain function is an objective too."""
    return list(inner.modules()) if isinstance(inner, nn.Module) else [inner]


def _needs_labels(objective: Any) -> bool:
    """Whether an attack inside climbs the margin of a label: of the uniform target it would be that of class 0."""
    return getattr(getattr(objective, "attack", None), "loss", None) == "margin"


def as_images(drawn: Tensor, like: Tensor) -> Tensor:
    """References as float images in [0, 1] on the device of the batch `like`; uint8 is scaled."""
    if drawn.dtype == torch.uint8:
        return drawn.to(like.device).to(like.dtype) / 255
    return drawn.to(like)

"""Anchored training with reference masking."""

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from kedge.anchoring import AnchoredModel, derangement
from kedge.anchoring.references import blurred, stack_images
from kedge.catalog import Info
from kedge.checks import unit_images
from kedge.objectives._base import Objective, check_share, soft_targets
from kedge.objectives._nesting import Wrapper, check_takes_uniform
from kedge.objectives._views import BoundReferences, num_outputs, unwrapped

info = Info(
    "On the Use of Anchoring for Training Vision Models", "Narayanaswamy et al.", "NeurIPS", 2024,
    "https://arxiv.org/abs/2406.00529", "code",
)  # fmt: skip

# Masking hurts with reference sets up to this size (arXiv 2406.00529, the authors' own curve).
SMALL_REFERENCE_SET = 50
MASK_TARGETS = ("uniform", "label", "share")


class Anchored(Wrapper):
    """Draw a reference for every image, hide some of them, and hand the anchored model on to `inner`.

    With probability α the reference slot is zero while the residual keeps the true reference, [0, x - r]; the target
    is then the uniform distribution, so that the network cannot do without its reference. Source: "On the Use of
    Anchoring for Training Vision Models", arXiv 2406.00529, section 4.

    Args:
        inner: the objective that gets the model with references and mask bound, and the targets.
        alpha: the probability of masking; 0 is plain anchoring. The authors use 0.25 on CIFAR and 0.2 on ImageNet.
        mask_target: "uniform" (the paper), or "label": keep the true target (the authors' released code), or "share":
            between them, s times the true target and 1 - s times the uniform one, where s = |x|² / (|x|² + |r|²) of
            the normalised image and its reference is the share that the image has in what is left, x - r.
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
        ramp: share of training, by `progress`, in which alpha rises linearly from 0 to its value; 0: whole from the
            start.
        partners: "any" image of the batch is a reference, or only one of an "other-class" where the batch has one.
        average: a reference is the mean of so many images.
        blur: side in pixels of a box, odd, over which references are averaged; 0: none. `prepare` does both to the
            bank of the model too, and takes out its residuals, which are of the bank as it was: a run draws new ones,
            in a loop of your own choose them after it.

    Raises:
        ValueError: for values out of range, images of the reference set outside [0, 1], or an inner objective that
            cannot take a uniform target, such as an attack that climbs the margin; when called, with `blur` for
            other than images `[B, C, H, W]`.
        TypeError: for a reference set of other integers than uint8; when called with a model that is not anchored.
    """

    in_repr = ("alpha", "mask_target", "mask_per")
    changes_images = True
    reference_images: Tensor | None

    def __init__(
        self,
        inner: Objective,
        alpha: float = 0.25,
        mask_target: str = "uniform",
        mask_per: str = "sample",
        reference_set: Dataset | Tensor | None = None,
        augment_reference: Callable[[Tensor, torch.Generator | None], Tensor] | None = None,
        generator: torch.Generator | None = None,
        ramp: float = 0.0,
        partners: str = "any",
        average: int = 1,
        blur: int = 0,
    ) -> None:
        super().__init__(inner)
        check_share("alpha", alpha, "a probability")
        check_share("ramp", ramp, "a share of training")
        if mask_target not in MASK_TARGETS:
            raise ValueError(f"mask_target must be one of {', '.join(MASK_TARGETS)}, got {mask_target!r}")
        if mask_per not in ("sample", "batch"):
            raise ValueError(f'mask_per must be "sample" or "batch", got {mask_per!r}')
        if alpha > 0 and mask_target != "label":
            check_takes_uniform(inner, "Anchored", "masked", 'alpha=0 (plain anchoring) or mask_target="label"')
        if partners not in ("any", "other-class"):
            raise ValueError(f'partners must be "any" or "other-class", got {partners!r}')
        if partners == "other-class" and reference_set is not None:
            raise ValueError('partners="other-class" is of the batch, and there is a reference_set: leave one out')
        if partners == "other-class" and self.targets_kind == "values":
            raise ValueError('partners="other-class" needs classes, and the targets are regression values')
        if average < 1:
            raise ValueError(f"average is a number of images, 1 or more, got {average}")
        if blur < 0 or (blur and blur % 2 == 0):
            raise ValueError(f"blur is 0 or an odd number of pixels, got {blur}")
        count = None if reference_set is None else len(reference_set)  # type: ignore[arg-type]
        if count == 0:
            raise ValueError("the reference set is empty")
        if count is not None and alpha > 0 and count <= SMALL_REFERENCE_SET:
            warnings.warn(
                f"masking with a reference set of {count} images: in the authors' experiments masking "
                f"hurts with {SMALL_REFERENCE_SET} or fewer; use more references or alpha=0",
                stacklevel=2,
            )
        self.alpha = alpha
        self.mask_target = mask_target
        self.mask_per = mask_per
        self.augment_reference = augment_reference
        self.generator = generator
        self.ramp = ramp
        self.partners = partners
        self.average = average
        self.blur = blur
        images = reference_set if isinstance(reference_set, Tensor) else getattr(reference_set, "images", None)
        if isinstance(images, Tensor) and images.dtype != torch.uint8:
            images = unit_images(images, "the images of the reference set")
        self.register_buffer("reference_images", images if isinstance(images, Tensor) else None, persistent=False)
        self.reference_set: Any = None if isinstance(images, Tensor) else reference_set

    @property
    def share(self) -> float:
        """The probability of masking in force, by `progress`."""
        return self.alpha if self.ramp == 0 else self.alpha * min(1.0, self.progress / self.ramp)

    def prepare(self, model: nn.Module) -> None:
        """Average and blur the bank of the model as references are in training, once."""
        core = unwrapped(model)
        if isinstance(core, AnchoredModel):
            core.prepare_bank(self.average, self.blur)

    def forward(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The inner loss of the model with freshly drawn references and mask."""
        core = unwrapped(model)
        if not isinstance(core, AnchoredModel):
            raise TypeError(f"Anchored needs an anchored model, got {type(core).__name__}; make one with kedge.anchor")
        references = blurred(self._draw_references(core, images, targets), self.blur)
        mask = self._draw_mask(images)
        slot = self._draw_slot(references, images)
        if mask is not None and self.mask_target != "label":
            classes = num_outputs(core)
            own = soft_targets(targets, classes)
            share = 0.0 if self.mask_target == "uniform" else _share(core, images, references)[:, None]
            targets = torch.where(mask[:, None], share * own + (1 - share) / classes, own)
        unlabelled = mask if self.mask_target == "uniform" else None
        return self.inner(BoundReferences(model, references, mask, slot, unlabelled), images, targets)

    def _draw_references(self, model: AnchoredModel, images: Tensor, targets: Tensor) -> Tensor:
        n, m = len(images), self.average
        if self.reference_images is not None:
            index = self._indices(len(self.reference_images), m * n).to(self.reference_images.device)
            return _mean(as_images(self.reference_images[index], images), m)
        if self.reference_set is not None:
            return _mean(stack_images(self.reference_set, self._indices(len(self.reference_set), m * n)).to(images), m)
        if n < 2:
            return model.references[:1].to(images)
        if self.partners == "other-class":
            drawn = torch.cat([_of_other_classes(targets, self.generator) for _ in range(m)])
        else:
            drawn = torch.cat([derangement(n, self.generator, images.device) for _ in range(m)])
        return _mean(images.detach()[drawn], m)

    def _indices(self, size: int, n: int) -> Tensor:
        return torch.randint(size, (n,), generator=self.generator)

    def _draw_mask(self, images: Tensor) -> Tensor | None:
        if self.alpha == 0:
            return None
        draws = torch.rand(len(images) if self.mask_per == "sample" else 1, generator=self.generator)
        return (draws < self.share).expand(len(images)).to(images.device)

    def _draw_slot(self, references: Tensor, images: Tensor) -> Tensor | None:
        if self.augment_reference is None:
            return None
        changed = torch.rand(len(images), generator=self.generator).to(images.device) < 0.5
        augmented = self.augment_reference(references, self.generator)
        return torch.where(changed.view(-1, *[1] * (images.ndim - 1)), augmented, references.expand_as(images))


def _mean(drawn: Tensor, m: int) -> Tensor:
    """Means of m images each, `[m * n, ...]` to `[n, ...]`."""
    return drawn if m == 1 else drawn.unflatten(0, (m, -1)).mean(0)


def _of_other_classes(targets: Tensor, generator: torch.Generator | None) -> Tensor:
    """For each of n images another one `[n]` of another class, of its own where the batch has no other; n >= 2."""
    labels = targets.argmax(1) if targets.ndim == 2 else targets
    draws = torch.rand(len(labels), len(labels), generator=generator).to(labels.device)
    return (draws + (labels[:, None] != labels)).fill_diagonal_(-1).argmax(1)


def _share(model: AnchoredModel, images: Tensor, references: Tensor) -> Tensor:
    """The share `[B]` that images have in the energy of x - r, after normalisation."""
    x, r = (model.normalise(each).flatten(1).float().square().sum(1) for each in (images, references))
    return x / (x + r).clamp_min(torch.finfo(torch.float32).tiny)


def as_images(drawn: Tensor, like: Tensor) -> Tensor:
    """References as float images in [0, 1] on the device of the batch `like`; uint8 is scaled."""
    if drawn.dtype == torch.uint8:
        return drawn.to(like.device).to(like.dtype) / 255
    return drawn.to(like)

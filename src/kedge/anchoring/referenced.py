"""A network that sees an image as a reference and the residual from it: how references reach its first layer."""

import math
from collections.abc import Iterator
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from kedge.anchoring.base import PixelModel
from kedge.anchoring.budget import budget_of, references_at_a_time
from kedge.anchoring.references import blurred, derangement, resized
from kedge.anchoring.stem import AnchoredStem

# Reference terms of more values than this (256 MB in float32) are computed as needed instead of being kept.
CACHED_VALUES = 2**26


class ReferencedModel(PixelModel):
    """What an `AnchoredModel` is without its ways to predict: the bank, and the passes with references."""

    references: Tensor
    residuals: Tensor | None
    # (average, blur) that training gave the bank, see `kedge.objectives.Anchored`; one that is assigned has had none.
    bank_prepared: tuple[int, int] = (1, 0)

    def __init__(self, network: nn.Module, first_layer: str, references: Tensor, **settings: Any) -> None:
        super().__init__(network, **settings)
        self.first_layer = first_layer
        self._cache = _TermsCache()
        self.register_buffer("references", self._checked_bank("references", references).clone())
        self.register_buffer("residuals", None)

    @property
    def stem(self) -> AnchoredStem:
        """The anchored first layer."""
        stem = self.network.get_submodule(self.first_layer)
        assert isinstance(stem, AnchoredStem)
        return stem

    def __setattr__(self, name: str, value: Any) -> None:
        bank = name in ("references", "residuals") and name in self.__dict__["_buffers"]
        if bank and (value is not None or name == "references"):
            value = self._checked_bank(name, value).clone()
            if name == "references":
                self.bank_prepared = (1, 0)
        super().__setattr__(name, value)

    def prepare_bank(self, average: int = 1, blur: int = 0) -> None:
        """Average and blur the bank, once, as `kedge.objectives.Anchored` does with its references in training.

        Residuals, which are of the bank as it was, are taken out.
        """
        prepared = (average, blur)
        if prepared not in ((1, 0), self.bank_prepared):
            bank = self.references
            self.references = blurred(torch.stack([bank.roll(-k, 0) for k in range(average)]).mean(0), blur)
            self.bank_prepared, self.residuals = prepared, None

    def _checked_bank(self, name: str, images: Tensor) -> Tensor:
        if not isinstance(images, Tensor) or not images.is_floating_point():
            kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
            raise TypeError(f"{name} must be a floating-point tensor in [0, 1], got {kind}; for uint8 divide by 255")
        images = images.detach()
        if images.ndim == len(self.input_shape):
            images = images[None]
        sides = len(self.input_shape) - 1
        shape = ["K", self.input_shape[0], *"DHW"[3 - sides :]]
        if images.ndim != len(shape) or images.shape[1] != self.input_shape[0] or len(images) == 0:
            raise ValueError(f"{name} must have shape {shape} with K >= 1, got {list(images.shape)}")
        low, high = (float(bound) for bound in torch.aminmax(images))
        if not (math.isfinite(low) and math.isfinite(high)):
            raise ValueError(f"{name} must be finite, got [{low}, {high}]; images are in [0, 1]")
        if name == "references" and sides > 0 and not (low >= -1e-3 and high <= 1 + 1e-3):
            raise ValueError(f"references must be images in [0, 1], before normalisation, got [{low:.3g}, {high:.3g}]")
        return images.to(self.mean.device, self.mean.dtype)

    def _bank(self, references: int | Tensor | None) -> Tensor:
        """References `[K, C, H, W]`: images of one's own, as many of the stored ones, or all of them (None)."""
        if isinstance(references, Tensor):
            return self._checked_bank("references", references)
        size = len(self.references)
        k = size if references is None else references
        if not isinstance(k, int) or isinstance(k, bool):
            raise TypeError(f'references must be a whole number, a tensor, "blt" or "adaptive", got {references!r}')
        if not 1 <= k <= size:
            raise ValueError(
                f"references={k}, but the bank holds {size}; assign more to model.references "
                "(see kedge.anchoring.choose_references) or pass a tensor"
            )
        return self.references[:k]

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, metadata: Any, strict: bool, *lists: list[str]
    ) -> None:
        # A bank of another size, and residuals present or not, are as good as the ones held here.
        for name in ("references", "residuals"):
            stored = state_dict.get(prefix + name)
            if stored is not None:
                try:
                    checked = self._checked_bank(name, stored)
                except (TypeError, ValueError) as error:
                    lists[-1].append(str(error))
                    continue
                present = self._buffers[name]
                if present is None or present.shape != checked.shape:
                    self._buffers[name] = torch.empty_like(checked)
            elif name == "residuals":
                self._buffers[name] = None
        super()._load_from_state_dict(state_dict, prefix, metadata, strict, *lists)

    def draw_references(self, images: Tensor) -> Tensor:
        """For each of two or more images `[B, C, H, W]` another one of the batch, as `forward` draws in train mode."""
        return images[derangement(len(images), device=images.device)]

    def forward(
        self,
        images: Tensor,
        references: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        slot: Tensor | None = None,
    ) -> Tensor:
        """Logits `[B, num_outputs]` of images `[B, C, H, W]` in [0, 1], after the model's `steps` in eval mode.

        Args:
            images: the batch.
            references: `[B, C, H, W]`, one for each image, or `[1, C, H, W]` for all. Without them: in training
                mode every image gets another image of the batch (a batch of one gets the first of the bank); in
                eval mode every image gets `self.references[0]`, so that a prediction depends on nothing else.
            mask: `[B]` bool; where true the reference slot is zero (after normalisation) and the residual keeps
                the true reference: [0, x - r].
            slot: `[B, C, H, W]`, put into the reference slot in place of the reference: [slot, x - r]. With an
                augmented reference this is the anchor augmentation of AMP (arXiv 2207.04125).
        """
        return self._stepped(self.network_logits(images, references, mask, slot=slot))

    def network_logits(
        self,
        images: Tensor,
        references: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        slot: Tensor | None = None,
    ) -> Tensor:
        """Logits `[B, num_outputs]` as `forward` gives them, before the model's `steps`."""
        x = self.checked(images)
        # Terms from outside the layer are for inference: checkpointed activations could not recompute them.
        outside = mask is None and slot is None and not torch.is_grad_enabled() and self.stem.at_hand
        if references is None:
            if self.training and len(images) > 1:
                references = self.draw_references(images)
            else:
                if outside:
                    x = self._normalised(x)
                    return self._through(x, self._bank_terms(1, x))
                references = self.references[:1]
        if references.ndim != images.ndim or len(references) not in (1, len(images)):
            raise ValueError(
                f"references must be one for each of the {len(images)} images or a single one, [1, ...], "
                f"got {list(references.shape)}"
            )
        if len(references) == 1 and outside:
            x = self._normalised(x)
            return self._through(x, self._terms(references, x))
        hidden = None if mask is None else _hidden(mask, x)
        if slot is None:
            return self._logits(self._side_by_side(x, references, hidden))
        x = self._normalised(x)
        r, s = (self._fitted(each, x).expand_as(x) for each in (references, slot))
        s = s if hidden is None else s * (1 - hidden)
        # W_r s + W_d (x - r) = W_d (x - r + s) + (W_r - W_d) s.
        return self._logits(torch.cat([x - r + s, s], 1))

    # How references reach the first layer

    def _logits(self, inputs: Tensor) -> Tensor:
        outputs = self.network(inputs)
        if not isinstance(outputs, Tensor):
            raise TypeError(
                f"the network returns {type(outputs).__name__} in {'training' if self.training else 'eval'} mode, not "
                "logits [B, C]; build it without auxiliary outputs (aux_logits=False in torchvision)"
            )
        return outputs

    def _side_by_side(self, x: Tensor, references: Tensor, hidden: Tensor | None) -> Tensor:
        """Both normalised, [x | r], where `hidden` [x - r | 0], for images and references in [0, 1].

        W_r s + W_d (x - r) = W_d (x - r + s) + (W_r - W_d) s; where s is r the first part is x itself, exactly. All is
        done in place in the tensor that the layer reads: next to a first layer each further pass over images shows.
        """
        channels = x.shape[1]
        both = torch.cat([x, self._like(references, x).expand_as(x)], 1)
        mean, std = (each.expand(1, channels, *each.shape[2:]) for each in (self.mean, self.std))  # one for all, maybe
        both = both.sub_(torch.cat([mean, mean], 1)).div_(torch.cat([std, std], 1))
        if hidden is not None:
            r = both[:, channels:]
            both[:, :channels].addcmul_(r, hidden, value=-1)
            r.mul_(1 - hidden)
        return both

    def _like(self, references: Tensor, x: Tensor) -> Tensor:
        """References of the size of `x`."""
        if not references.is_floating_point():
            raise TypeError(f"references must be floating point in [0, 1], got {references.dtype}; divide by 255")
        return self.checked(resized(references.to(x.device), x.shape[2:]).to(x.dtype))

    def _fitted(self, references: Tensor, x: Tensor) -> Tensor:
        """Normalised references of the size of `x`."""
        return self._normalised(self._like(references, x))

    def _arriving(self, normalised: Tensor) -> Tensor:
        """Normalised images as they arrive at the first layer: as they are, or flattened."""
        return normalised.flatten(1) if self.stem.axis == -1 else normalised

    def _through(self, x: Tensor, terms: Tensor) -> Tensor:
        """Run normalised `x` `[B, ...]` with K reference terms: logits `[K * B, C]`, reference-major."""
        rows = x if len(terms) == 1 else x.expand(len(terms), *x.shape).flatten(0, 1)
        with self.stem.bound(terms):
            return self._logits(rows)

    def _in_passes(self, x: Tensor, terms: Tensor, budget: int) -> Tensor:
        """The logits `[K, B, C]` of normalised `x` with K reference terms, at most `budget` rows at a time."""
        k = len(terms)
        return torch.cat([self._through(part, terms).unflatten(0, (k, -1)) for part in x.split(budget // k)], 1)

    def _per_reference(self, images: Tensor, references: int | Tensor | None, max_rows: int | None) -> Iterator[Tensor]:
        """The logits of some of the references at a time, `[k, B, C]`; arguments as of `predict`."""
        x, bank = self.normalise(images), self._bank(references)
        own = not isinstance(references, Tensor)
        if len(images) == 0:
            yield x.new_zeros(len(bank), 0, self.num_outputs)
            return
        budget = budget_of(len(images), max_rows)
        for some in bank.split(references_at_a_time(len(bank), len(images), budget)):
            terms = self._bank_terms(len(bank), x) if own and len(some) == len(bank) else self._terms(some, x)
            yield self._in_passes(x, terms, budget)

    def _terms(self, references: Tensor, x: Tensor) -> Tensor:
        """What references `[K, ...]` add to the first layer's outputs for inputs like `x`."""
        return self.stem.reference_terms(self._arriving(self._fitted(references, x)))

    def _bank_terms(self, k: int, x: Tensor) -> Tensor:
        """The terms of the first `k` references for inputs like `x`, without gradients, kept while nothing changes.

        On a CPU the values they come from are compared, which notices every kind of edit; on other devices that would
        wait for the device, and computing the terms again is the quicker way to be right.
        """
        stem, references = self.stem, self.references[:k]
        sources = [*stem.parameters(), *stem.buffers(), references, self.mean, self.std]
        keep = x.device.type == "cpu" and not torch.compiler.is_compiling()
        key = (k, x.shape[2:], x.dtype)
        cached = self._cache.bank
        if keep and cached is not None and cached[0] == key and all(map(_same, cached[1], sources)):
            return cached[2]
        with torch.inference_mode(False) if keep else nullcontext(), torch.no_grad():
            # Copied first: where another thread trains meanwhile, the terms are at worst newer than what they go by.
            copies = [source.detach().clone() for source in sources] if keep else []
            terms = self._terms(references, x)
            if keep and terms.numel() <= CACHED_VALUES:
                self._cache.bank = (key, copies, terms)
        return terms


class _TermsCache:
    """Terms of the bank, and what they were computed from; no part of the model: a copy begins with none."""

    bank: tuple[Any, list[Tensor], Tensor] | None = None

    def __reduce__(self) -> tuple[type["_TermsCache"], tuple[()]]:
        return _TermsCache, ()


def _hidden(mask: Tensor, x: Tensor) -> Tensor:
    """1 where the mask `[B]` is true: products of finite values with 0 and 1 are exact, one pass over the images."""
    if mask.shape != x.shape[:1] or mask.dtype != torch.bool:
        raise ValueError(f"mask must be a bool tensor of shape [{len(x)}], got {mask.dtype} {list(mask.shape)}")
    return mask.to(x).view(-1, *[1] * (x.ndim - 1))


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)

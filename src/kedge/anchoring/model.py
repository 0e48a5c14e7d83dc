"""The anchored model: a network that sees an image as a reference and the residual from it."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kedge.anchoring.fold import fold_network
from kedge.anchoring.pixels import PixelModel, evaluating
from kedge.anchoring.prediction import Prediction, summarise
from kedge.anchoring.references import derangement
from kedge.anchoring.stem import AnchoredStem
from kedge.anchoring.transduction import best_references

# Reference terms of more values than this (256 MB in float32) are computed as needed instead of being kept.
CACHED_VALUES = 2**26


class AnchoredModel(PixelModel):
    """A network whose first layer takes the tuple [r, x - r]; made by `kedge.anchor`.

    Source: "On the Use of Anchoring for Training Vision Models", arXiv 2406.00529.

    Attributes:
        references: buffer `[K, C, H, W]` in [0, 1], the bank that predictions use. Assign any number of images of
            any size; they are resized to the input. It travels with the state dict: a bank holds what you put in
            it, photographs of the training set for instance.
        residuals: buffer `[M, C, H, W]` of differences x - r seen in training, or None; for `references="blt"`.
    """

    references: Tensor
    residuals: Tensor | None

    def __init__(self, network: nn.Module, first_layer: str, references: Tensor, **settings: Any) -> None:
        super().__init__(network, **settings)
        self.first_layer = first_layer
        self._cached: tuple[tuple[Any, ...], list[Tensor], Tensor] | None = None
        self.register_buffer("references", self._checked_bank("references", references))
        self.register_buffer("residuals", None)

    @property
    def stem(self) -> AnchoredStem:
        """The anchored first layer."""
        stem = self.network.get_submodule(self.first_layer)
        assert isinstance(stem, AnchoredStem)
        return stem

    def __setattr__(self, name: str, value: Any) -> None:
        if name in ("references", "residuals") and value is not None and name in self.__dict__["_buffers"]:
            value = self._checked_bank(name, value)
        super().__setattr__(name, value)

    def _checked_bank(self, name: str, images: Tensor) -> Tensor:
        if not isinstance(images, Tensor) or not images.is_floating_point():
            kind = images.dtype if isinstance(images, Tensor) else type(images).__name__
            raise TypeError(f"{name} must be a floating-point tensor in [0, 1], got {kind}; for uint8 divide by 255")
        images = images.detach()
        if images.ndim == len(self.input_shape):
            images = images[None]
        wanted = ["K", self.input_shape[0], *"HW"[: len(self.input_shape) - 1]]
        if images.ndim != len(wanted) or images.shape[1] != self.input_shape[0] or len(images) == 0:
            raise ValueError(f"{name} must have shape {wanted} with K >= 1, got {list(images.shape)}")
        if name == "references" and images.ndim == 4:
            low, high = float(images.min()), float(images.max())
            if not (low >= -1e-3 and high <= 1 + 1e-3):
                raise ValueError(
                    f"references must be images in [0, 1], before normalisation, got [{low:.3g}, {high:.3g}]"
                )
        return images.to(self.mean.device, self.mean.dtype).clone()

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        # A bank of another size, and residuals present or not, are as good as the ones held here.
        for name in ("references", "residuals"):
            stored = state_dict.get(prefix + name)
            if stored is not None:
                held = self._buffers[name]
                if held is None or held.shape != stored.shape:
                    self._buffers[name] = torch.empty_like(stored, device=self.mean.device, dtype=self.mean.dtype)
            elif name == "residuals":
                self._buffers[name] = None
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def forward(
        self,
        images: Tensor,
        references: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        slot: Tensor | None = None,
    ) -> Tensor:
        """Logits `[B, num_outputs]` of images `[B, C, H, W]` in [0, 1].

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
        x = self.normalise(images)
        if references is None:
            if self.training and len(images) > 1:
                references = images[derangement(len(images), device=images.device)]
            else:
                if mask is None and slot is None:
                    return self._through(x, self._bank_terms(1, x))
                references = self.references[:1]
        if len(references) not in (1, len(images)):
            raise ValueError(
                f"references must be one for each of the {len(images)} images or a single one, got {len(references)}"
            )
        r = self._fitted(references, x)
        if len(references) == 1 and mask is None and slot is None and len(images) > 1:
            return self._through(x, self.stem.reference_terms(self._arriving(r)))
        r = r.expand_as(x)
        s = r if slot is None else self._fitted(slot, x).expand_as(x)
        if mask is not None:
            if mask.shape != (len(images),) or mask.dtype != torch.bool:
                raise ValueError(
                    f"mask must be a bool tensor of shape [{len(images)}], got {mask.dtype} {list(mask.shape)}"
                )
            hidden = mask.to(x.device).view(-1, *[1] * (x.ndim - 1))
            s = torch.where(hidden, torch.zeros_like(s), s)
        # W_r s + W_d (x - r) = W_d (x - r + s) + (W_r - W_d) s; where s is r the first part is x itself, exactly.
        if slot is not None:
            x = x - r + s
        elif mask is not None:
            x = torch.where(hidden, x - r, x)
        return self.network(torch.cat([x, s], 1))

    @torch.no_grad()
    def predict(
        self,
        images: Tensor,
        references: int | Tensor | str | None = None,
        *,
        recalibrate: str | None = None,
        keep_per_reference: bool = False,
        max_rows: int | None = None,
    ) -> Prediction:
        """Predict with fixed references, in eval mode and without gradients.

        Args:
            images: `[B, C, H, W]` in [0, 1].
            references: how many of the bank to use (None: all), or images `[K, C, H, W]`, each applied to every
                input; or "blt", for each input the one of the bank whose residual looks most like a residual of
                training (needs `self.residuals`).
            recalibrate: None, or the authors' correction of the logits, "exp" or "divide" (see `summarise`).
            keep_per_reference: also give the logits of every reference.
            max_rows: the memory budget, in images that pass through the network at a time; default the larger of
                B and 32, so that K references cost the memory of one. Within a pass the first layer sees each
                image once, whatever K.

        Raises:
            ValueError: for more references than the bank holds, or "blt" without residuals.
        """
        with evaluating(self):
            if isinstance(references, str):
                if references != "blt":
                    raise ValueError(f'references must be a number, a tensor or "blt", got {references!r}')
                per_reference = self._transduced(images, max_rows)[None]
            else:
                per_reference = self._per_reference(images, references, max_rows)
        return summarise(per_reference, self.task, recalibrate, keep_per_reference)

    def fold(self, reference: int = 0, image_size: tuple[int, int] | None = None) -> nn.Module:
        """Fold one reference of the bank and the normalisation into an ordinary network: pixels in, logits out.

        The result is independent of this model, in eval mode, takes images of this model's input size (or
        `image_size`), and holds a map after the first layer instead of the reference (ANCHORING: W_d x +
        (W_r - W_d) r + b is affine in the pixels of x).

        Raises:
            IndexError: if the bank has no such reference.
            ValueError: if the folded network disagrees, which a network that changes its input before the first
                layer can cause.
        """
        if not 0 <= reference < len(self.references):
            raise IndexError(f"reference {reference} is not in the bank, which holds {len(self.references)}")
        return fold_network(self, self.references[reference : reference + 1], image_size)

    # How references reach the first layer

    def _fitted(self, references: Tensor, x: Tensor) -> Tensor:
        """Normalised references of the size of `x`."""
        references = references.to(x.device, x.dtype)
        if references.shape[2:] != x.shape[2:]:
            references = F.interpolate(references, x.shape[2:], mode="bilinear", antialias=True).clamp(0, 1)
        return self.normalise(references)

    def _arriving(self, references: Tensor) -> Tensor:
        """Normalised references as they arrive at the first layer: as they are, or flattened."""
        return references.flatten(1) if self.stem.axis == -1 else references

    def _through(self, x: Tensor, terms: Tensor) -> Tensor:
        """Run normalised `x` `[B, ...]` with K reference terms: logits `[K * B, C]`, reference-major."""
        rows = x if len(terms) == 1 else x.expand(len(terms), *x.shape).flatten(0, 1)
        with self.stem.bound(terms):
            return self.network(rows)

    def _bank_terms(self, k: int, x: Tensor) -> Tensor:
        """The terms of the first `k` references for inputs like `x`, kept while nothing they come from changes."""
        stem = self.stem
        sources = [*stem.parameters(), *stem.buffers(), self.references, self.mean, self.std]
        if torch.compiler.is_compiling() or (
            torch.is_grad_enabled() and any(source.requires_grad for source in sources)
        ):
            return stem.reference_terms(self._arriving(self._fitted(self.references[:k], x)))
        key: tuple[Any, ...] = (k, x.shape[2:], x.dtype, x.device)
        key += tuple((s.data_ptr(), s.shape, s.dtype, -1 if s.is_inference() else s._version) for s in sources)
        if self._cached is not None and self._cached[0] == key:
            _, snapshot, terms = self._cached
            # Edits through .data leave no trace in the version counter; on a CPU looking at the values is cheap.
            if all(torch.equal(old, new) for old, new in zip(snapshot, sources, strict=True) if new.is_cpu):
                return terms
        self._cached = None
        with torch.inference_mode(False), torch.no_grad():
            terms = stem.reference_terms(self._arriving(self._fitted(self.references[:k], x)))
            if terms.numel() <= CACHED_VALUES:
                snapshot = [source.detach().clone() if source.is_cpu else source for source in sources]
                self._cached = (key, snapshot, terms)
        return terms

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_cached": None}

    def _per_reference(self, images: Tensor, references: int | Tensor | None, max_rows: int | None) -> Tensor:
        x = self.normalise(images)
        if isinstance(references, Tensor):
            bank = self._fitted(self._checked_bank("references", references), x)
            k = len(bank)
        else:
            k = len(self.references) if references is None else int(references)
            if not 1 <= k <= len(self.references):
                raise ValueError(
                    f"references={k}, but the bank holds {len(self.references)}; assign more to model.references "
                    "(see kedge.anchoring.choose_references) or pass a tensor"
                )
            bank = None
        if len(images) == 0:
            return x.new_zeros(k, 0, self.num_outputs)
        budget = max(len(images), 32) if max_rows is None else max_rows
        if budget < 1:
            raise ValueError(f"max_rows must be at least 1, got {max_rows}")
        at_once = min(k, budget)
        parts = []
        for start in range(0, k, at_once):
            stop = min(start + at_once, k)
            if bank is None and at_once == k:
                terms = self._bank_terms(k, x)
            else:
                some = bank if bank is not None else self._fitted(self.references, x)
                terms = self.stem.reference_terms(self._arriving(some[start:stop]))
            rows = max(1, budget // (stop - start))
            passes = [self._through(part, terms).unflatten(0, (stop - start, -1)) for part in x.split(rows)]
            parts.append(torch.cat(passes, 1))
        return torch.cat(parts)

    def _transduced(self, images: Tensor, max_rows: int | None) -> Tensor:
        if self.residuals is None:
            raise ValueError(
                'references="blt" compares with residuals of training, and this model holds none; set '
                "model.residuals = kedge.anchoring.choose_residuals(train_set, model.references, 500, seed=0)"
            )
        x = self.normalise(images)
        residuals = self.residuals
        if residuals.shape[2:] != x.shape[2:]:
            residuals = F.interpolate(residuals, x.shape[2:], mode="bilinear", antialias=True)
        bank = self._fitted(self.references, x)
        chosen = best_references(x, bank, residuals / self.std)
        rows = max(len(images), 1) if max_rows is None else max_rows
        logits = [
            self.network(torch.cat([part, bank[index]], 1))
            for part, index in zip(x.split(rows), chosen.split(rows), strict=True)
        ]
        return torch.cat(logits) if logits else x.new_zeros(0, self.num_outputs)

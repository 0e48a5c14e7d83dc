"""The anchored model: a network that sees an image as a reference and the residual from it."""

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kedge.anchoring.adaptive import predict_adaptively
from kedge.anchoring.bank import Bank
from kedge.anchoring.fold import fold_network
from kedge.anchoring.outputs import Outputs
from kedge.anchoring.prediction import Prediction, conclude, summarise, vetted
from kedge.anchoring.prototypes import reads_features
from kedge.anchoring.referenced import ReferencedModel
from kedge.anchoring.transduction import BestReferences
from kedge.anchoring.twin import in_eval
from kedge.checks import check_images

MOST_MEMBERS = 64  # references whose answers are looked at one by one


class AnchoredModel(ReferencedModel):
    """A network whose first layer takes the tuple [r, x - r]; made by `kedge.anchor`.

    Source: "On the Use of Anchoring for Training Vision Models", arXiv 2406.00529.

    Attributes:
        references: buffer `[K, C, H, W]` in [0, 1], the bank that predictions use. Assign any number of images of
            any size; they are resized to the input. It travels with the state dict: a bank holds what you put in
            it, photographs of the training set for instance.
        residuals: buffer `[M, C, H, W]` of differences x - r seen in training, or None; for `references="blt"`.
    """

    kind: ClassVar[str] = "anchored"
    reversible: ClassVar[bool] = True

    def __init__(self, network: nn.Module, first_layer: str, references: Tensor, **settings: Any) -> None:
        super().__init__(network, first_layer, references, **settings)
        self._search = BestReferences()

    @torch.no_grad()
    def predict(
        self,
        images: Tensor,
        references: int | Tensor | str | None = None,
        *,
        recalibrate: str | None = None,
        keep_per_reference: bool = False,
        max_rows: int | None = None,
        tolerance: float | None = None,
        check: bool = True,
    ) -> Prediction:
        """Predict with fixed references, as in eval mode and without gradients.

        The model is only read, whatever mode it is in: threads may predict with it at once, and while one trains it;
        what they answer is then of weights that are on the move.

        Args:
            images: `[B, C, H, W]` in [0, 1], which they may overstep by 0.3, as after bicubic resizing.
            references: how many of the bank to use (None: all), or images `[K, C, H, W]`, each applied to every
                input; or "blt", for each input the one of the bank whose residual looks most like a residual of
                training (needs `self.residuals`); or "adaptive", the first few of the bank for every input and
                more, up to the whole bank, for those that these do not settle (see `kedge.anchoring.adaptive`;
                `references_used` of the result says how many each got). For classifiers.
            recalibrate: None, or a correction of the logits by the uncertainty c in place of the model's temperature (a
                class prior stays): "exp", μ / (1 + exp(c)), the authors' on ImageNet, or "divide", μ / c, which only
                their comments name. None is what they do on CIFAR.
            keep_per_reference: also give the logits of every reference; not for "adaptive", where inputs meet
                different numbers of them.
            max_rows: the memory budget, in images that pass through the network at a time; default that of the model,
                else the larger of B and 32, so that K references cost about the memory of one. The first layer sees
                an image once for all the references of a pass (`references_at_a_time`).
            tolerance: of "adaptive": how large a standard error may be, as a share of the margin between classes and
                of the uncertainty, for an input to be settled; default 0.5. Smaller asks more references, 0 the whole
                bank.
            check: look at images and outputs, once each, for which the device is waited for.

        Raises:
            ValueError: for images that cannot be in [0, 1] (0 to 255, normalised, NaN) and for outputs that are NaN,
                unless `check` is False: confidences may then be NaN, to be rejected like low ones; for more references
                than the bank holds, "blt" without residuals, "adaptive" with `keep_per_reference` or for a regression
                task, `tolerance` without "adaptive", negative or infinite.
        """
        max_rows = self.max_rows if max_rows is None else max_rows
        if max_rows is not None and max_rows < 1:
            raise ValueError(f"max_rows must be at least 1, got {max_rows}")
        adaptive = isinstance(references, str) and references == "adaptive"
        if tolerance is not None and not adaptive:
            other = f"a tensor {list(references.shape)}" if isinstance(references, Tensor) else repr(references)
            raise ValueError(f'tolerance={tolerance} is of references="adaptive", and references is {other}')
        if adaptive and (keep_per_reference or self.task != "classification"):
            raise ValueError(
                'references="adaptive" gives inputs different numbers of references, so keep_per_reference has no '
                "[K, B, C] to give; pass a number of references"
                if keep_per_reference
                else 'references="adaptive" asks whether the leading class is settled, and the task is regression; '
                "pass a number of references"
            )
        if check:
            check_images(images)
        with self._familiar(images, references, max_rows) as familiarity, in_eval(self) as model:
            chunks: Iterable[Tensor]
            if adaptive:
                logits, spread, used = predict_adaptively(model, images, tolerance, max_rows)
                prediction = conclude(logits, spread, self.task, recalibrate, self.steps, references_used=used)
            else:
                if not isinstance(references, str):
                    chunks = model._per_reference(images, references, max_rows)
                elif references == "blt":
                    chunks = [model._transduced(images, max_rows)[None]]
                else:
                    raise ValueError(f'references must be a number, a tensor, "blt" or "adaptive", got {references!r}')
                prediction = summarise(chunks, self.task, recalibrate, keep_per_reference, self.steps)
            prediction = familiarity(prediction)
        return vetted(prediction, {} if recalibrate else self.steps) if check else prediction

    def fold(self, reference: int = 0, image_size: int | tuple[int, int] | None = None) -> nn.Module:
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
        size = (image_size, image_size) if isinstance(image_size, int) else image_size
        with torch.autocast(self.mean.device.type, enabled=False):
            return fold_network(self, self.references[reference : reference + 1], size)

    # What callers ask of any model

    def answers_of_members(self, images: Tensor, references: Any = None) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """As `answers`, and what each reference answers by itself, `[B, K]`; None for one, many, or chosen ones."""
        if isinstance(references, str) or not 1 < self.count(references) <= MOST_MEMBERS or self.task == "regression":
            return *self.answers(images, references), None
        prediction = self.predict(images, references, keep_per_reference=True, check=False)
        assert prediction.per_reference is not None
        return prediction.logits, prediction.uncertainty, self.decided(prediction.per_reference).argmax(-1).T

    def count(self, references: Any = None) -> int:
        """How many references every image meets in one prediction."""
        if isinstance(references, str):
            return 1  # "blt": its best one
        if isinstance(references, Tensor):
            return 1 if references.ndim == len(self.input_shape) else len(references)
        return len(self.references) if references is None else int(references)

    def feature_layer(self, images: Tensor, references: Any = None) -> nn.Module | None:
        """The last layer; None for "adaptive", where inputs meet different numbers of references."""
        adaptive = isinstance(references, str) and references == "adaptive"
        return None if adaptive else super().feature_layer(images)

    @torch.no_grad()
    def outputs(self, images: Tensor, references: Any = None, *, features: bool = False, **wants: Any) -> Outputs:
        """As of any model; of "adaptive", where there are no features, the familiarity that `predict` gives."""
        said = super().outputs(images, references, features=features, **wants)
        if not features or said.features is not None or not reads_features(self.unknown):
            return said
        return dataclasses.replace(said, familiarity=self.predict(images, references, check=False).familiarity)

    def masked_logits(self, images: Tensor, references: Any = None) -> Tensor:
        """Logits `[B, C]` of [0, x - r] before the steps, the mean over the references."""
        bank = self._bank(None if isinstance(references, str) else references)
        hidden = torch.ones(len(images), dtype=torch.bool, device=images.device)
        with in_eval(self) as model:
            total = sum(model.network_logits(images, r, hidden).float() for r in bank.split(1))
        assert isinstance(total, Tensor)
        return total / len(bank)

    def reversed_losses(self, images: Tensor, anchors: Tensor, labels: Tensor) -> Tensor:
        """`[B, K]` -log p of the true class of `anchors` `[K, C, H, W]` in [0, 1], each of `images` as the reference.

        Before the steps. K passes for each image, which share its first layer.

        Raises:
            ValueError: for no anchors, and for labels that are not one class of the model each.
        """
        if len(anchors) == 0 or labels.shape != (len(anchors),):
            raise ValueError(
                f"K >= 1 labelled images are needed, [K, C, H, W] with labels [K], got {[*anchors.shape]} and "
                f"{[*labels.shape]}"
            )
        labels = labels.to(images.device).long()
        if int(labels.min()) < 0 or int(labels.max()) >= self.num_outputs:
            raise ValueError(f"labels are classes from 0 to {self.num_outputs - 1}, got {labels.tolist()}")
        with torch.no_grad(), in_eval(self) as model:
            rows = (
                list(model._per_reference(anchors.to(images), images.clamp(0, 1), self.max_rows)) if len(images) else []
            )
        logits = torch.cat(rows).float() if rows else images.new_zeros(0, len(anchors), self.num_outputs)
        return -logits.log_softmax(-1).gather(-1, labels.expand(len(logits), -1)[..., None])[..., 0]

    def for_attack(self, references: Any = None, prepare: Callable[[Tensor], Tensor] | None = None) -> Bank:
        """The mean over fixed references, with gradients: see `kedge.attacks.Bank`."""
        return Bank(self, references, max_rows=self.max_rows, prepare=prepare)

    def bare(self) -> nn.Module:
        """Raise ValueError: the first layer is another now."""
        raise ValueError(
            "this takes the network before anchoring, and the model is anchored already; change its references with "
            "model.references = ..."
        )

    def state(self) -> dict[str, Any]:
        """What a saved model says of its kind."""
        prepared = {"bank_prepared": list(self.bank_prepared)} if self.bank_prepared != (1, 0) else {}
        return {**super().state(), "first_layer": self.first_layer, **prepared}

    def _transduced(self, images: Tensor, max_rows: int | None) -> Tensor:
        if self.residuals is None:
            raise ValueError(
                'references="blt" compares with residuals of training, and this model holds none; set '
                "model.residuals = kedge.anchoring.choose_residuals(train_set, model.references, 500, seed=0)"
            )
        x = self.normalise(images)
        chosen = self._search(images.to(x.dtype), self.references, self.residuals, self.std)
        rows = max(len(images), 1) if max_rows is None else max_rows
        logits = [
            self._logits(torch.cat([part, self._fitted(self.references[index], x)], 1))
            for part, index in zip(x.split(rows), chosen.split(rows), strict=True)
        ]
        return torch.cat(logits) if logits else x.new_zeros(0, self.num_outputs)

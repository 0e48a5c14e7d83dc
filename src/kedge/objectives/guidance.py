"""Guidance: layers of the model see the same likenesses between images as layers of another network, the guide."""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kedge.anchoring.stem import AnchoredStem
from kedge.attacks._losses import evaluated
from kedge.catalog import Info
from kedge.objectives._base import Objective, check_share, check_weight
from kedge.objectives._cka import FEWEST, cka, gram
from kedge.objectives._frozen import Frozen
from kedge.objectives._nesting import Wrapper, check_same_images
from kedge.objectives._recording import recording
from kedge.objectives._views import bare, without_labels
from kedge.objectives._whole_batch import by_rows

info = Info(
    "Training the Untrainable: Introducing Inductive Bias via Representational Alignment", "Subramaniam et al.",
    "NeurIPS", 2025, "https://arxiv.org/abs/2410.20035", "code",
)  # fmt: skip
EXAMPLE = "[{Guidance: {guide: runs/guide}}, CrossEntropy]"
KINDS = (
    nn.Linear, nn.modules.conv._ConvNd, nn.LayerNorm, nn.MultiheadAttention, nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd, nn.modules.pooling._AdaptiveAvgPoolNd, nn.modules.pooling._AdaptiveMaxPoolNd,
    AnchoredStem,
)  # fmt: skip


class Guidance(Wrapper):
    """inner(x, y) + α Σ_l (1 - CKA(a_l, g_l)), a_l, g_l `[B, ...]` what layers of model and guide put out.

    CKA is the likeness, between the images of a batch, of two sets of features: of K = XXᵀ and L = YYᵀ, centred,
    ⟨K, L⟩ / (‖K‖ ‖L‖). Widths and shapes of the layers may differ, and the classes of the two networks. The estimate is
    the debiased one: the plain one of the paper (`debiased=False`) is 0.98 for independent noise of 4,096 dimensions in
    a batch of 64. `logged["cka"]` is the mean of the debiased one over the pairs, in either case. It is a *sum* over
    layers, as in the authors' code. Images whose target masking took away (`Anchored`) do not count.

    With layers "even", the layers of both are the outputs of convolutions, linear layers, pooling, layer norms and
    attention in the order of their calls, without the last one, the logits; layer i of n of the guide leads layer
    round(i (s - 1) / (n - 1)) of s, the later one where two meet.

    A guide of fresh weights (`trained=False`) lends its architecture alone. The last batch of an epoch is not guided
    where it has less than four images.

    Args:
        inner: the loss of the targets.
        guide: another model for images of the same size; a copy is kept, frozen, in eval mode. In a recipe a run, a
            model folder or timm/NAME.
        alpha: α, 0 or more; 0 is the inner objective, and no guide is run.
        layers: "even", or by the name of a layer of the model, as in `model.network.named_modules()`, that of a layer
            of the guide.
        trained: whether the guide keeps its weights; else it gets fresh ones by `seed`.
        debiased: which estimate is minimised.
        until: the share of training in which it guides, 0 to 1: below 1 the guide only leads to a start.
        seed: of a guide's fresh weights.

    Raises:
        ValueError: for values out of range; an inner objective that changes images; a guide without a way to draw
            weights afresh; when training starts, for a guide that does not take the images, and layers that are not
            there; when called first, for a batch of less than four images.

    Source: Subramaniam et al., "Training the Untrainable", NeurIPS 2025 (arXiv 2410.20035), and the authors' code; the
        debiased estimate is ours.
    """

    in_repr = ("alpha", "trained", "debiased", "until")

    def __init__(
        self,
        inner: Objective,
        guide: nn.Module,
        alpha: float = 1.0,
        layers: Mapping[str, str] | str = "even",
        trained: bool = True,
        debiased: bool = True,
        until: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(inner)
        check_weight("alpha", alpha)
        check_share("until", until, "a share of training")
        check_same_images(inner, "Guidance")
        if isinstance(layers, str) and layers != "even":
            raise ValueError(f"layers is even, or a layer of the guide by that of the model, not {layers!r}")
        if not layers:
            raise ValueError("layers names no layer: leave it out for layers evenly through both networks")
        self.guide = Frozen(guide, "guide")
        if not trained:
            draw_afresh(self.guide.model, seed)
        self.alpha, self.until, self.trained, self.debiased = alpha, until, trained, debiased
        self.pairs: dict[str, str] = {} if isinstance(layers, str) else dict(layers)
        self._begun = self._told = False

    @property
    def guided(self) -> bool:
        """Whether this step is guided, by `progress`."""
        return self.alpha > 0 and (self.until == 1 or self.progress < self.until)

    @property
    def passes(self) -> float:
        """Those of the inner objective, and a forward pass of the guide while it guides."""
        return super().passes + (self.until / 3 if self.alpha else 0)

    def prepare(self, model: nn.Module) -> None:
        """Find the layers of both, and see that the guide takes the images."""
        if self.alpha == 0:
            return
        shape, taken = (getattr(each, "input_shape", None) for each in (bare(model), self.guide.model))
        if shape is None:
            raise ValueError(f"{type(bare(model)).__name__} does not say what images it takes: set model.input_shape")
        if taken is not None and tuple(taken) != tuple(shape):
            raise ValueError(f"the guide takes images of {list(taken)}, the model of {list(shape)}: name another guide")
        if not self.pairs:
            own = outputs_in_order(bare(model), shape)
            led = outputs_in_order(self.guide.model, shape)
            self.pairs = evenly(own, led)
        self._check(bare(model), self.pairs, "model", shape)
        self._check(self.guide.model, self.pairs.values(), "guide", shape)

    def _check(self, model: nn.Module, layers: Any, role: str, shape: Any) -> None:
        images = _blank(model, shape)
        try:
            with torch.no_grad(), evaluated(model), recording(model, list(layers)) as features:
                model(images)
        except (ValueError, TypeError) as error:
            raise ValueError(f"Guidance, layers of the {role}: {error}") from error
        if silent := [name for name in layers if name not in features]:
            raise ValueError(f"Guidance, layers of the {role}: {silent[0]} is not called for an image")
        if few := [name for name, value in features.items() if value.ndim < 2 or len(value) != len(images)]:
            raise ValueError(
                f"Guidance, layers of the {role}: {few[0]} puts out {list(features[few[0]].shape)} for {len(images)} "
                "images, and not features of each: name another"
            )

    def forward(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The loss of the model."""
        if self.alpha and self.until < 1 and not self._told and "progress" not in vars(self):
            warnings.warn(
                f"until {self.until:g} follows the progress of training, and nobody says how far it is, so that the "
                "guide never guides: call kedge.objectives.set_progress(objective, share) before each step",
                stacklevel=3,
            )
            self._told = True
        if not self.guided:
            return self.inner(model, images, targets)
        if len(images) < FEWEST:
            if not self._begun:
                raise ValueError(
                    f"Guidance compares the images of a batch with each other, and takes {FEWEST} or more, got "
                    f"{len(images)}: a batch_size of {FEWEST} is the least, 64 is the authors'"
                )
            return self.inner(model, images, targets)
        if not self.pairs:
            self.prepare(model)
        self._begun = True
        with recording(model, list(self.pairs)) as own:
            loss = self.inner(model, images, targets)
        led = self._led(model, images)
        unlabelled = without_labels(model)
        rows = None if unlabelled is None else ~unlabelled
        alike, plain = [], []
        for layer, leading in self.pairs.items():
            pair = gram(own[layer], rows), gram(led[leading], rows)
            alike.append(cka(*pair, debiased=True, rows=rows))
            plain.append(alike[-1] if self.debiased else cka(*pair, debiased=False))
        self.logged["cka"] = torch.stack(alike).detach().mean()
        return loss + self.alpha * (1 - torch.stack(plain)).sum()

    @torch.no_grad()
    def _led(self, model: nn.Module, images: Tensor) -> dict[str, Tensor]:
        """What the guide's layers put out, `[B, D]` each."""
        layers = list(dict.fromkeys(self.pairs.values()))
        sizes: list[int] = []

        def compute(rows: Tensor) -> Tensor:
            with recording(self.guide.model, layers) as features:
                self.guide(rows)
            flat = [features[layer].flatten(1) for layer in layers]
            sizes.extend(each.shape[1] for each in flat)
            return torch.cat(flat, 1)

        whole = by_rows(model, compute, images)
        return dict(zip(layers, whole.split(sizes, 1), strict=True))


def evenly(own: list[str], led: list[str]) -> dict[str, str]:
    """By layer of the model that of the guide which leads it, both in order."""
    last = len(led) - 1
    return {own[round(i * (len(own) - 1) / last) if last else -1]: name for i, name in enumerate(led)}


def outputs_in_order(model: nn.Module, shape: Any) -> list[str]:
    """The layers whose outputs can be compared, in the order in which they are called, without the last.

    Raises ValueError where there is none besides the logits.
    """
    called: dict[str, None] = {}

    def note(name: str) -> Any:
        def hook(layer: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.ndim > 1 and len(output) == 2:
                called.setdefault(name)

        return hook

    there = [(name, each) for name, each in model.named_modules() if isinstance(each, KINDS)]
    whole = [name for name, _ in there]  # what is inside of one, as of an anchored first layer, is not called always
    outer = [(name, each) for name, each in there if not any(name.startswith(f"{other}.") for other in whole if other)]
    hooks = [each.register_forward_hook(note(name)) for name, each in outer]
    try:
        with torch.no_grad(), evaluated(model):
            model(_blank(model, shape))
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"{type(model).__name__} cannot be run on images of {list(shape)}: {error}") from error
    finally:
        for each in hooks:
            each.remove()
    if len(called) < 2:
        raise ValueError(
            f"{type(model).__name__} has no layer before its logits that could be compared: name layers, "
            "layers: {LAYER: LAYER_OF_THE_GUIDE}"
        )
    return list(called)[:-1]


def draw_afresh(model: nn.Module, seed: int) -> None:
    """Give a model fresh weights, as torch's layers draw them, by the seed.

    Raises ValueError for a layer with weights of its own that does not say how it draws them.
    """
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        if own and not callable(getattr(module, "reset_parameters", None)):
            raise ValueError(
                f"the guide cannot have fresh weights: {name or type(model).__name__} ({type(module).__name__}) does "
                "not say how it draws them. Save one that is untrained, and name that"
            )
    device = next((each.device for each in model.parameters()), torch.device("cpu"))
    model.cpu()  # where the seed is that of the draws
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        for module in model.modules():
            if callable(draw := getattr(module, "reset_parameters", None)):
                draw()
    model.to(device)


def _blank(model: nn.Module, shape: Any) -> Tensor:
    """Two images of noise, on the device of a model."""
    like = next(model.parameters())
    return torch.rand(2, *shape, generator=torch.Generator().manual_seed(0)).to(like.device, like.dtype)

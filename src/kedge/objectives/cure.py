"""CURE: adversarial fine-tuning that leaves the least prominent weights alone and follows its own average."""

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from kedge.attacks import Attack
from kedge.catalog import Info
from kedge.objectives._base import Objective, check_share, check_weight
from kedge.objectives._divergence import divergence
from kedge.objectives._views import Recorded, bare, viewed_as
from kedge.objectives.trades import TRADES

info = Info(
    "Conserve-Update-Revise to Cure Generalization and Robustness Trade-off in Adversarial Training",
    "Gowda, Zonooz and Arani", "ICLR", 2024, "https://arxiv.org/abs/2401.14948", "code",
)  # fmt: skip

MASKS = ("prominence", "random", "none")
# Only the order of the gradients counts, so they may have any scale; this one is above what float16 rounds to zero.
SCALE = 1024


class CURE(TRADES):
    """Conserve, update, revise: TRADES with a gradient mask and a consistency term, from a model of clean images on.

    The loss is inner(x) + β KL(p(x) ‖ p(x')) + γ [KL(q(x) ‖ p(x)) + KL(q(x') ‖ p(x'))]. Here x' is found as in
    `TRADES`, and q are the answers of a copy of the model, the revision, whose weights follow those of the model by
    θ_rev = d θ_rev + (1 - d) θ with probability r at each step, before the loss; it runs in the mode of the model, and
    no gradient flows into it. Of every parameter tensor `on_gradients` then zeroes the gradient of those entries, the
    given share of them, whose robust gradient prominence is lowest,

        RGP(w) = w_natural |∂ inner(x) / ∂w| + w_robust |∂ inner(x') / ∂w|.

    Zeroed gradients are all that happens, as in the released code: momentum and weight decay still move such a weight
    within the step. Kernels, matrices, norms and biases are treated alike, as the figures of the paper show them.

    Source: Gowda, Zonooz and Arani, "Conserve-Update-Revise to Cure Generalization and Robustness Trade-off in
    Adversarial Training", ICLR 2024 (arXiv 2401.14948), equations 4 to 8; frac 0.3, w_natural 0.1 and γ 1 are theirs
    for ResNet-18. Their released code has β 5, the divergence in place of inner(x') in the RGP, which it adds up with
    signs, and masks only tensors named conv1.

    A training loop has to call `prepare` before it starts (else the copy is made in the first step, too late for a
    checkpoint to be read) and `on_gradients` between backward and the optimizer's step, after float16 gradients have
    been unscaled; with gradients accumulated over batches, once. Several processes take the mean of their gradients,
    so that they mask alike.

    Args:
        inner: the loss of the clean images, and of the adversarial ones for the mask.
        attack: as of `TRADES`; the authors use 10 steps of eps / 4.
        beta: weight of the divergence; 1 in the paper.
        frac: the share of each tensor that is conserved; 0: none.
        w_natural, w_robust: weights of the two gradients.
        layers: conserve only in parameters whose name contains one of these, such as ("conv1",); None: all.
        mask: "prominence"; "random": the same share, drawn anew at each step, which is the control; "none".
        consistency: γ; 0 makes no copy of the model.
        decay: d. The copy reaches back over 1 / ((1 - d) r) steps, 5,000 by default: in a much shorter run it stays
            near the clean model.
        update_probability: r. The authors let it fall in the course of training, and do not say how.
        generator: for the random starts, the updates and the random mask. None: torch's global one.
        hold, ramp: as of `TRADES`.

    Raises:
        ValueError: as of `TRADES`; for values out of range; when called, for layers that no parameter has.
    """

    in_repr = ("frac", "mask", "consistency", "decay", *TRADES.in_repr)
    revision: nn.Module | None

    def __init__(
        self,
        inner: Objective,
        attack: Attack | None = None,
        beta: float = 1.0,
        frac: float = 0.3,
        w_natural: float = 0.1,
        w_robust: float = 0.9,
        layers: Sequence[str] | None = None,
        mask: str = "prominence",
        consistency: float = 1.0,
        decay: float = 0.999,
        update_probability: float = 0.2,
        generator: torch.Generator | None = None,
        hold: float = 0.0,
        ramp: float = 0.0,
    ) -> None:
        super().__init__(inner, attack, beta, hold, ramp, generator)
        if not 0 <= frac < 1:
            raise ValueError(f"frac is the share of weights to conserve, 0 or more and below 1, got {frac}")
        for name, value in {"w_natural": w_natural, "w_robust": w_robust, "consistency": consistency}.items():
            check_weight(name, value, "a weight")
        if w_natural == w_robust == 0:
            raise ValueError("w_natural and w_robust are both 0, so no weight is prominent: give one of them a weight")
        if mask not in MASKS:
            raise ValueError(f"mask must be one of {MASKS}, got {mask!r}")
        for name, value in {"decay": decay, "update_probability": update_probability}.items():
            check_share(name, value)
        if isinstance(layers, str):
            raise ValueError(f"layers is a list of parts of names, such as [{layers!r}], got {layers!r}")
        self.frac = frac
        self.w_natural, self.w_robust = w_natural, w_robust
        self.layers = None if layers is None else tuple(layers)
        self.mask = mask if frac > 0 else "none"
        self.consistency = consistency
        self.decay = decay
        self.update_probability = update_probability
        self.register_module("revision", None)
        self._gradients: dict[nn.Parameter, tuple[Tensor, Tensor]] = {}

    @property
    def passes(self) -> float:
        """Those of `TRADES`, two more backward passes for the mask, two forward passes of the revision: thirds of one
        forward and backward pass, of which backward is two."""
        masking = 4 / 3 if self.mask == "prominence" else 0
        return super().passes + masking + (2 / 3 if self.consistency else 0)

    def prepare(self, model: nn.Module) -> None:
        """Make the revision, a copy of `model` as it is now, if there is a consistency term."""
        if self.consistency:
            revision = copy.deepcopy(bare(model)).requires_grad_(False)
            revision.zero_grad()
            self.revision = revision

    def forward(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The loss; keeps the two gradients that `on_gradients` ranks by."""
        ranked = self._ranked(model) if self.mask == "prominence" and torch.is_grad_enabled() else []
        nearby = self.neighbours(model, images, targets)
        recorded = Recorded(model)
        natural = self.inner(recorded, images, targets)
        clean = recorded.logits
        robust = self.inner(recorded, nearby, targets) if ranked else recorded(nearby)
        attacked = recorded.logits
        loss = natural + self.beta * divergence(clean, attacked)
        if ranked:
            self._keep_gradients(ranked, natural, robust)
        if self.consistency:
            revision = viewed_as(model, self._revised(model))
            with torch.no_grad():
                answers = revision(images), revision(nearby)
            consistency = divergence(answers[0], clean) + divergence(answers[1], attacked)
            self.logged["consistency"] = consistency.detach()
            loss = loss + self.consistency * consistency
        return loss

    def on_gradients(self, model: nn.Module) -> None:
        """Zero the gradients of the conserved entries."""
        if self.mask == "random":
            for parameter in self._ranked(model):
                draws = self._draw(parameter.shape, parameter.device).to(parameter.device)
                conserve(parameter, over_processes(draws), self.frac)
        for parameter, (natural, robust) in self._gradients.items():
            natural, robust = over_processes(natural).abs(), over_processes(robust).abs()
            conserve(parameter, self.w_natural * natural + self.w_robust * robust, self.frac)
        self._gradients.clear()

    def _ranked(self, model: nn.Module) -> list[nn.Parameter]:
        """The trainable parameters of the layers asked for."""
        named = list(bare(model).named_parameters())
        chosen = [p for n, p in named if self.layers is None or any(part in n for part in self.layers)]
        if not chosen:
            names = ", ".join(name for name, _ in named[:6])
            raise ValueError(f"no parameter has a name with one of layers={self.layers} in it; there are {names}, ...")
        return [p for p in chosen if p.requires_grad]

    def _keep_gradients(self, parameters: list[nn.Parameter], natural: Tensor, robust: Tensor) -> None:
        for parameter in parameters:
            # Summed, as the gradients are that accumulate over batches.
            self._gradients.setdefault(parameter, (torch.zeros_like(parameter), torch.zeros_like(parameter)))
        for place, loss in enumerate((natural, robust)):
            gradients = torch.autograd.grad(loss * SCALE, parameters, retain_graph=True, allow_unused=True)
            for parameter, gradient in zip(parameters, gradients, strict=True):
                if gradient is not None:
                    self._gradients[parameter][place].add_(gradient)

    @torch.no_grad()
    def _revised(self, model: nn.Module) -> nn.Module:
        """The revision after its update."""
        current = bare(model)
        if self.revision is None:
            self.prepare(model)
        revision = self.revision
        assert revision is not None
        draw = self._draw(())
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            draw = draw.to(next(current.parameters()).device)
            torch.distributed.broadcast(draw, 0)  # one revision, not one for each process
        # A draw on the CPU is a number at no cost; one on the device is not read, as that would wait for it.
        share = (draw < self.update_probability) * (1 - self.decay)
        here = float(share) if share.device.type == "cpu" else None
        for average, weight in zip(revision.parameters(), current.parameters(), strict=True):
            average.lerp_(weight, share.to(average) if here is None else here)
        for mine, its in zip(revision.modules(), current.modules(), strict=True):
            mine.training = its.training
        return revision

    def _draw(self, shape: Sequence[int], like: torch.device | None = None) -> Tensor:
        device = like if self.generator is None else self.generator.device
        return torch.rand(shape, generator=self.generator, device=device)


def conserve(parameter: nn.Parameter, scores: Tensor, share: float) -> None:
    """Zero the gradient of `parameter` where the scores are lowest."""
    if parameter.grad is not None:
        parameter.grad.masked_fill_(lowest(scores, share), 0)


def lowest(scores: Tensor, share: float) -> Tensor:
    """Where the ⌊share · n⌋ lowest of the n scores are, of the shape of `scores`, whichever of equal ones."""
    flat = scores.reshape(-1)
    # 0.3 * 10 is a little below 3 in floating point.
    count = math.floor(share * flat.numel() + 1e-9)
    where = torch.zeros_like(flat, dtype=torch.bool)
    return where.index_fill_(0, flat.topk(count, largest=False, sorted=False).indices, True).view(scores.shape)


def over_processes(value: Tensor) -> Tensor:
    """The mean of `value` over the processes of a distributed run."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(value)
        value = value / torch.distributed.get_world_size()
    return value

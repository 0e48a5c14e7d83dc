"""A binary classifier for each class on the sphere of the features, without a softmax over classes."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kedge.catalog import Info
from kedge.heads.cosine import Cosine
from kedge.objectives._base import Objective, check_share, check_targets, check_weight
from kedge.objectives._views import bare, stated_outputs

info = Info(
    "SphereFace2: Binary Classification is All You Need for Deep Face Recognition", "Wen et al.", "ICLR", 2022,
    "https://arxiv.org/abs/2108.01513", "code",
)  # fmt: skip
EXAMPLE = "'[{Anchored: {alpha: 0}}, SphereFace2]' --arguments '{head: cosine}' --temperature true"


class SphereFace2(Objective):
    """λ/r softplus(-(z_y - r m)) + (1 - λ)/r Σ_(k≠y) softplus(z_k + r m), the mean over the images; 0 or more.

    z_k = r g(cos_k) + b are the logits of a network with the head `kedge.heads.Cosine`, `--arguments '{head: cosine}'`:
    C binary classifiers that share a bias b, each to be above its threshold by a margin m for images of its class and
    below by m for all others. The gradient with respect to cos_k is ω_k (σ(logit_k) - [k = y]) / B, with ω_y = λ and
    1 - λ else: r cancels. Prediction is argmax z.

    No softmax is trained, so a recipe with this objective sets `temperature`; from r = 40 on few classes the
    confidences without one mean nothing. An image of no class may be below all thresholds; for whether it is, see the
    score `max_logit`.

    Labels are class indices: in `Anchored` with `alpha: 0` or `mask_target: label`. Weights of the authors are those of
    10,000 faces and more (r 40, m 0.4; on MS1M λ 0.8, r 64, m 0.5); here they are for some ten classes.

    Args:
        lam: λ, the share of the true class, above 0 and below 1.
        scale: r, above 0.
        margin: m, 0 or more.
        power: t of g, above 0; 1 is a linear g.

    Raises:
        ValueError: for values out of range; by `prepare` for a network without such a head, or with several; when
            called, for targets that are no class indices.

    Source: Wen et al., ICLR 2022, arXiv 2108.01513, equation 5 with the additive margin of their code (form C), which
        multiplies by 50 more: learning rates are then others.
    """

    targets_kind = "indices"
    needs_temperature = True
    in_repr = ("lam", "scale", "margin", "power")

    def __init__(self, lam: float = 0.7, scale: float = 10.0, margin: float = 0.2, power: float = 3.0) -> None:
        super().__init__()
        check_share("lam", lam, "the share of the true class")
        if lam in (0, 1):
            raise ValueError(f"lam is above 0 and below 1, got {lam}: one of the two sides would not be trained")
        check_weight("margin", margin)
        for name, value in (("scale", scale), ("power", power)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} is a number above 0, got {value}")
        self.lam = lam
        self.scale = scale
        self.margin = margin
        self.power = power

    def prepare(self, model: nn.Module) -> None:
        """Set r and t of the head, and its bias where that is new, to the zero of dL/db at cos = 0."""
        head = head_of(model)
        if (classes := stated_outputs(model)) is not None and classes != len(head.weight):
            raise ValueError(f"the model has {classes} outputs, and its head of cosines {len(head.weight)}")
        if len(head.weight) < 2:
            raise ValueError("SphereFace2 tells a class from the others: two classes or more, not 1")
        with torch.no_grad():
            head.scale.fill_(self.scale)
            head.power.fill_(self.power)
            if not head.bias.any():
                head.bias.fill_(first_bias(len(head.weight), self.lam, self.scale, self.margin, self.power))

    def forward(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The mean of the weighted losses of all classifiers."""
        logits = model(images)
        if targets.ndim != 1:
            raise ValueError(
                f"SphereFace2 takes class indices [{len(logits)}], not probabilities {list(targets.shape)}"
            )
        labels = F.one_hot(check_targets(targets, logits), logits.shape[1])
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        return binary_losses(logits, labels, self.lam, self.scale, self.margin).sum(1).mean() / self.scale


def binary_losses(logits: Tensor, labels: Tensor, lam: float, scale: float, margin: float) -> Tensor:
    """The loss of each classifier `[B, C]` before it is divided by r, of logits without margin and labels 0 or 1."""
    own = labels.to(logits.dtype)
    return (1 - lam + (2 * lam - 1) * own) * F.softplus((1 - 2 * own) * logits + scale * margin)


def first_bias(classes: int, lam: float, scale: float, margin: float, power: float) -> float:
    """b where dL/db = 0 with all cosines 0, as in the authors' code."""
    z = lam / ((1 - lam) * (classes - 1))
    apart = 2 * scale * margin  # a_n - a_y of their log 2z - a_n - log(1 - z + sqrt((1 - z)² + 4 z e^(a_y - a_n)))
    root = math.sqrt((1 - z) ** 2 + 4 * z * math.exp(-apart))
    # For z above 1 the difference 1 - z + root cancels: it is 4 z e^(-apart) / (z - 1 + root).
    inside = math.log(1 - z + root) if z <= 1 else math.log(4 * z) - apart - math.log(z - 1 + root)
    return math.log(2 * z) - scale * (2 * 0.5**power - 1 + margin) - inside


def head_of(model: nn.Module) -> Cosine:
    """The head of a model or of a view of it. Raises ValueError where there is none, or several."""
    heads = [module for module in bare(model).modules() if isinstance(module, Cosine)]
    if len(heads) != 1:
        many = "none" if not heads else str(len(heads))
        raise ValueError(
            f"SphereFace2 needs a network with one last layer of cosines, and this one has {many}: say arguments "
            "{head: cosine}, on the command line --arguments '{head: cosine}'"
        )
    return heads[0]

"""The information bottleneck: a price on what the features of an image say beyond noise."""

import torch
from torch import Tensor, nn

from kedge.catalog import Info
from kedge.heads.vib import VIB as Head
from kedge.objectives._base import Objective, check_share, check_weight
from kedge.objectives._nesting import Wrapper
from kedge.objectives._recording import recording
from kedge.objectives._views import bare

info = Info(
    "Deep Variational Information Bottleneck", "Alemi et al.", "ICLR", 2017, "https://arxiv.org/abs/1612.00410",
    "derived",
)  # fmt: skip


class VIB(Wrapper):
    """inner(x, y) + β KL(N(μ, σ²) ‖ N(0, 1)), the mean over the images, for a network with the head `kedge.heads.VIB`.

    In a recipe `arguments: {head: vib}` makes one, on the command line `--arguments '{head: vib}'`.

    KL = ½ Σ (μ² + σ² - 1 - ln σ²) over the features, in nats. β grows from 0 to `weight` over the first `anneal` of
    training, in proportion, and stays there. The mean and the variance are those of the model's last call in the inner
    objective; the loss of the labels sees one draw. Nests in `Anchored`: each pair of image and reference has a mean
    and a variance of its own.

    Args:
        inner: the loss of the logits.
        weight: β, 0 or more.
        anneal: the share of training over which β grows, 0 to 1; 0: it is `weight` from the start.

    Raises:
        ValueError: for values out of range; when training starts, for a model without such a head, with several, or
            compiled.

    Source: Alemi et al., "Deep Variational Information Bottleneck", ICLR 2017, arXiv 1612.00410; annealed as in Lu et
        al., "Dynamics Generalization via Information Bottleneck in Deep Reinforcement Learning", arXiv 2008.00614.
    """

    in_repr = ("weight", "anneal")

    def __init__(self, inner: Objective, weight: float = 0.01, anneal: float = 0.5) -> None:
        super().__init__(inner)
        check_weight("weight", weight)
        check_share("anneal", anneal, "a share of training")
        self.weight = weight
        self.anneal = anneal

    @property
    def beta(self) -> float:
        """β of this step, by `progress`."""
        return self.weight * (min(1.0, self.progress / self.anneal) if self.anneal else 1.0)

    def prepare(self, model: nn.Module) -> None:
        """See that the model has such a head."""
        head_of(model)

    def forward(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The inner loss and the price; `logged["kl"]` is the KL divergence without β."""
        name = head_of(model)
        with recording(model, [f"{name}.mean", f"{name}.log_variance"]) as of_head:
            loss: Tensor = self.inner(model, images, targets)
        if len(of_head) < 2:
            raise ValueError("VIB needs a call of the model in train mode, where its head draws: model.train()")
        # An objective inside may have put outliers after the images.
        mean, log_variance = (each[: len(images)] for each in of_head.values())
        price = divergence(mean, log_variance).mean()
        self.logged["kl"] = price.detach()
        return loss + self.beta * price


def divergence(mean: Tensor, log_variance: Tensor) -> Tensor:
    """KL(N(μ, σ²) ‖ N(0, 1)) `[B]` in nats of `mean` `[B, D]` and ln σ² `[B, D]`, in float32 or wider."""
    mean, log_variance = (each.to(torch.promote_types(each.dtype, torch.float32)) for each in (mean, log_variance))
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1)


def head_of(model: nn.Module) -> str:
    """The name of the head of a model or of a view of it. Raises ValueError where there is none, or several."""
    names = [name for name, module in bare(model).named_modules() if isinstance(module, Head)]
    if len(names) != 1:
        many = "none" if not names else f"{len(names)}: {', '.join(names)}"
        raise ValueError(
            f"VIB needs a network with one head that draws, and this one has {many}: say "
            "arguments {head: vib}, on the command line --arguments '{head: vib}'"
        )
    return names[0]

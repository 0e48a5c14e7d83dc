"""PRESTO's penalty: what tells ordered classes apart should change little from one boundary to the next."""

from torch import Tensor, nn

from kedge.catalog import Info
from kedge.heads.presto import Presto as Head
from kedge.objectives._base import Objective, check_weight
from kedge.objectives._nesting import Wrapper
from kedge.objectives._views import bare

info = Info(
    "Predicting Rare Events by Shrinking Towards Proportional Odds", "Faletto and Bien", "ICML", 2023,
    "https://arxiv.org/abs/2305.18700", "abstract",
)  # fmt: skip


class Presto(Wrapper):
    """inner(x, y) + λ Σ_k ‖β_(k+1) - β_k‖₁, over the boundaries of ordered classes, for a network with `heads.Presto`.

    A recipe has `ordered: [low, medium, high]`, `arguments: {head: presto}` and `objective: [{Presto: {weight: 0.01}},
    CrossEntropy]`. The inner loss is a mean over images, so λ is for each image, whatever the size of the batch. λ = 0
    fits every boundary by itself, a large one makes the odds proportional: all β_k equal. With two classes there is one
    boundary, and nothing is added. `logged["differences"]` is the sum without λ.

    Our reading: the sum is over differences alone, β_1 itself is left to weight decay; the L1 norm is followed by its
    subgradient, so differences become small and not exactly 0.

    Args:
        inner: the loss of the logits, such as CrossEntropy, which is then the likelihood.
        weight: λ, 0 or more; choose it on validation images.

    Raises:
        ValueError: for a weight out of range; when training starts, for a model without such a head, or with several.

    Source: Faletto and Bien, ICML 2023, arXiv 2305.18700.
    """

    in_repr = ("weight",)
    classifies = True

    def __init__(self, inner: Objective, weight: float = 0.01) -> None:
        super().__init__(inner)
        check_weight("weight", weight)
        self.weight = weight

    def prepare(self, model: nn.Module) -> None:
        """See that the model has such a head."""
        head_of(model)

    def forward(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The inner loss and the penalty."""
        loss: Tensor = self.inner(model, images, targets)
        differences = head_of(model).differences.float().abs().sum()
        self.logged["differences"] = differences.detach()
        return loss + self.weight * differences


def head_of(model: nn.Module) -> Head:
    """The head of a model or of a view of it. Raises ValueError where there is none, or several."""
    heads = [module for module in bare(model).modules() if isinstance(module, Head)]
    if len(heads) != 1:
        many = "none" if not heads else str(len(heads))
        raise ValueError(
            f"Presto needs a network with one head whose boundaries have directions of their own, and this one has "
            f"{many}: say arguments {{head: presto}}, on the command line --arguments '{{head: presto}}', and ordered"
        )
    return heads[0]

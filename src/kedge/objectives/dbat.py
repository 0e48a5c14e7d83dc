"""A further network that is right on the labels and contradicts an earlier one on unlabelled images."""

from torch import Tensor, nn

from kedge.catalog import Info
from kedge.objectives._base import Objective, check_weight
from kedge.objectives._beside import beside, mean_over, present
from kedge.objectives._frozen import Frozen
from kedge.objectives._nesting import Wrapper

info = Info(
    "Agree to Disagree: Diversity through Disagreement for Better Transferability", "Pagliardini et al.", "ICLR", 2023,
    "https://arxiv.org/abs/2202.04414", "code",
)  # fmt: skip
EXAMPLE = "'[{DBAT: {against: RUN}}, CrossEntropy]' --anchored false --extra '{unlabelled: FOLDER}'"
LEAST = 1e-7


class DBAT(Wrapper):
    """inner(x, y) + α mean_b -log(p₁ (1 - p) + (1 - p₁) p + 1e-7), the latter over unlabelled images.

    p₁ is the largest probability of an earlier model, trained before and fixed, and p that of this model for the same
    class: the term is small where one of the two says this class and the other another one. So networks are trained one
    after another, each an ordinary run, and the next solves the labels in another way where unlabelled images allow it.
    A third contradicts two: nest this objective twice, with α/2 each. What they disagree on says which one is right,
    once a few of these images have labels.

    It works where the unlabelled images set what the labels confuse against each other, and does harm where they do
    not: then the only way to disagree is to be wrong; see Benoit et al., "Unraveling the key components of OOD
    generalization via diversification", ICLR 2024.

    Images and unlabelled ones go through the network as one batch, the latter from the stream `unlabelled`, as many; in
    an anchored model with the reference of the image in their place. The earlier model answers in eval mode. Where
    masking takes away an image's target, the term leaves out that row.

    Args:
        inner: the loss of the training images.
        against: the earlier model, with the same classes; a copy is kept, frozen. In a recipe a run, a model folder or
            timm/NAME.
        alpha: α, 0 or more; 0 is the inner objective.

    Raises:
        ValueError: for a weight out of range, an inner objective for regression; when training starts, for an earlier
            model of other classes or another image size; when called, for unlabelled images of another shape or
            number, and a model in eval mode.
        RuntimeError: when called without unlabelled images.

    Source: Pagliardini et al., arXiv 2202.04414; the term is "v1" of the authors' code.
    """

    reads_logits = True
    streams = ("unlabelled",)
    in_repr = ("alpha",)
    changes_images = True
    classifies = True

    def __init__(self, inner: Objective, against: nn.Module, alpha: float = 1.0) -> None:
        super().__init__(inner)
        check_weight("alpha", alpha)
        self.mixes_targets = getattr(inner, "mixes_targets", False)
        self.earlier = Frozen(against, "previous model")
        self.alpha = alpha

    @property
    def passes(self) -> float:
        """Those of the inner objective, one for the unlabelled images, and a forward pass of the earlier model."""
        return super().passes + (4 / 3 if self.alpha else 0)

    def prepare(self, model: nn.Module) -> None:
        """See that the earlier model is one for the model."""
        self.earlier.check(model)

    def forward(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The inner loss, and the price of agreement."""
        if self.alpha == 0:
            return self.inner(model, images, targets)
        both = beside(self, model, images)
        loss = self.inner(both, images, targets)
        earlier = self.earlier.beside(model, both.outliers)
        if earlier.shape != both.answers.shape:
            raise ValueError(
                f"the previous model gives {list(earlier.shape)} logits, the model {list(both.answers.shape)}"
            )
        term = mean_over(present(model, images), agreement(earlier.float().softmax(1), both.answers.float().softmax(1)))
        self.logged["agreement"] = term.detach()
        return loss + self.alpha * term


def agreement(earlier: Tensor, own: Tensor) -> Tensor:
    """-log(p₁ (1 - p) + (1 - p₁) p + 1e-7) `[B]` of probabilities `[B, C]`, p₁ the largest earlier one."""
    first, label = earlier.max(1)
    second = own.gather(1, label[:, None])[:, 0]
    return -(first * (1 - second) + (1 - first) * second + LEAST).log()

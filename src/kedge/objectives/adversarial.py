"""Training on adversarial images alone."""

from torch import Tensor, nn

from kedge.catalog import Info
from kedge.objectives._attacking import Attacking

info = Info(
    "Towards Deep Learning Models Resistant to Adversarial Attacks", "Madry et al.", "ICLR", 2018,
    "https://arxiv.org/abs/1706.06083",
)  # fmt: skip


class Adversarial(Attacking):
    """Train on adversarial images alone: the inner loss at `attack(model, images, targets)`.

    Source: Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018; with a trained
    model and `kedge.optim.SlowStartFastDecay`, "A Simple Fine-tuning Is All You Need", arXiv 2012.13628. Anchored:
    `Anchored(Adversarial(CrossEntropy(), attack), alpha=0)`. Arguments and errors as of `Attacking`.
    """

    def forward(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The inner loss of the model, in the mode it is in, on the images of the attack."""
        return self.inner(model, self.perturb(model, images, targets), targets)

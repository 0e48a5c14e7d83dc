"""TRADES: a clean loss plus the distance between the answers for an image and for its worst neighbour."""

import torch
from torch import Tensor, nn

from kedge.attacks import Attack, as_attack
from kedge.attacks._losses import check_batch, check_labels, evaluated
from kedge.catalog import Info
from kedge.objectives._attacking import Attacking
from kedge.objectives._base import Objective, check_weight
from kedge.objectives._divergence import divergence
from kedge.objectives._nesting import check_same_images
from kedge.objectives._views import Recorded

info = Info(
    "Theoretically Principled Trade-off between Robustness and Accuracy", "Zhang et al.", "ICML", 2019,
    "https://arxiv.org/abs/1901.08573",
)  # fmt: skip


class TRADES(Attacking):
    """Clean loss plus the distance between the answers for an image and for its worst neighbour.

    inner(model, x, y) + β KL(p(x) ‖ p(x')), where x' maximises that divergence within eps: what the attack climbs is
    the cross-entropy with p(x) of eval mode, which differs from it by a constant. Source: Zhang et al., "Theoretically
    Principled Trade-off between Robustness and Accuracy", ICML 2019, equation 5, β = 1/λ.

    Args:
        inner: the loss of the clean images.
        attack: a PGD with a random start, at x itself the divergence has no gradient; its targets are the model's
            probabilities.
        beta: 6 in the authors' main result; more is more robust and less accurate.
        hold, ramp, generator: as of `Attacking`.

    Raises:
        ValueError: as of `Attacking`; without a random start; for another loss than "ce", and an inner objective that
            shows the model other images, such as `OutlierExposure`.
    """

    reads_logits = True
    in_repr: tuple[str, ...] = ("beta", *Attacking.in_repr)

    def __init__(
        self,
        inner: Objective,
        attack: Attack | None = None,
        beta: float = 6.0,
        hold: float = 0.0,
        ramp: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(inner, attack, hold, ramp, generator)
        check_same_images(inner, type(self).__name__)
        check_weight("beta", beta)
        climbs = as_attack(attack).loss
        if climbs is not None and not as_attack(attack).random_start:
            raise ValueError("TRADES needs random_start: at the image itself the divergence has no gradient")
        if climbs not in (None, "ce"):
            raise ValueError('TRADES climbs the divergence from the clean answer: loss="ce", not targeted')
        self.beta = beta

    @property
    def passes(self) -> float:
        """Those of the attack, of the clean and of the adversarial loss; the clean answer is a third of one."""
        return super().passes + 1 + 1 / 3

    def forward(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The clean loss plus β times the divergence."""
        nearby = self.neighbours(model, images, targets)
        recorded = Recorded(model)
        loss = self.inner(recorded, images, targets)
        return loss + self.beta * divergence(recorded.logits, model(nearby))

    def neighbours(self, model: nn.Module, images: Tensor, targets: Tensor) -> Tensor:
        """The images near `images` whose answers differ most from theirs; `targets` are only looked at, once."""
        if not self._looked:
            check_batch(images, targets)
        with torch.no_grad(), evaluated(model):
            answers = model(images).float().softmax(1)
        if not self._looked:
            check_labels(answers.shape[1], targets)
        if torch.is_autocast_enabled(images.device.type):
            # Weights cast under no_grad carry no gradient, and autocast would use them again.
            torch.clear_autocast_cache()
        return self.perturb(model, images, answers)

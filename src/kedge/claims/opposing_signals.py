"""Where the loss of training on all images at once rises, two small groups move against each other, step by step."""

from functools import cache

import torch
from torch import Tensor

from kedge.auditing.opposing import edge_losses, largest_rise, opposing_groups
from kedge.auditing.opposing import info as info
from kedge.claims import Claim, Criterion, cut
from kedge.claims._images import packed

COUNT, SIDE, GROUP, EARLY = 600, 16, 12, 20
EARLIER, RISE = "an early step", "the largest rise"


class OpposingSignals(Claim):
    """CIFAR-10 at 16 px, 600 images; an MLP 768-100-100-10, gradient descent at rate 0.12 for 400 steps.

    Looked at is the step at which the mean loss rises most, and the next one. The control is step 20, long before the
    edge of stability. Groups are the 12 images whose loss rises and the 12 whose loss falls most.
    """

    part = "measuring"
    data = ("cifar10",)
    variants = (EARLIER, RISE)
    seeds = 3
    criteria = (
        Criterion("what an image gains at a step it loses at the next", "correlation", RISE, None, "below", -0.8),
        Criterion("2 % of the images carry a tenth of the change", "carried", RISE, None, "above", 10),
        Criterion("a class is three times as frequent in each group", "times as frequent", RISE, None, "above", 3),
    )

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """Correlation of the changes at two steps in a row; the share carried, in percent; classes in the groups."""
        losses, labels = _losses(seed)
        step = largest_rise(losses[:-1]) if variant == RISE else EARLY
        assert step is not None
        groups = opposing_groups(losses[step], losses[step + 1], GROUP)
        following = losses[step + 2].double() - losses[step + 1].double()
        shares = torch.bincount(labels, minlength=10) / len(labels)
        frequent = [
            float((torch.bincount(labels[places], minlength=10) / max(1, len(places)) / shares).max())
            for places in (groups.worse, groups.better)
        ]
        return {
            "correlation": float(torch.corrcoef(torch.stack([groups.change, following]))[0, 1]),
            "carried": 100 * groups.carried,
            "times as frequent": min(frequent),
            "rises": float((losses.double().mean(1).diff() > 0).sum()),
        }


@cache
def _losses(seed: int) -> tuple[Tensor, Tensor]:
    images = cut(packed("cifar10", "train", SIDE, 3), COUNT, seed)
    pixels = torch.stack([images[i][0] for i in range(len(images))]).flatten(1).float() / 255
    return edge_losses((pixels - pixels.mean()) / pixels.std(), images.labels, 10, seed=seed), images.labels

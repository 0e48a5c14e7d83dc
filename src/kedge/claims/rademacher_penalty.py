"""A Rademacher penalty on what is learnt without labels saves labels afterwards; in effect it penalises norms."""

from functools import cache

import torch
from torch import Tensor, nn

from kedge.catalog import Info
from kedge.claims import Claim, Criterion, cut, packed
from kedge.claims._looped import Labelled, accuracy, network, pixels, trained
from kedge.data import ImageSet, rotated
from kedge.seeds import generator

info = Info(
    "On the Generalization Ability of Unsupervised Pretraining", "Deng, Hong, Zhou and Mahdavi", "AISTATS", 2024,
    "https://arxiv.org/abs/2403.06871", "abstract",
)  # fmt: skip

SIDE, UNLABELLED, LABELS, TEST = 14, 2000, 10, 2000  # LABELS of each class
EPOCHS, BATCH, RATE = 4, 128, 0.05
TUNED, TUNED_RATE, CHOICES = 100, 0.2, 2  # until the labelled images are learnt; CHOICES of these
WEIGHT, SIGNS = 0.3, 8
SCRATCH, TURNS, PENALTY, NORM = "no pretraining", "quarter turns", "quarter turns, penalty", "quarter turns, norm"


class RademacherPenalty(Claim):
    """Fashion-MNIST at 14 px: quarter turns of 2,000 images told apart for four epochs; then ten labels of each class.

    The penalty is the empirical Rademacher complexity of the features h of a batch, E_σ ‖(1/B) Σ σᵢ h(xᵢ)‖ with random
    signs σ, eight draws a step, at 0.3; that is our reading of a paper of which only the abstract was read. The mean of
    its square is (1/B²) Σ ‖h(xᵢ)‖², so that by Jensen's inequality it is at most RMS(‖h‖) / √B, and by Khintchine's at
    least 0.71 of that: **in effect it is a norm penalty on features**, and "norm" puts the bound itself in its place.
    A seed is one pretraining, fine-tuned on two choices of labelled images, the same for all variants.

    The evidence is weak: a penalty on pretraining can save labels only where pretraining does, which is judged first.
    """

    part = "measuring"
    variants = (SCRATCH, TURNS, PENALTY, NORM)
    criteria = (
        Criterion("the pretext helps at all", "accuracy", TURNS, SCRATCH),
        Criterion("the penalty helps", "accuracy", PENALTY, TURNS),
        Criterion("no more than a norm does", "accuracy", PENALTY, NORM, "near", 1),
    )
    data = ("fashion_mnist",)
    seeds = 4

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """Accuracies in percent after fine-tuning; of pretraining turns told apart, norm of features, its share."""
        drawn = cut(_clothes("train"), 10_000, seed)
        test = pixels(_clothes("test").subset(range(TEST)))
        start, measures = network(seed, SIDE), {}
        if variant != SCRATCH:
            learnt = pretrained(variant, pixels(rotated(drawn.subset(range(UNLABELLED)))), seed)
            split(start)[0].load_state_dict(split(learnt)[0].state_dict())
            turned = pixels(rotated(_clothes("test").subset(range(BATCH))))
            with torch.no_grad():
                features = split(learnt)[0](turned[0])
            penalty = rademacher(features, signs(256, len(features), generator(seed, "judged")))
            measures = {
                "turns told apart": accuracy(learnt, turned),
                "norm of features": float(features.norm(dim=1).square().mean().sqrt()),
                "penalty, share of its bound": float(penalty / bound(features)),
            }
        images, labels = pixels(drawn.subset(range(UNLABELLED, len(drawn))))
        of_class = [(labels == label).nonzero()[:, 0] for label in range(10)]
        parts = [torch.cat([each[i * LABELS : (i + 1) * LABELS] for each in of_class]) for i in range(CHOICES)]
        chosen = [(images[part], labels[part]) for part in parts]
        tuned = [(trained(start, data, TUNED, TUNED_RATE, seed), data) for data in chosen]
        return {
            "accuracy": sum(accuracy(model, test) for model, _ in tuned) / CHOICES,
            "labelled images learnt": sum(accuracy(model, data) for model, data in tuned) / CHOICES,
            **measures,
        }


@cache
def _clothes(part: str) -> ImageSet:
    return packed("fashion_mnist", part, SIDE)


def split(model: nn.Module) -> tuple[nn.Sequential, nn.Module]:
    """What makes the features `[B, D]`, and the linear layer."""
    *body, head = model.children()
    return nn.Sequential(*body), head


def pretrained(variant: str, data: Labelled, seed: int) -> nn.Module:
    """A network after four epochs of telling quarter turns apart, with what the variant adds to the loss."""
    (images, labels), draws = data, generator(seed, "pretraining")
    model = network(seed, SIDE, classes=4)
    body, head = split(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(labels), generator=draws).split(BATCH):
            features, drawn = body(images[rows]), signs(SIGNS, len(rows), draws)
            loss = nn.functional.cross_entropy(head(features), labels[rows])
            if variant == PENALTY:
                loss = loss + WEIGHT * rademacher(features, drawn)
            elif variant == NORM:
                loss = loss + WEIGHT * bound(features)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return model


def signs(count: int, images: int, draws: torch.Generator) -> Tensor:
    """Random signs, a row a draw: `[count, images]`."""
    return torch.randint(2, (count, images), generator=draws).float() * 2 - 1


def rademacher(features: Tensor, drawn: Tensor) -> Tensor:
    """The mean over rows of signs `[S, B]` of ‖(1/B) Σ σᵢ hᵢ‖, of features `[B, D]`."""
    return (drawn @ features / len(features)).norm(dim=1).mean()


def bound(features: Tensor) -> Tensor:
    """RMS(‖h‖) / √B: the root of the mean square of what `rademacher` averages, over all signs."""
    return features.norm() / len(features)

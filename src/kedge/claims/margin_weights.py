"""Counting images more where another model's margin is small does harm where small margins are wrong labels."""

from functools import cache

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from kedge.catalog import Info
from kedge.claims import Claim, Criterion, cut, packed
from kedge.claims._looped import Labelled, accuracy, network, pixels
from kedge.data import ImageSet, with_label_noise
from kedge.seeds import derive_seed, generator

info = Info(
    "Margin Adaptive DPO: Leveraging Reward Model for Granular Control in Preference Optimization", "Rho", "arXiv",
    2025, "https://arxiv.org/abs/2510.05342", "abstract",
)  # fmt: skip

COUNT, SIDE, SHARE = 1000, 14, 0.2  # training images; pixels a side; of wrong labels
EPOCHS, EARLY = 15, 5  # of training, and of the reference model
BATCH, RATE, MOMENTUM = 32, 0.05, 0.9
WRONG = ", 20 % wrong"
SIGNS = {"uniform": 0.0, "small margins up": -1.0, "large margins up": 1.0}


class MarginWeights(Claim):
    """Fashion-MNIST at 14 px, 1,000 images, labels right or a fifth of them wrong; weights by a reference's margins.

    The paper weights pairs of texts by a reward model. Here the reference is a network as the one trained, from other
    first weights, after 5 epochs on the same images and labels; the margin m is its logit of the label less the largest
    other logit. An image counts by σ(-(m - median) / standard deviation), divided by the mean over images: small
    margins up; the control is uniform, and "large margins up" has the other sign. That form is our reading: the paper
    says that hard pairs are amplified and easy ones damped. 15 epochs of SGD with momentum, two convolutions without
    batch norm. "weight of wrong labels" is their mean weight, 1 where they count as others do.
    """

    part = "measuring"
    data = ("fashion_mnist",)
    variants = tuple(name + more for more in ("", WRONG) for name in SIGNS)
    seeds = 5
    criteria = (
        Criterion("harmful where labels are wrong", "accuracy", "small margins up" + WRONG, "uniform" + WRONG, "below",
                  1),
        Criterion("for it is them that it counts", "weight of wrong labels", "small margins up" + WRONG, None, "above",
                  1),
        Criterion("no gain and no harm where they are right", "accuracy", "small margins up", "uniform", "near", 1),
        Criterion("nor with large margins up where they are wrong", "accuracy", "large margins up" + WRONG,
                  "uniform" + WRONG, "near", 1),
    )  # fmt: skip

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """Accuracies in percent, on 10,000 test images with right labels and on the training labels as they are."""
        share = SHARE if variant.endswith(WRONG) else 0.0
        train, wrong = clothes(seed, share)
        weights = by_margin(reference(seed, share), train[1], SIGNS[variant.removesuffix(WRONG)])
        model = trained(network(seed, SIDE), train, weights, EPOCHS, seed)
        values = {"accuracy": accuracy(model, _test()), "training accuracy": accuracy(model, train)}
        return values | ({"weight of wrong labels": float(weights[wrong].mean())} if share else {})


@cache
def _packed(split: str) -> ImageSet:
    return packed("fashion_mnist", split, SIDE)


@cache
def _test() -> Labelled:
    return pixels(_packed("test"))


@cache
def clothes(seed: int, share: float) -> tuple[Labelled, Tensor]:
    """The training images of a seed with their labels, and which of these are wrong, bool `[N]`."""
    right = cut(_packed("train"), COUNT, seed)
    given = with_label_noise(right, share, seed)
    return pixels(given), given.labels != right.labels


@cache
def reference(seed: int, share: float) -> Tensor:
    """The reference model's logits of the training images `[N, C]`."""
    (images, labels), _ = clothes(seed, share)
    own = derive_seed(seed, "reference")
    model = trained(network(own, SIDE), (images, labels), torch.ones(len(labels)), EARLY, own)
    with torch.no_grad():
        return torch.as_tensor(model(images))


def by_margin(logits: Tensor, labels: Tensor, sign: float) -> Tensor:
    """Weights of images `[N]` of mean 1: σ(sign · (m - median m) / sd m) over its mean, by margins m of the labels."""
    own = logits.gather(1, labels[:, None])[:, 0]
    margins = own - logits.scatter(1, labels[:, None], -torch.inf).amax(1)
    weights = (sign * (margins - margins.median()) / margins.std()).sigmoid()
    return weights / weights.mean()


def trained(model: nn.Module, data: Labelled, weights: Tensor, epochs: int, seed: int) -> nn.Module:
    """The model after epochs of SGD on the mean of weighted losses."""
    images, labels = data
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=MOMENTUM)
    draws = generator(seed, "order")
    for _ in range(epochs):
        for rows in torch.randperm(len(labels), generator=draws).split(BATCH):
            optimizer.zero_grad()
            losses = cross_entropy(model(images[rows]), labels[rows], reduction="none")
            (weights[rows] * losses).mean().backward()
            optimizer.step()
    return model

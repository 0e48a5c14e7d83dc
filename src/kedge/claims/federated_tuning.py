"""Of clients with different images, a global model tuned by each is better than the global one, and than none."""

from functools import cache

import torch
from torch import nn

from kedge.catalog import Info
from kedge.claims import Claim, Criterion
from kedge.claims._federated import LR, SIDE, clients, rounds
from kedge.claims._looped import accuracy, network, trained
from kedge.seeds import derive_seed

info = Info(
    "Fine-tuning is Fine in Federated Learning", "Cheng, Chadha and Duchi", "arXiv", 2021,
    "https://arxiv.org/abs/2108.07313", "abstract",
)  # fmt: skip

STRENGTHS = (0.03, 0.3, 3.0)
EPOCHS = 10  # of tuning


class FederatedTuning(Claim):
    """Digits over ten clients, Dirichlet(0.3) of each class; ten rounds of FedAvg, then ten local epochs of each.

    "tuned" (FTFA) is plain training from the global weights, "tuned, pulled" (RTFA) has `PullTowards` them, of 0.03,
    0.3 and 3 at the strength that is best on validation images of all clients. "local" trains from new weights, for as
    many epochs as a client would that is in every round. Accuracy is over the test images of all clients, each image
    judged by its client's model.
    """

    methods = ("objectives.pull_towards",)
    variants = ("global", "local", "tuned", "tuned, pulled")
    criteria = (
        Criterion("tuning beats the global model", "accuracy", "tuned", "global", "above", 5),
        Criterion("tuning beats local training", "accuracy", "tuned", "local", "above", 2),
        Criterion("a pull changes little", "accuracy", "tuned, pulled", "tuned", "near", 1),
    )

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """Accuracy on the clients' own test images."""
        if variant == "tuned, pulled":
            strength = max(STRENGTHS, key=lambda each: _mean(seed, _models(variant, seed, each), "val"))
            return {"accuracy": _mean(seed, _models(variant, seed, strength), "test"), "strength": strength}
        return {"accuracy": _mean(seed, _models(variant, seed), "test")}


@cache
def _global(seed: int) -> nn.Module:
    return rounds("FedAvg", seed)[0]


def _models(variant: str, seed: int, strength: float = 0.0) -> list[nn.Module]:
    """A model for each client."""
    there = clients(seed)
    if variant == "global":
        return [_global(seed)] * len(there)
    if variant == "local":
        start, epochs = network(derive_seed(seed, "global") % 2**31, SIDE), 50 + EPOCHS
    else:
        start, epochs = _global(seed), EPOCHS
    pull = {"strength": strength} if strength else None
    return [trained(start, c.train, epochs, LR, derive_seed(seed, "tune", i), pull) for i, c in enumerate(there)]


def _mean(seed: int, models: list[nn.Module], part: str) -> float:
    """Over the images of all clients."""
    shares, sizes = [], []
    for client, model in zip(clients(seed), models, strict=True):
        data = getattr(client, part)
        shares.append(accuracy(model, data))
        sizes.append(len(data[1]))
    return float(torch.tensor(shares).double() @ torch.tensor(sizes).double()) / sum(sizes)

"""Simulated clients in one process: digits shared out unevenly, and rounds of local training and averaging."""

import copy
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from kedge.claims._images import packed
from kedge.claims._looped import Labelled, network, pixels, trained
from kedge.seeds import derive_seed, generator

__all__ = ["CLIENTS", "LR", "SIDE", "Client", "clients", "rounds"]

CLIENTS, CONCENTRATION = 10, 0.3
SIDE, LR, EPOCHS = 8, 0.1, 5
PULL, ASCENT, DECAY = 0.1, 0.1, 0.998  # λ, ρ, and of the rate from round to round, as FedSpeed was released


class Client(NamedTuple):
    """What a client has: images to train on, to choose by, and to be judged by."""

    train: Labelled
    val: Labelled
    test: Labelled


@cache
def clients(seed: int) -> list[Client]:
    """The training images of digits over ten clients, each class by shares ~ Dirichlet(0.3); 60, 15 and 25 % each."""
    images, labels = pixels(packed("digits", "train"))
    draws = generator(seed, "clients")
    owner = torch.zeros(len(labels), dtype=torch.long)
    for label in range(10):
        members = (labels == label).nonzero()[:, 0]
        gammas = torch._standard_gamma(torch.full((CLIENTS,), CONCENTRATION), generator=draws).clamp(min=1e-6)
        owner[members] = torch.multinomial(gammas / gammas.sum(), len(members), replacement=True, generator=draws)
    shared = []
    for number in range(CLIENTS):
        own = (owner == number).nonzero()[:, 0]
        own = own[torch.randperm(len(own), generator=draws)]
        ends = [int(0.6 * len(own)), int(0.75 * len(own))]
        parts = own.tensor_split(ends)
        shared.append(Client(*[(images[part], labels[part]) for part in parts]))
    return [client for client in shared if min(len(part[1]) for part in client) > 0]


def rounds(way: str, seed: int, count: int = 10, after: tuple[int, ...] = ()) -> tuple[nn.Module, dict[int, nn.Module]]:
    """The global model after rounds of half the clients each, and those after some rounds.

    Of FedSpeed the server takes off the mean over all clients of ĝ / λ, as its code does.
    """
    there = clients(seed)
    model = network(derive_seed(seed, "global") % 2**31, SIDE)
    size = len(parameters_to_vector(model.parameters()))
    duals = [torch.zeros(size) for _ in there]
    draws, kept = generator(seed, "active"), {}
    for number in range(1, count + 1):
        active = torch.randperm(len(there), generator=draws)[: len(there) // 2].tolist()
        before, sent = parameters_to_vector(model.parameters()).detach(), []
        for i in active:
            own = trained(
                model,
                there[i].train,
                EPOCHS,
                LR * DECAY ** (number - 1),
                derive_seed(seed, number, i),
                _pull(way, duals[i]),
                ASCENT if way in ("FedSAM", "FedSpeed") else 0.0,
            )
            ends = parameters_to_vector(own.parameters()).detach()
            if way == "FedSpeed":
                duals[i] = duals[i] - PULL * (ends - before)
            sent.append(ends)
        mean = torch.stack(sent).mean(0)
        if way == "FedSpeed":
            mean = mean - torch.stack(duals).mean(0) / PULL
        model = copy.deepcopy(model)
        vector_to_parameters(mean, model.parameters())
        if number in after:
            kept[number] = model
    return model, kept


def _pull(way: str, dual: Tensor) -> dict[str, object] | None:
    if way == "FedProx":
        return {"strength": PULL}
    return {"strength": PULL, "linear": dual} if way == "FedSpeed" else None

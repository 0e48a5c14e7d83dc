"""A claim about addition modulo 47: a small network that learns a part of the table by heart, or the rule."""

import time

import torch
from torch import Tensor, nn

from kedge.claims._base import Claim
from kedge.objectives import CrossEntropy, Objective
from kedge.optim import AdamW
from kedge.seeds import derive_seed, generator

__all__ = ["Modular"]

MODULUS = 47
SHARE = 0.4


class Modular(Claim):
    """A claim whose variants train on 40 % of the table of (a + b) mod 47, full batch, and are judged on the rest.

    The network is 94-128-128-47 without biases on one-hot pairs, as that of Prieto et al. (arXiv 2501.04697) in small,
    with AdamW without decay. Measured are the accuracies, the share of training pairs whose loss is exactly 0, and the
    mean size of a logit.

    Attributes:
        steps: of the optimizer, one for each pass over the training pairs.
    """

    steps = 2500

    def objective(self, variant: str) -> Objective:
        """What a variant minimises."""
        return CrossEntropy()

    def optimizer(self, variant: str, parameters: list[nn.Parameter]) -> torch.optim.Optimizer:
        """The rule of a variant."""
        return AdamW(parameters, lr=3e-3, weight_decay=0)

    def dtype(self, variant: str) -> torch.dtype:
        """The precision of a variant's weights and losses."""
        return torch.float32

    def run(self, variant: str, seed: int) -> dict[str, float]:
        """Train, and measure; the cost is the time of this process for a step."""
        network = fresh_network(seed).to(self.dtype(variant))
        inputs, targets = table()
        inputs = inputs.to(self.dtype(variant))
        order = torch.randperm(len(targets), generator=generator(seed, "table"))
        train, test = order.split([int(SHARE * len(order)), len(order) - int(SHARE * len(order))])
        objective, own = self.objective(variant), list(network.parameters())
        optimizer = self.optimizer(variant, own)
        began = time.process_time()
        for _ in range(self.steps):
            optimizer.zero_grad()
            objective(network, inputs[train], targets[train]).backward()
            optimizer.step()
        seconds = (time.process_time() - began) / self.steps
        with torch.no_grad():
            logits = network(inputs)
            losses = torch.stack([objective(_Answers(row), row, label) for row, label in zip(
                logits[train].split(1), targets[train].split(1), strict=True)])  # fmt: skip
        right = 100 * (logits.argmax(1) == targets).double()
        return {
            "train accuracy": float(right[train].mean()),
            "test accuracy": float(right[test].mean()),
            "zero losses": 100 * float((losses == 0).double().mean()),
            "mean |logit|": float(logits[train].abs().mean()),
            "seconds a step": seconds,
        }


def table() -> tuple[Tensor, Tensor]:
    """All pairs as one-hot vectors `[2209, 94]`, and their sums `[2209]`."""
    a, b = torch.cartesian_prod(torch.arange(MODULUS), torch.arange(MODULUS)).unbind(1)
    one_hot = torch.eye(MODULUS)
    return torch.cat([one_hot[a], one_hot[b]], 1), (a + b) % MODULUS


def fresh_network(seed: int) -> nn.Sequential:
    """The network with first weights drawn by the seed."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(derive_seed(seed, "weights"))
        layers = [nn.Linear(*sizes, bias=False) for sizes in ((2 * MODULUS, 128), (128, 128), (128, MODULUS))]
    return nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])


class _Answers(nn.Module):
    """A model that has answered already: logits to themselves."""

    def __init__(self, logits: Tensor) -> None:
        super().__init__()
        self.logits = logits

    def forward(self, images: Tensor) -> Tensor:
        """The logits."""
        return self.logits

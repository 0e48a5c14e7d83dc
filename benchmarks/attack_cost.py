"""What a training step with a k-step attack costs, in plain training steps of the same run.

    OMP_NUM_THREADS=1 python -m benchmarks.attack_cost

A step is the objective with its attack, backward and the optimizer. Target for `Adversarial`: at most (k + 1) / 0.95
plain steps. Time of the CPU is taken beside time on the clock, as a machine is seldom idle.

Waits for the device are looked for after the first batch, in two ways: the operations that read a value into Python
are counted, and the step is run on tensors without values, where a read raises.
"""

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.side_by_side import Times, finish, options, parser, ratio, row, seconds, table
from kedge import networks
from kedge.anchoring import anchor, plain
from kedge.attacks import FGSM, PGD
from kedge.layout import channels_last
from kedge.objectives import TRADES, Adversarial, Anchored, Attacking, CrossEntropy, Objective

EPS = 8 / 255
# (network, its arguments, batch, precision of the step)
SETTINGS: list[tuple[str, dict[str, Any], int, str]] = [
    ("kedge_resnet_small", {"width": 16}, 128, "32"),
    ("kedge_resnet_small", {"width": 16}, 128, "bf16"),
    ("resnet18", {}, 32, "32"),
]


def pgd(steps: int) -> PGD:
    """The usual attack of training."""
    return PGD(EPS, steps, step_size=2 / 255)


# (k; whether the model is anchored; the objective)
STEPS: dict[str, tuple[int, bool, Callable[[], Objective]]] = {
    "plain": (0, False, CrossEntropy),
    "Adversarial, FGSM-RS": (1, False, lambda: Adversarial(CrossEntropy(), FGSM(EPS, variant="rs"))),
    "Adversarial, PGD-1": (1, False, lambda: Adversarial(CrossEntropy(), pgd(1))),
    "Adversarial, PGD-3": (3, False, lambda: Adversarial(CrossEntropy(), pgd(3))),
    "Adversarial, PGD-10": (10, False, lambda: Adversarial(CrossEntropy(), pgd(10))),
    "TRADES, PGD-10": (10, False, lambda: TRADES(CrossEntropy(), pgd(10))),
    "anchored": (0, True, lambda: Anchored(CrossEntropy(), alpha=0)),
    "anchored Adversarial, PGD-3": (3, True, lambda: Anchored(Adversarial(CrossEntropy(), pgd(3)), alpha=0)),
    "anchored Adversarial, PGD-10": (10, True, lambda: Anchored(Adversarial(CrossEntropy(), pgd(10)), alpha=0)),
    "masked Adversarial, PGD-3": (3, True, lambda: Anchored(Adversarial(CrossEntropy(), pgd(3)), alpha=0.25)),
}


class Waits(TorchDispatchMode):
    """Counts what would wait for a device: values read by Python, and shapes that depend on values."""

    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count, and go on."""
        reads = torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default
        self.count += function in reads
        return function(*args, **(kwargs or {}))


def step(model: nn.Module, objective: Objective, images: Tensor, labels: Tensor, precision: str) -> Callable[[], None]:
    """One training step, to be called again and again."""
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

    def once() -> None:
        optimizer.zero_grad()
        with torch.autocast(images.device.type, torch.bfloat16, enabled=precision == "bf16"):
            loss = objective(model, images, labels)
        loss.backward()
        optimizer.step()

    return once


def waits(objective: Objective, model: nn.Module, images: Tensor, labels: Tensor) -> tuple[int, int]:
    """Reads of values in the attack, and in a whole step of `objective` that is not its first.

    Raises where a step without values would: of the reads that remain, none is there on another device than the CPU.
    """
    objective(model, images, labels)
    with FakeTensorMode(allow_non_fake_inputs=True):
        objective(model, torch.rand(images.shape), torch.randint(10, labels.shape))
    with Waits() as attack:
        for each in objective.modules():
            if isinstance(each, Attacking):
                each.perturb(model, images, labels)
    with Waits() as whole:
        objective(model, images, labels).backward()
    return attack.count, whole.count


def measure(
    name: str, arguments: dict[str, Any], batch: int, precision: str, args: argparse.Namespace
) -> tuple[Times, Times, dict[str, tuple[int, int]]]:
    """(seconds on the clock, seconds of the CPU, waits) of every step of one network."""
    torch.manual_seed(0)
    images = torch.rand(batch, 3, 32, 32).contiguous(memory_format=torch.channels_last).to(args.device)
    labels = torch.randint(10, (batch,)).to(args.device)

    def model(anchored: bool) -> nn.Module:
        network = networks.create(name, 10, arguments=arguments)
        made = anchor(network, references=images[:4].cpu()) if anchored else plain(network, example=(3, 32, 32))
        return channels_last(made.train().to(args.device), always=True)

    calls, waited = {}, {}
    for title, (k, anchored, objective) in STEPS.items():
        if args.quick and k > 3:
            continue
        few = images[:8], labels[:8]
        if args.device.type == "cpu":  # the same operations as elsewhere, where a step without values needs none
            waited[title] = waits(objective(), model(anchored), *few)
        calls[title] = step(model(anchored), objective(), images, labels, precision)
        calls[title]()
    clock: Times = {title: [] for title in calls}
    spent: Times = {title: [] for title in calls}
    order, draw = list(calls), random.Random(0)
    for _ in range(args.rounds):
        draw.shuffle(order)
        for title in order:
            used = time.process_time()
            clock[title].append(seconds(calls[title], args.device))
            spent[title].append(time.process_time() - used)
    return clock, spent, waited


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print the tables, write the JSON."""
    args = options(parser("attack_cost", __doc__, rounds=15, quick=2), arguments)
    rows, lines = [], []
    for name, of_network, full, precision in SETTINGS[:1] if args.quick else SETTINGS:
        batch = 16 if args.quick else full
        clock, spent, waited = measure(name, of_network, batch, precision, args)
        network = f"{name}, 32 px, batch {batch}, precision {precision}"
        for title in clock:
            k, _, make = STEPS[title]
            milliseconds = 1000 * statistics.median(clock[title])
            used = ratio(spent, title, "plain")["median"]
            lines.append([network, title, k, make().passes, milliseconds, used, *waited.get(title, (None, None))])
            if title != "plain":
                target = (k + 1) / 0.95 if "Adversarial" in title else None
                rows.append(row(f"{title}, {network}", "plain training step", ratio(clock, title, "plain"), target))
    head = ["network", "step", "k", "passes", "ms", "plain steps of CPU time", "waits of the attack", "reads of a step"]
    return finish(args, rows, [table("Steps with an attack", head, lines)])


if __name__ == "__main__":
    sys.exit(main())

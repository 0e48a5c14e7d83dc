"""What a training step with a k-step attack costs, in plain training steps of the same run.

    OMP_NUM_THREADS=1 python -m benchmarks.attack_cost

The steps of a round follow one another in an order that is drawn anew, and a cost is the quotient with the plain step
of the same round; time on the CPU is taken beside time on the clock, as a machine is seldom idle. A step is the
objective with its attack, backward and the optimizer. Target for `Adversarial`: at most (k + 1) / 0.95 plain steps.

Waits for the device are looked for after the first batch, in two ways: the operations that read a value into Python
are counted, and the step is run on tensors without values, where a read raises.
"""

import argparse
import json
import os
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from kedge import networks
from kedge.anchoring import anchor, plain
from kedge.attacks import FGSM, PGD
from kedge.evaluation.provenance import machine, now
from kedge.files import write_text
from kedge.objectives import TRADES, Adversarial, Anchored, Attacking, CrossEntropy, Objective

RESULTS = Path(__file__).parent / "results"
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
    name: str, arguments: dict[str, Any], batch: int, precision: str, rounds: int
) -> dict[str, dict[str, float | None]]:
    """The costs of every step of one network in plain steps, median and quartiles over the rounds."""
    torch.manual_seed(0)
    images = torch.rand(batch, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(10, (batch,))

    def model(anchored: bool) -> nn.Module:
        network = networks.create(name, 10, arguments=arguments)
        made = anchor(network, references=images[:4]) if anchored else plain(network, example=(3, 32, 32))
        return made.train().to(memory_format=torch.channels_last)

    calls, waited = {}, {}
    for title, (_, anchored, objective) in STEPS.items():
        few = images[:8], labels[:8]
        waited[title] = waits(objective(), model(anchored), *few)
        calls[title] = step(model(anchored), objective(), images, labels, precision)
        calls[title]()
    clock: dict[str, list[float]] = {title: [] for title in STEPS}
    spent: dict[str, list[float]] = {title: [] for title in STEPS}
    order, draw = list(STEPS), random.Random(0)
    for _ in range(rounds):
        draw.shuffle(order)
        for title in order:
            began, used = time.perf_counter(), time.process_time()
            calls[title]()
            clock[title].append(time.perf_counter() - began)
            spent[title].append(time.process_time() - used)
    rows: dict[str, dict[str, float | None]] = {}
    for title, (k, _, make) in STEPS.items():
        rows[title] = {"k": k, "passes": make().passes, "target": (k + 1) / 0.95 if "Adversarial" in title else None}
        for kind, times in (("cpu", spent), ("clock", clock)):
            cost = [mine / theirs for mine, theirs in zip(times[title], times["plain"], strict=True)]
            low, middle, high = statistics.quantiles(cost, n=4)
            rows[title] |= {f"{kind}: plain steps": middle, f"{kind}: low": low, f"{kind}: high": high}
            rows[title][f"{kind}: milliseconds"] = 1000 * statistics.median(times[title])
        rows[title]["waits"], rows[title]["reads of the step on the CPU"] = waited[title]
    return rows


def table(results: dict[str, dict[str, dict[str, float | None]]]) -> list[str]:
    """Median and quartiles of the cost in plain steps."""
    lines = ["| network | step | most allowed | of CPU time | of the clock | waits |", "| --- | --- |" + " ---: |" * 4]
    for network, rows in results.items():
        for title, row in rows.items():
            costs = [
                f"{row[f'{k}: plain steps']:.2f} ({row[f'{k}: low']:.2f} to {row[f'{k}: high']:.2f})"
                for k in ("cpu", "clock")
            ]
            allowed = "-" if row["target"] is None else f"{row['target']:.2f}"
            lines.append(f"| {network} | {title} | {allowed} | {costs[0]} | {costs[1]} | {row['waits']} |")
    return lines


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--out", type=Path, default=RESULTS / "attack_cost.json")
    args = parser.parse_args()
    results = {}
    for name, arguments, batch, precision in SETTINGS:
        title = f"{name}, 32 px, batch {batch}, precision {precision}"
        results[title] = measure(name, arguments, batch, precision, args.rounds)
        record = {
            "command": f"OMP_NUM_THREADS=1 python -m benchmarks.attack_cost --rounds {args.rounds}",
            "created": now(),
            "machine": machine(),
            "load": os.getloadavg()[0],
            "results": results,
            "table": table(results),
        }
        write_text(args.out, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    print("\n".join(record["table"]))


if __name__ == "__main__":
    main()

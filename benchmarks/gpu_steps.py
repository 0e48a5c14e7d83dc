"""Steps of training beside each other: anchored and masked beside standard, bf16 beside 32 bits, compiled or not."""

import argparse
import copy
import gc
import statistics
from collections.abc import Callable
from typing import Any

import torch

import kedge
from benchmarks.side_by_side import in_turn, ratio, row
from benchmarks.train_step import step
from kedge import networks
from kedge.objectives import Anchored, CrossEntropy, Objective

Row = dict[str, Any]
STEPS = 5  # in one measurement of time


def timed_steps(
    args: argparse.Namespace, masking: Row, batch: int, compiled: bool = False
) -> tuple[list[Row], list[list[Any]]]:
    """Ratios of steps, and milliseconds; with `compiled` those of compiled networks beside the others, in bf16."""
    name, channels, side = ("kedge_resnet_small", 1, 8) if args.quick else ("kedge_resnet18", 3, 32)
    shape = (batch, channels, side, side)
    shown = torch.rand(shape, device=args.device).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(8, (batch,), device=args.device)
    network = networks.create(name, 8, channels, arguments={"width": 4} if args.quick else {})
    models: dict[str, Any] = {"standard": kedge.plain(network, example=shape[1:])}
    models["anchored"] = models["masked"] = kedge.anchor(network, references=shown[:4].cpu())
    losses: dict[str, Objective] = {"standard": CrossEntropy(), "anchored": Anchored(CrossEntropy(), alpha=0.0)}
    losses["masked"] = Anchored(CrossEntropy(), **masking)

    def several(kind: str, bf16: bool, compile_it: bool = False) -> Callable[[], None]:
        model: Any = copy.deepcopy(models[kind])
        once = step(torch.compile(model) if compile_it else model, losses[kind], shown, labels, bf16)
        return lambda: [once() for _ in range(STEPS)] and None

    calls = {f"{kind}, bf16": several(kind, True) for kind in ("standard", "masked")}
    if compiled:
        calls |= {f"{kind}, bf16, compiled": several(kind, True, True) for kind in ("standard", "masked")}
        pairs = [(f"{kind}, bf16, compiled", f"{kind}, bf16") for kind in ("standard", "masked")]
    else:
        calls |= {"anchored, bf16": several("anchored", True), "standard, bf16, again": several("standard", True)}
        calls |= {f"{kind}, 32": several(kind, False) for kind in ("standard", "masked")}
        pairs = [(f"{kind}, bf16", "standard, bf16") for kind in ("anchored", "masked")]
        pairs += [("masked, 32", "standard, 32"), ("standard, bf16", "standard, 32"), ("masked, bf16", "masked, 32")]
        pairs += [("standard, bf16, again", "standard, bf16")]
    times = in_turn(calls, args.rounds, args.device)
    what = f"{name}, {side} px, batch {batch}"
    rows = [row(f"step of {a}", b, ratio(times, a, b), note=what) for a, b in pairs]
    return rows, [[call, 1000 * statistics.median(values) / STEPS] for call, values in times.items()]


def fitting_batch(args: argparse.Namespace, masking: Row, largest: int) -> tuple[int, list[Row], list[list[Any]]]:
    """The speed of steps at the largest batch that there is memory for."""
    batch = largest
    while True:
        try:
            return batch, *timed_steps(args, masking, batch)
        except torch.OutOfMemoryError:
            if batch <= 32:
                raise
        batch //= 2  # out of the handler, which holds what was allocated
        forget()


def forget() -> None:
    """Free what nobody holds any more, on the device too."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

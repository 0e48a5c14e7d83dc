"""How cost grows: the exponent of time (or memory) against size, for each size that a user chooses; 1 is linear.

    python -m benchmarks.growth

In each round every size is timed once, in an order drawn anew, and a line is fitted to the logarithms; the table gives
the median slope of the rounds and its quartiles. A slope of at most 1.1 is called linear or better: fixed costs make it
less than 1, caches that run out a little more. Images are drawn at random.
"""

import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import timm
import torch

import kedge
import kedge.networks  # registers kedge_resnet_small
from benchmarks.side_by_side import exponent, finish, in_turn, options, parser, peak_bytes, seconds, spread, table
from kedge.anchoring import choose_references
from kedge.data import TensorSet
from kedge.data.corruptions import CBAR, NAMES, corrupt
from kedge.evaluation import evaluate

Calls = dict[float, Callable[[], Any]]
LINEAR = 1.1
LASTING = 0.05  # seconds
ALIKE = ("gaussian_noise", "brightness", "contrast", "pixelate")


def model(device: torch.device, side: int = 32, references: int = 1, residuals: int = 0) -> kedge.AnchoredModel:
    """An anchored small network with so many references and residuals."""
    torch.manual_seed(0)
    network = timm.create_model("kedge_resnet_small").eval()
    made = kedge.anchor(network, references=torch.rand(references, 3, side, side)).to(device)
    made.residuals = torch.rand(residuals, 3, side, side) - 0.5 if residuals else None
    return made


def pictures(count: int, side: int = 32) -> TensorSet:
    """A set of random images in ten classes."""
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, side, side), generator=draw, dtype=torch.uint8)
    return TensorSet(pixels, torch.arange(count) % 10, [str(n) for n in range(10)], name="random")


def prediction(device: torch.device, small: bool) -> dict[str, Calls]:
    """`predict` against everything that it depends on."""
    counts, sides = (2, 4, 8) if small else (4, 8, 16, 32), (16, 24, 32) if small else (32, 48, 64, 96)
    batch = 4 if small else 16
    banked, images = model(device, references=counts[-1]), torch.rand(batch, 3, 32, 32, device=device)
    plain = timm.create_model("kedge_resnet_small").eval().to(device)
    sized = {side: torch.rand(batch // 2, 3, side, side, device=device) for side in sides}
    many = torch.rand(8 * batch, 3, 32, 32, device=device)
    return {
        "`predict` against the number of references": {
            k: lambda k=k: banked.predict(images, references=k) for k in counts
        },
        "`predict` against pixels of an image": {
            side * side: lambda x=x: banked.predict(x, references=4) for side, x in sized.items()
        },
        "the plain network alone against pixels of an image": {
            side * side: lambda x=x: plain(x) for side, x in sized.items()
        },
        "`predict` against the size of the batch": {
            n * batch: lambda n=n: banked.predict(many[: n * batch], references=1)
            for n in ((1, 4) if small else (1, 2, 4, 8))
        },
    }


def transduction(device: torch.device, small: bool) -> dict[str, Calls]:
    """The best-reference search against the bank and the residuals, the table of pairs ready and not."""
    counts = (50, 100, 200) if small else (250, 500, 1000, 2000)
    images = torch.rand(4 if small else 32, 3, 32, 32, device=device)
    more = {n: model(device, references=n, residuals=counts[1]) for n in counts}
    seen = {n: model(device, references=counts[1], residuals=n) for n in counts}

    def anew(n: int) -> None:
        more[n].references[0, 0, 0, 0] = float(torch.rand(()))
        more[n].predict(images, references="blt")

    return {
        "best-reference search against the number of references": {
            n: lambda m=m: m.predict(images, references="blt") for n, m in more.items()
        },
        "best-reference search against the number of residuals": {
            n: lambda m=m: m.predict(images, references="blt") for n, m in seen.items()
        },
        "the same with another bank each time, against references": {n: lambda n=n: anew(n) for n in counts},
    }


def choosing(small: bool) -> dict[str, Calls]:
    """`choose_references` against the size of the set and of the bank."""
    sizes, ks = (50, 200) if small else (1000, 2000, 4000), (10, 20, 40) if small else (10, 20, 40, 80)
    # Of a size at which the smallest set does not fit into the cache of a processor either.
    sets = {n: pictures(n, 32 if small else 64) for n in sizes}
    largest = sets[sizes[-1]]
    calls: dict[str, Calls] = {}
    for how in ("stratified", "kcenter", "mean"):
        calls[f"`choose_references`, {how}, against the set"] = {
            n: lambda images=images, how=how: choose_references(images, ks[1], how) for n, images in sets.items()
        }
        calls[f"`choose_references`, {how}, against k"] = {
            k: lambda k=k, how=how: choose_references(largest, k, how) for k in ks
        }
    return calls


def corrupting(device: torch.device, small: bool) -> dict[str, Calls]:
    """A sweep of four corruptions of like cost against its severities, and each corruption against pixels."""
    network = timm.create_model("kedge_resnet_small").eval().to(device)
    severities = range(1, 3 if small else 6)
    data, sides = pictures(40 if small else 200), (96, 128) if small else (96, 144, 224, 320)
    sized = {side: torch.rand(1 if small else 2, 3, side, side, device=device) for side in sides}
    calls: dict[str, Calls] = {
        "sweep of corruptions (`evaluate`) against the number of conditions": {
            4 * s: lambda s=s: evaluate(network, data, shift=ALIKE, severities=range(1, s + 1), resamples=0)
            for s in severities
        },
        "all corruptions of severity 3 against pixels of an image": {
            side * side: lambda x=x: [corrupt(x, name, 3) for name in (*NAMES, *CBAR)] for side, x in sized.items()
        },
    }
    if not small:
        for name in (*NAMES, *CBAR):
            calls[f"{name} against pixels of an image"] = {
                side * side: lambda x=x, name=name: corrupt(x, name, 3) for side, x in sized.items()
            }
    return calls


def evaluating(device: torch.device, small: bool) -> dict[str, Calls]:
    """`evaluate` on clean images against their number."""
    network = timm.create_model("kedge_resnet_small").eval().to(device)
    sets = {n: pictures(n) for n in ((50, 200) if small else (500, 1000, 2000, 4000))}
    return {
        "`evaluate` against the number of images": {
            n: lambda images=images: evaluate(network, images, shift=()) for n, images in sets.items()
        },
    }


def lasting(calls: Calls, least: float) -> dict[str, Callable[[], Any]]:
    """The calls, each as often as lets the shortest take `least` seconds, or its time would be mostly noise."""
    shortest = next(iter(calls.values()))
    shortest()
    times = min(100, math.ceil(least / max(seconds(shortest), 1e-6))) or 1
    return {str(size): lambda call=call: [call() for _ in range(times)] for size, call in calls.items()}


def line(what: str, sizes: Sequence[float], slopes: dict[str, float]) -> list[Any]:
    """A row of the table."""
    middle, low, high = (slopes[key] for key in ("median", "low", "high"))
    verdict = "linear or better" if middle <= LINEAR else "more than linear"
    return [what, f"{sizes[0]:g} to {sizes[-1]:g}", middle, f"{low:.2f} to {high:.2f}", verdict]


@torch.inference_mode()
def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write the JSON."""
    args = options(parser("growth", __doc__, rounds=5, quick=1), arguments)
    device, small = args.device, args.quick
    rows: list[list[Any]] = []
    single: list[list[Any]] = []
    for parts in (
        prediction(device, small), transduction(device, small), choosing(small), corrupting(device, small),
        evaluating(device, small),
    ):  # fmt: skip
        for what, calls in parts.items():
            times = in_turn(lasting(calls, 0 if small else LASTING), args.rounds, device, warm=1)
            slopes = [exponent(list(calls), costs) for costs in zip(*times.values(), strict=True)]
            found = line(what, list(calls), spread(slopes))
            (single if what.split()[0] in (*NAMES, *CBAR) else rows).append(found)
            print(*found, sep=", ", file=sys.stderr)
    counts = (1, 8) if small else (1, 4, 16, 64)
    banked, images = model(device, references=counts[-1]), torch.rand(32, 3, 32, 32, device=device)
    held = [peak_bytes(lambda k=k: banked.predict(images, references=k), device) for k in counts]
    rows.append(line("memory of `predict` against the number of references", counts, spread([exponent(counts, held)])))
    head = ["time of", "sizes", "exponent", "quartiles", "which is"]
    tables = [table("Growth of cost with size: exponents", head, rows)]
    if single:
        note = (
            "`lines` draws more lines the larger the side, each in a pass over the whole image: its exponent nears 1.5."
        )
        tables.append(table("Each corruption: exponents", head, single, note))
    return finish(args, tables=tables)


if __name__ == "__main__":
    sys.exit(main())

"""How often the verdict on the first screen of the page is false, and how often it is given, in simulation.

    python -m benchmarks.page_verdict

Test sets are drawn from models whose confidence tells nothing, something or much of what is wrong, and of which the
true share of wrong answers among the more certain half is known. At the border itself, 5 %, "usable" and "not usable
yet" should each be said of at most 5 % of the sets; of better and worse models they should be said often.
"""

import math
from collections import Counter
from collections.abc import Sequence

import torch
from scipy import optimize, stats
from torch import Tensor

from benchmarks.side_by_side import finish, options, parser, table
from kedge.evaluation.verdict import verdict

RISK = 0.05
SLOPES = {"nothing": 0.0, "something": 1.0, "much": 2.0}
SHARES = (0.01, 0.02, RISK, 0.1, 0.2)


def chance(certain: Tensor, slope: float, level: float) -> Tensor:
    """The chance that an answer is wrong, by how certain it is (standard normal)."""
    return torch.sigmoid(level - slope * certain)


def level_for(share: float, slope: float) -> float:
    """The level at which `share` of the answers in the more certain half is wrong."""
    half = torch.tensor(stats.norm.ppf(0.5 + (torch.arange(2000).double() + 0.5) / 4000))
    return float(optimize.brentq(lambda level: float(chance(half, slope, level).mean()) - share, -30, 30))


def kinds(share: float, slope: float, images: int, rounds: int) -> Counter[str]:
    """What is said of `rounds` sets of images."""
    level, said = level_for(share, slope), Counter[str]()
    for seed in range(rounds):
        generator = torch.Generator().manual_seed(seed)
        certain = torch.randn(images, generator=generator, dtype=torch.double)
        wrong = torch.rand(images, generator=generator, dtype=torch.double) < chance(certain, slope, level)
        said[verdict(certain, ~wrong, RISK)["kind"]] += 1
    return said


def main(arguments: Sequence[str] | None = None) -> int:
    """Simulate, print the tables, write the JSON."""
    args = options(parser("page_verdict", __doc__, rounds=1000, quick=20), arguments)
    sizes = [100] if args.quick else [20, 60, 100, 200, 500, 1000]
    head = ["confidence tells", "wrong in the half, %", *(f"{size:,} images" for size in sizes)]
    usable, unusable = [], []
    for words, slope in SLOPES.items():
        for share in SHARES:
            said = [kinds(share, slope, size, args.rounds) for size in sizes]
            where = [words, 100 * share]
            usable.append([*where, *(round(100 * (own["all"] + own["half"]) / args.rounds, 1) for own in said)])
            unusable.append([*where, *(round(100 * own["none"] / args.rounds, 1) for own in said)])
    error = 100 * math.sqrt(0.05 * 0.95 / args.rounds)
    note = f"{args.rounds} sets of each; at the border, 5 % wrong, it should be 5 or less, of which 5 is ± {error:.1f}."
    tables = [
        table("Called usable, in % of sets", head, usable, f"{note} Above 5 % wrong it is false."),
        table("Called not usable yet, in % of sets", head, unusable, f"{note} Below 5 % wrong it is false."),
    ]
    return finish(args, tables=tables)


if __name__ == "__main__":
    raise SystemExit(main())

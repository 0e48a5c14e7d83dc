"""What the accuracy over folds promises: how often its 95 % interval holds the accuracy on photos nobody has seen.

    KEDGE_DATA=path/to/packs python -m benchmarks.folds

A few photos of a pack are drawn, dealt into folds as `kedge train --folds` deals them, and judged by linear probes on
the published network that were fitted to the other folds. The truth is counted on all other photos of the pack: of the
models of the folds, on average, which is what folds measure; and of one that was fitted to all of the few, which is
what a run hands over. A probe is where training begins and what is kept if training does not help; what training adds
is not measured here, nor that the share of it is chosen by the same photos.
"""

import statistics
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from benchmarks.published_networks import published
from benchmarks.side_by_side import finish, options, parser, table
from kedge import data
from kedge.binomial import accuracy_interval, folds_interval
from kedge.data import ImageSet
from kedge.probing.features import features
from kedge.probing.heads import find_head
from kedge.probing.probe import ProbeData, fit_probe
from kedge.training.folds import fold_places

STRENGTH = 1e-2
# (pack, network, side)
PACKS = (("trashnet160", "tf_efficientnet_lite0", 96), ("cifar10", "cifar10_resnet20", 32))
FEW = (30, 60, 90)
MOST = 4000  # photos of a pack


def pool(name: str, network: str, side: int, most: int) -> tuple[ImageSet, Tensor]:
    """Photos of a pack and their features `[N, D]`."""
    images = data.load(name, "train" if name == "trashnet160" else "test", side, 3)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    images = images.subset(order[:most])
    model = published(network)
    return images, features(model, find_head(model), images, 64)


def right(train: Tensor, labels: Tensor, classes: int, others: Tensor, truth: Tensor) -> Tensor:
    """Whether a probe fitted to some answers others rightly, `[M]` bool."""
    probe = fit_probe(ProbeData(train[None], labels, classes), strength=STRENGTH)
    return (others.double() @ probe.weight.double().T + probe.bias.double()).argmax(1) == truth


def draw(images: ImageSet, seen: Tensor, few: int, folds: int, seed: int) -> dict[str, float]:
    """The accuracy over folds of some photos, the ends of its interval, and both truths."""
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    own, rest = order[:few], order[few:]
    labels, classes = images.labels, len(images.class_names)
    hits, count, of_folds = 0, 0, []
    for places in fold_places(images.subset(own), folds, seed):
        held = own[places]
        train = own[~torch.isin(own, held)]
        known = right(
            seen[train], labels[train], classes, seen[torch.cat((held, rest))], labels[torch.cat((held, rest))]
        )
        hits, count = hits + int(known[: len(held)].sum()), count + len(held)
        of_folds.append(float(known[len(held) :].double().mean()))
    whole = right(seen[own], labels[own], classes, seen[rest], labels[rest])
    return {
        "right": hits,
        "judged": count,
        "folds": statistics.fmean(of_folds),
        "whole": float(whole.double().mean()),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw, print the table, write the JSON."""
    args = options(parser("folds", __doc__, rounds=200, quick=2), arguments)
    rows = []
    for name, network, side in PACKS[1:] if args.quick else PACKS:
        images, seen = pool(name, network, side, 300 if args.quick else MOST)
        for few in FEW[:1] if args.quick else FEW:
            for folds in (3, 5):
                draws = [draw(images, seen, few, folds, seed) for seed in range(args.rounds)]
                rows.append([name, few, folds, *summary(draws)])
                print(rows[-1], file=sys.stderr, flush=True)
    head = [
        "photos of", "photos", "folds", "accuracy over folds, %", "of the models of the folds, %", "of all photos, %",
        "Wilson's interval holds that of all, %", "the interval of folds holds it, %", "lies above, %", "below, %",
    ]  # fmt: skip
    note = f"{args.rounds} draws of each; 95 % is promised, and nothing of photos that are not like these."
    return finish(args, tables=[table("What the accuracy over folds promises", head, rows, note)])


def summary(draws: list[dict[str, float]]) -> list[float]:
    """Means and shares in %."""
    measured = [d["right"] / d["judged"] for d in draws]
    truths = [[d[key] for d in draws] for key in ("folds", "whole")]
    means = [statistics.fmean(values) for values in (measured, *truths)]
    shares = []
    for interval in (accuracy_interval, folds_interval):
        ends = [interval(int(d["right"]), int(d["judged"])) for d in draws]
        shares.append(statistics.fmean(low <= d["whole"] <= high for d, (low, high) in zip(draws, ends, strict=True)))
    shares.append(statistics.fmean(low > d["whole"] for d, (low, _) in zip(draws, ends, strict=True)))
    shares.append(statistics.fmean(high < d["whole"] for d, (_, high) in zip(draws, ends, strict=True)))
    return [round(100 * value, 1) for value in (*means, *shares)]


if __name__ == "__main__":
    raise SystemExit(main())

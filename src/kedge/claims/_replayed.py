"""What the claims about classes that come later share: MNIST in five tasks of two digits on features of clothes."""

import tempfile
from functools import cache

import torch
from torch import Tensor

from kedge.claims._images import cut, held_apart, packed
from kedge.probing.added_classes import fit_on_replayed
from kedge.probing.class_features import ClassFeatures, class_features
from kedge.probing.features import features
from kedge.probing.heads import find_head
from kedge.probing.probe import Probe, ProbeData, fit_probe
from kedge.seeds import generator
from kedge.training import fit

__all__ = ["accuracy", "jointly", "one_after_another", "side_by_side"]

SIDE, TASKS = 14, 5
TRAIN, VAL, TEST = 2500, 500, 2000
SAMPLES = 150
Split = tuple[Tensor, Tensor]


@cache
def splits(seed: int) -> dict[str, Split]:
    """Features `[N, 96]` and labels of 2,500, 500 and 2,000 digits; which come first is drawn by the seed."""
    clothes = held_apart("fashion_mnist", seed, 2000, 300, SIDE)
    with tempfile.TemporaryDirectory(prefix="kedge-claim-") as folder:
        recipe = {
            "model": "kedge_resnet_small",
            "arguments": {"width": 24},
            "anchored": False,
            "objective": ["CrossEntropy"],
            "epochs": 3,
            "batch_size": 50,
            "optimizer": {"sgd": {"lr": 0.05, "momentum": 0.9}},
            "keep": "last",
            "seed": seed,
            "device": "cpu",
            "workers": 0,
            "runs": folder,
            "name": "body",
        }
        model = fit(recipe, sets=(clothes.train, clothes.val), progress=False, report=False).model
    head = find_head(model)
    drawn = cut(packed("mnist", "train", SIDE), TRAIN + VAL, seed)
    test = packed("mnist", "test", SIDE).subset(range(TEST))
    parts = {"train": drawn.subset(range(TRAIN)), "val": drawn.subset(range(TRAIN, len(drawn))), "test": test}
    order = torch.randperm(10, generator=generator(seed, "order of digits")).argsort()
    return {name: (features(model, head, part), order[part.labels]) for name, part in parts.items()}


def jointly(seed: int) -> Probe:
    """The head fitted on all photos at once."""
    (rows, labels), judged = splits(seed)["train"], splits(seed)["val"]
    return fit_probe(ProbeData(rows[None], labels, 10, balanced=True), judged)


def side_by_side(seed: int) -> Probe:
    """The head of each task fitted on the photos of its two digits alone, the ten logits side by side."""
    heads = [fit_on_replayed(None, *_task(seed, "train", n), 2, _task(seed, "val", n)) for n in range(TASKS)]
    biases = [head.bias for head in heads if head.bias is not None]
    return Probe(torch.cat([head.weight for head in heads]), torch.cat(biases), 0.0, "", {})


def one_after_another(seed: int, how: str, photos: int = 10) -> Probe:
    """The head after five tasks, fitted anew after each on its photos and on what is kept of the earlier digits."""
    old: ClassFeatures | None = None
    for number in range(TASKS):
        rows, labels = _task(seed, "train", number)
        probe = fit_on_replayed(old, rows, labels, 2, _task(seed, "val", number), samples=SAMPLES, seed=seed)
        new = class_features(rows, labels, 2, how, photos, TASKS * seed + number)
        old = new if old is None else old.joined(new)  # type: ignore[arg-type]
    return probe


def accuracy(probe: Probe, seed: int) -> dict[str, float]:
    """On the test images, in percent: of all, and of the digits that came first."""
    rows, labels = splits(seed)["test"]
    assert probe.bias is not None
    right = ((rows @ probe.weight.T + probe.bias).argmax(1) == labels).double()
    return {"accuracy": 100 * float(right.mean()), "first task": 100 * float(right[labels < 2].mean())}


def _task(seed: int, part: str, number: int) -> Split:
    """Features and labels, 0 and 1, of the two digits of a task."""
    rows, labels = splits(seed)[part]
    own = labels // 2 == number
    return rows[own], labels[own] - 2 * number

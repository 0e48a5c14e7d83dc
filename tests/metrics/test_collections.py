"""Our metrics side by side in one `torchmetrics.MetricCollection`, which lets metrics of equal states share one."""

import itertools

import pytest
import torch
from torchmetrics import MetricCollection

from kedge import metrics

CLASSES = 6
MAKES = {
    "top1": lambda: metrics.Accuracy(),
    "top2": lambda: metrics.Accuracy(top_k=2),
    "top5": lambda: metrics.Accuracy(top_k=5),
    "nll": lambda: metrics.NLL(),
    "brier": lambda: metrics.Brier(),
    "ece": lambda: metrics.ECE(),
    "ece6": lambda: metrics.ECE(bins=6),
    "rmsce": lambda: metrics.RMSCE(),
    "mce": lambda: metrics.MCE(),
    "ece_mass": lambda: metrics.EqualMassECE(),
    "ece_mass6": lambda: metrics.EqualMassECE(bins=6),
    "smooth_ece": lambda: metrics.SmoothECE(),
    "ece_classwise": lambda: metrics.ClasswiseECE(CLASSES),
    "ece_classwise6": lambda: metrics.ClasswiseECE(CLASSES, bins=6),
    "brier_parts": lambda: metrics.BrierDecomposition(CLASSES),
    "brier_parts6": lambda: metrics.BrierDecomposition(CLASSES, bins=6),
    "auroc": lambda: metrics.AUROC(),
    "fpr95": lambda: metrics.FPR95(),
    "aupr_in": lambda: metrics.AUPRIn(),
    "aupr_out": lambda: metrics.AUPROut(),
    "aurc": lambda: metrics.AURC(),
    "excess_aurc": lambda: metrics.AURC(excess=True),
}


def batch(n: int, seed: int) -> dict[str, torch.Tensor]:
    """What every metric of ours may ask for, by the names of their arguments."""
    generator = torch.Generator().manual_seed(seed)
    probs = (2 * torch.randn(n, CLASSES, generator=generator)).softmax(1)
    labels = torch.randint(CLASSES, (n,), generator=generator)
    return arguments(probs, labels, torch.rand(n, generator=generator) < 0.5)


def perfect(n: int) -> dict[str, torch.Tensor]:
    """Saturated right answers: no error, no loss, nothing to tell most measures apart by."""
    labels = torch.arange(n) % CLASSES
    return arguments(torch.eye(CLASSES)[labels], labels, torch.arange(n) < n // 2)


def arguments(probs: torch.Tensor, labels: torch.Tensor, is_inside: torch.Tensor) -> dict[str, torch.Tensor]:
    confidence, predicted = probs.max(1)
    answers = {"confidence": confidence, "correct": predicted == labels}
    return {"probs": probs, "labels": labels, "scores": probs[:, 0], "is_inside": is_inside, **answers}


FIRST = {"empty": batch(0, 0), "perfect": perfect(12), "ordinary": batch(40, 1), "one": batch(1, 2)}
LATER = [batch(60, 3), batch(60, 4)]


def numbers(value) -> list[float]:
    return [float(v) for v in value.values()] if isinstance(value, dict) else [float(value)]


def alone(name: str, first: str) -> list[float]:
    metric = MAKES[name]()
    for values in (FIRST[first], *LATER):
        metric.update(**metric._filter_kwargs(**values))
    return numbers(metric.compute())


def together(names: tuple[str, ...], first: dict[str, torch.Tensor], call: str = "update") -> MetricCollection:
    collection = MetricCollection({name: MAKES[name]() for name in names})
    for values in (first, *LATER):
        collection.update(**values) if call == "update" else collection(**values)
    return collection


@pytest.mark.parametrize("first", FIRST)
def test_every_two_of_our_metrics_in_one_collection_read_as_each_alone(first: str):
    expected = {name: alone(name, first) for name in MAKES}
    wrong = []
    for pair in itertools.combinations(MAKES, 2):
        collection = together(pair, FIRST[first])
        readings = {name: numbers(collection[name].compute()) for name in pair}
        wrong += [(pair, n, r, expected[n]) for n, r in readings.items() if r != pytest.approx(expected[n], abs=1e-9)]
    assert not wrong


@pytest.mark.parametrize("first", FIRST)
def test_all_of_our_metrics_in_one_collection(first: str):
    results = together(tuple(MAKES), FIRST[first]).compute()
    singles = [name for name in MAKES if len(alone(name, first)) == 1]
    assert {n: float(results[n]) for n in singles} == pytest.approx({n: alone(n, first)[0] for n in singles}, abs=1e-9)


def test_forward_of_a_collection_too():
    collection = together(tuple(MAKES), FIRST["ordinary"], "forward")
    assert all(numbers(collection[n].compute()) == pytest.approx(alone(n, "ordinary"), abs=1e-9) for n in MAKES)


def test_metrics_that_mean_the_same_state_do_share_it():
    collection = together(("ece", "rmsce", "mce", "top1", "top2"), FIRST["perfect"])
    assert sorted(map(sorted, collection.compute_groups.values())) == [["ece", "mce", "rmsce"], ["top1"], ["top2"]]


def test_the_reported_accuracies_of_a_first_batch_without_mistakes():
    # 1,000 images of ten classes: the first 20 right, of the others a third right, another half of them in the top 5.
    rows = torch.zeros(1000, 10)
    places = torch.cat([torch.zeros(20), torch.arange(980) % 6 // 2 + 3 * (torch.arange(980) % 6 // 4)]).long()
    order = torch.linspace(1, 0.1, 10)
    labels = torch.arange(1000) % 10
    for i, place in enumerate(places.tolist()):
        rows[i] = order.roll(int(labels[i]) - place)
    rows = rows / rows.sum(1, keepdim=True)
    collection = MetricCollection({"top1": metrics.Accuracy(), "top5": metrics.Accuracy(top_k=5)})
    for probs, wanted in zip(rows.split(20), labels.split(20), strict=True):
        collection.update(probs, wanted)
    truth = {"top1": (places == 0).double().mean(), "top5": (places < 5).double().mean()}
    assert {k: float(v) for k, v in collection.compute().items()} == pytest.approx(
        {k: float(v) for k, v in truth.items()}
    )
    assert truth["top1"] < truth["top5"]

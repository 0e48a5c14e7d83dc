import warnings

import pytest
import torch

from kedge import metrics


def batch(n: int = 230, classes: int = 6, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 2 * torch.randn(n, classes, generator=generator)
    return logits.softmax(dim=1), torch.randint(classes, (n,), generator=generator)


PAIRS = {
    "Accuracy": (lambda: metrics.Accuracy(), metrics.accuracy),
    "Top3": (lambda: metrics.Accuracy(top_k=3), lambda p, y: metrics.accuracy(p, y, top_k=3)),
    "NLL": (lambda: metrics.NLL(), metrics.nll),
    "Brier": (lambda: metrics.Brier(), metrics.brier),
    "ECE": (lambda: metrics.ECE(), metrics.calibration_error),
    "ECE10": (lambda: metrics.ECE(bins=10), lambda p, y: metrics.calibration_error(p, y, bins=10)),
    "RMSCE": (lambda: metrics.RMSCE(), lambda p, y: metrics.calibration_error(p, y, norm="l2")),
    "MCE": (lambda: metrics.MCE(), lambda p, y: metrics.calibration_error(p, y, norm="max")),
    "EqualMassECE": (lambda: metrics.EqualMassECE(), lambda p, y: metrics.calibration_error(p, y, binning="mass")),
    "SmoothECE": (lambda: metrics.SmoothECE(), metrics.smooth_calibration_error),
    "ClasswiseECE": (lambda: metrics.ClasswiseECE(6), metrics.classwise_calibration_error),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("size", [1, 7, 64, 500])
def test_whatever_the_batches_the_result_is_the_pooled_one(name: str, size: int):
    make, function = PAIRS[name]
    probs, labels = batch()
    metric = make()
    for p, y in zip(probs.split(size), labels.split(size), strict=True):
        metric.update(p, y)
    assert float(metric.compute()) == pytest.approx(float(function(probs, labels)), abs=1e-9)


@pytest.mark.parametrize("name", PAIRS)
def test_merging_two_processes_is_the_pooled_result(name: str):
    make, function = PAIRS[name]
    probs, labels = batch()
    first, second = make(), make()
    first.update(probs[:100], labels[:100])
    second.update(probs[100:], labels[100:])
    first.merge_state(second)
    assert float(first.compute()) == pytest.approx(float(function(probs, labels)), abs=1e-9)


@pytest.mark.parametrize("name", PAIRS)
def test_forward_gives_the_batch_value_and_reset_starts_over(name: str):
    make, function = PAIRS[name]
    probs, labels = batch()
    metric = make()
    assert float(metric(probs[:50], labels[:50])) == pytest.approx(float(function(probs[:50], labels[:50])))
    metric(probs[50:], labels[50:])
    assert float(metric.compute()) == pytest.approx(float(function(probs, labels)))
    metric.reset()
    metric.update(probs[:50], labels[:50])
    assert float(metric.compute()) == pytest.approx(float(function(probs[:50], labels[:50])))


@pytest.mark.parametrize("name", PAIRS)
def test_logits_and_bad_labels_are_reported_at_compute(name: str):
    make, _ = PAIRS[name]
    for probs, labels, words in (
        (torch.randn(5, 6) * 4, torch.zeros(5, dtype=torch.long), "softmax"),
        (torch.full((2, 6), 1 / 6), torch.tensor([0, 6]), "label"),
        (torch.full((2, 6), torch.nan), torch.tensor([0, 1]), "NaN"),
    ):
        metric = make()
        metric.update(probs, labels)
        with pytest.raises(ValueError, match=words):
            metric.compute()


def test_ranking_metrics_accumulate():
    generator = torch.Generator().manual_seed(0)
    scores, is_inside = torch.randn(300, generator=generator), torch.rand(300, generator=generator) < 0.5
    for metric, function in ((metrics.AUROC(), metrics.auroc), (metrics.FPR95(), metrics.fpr95)):
        for s, i in zip(scores.split(64), is_inside.split(64), strict=True):
            metric.update(s, i)
        assert float(metric.compute()) == float(function(scores[is_inside], scores[~is_inside]))
        with pytest.raises(ValueError, match="bool"):
            metric.update(scores, is_inside.long())


def test_reliability_of_the_accumulated_sums():
    probs, labels = batch()
    metric = metrics.ECE()
    metric.update(probs, labels)
    assert sum(metric.reliability()["count"]) == len(labels)


@pytest.mark.parametrize(
    ("probs", "labels", "words"),
    [
        (4 * torch.randn(5, 6, generator=torch.Generator().manual_seed(0)), torch.zeros(5).long(), "softmax"),
        (torch.full((2, 6), 1 / 6), torch.tensor([0, 6]), "label"),
        (torch.full((2, 6), 1 / 6), torch.tensor([-1, 0]), "label"),
    ],
)
def test_the_diagram_of_what_compute_refuses_is_refused_too(probs, labels, words):
    metric = metrics.ECE()
    metric.update(probs, labels)
    for ask in (metric.compute, metric.reliability):
        with pytest.raises(ValueError, match=words):
            ask()


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: metrics.Accuracy(top_k=0), "top_k must be a whole number, 1 or more, but it is 0"),
        (lambda: metrics.Accuracy(top_k=-1), "but it is -1"),
        (lambda: metrics.Accuracy(top_k=2.5), r"but it is 2\.5"),
        (lambda: metrics.Accuracy(top_k=True), "but it is True"),
        (lambda: metrics.ECE(bins=0), "bins must be at least 1, but it is 0"),
        (lambda: metrics.MCE(bins=-3), "but it is -3"),
        (lambda: metrics.EqualMassECE(bins=0), "bins must be at least 1"),
        (lambda: metrics.ClasswiseECE(6, bins=0), "bins must be at least 1"),
        (lambda: metrics.ClasswiseECE(0), "num_classes must be a whole number, 1 or more, but it is 0"),
        (lambda: metrics.BrierDecomposition(2.0), r"but it is 2\.0"),
    ],
)
def test_metrics_that_cannot_work_are_not_made(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_more_places_than_classes_are_refused_as_by_the_function():
    probs, labels = batch()
    for call in (metrics.Accuracy(top_k=7).update, lambda p, y: metrics.accuracy(p, y, top_k=7)):
        with pytest.raises(ValueError, match="between 1 and the number of classes 6, but it is 7"):
            call(probs, labels)
    metric = metrics.Accuracy(top_k=6)
    metric.update(probs, labels)
    assert metric.compute() == 1


def test_brier_decomposition_accumulates_and_adds_up():
    probs, labels = batch()
    metric = metrics.BrierDecomposition(6)
    for p, y in zip(probs.split(33), labels.split(33), strict=True):
        metric.update(p, y)
    parts = metric.compute()
    expected = metrics.brier_decomposition(probs, labels)._asdict()
    assert {k: float(v) for k, v in parts.items()} == pytest.approx({k: float(v) for k, v in expected.items()})
    whole = parts["reliability"] - parts["resolution"] + parts["uncertainty"] + parts["remainder"]
    assert float(whole) == pytest.approx(float(metrics.brier(probs, labels)), abs=1e-9)
    with pytest.raises(ValueError, match="5 columns, but num_classes is 6"):
        metric.update(probs[:, :5], labels)


@pytest.mark.parametrize("name", PAIRS)
def test_nothing_seen_is_nan_and_an_empty_batch_changes_nothing(name: str):
    make, function = PAIRS[name]
    metric = make()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torchmetrics says that update was never called
        assert bool(metric.compute().isnan())
    probs, labels = batch()
    for p, y in ((probs[:0], labels[:0]), (probs, labels), (probs[:0], labels[:0])):
        metric.update(p, y)
    assert float(metric.compute()) == pytest.approx(float(function(probs, labels)), abs=1e-9)


@pytest.mark.parametrize("name", PAIRS)
def test_half_precision_and_other_label_types(name: str):
    make, function = PAIRS[name]
    probs, labels = batch()
    metric = make()
    metric.update(probs.bfloat16(), labels.to(torch.uint8))
    assert float(metric.compute()) == pytest.approx(float(function(probs.bfloat16(), labels)), abs=1e-9)


def _process(rank: int, folder: str, results) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    probs, labels = batch()
    share = slice(0, 90) if rank == 0 else slice(90, None)
    values = []
    for make, _ in PAIRS.values():
        metric = make()
        metric.update(probs[share], labels[share])
        values.append(float(metric.compute()))
    area = metrics.AUROC()
    area.update(probs[share, 0], labels[share] > 2)
    values.append(float(area.compute()))
    # One process sees nothing at all.
    for make, _ in PAIRS.values():
        metric = make()
        if rank:
            metric.update(probs, labels)
        values.append(float(metric.compute()))
    area = metrics.AUROC()
    if rank:
        area.update(probs[:, 0], labels > 2)
    values.append(float(area.compute()))
    results[rank] = values
    torch.distributed.destroy_process_group()


@pytest.mark.slow
def test_two_processes_with_unequal_shares_agree_with_one(tmp_path):
    context = torch.multiprocessing.get_context("spawn")
    with context.Manager() as manager:
        results = manager.dict()
        torch.multiprocessing.spawn(_process, (str(tmp_path), results), nprocs=2)
        probs, labels = batch()
        pooled = [float(function(probs, labels)) for _, function in PAIRS.values()]
        pooled.append(float(metrics.auroc(probs[labels > 2, 0], probs[labels <= 2, 0])))
        for rank in (0, 1):
            assert results[rank] == pytest.approx([*pooled, *pooled], abs=1e-9)

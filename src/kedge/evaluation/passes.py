"""Running models over images: everything that is measured is kept per image, on the device, until the end."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from kedge.evaluation.inputs import to_unit
from kedge.evaluation.subjects import Subject, check_width
from kedge.metrics.classification import SMALLEST, brier_per_sample, label_rank
from kedge.scores import Outputs, Score

Condition = tuple[str, int] | None  # a corruption and its severity, or None for clean images
Corrupt = Callable[..., Tensor]


@dataclass
class Pass:
    """What was kept of one model under one condition; `columns()` is `[N]` float32 per name, on the CPU."""

    names: tuple[str, ...] = ()
    parts: list[Tensor] = field(default_factory=list)

    def add(self, measured: dict[str, Tensor]) -> None:
        """Keep a batch; nothing is copied from the device yet."""
        self.names = tuple(measured)
        self.parts.append(torch.stack([column.float() for column in measured.values()]))

    def columns(self) -> dict[str, Tensor]:
        """All batches as one, copied from the device once."""
        whole = torch.cat(self.parts, dim=1).cpu()
        return dict(zip(self.names, whole, strict=True))


class Stopwatch:
    """Images per second without waiting for the device: CUDA events there, the clock elsewhere.

    The first batch is left out of the rate when there are others: it pays for compilation and allocation.
    """

    def __init__(self, device: torch.device) -> None:
        self.on_cuda = device.type == "cuda"
        self.laps: list[tuple[int, Any, Any]] = []

    def measure(self, images: int, work: Callable[[], Outputs]) -> Outputs:
        """Do `work`, which handles `images` images, and note how long it took."""
        start = self._now()
        result = work()
        self.laps.append((images, start, self._now()))
        return result

    def _now(self) -> Any:
        if not self.on_cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def rate(self) -> float | None:
        """Images per second, or None before the first lap."""
        laps = self.laps[1:] or self.laps
        if self.on_cuda and laps:
            torch.cuda.synchronize()
        seconds = sum(a.elapsed_time(b) / 1000 if self.on_cuda else b - a for _, a, b in laps)
        return sum(n for n, _, _ in laps) / seconds if seconds > 0 else None


def measure(outputs: Outputs, labels: Tensor, scores: Iterable[Score]) -> dict[str, Tensor]:
    """Per image `[B]`: what the metrics need of logits `[B, C]` and labels `[B]`, and the `scores`."""
    log_probs = outputs.logits.float().log_softmax(dim=1)
    probs = log_probs.exp()
    confidence, predicted = probs.max(dim=1)
    own = log_probs.gather(1, labels[:, None])[:, 0]
    measured = {
        "confidence": confidence,
        "predicted": predicted,
        "rank": label_rank(probs, labels),
        "nll": -own.clamp(min=torch.tensor(SMALLEST).log().item()),
        "brier": brier_per_sample(probs, labels),
    }
    if outputs.uncertainty is not None:
        measured["uncertainty"] = outputs.uncertainty
    measured.update({f"score:{score.name}": score.score(outputs) for score in scores})
    return measured


def usable(scores: Sequence[Score], outputs: Outputs) -> list[Score]:
    """Those of `scores` whose needs `outputs` meets."""
    return [s for s in scores if all(getattr(outputs, need) is not None for need in s.needs)]


def _batches(data: Any, batch_size: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    return iter(data.batches(batch_size, workers=workers) if workers else data.batches(batch_size))


def run_labelled(
    subjects: Sequence[Subject],
    data: Any,
    indices: Tensor,
    conditions: Sequence[Condition],
    corrupt: Corrupt | None,
    scores: Sequence[Score],
    *,
    batch_size: int,
    workers: int,
    seed: int,
    tick: Callable[[], None],
) -> tuple[dict[str, dict[Condition, Pass]], dict[str, Stopwatch]]:
    """Run all subjects under all conditions; each batch is decoded once, and corrupted once per device.

    `indices` `[N]` are the positions of the images in the whole set: they seed the corruptions.
    """
    passes: dict[str, dict[Condition, Pass]] = {s.name: {c: Pass() for c in conditions} for s in subjects}
    watches = {s.name: Stopwatch(s.device) for s in subjects}
    devices = list(dict.fromkeys(s.device for s in subjects))
    start = 0
    for images, labels in _batches(data, batch_size, workers):
        where = indices[start : start + len(images)]
        start += len(images)
        for device in devices:
            clean = to_unit(images.to(device, non_blocking=True))
            truth = labels.to(device, non_blocking=True).long()
            position = where.to(device, non_blocking=True)
            for condition in conditions:
                shown = clean
                if condition is not None:
                    assert corrupt is not None
                    shown = corrupt(clean, *condition, indices=position, seed=seed)
                for subject in (s for s in subjects if s.device == device):
                    outputs = watches[subject.name].measure(len(shown), lambda s=subject, x=shown: s.outputs(x))  # type: ignore[misc]
                    check_width(subject.name, outputs.logits.shape[1], list(data.class_names))
                    wanted = usable(scores, outputs) if condition is None else []
                    passes[subject.name][condition].add(measure(outputs, truth, wanted))
                    tick()
    return passes, watches


def run_unlabelled(
    subjects: Sequence[Subject],
    data: Any,
    scores: Sequence[Score],
    *,
    batch_size: int,
    workers: int,
    tick: Callable[[], None],
) -> dict[str, Pass]:
    """Scores and confidence of all subjects on an out-of-distribution set, whose labels mean nothing to them."""
    passes = {s.name: Pass() for s in subjects}
    for images, _ in _batches(data, batch_size, workers):
        on_device: dict[torch.device, Tensor] = {}
        for subject in subjects:
            if subject.device not in on_device:
                on_device[subject.device] = to_unit(images.to(subject.device, non_blocking=True))
            outputs = subject.outputs(on_device[subject.device])
            confidence = outputs.logits.float().softmax(dim=1).amax(dim=1)
            measured = {"confidence": confidence}
            measured.update({f"score:{s.name}": s.score(outputs) for s in usable(scores, outputs)})
            passes[subject.name].add(measured)
            tick()
    return passes

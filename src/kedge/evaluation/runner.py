"""Running models over images, part by part: outputs per image, stored on disk if there is a place."""

import math
import time
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kedge.checks import class_indices
from kedge.confidence import log_odds
from kedge.evaluation.cache import Parts, digest, tensor_digest
from kedge.evaluation.evaluated_model import Subject
from kedge.evaluation.inputs import to_unit
from kedge.evaluation.set_coverage import set_columns
from kedge.metrics._classification import SMALLEST, brier_per_sample, label_rank
from kedge.scores import Outputs

Columns = dict[str, Tensor]
# Of `Outputs`, one row for each image:
FIELDS = ("logits", "uncertainty", "features", "masked", "reverse", "members", "familiarity")


@dataclass(frozen=True)
class Part:
    """One condition of a set of images.

    Attributes:
        name: as in progress and errors: "clean", "gaussian_noise 3", "ood mnist".
        images: the set.
        identity: what stands for the images and their positions in a digest.
        positions: long `[N]`, the images' places in the whole set, which seed the corruptions.
        change: (float images on the device, their positions) -> images, or None.
        settings: what `change` depends on, for the digest.
        outputs: store the model's outputs; else only what the metrics need of them (`measure`).
        masked: also the masked and the reversed passes of anchored models, where they are wanted.
        members: also what each reference, or member of an ensemble, answers by itself.
        classes: long `[M]`, the outputs among which the answer is looked for; None for all of them.
    """

    name: str
    images: Any
    identity: str
    positions: Tensor
    change: Callable[[Tensor, Tensor], Tensor] | None = None
    settings: Any = None
    outputs: bool = False
    masked: bool = True
    members: bool = False
    classes: Tensor | None = None

    def extras(self, wants: dict[str, bool]) -> dict[str, bool]:
        """What to ask the models for beside logits."""
        if not self.outputs:
            return {}
        own = {"members": True} if self.members else {}  # parts without them keep their keys
        return {name: want and (self.masked or name == "features") for name, want in wants.items()} | own

    def key(self, subject: Subject, wants: dict[str, bool]) -> str | None:
        """What this part of this subject is stored under."""
        classes = None if self.classes is None else self.classes.tolist()
        extras = self.extras(wants)
        more = [subject.anchors_digest] if extras.get("reverse") else []
        return subject.key(self.identity, self.settings, extras or None, classes, subject.device, *more)


@dataclass
class Outcome:
    """What one model gave under one condition: tensors `[N, ...]` on the CPU, and how long it took."""

    tensors: Columns = field(default_factory=dict)
    seconds: float = 0.0
    images: int = 0


class Stopwatch:
    """Seconds without waiting for the device: CUDA events there, the clock elsewhere.

    The first batch counts like the second where there is one: it pays for compilation and allocation.
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

    def seconds(self) -> float:
        """Seconds for all images, the first batch counted at the pace of the others."""
        if self.on_cuda and self.laps:
            torch.cuda.synchronize()
        spent = [(n, a.elapsed_time(b) / 1000 if self.on_cuda else b - a) for n, a, b in self.laps]
        rest = spent[1:] or spent
        pace = sum(s for _, s in rest) / max(1, sum(n for n, _ in rest))
        return pace * sum(n for n, _ in spent)


def measure(logits: Tensor, labels: Tensor) -> Columns:
    """Per image `[B]`: what the metrics need of logits `[B, C]` and labels `[B]`."""
    log_probs = logits.float().log_softmax(dim=1)
    probs = log_probs.exp()
    own = log_probs.gather(1, labels[:, None])[:, 0]
    return {
        "confidence": probs.amax(dim=1),
        "log_odds": log_odds(logits),
        "predicted": logits.float().argmax(dim=1),  # probabilities may be equal where logits, and the rank, tell
        "rank": label_rank(logits.float(), labels),
        "nll": -own.clamp(min=math.log(SMALLEST)),
        "brier": brier_per_sample(probs, labels),
        # A class may be excluded by minus infinity, which is not a fault; NaN and plus infinity are.
        "label": labels,
        "bad": (probs.isnan().any(dim=1)).float(),
    }


def tensors_of(outputs: Outputs) -> Columns:
    """The tensors `[B, ...]` of outputs that are there."""
    return {name: tensor for name in FIELDS if (tensor := getattr(outputs, name)) is not None}


def outputs_from(tensors: Columns, subject: Subject) -> Outputs:
    """Outputs again, of what `tensors_of` took apart."""
    return Outputs(**{name: tensors.get(name) for name in FIELDS}, head=subject.head, steps=subject.model.steps)  # type: ignore[arg-type]


def identity(images: Any, positions: Tensor) -> str:
    """What stands for images and their places in the whole set."""
    return digest(images.fingerprint(), tensor_digest(positions))


class Runner:
    """Runs models over parts and stores what they gave.

    Args:
        subjects: the models.
        parts: where what they give is stored.
        wants: whether to ask for features and masked passes beside logits.
        batch_size, workers: images at a time, and processes that decode them.
        progress: called with (images done, images in all).
        say: called with a sentence before work that takes long.

    Attributes:
        pace: seconds that a model takes for an image: what a few images said, then what the clean ones took.
        streams: of models that adapt, name of a part to what happened in it (`Model.stream`).
    """

    def __init__(
        self,
        subjects: Sequence[Subject],
        parts: Parts,
        wants: dict[str, bool],
        batch_size: int,
        workers: int,
        progress: Callable[[int, int], None] | None,
        say: Callable[[str], None],
    ) -> None:
        self.subjects = subjects
        self.parts = parts
        self.wants = wants
        self.batch_size = batch_size
        self.workers = workers
        self.progress, self.say = progress, say
        self.pace = {s.name: s.pace for s in subjects}
        self.streams: dict[str, dict[str, Any]] = {s.name: {} for s in subjects}
        self._done = self._total = 0

    def missing(self, part: Part) -> list[Subject]:
        """The models that have to be run for `part`."""
        return [s for s in self.subjects if not self.parts.has(part.key(s, self.wants))]

    def announce(self, what: str, parts: Iterable[Part]) -> None:
        """Count these parts as work ahead, and say how long it takes at the pace so far, if that is long."""
        seconds = 0.0
        for part in parts:
            for subject in self.missing(part):
                self.count(ahead=len(part.images))
                seconds += self._passes(part, subject) * self.pace[subject.name] * len(part.images)
        fewer = " (fewer: limit, severities, references; interrupting keeps what is done)" if seconds >= 600 else ""
        if seconds >= 20:
            self.say(f"{what}: about {duration(seconds)}{fewer}")

    def count(self, done: int = 0, ahead: int = 0) -> None:
        """Tell the progress of images done, or of more images ahead."""
        self._done += done
        self._total += ahead
        if self.progress is not None and done:
            self.progress(min(self._done, self._total), self._total)

    def run(self, part: Part) -> dict[str, Outcome]:
        """What every model gave under `part`: from the disk where it is stored, else run; by name."""
        return self.run_together([part])[0]

    def run_together(self, parts: Sequence[Part]) -> list[dict[str, Outcome]]:
        """`run` of parts of the same images: a batch is decoded once for all, and changed once per part and device."""
        outcomes = [self._stored(part) for part in parts]
        passes = [_Pass(part, self.subjects, done) for part, done in zip(parts, outcomes, strict=True)]
        running = [each for each in passes if each.subjects]
        # A model that adapts to the images it meets meets one part after the other, each anew.
        apart = any(s.model.adapts for each in running for s in each.subjects)
        for group in [[each] for each in running] if apart else filter(None, [running]):
            for subject in self.subjects:
                subject.model.reset()
            self._run(group)
            for subject in (s for each in group for s in each.subjects if s.model.adapts):
                self.streams[subject.name][group[0].part.name] = subject.model.stream()
        for done, each in zip(outcomes, passes, strict=True):
            done.update(self._finished(each))
        return outcomes

    def _stored(self, part: Part) -> dict[str, Outcome]:
        """What is on disk of a part, by name of the model."""
        outcomes = {}
        for subject in self.subjects:
            tensors = self.parts.get(part.key(subject, self.wants))
            if tensors is not None:
                seconds, images = tensors.pop("_laps").tolist()
                outcomes[subject.name] = Outcome(tensors, seconds, int(images))
        return outcomes

    def learn_pace(self, part: Part, outcomes: dict[str, Outcome]) -> None:
        """Take what `part` took as the pace from here on."""
        for subject in self.subjects:
            outcome = outcomes[subject.name]
            self.pace[subject.name] = outcome.seconds / max(1, outcome.images) / self._passes(part, subject)

    def _passes(self, part: Part, subject: Subject) -> int:
        """How often a part asks a model: once more for masked passes, and as often as it has labelled images."""
        extras = part.extras(self.wants)
        passes = 2 if extras.get("masked") and "masked" in subject.fields else 1
        if not extras.get("reverse") or subject.anchors is None:
            return passes
        return passes + -(-len(subject.anchors[0]) // max(1, subject.model.count(subject.references)))

    def _run(self, passes: "Sequence[_Pass]") -> None:
        first = passes[0].part
        start = 0
        for images, labels in batches(first.images, self.batch_size, self.workers):
            positions = first.positions[start : start + len(images)]
            start += len(images)
            for device in dict.fromkeys(s.device for each in passes for s in each.subjects):
                unchanged = to_unit(images.to(device, non_blocking=True))
                truth = class_indices(labels).to(device, non_blocking=True)
                where = positions.to(device, non_blocking=True)
                for each in passes:
                    if own := [s for s in each.subjects if s.device == device]:
                        change = each.part.change
                        changed = unchanged if change is None else change(unchanged, where)
                        each.add(own, changed, truth, each.part.extras(self.wants))
                        self.count(done=len(changed) * len(own))

    def _finished(self, each: "_Pass") -> dict[str, Outcome]:
        """What the models of a pass gave, stored."""
        outcomes = {}
        for subject in each.subjects:
            tensors = joined(each.columns.pop(subject.name))
            outcome = Outcome(tensors, each.watches[subject.name].seconds(), len(each.part.images))
            laps = torch.tensor([outcome.seconds, float(outcome.images)], dtype=torch.float64)
            self.parts.put(each.part.key(subject, self.wants), {**tensors, "_laps": laps})
            outcomes[subject.name] = outcome
        return outcomes


class _Pass:
    """What models give under a part, batch by batch: those that have to be run, as nothing is `done` of theirs."""

    def __init__(self, part: Part, subjects: Sequence[Subject], done: Container[str]) -> None:
        self.part = part
        self.subjects = [s for s in subjects if s.name not in done]
        self.columns: dict[str, list[Columns]] = {s.name: [] for s in self.subjects}
        self.watches = {s.name: Stopwatch(s.device) for s in self.subjects}

    def add(self, subjects: Sequence[Subject], images: Tensor, labels: Tensor, extras: dict[str, bool]) -> None:
        """Ask some of the models about a batch."""
        for subject in subjects:
            outputs = self.watches[subject.name].measure(len(images), partial(subject.outputs, images, **extras))
            if self.part.outputs:
                columns = tensors_of(outputs)
            else:
                classes = self.part.classes
                logits = outputs.logits if classes is None else outputs.logits[:, classes.to(images.device)]
                columns = measure(logits, labels)
                if classes is None:
                    columns |= set_columns(subject.set_rule, logits, labels)
                else:
                    columns["label"] = classes.to(labels.device)[labels]  # as the model numbers its classes
            self.columns[subject.name].append(columns)


def joined(batches: Sequence[Columns]) -> Columns:
    """All batches as one, on the CPU in float32, copied from the device once for each name."""
    return {name: torch.cat([b[name].float() for b in batches]).cpu() for name in batches[0]}


def batches(data: Any, batch_size: int, workers: int) -> Iterator[tuple[Tensor, Tensor]]:
    """The batches of a set, decoded by `workers` processes."""
    return iter(data.batches(batch_size, workers=workers) if workers else data.batches(batch_size))


def duration(seconds: float) -> str:
    """Seconds in words."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"

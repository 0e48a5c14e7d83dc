"""Attacked images in chunks, whose results are kept as they are done."""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from kedge.evaluation.attacked import Attack, attack_batch
from kedge.evaluation.cache import digest
from kedge.evaluation.evaluated_model import Subject
from kedge.evaluation.inference_runner import Columns, Runner, identity
from kedge.evaluation.inputs import to_unit

CHUNK = 100  # images whose results are kept together
Work = Callable[[Tensor, Tensor, Tensor], Columns]  # of images, labels and places


def columns_of(model: nn.Module, attack: Attack, made_on: nn.Module | None = None) -> Work:
    """What an attack does to some images of a model."""
    return lambda images, labels, where: attack_batch(model, attack, images, labels, where, made_on=made_on).columns()


def chunks(
    runner: Runner,
    subject: Subject,
    images: Any,
    places: Tensor,
    settings: Any,
    work: Work,
) -> tuple[Columns, float]:
    """(columns of all images, seconds): each chunk from what was kept, or by `work` of (images, labels, places).

    Nothing is kept where `settings` is None.
    """
    columns: list[Columns] = []
    total = 0.0
    for start in range(0, len(images), CHUNK):
        some = images.subset(range(start, min(start + CHUNK, len(images))))
        where = places[start : start + CHUNK]
        known = subject.digest is not None and settings is not None
        key = digest(subject.digest, identity(some, where), settings) if known else None
        kept = runner.parts.get(key)
        if kept is None:
            shown = as_batch(some, subject.device)
            started = time.perf_counter()
            kept = work(shown, some.labels.to(subject.device), where)
            kept = {name: column.float().cpu() for name, column in kept.items()}
            kept["_seconds"] = torch.tensor([time.perf_counter() - started], dtype=torch.float64)
            runner.parts.put(key, kept)
        total += float(kept.pop("_seconds"))
        columns.append(kept)
    return {name: torch.cat([c[name] for c in columns]) for name in columns[0]}, total


def first_chunk(images: Any, places: Tensor) -> tuple[Any, Tensor]:
    """The few images that checks are made on, and their places: those of the first chunk."""
    return images.subset(range(min(CHUNK, len(images)))), places[:CHUNK]


def as_batch(images: Any, device: torch.device) -> Tensor:
    """A set of a few images as a batch `[B, C, H, W]` in [0, 1]."""
    return to_unit(torch.stack([images[i][0] for i in range(len(images))])).to(device)

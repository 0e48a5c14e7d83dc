"""The search for the stages that are to learn, of a procedure: short trainings on a part, judged by the rest."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kedge.binomial import accuracy_interval, folds_interval
from kedge.data import ImageSet, derive_seed
from kedge.files import write_text
from kedge.json_text import read_json
from kedge.procedures._base import Context, perform
from kedge.procedures._layer_rates import Candidate, Search, search_layer_rates
from kedge.training.calibration import predict_logits
from kedge.training.folds import fold_places

__all__ = ["choose_layer_rates", "search_in_words"]

FOLDS = 3
SEARCH = "search"  # the word in place of factors


def choose_layer_rates(context: Context) -> None:
    """Where the settings of a context leave the factors to a search, put its winner there; the record has all.

    Candidates are trained by the procedure itself on the training images without the validation images, which judge
    them; where there are none, on two thirds of the training images, which the other third judges, in three folds.

    Raises:
        ValueError: where there are no images to judge by.
    """
    settings = context.settings
    if settings.layer_lr != SEARCH:
        return
    parts = _parts(context)
    place = context.out / f"{context.how}-{SEARCH}"
    notes = place / "tried.json"
    before: dict[str, str] = read_json(notes) if notes.is_file() else {}

    def judged(rates: tuple[float, ...]) -> Tensor:
        key = _words(rates)
        if key not in before:
            right = [_right(context, train, held, rates, place / str(i)) for i, (train, held) in enumerate(parts, 1)]
            before[key] = "".join(str(int(each)) for each in torch.cat(right).tolist())
            write_text(notes, json.dumps(before, indent=1) + "\n")
        return torch.tensor([letter == "1" for letter in before[key]])

    search = search_layer_rates(judged, settings.stages, budget=settings.budget, seed=settings.seed)
    shutil.rmtree(place)
    context.settings = replace(settings, layer_lr=list(search.best.rates))
    context.record["layer_lr"] = _recorded(search, by_folds=context.val is None)


def search_in_words(record: dict[str, Any]) -> str:
    """What a search came to, in a line, of its part of an adaptation's record."""
    low, high = record["interval"]
    excess = 100 * max(0.0, record["optimism"])  # an estimate from resamples can lie a little below nothing
    return (
        f"stages at {_words(record['rates'])} of the learning rate, the best of {len(record['tried'])} tried: "
        f"{100 * record['accuracy']:.1f} % of {record['images']} held-out images right ({100 * low:.1f}-"
        f"{100 * high:.1f}), about {excess:.1f} points of it because it was chosen by them"
    )


def _parts(context: Context) -> list[tuple[ImageSet, ImageSet]]:
    train = context.train
    if context.val is not None:
        return [(train, context.val)]
    try:
        places = fold_places(train, FOLDS, derive_seed(context.settings.seed, "layer rates") % 2**32)
    except ValueError as error:
        raise ValueError(
            f"a search for layer rates judges by images that it does not train on, and of {train.name} none can "
            f"be held out: give more images of each class, validation images, or factors in place of search ({error})"
        ) from error
    parts = []
    for each in places:
        others = torch.ones(len(train), dtype=torch.bool)
        others[each] = False
        parts.append((train.subset(others), train.subset(each)))
    return parts


def _right(context: Context, train: ImageSet, held: ImageSet, rates: tuple[float, ...], place: Path) -> Tensor:
    """Which held-out images a candidate is right about; stages that it rests on stay for the next one."""
    settings = replace(context.settings, layer_lr=list(rates))
    inner = Context(context.how, context.model, train, None, settings, place)
    if inner.folder.is_dir():  # broken off
        shutil.rmtree(inner.folder)
    model, _ = perform(inner)
    on = settings.torch_device()
    logits, labels = predict_logits(model.to(on), held, settings.batch_size, settings.workers)[:2]
    shutil.rmtree(inner.folder)
    return (logits.argmax(1) == labels).cpu()


def _recorded(search: Search, by_folds: bool) -> dict[str, Any]:
    """The winner and all candidates, each with its 95 % interval as of one that nobody chose."""
    interval = folds_interval if by_folds else accuracy_interval

    def described(each: Candidate) -> dict[str, Any]:
        ends = interval(int(each.right.sum()), len(each.right))
        return {"rates": list(each.rates), "accuracy": each.accuracy, "interval": list(ends)}

    return {
        **described(search.best),
        "optimism": search.optimism,
        "images": len(search.best.right),
        "exhaustive": search.exhaustive,
        "tried": [described(each) for each in search.candidates],
    }


def _words(rates: Any) -> str:
    return ", ".join(f"{rate:g}" for rate in rates)

"""The run folder that a procedure leaves, and what it was made from, so that it is handed back for nothing else."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn

from kedge import checkpoint, clock
from kedge.anchoring import PixelModel
from kedge.data import ImageSet
from kedge.files import folder_in_place_of, sweep, write_text
from kedge.json_text import read_json
from kedge.procedures._settings import Settings
from kedge.training.calibration import judge, predict_logits
from kedge.training.folder import RunFolder, surroundings
from kedge.training.images import about_images, record_of
from kedge.training.recipe import Recipe
from kedge.training.record import FILE
from kedge.training.recorded import recorded_facts
from kedge.training.start_from import started
from kedge.training.unknown_choice import set_unknown

__all__ = [
    "add_record",
    "check_origins",
    "differences",
    "finished",
    "load_outcome",
    "note_origins",
    "origin_of",
    "recipe_for",
    "write_outcome",
]

_WORDS = {
    "model": "the weights of the model",
    "train": "the training images",
    "val": "the validation images",
    "test": "the test images",
}
_FILE = "adapted.json"


def finished(folder: Path) -> bool:
    """Whether a run folder holds a finished adaptation."""
    try:
        facts = recorded_facts(folder)
    except (OSError, ValueError):
        return False
    return "finished" in facts and "adaptation" in facts


def load_outcome(folder: Path, like: PixelModel) -> PixelModel:
    """The model of a run; `like` has the network for one that has no name to be made again by."""
    unnamed = checkpoint.read_config(folder / "model")["architecture"] is None and not like.count()
    return checkpoint.load(folder / "model", model=like.network if unnamed else None)


def recipe_for(model: PixelModel, how: str, out: Path, train: ImageSet, settings: Settings) -> Recipe:
    """The recipe of a run `out/how`: what names its network and its images."""
    recipe = Recipe.from_dict(
        {
            "name": how,
            "runs": str(out),
            "data": settings.data or train.name,
            "image_size": train.image_shape[-1],
            "val_fraction": settings.val_fraction,
            "split_seed": settings.seed if settings.split_seed is None else settings.split_seed,
            "seed": settings.seed,
            "augment": settings.augment,
            "workers": settings.workers,
            "device": settings.device,
            "references": model.count() or min(Recipe.references, len(train)),
            "init_from": settings.source or type(model.network).__name__,
            "epochs": settings.epochs,
            "lr": settings.lr,
            "objective": settings.objective,
        }
    )
    return started(recipe, model, None)


def write_outcome(
    model: PixelModel, folder: Path, train: ImageSet, val: ImageSet | None, settings: Settings, record: dict[str, Any]
) -> None:
    """Write the run folder of a model that no training loop made, whole or not at all."""
    facts = {**surroundings(), "seed": settings.seed, "data": about_images(train, val)}
    recipe = replace(recipe_for(model, folder.name, folder.parent, train, settings), objective=None)
    model.reject, model.unknown, measured = None, None, {}
    if val is not None:
        on = settings.torch_device()
        answers = predict_logits(model.to(on), val, settings.batch_size, settings.workers)
        measured = judge(model.cpu(), recipe, val, *answers)
        set_unknown(model, recipe, train, val)
    facts |= {"validation": measured, "reject": model.reject, "unknown": model.unknown, "steps": {}}
    words = f"# Made by kedge adapt, {folder.name}: names the network and the images; what was done is in run.json.\n"
    facts |= {"adaptation": record, "finished": clock.now()}
    with folder_in_place_of(folder, ("model", "recipe.yaml", "run.json", FILE)) as new:
        checkpoint.save(model, new / "model")
        record_of(recipe, train, val, in_memory=True).write(new)
        write_text(new / "recipe.yaml", words + recipe.to_yaml())
        write_text(new / "run.json", json.dumps(facts, indent=2, ensure_ascii=False) + "\n")


def add_record(folder: Path, record: dict[str, Any]) -> None:
    """Say in the run folder of a training what it was a stage of."""
    run = RunFolder(folder)
    run.write_facts({**run.facts(), "adaptation": record})


def origin_of(model: nn.Module, train: ImageSet, val: ImageSet | None) -> dict[str, Any]:
    """Digests of the weights and of the images, whatever they are called."""
    weights = hashlib.sha256()
    for name, value in model.state_dict().items():
        weights.update(f"{name} {value.dtype} {list(value.shape)} ".encode())
        weights.update(value.detach().cpu().contiguous().reshape(-1).float().numpy().tobytes())
    return {
        "model": weights.hexdigest(),
        "train": train.fingerprint(),
        "val": None if val is None else val.fingerprint(),
    }


def check_origins(out: Path, origins: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise ValueError if a run folder in `out` was made from something else than `origins` says of its procedure."""
    known = _known(out)
    for how, now in origins.items():
        if how not in known:
            if finished(out / how):
                raise ValueError(f"{out / how} does not say what it was adapted from: name another folder (--out)")
            continue
        differing = differences(known[how], now)
        if differing:
            raise ValueError(
                f"{out / how} was made otherwise ({'; '.join(differing)}): name another folder (--out), or delete "
                "this one"
            )


def note_origins(out: Path, origins: Mapping[str, Mapping[str, Any]]) -> None:
    """Remember what the run folders in `out` are made from, before they are made."""
    sweep(out)
    known = _known(out)
    if origins.keys() - known.keys():
        write_text(out / _FILE, json.dumps({**origins, **known}, indent=1, ensure_ascii=False) + "\n")


def _known(out: Path) -> dict[str, Any]:
    path = out / _FILE
    known = read_json(path) if path.is_file() else {}
    if not all(isinstance(origin, dict) for origin in known.values()):
        raise ValueError(f"{path} does not say what each way was adapted from: it was changed")
    return known


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """In what something was made otherwise than it would be now, in words.

    What was made before there was a setting was made as that is where it is left alone.
    """
    then = {**asdict(Settings()), **before}
    return [
        f"{_WORDS[key]} differ" if key in _WORDS else f"{key} is {_word(then.get(key))} there, {_word(value)} here"
        for key, value in now.items()
        if value != then.get(key)
    ]


def _word(value: Any) -> str:
    return "left open" if value is None else str(value)

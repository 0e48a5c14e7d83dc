"""What each run folder of an adaptation was made from, so that it is handed back for nothing else."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from kedge.data import ImageSet
from kedge.files import sweep, write_text
from kedge.json_text import read_json
from kedge.procedures._base import procedure, ways
from kedge.procedures._outcome import finished
from kedge.procedures._settings import Settings

__all__ = ["check_origin", "note_origins", "origin_of"]

_WORDS = {"model": "the weights of the model", "train": "the training images", "val": "the validation images"}
_FILE = "adapted.json"


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


def check_origin(out: Path, how: str, origin: dict[str, Any], settings: Settings) -> None:
    """Raise ValueError if a run folder that `how` would take from `out` was made from something else."""
    known = _known(out)
    for each in ways(how):
        if each not in known:
            if finished(out / each):
                raise ValueError(f"{out / each} does not say what it was adapted from: name another folder (--out)")
            continue
        now, before = _facts(each, origin, settings), known[each]
        differing = [
            f"{_WORDS[key]} differ"
            if key in _WORDS
            else f"{key} is {_word(before.get(key))} there, {_word(now[key])} here"
            for key in now
            if now[key] != before.get(key)
        ]
        if differing:
            raise ValueError(
                f"{out / each} was made otherwise ({'; '.join(differing)}): name another folder (--out), or delete "
                "this one"
            )


def note_origins(out: Path, how: str, origin: dict[str, Any], settings: Settings) -> None:
    """Remember what `how` in `out`, and what it rests on, are made from, before they are made."""
    sweep(out)
    known = _known(out)
    facts = {each: _facts(each, origin, settings) for each in ways(how)}
    if facts.keys() - known.keys():
        write_text(out / _FILE, json.dumps({**facts, **known}, indent=1, ensure_ascii=False) + "\n")


def _facts(how: str, origin: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """What decides the model of a way: the images, the weights, and settings of it and of what it rests on."""
    keys = dict.fromkeys(key for each in ways(how) for key in procedure(each).decided_by)
    chosen = asdict(settings)
    return {**origin, **{key: chosen[key] for key in keys}}


def _known(out: Path) -> dict[str, Any]:
    path = out / _FILE
    known = read_json(path) if path.is_file() else {}
    if not all(isinstance(facts, dict) for facts in known.values()):
        raise ValueError(f"{path} does not say what each way was adapted from: it was changed")
    return known


def _word(value: Any) -> str:
    return "left open" if value is None else str(value)

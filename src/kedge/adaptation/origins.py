"""What each run folder of an adaptation was made from, so that it is handed back for nothing else."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import nn

from kedge.adaptation.outcome import Settings, finished
from kedge.data import ImageSet
from kedge.files import sweep, write_text
from kedge.json_text import read_json

__all__ = ["check_origin", "note_origin", "origin_of", "rests_on"]

_PROBE = ("seed", "head", "references", "strength")
_TUNED = ("seed", "head", "references", "epochs", "lr", "objective", "augment")
_COUNT = {
    "linear-probe": _PROBE,
    "anchored-probe": (*_PROBE, "alpha", "drawn"),
    "finetune": _TUNED,
    "lp-ft": (*_TUNED, "strength"),
    "wise-ft": (*_TUNED, "strength", "share"),
}
_WORDS = {"model": "the weights of the model", "train": "the training images", "val": "the validation images"}
_FILE = "adapted.json"


def rests_on(how: str) -> tuple[str, ...]:
    """The ways whose models `how` is made from, and itself."""
    before = {"lp-ft": ("linear-probe",), "wise-ft": ("linear-probe", "lp-ft")}
    return (*before.get(how, ()), how)


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
    for each in rests_on(how):
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


def note_origin(out: Path, how: str, origin: dict[str, Any], settings: Settings) -> None:
    """Remember what `how` in `out` is made from, before it is made."""
    known = _known(out)
    sweep(out)
    if how not in known:
        text = json.dumps({**known, how: _facts(how, origin, settings)}, indent=1, ensure_ascii=False)
        write_text(out / _FILE, text + "\n")


def _facts(how: str, origin: dict[str, Any], settings: Settings) -> dict[str, Any]:
    chosen = asdict(settings)
    return {**origin, **{key: chosen[key] for key in _COUNT[how]}}


def _known(out: Path) -> dict[str, Any]:
    path = out / _FILE
    known = read_json(path) if path.is_file() else {}
    if not all(isinstance(facts, dict) for facts in known.values()):
        raise ValueError(f"{path} does not say what each way was adapted from: it was changed")
    return known


def _word(value: Any) -> str:
    return "left open" if value is None else str(value)

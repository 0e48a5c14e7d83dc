"""What MODEL can be on the command line: a run, a model folder, an ONNX file, a network of timm, a Python callable."""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedge.cli.foreign import load_callable, load_timm
from kedge.named_model import TIMM, model_folder, run_of
from kedge.own_code import NAME

if TYPE_CHECKING:
    from kedge.anchoring import PixelModel
    from kedge.training.record import ImageRecord

MEAN = re.compile(r"mean\((?P<members>.*)\)")
CASCADE = "cascade.json"  # as kedge.cascade.RULE, which would import torch
HUB = "hf-hub:"  # as kedge.hub.PREFIX, which would import torch


@dataclass(frozen=True)
class Source:
    """Where a model is.

    Attributes:
        path: the folder with config.json, or the ONNX file; None for what is no file.
        run: the run folder it belongs to, or None.
        name: what to call it in tables.
        written: what stood on the command line: "timm/NAME" or "module:attribute" where there is no path, or the name
            on the hub, of which path is a copy in the cache.
        members: where the models are whose mean it is; else empty.
    """

    path: Path | None
    run: Path | None
    name: str
    written: str = ""
    members: tuple["Source", ...] = ()

    @property
    def on_hub(self) -> bool:
        """Whether the path is in the cache of the hub's client, where nothing is written."""
        return self.written.startswith(HUB)

    @property
    def saved(self) -> bool:
        """Whether `kedge.save` wrote it: of a file, a function or a network of timm nothing is anchored."""
        return self.path is not None and (self.path / "config.json").is_file()

    def folder(self, otherwise: str) -> Path:
        """The folder that `kedge.save` wrote the model in; ValueError, with what to do `otherwise`, without one."""
        if self.path is None or not self.saved:
            raise ValueError(f"{self.written or self.path} is no folder that kedge saved a model in: {otherwise}")
        return self.path

    def recipe(self) -> dict[str, Any]:
        """The recipe of the run as it was resolved; empty if the model belongs to no run."""
        from kedge.training.recorded import recorded

        return recorded(self.run)

    def record(self) -> "ImageRecord | None":
        """Which images the run trained on; None if the model belongs to no run, or to one of an earlier version."""
        from kedge.training.record import ImageRecord

        return ImageRecord.read(self.run)

    def load(self, device: str = "auto", weights: str | None = None, headless: bool = False) -> "PixelModel":
        """The model in eval mode, on `device` ("auto": a GPU if there is one).

        `weights`: a file with the weights of a network of timm, in place of the library's (`check_weights`), which
        needs no head where it is `headless`.

        A Python callable comes as it is, moved to the device if it is a module.
        """
        if self.members:
            from kedge.ensemble import Ensemble

            return Ensemble([member.load(device, weights) for member in self.members])
        if self.path is not None and self.path.suffix == ".onnx":
            from kedge.deploy import load_onnx

            return load_onnx(self.path)
        from kedge.devices import chosen_device

        device = chosen_device(device)
        if self.path is not None and (self.path / CASCADE).is_file():
            from kedge.cascade import load_cascade

            return load_cascade(self.path).to(device)
        if self.path is not None:
            from kedge.checkpoint import load
            from kedge.layout import channels_last

            model: Any = load(self.path).to(device)
            return model if device == "mps" else channels_last(model)  # type: ignore[return-value]
        timm = self.written.startswith(TIMM)
        model = load_timm(self.written, weights, headless) if timm else load_callable(self.written)
        return model.to(device) if hasattr(model, "parameters") else model


def find(word: str, python: bool = False, several: bool = False) -> Source:
    """Find the model that `word` names; a path that exists comes before all else, unless it is a folder without one.

    `python`: whether it may be a Python callable, which is imported only when it is loaded. `several`: whether it may
    be the mean of several models, `mean(A,B)`.

    Raises:
        FileNotFoundError: if there is nothing of that name, or a run that has no model yet.
        ValueError: if it is a file that kedge does not read models from, or a callable where a kedge model is needed.
        kedge.hub.HubError: if the hub has no such model or does not give it; a model of the hub is downloaded here.
    """
    if not word.strip():
        raise ValueError("a model's name is empty")
    path, run = Path(word), Path("runs") / word
    if (not path.exists() and run.is_dir()) or (path.is_dir() and not _holds_run(path) and _holds_run(run)):
        path = run  # also one that is called as a folder of photos here
    if path.is_file():
        return _of_file(path, word)
    if path.exists():
        return _of_folder(path, word)
    if mean := MEAN.fullmatch(word.strip()):
        return _mean_of(word, mean["members"], python, several)
    if word.startswith(HUB):
        from kedge.hub import download, split_name

        repo, revision = split_name(word)
        return Source(download(repo, revision), None, repo.partition("/")[2], word)
    if word.startswith(TIMM):
        return Source(None, None, word.removeprefix(TIMM), word)
    if match := NAME.fullmatch(word):
        if not python:
            raise ValueError(f"{word} is a Python callable, which only kedge evaluate takes; give a kedge model")
        return Source(None, None, match["attribute"], word)
    raise FileNotFoundError(_missing(word))


def _of_file(path: Path, word: str) -> Source:
    if path.suffix == ".onnx":
        return Source(path, None, path.name)
    if path.name in ("config.json", "model.safetensors"):
        return _of_folder(path.parent, str(path.parent))
    what = {
        ".ckpt": "a training checkpoint; give the run folder that holds it",
        ".pt2": "a torch.export file, made for torch.export.load; give the ONNX file or the run folder",
        ".py": f"a Python file; give {path.stem}:NAME for a model of that name in it, or {path.stem}:make()",
    }.get(path.suffix, "not a model that kedge reads; give a run folder, a model folder or an .onnx file")
    raise ValueError(f"{word} is {what}")


def _of_folder(path: Path, word: str) -> Source:
    if (path / CASCADE).is_file():
        return Source(path, None, path.resolve().name)
    folder = model_folder(path)
    if folder is None:
        raise FileNotFoundError(f"{word} is a folder without a model (no model/config.json and no config.json in it)")
    run = path if folder != path else run_of(folder)
    part = folder.resolve().name
    if run is None:
        return Source(folder, None, part)
    return Source(folder, run, run.resolve().name + ("" if part == "model" else f"-{part}"))


def _mean_of(word: str, inside: str, python: bool, several: bool) -> Source:
    if not several:
        raise ValueError(
            f"{word} is the mean of several models, which evaluate, predict and export take; give one model"
        )
    parts = [part.strip() for part in _pieces(inside)]
    if len(parts) < 2 or not all(parts):
        raise ValueError(f"{word!r} is the mean of fewer than two models: write mean(MODEL,MODEL,...)")
    members: list[Source] = []
    for part in parts:
        member = find(part, python)
        if any(_same(member, other) for other in members):
            raise ValueError(f"{word} holds {part} twice: one model counted twice is no ensemble")
        members.append(member)
    return Source(None, None, f"mean({','.join(member.name for member in members)})", word, tuple(members))


def leaves(sources: Mapping[str, Source]) -> dict[str, Source]:
    """The single models among sources, those that others are the mean of in their place."""
    single: dict[str, Source] = {}
    for name, source in sources.items():
        for member in source.members or (source,):
            single[_own_name(member.name if source.members else name, single)] = member
    return single


def _holds_run(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("model/config.json", "config.json", "recipe.yaml"))


def check_weights(sources: Iterable[Source], weights: str | None) -> None:
    """Raise ValueError unless the file of `--weights` can only be of one of the models."""
    networks = [s.written for source in sources for s in source.members or (source,) if s.written.startswith(TIMM)]
    if weights is not None and len(networks) != 1:
        what = f"{len(networks)} of them are: {', '.join(networks)}" if networks else "none of the models is"
        raise ValueError(f"--weights {weights} is for one network written timm/NAME, and {what}")


def find_groups(words: Sequence[str]) -> tuple[dict[str, Source], dict[str, list[str]]]:
    """Find several models, and which of them are one method.

    Each word is a model; `NAME=MODEL`, a model under another name; or `NAME=MODEL,MODEL,...`, one method trained
    several times. A path that exists is a path, whatever signs it holds.

    Returns:
        The models under names of their own, and for each group of two or more the names of its models.

    Raises:
        FileNotFoundError: as of `find`.
        ValueError: as of `find`; a name that is given twice or stands for nothing, a model twice in one group.
    """
    sources: dict[str, Source] = {}
    groups: dict[str, list[str]] = {}
    names: set[str | None] = set()
    for word in words:
        name, parts = _name_and_models(word)
        if name is not None and name in names:
            raise ValueError(f"two models or groups are called {name!r}: choose another name in {word!r}")
        names.add(name)
        members: list[str] = []
        for part, source in [(part, find(part, python=True, several=True)) for part in parts]:
            if any(_same(source, sources[other]) for other in members):
                raise ValueError(f"the group {name} holds {part} twice: a group is of trainings with different seeds")
            if name is not None and len(parts) == 1:
                source = replace(source, name=name)
            members.append(_own_name(source.name, sources))
            sources[members[-1]] = source
        if len(parts) > 1:
            groups[str(name)] = members
    return sources, groups


def _own_name(name: str, others: dict[str, Source]) -> str:
    own, n = name, 2
    while own in others:
        own, n = f"{name} ({n})", n + 1
    return own


def _same(one: Source, other: Source) -> bool:
    if one.path is None or other.path is None:
        return one.path is other.path and one.written == other.written
    return one.path.resolve() == other.path.resolve()


def _name_and_models(word: str) -> tuple[str | None, list[str]]:
    """(name or None, models) of one argument."""
    if _is_there(word):
        return None, [word]
    name, equals, rest = word.partition("=")
    if "," in word and all(_is_there(part) for part in _pieces(word)):
        raise ValueError(f"{word} lists several models: as a group they need a name, NAME={word}; else use spaces")
    if not equals or any(sign in name for sign in "/\\:("):
        return None, [word]
    if not name.strip() or not rest.strip(" ,"):
        raise ValueError(f"{word!r} has no {'model' if name.strip() else 'name'}: write NAME=MODEL or NAME=MODEL,MODEL")
    parts = _pieces(rest)
    if not all(part.strip() for part in parts):
        raise ValueError(f"{word!r} holds an empty model: there is a comma too many")
    return name.strip(), parts


def _pieces(text: str) -> list[str]:
    """Split at commas, but not inside a path that exists, nor inside brackets that close: those of mean(A,B)."""
    words, pieces = text.split(","), []
    while words:
        starts = {n: ",".join(words[:n]) for n in range(1, len(words) + 1)}
        paths = [n for n, start in starts.items() if n > 1 and _is_there(start)]
        closed = [n for n, s in starts.items() if not s.strip().startswith("mean(") or s.count("(") == s.count(")")]
        count = max(paths) if paths else min(closed, default=1)
        pieces.append(starts[count])
        words = words[count:]
    return pieces


def _is_there(word: str) -> bool:
    return bool(word.strip()) and (Path(word).exists() or (Path("runs") / word).is_dir())


def _missing(word: str) -> str:
    path, folder = Path(word), Path("runs")
    runs = [name for name in _names(folder) if (folder / name).is_dir()]
    here = f"there are: {', '.join(runs[:8])}" if runs else "there are none here"
    message = f"no model at {word!r}, and no run of that name in runs/ ({here})"
    near = difflib.get_close_matches(word, _names(folder), n=2) if len(path.parts) == 1 else []
    near += [str(path.parent / n) for n in difflib.get_close_matches(path.name, _names(path.parent), n=2)]
    if near:
        return f"{message}; did you mean {' or '.join(dict.fromkeys(near))}?"
    return f"{message}; a published network of timm is written timm/{word}" if len(path.parts) == 1 else message


def _names(folder: Path) -> list[str]:
    """Folders and ONNX files: what may be models."""
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if (p.is_dir() or p.suffix == ".onnx") and p.name[0] not in "._")

"""What MODEL can be on the command line: a run, a model folder, an ONNX file, a network of timm, a Python callable."""

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedge.cli.foreign import load_callable, load_timm
from kedge.named_model import TIMM, model_folder, run_of
from kedge.own_code import NAME

if TYPE_CHECKING:
    from kedge.anchoring import PixelModel
    from kedge.training.record import ImageRecord

MODEL_HELP = (
    "a run folder (runs/NAME, or only NAME), a model folder, an ONNX file written by kedge export, timm/NAME: a "
    "network of timm with its published weights, or hf-hub:OWNER/NAME (also @REVISION): a model of the Hugging Face hub"
)
MEAN = re.compile(r"mean\((?P<members>.*)\)")
HUB = "hf-hub:"  # as kedge.hub.PREFIX, which would import torch
SEVERAL_HELP = f"{MODEL_HELP}; mean(MODEL,MODEL,...) is the mean of the probabilities of several"
MODELS_HELP = (
    f"{SEVERAL_HELP}; or package.module:attribute, any Python callable from images in [0, 1] to logits "
    "(package.module:make() calls make first; the module is imported from the current directory and thereby run). "
    "NAME=MODEL gives it another name, NAME=MODEL,MODEL,... says that these are one method trained with several seeds"
)


@dataclass(frozen=True)
class Source:
    """Where a model is.

    Attributes:
        path: the folder with config.json, or the ONNX file; None for what is no file.
        run: the run folder it belongs to, or None.
        name: what to call it in tables.
        given: what stood on the command line: "timm/NAME" or "module:attribute" where there is no path, or the name
            on the hub, of which path is a copy in the cache.
        members: where the models are whose mean it is; else empty.
    """

    path: Path | None
    run: Path | None
    name: str
    given: str = ""
    members: tuple["Source", ...] = ()

    @property
    def on_hub(self) -> bool:
        """Whether the path is in the cache of the hub's client, where nothing is written."""
        return self.given.startswith(HUB)

    @property
    def saved(self) -> bool:
        """Whether `kedge.save` wrote it: of a file, a function or a network of timm nothing is anchored."""
        return self.path is not None and self.path.is_dir()

    def folder(self, otherwise: str) -> Path:
        """The folder that `kedge.save` wrote the model in; ValueError, with what to do `otherwise`, without one."""
        if self.path is None or not self.saved:
            raise ValueError(f"{self.given or self.path} is no folder that kedge saved a model in: {otherwise}")
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
        import torch

        from kedge.devices import chosen_device

        if self.path is not None and self.path.suffix == ".onnx":
            from kedge.deploy import load_onnx

            return load_onnx(self.path)
        device = chosen_device(device)
        if self.path is None:
            model = (
                load_timm(self.given, weights, headless) if self.given.startswith(TIMM) else load_callable(self.given)
            )
            return model.to(device) if isinstance(model, torch.nn.Module) else model  # type: ignore[return-value]
        from kedge.checkpoint import load
        from kedge.layout import channels_last

        model = load(self.path).to(device)
        return model if device == "mps" else channels_last(model)  # type: ignore[return-value]


def find(given: str, python: bool = False, several: bool = False) -> Source:
    """Find the model that `given` names; a path that exists comes before all else, unless it is a folder without one.

    `python`: whether it may be a Python callable, which is imported only when it is loaded. `several`: whether it may
    be the mean of several models, `mean(A,B)`.

    Raises:
        FileNotFoundError: if there is nothing of that name, or a run that has no model yet.
        ValueError: if it is a file that kedge does not read models from, or a callable where a kedge model is needed.
        kedge.hub.HubError: if the hub has no such model or does not give it; a model of the hub is downloaded here.
    """
    path = Path(given)
    if not given.strip():
        raise ValueError("a model's name is empty")
    inside = Path("runs") / given
    if path.is_dir() and not _holds_run(path) and _holds_run(inside):
        path = inside  # a run that is called as a folder of photos here
    if not path.exists():
        if inside.is_dir():
            path = inside
        elif mean := MEAN.fullmatch(given.strip()):
            return _mean_of(given, mean["members"], python, several)
        elif given.startswith(HUB):
            from kedge.hub import download, split_name

            repo, revision = split_name(given)
            return Source(download(repo, revision), None, repo.partition("/")[2], given)
        elif given.startswith(TIMM):
            return Source(None, None, given.removeprefix(TIMM), given)
        elif match := NAME.fullmatch(given):
            if not python:
                raise ValueError(f"{given} is a Python callable, which only kedge evaluate takes; give a kedge model")
            return Source(None, None, match["attribute"], given)
        else:
            raise FileNotFoundError(_not_found(given))
    if path.is_file():
        if path.suffix == ".onnx":
            return Source(path, None, path.name)
        if path.name in ("config.json", "model.safetensors"):
            return find(str(path.parent))
        hint = {
            ".ckpt": "a training checkpoint; give the run folder that holds it",
            ".pt2": "a torch.export file, made for torch.export.load; give the ONNX file or the run folder",
            ".py": f"a Python file; give {path.stem}:NAME for a model of that name in it, or {path.stem}:make()",
        }.get(path.suffix, "not a model that kedge reads; give a run folder, a model folder or an .onnx file")
        raise ValueError(f"{given} is {hint}")
    if (folder := model_folder(path)) is not None:
        run = path if folder != path else run_of(folder)
        if run is None:
            return Source(folder, None, folder.resolve().name)
        part = folder.resolve().name
        return Source(folder, run, run.resolve().name + ("" if part == "model" else f"-{part}"))
    raise FileNotFoundError(f"{given} is a folder without a model (no model/config.json and no config.json in it)")


def _mean_of(given: str, inside: str, python: bool, several: bool) -> Source:
    if not several:
        raise ValueError(
            f"{given} is the mean of several models, which evaluate, predict and export take; give one model"
        )
    parts = [part.strip() for part in _pieces(inside)]
    if len(parts) < 2 or not all(parts):
        raise ValueError(f"{given!r} is the mean of fewer than two models: write mean(MODEL,MODEL,...)")
    members: list[Source] = []
    for part in parts:
        member = find(part, python)
        if any(_same(member, other) for other in members):
            raise ValueError(f"{given} holds {part} twice: one model counted twice is no ensemble")
        members.append(member)
    return Source(None, None, f"mean({','.join(member.name for member in members)})", given, tuple(members))


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
    networks = [s.given for source in sources for s in source.members or (source,) if s.given.startswith(TIMM)]
    if weights is not None and len(networks) != 1:
        what = f"{len(networks)} of them are: {', '.join(networks)}" if networks else "none of the models is"
        raise ValueError(f"--weights {weights} is for one network written timm/NAME, and {what}")


def find_groups(given: list[str]) -> tuple[dict[str, Source], dict[str, list[str]]]:
    """Find several models, and which of them are one method.

    Each of `given` is a model; `NAME=MODEL`, a model under another name; or `NAME=MODEL,MODEL,...`, one method trained
    several times. A path that exists is a path, whatever signs it holds.

    Returns:
        The models under names of their own, and for each group of two or more the names of its models.

    Raises:
        FileNotFoundError: as of `find`.
        ValueError: as of `find`; a name that is given twice or stands for nothing, a model twice in one group.
    """
    sources: dict[str, Source] = {}
    groups: dict[str, list[str]] = {}
    asked: set[str] = set()
    for each in given:
        name, parts = _taken_apart(each)
        if name is not None:
            if name in asked:
                raise ValueError(f"two models or groups are called {name!r}: choose another name in {each!r}")
            asked.add(name)
        found = [find(part, python=True, several=True) for part in parts]
        if len(found) == 1:
            own = _own_name(found[0].name if name is None else name, sources)
            sources[own] = found[0] if name is None else replace(found[0], name=name)
            continue
        members: list[str] = []
        for source, part in zip(found, parts, strict=True):
            if any(_same(source, sources[other]) for other in members):
                raise ValueError(f"the group {name} holds {part} twice: a group is of trainings with different seeds")
            members.append(_own_name(source.name, sources))
            sources[members[-1]] = source
        groups[str(name)] = members
    return sources, groups


def _own_name(name: str, taken: dict[str, Source]) -> str:
    own, n = name, 2
    while own in taken:
        own, n = f"{name} ({n})", n + 1
    return own


def _same(one: Source, other: Source) -> bool:
    if one.path is None or other.path is None:
        return one.path is other.path and one.given == other.given
    return one.path.resolve() == other.path.resolve()


def _taken_apart(given: str) -> tuple[str | None, list[str]]:
    """(name or None, models) of one argument."""
    if _is_there(given):
        return None, [given]
    name, equals, rest = given.partition("=")
    if "," in given and all(_is_there(part) for part in _pieces(given)):
        raise ValueError(f"{given} lists several models: as a group they need a name, NAME={given}; else use spaces")
    if not equals or any(sign in name for sign in "/\\:("):
        return None, [given]
    if not name.strip() or not rest.strip(" ,"):
        raise ValueError(
            f"{given!r} has no {'model' if name.strip() else 'name'}: write NAME=MODEL or NAME=MODEL,MODEL"
        )
    parts = _pieces(rest)
    if not all(part.strip() for part in parts):
        raise ValueError(f"{given!r} holds an empty model: there is a comma too many")
    return name.strip(), parts


def _pieces(text: str) -> list[str]:
    """Split at commas, but not inside a path that exists, nor inside brackets that close: those of mean(A,B)."""
    words = text.split(",")
    pieces = []
    while words:
        whole = (",".join(words[:n]) for n in range(len(words), 1, -1))
        most = next((text.count(",") + 1 for text in whole if _is_there(text)), 0) or _closing(words)
        pieces.append(",".join(words[:most]))
        words = words[most:]
    return pieces


def _closing(words: list[str]) -> int:
    """How many of the words belong to the first, up to where its brackets close."""
    for n in range(1, len(words) + 1):
        text = ",".join(words[:n])
        if not text.strip().startswith("mean(") or text.count("(") == text.count(")"):
            return n
    return 1


def _is_there(given: str) -> bool:
    return bool(given.strip()) and (Path(given).exists() or (Path("runs") / given).is_dir())


def _not_found(given: str) -> str:
    path = Path(given)
    said = f"no model at {given!r}, and no run of that name in runs/ ({_runs()})"
    near = difflib.get_close_matches(given, _names(Path("runs")), n=2) if len(path.parts) == 1 else []
    near += [str(path.parent / n) for n in difflib.get_close_matches(path.name, _names(path.parent), n=2)]
    if near:
        return f"{said}; did you mean {' or '.join(dict.fromkeys(near))}?"
    return f"{said}; a published network of timm is written timm/{given}" if len(path.parts) == 1 else said


def _names(folder: Path) -> list[str]:
    """Folders and ONNX files: what may be models."""
    if not folder.is_dir():
        return []
    return sorted(p.name for p in folder.iterdir() if (p.is_dir() or p.suffix == ".onnx") and p.name[0] not in "._")


def _runs() -> str:
    folder = Path("runs")
    names = sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    return f"there are: {', '.join(names[:8])}" if names else "there are none here"

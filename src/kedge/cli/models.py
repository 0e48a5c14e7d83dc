"""What MODEL can be on the command line: a run folder, a model folder, or an exported ONNX file."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kedge.anchoring import AnchoredModel, PlainModel

MODEL_HELP = "a run folder (runs/NAME, or only NAME), a model folder, or an ONNX file written by kedge export"


@dataclass(frozen=True)
class Source:
    """Where a model is.

    Attributes:
        path: the folder with config.json, or the ONNX file.
        run: the run folder it belongs to, or None.
        name: what to call it in tables.
    """

    path: Path
    run: Path | None
    name: str

    def recipe(self) -> dict[str, Any]:
        """The recipe of the run as it was resolved; empty if the model belongs to no run."""
        import yaml

        if self.run is None or not (self.run / "recipe.yaml").is_file():
            return {}
        loaded = yaml.safe_load((self.run / "recipe.yaml").read_text(encoding="utf-8"))
        return loaded if isinstance(loaded, dict) else {}

    def load(self, device: str = "auto") -> "AnchoredModel | PlainModel":
        """The model in eval mode, on `device` ("auto": a GPU if there is one)."""
        import torch

        if self.path.suffix == ".onnx":
            from kedge.deploy import load_onnx

            return load_onnx(self.path)
        from kedge.checkpoint import load

        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        return load(self.path).to(device)  # type: ignore[return-value]


def find(given: str) -> Source:
    """Find the model that `given` names.

    Raises:
        FileNotFoundError: if there is nothing of that name, or a run that has no model yet.
        ValueError: if it is a file that kedge does not read models from.
    """
    path = Path(given)
    if not path.exists():
        inside = Path("runs") / given
        if not inside.is_dir():
            raise FileNotFoundError(f"no model at {given!r}, and no run of that name in runs/ ({_runs()})")
        path = inside
    if path.is_file():
        if path.suffix == ".onnx":
            return Source(path, None, path.name)
        if path.name in ("config.json", "model.safetensors"):
            return find(str(path.parent))
        hint = {
            ".ckpt": "a training checkpoint; give the run folder that holds it",
            ".pt2": "a torch.export file, made for torch.export.load; give the ONNX file or the run folder",
        }.get(path.suffix, "not a model that kedge reads; give a run folder, a model folder or an .onnx file")
        raise ValueError(f"{given} is {hint}")
    if (path / "model" / "config.json").is_file():
        return Source(path / "model", path, path.resolve().name)
    if (path / "config.json").is_file():
        parent = path.resolve().parent
        if path.resolve().name == "model" and (parent / "recipe.yaml").is_file():
            return Source(path, parent, parent.name)
        return Source(path, None, path.resolve().name)
    if (path / "recipe.yaml").is_file():
        raise FileNotFoundError(
            f"{given} is a run that has no model yet: its training has not finished. "
            f"Go on with: kedge train --resume {given}"
        )
    raise FileNotFoundError(f"{given} is a folder without a model (no model/config.json and no config.json in it)")


def find_all(given: list[str]) -> dict[str, Source]:
    """Find several models, each under a name of its own."""
    sources: dict[str, Source] = {}
    for each in given:
        source = find(each)
        name, n = source.name, 2
        while name in sources:
            name, n = f"{source.name} ({n})", n + 1
        sources[name] = source
    return sources


def _runs() -> str:
    folder = Path("runs")
    names = sorted(p.name for p in folder.iterdir() if p.is_dir()) if folder.is_dir() else []
    return f"there are: {', '.join(names[:8])}" if names else "there are none here"

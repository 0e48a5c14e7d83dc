"""Save and load a model as a folder: `model.safetensors` and `config.json`.

A folder never names code to import: the architecture is a registered name of timm, torchvision or
`kedge.networks` with sizes and rates, and everything else loads into a model that the caller brings.
"""

import json
import logging
import os
import re
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from kedge._version import __version__
from kedge.anchoring import AnchoredModel, PixelModel, PlainModel, anchor, plain
from kedge.anchoring.bare_network import resolve_normalisation
from kedge.anchoring.convert import put_stem
from kedge.anchoring.protocol import Model, as_model
from kedge.anchoring.prototypes import PROTOTYPES, reads_features
from kedge.anchoring.twin import evaluating
from kedge.architectures import WithoutDraws, at_most, describe, rebuild
from kedge.files import sweep, whole, write_text
from kedge.json_text import read_json
from kedge.named_model import model_folder
from kedge.postprocess import check_steps
from kedge.regular import LARGEST_TEXT, check_file, file_digest
from kedge.stated import check_stated, check_there, refuse

# A model with steps is written as format 2: a reader that knows none would give other confidences without a word. One
# with a rule for "unknown" as format 3: a reader that does not know it would name a class where there is none.
FORMAT_VERSION = 3
WEIGHTS, CONFIG = "model.safetensors", "config.json"
log = logging.getLogger("kedge")
_KINDS = ("anchored", "plain")


def save(model: PixelModel, folder: str | os.PathLike[str]) -> Path:
    """Write an anchored or plain model to `folder`, whole or not at all; gives the folder.

    A network made by a timm or torchvision name (those of `kedge.networks` too) is rebuilt from that name and
    compared before anything is kept, so that `kedge.load(folder)` needs nothing else. For any other network a
    warning says that `kedge.load(folder, model=...)` will need it. The bank of references is part of the file: it
    holds what you put in it, photographs of the training set for instance.

    Raises:
        TypeError: for a model that is not a kedge model.
        ValueError: if weights are not finite, or a step cannot be applied.
    """
    kind = as_model(model).state()
    check_steps(model.steps, model.task, model.num_outputs)
    state = {name: value.detach().cpu().contiguous().clone() for name, value in model.state_dict().items()}
    if reads_features(model.unknown):
        if model.prototypes is None:
            raise ValueError("not saved: the rule for unknown is by prototypes, and model.prototypes is None")
        state[PROTOTYPES] = model.prototypes.detach().cpu().contiguous().clone()
    broken = [name for name, value in state.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise ValueError(f"not saved: {broken[0]!r} and {len(broken) - 1} more hold NaN or infinity")
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{str(folder)!r} is a file; kedge.save writes a folder")
    folder.mkdir(parents=True, exist_ok=True)
    with whole(folder / f"{WEIGHTS}.new") as temporary:
        save_file(state, temporary, metadata={"format": "pt"})
        config: dict[str, Any] = {
            "format": "kedge",
            "format_version": 3 if model.unknown else 2 if model.steps else 1,
            "kedge_version": __version__,
            **kind,
            "network": type(model.network).__name__,
            "architecture": describe(model),
            "input_shape": list(model.input_shape),
            "num_outputs": model.num_outputs,
            "task": model.task,
            "dtype": str(model.mean.dtype).removeprefix("torch."),
            "class_names": model.class_names,
            "ordered": model.ordered,
            "reject": model.reject,
            **({"unknown": model.unknown} if model.unknown else {}),
            "steps": model.steps,
            "weights_sha256": file_digest(temporary),
        }
        _checked(config, folder)
        if config["architecture"] is not None and (why := _differs(model, config, temporary)) is not None:
            warnings.warn(
                f"{config['architecture']['name']} rebuilt by name is not this network ({why}); "
                "kedge.load will need model=, the network it was made from",
                stacklevel=2,
            )
            config["architecture"] = None
        text = json.dumps(config, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    # Replacing the config is the moment of change: before it the old model loads, after it the new one, whose weights
    # `_weights` finds under either name.
    waiting = folder / _waiting(config)
    os.replace(folder / f"{WEIGHTS}.new", waiting)
    write_text(folder / CONFIG, text)
    os.replace(waiting, folder / WEIGHTS)
    for stale in folder.glob(f"model-{'?' * 16}.safetensors"):  # of a save that was broken off
        stale.unlink()
    sweep(folder)
    return folder


def load(folder: str | os.PathLike[str], model: nn.Module | None = None) -> PixelModel:
    """Load what `save` wrote (a model folder, or a run folder with one inside), in eval mode on the CPU.

    Args:
        folder: the folder. Nothing in it is executed.
        model: the network the saved model was made from, for one that has no timm or torchvision name. It is
            copied; its weights are replaced.

    Raises:
        FileNotFoundError: if there is no model.
        ValueError: if a file is not what it says, or `model` does not fit.
    """
    folder = _model_folder(Path(folder))
    config = read_config(folder)
    likely = folder / WEIGHTS
    # The digest takes a third as long as all else: it is computed beside it, and has the last word.
    with ThreadPoolExecutor(1) as pool:
        checking = pool.submit(_weights, folder, config)
        try:
            loaded = _build(config, likely, model)
        except Exception as error:
            if checking.result() == likely:
                raise
            log.debug("%s is not the file that belongs to the config: %s", likely, error)
            return _build(config, checking.result(), model)
    return loaded if checking.result() == likely else _build(config, checking.result(), model)


def _weights(folder: Path, config: dict[str, Any]) -> Path:
    """The file that holds the config's weights: it has another name if a save was broken off between two renames."""
    files = [path for path in (folder / WEIGHTS, folder / _waiting(config)) if path.is_file()]
    if not files:
        raise FileNotFoundError(f"{folder} has a {CONFIG} but no {WEIGHTS}; copy the whole folder")
    for path in files:
        if file_digest(path) == config["weights_sha256"]:
            return path
    raise ValueError(f"{files[0]} is not the file that {CONFIG} was written for: it was changed or is incomplete")


def _waiting(config: dict[str, Any]) -> str:
    return f"model-{config['weights_sha256'][:16]}.safetensors"


def _build(config: dict[str, Any], weights: Path, model: nn.Module | None) -> PixelModel:
    """The model of a checked `config` with the tensors of `weights`, in eval mode."""
    try:
        check_file(weights)
        state = load_file(weights)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{weights} is not a safetensors file: {error}") from error
    if missing := {"mean", "std"} - state.keys():
        raise ValueError(f"{weights} has no tensor {sorted(missing)[0]!r}: kedge did not write it")
    mean, std = (state[name].float().flatten().tolist() for name in ("mean", "std"))
    if isinstance(model, Model):
        model = model.bare()
    if model is None:
        built = _assembled(config, _rebuilt(config, sum(tensor.numel() for tensor in state.values())), mean, std)
    else:
        built = _tried(config, model, mean, std)
    if built.num_outputs != config["num_outputs"]:
        raise ValueError(f"the model has {built.num_outputs} outputs, but the saved one has {config['num_outputs']}")
    if reads_features(config.get("unknown")) != (PROTOTYPES in state):
        raise ValueError(f"{weights} and the rule for unknown of {CONFIG} disagree about {PROTOTYPES}: one was changed")
    built.to(getattr(torch, config["dtype"]))
    try:
        built.load_state_dict({name: value for name, value in state.items() if name != PROTOTYPES})
    except RuntimeError as error:
        raise ValueError(f"the weights in {weights} do not fit the model: {_short(error)}") from error
    if not all(_finite(value) for value in state.values() if value.is_floating_point()):
        raise ValueError(f"the weights in {weights} hold NaN or infinity, which kedge.save does not write")
    built.class_names, built.ordered = config["class_names"], bool(config.get("ordered"))
    if "bank_prepared" in config:
        average, blur = config["bank_prepared"]
        built.bank_prepared = (average, blur)  # type: ignore[assignment]
    built.prototypes = state.get(PROTOTYPES)
    built.reject, built.unknown = config["reject"], config.get("unknown")
    built.steps = config.get("steps") or {}
    return built.eval()


def _tried(config: dict[str, Any], network: nn.Module, mean: list[float], std: list[float]) -> PixelModel:
    """A model around a copy of `network`, which is run: it is the caller's, and may not be what was saved."""
    settings: dict[str, Any] = {"mean": mean, "std": std, "example": config["input_shape"], "task": config["task"]}
    if config["kind"] == "anchored":
        return anchor(network, first_layer=config["first_layer"], **settings)
    return plain(network, **settings)


def _assembled(config: dict[str, Any], network: nn.Module, mean: list[float], std: list[float]) -> PixelModel:
    """A model around `network`, which is not run: `save` compared what is rebuilt like this with what it wrote."""
    shape, anchored = config["input_shape"], config["kind"] == "anchored"
    outputs = config["architecture"]["arguments"].get("num_classes", config["num_outputs"])
    if outputs != config["num_outputs"]:
        raise ValueError(f"the model has {outputs!r:.20} outputs, but the saved one has {config['num_outputs']}")
    if anchored:
        try:
            known = put_stem(network, config["first_layer"])
        except AttributeError as error:
            raise ValueError(
                f"first_layer={config['first_layer']!r} is not a module of {config['architecture']['name']!r}"
            ) from error
        if not known:
            return _tried(config, network, mean, std)
    mean_, std_ = resolve_normalisation(network, shape, mean, std)
    settings: dict[str, Any] = {"mean": mean_, "std": std_, "input_shape": shape, "num_outputs": outputs}
    settings["task"] = config["task"]
    if not anchored:
        return PlainModel(network, **settings)
    # As large as need be: the bank that was saved takes its place.
    return AnchoredModel(network, config["first_layer"], mean_.clamp(0, 1).expand(1, *shape), **settings)


def _differs(model: PixelModel, config: dict[str, Any], weights: Path) -> str | None:
    """Why the model rebuilt from `config` is not `model`, or None: weights must fit and outputs agree."""
    try:
        rebuilt = _build(config, weights, None)
    except ValueError as error:
        return str(error)
    images = torch.rand(2, *model.input_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad(), evaluating(model):
        expected, got = model(images.to(model.mean.device)).cpu().float(), rebuilt(images).float()
    error_size = float((expected - got).abs().max())
    slack = 1e-4 if model.mean.dtype in (torch.float32, torch.float64) else 5e-2
    return None if error_size <= slack * max(1, float(expected.abs().max())) else f"outputs differ by {error_size:.2g}"


def _rebuilt(config: dict[str, Any], stored: int) -> nn.Module:
    if config["architecture"] is None:
        raise ValueError(
            f"the saved network, {config['network']}, could not be rebuilt from a timm or torchvision name: "
            f"pass it, kedge.load(folder, model={config['network']}(...))"
        )
    try:
        with at_most(2 * stored + 1_000_000), WithoutDraws():
            return rebuild(config["architecture"])
    except MemoryError as error:
        raise ValueError(f"{CONFIG} describes {error}, but the weights hold {stored:,}: it was changed") from error


def _model_folder(folder: Path) -> Path:
    if not folder.exists():
        raise FileNotFoundError(f"there is no folder {str(folder)!r}")
    if folder.is_file():
        raise ValueError(f"{str(folder)!r} is a file; kedge.load takes the folder that kedge.save wrote")
    if (model := model_folder(folder)) is None:
        raise FileNotFoundError(f"{str(folder)!r} holds no {CONFIG}, so it is not a model that kedge.save wrote")
    return model


def read_config(folder: Path) -> dict[str, Any]:
    """What the config of a model folder says; ValueError, in words, unless every field is as `save` writes it."""
    return _checked(read_json(folder / CONFIG, LARGEST_TEXT), folder / CONFIG)


def _checked(config: dict[str, Any], where: Path) -> dict[str, Any]:
    """Insist on every field of a config; says which one is wrong and what it holds."""
    if config.get("format") != "kedge":
        raise ValueError(f"{where} is not a kedge config: it has no format 'kedge'")
    version = config.get("format_version")
    if isinstance(version, int) and version > FORMAT_VERSION:
        raise ValueError(f"{where} has format {version}, this kedge reads up to {FORMAT_VERSION}: upgrade kedge")

    check_stated(config, str(where))
    check_there(config, ("architecture", "first_layer"), str(where))
    first = config.get("first_layer")
    rules = {
        "format_version": (version in (1, 2, 3), "1, 2 or 3"),
        "kind": (config.get("kind") in list(_KINDS), " or ".join(_KINDS)),
        "network": (isinstance(config.get("network"), str), "a name"),
        "architecture": (isinstance(config.get("architecture"), dict | None), "null, or how to build the network"),
        "first_layer": (
            isinstance(first, str) if config.get("kind") == "anchored" else first is None,
            "the name of a layer of an anchored model, else null",
        ),
        "bank_prepared": (
            "bank_prepared" not in config or (config.get("kind") == "anchored" and _counts(config["bank_prepared"], 2)),
            "images and pixels of an anchored model's bank, [average, blur]",
        ),
        "dtype": (config.get("dtype") in ("float32", "float64", "float16", "bfloat16"), "a type of weights"),
        "steps": (not config.get("steps") or version != 1, "nothing in format 1"),
        "unknown": (config.get("unknown") is None or version == 3, "nothing before format 3"),
        "weights_sha256": (bool(re.fullmatch("[0-9a-f]{64}", str(config.get("weights_sha256")))), "64 digits"),
    }
    for name, (right, expected) in rules.items():
        if not right:
            refuse(config, name, str(where), expected)
    return config


def _counts(value: Any, how_many: int) -> bool:
    whole = isinstance(value, list) and all(type(each) is int and each >= 0 for each in value)
    return whole and len(value) == how_many


def _finite(values: torch.Tensor) -> bool:
    # NaN and infinity are in the ends, which one quick pass gives.
    return values.numel() == 0 or bool(torch.stack(values.aminmax()).isfinite().all())


def _short(error: RuntimeError) -> str:
    lines = [line.strip() for line in str(error).splitlines()[1:] if line.strip()]
    return "; ".join(lines[:3]) + (f"; and {len(lines) - 3} more" if len(lines) > 3 else "") or str(error)

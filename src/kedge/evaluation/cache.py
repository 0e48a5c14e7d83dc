"""Results of parts of an evaluation, stored on disk so that an interrupted one goes on and a second one only adds.

A part is what one model gave on one set of images under one condition. Its file is named by a digest of everything it
depends on: weights, images, condition, seed, versions. Nothing is ever looked up by a name alone, so a changed model or
data set simply has other parts.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from kedge._version import __version__
from kedge.anchoring.protocol import as_model
from kedge.files import sweep, whole

PROTOCOL = 4  # raised whenever the same settings would give other tensors
FOLDER = "parts"


class Parts:
    """Parts in a folder, or, without a folder, nowhere: then there are none, and nothing is stored.

    Attributes:
        reused: how many were read.
    """

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self.reused = 0
        if folder is not None:
            sweep(folder)

    def get(self, key: str | None) -> dict[str, Tensor] | None:
        """The tensors stored under `key`, or None. A file that cannot be read counts as missing, and is made again."""
        path = self._path(key)
        if path is None or not path.is_file():
            return None
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError, ValueError):
            return None
        self.reused += 1
        return tensors

    def put(self, key: str | None, tensors: dict[str, Tensor]) -> None:
        """Store `tensors` under `key`, whole or not at all."""
        path = self._path(key)
        if path is not None:
            with whole(path) as temporary:
                save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary)

    def has(self, key: str | None) -> bool:
        """Whether something is stored under `key`."""
        path = self._path(key)
        return path is not None and path.is_file()

    def _path(self, key: str | None) -> Path | None:
        return None if self.folder is None or key is None else self.folder / f"{key}.safetensors"


def digest(*what: Any) -> str:
    """24 hexadecimal digits that stand for values which JSON can hold."""
    text = json.dumps([PROTOCOL, __version__, *what], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def tensor_digest(tensor: Tensor) -> str:
    """A digest of a tensor's type, shape and values."""
    tensor = tensor.detach().cpu().contiguous()
    sha = hashlib.sha256(f"{tensor.dtype}{list(tensor.shape)}".encode())
    if tensor.numel():
        sha.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()


# Settings of layers from these packages are in their printed form.
_PRINTED = ("torch", "timm", "torchvision", "kedge")


def model_digest(model: Any, references: Any, probe: Tensor, batch_size: int | None = None) -> str | None:
    """What stands for a model, how it is asked, and what it answered to a few images, `probe`.

    The weights alone would not tell a model from another one whose settings are plain attributes: those of modules from
    elsewhere are part of the digest, and so is what the model answered. `batch_size` is given for a model whose answers
    depend on it. None for a callable that is no module: nothing here determines its answers.
    """
    model = as_model(model)
    if not isinstance(model.network, nn.Module):
        return None
    values = {name: tensor_digest(value) for name, value in model.state_dict().items()}
    bank = tensor_digest(references) if isinstance(references, Tensor) else references
    more = [x for x in (_attributes(model), batch_size) if x]
    return digest(
        str(model),
        type(model.network).__module__,
        values,
        bank,
        model.steps_in_force(),
        tensor_digest(probe),
        str(torch.__version__),
        *more,
    )


def _attributes(model: nn.Module) -> dict[str, Any]:
    """Plain settings of the modules that are not from well-known packages."""
    settings = {}
    for name, module in model.named_modules():
        if type(module).__module__.partition(".")[0] not in _PRINTED:
            plain = {k: v for k, v in vars(module).items() if isinstance(v, bool | int | float | str | list | tuple)}
            settings[name] = {k: repr(v) for k, v in plain.items() if k != "training"}
    return settings

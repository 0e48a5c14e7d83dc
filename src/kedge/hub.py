"""Models from the Hugging Face hub: two files of a repository, `config.json` and `model.safetensors`, and no other."""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from kedge.checkpoint import CONFIG, WEIGHTS, load
from kedge.json_text import read_json
from kedge.regular import LARGEST_TEXT

if TYPE_CHECKING:
    from torch import nn

    from kedge.anchoring import PixelModel

__all__ = ["HubError", "download", "from_pretrained", "split_name"]

PREFIX = "hf-hub:"
# What is fetched unasked. A config of kedge takes kilobytes; the largest networks of timm take 6 GB.
LARGEST = {CONFIG: LARGEST_TEXT, WEIGHTS: 20 * 2**30}
_NAME = re.compile(r"(?P<repo>[\w-][\w.-]{0,95}/[\w-][\w.-]{0,95})(@(?P<revision>[^\s@]+))?", re.ASCII)


class HubError(RuntimeError):
    """The hub has no such model, does not give it, or cannot be reached."""


class _Unreached(HubError):
    """The hub cannot be reached."""


def from_pretrained(
    repo: str, revision: str | None = None, token: str | bool | None = None, model: "nn.Module | None" = None
) -> "PixelModel":
    """Load a model that `kedge.push_to_hub` published, in eval mode on the CPU.

    Only safetensors and JSON are downloaded, into the cache of huggingface_hub, and nothing in them is executed.

    Args:
        repo: "owner/name".
        revision: a branch, tag or commit; default: the main branch. A commit always gives the same model.
        token: of the Hugging Face account, for a private repository; default: the one that `hf auth login` stored.
        model: as of `kedge.load`, for a network that has no timm or torchvision name.

    Raises:
        HubError: no such repository, one that is private or gated, no network, or no model of kedge in it.
        ValueError: a name without an owner, or files that are not what they say.
    """
    repo, named = split_name(repo)
    return load(download(repo, revision or named, token), model)


def split_name(name: str) -> tuple[str, str | None]:
    """(owner/name, revision or None) of `owner/name`, `owner/name@revision`, either with `hf-hub:` before it.

    Raises:
        ValueError: if it is no such name; of a folder the message names `kedge.load`.
    """
    match = _NAME.fullmatch(name.removeprefix(PREFIX))
    if match is None or ".." in match["repo"] or "--" in match["repo"]:
        if name and not name.startswith(PREFIX) and Path(name).exists():
            raise ValueError(f"{name!r} is a folder here, which kedge.load reads; the hub's names are owner/name")
        what = "has no owner: write owner/name" if re.fullmatch(r"(hf-hub:)?[\w.-]+", name) else "is not owner/name"
        raise ValueError(f"{name!r} {what}, a repository of huggingface.co such as ada/litter")
    return match["repo"], match["revision"]


def download(repo: str, revision: str | None = None, token: str | bool | None = None) -> Path:
    """The folder in the cache with config.json and model.safetensors of `repo`, fetched if they are not there.

    The config comes first: of a repository that is not kedge's nothing else is fetched. Without a network what is in
    the cache serves. Raises HubError.
    """
    from huggingface_hub import hf_hub_download

    at = f"{repo}@{revision}" if revision else repo
    sizes = _sizes(repo, revision, token)
    for name in LARGEST if sizes is not None else ():
        if name not in (sizes or {}):
            raise HubError(f"{at} is not a model of kedge: it has no {name}{_guess(sizes or {})}")
        if (size := (sizes or {})[name] or 0) > LARGEST[name]:
            raise HubError(
                f"{at}: its {name} has {size:,} bytes, more than the {LARGEST[name]:,} that are fetched unasked; if "
                "you trust it, fetch it with hf download and give its folder to kedge.load"
            )
    with explained(repo, revision, token):
        config = Path(hf_hub_download(repo, CONFIG, revision=revision, token=token, local_files_only=sizes is None))
        _check_config(config, at)
        # By its commit: a push in between must not give the weights of another config.
        commit = config.parent.name
        hf_hub_download(repo, WEIGHTS, revision=commit, token=token, local_files_only=sizes is None)
    return config.parent


def _sizes(repo: str, revision: str | None, token: str | bool | None) -> dict[str, int | None] | None:
    """File to size of what the repository holds; None where the hub cannot be reached (the cache may serve)."""
    from huggingface_hub import HfApi

    try:
        with explained(repo, revision, token):
            info = HfApi(token=token).model_info(repo, revision=revision, files_metadata=True, timeout=10)
            return {file.rfilename: file.size for file in info.siblings or []}
    except _Unreached:
        return None


def _check_config(path: Path, at: str) -> None:
    try:
        config = read_json(path, LARGEST[CONFIG])
    except ValueError as error:
        why = str(error).replace(str(path), f"its {CONFIG}")  # a place in the cache tells nobody anything
        raise HubError(f"{at} is not a model of kedge: {why}") from None
    if config.get("format") == "kedge":
        return
    name = config.get("architecture")
    if isinstance(name, str) and "num_classes" in config:
        owner, _, rest = at.partition("/")
        way = f"kedge knows it as timm/{rest}" if owner == "timm" else "timm.create_model('hf-hub:...') loads it"
        raise HubError(f"{at} is a network of timm ({name[:60]}), not a model of kedge: {way}")
    raise HubError(f"{at} is not a model of kedge: its {CONFIG} has no format 'kedge'")


def _guess(names: Iterable[str]) -> str:
    other = next((name for name in names if name.endswith((".bin", ".pt", ".pth", ".ckpt", ".pkl", ".onnx"))), None)
    return f" ({other[:60]} is there, which kedge does not read from the hub)" if other else ""


@contextmanager
def explained(repo: str, revision: str | None = None, token: str | bool | None = None) -> Iterator[None]:
    """What the hub's client raises within, in words for people."""
    try:
        yield
    except HubError:
        raise
    except Exception as error:
        if (words := explain(error, repo, revision, token)) is not None:
            raise HubError(words) from error
        if not _is_connection(error):
            raise
        again = f" ({type(error).__name__}); look at the network and try again"
        why = " (HF_HUB_OFFLINE is set)" if _offline() else again
        raise _Unreached(f"{repo} is not in the cache, and the hub cannot be reached{why}") from error


def explain(error: Exception, repo: str, revision: str | None = None, token: str | bool | None = None) -> str | None:
    """What the hub's answer means; None for an error that is no answer of the hub."""
    from huggingface_hub import errors

    sent = isinstance(token, str) or _stored()
    if isinstance(error, errors.GatedRepoError):
        return f"{repo} is gated: its owner gives it to those who ask. Ask on https://huggingface.co/{repo}, then " + (
            "try again with the token of that account" if sent else "log in with hf auth login, or pass token="
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{repo} has no revision {revision!r} (a branch, tag or commit)"
    if isinstance(error, errors.RepositoryNotFoundError):
        return f"the hub has no repository {repo}, or it is private" + (
            " and the token is not allowed to see it" if sent
            else ": for your own log in with hf auth login, or pass token="
        )  # fmt: skip
    if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
        return f"{repo} is not a model of kedge, or not whole: {str(error).strip().splitlines()[0]}"
    if isinstance(error, errors.HfHubHTTPError) and error.response is not None:
        status = error.response.status_code
        if status == 401:
            return "the hub does not know this token (401): " + (
                "make another one in the settings of your account, and log in with hf auth login" if sent
                else "log in with hf auth login, or pass token="
            )  # fmt: skip
        if status == 403:
            return f"the token may not do this with {repo} (403): it needs the right to write there"
        if status < 500 and status != 429:
            return f"the hub refused {repo} ({status}): {error.server_message or str(error).strip().splitlines()[-1]}"
    return None


def _is_connection(error: Exception) -> bool:
    """Whether the hub was not reached or is out of order: then the cache may serve."""
    from huggingface_hub import errors

    # The client's HTTP library is its own affair: it is told by what the client's errors descend from.
    transport = tuple(base for base in errors.HfHubHTTPError.__mro__ if base.__name__ == "HTTPError")
    return isinstance(error, (ConnectionError, TimeoutError, errors.LocalEntryNotFoundError, *transport))


def _stored() -> bool:
    from huggingface_hub import get_token

    return get_token() is not None


def _offline() -> bool:
    from huggingface_hub import constants

    return bool(constants.HF_HUB_OFFLINE) or os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0")

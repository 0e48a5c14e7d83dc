"""Publish a model on the Hugging Face hub: three files, in one commit, and no photo unasked."""

import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from kedge import checkpoint
from kedge.anchoring import PixelModel
from kedge.checkpoint import CONFIG, WEIGHTS
from kedge.deploy.model_card import FILE, LARGEST_CARD, MARKER, is_ours, means_of, model_card, stated_license
from kedge.deploy.photos import FEWEST, photos_in, with_mean_reference
from kedge.deploy.photos import folded as fold
from kedge.files import write_text
from kedge.hub import HubError, explained, split_name
from kedge.regular import read_text
from kedge.training.recorded import read_run

if TYPE_CHECKING:
    from huggingface_hub import HfApi

MEAN = "The bank was replaced by one mean image, with which predictions differ from those that were measured."
FOLDED = "One reference was folded into the first layer, with which predictions differ from those of a whole bank."


def push_to_hub(
    model: PixelModel | str | os.PathLike[str],
    repo: str,
    *,
    photos: Literal["refuse", "keep", "mean"] = "refuse",
    folded: bool = False,
    mean: Tensor | None = None,
    private: bool = False,
    token: str | bool | None = None,
    license: str | None = None,
    message: str | None = None,
) -> str:
    """Publish a model on huggingface.co, for `kedge.from_pretrained(repo)`; gives the address of the commit.

    Three files go: model.safetensors, config.json and README.md, a model card. They replace the files of these names
    in one commit, so that an interrupted upload changes nothing and can be repeated. A README.md, in the folder or in
    the repository, that kedge did not write is kept.

    Args:
        model: a kedge model, or the run or model folder of one; of a run the card says more.
        repo: "owner/name"; made if it is not there.
        photos: what becomes of the images that the model holds, training photos as a rule. "refuse": raise an error
            if there are any. "keep": publish them. "mean": one mean image in place of the bank, no residuals.
            Predictions change, and threshold and temperature stay as they are; `kedge push` sets them anew.
        folded: publish the plain model with the first reference (after `photos`) folded in. A folded photo is still
            one: it can be made out in the map (see `kedge.deploy.folded`), so `photos` is asked all the same.
        mean: with photos="mean", the mean image `[C, H, W]` of the training set; default: the mean of the bank.
        private: make a new repository private; an error if there is a public one of this name.
        token: of the account, with the right to write; default: the one that `hf auth login` stored.
        license: the hub's word for it, such as "mit"; the card says so if there is none.
        message: of the commit.

    Raises:
        ValueError: for a name without an owner, or images that may be photos and were not allowed to go.
        HubError: where the hub refuses (a wrong token, no right to write) or cannot be reached.
    """
    if photos not in ("refuse", "keep", "mean"):
        raise ValueError(f"photos must be refuse, keep or mean, got {photos!r}")
    check_name(repo)
    own = None if isinstance(model, PixelModel) else checkpoint._model_folder(Path(model))
    run = own.parent if own is not None and (own.parent / "recipe.yaml").is_file() else None
    published = model if isinstance(model, PixelModel) else checkpoint.load(model)
    means, changed = means_of(*read_run(run)), []
    if photos == "mean" and published.count() and photos_in(published, means):
        means = check_mean(published, mean)
        published = with_mean_reference(published, mean)
        changed.append(MEAN)
    if folded and published.count():
        published = fold(published)
        changed.append(FOLDED)
    if photos == "refuse" and (count := photos_in(published, means)):
        raise ValueError(
            f"not pushed: {warning(published, count)}. Choose photos='mean' (one mean image instead; predictions "
            "change), with folded=True to have a plain model; or photos='keep' if they may be seen by whoever has the "
            "model"
        )
    with tempfile.TemporaryDirectory(prefix="kedge-push-") as folder:
        write_files(published, Path(folder), repo, run, license, " ".join(changed), means, own)
        return upload(Path(folder), repo, private, token, message)


def check_name(repo: str) -> None:
    """Raise ValueError unless `repo` is "owner/name"."""
    if split_name(repo)[1] is not None:
        raise ValueError(f"a model is pushed to the main branch of a repository: leave out what follows @ in {repo!r}")


def check_mean(model: PixelModel, mean: Tensor | None) -> int | None:
    """How many images the reference of `with_mean_reference(model, mean)` is the mean of, for `photos_in`.

    Raises ValueError for the mean of a bank so small that it shows its photos; warns where it is of fewer than 100.
    """
    from kedge.deploy.photos import ENOUGH

    if mean is not None:
        return ENOUGH  # of the training set, as the caller says
    count = len(model.references)
    if count < FEWEST:
        raise ValueError(
            f"the bank holds {count} image{'s' if count > 1 else ''}, and their mean shows them: give the mean image "
            "of the training set (mean= in Python; kedge push takes it where the data of the run is at hand)"
        )
    if count < ENOUGH:
        warnings.warn(
            f"the mean of the {count} images of the bank keeps something of each; the mean of the training set does "
            "not (mean=)",
            stacklevel=3,
        )
    return count


def warning(model: PixelModel, count: int) -> str:
    """What leaves with the model: a sentence without its full stop."""
    if not model.count():
        return (
            "the first layer holds a map made of a reference, a training photo as a rule, which can be made out in it"
        )
    residuals = 0 if model.residuals is None else len(model.residuals)
    kinds = f"the bank holds {count - residuals} photo{'s' if count - residuals != 1 else ''}"
    if residuals:
        kinds += f" and {residuals} residuals, which are photos minus references"
    return f"{kinds}: training photos, unless you put other images there, stored as they are"


def is_made_by_name(folder: Path) -> bool:
    """Whether the network of a saved model has a registered name, so that no code of its own is needed."""
    return '"architecture": null' not in (folder / CONFIG).read_text(encoding="utf-8")


def write_files(
    model: PixelModel,
    folder: Path,
    repo: str | None = None,
    run: Path | None = None,
    license: str | None = None,
    changed: str = "",
    means: int | None = None,
    own: Path | None = None,
) -> Path:
    """Write what is uploaded: the model and its card; a README.md of the user's in the model folder `own` is taken.

    Raises ValueError if a text names a folder of this machine.
    """
    checkpoint.save(model, folder)
    if own is not None and not is_ours(own / FILE):
        text = read_text(own / FILE, LARGEST_CARD)
    else:
        license = license or (stated_license(own / FILE) if own is not None else None)
        text = model_card(model, run, repo, license, changed, means, is_made_by_name(folder))
    write_text(folder / FILE, text)
    for name in (CONFIG, FILE):
        written = (folder / name).read_text(encoding="utf-8")
        for place in (Path.home(), Path.cwd(), run.resolve() if run is not None else None):
            if place is not None and len(place.parts) > 2 and str(place) in written:
                raise ValueError(f"{name} names a folder of this machine, {place}: take that out of it first")
    return folder


def upload(
    folder: Path, repo: str, private: bool = False, token: str | bool | None = None, message: str | None = None
) -> str:
    """Send the three files of `folder` in one commit; gives its address. Raises HubError."""
    from huggingface_hub import CommitOperationAdd, hf_hub_download

    files = [WEIGHTS, CONFIG, FILE]
    with hub_client(repo, token) as api:
        api.create_repo(repo, private=private or None, exist_ok=True)
        info = api.model_info(repo)
        check_private(repo, private, info)
        if FILE in {file.rfilename for file in info.siblings or []}:
            there = Path(hf_hub_download(repo, FILE, revision=info.sha, token=token))
            if MARKER not in there.read_text(encoding="utf-8", errors="replace"):
                files.remove(FILE)
                warnings.warn(f"{repo} has a README.md that kedge did not write: it was left as it is", stacklevel=3)
        operations = [CommitOperationAdd(name, folder / name) for name in files]
        done = api.create_commit(repo, operations, commit_message=message or "A model of kedge")
    return str(done.commit_url)


@contextmanager
def hub_client(repo: str, token: str | bool | None) -> "Iterator[HfApi]":
    """The hub's client with an account; what it raises about `repo` comes as HubError."""
    from huggingface_hub import HfApi, get_token

    if token is False or (not isinstance(token, str) and get_token() is None):
        raise HubError("pushing needs an account: log in with hf auth login, set HF_TOKEN, or pass token=")
    with explained(repo, token=token):
        yield HfApi(token=token, library_name="kedge")


def check_private(repo: str, private: bool, info: Any) -> None:
    """Raise HubError where a repository was to be private and one of its name is there that is not."""
    if private and not info.private:
        raise HubError(
            f"{repo} is there already and is public: make it private in its settings, or choose another name"
        )

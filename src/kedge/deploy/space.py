"""A Space of the Hugging Face hub that shows a model on a page: the files that it is made of, and sending them.

A Space installs what it runs from the package index. There is a package called kedge there that is not this one, so a
Space brings kedge's own files along, and its requirements name what those stand on.
"""

import re
import shutil
import warnings
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path
from typing import Any

import yaml

import kedge
from kedge._version import __version__
from kedge.anchoring import PixelModel
from kedge.deploy.card_text import escaped
from kedge.deploy.model_card import FILE, MARKER, stated_license
from kedge.deploy.pushing import check_private, hub_client, is_made_by_name, write_files
from kedge.files import write_text
from kedge.hub import split_name

PORT = 7860  # where a Space listens for its page
FRAMED = "https://huggingface.co https://*.hf.space"  # the sites that show the page of a Space
MODEL = "model"  # the folder of the model in a Space
CPU = "https://download.pytorch.org/whl/cpu"  # torch without the libraries of a GPU: 0.2 GB in place of 3
APP = '''"""The page of {name}, served by kedge: python app.py, then http://127.0.0.1:{port}."""

import os
from pathlib import Path

from kedge.demo import serve

if __name__ == "__main__":
    serve(
        Path(__file__).parent / "{model}",
        name={name!r},
        host="0.0.0.0",
        port=int(os.environ.get("PORT", "{port}")),
        framed="{framed}",
    )
'''
DOCKERFILE = """FROM python:3.11-slim
RUN useradd --create-home --uid 1000 user
USER user
WORKDIR /home/user/app
ENV PATH=/home/user/.local/bin:$PATH HF_HUB_OFFLINE=1 MPLCONFIGDIR=/tmp/matplotlib
COPY --chown=user requirements.txt .
RUN pip install --no-cache-dir --user -r requirements.txt
COPY --chown=user . .
EXPOSE {port}
CMD ["python", "app.py"]
"""


DEFAULT = "spaces-config-reference"  # in the README.md that the hub puts into a new Space


def write_space(
    model: PixelModel,
    folder: Path,
    repo: str,
    run: Path | None = None,
    license: str | None = None,
    changed: str = "",
    means: int | None = None,
    own: Path | None = None,
) -> Path:
    """Write the files of a Space: app.py, Dockerfile, requirements.txt, README.md, the model with its card, and kedge.

    What the model holds is among them, photos of its bank too: ask before it is sent. The arguments are those of
    `kedge.deploy.pushing.write_files`; `repo` is the name of the Space.

    Raises:
        ValueError: the model is no classifier of images, which is all that the page shows, or its network has no name,
            so that it cannot be made without the code of its own; or a text names a folder of this machine.
    """
    if model.task != "classification" or len(model.input_shape) != 3:
        raise ValueError(
            f"the page of a Space shows the classes of photos, and this is a {model.task} model for inputs of shape "
            f"{model.input_shape}"
        )
    name = split_name(repo)[0].partition("/")[2]
    needed = requirements()
    write_files(model, folder / MODEL, None, run, license, changed, means, own)
    if not is_made_by_name(folder / MODEL):
        raise ValueError(
            f"the network is a {type(model.network).__name__} of your own code, which a Space does not have: push the "
            "model alone, without --space"
        )
    shutil.copytree(Path(kedge.__file__).parent, folder / "kedge", ignore=shutil.ignore_patterns("__pycache__"))
    write_text(folder / "app.py", APP.format(name=name, port=PORT, model=MODEL, framed=FRAMED))
    write_text(folder / "Dockerfile", DOCKERFILE.format(port=PORT))
    write_text(folder / "requirements.txt", "\n".join([f"--extra-index-url {CPU}", *needed, ""]))
    license = license or stated_license(folder / MODEL / FILE)
    write_text(folder / FILE, _readme(name, license))
    return folder


def requirements() -> list[str]:
    """What kedge and its page stand on, as the installed kedge states it; ValueError where it is not installed."""
    try:
        stated = requires("kedge") or []
    except PackageNotFoundError:
        raise ValueError(
            "only the files of kedge are here, it is not installed, and so it does not say what a Space needs: "
            "python -m pip install -e ."
        ) from None
    of_page = [each for each in stated if re.search(r"""extra == ['"]demo['"]""", each)]
    return [each.partition(";")[0].strip() for each in stated if "extra ==" not in each or each in of_page]


def upload_space(
    folder: Path, repo: str, private: bool = False, token: str | bool | None = None, message: str | None = None
) -> str:
    """Send the files of `write_space` in one commit; gives the address of the Space. Raises HubError."""
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, hf_hub_download

    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    with hub_client(repo, token) as api:
        api.create_repo(repo, repo_type="space", space_sdk="docker", private=private or None, exist_ok=True)
        info = api.space_info(repo)
        check_private(repo, private, info)
        there = {file.rfilename for file in info.siblings or []}
        if FILE in there:
            page = hf_hub_download(repo, FILE, repo_type="space", revision=info.sha, token=token)
            text = Path(page).read_text(encoding="utf-8", errors="replace")
            if MARKER not in text and DEFAULT not in text:
                files.remove(FILE)
                warnings.warn(f"{repo} has a README.md that kedge did not write: it was left as it is", stacklevel=3)
        gone = sorted(name for name in there if name.startswith("kedge/") and name not in files)
        operations: list[Any] = [CommitOperationAdd(name, folder / name) for name in files]
        operations += [CommitOperationDelete(name) for name in gone]
        api.create_commit(repo, operations, repo_type="space", commit_message=message or "A page of kedge")
    return f"{api.endpoint}/spaces/{repo}"


def _readme(name: str, license: str | None) -> str:
    header = {
        "title": name,
        "colorFrom": "blue",
        "colorTo": "gray",
        "sdk": "docker",
        "app_port": PORT,
        "pinned": False,
        "short_description": "Drop a photo, see the answer and why",
        **({"license": license} if license else {}),
    }
    text = yaml.safe_dump(header, sort_keys=False, allow_unicode=True)
    return (
        f"---\n{text}---\n\n{MARKER}\n\n# {escaped(name)}\n\n"
        "Drop a photo, and see its label, how sure the model is, and which places of the photo the answer rests on. "
        "Photos are decoded in memory and not stored.\n\n"
        f"[What the model is, and how it did]({MODEL}/{FILE}). `pip install -r requirements.txt && python app.py` runs "
        f"the page on your own machine.\n\nMade by `kedge push --space` of kedge {__version__}, whose files are in "
        "`kedge/`.\n"
    )

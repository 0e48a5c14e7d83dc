"""`kedge card`: the README.md of a model, for people and for the Hugging Face hub."""

from pathlib import Path
from typing import TYPE_CHECKING

from kedge.cli.resolve_model import find

if TYPE_CHECKING:
    import jsonargparse

DESCRIPTION = """\
Write a model card: what the model is, how to use it, what it was trained on, the table of its last evaluation, what
was not measured, and which images it holds. It becomes README.md in the model folder, with the metadata that the
Hugging Face hub reads. kedge push writes it too; read it before.

A README.md that kedge did not write, or whose marker line you took out, is never replaced.
"""


def parser() -> "jsonargparse.ArgumentParser":
    """The flags of `kedge card`."""
    import jsonargparse

    made = jsonargparse.ArgumentParser(prog="kedge card", usage="kedge card MODEL [options]", description=DESCRIPTION)
    made.add_argument("model", metavar="MODEL", help="a run folder (runs/NAME, or only NAME) or a model folder")
    made.add_argument(
        "--repo", type=str | None, default=None, help="OWNER/NAME of the hub where it will be found; null: the folder"
    )
    made.add_argument(
        "--license", type=str | None, default=None, help="the hub's word for it, such as mit; null: the card says none"
    )
    made.add_argument(
        "--out", type=str | None, default=None, help="the file to write; null: README.md in the model folder"
    )
    return made


def run(config: "jsonargparse.Namespace") -> int:
    """Write the card and say where."""
    source = find(config.model)
    folder = source.folder("a card is about one of those")
    if source.on_hub and not config.out:
        raise ValueError(f"{config.model} is on the hub, with the card that it has: name a file to write with --out")
    from kedge.deploy.card_text import on_validation
    from kedge.deploy.model_card import FILE, evaluation_of, is_ours, model_card, read_run, stated_license
    from kedge.deploy.pushing import check_name
    from kedge.files import sweep, write_text

    if config.repo is not None:
        check_name(config.repo)
    out = Path(config.out) if config.out else folder / FILE
    if out.is_dir():
        raise IsADirectoryError(f"{out} is a folder: name the file, {out / FILE}")
    if not is_ours(out):
        raise FileExistsError(f"{out} was not written by kedge card and is not replaced: name another file with --out")
    model = source.load("cpu")
    license = config.license or stated_license(out)
    text = model_card(model, source.run, config.repo, license)
    sweep(out.parent, shared=True)
    write_text(out, text)
    results, _ = evaluation_of(model, source.run, read_run(source.run)[1])
    print(f"card: {out}")
    if results is None:
        print(f"no evaluation of this model was found: kedge evaluate {config.model}, then write the card again")
    elif on_validation(results):
        print(
            f"the table is of validation images: kedge evaluate {config.model} measures on test images, where there are"
        )
    if license is None:
        print("no licence: --license mit, for example; without one nobody is permitted to use the model")
    return 0

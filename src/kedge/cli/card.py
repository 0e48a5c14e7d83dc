"""`kedge card`: the README.md of a model, for people and for the Hugging Face hub."""

from pathlib import Path

from kedge.cli.resolve_model import find


def run(model: str, *, repo: str | None = None, license: str | None = None, out: str | None = None) -> int:
    """Write a model card.

    It says what the model is, how to use it, what it was trained on, the table of its last evaluation, what was not
    measured, and which images it holds. It becomes README.md in the model folder, with the metadata that the Hugging
    Face hub reads. kedge push writes it too; read it before.

    A README.md that kedge did not write, or whose marker line you took out, is never replaced.

    Args:
        model (MODEL): {TRAINED}
        repo: OWNER/NAME of the hub where it will be found; null: the folder
        license: {LICENSE}
        out: the file to write; null: README.md in the model folder
    """
    source = find(model)
    folder = source.folder("a card is about one of those")
    if source.on_hub and not out:
        raise ValueError(f"{model} is on the hub, with the card that it has: name a file to write with --out")
    from kedge.deploy.model_card import FILE, is_ours, model_card, stated_license
    from kedge.deploy.pushing import check_name
    from kedge.files import sweep, write_text
    from kedge.reporting.evaluations import evaluation_of, on_validation
    from kedge.training.recorded import read_run

    if repo is not None:
        check_name(repo)
    path = Path(out) if out else folder / FILE
    if path.is_dir():
        raise IsADirectoryError(f"{path} is a folder: name the file, {path / FILE}")
    if not is_ours(path):
        raise FileExistsError(f"{path} was not written by kedge card and is not replaced: name another file with --out")
    loaded = source.load("cpu")
    license = license or stated_license(path)
    text = model_card(loaded, source.run, repo, license)
    sweep(path.parent)
    write_text(path, text)
    results, _ = evaluation_of(source.run, loaded.describe_steps(), read_run(source.run)[1])
    print(f"card: {path}")
    if results is None:
        print(f"no evaluation of this model was found: kedge evaluate {model}, then write the card again")
    elif on_validation(results):
        print(f"the table is of validation images: kedge evaluate {model} measures on test images, where there are")
    if license is None:
        print("no licence: --license mit, for example; without one nobody is permitted to use the model")
    return 0

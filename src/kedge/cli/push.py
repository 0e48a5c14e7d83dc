"""`kedge push`: publish a model on the Hugging Face hub, without the training photos unless they may go."""

import copy
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedge.cli.export import THRESHOLD_IMAGES, spread
from kedge.cli.resolve_model import Source, find
from kedge.cli.trained_on import images_of_run

if TYPE_CHECKING:
    from kedge.data import ImageSet

MEAN_IMAGES = 2000  # a mean over more looks the same
COMPARED = 500  # validation images on which to say what changes


def run(
    model: str,
    repo: str,
    *,
    private: bool = False,
    folded: bool = False,
    mean_reference: bool = False,
    with_photos: bool = False,
    license: str | None = None,
    message: str | None = None,
    out: str | None = None,
    space: bool = False,
) -> int:
    """Publish a model on the Hugging Face hub.

    model.safetensors, config.json and a model card go in one commit; nothing else of the run leaves this machine.
    Others use it as hf-hub:OWNER/NAME wherever kedge takes a model.

    The bank of an anchored model holds training photos. Before those are sent you are asked; without a terminal
    --with-photos must say it. --mean-reference sends one mean image instead, --folded an ordinary network. A folded
    photo can still be made out in the network, so --folded alone asks too; with --mean-reference it does not.

    --space publishes a Space in place of a repository of the model: a page that shows the model (kedge demo), with the
    model in it. Nobody needs kedge to try it.

    Args:
        model (MODEL): {TRAINED}
        repo (OWNER/NAME): the repository on the hub; made if it is not there
        private: make a new repository private
        folded: a plain network with one reference folded in
        mean_reference: one mean image in place of the bank: of the training images where they are here, else of the
            bank
        with_photos: training photos in the model may be sent
        license: {LICENSE}
        message: of the commit; null: A model of kedge
        out: write the files to this new folder and send nothing; null: send
        space: a Space with a page to try the model on, and the model in it

    Examples:
        kedge push mine ada/litter --private
        kedge push mine ada/litter --mean-reference             no photos; says how much the predictions change
        kedge push mine ada/litter --folded --mean-reference    no photos, an ordinary network without uncertainty
        kedge push mine ada/litter --out to-send                only write the files, to look at them
        kedge push mine ada/litter --space --mean-reference     a page to try the model on

    Needs an account: hf auth login, or the variable HF_TOKEN.
    """
    if mean_reference and with_photos:
        raise ValueError("--mean-reference leaves the photos out and --with-photos lets them go: say one of them")
    source = find(model)
    own = source.folder("push one of those")
    if out and Path(out).exists() and any(Path(out).iterdir()):
        raise FileExistsError(f"{out} is there already and not empty: name a new folder")
    import tempfile

    from kedge.deploy.model_card import means_of
    from kedge.deploy.photos import photos_in
    from kedge.deploy.pushing import check_name, upload, write_files
    from kedge.deploy.space import upload_space, write_space
    from kedge.training.recorded import read_run

    check_name(repo)
    sent: Any = source.load("cpu")
    means, changed = means_of(*read_run(source.run)), ""
    if sent.count() and (folded or mean_reference):
        sent, means, changed = without_bank(sent, source, folded, mean_reference, means)
    elif folded or mean_reference:
        print("kedge push: the model is plain: there is no bank to leave out", file=sys.stderr)
    count = photos_in(sent, means)
    if count and not with_photos and not out:
        ask(sent, count, repo)
    with tempfile.TemporaryDirectory(prefix="kedge-push-") as temporary:
        folder = Path(out or temporary)
        write = write_space if space else write_files
        write(sent, folder, repo, source.run, license, changed, means, own)
        sizes = sizes_of(folder)
        if out:
            print(f"written to {folder}, nothing was sent: {sizes}")
            if count:
                print(f"careful: {count} of the images in it may be photos; kedge push asks before it sends them")
            if space:
                print(f"see it: python {folder / 'app.py'}")
            return 0
        print(f"sending {sizes}", file=sys.stderr)
        send = upload_space if space else upload
        print(send(folder, repo, private, message=message))
    if not space:
        print(f"use it: kedge predict hf-hub:{repo} IMAGES")
    return 0


def sizes_of(folder: Path) -> str:
    """What lies in a folder, with the bytes of each; of a folder in it the sum."""
    each = {p: sum(f.stat().st_size for f in (p.rglob("*") if p.is_dir() else [p])) for p in sorted(folder.iterdir())}
    return ", ".join(f"{path.name}{'/' * path.is_dir()} ({size:,} bytes)" for path, size in each.items())


def ask(model: Any, count: int, repo: str) -> None:
    """Say what would leave the machine and ask; ValueError unless the answer is yes, or where nobody can be asked."""
    from kedge.deploy.pushing import warning

    words = warning(model, count)
    ways = "--mean-reference (no photos), --folded --mean-reference (no photos, an ordinary network)"
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise ValueError(f"not pushed: {words}. Choose {ways}, or --with-photos if whoever has the model may see them")
    print(f"kedge push: {words}.\nInstead: {ways}.", file=sys.stderr)
    print(f"Send them to {repo}, where whoever has the model can look at them? Type yes: ", end="", file=sys.stderr)
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() != "yes":
        raise ValueError("not pushed")


def without_bank(model: Any, source: Source, fold: bool, mean: bool, means: int | None) -> tuple[Any, int | None, str]:
    """(the model with a mean reference, folded or both; how many images its reference is the mean of; what changed)."""
    from kedge.deploy.photos import folded, with_mean_reference
    from kedge.deploy.pushing import FOLDED, MEAN, check_mean

    train, validation = run_images(source, model.input_shape)
    whole, changes = model, []
    if mean:
        image = None
        if train is not None:
            from kedge.anchoring import choose_references

            chosen = spread(train, MEAN_IMAGES)
            image, means = choose_references(chosen, 1, "mean")[0], len(chosen)
            print(f"kedge push: the reference is the mean of {means:,} training images", file=sys.stderr)
        else:
            means = check_mean(model, None)
            print(f"kedge push: the reference is the mean of the bank, of {means} images", file=sys.stderr)
        model = with_mean_reference(model, image)
        changes.append(MEAN)
    if fold:
        model = copy.deepcopy(model)
        model.references, model.residuals = model.references[:1], None
        changes.append(FOLDED)
    if validation is None:
        changes.append(
            "By how much is not known: no validation images were at hand. Threshold and temperature are old."
        )
        if "prediction_sets" in model.steps:
            model.remove_step("prediction_sets")
            changes.append("Prediction sets are left out: they were set on other answers.")
    else:
        changes.append(set_anew(whole, model, validation))
    print(f"kedge push: {changes[-1]}", file=sys.stderr)
    return folded(model) if fold else model, means, " ".join(changes)


def run_images(source: Source, shape: tuple[int, ...]) -> "tuple[ImageSet | None, ImageSet | None]":
    """Training and validation images of the run, in the shape that the model takes; None where they are not here."""
    if not source.recipe():
        return None, None
    folds = source.recipe().get("folds")  # which held none out
    try:
        images = images_of_run(source, held_out=not folds)
        train, validation = images.train, None if folds else images.val
    except (OSError, ValueError, RuntimeError) as error:
        print(f"kedge push: the images of the run are not at hand ({error})", file=sys.stderr)
        return None, None
    return (train, validation) if tuple(train.image_shape) == tuple(shape) else (None, None)


def set_anew(whole: Any, model: Any, validation: "ImageSet") -> str:
    """Set temperature and threshold of `model` anew on validation images, and say how it differs from `whole`."""
    from kedge.reporting.rows import number
    from kedge.training import calibration

    calibration.set_anew(model, spread(validation, THRESHOLD_IMAGES))
    images = spread(validation, COMPARED)
    before, labels = calibration.predict_set(whole, images, 64)
    after, _ = calibration.predict_set(model, images, 64)
    shares = [(p.argmax(1) == labels).float().mean().item() for p in (before, after)]
    same = (before.argmax(1) == after.argmax(1)).float().mean().item()
    was, now, agree = (number(share, "%") for share in (*shares, same))
    return (
        f"On {len(images)} validation images {now} % are right instead of {was} %, and {agree} % of the answers are "
        "the same; threshold and temperature (if there are any) were set anew."
    )

"""`kedge push`: publish a model on the Hugging Face hub, without the training photos unless they may go."""

import copy
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedge.cli.parse import with_examples
from kedge.cli.resolve_model import Source, find

if TYPE_CHECKING:
    import jsonargparse

    from kedge.data import ImageSet

DESCRIPTION = """\
Publish a model on the Hugging Face hub: model.safetensors, config.json and a model card, in one commit; nothing else
of the run leaves this machine. Others use it as hf-hub:OWNER/NAME wherever kedge takes a model.

The bank of an anchored model holds training photos. Before those are sent you are asked; without a terminal
--with-photos must say it. --mean-reference sends one mean image instead, --folded an ordinary network. A folded photo
can still be made out in the network, so --folded alone asks too; with --mean-reference it does not.
"""
EPILOG = """\
examples:
  kedge push mine ada/litter --private
  kedge push mine ada/litter --mean-reference             no photos; says how much the predictions change
  kedge push mine ada/litter --folded --mean-reference    no photos, an ordinary network without uncertainty
  kedge push mine ada/litter --out to-send                only write the files, to look at them

Needs an account: hf auth login, or the variable HF_TOKEN."""
MEAN_IMAGES = 2000  # a mean over more looks the same
COMPARED = 500  # validation images on which to say what changes


def parser() -> "jsonargparse.ArgumentParser":
    """The flags of `kedge push`."""
    made = with_examples("kedge push", "MODEL OWNER/NAME", DESCRIPTION, EPILOG)
    made.add_argument("model", metavar="MODEL", help="a run folder (runs/NAME, or only NAME) or a model folder")
    made.add_argument("repo", metavar="OWNER/NAME", help="the repository on the hub; made if it is not there")
    made.add_argument("--private", action="store_true", help="make a new repository private")
    made.add_argument("--folded", action="store_true", help="a plain network with one reference folded in")
    made.add_argument(
        "--mean_reference",
        action="store_true",
        help="one mean image in place of the bank: of the training images where they are here, else of the bank",
    )
    made.add_argument("--with_photos", action="store_true", help="training photos in the model may be sent")
    made.add_argument(
        "--license", type=str | None, default=None, help="the hub's word for it, such as mit; null: the card says none"
    )
    made.add_argument("--message", type=str | None, default=None, help="of the commit; null: A model of kedge")
    made.add_argument(
        "--out", type=str | None, default=None, help="write the files to this new folder and send nothing; null: send"
    )
    return made


def run(config: "jsonargparse.Namespace") -> int:
    """Prepare, ask, send and say how to use it."""
    if config.mean_reference and config.with_photos:
        raise ValueError("--mean-reference leaves the photos out and --with-photos lets them go: say one of them")
    source = find(config.model)
    own = source.folder("push one of those")
    if config.out and Path(config.out).exists() and any(Path(config.out).iterdir()):
        raise FileExistsError(f"{config.out} is there already and not empty: name a new folder")
    import tempfile

    from kedge.deploy.model_card import means_of, read_run
    from kedge.deploy.photos import photos_in
    from kedge.deploy.pushing import check_name, upload, write_files

    check_name(config.repo)
    model: Any = source.load("cpu")
    means, changed = means_of(*read_run(source.run)), ""
    if model.count() and (config.folded or config.mean_reference):
        model, means, changed = without_bank(model, source, config.folded, config.mean_reference, means)
    elif config.folded or config.mean_reference:
        print("kedge push: the model is plain: there is no bank to leave out", file=sys.stderr)
    count = photos_in(model, means)
    if count and not config.with_photos and not config.out:
        ask(model, count, config.repo)
    with tempfile.TemporaryDirectory(prefix="kedge-push-") as temporary:
        folder = Path(config.out or temporary)
        write_files(model, folder, config.repo, source.run, config.license, changed, means, own)
        sizes = ", ".join(f"{p.name} ({p.stat().st_size:,} bytes)" for p in sorted(folder.iterdir()))
        if config.out:
            print(f"written to {folder}, nothing was sent: {sizes}")
            if count:
                print(f"careful: {count} of the images in it may be photos; kedge push asks before it sends them")
            return 0
        print(f"sending {sizes}", file=sys.stderr)
        print(upload(folder, config.repo, config.private, message=config.message))
    print(f"use it: kedge predict hf-hub:{config.repo} IMAGES")
    return 0


def ask(model: Any, count: int, repo: str) -> None:
    """Say what would leave the machine and ask; ValueError unless the answer is yes, or where nobody can be asked."""
    from kedge.deploy.pushing import warning

    said = warning(model, count)
    ways = "--mean-reference (no photos), --folded --mean-reference (no photos, an ordinary network)"
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise ValueError(f"not pushed: {said}. Choose {ways}, or --with-photos if whoever has the model may see them")
    print(f"kedge push: {said}.\nInstead: {ways}.", file=sys.stderr)
    print(f"Send them to {repo}, where whoever has the model can look at them? Type yes: ", end="", file=sys.stderr)
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() != "yes":
        raise ValueError("not pushed")


def without_bank(model: Any, source: Source, fold: bool, mean: bool, means: int | None) -> tuple[Any, int | None, str]:
    """(the model with a mean reference, folded or both; how many images its reference is the mean of; what changed)."""
    from kedge.deploy.photos import folded, with_mean_reference
    from kedge.deploy.pushing import FOLDED, MEAN, check_mean

    train, validation = run_images(source, model.input_shape)
    whole, said = model, []
    if mean:
        image = None
        if train is not None:
            from kedge.anchoring import choose_references
            from kedge.cli.export import spread

            chosen = spread(train, MEAN_IMAGES)
            image, means = choose_references(chosen, 1, "mean")[0], len(chosen)
            print(f"kedge push: the reference is the mean of {means:,} training images", file=sys.stderr)
        else:
            means = check_mean(model, None)
            print(f"kedge push: the reference is the mean of the bank, of {means} images", file=sys.stderr)
        model = with_mean_reference(model, image)
        said.append(MEAN)
    if fold:
        model = copy.deepcopy(model)
        model.references, model.residuals = model.references[:1], None
        said.append(FOLDED)
    if validation is None:
        said.append("By how much is not known: no validation images were at hand. Threshold and temperature are old.")
    else:
        said.append(set_anew(whole, model, validation))
    print(f"kedge push: {said[-1]}", file=sys.stderr)
    return folded(model) if fold else model, means, " ".join(said)


def run_images(source: Source, shape: tuple[int, ...]) -> "tuple[ImageSet | None, ImageSet | None]":
    """Training and validation images of the run, in the shape that the model takes; None where they are not here."""
    if not source.recipe():
        return None, None
    from kedge.cli.trained_on import images_of_run
    from kedge.training.held_out import RunImages

    try:
        if source.run is not None and source.recipe().get("folds"):  # which held none out
            train, validation = RunImages(source.run).train, None
        else:
            images = images_of_run(source)
            train, validation = images.train, images.val
    except (OSError, ValueError, RuntimeError) as error:
        print(f"kedge push: the images of the run are not at hand ({error})", file=sys.stderr)
        return None, None
    return (train, validation) if tuple(train.image_shape) == tuple(shape) else (None, None)


def set_anew(whole: Any, model: Any, validation: "ImageSet") -> str:
    """Set temperature and threshold of `model` anew on validation images, and say how it differs from `whole`."""
    from kedge.cli.export import THRESHOLD_IMAGES, set_threshold, spread
    from kedge.reporting.rows import number
    from kedge.training.calibration import predict_set

    set_threshold(model, spread(validation, THRESHOLD_IMAGES))
    images = spread(validation, COMPARED)
    before, labels = predict_set(whole, images, 64)
    after, _ = predict_set(model, images, 64)
    shares = [(p.argmax(1) == labels).float().mean().item() for p in (before, after)]
    same = (before.argmax(1) == after.argmax(1)).float().mean().item()
    was, now, agree = (number(share, "%") for share in (*shares, same))
    return (
        f"On {len(images)} validation images {now} % are right instead of {was} %, and {agree} % of the answers are "
        "the same; threshold and temperature (if there are any) were set anew."
    )

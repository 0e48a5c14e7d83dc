"""`kedge adapt --remember` and `--add_classes`: classes that come when the photos of the old ones are gone."""

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedge.cli.load_data import common_shape, with_classes, workers_for
from kedge.cli.resolve_model import Source
from kedge.cli.trained_on import images_of_run

if TYPE_CHECKING:
    from kedge.anchoring import PixelModel
    from kedge.data import ImageSet
    from kedge.probing.remembered import Remembered

RECORD = "added.json"
ENOUGH = 10  # photos of the rarest new class of which some are held out


def remember_classes(source: Source, word: str, how: str, place: str | None, **settings: Any) -> None:
    """Write what is remembered of the classes' features beside the weights of a model.

    Raises:
        ValueError: for a model that lies in no folder of one's own, and images of other classes.
    """
    from kedge import data
    from kedge.probing.remembered import remember

    folder = _own_folder(source, word)
    model = source.load("cpu")
    if place is not None:
        channels, size = common_shape({word: model})
        offered = data.splits(place)
        images = with_classes(
            data.load(place, "train" if "train" in offered else offered[0], size, channels), {source.name: model}
        )
    elif source.run is not None:
        images = images_of_run(source).train
    else:
        raise ValueError(f"{word} belongs to no run that says what it was trained on: name the old photos with --data")
    images, _ = images.readable()
    on, workers = _device(settings), workers_for(images, settings.pop("workers"))
    remembered = remember(model.to(on), images, how, workers=workers, **settings)
    file = remembered.write(folder)
    print(
        f"remembered: {len(remembered.class_names)} classes of {images.name}, {_what(how, settings['photos'])}, "
        f"{file.stat().st_size / 1e6:.1f} MB in {file}"
    )


def add_new_classes(
    source: Source, word: str, place: str, out: str | None, val_fraction: float, **settings: Any
) -> None:
    """Add the classes of a folder to a model, and write it with what is remembered of all of them.

    Raises:
        FileExistsError: where there is something already.
        ValueError: as of `kedge.adaptation.add_classes`, and where nothing is remembered of the old classes.
    """
    import kedge
    from kedge.files import sweep, whole_folder, write_text
    from kedge.probing.added_classes import add_classes
    from kedge.probing.remembered import Remembered

    folder = _own_folder(source, word)
    goal = Path(out) if out else Path("runs") / f"{source.name}-with-{Path(place).name}"
    if goal.exists():
        raise FileExistsError(f"{goal} is there already: name another folder, with --out")
    remembered = Remembered.read(folder)
    if remembered is None:
        raise ValueError(
            f"{word} remembers nothing of its classes, and without their photos a new head would forget them. While "
            f"you have these photos once more: kedge adapt {shlex.quote(word)} --remember full"
            f"{'' if source.run is not None else ' --data PHOTOS'}; from then on they are not needed"
        )
    model = source.load("cpu")
    train, val = _new_images(model, word, place, val_fraction, settings["seed"])
    on, workers = _device(settings), workers_for(train, settings.pop("workers"))
    added = add_classes(model.to(on), remembered, train, val, workers=workers, **settings)
    record = {
        "format": "kedge added classes",
        "format_version": 1,
        "kedge": kedge.__version__,
        "from": word,
        "old": remembered.class_names,
        "new": train.class_names,
        "data": place,
        "train": len(train),
        "validation": None if val is None else len(val),
        "remembered": remembered.features.how,
        "strength": added.probe.strength,
        "chosen": added.probe.chosen,
        "recalled": added.recalled,
        **{name: settings[name] for name in ("samples", "photos", "seed")},
    }
    sweep(goal.parent)
    with whole_folder(goal) as new:
        added.remembered.write(kedge.save(added.model, new / "model"))
        write_text(new / RECORD, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    print("\n".join(_lines(added.model, remembered, train, val, added.recalled)))
    print(
        f"model: {goal} (kedge evaluate {shlex.quote(str(goal))} --data PHOTOS measures it on photos of old and "
        "new classes)"
    )


def _new_images(
    model: "PixelModel", word: str, place: str, val_fraction: float, seed: int
) -> "tuple[ImageSet, ImageSet | None]":
    """Training and validation images of the new classes; without a part val, and with few of a class, none of these."""
    import torch

    from kedge import data

    channels, size = common_shape({word: model})
    offered = data.splits(place)
    train, _ = data.load(place, "train" if "train" in offered else offered[0], size, channels).readable()
    if "val" in offered:
        val: ImageSet | None = data.load(place, "val", size, channels).readable()[0]
    elif int(torch.bincount(train.labels, minlength=len(train.class_names)).min()) < ENOUGH:
        val = None
    else:
        train, val = data.split_validation(train, val_fraction, seed)
    print(f"{train.name}: {train.report.summary()}", file=sys.stderr)
    return train, val


def _lines(
    model: Any, remembered: "Remembered", train: "ImageSet", val: "ImageSet | None", recalled: float | None
) -> list[str]:
    """What to say of the new model."""
    from kedge.training.calibration import predict_logits

    old = len(remembered.class_names)
    lines = [f"{old} old classes, and new: {', '.join(train.class_names)} ({len(train)} photos)"]
    if recalled is not None:
        lines.append(f"of features drawn for the old classes, {100 * recalled:.1f} % are named right (not of photos)")
    if val is not None:
        answers = predict_logits(model, val)[0].argmax(1)
        right, taken = (100 * float(x.double().mean()) for x in (answers == val.labels + old, answers < old))
        lines.append(
            f"of {len(val)} held-out new photos {right:.1f} % are right, {taken:.1f} % are called an old class"
        )
    lines.append("temperature and threshold are left out, as they were of other logits: kedge calibrate sets them")
    return lines


def _what(how: str, photos: int) -> str:
    gaussian = {"full": "a Gaussian of each", "diagonal": "a Gaussian of each, without covariances"}
    return gaussian.get(how, f"the features of {photos} photos of each")


def _own_folder(source: Source, word: str) -> Path:
    folder = source.folder("what is remembered of classes lies beside a model's weights; save it with kedge.save")
    if source.on_hub:
        raise ValueError(f"{word} is in the cache of the hub: copy it to a folder of your own")
    return folder


def _device(settings: dict[str, Any]) -> str:
    from kedge.devices import chosen_device

    return chosen_device(settings.pop("device"))

"""Images without labels for `kedge evaluate --unlabelled`, and the labelled ones that its estimates rest on."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedge.cli.load_data import common_shape, load_data, load_outside, say_what_is_missing
from kedge.cli.resolve_model import leaves
from kedge.cli.trained_on import trained_by, unseen_by

if TYPE_CHECKING:
    from kedge.cli.resolve_model import Source
    from kedge.data import ImageSet


def add_flags(add: Callable[..., Any]) -> None:
    """Add --unlabelled and --validation to a parser."""
    add(
        "--unlabelled",
        type=str,
        nargs="+",
        metavar="NAME",
        default=[],
        help="images without labels, to estimate the accuracy on: folders, or data whose labels are not looked at",
    )
    add(
        "--validation",
        type=str | None,
        default=None,
        help="labelled images that the estimate for --unlabelled rests on; null: those that the run held out",
    )


def load_unlabelled(models: Mapping[str, Any], names: list[str], decode: bool = True) -> "dict[str, ImageSet]":
    """Sets by name; of a folder all images in and below it, whatever its folders are called.

    Raises:
        DataError: for what is no data.
    """
    from kedge import data
    from kedge.data.image_files import images_under

    channels, side = common_shape(models)
    found: dict[str, ImageSet] = {}
    for name in names:
        folder = Path(name).expanduser()
        if folder.is_dir() and images_under(folder):
            found[name] = data.load_unlabelled(folder, image_size=side, channels=channels, decode=decode)
            say_what_is_missing(found[name])
        else:  # parquet files, a folder of $KEDGE_DATA, a hub name
            found |= load_outside(models, [name], "", None, decode=decode)  # type: ignore[arg-type]
    return found


def load_validation(sources: "dict[str, Source]", models: Mapping[str, Any], name: str | None) -> "dict[str, ImageSet]":
    """Labelled images for each model that it was not trained on; models that held out the same share one set.

    Of the data of its own run, those that it held out; of other data, part val, else test, else all.

    Raises:
        ValueError: for a model that belongs to no run, if no data is named; if too few are left that it did not see.
    """
    from kedge import data
    from kedge.training.recipe import held_by

    found: dict[str, ImageSet] = {}
    loaded: dict[str, ImageSet] = {}
    for own, source in sources.items():
        single = leaves({own: source})
        recipe = next(iter(single.values())).recipe()
        if name is None and "data" not in recipe:
            raise ValueError(
                f"{own} belongs to no run, so it is not known which images it held out of training: name labelled "
                "images that it was not trained on, with --validation DATA"
            )
        wanted = str(recipe["data"]) if name is None else name
        offered = data.splits(wanted)
        if "val" in offered or recipe.get("data") == wanted:
            split = "val"
        else:
            split = "test" if "test" in offered else "all"
        model, record = models[own], trained_by(source)
        drawn = "val" not in offered and recipe.get("data") == wanted
        held = record.digest if record is not None else drawn and [held_by(recipe), recipe.get("val_fraction")]
        shape, classes = getattr(model, "input_shape", None), getattr(model, "class_names", None)
        key = json.dumps([wanted, held, recipe.get("image_size"), recipe.get("classes"), shape, classes], default=str)
        if key not in loaded:
            images = unseen_by(source, load_data(single, {own: model}, wanted, split)[0])
            same = (each for each in loaded.values() if each.fingerprint() == images.fingerprint())
            loaded[key] = next(same, images)
        found[own] = loaded[key]
    return found


def as_test_images(validation: "Mapping[str, ImageSet]") -> "ImageSet | None":
    """The validation images of all models where these are the same ones, else None."""
    first, *others = validation.values()
    return first if all(one is first for one in others) else None

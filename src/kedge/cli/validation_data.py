"""Images that models were not trained on: to choose between models by, to fit on, to rest an estimate on."""

import json
import sys
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kedge.cli.load_data import load_data, load_like, with_classes
from kedge.cli.resolve_model import Source, leaves
from kedge.cli.trained_on import images_of_run, trained_by, unseen_by

if TYPE_CHECKING:
    from kedge.data import ImageSet
    from kedge.training.record import ImageRecord


def training_and_validation(
    source: Source, model: Any, name: str | None, first: Source
) -> "tuple[ImageSet | None, ImageSet]":
    """Training images (None where the data has none) and validation images, in the size and classes of the model.

    Of the data of the model's own run those that it trained on and held out; of other data its parts train and val.
    The validation images are such as neither the model nor `first` was trained on, as far as is known.

    Raises:
        ValueError: if no data is named and the model belongs to no run, for data without validation images, and for
            other classes.
    """
    from kedge import data
    from kedge.data.sets import size_of

    recipe = source.recipe()
    if name in (None, recipe.get("data")) and recipe.get("data") is not None:
        images = images_of_run(source)
        train, val = images.train, unseen_by(first, images.val)
        named = with_classes(val, {source.name: model})
        train = train if named is val else with_classes(train, {source.name: model})
        return train, _checked(named, model)
    if name is None:
        raise ValueError("which data? the second model belongs to no run that says: name it with --data NAME")
    offered = data.splits(name)
    if "val" not in offered:
        raise ValueError(
            f"{name} has no validation images (it has: {', '.join(offered)}), and neither training nor test images can "
            "choose between models: the one has seen them, the other are to judge the choice. Put images of their own "
            f"into {name}/val, or name other data"
        )
    loaded = data.load(name, "val", size_of(model.input_shape), model.input_shape[0])
    held_out = _checked(with_classes(loaded, {source.name: model}), model)
    others = load_like(held_out, name, "train") if "train" in offered else None
    return others, unseen_by(first, unseen_by(source, held_out))


def images_to_fit_on(source: Source, model: Any, name: str | None, split: str) -> "ImageSet":
    """The images to fit a step on, in the size and with the classes of the model.

    Raises:
        ValueError: for test images, and for images that the model may have been trained on, or all but a few of them.
    """
    from kedge.data.folders import canonical_split

    part = canonical_split(split) or split
    if part == "test":
        raise ValueError(
            "a step is not fitted on test images: they are there to judge the result, and would praise "
            "themselves. Take --split val, or other images with --data"
        )
    place = source.recipe().get("data")
    if part != "val" and name in (None, place):
        raise ValueError(
            f"--split {split} of {name or place or 'the data'} holds images that the model was trained on, where "
            "its confidence is no guide. Take --split val, or other images with --data"
        )
    images = load_data({source.name: source}, {source.name: model}, name, split)[0]
    _say_nameless(images, model)
    return unseen_by(source, images)


def _checked(images: "ImageSet", model: Any) -> "ImageSet":
    from kedge.checks import unlike_classes

    own, names = model.class_names or model.num_outputs, (images.name, "the model")
    if (unlike := unlike_classes(images.class_names, own, names)) is not None:
        raise ValueError(f"the classes of {images.name} are not those of the model: {unlike}")
    _say_nameless(images, model)
    return images


def _say_nameless(images: "ImageSet", model: Any) -> None:
    from kedge.data.folders import about_nameless

    if model.class_names is None and (words := about_nameless(images.class_names)) is not None:
        print(f"careful with the model: {words}", file=sys.stderr)


def joint_record(a: Source, b: Source) -> "ImageRecord | None":
    """What the images are to an average of two models: seen by it is what either was trained on; None if not known."""
    own, other = b.record(), trained_by(a)
    if own is None:
        return None
    if other is None or own.keys_of != other.keys_of:
        return replace(own, known=False)
    earlier = sorted(own.seen.union(other.seen).difference(own.trained))
    return replace(own, earlier=earlier, known=own.known and other.known)


def load_validation(sources: "dict[str, Source]", models: Mapping[str, Any], name: str | None) -> "dict[str, ImageSet]":
    """Labelled images for each model that it was not trained on; models that held out the same share one set.

    Of the data of its own run, those that it held out; of other data, part val, else test, else all.

    Raises:
        ValueError: for a model that belongs to no run, if no data is named; if too few are left that it did not see.
    """
    from kedge import data
    from kedge.data.folders import same_place
    from kedge.training.recipe import held_by

    sets: dict[str, ImageSet] = {}
    loaded: dict[str, ImageSet] = {}
    for own, source in sources.items():
        single = leaves({own: source})
        recipe = next(iter(single.values())).recipe()
        if name is None and "data" not in recipe:
            raise ValueError(
                f"{own} belongs to no run, so it is not known which images it held out of training: name labelled "
                "images that it was not trained on, with --validation DATA"
            )
        place = str(recipe["data"]) if name is None else name
        offered, same_data = data.splits(place), same_place(place, recipe.get("data"))
        split = "val" if "val" in offered or same_data else "test" if "test" in offered else "all"
        model, record = models[own], trained_by(source)
        drawn = "val" not in offered and same_data
        which = record.digest if record is not None else drawn and [held_by(recipe), recipe.get("val_fraction")]
        shape, classes = getattr(model, "input_shape", None), getattr(model, "class_names", None)
        key = json.dumps([place, which, recipe.get("image_size"), recipe.get("classes"), shape, classes], default=str)
        if key not in loaded:
            images = unseen_by(source, load_data(single, {own: model}, place, split)[0])
            same = (each for each in loaded.values() if each.fingerprint() == images.fingerprint())
            loaded[key] = next(same, images)
        sets[own] = loaded[key]
    return sets


def as_test_images(validation: "Mapping[str, ImageSet]") -> "ImageSet | None":
    """The validation images of all models where these are the same ones, else None."""
    first, *others = validation.values()
    return first if all(one is first for one in others) else None

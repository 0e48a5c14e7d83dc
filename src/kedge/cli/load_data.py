"""Which images a command measures on: the data of a run, other kinds, training images, published sets."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedge.cli.trained_on import images_of_run, unseen_by
from kedge.printable import printable

if TYPE_CHECKING:
    from kedge.cli.resolve_model import Source
    from kedge.data import ImageSet
    from kedge.data.decode import Size

IMAGENET = 1000  # classes


def load_data(
    sources: "dict[str, Source]", models: Mapping[str, Any], name: str | None, split: str | None, decode: bool = True
) -> tuple["ImageSet", str]:
    """The images to measure on, in the models' size and with their classes, and the name they were found by.

    Without a `split` the test images; where the data of a run has none, those that training held out, which is said.
    `decode`: see `kedge.data.load`.

    Raises:
        ValueError: if no data is named and the models come from no run, or from runs on different data; for a run in
            folds, which held none out, on data without test images.
    """
    from kedge import data
    from kedge.data.folders import canonical_split, same_place

    recipes = {n: source.recipe() for n, source in sources.items()}
    if name is None:
        named = {str(recipe["data"]) for recipe in recipes.values() if "data" in recipe}
        if len(named) != 1:
            why = f"the runs were trained on {', '.join(sorted(named))}" if named else "the models belong to no run"
            raise ValueError(f"which data? {why}: say --data NAME")
        (name,) = named
    offered = data.splits(name)
    shape = common_shape(models)
    if len(sides := sorted({max(m.input_shape[1:]) for m in models.values() if hasattr(m, "input_shape")})) > 1:
        print(
            f"the models take images of {' and '.join(map(str, sides))} px: they are read and corrupted at {sides[-1]} "
            "px and shrunk for the smaller models, whose numbers differ from those of an evaluation on their own",
            file=sys.stderr,
        )
    chosen = split or "test"
    part = canonical_split(chosen) or chosen
    recipe = next((r for r in recipes.values() if same_place(name, r.get("data"))), None)
    if part == "test" and "test" not in offered and recipe is not None:
        if split is not None or any(each.get("folds") for each in recipes.values()):
            raise ValueError(
                f"{name} has no test images (it has: {', '.join(offered)}). {_instead(sources, recipes)}; for a test "
                "divide the folder into train and test before training"
            )
        print(
            f"{name} has no test images: measured is on those that training held out (--split val). What was kept and "
            "the thresholds were chosen on them, so the numbers are rather too good",
            file=sys.stderr,
        )
        part = chosen = "val"
    if part == "val" and "val" not in offered and recipe is None:
        # The folder of a run under another name: images are known by what is in them.
        recipe = next((recipes[n] for n, s in sources.items() if (r := s.record()) is not None and r.held_out), None)
    if part == "val" and "val" not in offered and recipe is not None:
        # Not a split of the data: the images that this run held out of training.
        own = next(s for n, s in sources.items() if recipes[n] is recipe)
        images = images_of_run(own, name).val
        _check_known(own, sources, images)
    else:
        if part == "test" and offered == ["all"]:
            print(f"{name} is not divided into parts: measuring on all of its images", file=sys.stderr)
            chosen = "all"
        if chosen == "all" and recipe is not None:
            print(f"careful: these include the images that {recipe.get('name')} was trained on", file=sys.stderr)
        whole = decode or (part == "val" and recipe is not None)  # what was trained on is told by what is decoded
        images = data.load(name, chosen, image_size=shape[1], channels=shape[0], decode=whole)
    if part == "val" and recipe is not None:
        for source in sources.values():
            images = unseen_by(source, images)
    print(f"{images.name} ({images.split}): {images.report.summary(len(images))}", file=sys.stderr)
    return with_classes(images, models), name


def _instead(sources: "dict[str, Source]", recipes: Mapping[str, Any]) -> str:
    """What runs without test images can be measured on."""
    run = next((source.run for name, source in sources.items() if recipes[name].get("folds")), None)
    if run is None:
        return "--split val measures on the images that were held out of training"
    return (
        "No image was held out either, as cross-validation judged the training; each fold can be evaluated on its own "
        f"images, such as kedge evaluate {run / 'folds' / '1'} --split val"
    )


def _check_known(own: "Source", sources: Mapping[str, "Source"], images: "ImageSet") -> None:
    """Raise ValueError where a model may have been trained on images that the run `own` held out, and none can tell.

    Images without files are known by their pixels, and drawn by them: in another size they are others.
    """
    from kedge.data.folders import same_place

    place = str(own.recipe().get("data"))
    for source in sources.values():
        record = source.record() if same_place(str(source.recipe().get("data")), place) else None
        if record is not None and record.keys_of != images.keys_of:
            raise ValueError(
                f"{source.name} knows its images by {record.keys_of}, those that {own.name} held out are known by "
                f"{images.keys_of}: it cannot be told which of them {source.name} was trained on, most likely nine in "
                "ten. Measure each model on its own, or on images of their own: a folder val before training, or --data"
            )


def common_shape(models: Mapping[str, Any]) -> "tuple[int | None, Size | None]":
    """(channels, image size) to load images in: the largest that a model takes; no size of squares and oblongs.

    A callable does not say what it takes: without a model that does, images keep what they have.
    """
    from kedge.data.sets import size_of

    shapes = [model.input_shape for model in models.values() if hasattr(model, "input_shape")]
    for name, model in models.items():
        if len(getattr(model, "input_shape", (0, 0, 0))) != 3:
            raise ValueError(f"{name} takes vectors of shape {model.input_shape}, not images")
    if not shapes:
        return None, None
    sizes = {size_of(shape) for shape in shapes}
    common = max(shape[1] for shape in shapes) if all(isinstance(s, int) for s in sizes) else None
    return max(shape[0] for shape in shapes), next(iter(sizes)) if len(sizes) == 1 else common


def with_classes(images: "ImageSet", models: Mapping[str, Any]) -> "ImageSet":
    """The images of the models' classes, in the models' order; unchanged where the names do not fit."""
    names = next((names for m in models.values() if (names := getattr(m, "class_names", None))), None)
    if names is None or names == images.class_names:
        return images
    from kedge.data.label_spaces import WNID

    if len(names) == IMAGENET and WNID.fullmatch(names[0]) and not set(names) <= set(images.class_names):
        return as_imagenet(images)
    if not set(names) <= set(images.class_names):
        return images
    if others := [name for name in images.class_names if name not in names]:
        print(f"left out, not among the models' classes: {', '.join(others)}", file=sys.stderr)
    return images.only_classes(names)


def as_imagenet(images: "ImageSet") -> "ImageSet":
    """The images with the thousand classes of ImageNet, which theirs are by name; unchanged where most are not.

    Raises:
        ValueError: names that mean no class of ImageNet, or several, among others that mean one.
    """
    import torch

    from kedge.data.label_spaces import among_imagenet, imagenet

    places, unclear = among_imagenet(images.class_names)
    if len(unclear) >= len(places):
        return images
    if unclear:
        raise ValueError(
            f"{images.name}: {len(places)} of its classes are ImageNet's by their names, and {len(unclear)} may mean "
            f"none or several of them: {', '.join(unclear[:8])}. Call these by WordNet identifiers, such as n02012849"
        )
    first, place = next(iter(places.items()))
    rest = IMAGENET - len(set(places.values()))
    print(
        f"{images.name}: its classes are taken for ImageNet's by their names, such as {first} for {imagenet()[place]}"
        + (f"; answers of the other {rest} are wrong ones here" if rest else ""),
        file=sys.stderr,
    )
    own = images.subset(torch.arange(len(images)))
    own.labels = torch.tensor([places[name] for name in images.class_names])[images.labels]
    own.class_names = list(imagenet())
    return own


def load_outside(
    models: Mapping[str, Any],
    names: Sequence[str],
    inside: str = "",
    images: "ImageSet | None" = None,
    as_stored: bool = False,
    decode: bool = True,
    labels: bool = True,
) -> "dict[str, ImageSet]":
    """Sets of other images by name; the data's own name `inside` stands for the classes that its `images` do not have.

    `as_stored` leaves small images in the size of their files: enlarging cannot be undone. Without `labels` a folder is
    all images in and below it, whatever its folders are called.
    """
    from kedge import data
    from kedge.data.image_files import images_under, is_flat

    channels, side = common_shape(models)
    how: dict[str, Any] = {"image_size": None if as_stored else side, "channels": channels, "decode": decode}
    sets: dict[str, ImageSet] = {}
    for name in names:
        folder = Path(name).expanduser()
        if is_flat(folder) if labels else folder.is_dir() and images_under(folder):
            sets[name] = data.load_unlabelled(folder, **how)
        else:
            offered = data.splits(name)
            outside = data.load(name, "test" if "test" in offered else offered[-1], **how)
            if images is not None and name == inside:
                others = [c for c in outside.class_names if c not in images.class_names]
                if not others:
                    raise ValueError(f"--ood {name}: the models were trained on all classes of {name}; name other data")
                outside = outside.only_classes(others)
                name = f"{name} ({', '.join(others[:5])}{', ...' if len(others) > 5 else ''})"
            sets[name] = outside
        report = sets[name].report
        if report.skipped or report.traits or report.notes:
            print(f"{sets[name].name} ({sets[name].split}): {report.summary()}", file=sys.stderr)
    return sets


def titles(outside: "Mapping[str, ImageSet]", names: Sequence[str], some: Sequence[str]) -> list[str]:
    """What the sets that `load_outside` loaded by `names` are called, of `some` of these names."""
    return [title for title, name in zip(outside, dict.fromkeys(names), strict=True) if name in some]


def spread(images: "ImageSet", most: int) -> "ImageSet":
    """At most so many images from all over the set that can be read: folders come class by class."""
    step = -(-len(images) // most)
    return images.subset(range(0, len(images), step)).readable()[0]


def workers_for(images: "ImageSet", workers: int | None = None) -> int:
    """The number of processes asked for; else none for images in memory, or soon to be, a few for files."""
    import os

    from kedge.data.file_sets import FileSet

    if workers is not None:
        return workers
    return min(4, os.cpu_count() or 1) if isinstance(images, FileSet) else 0


def load_training(
    sources: "dict[str, Source]", name: str, images: "ImageSet", other: str | None, decode: bool = True
) -> "ImageSet | None":
    """Training images for the scores that learn, in the shape and with the classes of `images`; None without any.

    They are those of the data `name`, or of `other` where that is named ("none": none). Of images that a run held out
    of training, its other images.
    """
    from kedge import data
    from kedge.data.folders import same_place
    from kedge.training.held_out import RunImages

    if other == "none":
        return None
    offered = data.splits(name if other is None else other)
    if other is None and "val" not in offered and images.split == "val":
        own = (s.run for s in sources.values() if s.run is not None and same_place(name, s.recipe().get("data")))
        run = next(own, None)
        return None if run is None else RunImages(run).train
    if other is None and "train" not in offered:
        return None  # all there is, and it is measured on
    return load_like(images, name if other is None else other, "train", decode)


def load_like(images: "ImageSet", name: str, split: str, decode: bool = True) -> "ImageSet":
    """A part of data in the shape of `images`, and with their classes where it has those."""
    from kedge import data
    from kedge.data.sets import size_of

    shape = images.image_shape
    others = data.load(name, split, size_of(shape), shape[0], decode=decode)
    if set(images.class_names) <= set(others.class_names) and images.class_names != others.class_names:
        return others.only_classes(images.class_names)
    return others


def shifts_of(words: list[str]) -> list[Any]:
    """The words for shifts, those that are folders of published sets as such; nothing for "none".

    A name of a corruption is never a folder. Raises ValueError for a word that is neither.
    """
    from kedge import data
    from kedge.data.corruptions import expand, groups, known

    if words == ["none"]:
        return []
    if "none" in words:
        raise ValueError(f"--shift none stands alone, but it came with {', '.join(w for w in words if w != 'none')}")
    shifts: list[Any] = []
    for word in words:
        if word in groups() or word in known():
            shifts.append(word)
            continue
        if ":" in word and not Path(word).exists() and (parts := data.parts_of(word)) is not None:
            shifts.append(parts)
            continue
        if not (data.is_published(word) or Path(word).exists()):
            if "/" in word:
                raise ValueError(f"--shift {word}: there is no such folder")
            expand([word])  # says what it may have been meant for
        published = data.published(word)
        if any(getattr(other, "name", None) == published.name for other in shifts):
            published.name = f"{published.name} ({Path(word).name})"
        for note in published.notes:
            print(printable(f"{published.name}: {note}"), file=sys.stderr)
        shifts.append(published)
    return shifts

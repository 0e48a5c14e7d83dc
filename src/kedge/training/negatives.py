"""Photos of the place without the object: what a recipe names in `negatives` becomes outliers of its objective."""

from collections.abc import Collection, Mapping
from dataclasses import replace

from kedge.data import ImageSet
from kedge.data.splitting import uniform
from kedge.training.objective import objective_class, streams_of
from kedge.training.recipe import Recipe, held_by

__all__ = ["STREAM", "check_negatives", "held_out_negatives", "with_negatives"]

STREAM = "outliers"  # of the further images that a step needs
LOSS = "OutlierExposure"
HELD_OUT, FEWEST, MOST = 0.2, 100, 500  # the share that is held out, of how many at least, and about how many at most


def with_negatives(recipe: Recipe, in_memory: Collection[str] = ()) -> Recipe:
    """The recipe with its negatives among the further images, and a loss of them in its objective; nothing is read.

    Where an objective takes outliers already, `MixOE` for instance, these are its. Else `OutlierExposure` is put round
    the objectives, inside of those that map the logits, which would map them for one of the two losses alone.

    Args:
        recipe: without negatives it is given back as it is.
        in_memory: the names of further images that were handed over.

    Raises:
        ValueError: for negatives beside other outliers.
    """
    if recipe.negatives is None:
        return recipe
    if STREAM in recipe.extra or STREAM in in_memory:
        other = recipe.extra.get(STREAM, "that were handed over")
        raise ValueError(
            f"negatives {recipe.negatives} are the {STREAM} of the objective, and extra has {STREAM} too, {other}: "
            "leave out one of them, or put both into one folder"
        )
    entries = list(recipe.objective or ["CrossEntropy"])
    classes = [objective_class(each if isinstance(each, str) else next(iter(each))) for each in entries]
    if not any(STREAM in streams_of(each) for each in classes):
        mapping = [place for place, each in enumerate(classes) if getattr(each, "maps_logits", False)]
        entries.insert(mapping[-1] + 1 if mapping else 0, LOSS)
    return replace(recipe, objective=entries, extra={**recipe.extra, STREAM: recipe.negatives}, negatives=None)


def held_out_negatives(extra: Mapping[str, ImageSet], recipe: Recipe) -> tuple[dict[str, ImageSet], ImageSet | None]:
    """(further images of which the negatives are trained on, the negatives that are held out to choose a score by).

    A fifth of them, or about 500, by what is in them and the seed of the split; none of fewer than a hundred.
    """
    images = extra[STREAM]
    if len(images) < FEWEST:
        return dict(extra), None
    drawn = uniform(images.keys(), held_by(vars(recipe)))
    out = drawn < min(HELD_OUT, MOST / len(images))
    left, held = images.subset(~out), images.subset(out)
    left.mirror = images.mirror
    return {**extra, STREAM: left}, held


def check_negatives(name: str, extra: Mapping[str, ImageSet], train: ImageSet) -> None:
    """Raise ValueError where negatives, called `name`, are training images too, which have a class.

    That is, bit for bit. Files and images in memory cannot be compared with each other.
    """
    negatives = extra[STREAM]
    if negatives.keys_of != train.keys_of:
        return
    labels = dict(zip(train.keys(), train.labels.tolist(), strict=True))
    shared = [labels[key] for key in negatives.keys() if key in labels]  # noqa: SIM118
    if shared:
        classes = ", ".join(train.class_names[label] for label in sorted(set(shared))[:5])
        raise ValueError(
            f"negatives: {len(shared):,} of the {len(negatives):,} images of {name} are training images too, of class "
            f"{classes}. An image cannot have a class and be of none: take them out of one of the two folders"
        )

"""The groups that stay on one side of a run's split, `split_by` of its recipe, and what is to be said of them."""

from kedge.data import Groups, ImageSet, group_by
from kedge.training.recipe import Recipe

__all__ = ["about_folds", "about_held_out", "about_shared", "groups_of"]

_COUNTED = "intervals count images as if each told by itself, and so are too narrow where those of a group fare alike"


def groups_of(recipe: Recipe, images: ImageSet) -> Groups | None:
    """The groups that stay on one side of a split; None where each image is by itself."""
    return None if recipe.split_by is None else group_by(images, recipe.split_by, recipe.data)


def about_held_out(groups: Groups, images: ImageSet, val: ImageSet) -> str:
    """How many of the groups of `images` are among those held out of them."""
    held_out = set(val.keys())
    of_image = zip(images.keys(), groups.index.tolist(), strict=True)
    count = len({group for key, group in of_image if group >= 0 and key in held_out})
    return f"{count} of {len(groups.names)} groups by {groups.by} are held out: {_COUNTED}"


def about_folds(groups: Groups) -> str:
    """How many groups the folds share."""
    return f"{len(groups.names)} groups by {groups.by} are dealt to folds: {_COUNTED}"


def about_shared(recipe: Recipe, train: ImageSet, val: ImageSet) -> str:
    """How many groups of a part val that is there are in the training images too."""
    ours, theirs = groups_of(recipe, train), groups_of(recipe, val)
    assert ours is not None
    assert theirs is not None
    both = sorted(set(ours.names) & set(theirs.names))
    if not both:
        return f"split_by {recipe.split_by}: none of {len(theirs.names)} groups of the part val is in the part train"
    return (
        f"split_by {recipe.split_by}: {len(both)} of {len(theirs.names)} groups of the part val are in the part train "
        f"too, such as {both[0]!r}: images of these promise more than new ones give"
    )

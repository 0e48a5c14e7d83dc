"""How many images two sets share, and that out-of-distribution images are no test images."""

from kedge.data.file_sets import EncodedSet, Undecoded
from kedge.data.report import DataError
from kedge.data.sets import ImageSet, TensorSet

_SHARED = 0.01  # of an out-of-distribution set that may also be in the test set without a word


def shared_images(first: ImageSet, second: ImageSet) -> int:
    """How many images of `second` are also in `first`, bit for bit; see `also_in`."""
    return sum(also_in(first, second))


def also_in(first: ImageSet, second: ImageSet) -> list[bool]:
    """Of each image of `second`, whether it is also in `first`, bit for bit.

    Images in memory are compared by their pixels, those on disk and those not decoded yet by their encoded bytes (long
    ones by length and three pieces). A set in memory and one on disk, or in memory in different shapes, cannot be
    compared: none is.
    """
    count = len(second)
    if type(first) is not type(second):
        # Of a set in memory and one that is not decoded yet the pixels are compared.
        first, second = (images.decoded() if isinstance(images, Undecoded) else images for images in (first, second))
        if type(first) is not type(second):
            return [False] * count
    if first.image_shape != second.image_shape and not isinstance(first, EncodedSet):
        return [False] * count
    ours, theirs = (each.pixel_keys() if isinstance(each, TensorSet) else each.keys() for each in (first, second))
    known = set(ours) - {b""}
    return [key in known for key in theirs]


def check_apart(inside: ImageSet, outside: ImageSet) -> str | None:
    """Check that out-of-distribution images are not the test images.

    Returns:
        None, or a warning in words where more than 1 % of `outside` is among `inside`.

    Raises:
        DataError: every image of `outside` is an image of `inside`, whatever the sets are called.
    """
    if len(outside) == 0:
        raise DataError(f"the out-of-distribution set {outside.name!r} is empty")
    shared = len(outside) if outside is inside else shared_images(inside, outside)
    if shared == len(outside):
        what = "the test set itself" if len(outside) == len(inside) else f"part of the test set {inside.name!r}"
        raise DataError(
            f"the out-of-distribution set {outside.name!r} is {what}: all of its {len(outside)} images are test "
            "images. Name data that shows other things"
        )
    if shared > _SHARED * len(outside):
        return f"{shared} of {len(outside)} images of {outside.name!r} are also test images: its numbers mean little"
    return None

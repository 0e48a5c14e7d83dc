"""`kedge export --int8`: which images the ranges are taken from, which were held out, and what 8 bits change."""

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kedge.cli.load_data import spread
from kedge.cli.resolve_model import Source
from kedge.cli.trained_on import images_of_run, unseen_by

if TYPE_CHECKING:
    from torch import Tensor

    from kedge.anchoring import PixelModel
    from kedge.data import ImageSet
    from kedge.deploy import Exported

HELD_OUT_IMAGES = 2000


def write_int8(
    model: "PixelModel",
    path: Path,
    source: Source,
    data: str | None,
    batch: "Tensor | None",
    most: int,
    bound: float,
    full_range: bool,
    photos: "list[Tensor] | None" = None,
) -> "Exported":
    """Export a model, write it with 8 bits, and say how the two compare; the record of the float file at this path.

    With `photos`, to check on, the 8-bit network is put into a file that takes photos.

    Raises:
        ValueError: for a model of no run where no data is named, and as `kedge.deploy.quantise`.
    """
    from kedge.deploy import export, quantise, with_photo_input
    from kedge.files import scratch_beside

    if path.suffix != ".onnx":
        raise ValueError(f"an 8-bit file must end in .onnx, got {path.name!r}")
    if "prediction_sets" in model.steps and (data is not None or source.recipe().get("folds")):
        model.remove_step("prediction_sets")
        print(
            "kedge export: the prediction sets are left out: they were set on float answers, and are set anew on 8-bit "
            "ones only with the validation images of the run, without --data",
            file=sys.stderr,
        )
    if data is None and source.recipe().get("folds") and model.unknown is not None:
        model.unknown = None
        print(
            "kedge export: the rule for unknown images is left out: it is set anew on 8-bit answers, and the run held "
            "out no image to set it by; --data names others",
            file=sys.stderr,
        )
    known, new = _sets(source, data, model.input_shape)
    held_out = spread(new, HELD_OUT_IMAGES)
    calibration = spread(_apart(known, held_out), most)
    print(
        f"kedge export: 8 bits, calibrated on {len(calibration)} images of {known.name} ({known.split}), compared on "
        f"{len(held_out)} of {new.name} ({new.split})",
        file=sys.stderr,
    )
    with scratch_beside(path) as folder:
        done = export(model, folder / "float.onnx", check_images=batch)
        network = path if photos is None else folder / path.name
        written = quantise(done.path, network, calibration, held_out, bound, full_range)
        whole = None if photos is None else with_photo_input(network, path, photos)
    print(replace(written, path=path))
    if whole is not None:
        print(f"{whole}, of the 8-bit network in it")
    print(f"the float file, which was not kept, was as close to the model as {done.largest_difference:.1e} of a logit")
    if written.doubt:
        print(f"careful: {written.doubt}", file=sys.stderr)
    return replace(done, path=path) if whole is None else whole


def _sets(source: Source, name: str | None, shape: tuple[int, ...]) -> "tuple[ImageSet, ImageSet]":
    """Images to calibrate on, and held-out ones: of the run, or of `name`; of a set without parts every second one.

    What the model was trained on is not held out, except of a run that folds judged, which has nothing else.
    """
    from kedge import data
    from kedge.data.sets import size_of

    if name is None:
        if not source.recipe():
            raise ValueError(f"{source.name} belongs to no run, and --int8 calibrates on images: --data names some")
        folds = bool(source.recipe().get("folds"))
        run = images_of_run(source, held_out=not folds)
        return _halves(run.train) if folds else (run.train, run.val)
    offered = data.splits(name)
    split = next(s for s in ("test", "val", *offered) if s in offered)
    size, channels = size_of(shape), shape[0]
    images = data.load(name, split, size, channels)
    if "train" in offered and split != "train":
        return data.load(name, "train", size, channels), unseen_by(source, images)
    known, new = _halves(images)
    return known, unseen_by(source, new)


def _halves(images: "ImageSet") -> "tuple[ImageSet, ImageSet]":
    return images.subset(range(0, len(images), 2)), images.subset(range(1, len(images), 2))


def _apart(images: "ImageSet", others: "ImageSet") -> "ImageSet":
    """The images that are not among the others, where that can be told."""
    if images.keys_of != others.keys_of:
        return images
    keys = set(others.keys())
    return images.subset([place for place, key in enumerate(images.keys()) if key not in keys])

"""adapt(): one trained model, one new task, one way to get there."""

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from kedge.anchoring import PixelModel, plain
from kedge.checks import unlike_classes
from kedge.data import ImageSet
from kedge.data.sets import check_set
from kedge.procedures._base import Context, origins, perform, procedure, way
from kedge.procedures._folder import check_origins, note_origins, origin_of
from kedge.procedures._settings import Settings
from kedge.training.images import check_classes

__all__ = ["Adapted", "adapt"]


@dataclass
class Adapted:
    """What `adapt` gives.

    Attributes:
        how: the way.
        model: for the new classes, in eval mode, on the CPU.
        record: what was done and what was chosen by what.
        folder: the run folder, which every command takes; None where none was asked for.
    """

    how: str
    model: PixelModel
    record: dict[str, Any]
    folder: Path | None


def adapt(
    model: nn.Module,
    train: ImageSet,
    val: ImageSet | None = None,
    *,
    how: str = "linear-probe",
    out: str | Path | None = None,
    **settings: Any,
) -> Adapted:
    """Take a trained model to the classes of `train`.

    `kedge.procedures` holds the ways, one file each; `kedge adapt --help` lists them.

    The paper on anchoring (arXiv 2406.00529) says of its probes: frozen anchored features, masking, alpha 0.4.
    Two things are ours. The *input* is anchored, as in the body's own training; anchoring the features, [r_f, f - r_f],
    would give a linear head W_d f + (W_r - W_d) r_f, for a fixed reference no more than another bias. And the loss that
    steps of SGD sample is minimised as an expectation, over `drawn` references for each image and over masking, with
    the solver of the linear probe: with alpha 0 and one reference the two are one problem.

    An anchored model gets a bank of training images of the new task, as many as it had.

    Args:
        model: a kedge model, which is not changed, or any module from images `[B, C, H, W]` in [0, 1] to logits; one of
            timm with its `pretrained_cfg` gets the normalisation from there.
        train: images of the new task, in the shape the model takes.
        val: validation images, for the strength of regularisation and the reject threshold. None (few images): the
            strength comes from cross-validation in `train`, and no threshold is set.
        how: one of `kedge.adaptation.HOWS`, the files of `kedge.procedures`; `lp-ft` and `lp_ft` are the same.
        out: a folder in which the run folder `out/how` is made, and those of the ways that it rests on; what has
            finished there is not made again, what was broken off goes on; from another model, other images or with
            other settings of that way it is an error. None: nothing is kept. A network without a name in timm or
            torchvision is saved too, and `kedge.load` then needs the network (`model=`).
        **settings: see `Settings`: seed, head, alpha, drawn, strength, share, epochs, lr, references, ...

    Raises:
        ValueError: for an unknown way, images of another shape, a single class, no head, settings that cannot be,
            and an `out` that holds the way made otherwise.
    """
    how = way(how)
    chosen = Settings(**settings)
    chosen.check()
    check_images(train, val)
    procedure(how).check(chosen, val)
    body = pixel_model(model, train)
    if out is None:
        with tempfile.TemporaryDirectory() as folder:
            return Adapted(how, *perform(Context(how, body, train, val, chosen, Path(folder))), None)
    context = Context(how, body, train, val, chosen, Path(out))
    lineage = origins(how, origin_of(body, train, val), chosen)
    check_origins(context.out, lineage)
    note_origins(context.out, lineage)
    return Adapted(how, *perform(context), context.folder)


def pixel_model(model: nn.Module, train: ImageSet) -> PixelModel:
    """The model as kedge's; ValueError where it cannot take the images."""
    classifier = model if isinstance(model, PixelModel) else plain(model, example=train.image_shape)
    if classifier.task != "classification":
        raise ValueError(f"the model is for {classifier.task}; adaptation is from one classifier to another")
    if tuple(classifier.input_shape) != tuple(train.image_shape):
        c, h, w = train.image_shape
        wants = "x".join(map(str, classifier.input_shape))
        load = f"load them with image_size={classifier.input_shape[-1]}, channels={classifier.input_shape[0]}"
        raise ValueError(
            f"the model takes images of {wants} (C, H, W), the images of {train.name} are {c}x{h}x{w}: {load}"
        )
    return classifier


def check_images(train: ImageSet, val: ImageSet | None) -> None:
    """Raise TypeError for what is no image set, ValueError for images that no classifier can be made from."""
    check_set(train, "training images")
    if val is not None:
        check_set(val, "validation images")
    if len(train) == 0:
        raise ValueError(f"{train.name} holds no training images")
    check_classes(train, train.name)
    if val is not None and len(val) == 0:
        raise ValueError(f"{val.name} holds no validation images: give None where there are none")
    names = ("the training images", "the validation images")
    if val is not None and (unlike := unlike_classes(train.class_names, val.class_names, names)) is not None:
        raise ValueError(f"the validation images of {val.name} are not of the classes of {train.name}: {unlike}")

"""`kedge export`: one ordinary file, checked on real images."""

import copy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from kedge.cli.models import Source, find
from kedge.rejection import in_words

if TYPE_CHECKING:
    import jsonargparse
    from torch import Tensor

    from kedge.anchoring import AnchoredModel, PixelModel
    from kedge.data import ImageSet

THRESHOLD_IMAGES = 2000  # enough to place a threshold, few enough for a CPU

DESCRIPTION = """\
Write a model as one ordinary file: images in [0, 1] in, logits out, any batch size, no kedge needed to run it.

An anchored model is folded first: one reference becomes a constant in the first layer, and the network has its usual
size and speed; temperature (if there is one) and reject threshold are set anew for it on the run's validation images.
The file is run on real images and compared with the model; one that disagrees is not left behind.
"""


def parser() -> "jsonargparse.ArgumentParser":
    """The flags of `kedge export`."""
    import jsonargparse

    made = jsonargparse.ArgumentParser(
        prog="kedge export", usage="kedge export MODEL [options]", description=DESCRIPTION
    )
    made.add_argument("model", metavar="MODEL", help="a run folder (runs/NAME, or only NAME) or a model folder")
    made.add_argument("--to", choices=["onnx", "torch"], default="onnx", help="onnx, or torch for torch.export (.pt2)")
    made.add_argument(
        "--out", type=str | None, default=None, help="the file to write; null: NAME.onnx or NAME.pt2 in the run folder"
    )
    made.add_argument(
        "--data",
        type=str | None,
        default=None,
        help="images to check the file on: an image folder, parquet files or a name; null: the run's validation images",
    )
    made.add_argument("--images", type=int, default=64, help="how many images to check on")
    return made


def run(config: "jsonargparse.Namespace") -> int:
    """Export and say what was checked."""
    if config.images < 1:
        raise ValueError(f"--images must be 1 or more, got {config.images}")
    if config.to == "onnx":
        from kedge.deploy.exporting import need_onnx

        need_onnx()
    from kedge.anchoring import AnchoredModel
    from kedge.deploy import FORMATS, export

    source = find(config.model)
    whole = source.load("cpu")
    model = whole
    if isinstance(whole, AnchoredModel):
        model = copy.deepcopy(whole)
        model.references = whole.references[:1]  # what folding keeps
    images = None
    if config.data is not None or source.recipe():
        found = check_set(source, config.data, model.input_shape)
        chosen = spread(found, config.images)
        images, _ = next(chosen.batches(len(chosen)))
        print(f"kedge export: checking on {len(images)} images of {chosen.name} ({chosen.split})", file=sys.stderr)
        if model is not whole and config.data is None:
            set_threshold(model, spread(found, THRESHOLD_IMAGES))
    else:
        print(
            f"kedge export: {config.model} belongs to no run, so there are no images to check on but noise; "
            "--data gives some",
            file=sys.stderr,
        )
    out = Path(config.out) if config.out else (source.run or Path()) / f"{source.name}{FORMATS[config.to]}"
    done = export(model, out, to=config.to, check_images=images)
    print(done)
    inside = [f"{len(model.class_names)} class names"] if model.class_names else []
    if model.reject is not None:
        inside.append(f"the reject threshold {in_words(model.reject)}")
    if inside:
        print(f"inside: {', '.join(inside)}")
    if isinstance(whole, AnchoredModel):
        print("\n".join(about_folding(whole, model, images)))
    if config.to == "onnx":
        print(f"try it: kedge predict {out} IMAGES")
    return 0


def set_threshold(model: "PixelModel", validation: "ImageSet") -> None:
    """Set temperature and reject threshold anew: one reference is confident in another way than the whole bank."""
    if "temperature" in model.steps:
        from kedge.training import calibrate

        calibrate(model, validation, batch_size=64)
        return
    wanted = {key: model.reject[key] for key in ("coverage", "risk") if model.reject and key in model.reject}
    if not wanted:
        return
    from kedge.training.finish import predict_logits, reject_rule

    model.reject = reject_rule(*predict_logits(model, validation, 64), **wanted)


def about_folding(whole: "AnchoredModel", folded: "PixelModel", images: "Tensor | None") -> Iterator[str]:
    """What the file does otherwise than the model with its whole bank."""
    bank = len(whole.references)
    yield (
        "folded: the file gives no uncertainty, and holds a map of one reference in which that picture can be made out "
        "(and computed from it for patch embeddings, or by whoever has the anchored weights)"
    )
    if bank > 1 and images is not None:
        pixels = images.float() / 255
        labels = whole.predict(pixels).label
        same = int((folded(pixels).argmax(1) == labels).sum())
        yield f"it gives the same label as the model with its {bank} references on {same} of {len(images)} images"
    if whole.temperature is not None and folded.temperature is not None:
        old, new = whole.temperature, folded.temperature
        anew = f"was fitted anew on validation images: {new:.3g}; that" if old != new else f"is {new:.3g}, the one"
        yield f"its temperature {anew} of the whole bank{f' is {old:.3g}' if old != new else ''}"
    if whole.reject is not None and folded.reject is not None:
        if bank > 1 and whole.reject == folded.reject:
            yield "its threshold is the one that was set for the whole bank: --threshold of kedge predict sets another"
        elif whole.reject != folded.reject:
            yield f"its threshold was set anew on validation images; that of the whole bank is {in_words(whole.reject)}"


def spread(images: "ImageSet", most: int) -> "ImageSet":
    """At most so many images from all over the set that can be read: folders come class by class."""
    step = -(-len(images) // most)
    return images.subset(range(0, len(images), step)).readable()[0]


def check_set(source: Source, name: str | None, shape: tuple[int, ...]) -> "ImageSet":
    """Images to check on: the validation images of the run, or images of `name`."""
    if name is None:
        from kedge.cli.seen import images_of_run

        return images_of_run(source).val
    from kedge import data

    offered = data.splits(name)
    split = next(s for s in ("test", "val", *offered) if s in offered)
    return data.load(name, split, image_size=shape[-1], channels=shape[0])

"""`kedge export`: one ordinary file, checked on real images."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kedge.cli.models import Source, find

if TYPE_CHECKING:
    import jsonargparse

    from kedge.data import ImageSet

DESCRIPTION = """\
Write a model as one ordinary file: images in [0, 1] in, logits out, any batch size, no kedge needed to run it.

An anchored model is folded first: one reference becomes a constant in the first layer, and the network has its usual
size and speed. The file is run on real images and compared with the model; one that disagrees is not left behind.
"""


def parser() -> "jsonargparse.ArgumentParser":
    """The flags of `kedge export`."""
    import jsonargparse

    made = jsonargparse.ArgumentParser(prog="kedge export", description=DESCRIPTION)
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
    model = source.load("cpu")
    images = None
    if config.data is not None or source.recipe():
        chosen = check_set(source, config.data, model.input_shape)
        # spread over the set: image folders come class by class
        step = max(len(chosen) // config.images, 1)
        chosen = chosen.subset(range(0, len(chosen), step)[: config.images])
        images, _ = next(iter(chosen.batches(len(chosen))))
        print(f"kedge export: checking on {len(images)} images of {chosen.name} ({chosen.split})", file=sys.stderr)
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
        inside.append(f"the reject threshold {model.reject['threshold']:.3f}")
    if inside:
        print(f"inside: {', '.join(inside)}")
    if isinstance(model, AnchoredModel):
        bank = len(model.references)
        print(
            f"folded: it predicts with the first of {bank} references, so there is no uncertainty from their "
            "disagreement; it holds a map computed from that reference, not the picture"
        )
    if config.to == "onnx":
        print(f"try it: kedge predict {out} IMAGES")
    return 0


def check_set(source: Source, name: str | None, shape: tuple[int, ...]) -> "ImageSet":
    """Images to check on: the validation images of the run, or images of `name`."""
    if name is None:
        from kedge.training import Recipe
        from kedge.training.build import load_sets

        return load_sets(Recipe.from_dict(source.recipe()))[1]
    from kedge import data

    offered = data.splits(name)
    split = next(s for s in ("test", "val", *offered) if s in offered)
    return data.load(name, split, image_size=shape[-1], channels=shape[0])

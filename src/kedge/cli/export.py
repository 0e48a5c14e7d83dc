"""`kedge export`: one ordinary file, checked on real images."""

import copy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from kedge.cli.load_data import spread
from kedge.cli.resolve_model import Source, find
from kedge.cli.trained_on import images_of_run, seen_by
from kedge.rejection import in_words

if TYPE_CHECKING:
    from torch import Tensor

    from kedge.anchoring import AnchoredModel, PixelModel
    from kedge.data import ImageSet
    from kedge.deploy import Exported, FoldChoice
    from kedge.ensemble import Ensemble

THRESHOLD_IMAGES = 2000  # enough to place a threshold, few enough for a CPU
WORTH_IMAGES = 500  # each meets every reference of the bank
APART = 0.01  # a difference in accuracy that is worth a warning


def run(
    model: str,
    *,
    to: Literal["onnx", "torch"] = "onnx",
    input: Literal["images", "photo"] = "images",
    out: str | None = None,
    data: str | None = None,
    images: int = 64,
    int8: bool = False,
    calibration: int | None = None,
    bound: float | None = None,
    full_range: bool = False,
) -> int:
    """Write a model as one ordinary file: images in [0, 1] in, logits out, any batch size, no kedge needed to run it.

    With --input photo the file takes a photo of any size as it was decoded, and says what is on it.

    An anchored model is folded first: one image becomes a constant in the first layer, that of the bank or its mean
    with which the answers are nearest to those of the whole bank, and the network has its usual size and speed;
    temperature (if there is one) and reject threshold are set anew for it on the run's validation images. The file is
    run on real images and compared with the model; one that disagrees is not left behind. What share of its answers is
    right is said beside that of the whole bank.

    Args:
        model (MODEL): {TRAINED}, or mean(MODEL,MODEL,...), the mean of the probabilities of several
        to: onnx, or torch for torch.export (.pt2)
        input: images, prepared as docs/deploy.md says, or photo: one photo of any size as it was decoded, uint8
            [height, width, 3]; resizing, cropping and the thresholds are then inside, and the file gives the answer
        out: the file to write; null: NAME.onnx, NAME-photo.onnx, NAME-int8.onnx or NAME.pt2 in the run folder
        data: images to check the file on: an image folder, parquet files or a name; null: the run's validation images
        images: how many images to check on
        int8: write 8-bit weights and activations, a quarter of the size and faster on most processors; how much the
            answers change is said, on the images it was calibrated on and on others
        calibration: how many training images --int8 takes the ranges of activations from; null: 256
        bound: the mean KL divergence, in nats, of the 8-bit answers from the float ones on held-out images, above which
            --int8 leaves no file; null: 0.05
        full_range: with --int8, use all 8 bits of weights and not 7: closer to the float answers here, but processors
            without VNNI instructions may answer otherwise
    """
    of_int8 = {"calibration": calibration, "bound": bound, "full_range": full_range or None}
    if not int8 and (idle := [name for name, value in of_int8.items() if value is not None]):
        raise ValueError(f"--{idle[0]} is of --int8, which is missing")
    if int8 and to != "onnx":
        raise ValueError("--int8 writes ONNX files: leave out --to torch")
    source = find(model, several=True)
    if to == "onnx":
        from kedge.deploy.exporting import need_onnx

        need_onnx()
    from kedge.deploy import FORMATS, as_photo, export, export_photo, load_onnx
    from kedge.deploy.photo_file import check_shape
    from kedge.training.calibration import set_anew

    whole = source.load("cpu")
    if input == "photo":
        check_shape(whole.input_shape)
    exported, choice = whole, None
    held_out = batch = None
    photos: list[Tensor] | None = [] if input == "photo" else None
    folds = source.recipe().get("folds") if data is None else None
    if data is not None or source.recipe():
        held_out = check_set(source, data, whole.input_shape)
        checked = spread(held_out, images)
        batch, _ = next(checked.batches(len(checked)))
        if photos is not None:
            photos = [as_photo(checked.uncropped(i)) for i in range(len(checked))]
        print(f"kedge export: checking on {len(batch)} images of {checked.name} ({checked.split})", file=sys.stderr)
    else:
        print(
            f"kedge export: {model} belongs to no run, so there are no images to check on but noise; --data gives some",
            file=sys.stderr,
        )
    members = getattr(whole, "members", None)  # of an ensemble
    if members:
        exported = with_one_reference_each(whole, held_out)  # type: ignore[arg-type]
    elif hasattr(whole, "references"):
        exported, choice = with_one_reference(whole, held_out)  # type: ignore[arg-type]
        if held_out is not None and data is None and not folds:
            # One reference is confident in another way than the whole bank.
            set_anew(exported, spread(held_out, THRESHOLD_IMAGES))
        elif whole.count() > 1 and "prediction_sets" in exported.steps:
            exported.remove_step("prediction_sets")
            print(
                "kedge export: the prediction sets are left out: they were set on answers with the whole bank, and "
                "there are no validation images to set them anew on for the one reference that the file keeps",
                file=sys.stderr,
            )
    kind = f"{'-photo' if photos is not None else ''}{'-int8' if int8 else ''}"
    path = Path(out) if out else (source.run or Path()) / f"{source.name}{kind}{FORMATS[to]}"
    if int8:
        from kedge.cli.export_int8 import write_int8

        done = write_int8(
            exported, path, source, data, batch, 256 if calibration is None else calibration,
            0.05 if bound is None else bound, full_range, photos,
        )  # fmt: skip
    elif photos is not None:
        done = export_photo(exported, path, to, photos)
        print(done)
    else:
        done = export(exported, path, to=to, check_images=batch)
        print(done)
    # Of 8 bits some of it was set anew, or left out.
    if inside := what_is_inside(load_onnx(path) if to == "onnx" else exported):
        print(f"inside: {', '.join(inside)}")
    if members:
        banks = [str(member.count()) for member in members]
        print(f"folded: the members keep one reference each (of {', '.join(banks)}), and the file gives no uncertainty")
    elif exported is not whole:
        print("\n".join(about_folding(whole, exported, choice)))  # type: ignore[arg-type]
    if folds:
        print(
            f"how many of its answers are right was not measured: {source.name} held out no image, as {folds} folds "
            "judged it; --data names others"
        )
    elif held_out is not None:
        some = spread(held_out, WORTH_IMAGES)
        print(what_it_is_worth(done, whole, some, choice))
        if seen := seen_by(source, some):
            print(f"careful: {source.name} was trained on {seen:,} of these images, which flatter it", file=sys.stderr)
    if to == "onnx":
        print(f"next:   {next_step(source, model, data, path)}")
        print(f"        kedge predict {path} IMAGES")
    return 0


def with_one_reference(whole: "AnchoredModel", images: "ImageSet | None") -> "tuple[AnchoredModel, FoldChoice | None]":
    """A copy with the one reference that folding keeps: the nearest to the whole bank, the first without images."""
    from kedge.deploy import choose_folded

    model, choice = copy.deepcopy(whole), None
    if images is not None and len(whole.references) > 1 and whole.task == "classification":
        some = spread(images, WORTH_IMAGES)
        print(
            f"kedge export: choosing the reference on {len(some)} images, {len(whole.references) + 1} passes each",
            file=sys.stderr,
        )
        choice = choose_folded(whole, some)
    model.references = whole.references[:1] if choice is None else choice.reference
    return model, choice


def with_one_reference_each(whole: "Ensemble", images: "ImageSet | None") -> "Ensemble":
    """An ensemble of the members, each with the one reference that folding keeps."""
    from kedge.ensemble import Ensemble

    each = [with_one_reference(member, images)[0] if member.count() else member for member in whole.members]
    model = Ensemble(each)
    model.steps, model.reject, model.unknown = dict(whole.steps), whole.reject, whole.unknown
    return model


def what_is_inside(model: "PixelModel") -> list[str]:
    """The names, steps and rules of a file, or of the model that was written to it."""
    inside = [f"{len(model.class_names)} class names"] if model.class_names else []
    inside += model.describe_steps()
    if model.reject is not None:
        inside.append(f"the reject threshold {in_words(model.reject)}")
    if model.unknown is not None:
        from kedge.unknown import in_words as unknown_in_words

        inside.append(f"the rule for unknown, {unknown_in_words(model.unknown)}")
    return inside


def what_it_is_worth(done: "Exported", whole: "PixelModel", images: "ImageSet", choice: "FoldChoice | None") -> str:
    """The share of the file's answers that are right, beside that of the model; a warning where they differ."""
    import torch

    from kedge.checks import unlike_classes

    if unlike_classes(images.class_names, whole.class_names or whole.num_outputs) is not None:
        return f"how many of its answers are right was not measured: {images.name} has other classes than the model"
    answer = done.load()
    with torch.no_grad():
        label = torch.cat([answer(batch.float() / 255).argmax(1) for batch, _ in images.batches(64)])
    right = label == images.labels
    share = (
        f"on {len(images)} images of {images.name} ({images.split}) {right.float().mean():.1%} of its answers are right"
    )
    if choice is not None:
        of_whole, right_of_whole, bank = choice.label, choice.right, f"{len(whole.references)} references"
    elif members := getattr(whole, "members", None):
        with torch.no_grad():
            of_whole = torch.cat(
                [whole.predict(batch.float() / 255).logits.argmax(1) for batch, _ in images.batches(64)]
            )
        right_of_whole = of_whole == images.labels
        bank = f"{sum(member.count() for member in members)} references in all members"
    else:
        return share
    from kedge.evaluation.comparing import mcnemar

    theirs, same = right_of_whole.float().mean(), int((label == of_whole).sum())
    apart, p = float(right.float().mean() - theirs), mcnemar(right, right_of_whole)
    if p < 0.05 or abs(apart) >= APART:
        print(
            f"careful: the file is another model than {bank} together, "
            f"{100 * abs(apart):.1f} points {'better' if apart > 0 else 'worse'} here"
            + (f" (p = {p:.2g})" if p < 0.05 else f", which chance can do too (p = {p:.2g})")
            + ": judge it by its own numbers, or keep the model folder",
            file=sys.stderr,
        )
    return f"{share}, of the model's with its {bank} {theirs:.1%} (same label on {same})"


def next_step(source: Source, model: str, name: str | None, out: Path) -> str:
    """The command that measures the file, beside the model where that says on what."""
    from kedge import data

    recipe = source.recipe()
    place = recipe.get("data") if name is None else name
    if name is None and recipe.get("folds") and "test" not in data.splits(str(place)):
        return f"kedge evaluate {out} --data LABELLED_IMAGES"
    words = ["kedge evaluate", str(out), *([model] if recipe else [])]
    if name is not None or not recipe:
        words += ["--data", str(place or "NAME")]
    if place is not None and "test" not in (offered := data.splits(place)):
        # val of the run's own data is what it held out, where that has no such part either
        words += ["--split", "val" if name is None or "val" in offered else offered[-1]]
    return " ".join(words)


def about_folding(whole: "AnchoredModel", folded: "PixelModel", choice: "FoldChoice | None") -> Iterator[str]:
    """What the file does otherwise than the model with its whole bank."""
    bank = len(whole.references)
    what = (
        "the bank's mean, in which what its photos share"
        if choice is not None and choice.mean
        else "one reference, in which that picture"
    )
    yield (
        f"folded: the file gives no uncertainty, and holds a map of {what} can be made out (and computed from it for "
        "patch embeddings, or by whoever has the anchored weights)"
    )
    if choice is not None:
        yield (
            f"it keeps {choice.name}, of the bank and its mean that with the nearest answers to those of all of them: "
            f"{choice.divergence:.2g} nats away on {choice.images} images (the first reference: {choice.first:.2g})"
        )
    elif bank > 1:
        yield f"it keeps the first of {bank} references: without images there is nothing to choose by"
    if whole.temperature is not None and folded.temperature is not None:
        old, new = whole.temperature, folded.temperature
        anew = f"was fitted anew on validation images: {new:.3g}; that" if old != new else f"is {new:.3g}, the one"
        yield f"its temperature {anew} of the whole bank{f' is {old:.3g}' if old != new else ''}"
    if whole.reject is not None and folded.reject is not None:
        if bank > 1 and whole.reject == folded.reject:
            yield "its threshold is the one that was set for the whole bank: --threshold of kedge predict sets another"
        elif whole.reject != folded.reject:
            yield f"its threshold was set anew on validation images; that of the whole bank is {in_words(whole.reject)}"
    if whole.unknown is not None and folded.unknown is not None and bank > 1:
        from kedge.unknown import in_words as unknown_in_words

        if whole.unknown == folded.unknown:
            yield "its rule for unknown is the one that was set for the whole bank, whose scores are others"
        else:
            yield f"its rule for unknown was set anew too; that of the whole bank is {unknown_in_words(whole.unknown)}"


def check_set(source: Source, name: str | None, shape: tuple[int, ...]) -> "ImageSet":
    """Images to check on: the validation images of the run, or images of `name`.

    Of a run that folds judged its training images: whether the file answers as the model does can be seen on any.
    """
    if name is None:
        folds = bool(source.recipe().get("folds"))
        run = images_of_run(source, held_out=not folds)
        return run.train if folds else run.val
    from kedge import data
    from kedge.data.sets import size_of

    offered = data.splits(name)
    split = next(s for s in ("test", "val", *offered) if s in offered)
    return data.load(name, split, size_of(shape), shape[0])

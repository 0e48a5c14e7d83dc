"""`kedge predict`: label, confidence, uncertainty and rejection of image files."""

import hashlib
import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kedge.cli.answers import FIELDS, Encoded, Tally, encodable, writer_of, writes
from kedge.cli.evaluate import progress_bar
from kedge.cli.ranges import check_values
from kedge.cli.resolve_model import SEVERAL_HELP, Source, find, leaves
from kedge.cli.shares import Share, place_among_processes
from kedge.printable import printable
from kedge.regular import file_digest
from kedge.rejection import answered, in_words, rule_at, set_on

if TYPE_CHECKING:
    import jsonargparse
    from torch import Tensor

    from kedge.anchoring import PixelModel
    from kedge.data.paths import Paths

NO_ANSWER = "the model's output is NaN: no answer"
DESCRIPTION = """\
Say what is on images, and how sure the model is.

For each image: the label, the confidence (its probability), the uncertainty (disagreement between the references of
an anchored model; higher is less sure; none for a plain model or an exported file), and whether to reject the answer:
its confidence is below the threshold that was set on validation images when the model was trained. JSON and CSV also
hold the log odds of the confidence, log(p / (1 - p)): to rank by, since they differ where confidences read 1.

Answers are written as they come. With --out FILE they are kept beside it, in FILE.parts, until all are there: the same
command goes on after an interruption, and under torchrun or srun each process answers its share of the images.
"""
EPILOG = """\
Exit status: 0 if every image was answered, 3 if some could not be read or the model's output for them is NaN (they are
listed with their error, also those of kinds that are not read, such as .heic; the others are answered), 1 if nothing
could be answered, 2 for a wrong command line. Results go to standard output, remarks to standard error.
A text in CSV that a spreadsheet would compute, as it begins with =, +, - or @, has an apostrophe before it; bytes of a
file name that are no UTF-8 are written as \\xe9.
"""


def parser() -> "jsonargparse.ArgumentParser":
    """The flags of `kedge predict`."""
    import jsonargparse

    made = jsonargparse.ArgumentParser(
        prog="kedge predict",
        usage="kedge predict MODEL IMAGES [IMAGES ...] [options]",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    made.add_argument("model", metavar="MODEL", help=SEVERAL_HELP)
    made.add_argument(
        "images",
        metavar="IMAGES",
        nargs="+",
        help="image files, folders (searched through and through) or quoted patterns such as 'photos/**/*.jpg'",
    )
    made.add_argument(
        "--format", choices=["table", "json", "csv", "jsonl"], default="table", help="how to print the answers"
    )
    made.add_argument(
        "--out",
        type=str | None,
        default=None,
        metavar="FILE",
        help="write the answers to a file whose ending says how: .csv, .jsonl, .json, .parquet; null: print them",
    )
    made.add_argument(
        "--references",
        type=int | Literal["adaptive"] | None,
        default=None,
        help="how many references of an anchored model's bank to use; adaptive: few for most images, more for those "
        "that few do not settle; null: all of them",
    )
    made.add_argument(
        "--threshold",
        type=float | None,
        default=None,
        help="reject below this confidence; null: the threshold stored with the model",
    )
    made.add_argument("--batch_size", type=int, default=32, help="images that go through the network at a time")
    made.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    return made


def run(config: "jsonargparse.Namespace") -> int:
    """Predict, and print or write as the answers come."""
    if config.threshold is not None and not 0 <= config.threshold <= 1:
        raise ValueError(f"--threshold is a probability, 0 to 1, got {config.threshold}")
    check_values(config)
    rank, world, local = place_among_processes()
    out = None if config.out is None else Path(config.out).expanduser()
    if out is not None:
        writes(out)
    elif world > 1:
        raise ValueError(f"{world} processes share the images: name one file for their answers, with --out answers.csv")
    source = find(config.model, several=True)
    paths = find_images(config.images)
    columns = (*FIELDS, "references_used") if config.references == "adaptive" else FIELDS
    model = source.load(_device(config.device, local, world))
    if model.task != "classification" or len(model.input_shape) != 3:
        raise ValueError(
            f"kedge predict answers with classes of images, and {config.model} is a {model.task} model for inputs of "
            f"shape {model.input_shape}; use model.predict in Python"
        )
    rule = model.reject if config.threshold is None else rule_at(config.threshold)
    if out is not None and rank and out.exists():
        return 0  # process 0 had all answers when it began, and is done
    share = None if out is None else Share(out, _call(config, source, paths, world), len(paths), rank, world)
    mine = paths[rank::world]
    left = mine[share.done :] if share else mine
    tally = Tally()
    with share or nullcontext(), progress_bar("predicting") as (progress, say):
        if share and share.done:
            say(f"{share.done} of {len(mine)} images were answered before: the others follow")
        rows = predict_files(model, left, rule, config.references, config.batch_size)

        def seen(row: Mapping[str, Any]) -> None:
            tally.add(row)
            if row["error"] is not None:
                say(f"kedge predict: {printable(row['path'])}: {printable(row['error'])}")
            if progress is not None:
                progress(tally.images, len(mine))

        if share is None:
            writer = writer_of(config.format, Encoded(), columns)  # type: ignore[arg-type]
            for row in rows:
                writer.write(row)
                seen(row)
            writer.close()
        else:
            share.take(rows, seen)
            if rank == 0:
                tally = Tally()
                share.join(columns, tally.add, say)
    if rank == 0:
        _remark(tally, paths, model, rule)
        if out is not None:
            print(f"kedge predict: written to {out}", file=sys.stderr)
    return tally.status


def _device(asked: str, local: int, world: int) -> str:
    """The device of this process: each takes a GPU of its own where several share a machine."""
    import torch

    if world > 1 and asked in ("auto", "cuda") and torch.cuda.is_available():
        return f"cuda:{local % torch.cuda.device_count()}"
    return asked


def _call(config: "jsonargparse.Namespace", source: Source, paths: "Paths", world: int) -> dict[str, Any]:
    """What answers depend on, for a call that goes on with those of another."""
    files: list[Path] = []
    for single in leaves({source.name: source}).values():
        if single.path is not None and single.path.is_dir():
            files += [path for path in sorted(single.path.iterdir()) if path.suffix in (".json", ".safetensors")]
        elif single.path is not None:
            files.append(single.path)
    names = hashlib.blake2b(digest_size=16)
    for path in paths:
        names.update(os.fsencode(path) + b"\0")
    return {
        "model": [source.given or source.name, *map(file_digest, files)],
        "images": f"{len(paths)} ({names.hexdigest()})",
        "references": config.references,
        "threshold": config.threshold,
        "processes": world,
    }


def find_images(given: list[str]) -> "Paths":
    """Files, the images in folders and what patterns match, each once, in order.

    Images of kinds that are not read are among them: each is answered by why it is not.

    Raises:
        FileNotFoundError: if a folder holds no image or a pattern matches nothing.
    """
    from kedge.data.formats import EXTENSIONS
    from kedge.data.image_files import everything_under
    from kedge.data.paths import Paths

    parts: list[Sequence[str]] = []
    for each in given:
        path = Path(each)
        if path.is_dir():
            inside: Sequence[str] = everything_under(path)
            if not inside:
                raise FileNotFoundError(f"no images in the folder {each} (looked for {' '.join(EXTENSIONS)})")
        elif not path.exists() and any(c in each for c in "*?["):
            import glob

            inside = [str(Path(p)) for p in sorted(set(glob.glob(each, recursive=True))) if os.path.isfile(p)]
            if not inside:
                raise FileNotFoundError(f"no file matches {each!r}")
        else:
            inside = [str(path)]  # one that does not exist is reported with the unreadable ones
        parts.append(inside)
    return Paths.of(parts[0] if len(parts) == 1 else dict.fromkeys(path for part in parts for path in part))


def predict_files(
    model: "PixelModel",
    paths: Sequence[str] | Sequence[Path],
    rule: Mapping[str, Any] | None = None,
    references: int | Literal["adaptive"] | None = None,
    batch_size: int = 32,
) -> Iterator[dict[str, Any]]:
    """One row for each path, in order: path, label, confidence, uncertainty, reject, error, log_odds.

    Images are decoded while those before them go through the model; a few batches of them are held at a time.

    `rule` is a reject rule (see `kedge.rejection`), or None: then nothing is said of rejecting. With
    `references="adaptive"` also references_used: how many references the image got.
    """
    import torch

    from kedge.checks import PROBABILITIES, looks_like_probabilities
    from kedge.postprocess import undo

    anchored = model.count() > 0
    if isinstance(references, int) and references < 1:
        raise ValueError(f"--references must be 1 or more, got {references}")
    if references is not None and not anchored:
        raise ValueError("--references is for anchored models: a plain model and an exported file have none")
    names = model.class_names or [str(i) for i in range(model.num_outputs)]
    columns = [*FIELDS, "references_used"] if references == "adaptive" else FIELDS
    for names_of, decoded in _decoded(paths, model.input_shape, batch_size):
        rows, images = [], []
        for path, image in zip(names_of, decoded, strict=True):
            row: dict[str, Any] = dict.fromkeys(columns)
            row["path"] = encodable(str(path))
            rows.append(row)
            if isinstance(image, str):
                row["error"] = encodable(image)
            else:
                images.append(image)
        if not images:
            yield from rows
            continue
        batch = torch.stack(images).to(model.mean.device).float() / 255
        asked = {"references": references} if anchored else {}
        prediction = model.predict(batch, check=False, **asked)
        if looks_like_probabilities(undo(model.steps, prediction.logits)):
            warnings.warn(f"careful: {PROBABILITIES}", stacklevel=2)
        assert prediction.confidence is not None
        assert prediction.log_odds is not None
        kept = None if rule is None else answered(rule, prediction.confidence, prediction.log_odds)
        for i, row in enumerate(row for row in rows if row["error"] is None):
            if bool(prediction.confidence[i].isnan()):
                row["error"], row["reject"] = NO_ANSWER, True
                continue
            row["label"] = names[int(prediction.label[i])]  # type: ignore[index]
            row["confidence"], row["log_odds"] = float(prediction.confidence[i]), float(prediction.log_odds[i])
            if prediction.uncertainty is not None:
                row["uncertainty"] = float(prediction.uncertainty[i])
            if prediction.references_used is not None:
                row["references_used"] = int(prediction.references_used[i])
            if kept is not None:
                row["reject"] = not kept[i]
        yield from rows


def _decoded(
    paths: Sequence[str] | Sequence[Path], shape: tuple[int, ...], batch_size: int
) -> "Iterator[tuple[Sequence[Any], list[Tensor | str]]]":
    """(paths, their images or why there is none) of each batch, decoded by threads a batch ahead."""
    from kedge.data import DataError

    def one(path: str | Path) -> "Tensor | str":
        try:
            return read(Path(path), shape)
        except DataError as error:
            return getattr(error, "reason", str(error))

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with ThreadPoolExecutor(min(8, cores)) as pool:
        parts = (paths[start : start + batch_size] for start in range(0, len(paths), batch_size))

        def begun(part: Sequence[Any]) -> "tuple[Sequence[Any], list[Future[Tensor | str]]]":
            return part, [pool.submit(one, path) for path in part]

        ahead = [begun(part) for part in islice(parts, 2)]
        while ahead:
            part, futures = ahead.pop(0)
            yield part, [future.result() for future in futures]
            ahead += [begun(after) for after in islice(parts, 1)]


def read(path: Path, shape: tuple[int, ...]) -> "Tensor":
    """Decode an image as evaluation does: uint8 `[C, H, W]`, resized to cover the shape, centre cropped.

    Raises:
        DataError: if it cannot be read.
    """
    from kedge.data import UnreadableImage, read_image
    from kedge.data.formats import CONVERT, is_unread

    channels, height, width = shape
    try:
        if height == width:
            return read_image(path, height, channels)
        image = read_image(path, None, channels)
    except UnreadableImage as error:
        if is_unread(path.name) and path.exists():
            raise UnreadableImage(str(path), f"{path.suffix.lower()} is a kind that is not read. {CONVERT}") from None
        raise error
    from kedge.evaluation.inputs import convert, to_unit

    return (convert(to_unit(image[None]), shape)[0] * 255).round().byte()


def _remark(tally: Tally, paths: "Paths", model: "PixelModel", rule: Mapping[str, Any] | None) -> None:
    said = f"{tally.images - tally.failed} of {tally.images} images answered"
    if rule is None:
        said += "; none rejected: the model has no stored threshold (--threshold sets one)"
    else:
        said += f", {tally.rejected} rejected (confidence below {in_words(rule)}"
        if rule.get("coverage") is not None:
            said += f", set to keep {rule['coverage']:.0%} of {set_on(rule)}"
        elif rule.get("risk") is not None:
            said += f", set for at most {rule['risk']:.1%} wrong answers on {set_on(rule)}"
        said += ")"
    if tally.with_used:
        said += f"; {tally.used / tally.with_used:.1f} references used for an image, on average"
    if model.class_names is None:
        said += "; the model has no class names, labels are numbers"
    if escaped := sum(path != encodable(path) for path in paths):
        are = "1 file name is" if escaped == 1 else f"{escaped} file names are"
        said += f"; {are} not UTF-8: \\x and two hex digits stand for each byte that is not"
    print(f"kedge predict: {said}", file=sys.stderr)

"""`kedge predict`: label, confidence, uncertainty and rejection of image files."""

import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kedge.cli.models import MODEL_HELP, find
from kedge.cli.ranges import check_values
from kedge.rejection import answered, in_words, rule_at

if TYPE_CHECKING:
    import jsonargparse
    from torch import Tensor

    from kedge.anchoring import AnchoredModel, PlainModel

NO_ANSWER = "the model's output is NaN: no answer"
FIELDS = ("path", "label", "confidence", "uncertainty", "reject", "error", "log_odds")
DESCRIPTION = """\
Say what is on images, and how sure the model is.

For each image: the label, the confidence (its probability), the uncertainty (disagreement between the references of
an anchored model; higher is less sure; none for a plain model or an exported file), and whether to reject the answer:
its confidence is below the threshold that was set on validation images when the model was trained. JSON and CSV also
hold the log odds of the confidence, log(p / (1 - p)): to rank by, since they differ where confidences read 1.
"""
EPILOG = """\
Exit status: 0 if every image was answered, 3 if some could not be read or the model's output for them is NaN (they are
listed with their error, also those of kinds that are not read, such as .heic; the others are answered), 1 if nothing
could be answered, 2 for a wrong command line. Results go to standard output, remarks to standard error.
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
    made.add_argument("model", metavar="MODEL", help=MODEL_HELP)
    made.add_argument(
        "images",
        metavar="IMAGES",
        nargs="+",
        help="image files, folders (searched through and through) or quoted patterns such as 'photos/**/*.jpg'",
    )
    made.add_argument("--format", choices=["table", "json", "csv"], default="table", help="how to print the answers")
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
    """Predict and print."""
    if config.threshold is not None and not 0 <= config.threshold <= 1:
        raise ValueError(f"--threshold is a probability, 0 to 1, got {config.threshold}")
    check_values(config)
    source = find(config.model)
    paths = find_images(config.images)
    model = source.load(config.device)
    if model.task != "classification" or len(model.input_shape) != 3:
        raise ValueError(
            f"kedge predict answers with classes of images, and {config.model} is a {model.task} model for inputs of "
            f"shape {model.input_shape}; use model.predict in Python"
        )
    rule = model.reject if config.threshold is None else rule_at(config.threshold)
    rows = list(predict_files(model, paths, rule, config.references, config.batch_size))
    _print(rows, config.format)
    failed = [row for row in rows if row["error"] is not None]
    for row in failed:
        print(f"kedge predict: {row['path']}: {row['error']}", file=sys.stderr)
    _remark(rows, model, rule)
    if len(failed) == len(rows):
        return 1
    return 3 if failed else 0


def find_images(given: list[str]) -> list[Path]:
    """Files, the images in folders and what patterns match, each once, in order.

    Images of kinds that are not read are among them: each is answered by why it is not.

    Raises:
        FileNotFoundError: if a folder holds no image or a pattern matches nothing.
    """
    from kedge.data.formats import EXTENSIONS, is_unread

    found: dict[Path, None] = {}
    for each in given:
        path = Path(each)
        if path.is_dir():
            inside = [
                p
                for p in sorted(path.rglob("*"))
                if (p.suffix.lower() in EXTENSIONS or is_unread(p.name))
                and p.is_file()
                and not any(part.startswith(".") for part in p.relative_to(path).parts)
            ]
            if not inside:
                raise FileNotFoundError(f"no images in the folder {each} (looked for {' '.join(EXTENSIONS)})")
        elif not path.exists() and any(c in each for c in "*?["):
            import glob

            matches = map(Path, sorted(glob.glob(each, recursive=True)))
            inside = [p for p in matches if p.is_file()]
            if not inside:
                raise FileNotFoundError(f"no file matches {each!r}")
        else:
            inside = [path]  # one that does not exist is reported with the unreadable ones
        found.update(dict.fromkeys(inside))
    return list(found)


def predict_files(
    model: "AnchoredModel | PlainModel",
    paths: list[Path],
    rule: Mapping[str, Any] | None = None,
    references: int | Literal["adaptive"] | None = None,
    batch_size: int = 32,
) -> Iterator[dict[str, Any]]:
    """One row for each path, in order: path, label, confidence, uncertainty, reject, error, log_odds.

    `rule` is a reject rule (see `kedge.rejection`), or None: then nothing is said of rejecting. With
    `references="adaptive"` also references_used: how many references the image got.
    """
    import torch

    from kedge.anchoring import AnchoredModel
    from kedge.checks import PROBABILITIES, looks_like_probabilities
    from kedge.data import DataError

    anchored = isinstance(model, AnchoredModel)
    if isinstance(references, int) and references < 1:
        raise ValueError(f"--references must be 1 or more, got {references}")
    if references is not None and not anchored:
        raise ValueError("--references is for anchored models: a plain model and an exported file have none")
    names = model.class_names or [str(i) for i in range(model.num_outputs)]
    for start in range(0, len(paths), batch_size):
        rows, images = [], []
        for path in paths[start : start + batch_size]:
            row: dict[str, Any] = dict.fromkeys([*FIELDS, "references_used"] if references == "adaptive" else FIELDS)
            row["path"] = str(path)
            rows.append(row)
            try:
                images.append(read(path, model.input_shape))
            except DataError as error:
                row["error"] = getattr(error, "reason", str(error))
        if not images:
            yield from rows
            continue
        batch = torch.stack(images).to(model.mean.device).float() / 255
        asked = {"references": references} if anchored else {}
        prediction = model.predict(batch, check=False, **asked)  # type: ignore[arg-type]
        if looks_like_probabilities(prediction.logits * (model.temperature or 1.0)):
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


def _print(rows: list[dict[str, Any]], form: str) -> None:
    if form == "json":
        import json

        print(json.dumps(rows, indent=1, ensure_ascii=False))
    elif form == "csv":
        import csv

        writer = csv.DictWriter(sys.stdout, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    else:
        lines = [("image", "label", "confidence", "uncertainty", "reject")]
        for row in rows:
            if row["error"] is not None:
                lines.append((row["path"], "(no answer)" if row["reject"] else "(unreadable)", "", "", ""))
                continue
            uncertainty = "" if row["uncertainty"] is None else f"{row['uncertainty']:.4f}"
            reject = {None: "", True: "reject", False: ""}[row["reject"]]
            lines.append((row["path"], row["label"], f"{row['confidence']:.1%}", uncertainty, reject))
        widths = [max(len(line[i]) for line in lines) for i in range(5)]
        for path, label, confidence, uncertainty, reject in lines:
            cells = (
                path.ljust(widths[0]),
                label.ljust(widths[1]),
                confidence.rjust(widths[2]),
                uncertainty.rjust(widths[3]),
                reject,
            )
            print("  ".join(cells).rstrip())


def _remark(rows: list[dict[str, Any]], model: "AnchoredModel | PlainModel", rule: Mapping[str, Any] | None) -> None:
    failed = sum(row["error"] is not None for row in rows)
    said = f"{len(rows) - failed} of {len(rows)} images answered"
    if rule is None:
        said += "; none rejected: the model has no stored threshold (--threshold sets one)"
    else:
        rejected = sum(bool(row["reject"]) for row in rows if row["error"] is None)
        said += f", {rejected} rejected (confidence below {in_words(rule)}"
        if rule.get("coverage") is not None:
            said += f", set to keep {rule['coverage']:.0%} of the validation images"
        elif rule.get("risk") is not None:
            said += f", set for at most {rule['risk']:.1%} wrong answers on the validation images"
        said += ")"
    used = [row["references_used"] for row in rows if row.get("references_used") is not None]
    if used:
        said += f"; {sum(used) / len(used):.1f} references used for an image, on average"
    if model.class_names is None:
        said += "; the model has no class names, labels are numbers"
    print(f"kedge predict: {said}", file=sys.stderr)

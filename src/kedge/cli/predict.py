"""`kedge predict`: label, confidence, uncertainty and rejection of image files."""

import glob
import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from kedge.cli.adapting import adapting, check_methods, kept_images, what_happened
from kedge.cli.answers import FIELDS, OF_SETS, Tally, check_kind, encodable, write_answers
from kedge.cli.file_answers import predict_files
from kedge.cli.output import progress_bar
from kedge.cli.resolve_model import Source, find, leaves
from kedge.cli.set_words import of_answers
from kedge.cli.shares import Share, place_among_processes
from kedge.printable import counted, percent, printable
from kedge.regular import file_digest
from kedge.rejection import in_words, met_by_others, rule_at, set_on

if TYPE_CHECKING:
    from kedge.anchoring import PixelModel
    from kedge.data.paths import Paths


def run(
    model: str,
    images: Sequence[str],
    *,
    format: Literal["table", "json", "csv", "jsonl"] = "table",
    out: str | None = None,
    references: int | Literal["adaptive"] | None = None,
    threshold: float | None = None,
    answer_all: bool = False,
    sets: float | None = None,
    adapt_at_test: Annotated[str, "test_time"] | None = None,
    validation: str | None = None,
    no_brake: bool = False,
    batch_size: int = 32,
    device: str = "auto",
) -> int:
    """Say what is on images, and how sure the model is.

    For each image: the answer, which is a label, or `unknown` where the image is none of the classes by the rule that
    was chosen when the model was trained, or `unsure` where the confidence is below the threshold that was set then;
    the label that fits best, its confidence (its probability), and the uncertainty (disagreement between the
    references of an anchored model; higher is less sure; none for a plain model or an exported file). JSON and CSV
    also hold `unknown` and `reject`, what each of the two rules says, and the log odds of the confidence,
    log(p / (1 - p)): to rank by, since they differ where confidences read 1.

    Answers are written as they come. With --out FILE they are kept beside it, in FILE.parts, until all are there: the
    same command goes on after an interruption, and under torchrun or srun each process answers its share of the images.

    Args:
        model (MODEL): {SEVERAL}
        images (IMAGES): image files, folders (searched through and through) or quoted patterns such as
            'photos/**/*.jpg'
        format: how to print the answers
        out (FILE): write the answers to a file whose ending says how: .csv, .jsonl, .json, .parquet; null: print them
        references: how many references of an anchored model's bank to use; adaptive: few for most images, more for
            those that few do not settle; null: all of them
        threshold: unsure below this confidence; null: the threshold stored with the model
        answer_all: answer with the label always
        sets (COVERAGE): beside the answer all classes that fit, with the true one among them for this share of images
            that are like those that the threshold was set on (kedge calibrate MODEL --coverage COVERAGE); of
            mean(A,B,...) the classes that most members have, which each need (1 + COVERAGE) / 2
        adapt_at_test (NAME): adapt to the images while answering them, in their order, batch by batch ({test_time});
            64 or more at a time at best (batch_size), and mixed, not class after class
        validation: labelled images that the brake of --adapt_at_test rests on; null: those that the run held out
        no_brake: do not hold what adapts where it fares worse on images that were kept
        batch_size: {BATCH_SIZE}
        device: {DEVICE}

    Exit status: 0 if every image was answered, 3 if some could not be read or the model's output for them is NaN (they
    are listed with their error, also those of kinds that are not read, such as .dng; the others are answered), 1 if
    nothing could be answered, 2 for a wrong command line. Results go to standard output, remarks to standard error. A
    text in CSV that a spreadsheet would compute, as it begins with =, +, - or @, has an apostrophe before it; bytes of
    a file name that are no UTF-8 are written as \\xe9.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise ValueError(f"--threshold is a probability, 0 to 1, got {threshold}")
    rank, world, local = place_among_processes()
    file = None if out is None else Path(out).expanduser()
    if file is not None:
        check_kind(file)
    elif world > 1:
        raise ValueError(f"{world} processes share the images: name one file for their answers, with --out answers.csv")
    methods = check_methods([adapt_at_test] if adapt_at_test else [], no_brake)
    if validation is not None and not methods:
        raise ValueError("--validation is for --adapt_at_test, which is missing")
    if methods and world > 1:
        raise ValueError(f"--adapt_at_test answers one stream of images, which {world} processes cannot share")
    if sets is not None:
        from kedge.postprocess import images_needed

        images_needed(sets)  # refuses what is no share, before a model is read
    source = find(model, several=True)
    paths = find_images(images)
    columns = (*FIELDS, *(["references_used"] if references == "adaptive" else []), *(() if sets is None else OF_SETS))
    loaded = source.load(_device(device, local, world))
    if loaded.task != "classification" or len(loaded.input_shape) != 3:
        raise ValueError(
            f"kedge predict answers with classes of images, and {model} is a {loaded.task} model for inputs of "
            f"shape {loaded.input_shape}; use model.predict in Python"
        )
    rule = loaded.reject if threshold is None else rule_at(threshold)
    if methods:
        braked_by = kept_images({source.name: source}, {source.name: loaded}, validation, no_brake)
        loaded = adapting(loaded, methods[0], None if braked_by is None else braked_by[source.name])
    set_rule = None if sets is None else loaded.set_rule(sets, references)
    if file is not None and rank and file.exists():
        return 0  # process 0 had all answers when it began, and is done
    call = {**_call(source, paths), "references": references, "threshold": threshold, "processes": world}
    call |= ({} if sets is None else {"sets": sets}) | ({"answer_all": True} if answer_all else {})
    if methods:
        call |= {"adapt_at_test": methods[0], "no_brake": no_brake, "batch_size": batch_size}
    share = None if file is None else Share(file, call, len(paths), rank, world)
    mine = paths[rank::world]
    from kedge.data.traits import Traits

    tally, traits = Tally(), Traits()
    with share or nullcontext(), progress_bar("predicting") as (progress, say):
        if methods and share and share.done:
            raise ValueError(
                f"{share.done} images were answered before it was interrupted, and what was adapted to them is lost: "
                f"delete {share.folder} to begin again"
            )
        if share and share.done:
            say(f"{share.done} of {len(mine)} images were answered before: the others follow")
            if changed := share.changed(mine[: share.done]):
                say(
                    f"careful: {counted(len(changed), 'file')} of them changed since, such as {printable(changed[0])}: "
                    f"the answers are of what was there then; delete {share.folder} to begin again"
                )
        others = mine[share.done :] if share else mine
        rows = predict_files(loaded, others, rule, references, batch_size, set_rule, answer_all, traits)

        def note(row: Mapping[str, Any]) -> Mapping[str, Any]:
            tally.add(row)
            if row["error"] is not None:
                say(f"kedge predict: {printable(row['path'])}: {printable(row['error'])}")
            if progress is not None:
                progress(tally.images, len(mine))
            return row

        if share is None:
            write_answers(format, sys.stdout, columns, map(note, rows))
        else:
            share.take(rows, note)
            if rank == 0:
                tally = Tally()
                share.join(columns, tally.add, say)
    if traits:
        print(f"kedge predict: {traits.line()}", file=sys.stderr)
    if rank == 0:
        _remark(tally, paths, loaded, rule, answer_all)
        stored = ("reject", "unknown") if threshold is None else ("unknown",)
        if words := met_by_others(loaded, references, stored):
            print(f"kedge predict: careful: {words}", file=sys.stderr)
        if set_rule is not None:
            for words in of_answers(tally, set_rule):
                print(f"kedge predict: {words}", file=sys.stderr)
        for words in what_happened(loaded) if methods else ():
            print(f"kedge predict: {words}", file=sys.stderr)
        if file is not None:
            print(f"kedge predict: written to {file}", file=sys.stderr)
    return tally.status


def _device(name: str, local: int, world: int) -> str:
    """The device of this process: each takes a GPU of its own where several share a machine."""
    import torch

    if world > 1 and name in ("auto", "cuda") and torch.cuda.is_available():
        return f"cuda:{local % torch.cuda.device_count()}"
    return name


def _call(source: Source, paths: "Paths") -> dict[str, Any]:
    """The model and the images that answers depend on, for a call that goes on with those of another."""
    files: list[Path] = []
    for single in leaves({source.name: source}).values():
        if single.path is not None and single.path.is_dir():
            folders = [single.path, *(single.path / name for name in ("small", "large"))]  # of a cascade: its models
            inside = [path for folder in folders if folder.is_dir() for path in sorted(folder.iterdir())]
            files += [path for path in inside if path.suffix in (".json", ".safetensors", ".onnx")]
        elif single.path is not None:
            files.append(single.path)
    names = hashlib.blake2b(digest_size=16)
    for path in paths:
        names.update(os.fsencode(path) + b"\0")
    return {
        "model": [source.written or source.name, *map(file_digest, files)],
        "images": f"{len(paths)} ({names.hexdigest()})",
    }


def find_images(names: Sequence[str]) -> "Paths":
    """Files, the images in folders and what patterns match, each once, in order.

    Images of kinds that are not read are among them: each is answered by why it is not.

    Raises:
        FileNotFoundError: if a folder holds no image or a pattern matches nothing.
    """
    from kedge.data.formats import EXTENSIONS
    from kedge.data.image_files import everything_under
    from kedge.data.paths import Paths

    parts: list[Sequence[str]] = []
    for name in names:
        path = Path(name)
        inside: Sequence[str] = [str(path)]  # one that does not exist is reported with the unreadable ones
        if path.is_dir():
            inside = everything_under(path)
            if not inside:
                raise FileNotFoundError(f"no images in the folder {name} (looked for {' '.join(EXTENSIONS)})")
        elif not path.exists() and any(c in name for c in "*?["):
            inside = [str(Path(p)) for p in sorted(set(glob.glob(name, recursive=True))) if os.path.isfile(p)]
            if not inside:
                raise FileNotFoundError(f"no file matches {name!r}")
        parts.append(inside)
    return Paths.of(parts[0] if len(parts) == 1 else dict.fromkeys(path for part in parts for path in part))


def _remark(
    tally: Tally, paths: "Paths", model: "PixelModel", rule: Mapping[str, Any] | None, answer_all: bool
) -> None:
    from kedge.unknown import UNKNOWN, UNSURE, words
    from kedge.unknown import in_words as unknown_in_words

    own, answered = words(model.class_names), tally.images - tally.failed
    remark = f"{answered} of {tally.images} images answered"
    if answer_all:
        remark += ", each with a label (--answer_all); by its rules"
    else:
        remark += f": {answered - tally.unknown - tally.unsure} with a label,"
    if model.unknown is None:
        remark += f" none {own[0]} (the model has no rule for that)"
    else:
        remark += f" {tally.unknown} {own[0]} ({unknown_in_words(model.unknown)})"
    if rule is None:
        remark += f", none {own[1]} (the model has no stored threshold; --threshold sets one)"
    else:
        remark += f", {tally.unsure} {own[1]} (confidence below {in_words(rule)}"
        if rule.get("coverage") is not None:
            remark += f", set to keep {percent(rule['coverage'])}% of {set_on(rule)}"
        elif rule.get("risk") is not None:
            remark += f", set for at most {percent(rule['risk'])}% wrong answers on {set_on(rule)}"
        remark += ")"
    if own[0] != UNKNOWN or own[1] != UNSURE:
        remark += "; a class is called like an answer that is none, which is in brackets therefore"
    if tally.with_used:
        remark += f"; {tally.used / tally.with_used:.1f} references used for an image, on average"
    if model.class_names is None:
        remark += "; the model has no class names, labels are numbers"
    if escaped := sum(path != encodable(path) for path in paths):
        are = "1 file name is" if escaped == 1 else f"{escaped} file names are"
        remark += f"; {are} not UTF-8: \\x and two hex digits stand for each byte that is not"
    print(f"kedge predict: {remark}", file=sys.stderr)

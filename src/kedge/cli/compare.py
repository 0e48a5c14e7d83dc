"""`kedge compare`: whether new images are other than earlier ones, and in what; without labels."""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedge.cli.flags import command_line
from kedge.cli.image_words import Word, same_images
from kedge.cli.load_data import common_shape, workers_for
from kedge.cli.output import progress_bar
from kedge.cli.parse import separated, whole_numbers
from kedge.cli.resolve_model import Source, find
from kedge.cli.results_folder import free_folder

if TYPE_CHECKING:
    from kedge.data import ImageSet


def run(
    first: str,
    second: str,
    *,
    model: str | None = None,
    validation: str | None = None,
    corruptions: Sequence[str] = ("corruptions",),
    severities: Sequence[str] = ("1", "2", "3", "4", "5"),
    profile_images: int = 200,
    alpha: float = 0.01,
    limit: int | None = None,
    references: int | None = None,
    seed: int = 0,
    batch_size: int = 128,
    workers: int | None = None,
    device: str = "auto",
    out: str | None = None,
) -> int:
    """Say whether the images of the second folder are other than those of the first, and in what. No labels are needed.

    Which numbers of the images changed (brightness, sharpness, noise, ..., size and JPEG quality of the files), which
    classes are predicted more or less often, which corruption the new images look most like and how strongly, or none
    of them; how many are strange to the model; the accuracy to expect; and the images that are furthest from the
    earlier ones.

    Prints a few lines, and writes drift.html, drift.csv, images.csv and drift.json.

    Args:
        first (FOLDER_A): images as they were: a folder, whose subfolders mean nothing, or data as for kedge evaluate;
            NAME:SPLIT is a part of data, NAME@CORRUPTION:SEVERITY has its images corrupted
        second (FOLDER_B): the new images, in the same ways; images that are in the first too are left out
        model (MODEL): {SEVERAL}; needed
        validation: labelled images that the expected accuracy rests on; null: those that the run held out of training
        corruptions (NAME): what the change may look like, by how many: {corruptions}; single names; or none
        severities (N): of 1 to 5, in between is interpolated
        profile_images: images of the first folder that are corrupted in each way and severity
        alpha: how often like images may be said to differ, as a share
        limit: at most so many images of each folder, a random subset; null: all
        references: references of anchored models to use; null: the whole bank
        seed: of the subsets, the corruptions, the tests and the intervals
        batch_size: {BATCH_SIZE}
        workers: {WORKERS}
        device: {DEVICE}
        out (FOLDER): for the page and the tables; null: compare/ of the run, or here without one; numbered

    Examples:
        kedge compare photos/may photos/june --model mine
        kedge compare cifar10 cifar10@fog:3 --model mine             what it says where the truth is known
        kedge compare a b --model mine.onnx --corruptions none       without looking for a corruption

    Exit status: 0 whether there is a drift or not; drift.json says which, as drift: changed.
    """
    command = command_line("compare", locals())
    if model is None:
        raise ValueError("--model MODEL is missing: the images are compared by what it makes of them")
    if not 0 < alpha < 1:
        raise ValueError(f"--alpha is a share of false alarms between 0 and 1, got {alpha:g}")
    if limit is not None and limit < 1:
        raise ValueError(f"--limit must be 1 or more, got {limit}")
    levels, names = whole_numbers(severities), separated(corruptions)
    source = find(model, python=True, several=True)
    from kedge import evaluation
    from kedge.data.corruptions import expand
    from kedge.evaluation.sets import check_severities
    from kedge.reporting.drift import drift_lines, write_drift

    check_severities(levels)
    if names != ["none"]:
        expand(names)
    words = Word.of(first), Word.of(second)
    loaded = source.load(device)
    a, b = _both(words, loaded, limit, seed)
    held_out, why = _held_out(source, loaded, validation)
    with progress_bar("comparing") as (tick, say):
        results = evaluation.measure_drift(
            loaded,
            a,
            b,
            validation=held_out,
            corruptions=() if names == ["none"] else names,
            severities=levels,
            profile_images=profile_images,
            alpha=alpha,
            references=references,
            batch_size=batch_size,
            workers=workers_for(a, workers),
            seed=seed,
            limit=limit,
            permutations=max(999, round(10 / alpha) - 1),
            trained_on=_counter(source, a),
            progress=tick,
            notice=say,
        )
    results |= {"command": command, "no_accuracy": why or results["no_accuracy"]}
    base = Path(out) if out else (source.run or Path()) / "compare"
    folder = base if out else free_folder(base, "drift.json")
    write_drift(results, folder)
    print("\n".join(drift_lines(results)))
    for warned in results["warnings"]:
        print(f"careful: {warned}", file=sys.stderr)
    print(f"page: {folder / 'drift.html'}", file=sys.stderr)
    if results["drift"]["changed"]:
        again = shlex.join(["kedge", "evaluate", model, "--data", "LABELLED"])
        print(f"next: label some of {second}, and measure: {again}", file=sys.stderr)
    return 0


def _both(words: tuple[Word, Word], model: Any, limit: int | None, seed: int) -> "tuple[ImageSet, ImageSet]":
    """The two sets in the size of the model; where both are of the same images, one half each."""
    channels, size = common_shape({"the model": model})
    a, b = (word.load(size, channels) for word in words)
    if words[0] != words[1] and same_images(a, b):
        import torch

        from kedge.seeds import generator

        order = torch.randperm(len(a), generator=generator(seed, "compare", "halves"))
        halves = [part.sort().values for part in order.tensor_split(2)]
        a, b = a.subset(halves[0]), b.subset(halves[1])
        print(f"{words[0].written} and {words[1].written} are the same images: a random half for each", file=sys.stderr)
    return tuple(word.corrupted(each, limit, seed + place) for place, (word, each) in
                 enumerate(zip(words, (a, b), strict=True), 1))  # type: ignore[return-value]  # fmt: skip


def _held_out(source: Source, model: Any, validation: str | None) -> "tuple[ImageSet | None, str]":
    """(labelled images that the model was not trained on, or None; why not)."""
    from kedge.cli.validation_data import load_validation

    try:
        return load_validation({source.name: source}, {source.name: model}, validation)[source.name], ""
    except (ValueError, FileNotFoundError) as error:
        if validation is not None:
            raise
        return None, str(error)


def _counter(source: Source, images: "ImageSet") -> Any:
    from kedge.cli.trained_on import counters

    return counters({source.name: source}, images).get(source.name)

"""The page of a run, a first look at its model. It stands above training, which calls what it is handed."""

import shlex
from pathlib import Path

from kedge import evaluation, reporting
from kedge.anchoring import PixelModel
from kedge.data import ImageSet
from kedge.training.about_run import known_runs
from kedge.training.record import ImageRecord
from kedge.training.recorded import recorded

__all__ = ["write_run_report"]

REPORT_IMAGES = 1000  # `kedge evaluate` takes the whole set


def write_run_report(
    model: PixelModel,
    folder: Path,
    images: ImageSet,
    path: Path,
    seed: int,
    record: ImageRecord | None = None,
    about: tuple[str, str] | None = None,
) -> None:
    """Evaluate the model of the run in `folder` on (at most a thousand of) its validation images and write the page.

    Beside it goes images.csv, a line for each of these images.

    `about`: what the model is called there, if not as the folder, and a paragraph that the page begins with.
    """
    again = ["--split", "val", "--shift", "none", "--limit", str(REPORT_IMAGES), "--seed", str(seed)]
    command = shlex.join(["kedge", "evaluate", str(folder), *again])
    name, words = about or (folder.name, None)
    counts = None if record is None else record.of_classes(len(images.class_names))
    results = evaluation.evaluate(
        {name: model},
        images,
        shift=(),
        seed=seed,
        limit=REPORT_IMAGES,
        trained_on={} if record is None else {name: record.count},
        train_counts={} if counts is None else {name: counts},
        about_training=known_runs({name: folder}),
        command=command,
    )
    results["models"][name]["gate"] = recorded(folder).get("gate") or {}
    reporting.write_images(results, path.with_name("images.csv"))
    reporting.write_report(results if words is None else {**results, "about": words}, path)

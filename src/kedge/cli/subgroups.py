"""`kedge subgroups`: does accuracy on one group of images tell that on another, over the snapshots of a run?"""

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from kedge.cli.flags import command_line
from kedge.cli.load_data import load_data, workers_for
from kedge.cli.output import progress_bar
from kedge.cli.resolve_model import Source, find_groups
from kedge.cli.results_folder import free_folder


def run(
    models: Sequence[str],
    *,
    groups: Sequence[str],
    majority: str | None = None,
    data: str | None = None,
    split: str = "test",
    limit: int | None = None,
    references: int | None = None,
    seed: int = 0,
    batch_size: int = 128,
    workers: int | None = None,
    device: str = "auto",
    out: str | None = None,
) -> int:
    """Set the accuracy on one group of images against that on the others, a point for each snapshot of each run.

    Where the points lie on a line (R² near 1), whatever makes a model better on the majority makes it better on the
    others too. Where they leave it, a model goes by something that the majority alone has: what looks best on all
    images may not be best for a group.

    Prints R² of each group's line, and writes subgroups.json, subgroups.csv and subgroups.html, with the plot.

    Args:
        models (MODEL): runs that kept snapshots (kedge train --snapshots 1), or three models or more
        groups (WAY): column:NAME of parquet or hub data, folder (that the file lies in), folder:2 (above it),
            regex:PATTERN on file names (its first bracket); several, and class, are combined
        majority: the group that the others are set against; null: the one with the most images
        data: an image folder, parquet files, a folder of $KEDGE_DATA or a hub name; null: the data of the runs
        split: part of the data: test, all, or val (also the images a run held out)
        limit: at most so many images, a random subset; null: all
        references: references of anchored models to use; null: the whole bank
        seed: of the subset and the interval
        batch_size: {BATCH_SIZE}
        workers: {WORKERS}
        device: {DEVICE}
        out (FOLDER): where the files go; null: subgroups/ of the run, or here for several; numbered

    Examples:
        kedge train --data photos --name mine --snapshots 1
        kedge subgroups mine --groups 'regex:^(day|night)' --majority day
    """
    command = command_line("subgroups", locals())
    sources, _ = find_groups(models)
    from kedge.data.grouping import group_by
    from kedge.evaluation import accuracy_on_the_curve
    from kedge.reporting.subgroups import subgroup_table, write_subgroups

    snapshots = {name: each for own, source in sources.items() for name, each in _snapshots(own, source).items()}
    first, source = next(iter(snapshots.items()))
    images, name = load_data(sources, {first: source.load(device)}, data, split, decode=limit is None)
    divided = group_by(images, groups, name)
    with progress_bar("subgroups") as (tick, say):
        results = accuracy_on_the_curve(
            _loaded(snapshots, device), images, divided, majority, references=references, batch_size=batch_size,
            workers=workers_for(images, workers), limit=limit, seed=seed, progress=tick, notice=say,
        )  # fmt: skip
    results |= {"data": {"name": images.name, "split": images.split}, "command": command}
    (only, *others) = sources.values()
    folder = Path(out) if out else free_folder((Path() if others else only.run or Path()) / "subgroups")
    page = write_subgroups(results, folder)[-1]
    print(subgroup_table(results))
    print(f"report: {page}", file=sys.stderr)
    return 0


def _snapshots(name: str, source: Source) -> dict[str, Source]:
    """The snapshots of a run, by name; of another model, and of a run that kept none, itself."""
    from kedge.training.folder import RunFolder

    run = source.run
    if run is None or source.path is None or source.path.parent != run:
        return {name: source}
    folders = RunFolder(run).snapshots().values()
    if not folders:
        print(f"{name} kept no snapshots (kedge train --snapshots 1), so it is one point", file=sys.stderr)
    return {f"{name}-{each.name}": replace(source, path=each) for each in folders} or {name: source}


def _loaded(sources: Mapping[str, Source], device: str) -> Iterator[tuple[str, Any]]:
    for name, source in sources.items():
        yield name, source.load(device)

"""`kedge evaluate`: how far to trust models, as a table and a page."""

import shlex
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedge.cli.models import MODEL_HELP, Source, find_all

if TYPE_CHECKING:
    import jsonargparse

    from kedge.anchoring import PixelModel
    from kedge.data import ImageSet

DESCRIPTION = """\
Measure how far to trust models: accuracy and calibration on clean and on corrupted images, and whether they notice
images of other kinds than they were trained on. Several models are measured on the same images, side by side.

Prints a table, and writes results.json and report.html, one page that opens without a network.
"""
LONG = 5000  # photos through a network on a CPU: minutes
EPILOG = "The table, JSON or CSV goes to standard output, everything else to standard error."


def parser() -> "jsonargparse.ArgumentParser":
    """The flags of `kedge evaluate`."""
    import jsonargparse

    made = jsonargparse.ArgumentParser(
        prog="kedge evaluate",
        usage="kedge evaluate MODEL [MODEL ...] [options]",
        description=DESCRIPTION,
        epilog=EPILOG,
    )
    made.add_argument("models", metavar="MODEL", nargs="+", help=MODEL_HELP)
    made.add_argument(
        "--data",
        type=str | None,
        default=None,
        help="an image folder, parquet files, a folder of $KEDGE_DATA or a hub name; null: the data of the run",
    )
    made.add_argument(
        "--split",
        type=str,
        default="test",
        help="part of the data: test, all, or val (also the images a run held out)",
    )
    made.add_argument(
        "--ood",
        type=str,
        nargs="+",
        default=[],
        metavar="NAME",
        help="data of other kinds, which the models should notice; the name of the data itself means its classes "
        "that the models were not trained on",
    )
    made.add_argument(
        "--corruptions",
        type=str,
        nargs="+",
        default=["all"],
        metavar="NAME",
        help="all, none, or some of gaussian_noise, gaussian_blur, brightness, contrast, pixelate, jpeg_compression",
    )
    made.add_argument("--severities", type=int, nargs="+", default=[1, 2, 3, 4, 5], metavar="N", help="of 1 to 5")
    made.add_argument(
        "--limit", type=int | None, default=None, help="at most so many images, a random subset; null: all of them"
    )
    made.add_argument(
        "--references", type=int | None, default=None, help="references of anchored models to use; null: the whole bank"
    )
    made.add_argument("--seed", type=int, default=0, help="of the subset, the corruptions and the intervals")
    made.add_argument("--batch_size", type=int, default=128, help="images that go through a network at a time")
    made.add_argument(
        "--workers", type=int | None, default=None, help="processes that decode images; null: by the size of the images"
    )
    made.add_argument("--device", type=str, default="auto", help="auto, cpu, cuda, ...")
    made.add_argument("--format", choices=["table", "json", "csv"], default="table", help="how to print the results")
    made.add_argument(
        "--out",
        type=str | None,
        default=None,
        help="folder for results.json and report.html; null: evaluation/ of the run, or here for several; numbered",
    )
    return made


def run(config: "jsonargparse.Namespace") -> int:
    """Evaluate, print and write."""
    sources = find_all(config.models)
    from kedge import evaluation
    from kedge.reporting import render

    models = {name: source.load(config.device) for name, source in sources.items()}
    data, name = load_data(sources, models, config.data, config.split)
    outside = load_outside(models, config.ood, name, data)
    corruptions: Any = config.corruptions
    if corruptions in (["all"], ["none"]):
        corruptions = None if corruptions == ["all"] else ()
    workers = config.workers
    if workers is None:
        workers = default_workers(data)
    announce(models, data, corruptions, config)
    with progress_bar() as tick:
        results = evaluation.evaluate(
            models,
            data,
            corruptions=corruptions,
            severities=config.severities,
            ood=outside or None,
            references=config.references,
            batch_size=config.batch_size,
            workers=workers,
            seed=config.seed,
            limit=config.limit,
            command=command_line("kedge evaluate", parser(), config),
            progress=tick,
        )
    (only, *others) = sources.values()
    beside = only.run or Path() if not others else Path()
    out = Path(config.out) if config.out else free_folder(beside / "evaluation")
    print(render(results, config.format), end="")
    print(f"report: {write(results, out)}", file=sys.stderr)
    return 0


def load_data(
    sources: dict[str, Source], models: Mapping[str, "PixelModel"], name: str | None, split: str
) -> tuple["ImageSet", str]:
    """The images to measure on, in the models' size and with their classes, and the name they were found by.

    Raises:
        ValueError: if no data is named and the models come from no run, or from runs on different data.
    """
    from kedge import data
    from kedge.data.folders import canonical_split

    recipes = {n: source.recipe() for n, source in sources.items()}
    if name is None:
        named = {str(recipe["data"]) for recipe in recipes.values() if "data" in recipe}
        if len(named) != 1:
            seen = f"the runs were trained on {', '.join(sorted(named))}" if named else "the models belong to no run"
            raise ValueError(f"which data? {seen}: say --data NAME")
        (name,) = named
    offered = data.splits(name)
    shape = common_shape(models)
    wanted = canonical_split(split) or split
    recipe = next((r for r in recipes.values() if r.get("data") == name), None)
    if wanted == "val" and "val" not in offered and recipe is not None:
        # Not a split of the data: the images that this run held out of training.
        from kedge.training import Recipe
        from kedge.training.build import load_sets

        images = load_sets(Recipe.from_dict(recipe))[1]
    elif wanted == "test" and "test" not in offered and recipe is not None:
        raise ValueError(
            f"{name} has no test images (it has: {', '.join(offered)}). --split val measures on the images that were "
            "held out of training; for a test divide the folder into train and test before training"
        )
    else:
        if wanted == "test" and offered == ["all"]:
            print(f"{name} is not divided into parts: measuring on all of its images", file=sys.stderr)
            split = "all"
        if split == "all" and recipe is not None:
            print(f"careful: these include the images that {recipe.get('name')} was trained on", file=sys.stderr)
        images = data.load(name, split, image_size=shape[1], channels=shape[0])
    print(f"{images.name} ({images.split}): {images.report.summary()}", file=sys.stderr)
    return with_classes(images, models), name


def common_shape(models: Mapping[str, "PixelModel"]) -> tuple[int, int | None]:
    """(channels, side) to load images in: the largest that a model takes; no side if one takes no squares."""
    shapes = [model.input_shape for model in models.values()]
    for name, model in models.items():
        if len(model.input_shape) != 3:
            raise ValueError(f"{name} takes vectors of shape {model.input_shape}, not images")
    square = all(height == width for _, height, width in shapes)
    return max(shape[0] for shape in shapes), max(shape[1] for shape in shapes) if square else None


def with_classes(images: "ImageSet", models: Mapping[str, "PixelModel"]) -> "ImageSet":
    """The images of the models' classes, in the models' order; unchanged where the names do not fit."""
    names = next((m.class_names for m in models.values() if m.class_names), None)
    if names is None or names == images.class_names or not set(names) <= set(images.class_names):
        return images
    left = [name for name in images.class_names if name not in names]
    if left:
        print(f"left out, not among the models' classes: {', '.join(left)}", file=sys.stderr)
    return images.only_classes(names)


def load_outside(
    models: Mapping[str, "PixelModel"], names: list[str], inside: str, images: "ImageSet"
) -> "dict[str, ImageSet]":
    """Out-of-distribution sets by name; the data's own name stands for its classes that the models do not have."""
    from kedge import data

    channels, side = common_shape(models)
    found = {}
    for name in names:
        offered = data.splits(name)
        outside = data.load(name, "test" if "test" in offered else offered[-1], image_size=side, channels=channels)
        if name == inside:
            others = [c for c in outside.class_names if c not in images.class_names]
            if not others:
                raise ValueError(f"--ood {name}: the models were trained on all classes of {name}; name other data")
            outside = outside.only_classes(others)
            name = f"{name} ({', '.join(others[:5])}{', ...' if len(others) > 5 else ''})"
        found[name] = outside
    return found


def announce(
    models: Mapping[str, "PixelModel"], images: "ImageSet", corruptions: Any, config: "jsonargparse.Namespace"
) -> None:
    """Say before a long evaluation on a CPU what would make it shorter."""
    from kedge.anchoring import AnchoredModel
    from kedge.data.corruptions import NAMES

    kinds = len(NAMES if corruptions is None else corruptions)
    count = min(len(images), config.limit or len(images)) * (1 + kinds * len(config.severities))
    passes = sum(
        count * ((config.references or len(model.references)) if isinstance(model, AnchoredModel) else 1)
        for model in models.values()
        if model.mean.device.type == "cpu" and model.input_shape[-1] > 64
    )
    if passes > LONG:
        print(
            f"{passes:,} images go through networks on the CPU, which takes long; --limit 100, --severities 3 and "
            "--references 2 make it fewer",
            file=sys.stderr,
        )


def default_workers(images: "ImageSet") -> int:
    """No process for images in memory, a few for files."""
    import os

    from kedge.data import TensorSet

    return 0 if isinstance(images, TensorSet) else min(4, os.cpu_count() or 1)


def free_folder(wanted: Path) -> Path:
    """`wanted`, or the first of wanted-2, wanted-3, ... that does not exist: earlier results are kept."""
    free, n = wanted, 2
    while free.exists():
        free, n = wanted.with_name(f"{wanted.name}-{n}"), n + 1
    return free


def write(results: dict[str, Any], out: Path) -> Path:
    """Write results.json and report.html into `out`; the path of the page."""
    from kedge.reporting import write_report, write_results

    write_results(results, out / "results.json")
    return write_report(results, out / "report.html")


def command_line(program: str, made: "jsonargparse.ArgumentParser", config: "jsonargparse.Namespace") -> str:
    """The command that gives `config` again: what differs from the defaults."""
    words = program.split()
    given = config.as_dict()
    for action in made._actions:
        value = given.get(action.dest)
        if action.dest not in given or value is None:
            continue
        values = [str(v) for v in value] if isinstance(value, list) else [str(value)]
        if not action.option_strings:
            words += values
        elif value != action.default:
            words += [action.option_strings[0], *values]
    return shlex.join(words)


@contextmanager
def progress_bar() -> Iterator[Any]:
    """A bar on standard error if that is a terminal; gives the callback (done, total)."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("evaluating")
        yield lambda done, total: bar.update(task, completed=done, total=total)

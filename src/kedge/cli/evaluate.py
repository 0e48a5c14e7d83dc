"""`kedge evaluate`: how far to trust models, as a table and a page."""

import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from kedge import catalog
from kedge.cli.load_data import default_workers, load_data, load_outside, load_training, shifts_of
from kedge.cli.parse import (
    attacks_help,
    check_sets,
    check_words,
    choose_attacks,
    choose_scores,
    fitted_scores,
    groups_help,
    radius,
    separated,
    whole_numbers,
    with_examples,
)
from kedge.cli.ranges import check_values
from kedge.cli.resolve_model import MODELS_HELP, Source, check_weights, find_groups, leaves
from kedge.cli.trained_on import counters
from kedge.cli.unlabelled import add_flags, as_test_images, load_unlabelled, load_validation
from kedge.cli.validation_data import trained_attack
from kedge.epsilon import parse_epsilon, print_epsilon

if TYPE_CHECKING:
    import jsonargparse

DESCRIPTION = """\
Measure how far to trust models: accuracy and calibration on clean, shifted and attacked images, whether they notice
images of other kinds than they were trained on, and what is gained by answering only when confident. Several models
are measured on the same images, side by side.

Prints a table, and writes results.json, results.csv and report.html, one page that opens without a network. What was
measured is kept, part by part: called again, it measures only what is missing; interrupted, it goes on.
"""
EPILOG = """\
examples:
  kedge evaluate mine                                  clean and corrupted test images
  kedge evaluate A B --ood mnist,textures --near cifar100 --attack pgd
  kedge evaluate mine --limit 500 --severities 3       a quick look
  kedge evaluate old=a0,a1,a2 new=b0,b1,b2             three seeds each: mean, spread, paired tests
  kedge evaluate a "mean(a,b,c)"                       a model beside the ensemble of three
  kedge evaluate mine --unlabelled photos              how often it is right on images without labels, about

Lists are separated by spaces or commas. The table, JSON or CSV goes to standard output, everything else to standard
error. Exit status: 0; 3 if some parts could not be measured (their cells say why); 1 if nothing could."""


def parser() -> "jsonargparse.ArgumentParser":
    """The flags of `kedge evaluate`."""
    made = with_examples("kedge evaluate", "MODEL [MODEL ...]", DESCRIPTION, EPILOG)
    add = made.add_argument
    several: dict[str, Any] = {"type": str, "nargs": "+", "metavar": "NAME"}
    add("models", metavar="MODEL", nargs="+", help=MODELS_HELP)
    add(
        "--weights",
        type=str | None,
        default=None,
        metavar="FILE",
        help="a file with the weights of the model timm/NAME (safetensors, or a torch file), in place of the library's",
    )
    add(
        "--data",
        type=str | None,
        default=None,
        help="an image folder, parquet files, a folder of $KEDGE_DATA or a hub name; null: the data of the run",
    )
    add(
        "--split",
        type=str | None,
        default=None,
        help="part of the data: test, all, or val (also the images a run held out); null: test, and with --unlabelled "
        "the validation images",
    )
    add_flags(add)
    add(
        "--shift",
        **several,
        default=None,
        help=f"corruptions made here, by how many: {groups_help()}; single names; the folder of a published set "
        "(CIFAR-10-C, ImageNet-C, -R, -A, ...); or none; null: corruptions, none with --unlabelled",
    )
    add("--severities", type=str, nargs="+", default=["1", "2", "3", "4", "5"], metavar="N", help="of 1 to 5")
    add(
        "--ood",
        **several,
        default=[],
        help="data of other kinds, which the models should notice, also a folder of images without classes; the name "
        "of the data itself means its classes that the models were not trained on",
    )
    add("--near", **several, default=[], help="the same, close in kind; --ood is then called far, with means over each")
    add(
        "--equalise",
        action="store_true",
        help="pass images of all sets through the same resizing and JPEG step before telling them apart",
    )
    add(
        "--scores",
        **several,
        default=["all"],
        help="what to tell them by: all (masked only where a run was masked to uniform), or some of "
        f"{', '.join(catalog.ordered('scores'))}; pytorch-ood:NAME (needs kedge[ood])",
    )
    add(
        "--train",
        type=str | None,
        default=None,
        help=f"training images for the scores that learn ({fitted_scores()}); null: those of the data; none",
    )
    add(
        "--attack",
        **several,
        default=["none"],
        help=f"{attacks_help()}, curve (accuracy against eps, by pgd), or none",
    )
    add(
        "--eps",
        type=str | None,
        default=None,
        help="radius of the attacks in pixel units, such as 8/255; null: what the models were trained against, else "
        "8/255 up to 64 px, 4/255 above; 0.5 for l2",
    )
    add("--norm", choices=["linf", "l2"], default="linf", help="of the attacks")
    add("--steps", type=int, default=20, help="of PGD")
    add("--attack_images", type=int, default=1000, help="at most so many images are attacked, a random subset")
    add(
        "--frost_textures",
        type=str | None,
        default=None,
        help="folder of pictures for frost, of the published ones frost1 to frost5; null: made by kedge, about as hard "
        "as those (docs: Corruptions)",
    )
    add("--risk", type=float, default=0.05, help="the share of wrong answers for which to say what can be answered")
    add(
        "--limit",
        type=int | None,
        default=None,
        help="at most so many images of each set, a random subset; of training "
        "images for scores fewer too, but 1,000 or more; null: all",
    )
    add(
        "--references",
        type=int | Literal["adaptive", "blt"] | None,
        default=None,
        help="references of anchored models to use; adaptive: few for most images; blt: for each image the one that "
        "fits it best (models trained with --residuals); null: the whole bank",
    )
    add("--seed", type=int, default=0, help="of the subset, the corruptions, the attacks and the intervals")
    add("--batch_size", type=int, default=128, help="images that go through a network at a time")
    add(
        "--workers", type=int | None, default=None, help="processes that decode images; null: by the size of the images"
    )
    add("--device", type=str, default="auto", help="auto, cpu, cuda, ...")
    add("--format", choices=["table", "json", "csv"], default="table", help="how to print the results")
    add(
        "--out",
        type=str | None,
        default=None,
        help="folder for the results; null: evaluation/ of the run, or here for several; numbered",
    )
    add("--fresh", action="store_true", help="measure everything anew, whatever was kept")
    return made


def _trained_eps(sources: Mapping[str, Source], norm: str) -> float | None:
    """The radius that the runs were trained against, where those that were agree on one."""
    trained = [attack for source in sources.values() if (attack := trained_attack(source.recipe())).get("eps")]
    found = {parse_epsilon(attack["eps"]) for attack in trained if attack.get("norm", "linf") == norm}
    if len(found) > 1:
        words = " and ".join(map(print_epsilon, sorted(found)))
        print(f"the models were trained against {words}: say --eps", file=sys.stderr)
    if len(found) != 1:
        return None
    (eps,) = found
    print(f"--eps {print_epsilon(eps)}: what the models were trained against", file=sys.stderr)
    return eps


def run(config: "jsonargparse.Namespace") -> int:
    """Evaluate, print and write; 3 where some parts could not be measured."""
    started = time.perf_counter()
    check_values(config)
    if not 0 < config.risk < 1:
        raise ValueError(f"--risk must be between 0 and 1, got {config.risk:g}: 0.05 asks how many can be 95 % right")
    sources, groups = find_groups(config.models)
    check_weights(sources.values(), config.weights)
    single = leaves(sources)
    attacks = separated(config.attack)
    eps = radius(config.eps, config.norm)
    if eps is None and attacks != ["none"]:
        eps = _trained_eps(single, config.norm)
    severities = whole_numbers(config.severities)
    check_words(attacks, severities)
    check_sets(separated(config.ood), separated(config.near))
    chosen = choose_scores(separated(config.scores), [each.recipe() for each in single.values() if each.saved])
    if config.references == "adaptive" and (separated(config.ood) or separated(config.near)):
        print(
            "--references adaptive makes the score disagreement noisier: trust the others, or ask all", file=sys.stderr
        )
    unlabelled = separated(config.unlabelled)
    if config.validation is not None and not unlabelled:
        raise ValueError("--validation is for --unlabelled FOLDER, which is missing; --data names what to measure on")
    shift = shifts_of(separated(config.shift or ["none" if unlabelled else "corruptions"]))
    from kedge import evaluation
    from kedge.reporting import render

    models = {name: source.load(config.device, config.weights) for name, source in sources.items()}
    if config.references == "blt":
        _check_residuals(models)
    every = config.limit is None  # else most images are not looked at
    asked = load_unlabelled(models, unlabelled, decode=every)
    validation = load_validation(sources, models, config.validation) if asked else {}
    data = as_test_images(validation) if asked and config.data is None and config.split is None else None
    name = config.validation or str(next(iter(single.values())).recipe().get("data"))
    if data is None:
        data, name = load_data(single, models, config.data, config.split or "test", decode=every)
    near = separated(config.near)
    outside = load_outside(models, [*separated(config.ood), *near], name, data, config.equalise, decode=every)
    workers = default_workers(data) if config.workers is None else config.workers
    (only, *others) = sources.values()
    beside = only.run or Path() if not others else Path()
    base = Path(config.out) if config.out else beside / "evaluation"
    kept_in = None if config.fresh else base / "parts"
    try:
        with progress_bar() as (tick, say):
            how: dict[str, Any] = {
                "references": config.references,
                "batch_size": config.batch_size,
                "workers": workers,
                "seed": config.seed,
                "limit": config.limit,
                "parts": kept_in,
                "progress": tick,
                "notice": say,
            }
            counts = {
                n: count for n, images in validation.items() for count in counters({n: sources[n]}, images).values()
            }
            estimates = (
                evaluation.estimate_accuracy(models, validation, asked, trained_on=counts, **how) if asked else {}
            )
            results = evaluation.evaluate(
                models,
                data,
                shift=shift,
                severities=severities,
                frost_textures=config.frost_textures,
                ood=outside or None,
                near=[found for found in outside if found in near or found.partition(" (")[0] in near],
                equalise=config.equalise,
                scores=chosen,
                train=load_training(single, name, data, config.train, decode=every) if outside else None,
                attacks=choose_attacks(attacks, eps, config, data),
                risk=config.risk,
                groups=groups,
                trained_on=counters(sources, data),
                command=command_line("kedge evaluate", parser(), config),
                **how,
            )
            results = evaluation.with_estimates(results, estimates) if asked else results
    except KeyboardInterrupt:
        where = f"; what was measured is kept in {kept_in}, the same command goes on" if kept_in else ""
        raise KeyboardInterrupt(f"interrupted{where}") from None
    # The files first: where whoever reads the table goes away, as `head` does, they are there.
    page = write(results, base if config.out else free_folder(base, "results.json"))
    print(render(results, config.format), end="")
    kept = f", {results['parts_found']} parts of it kept from before" if results["parts_found"] else ""
    memory = f", {results['peak_memory_mb']:,.0f} MB of memory at most" if results["peak_memory_mb"] else ""
    print(f"{time.perf_counter() - started:.0f} s{memory}{kept}", file=sys.stderr)
    print(f"report: {page}", file=sys.stderr)
    for name, model in results["models"].items():
        for error in model["errors"]:
            print(f"{name}, {error['part']}: {error['message']}", file=sys.stderr)
    return 0 if results["complete"] else 3


def _check_residuals(models: Mapping[str, Any]) -> None:
    from kedge.anchoring.protocol import as_model

    lacking = [name for name, model in models.items() if as_model(model).count() and model.residuals is None]
    if lacking:
        raise ValueError(
            f"--references blt compares each image with differences between images that were kept in training, and "
            f"{' and '.join(lacking)} kept none: train with --residuals 1000"
        )


def free_folder(wanted: Path, holding: str = "") -> Path:
    """`wanted`, or the first of wanted-2, wanted-3, ... that is not there, or does not hold the file `holding`."""
    free, n = wanted, 2
    while (free / holding).exists():
        free, n = wanted.with_name(f"{wanted.name}-{n}"), n + 1
    return free


def write(results: dict[str, Any], out: Path) -> Path:
    """Write results.json, results.csv and report.html into `out`; the path of the page.

    All are there before the first gets its name, and results.json, by which a folder counts as taken, gets it last.
    """
    from kedge.files import sweep, write_together
    from kedge.reporting import as_csv
    from kedge.reporting.files import results_text
    from kedge.reporting.page import page

    sweep(out)
    texts = {"results.csv": as_csv(results), "report.html": page(results), "results.json": results_text(results)}
    write_together({out / name: text for name, text in texts.items()})
    return out / "report.html"


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
            words += [action.option_strings[0], *([] if value is True else values)]
    return shlex.join(words)


@contextmanager
def progress_bar(
    what: str = "evaluating",
) -> Iterator[tuple[Callable[[int, int], None] | None, Callable[[str], None]]]:
    """A bar on standard error if that is a terminal: gives the callback (done, total), and one for sentences."""
    if not sys.stderr.isatty():
        yield None, lambda words: print(words, file=sys.stderr, flush=True)
        return
    from rich.console import Console
    from rich.progress import Progress

    from kedge.printable import printable_lines

    with Progress(console=Console(file=getattr(sys.stderr, "raw", sys.stderr)), transient=True) as bar:
        task = bar.add_task(what)
        yield (
            lambda done, total: bar.update(task, completed=done, total=total),
            lambda words: bar.console.print(printable_lines(words), highlight=False, markup=False),
        )

"""`kedge reproduce`: the experiments of a paper, run again and set beside its figures."""

import gc
import json
import shlex
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedge.cli.parse import with_examples
from kedge.cli.ranges import check_values
from kedge.cli.reproduce_claims import reproduce_claims
from kedge.experiments.experiment import Experiment, experiment_names, load_experiment
from kedge.own_code import ALLOW_CODE, allow_code, working_folder_first

if TYPE_CHECKING:
    import jsonargparse

    from kedge.experiments.running import Planned

DESCRIPTION = """\
Run an experiment of a paper again: train its variants with several seeds, evaluate all of them in the same way, and set
our numbers beside the paper's. Called again, it does only what is missing; interrupted, it goes on.

Writes results.json, table.md and report.html, one page that opens without a network.
"""
EPILOG = """\
examples:
  kedge reproduce                                      lists the experiments
  kedge reproduce digits-masking --jobs 2              a quarter of an hour on a laptop, needs no data
  kedge reproduce claims --part training --jobs 2      each method against its control, in one table
  kedge reproduce cifar10-masking --scale laptop --seeds 3 --jobs 2
  kedge reproduce cifar10-masking --scale paper --part 2/4 --out /shared/masking      one of four machines
  torchrun --nproc-per-node 8 -m kedge reproduce imagenet --scale paper --devices 8   each run on eight GPUs

Exit status: 0; 3 if some runs are missing (the tables say which); 1 if there is nothing to show."""


def parser() -> "jsonargparse.ArgumentParser":
    """The flags of `kedge reproduce`."""
    made = with_examples("kedge reproduce", "[NAME]", DESCRIPTION, EPILOG)
    add = made.add_argument
    add(
        "name",
        metavar="NAME",
        nargs="?",
        type=str | None,
        default=None,
        help="an experiment, a YAML file of one, or claims",
    )
    add("--scale", type=str, default="laptop", help="how large: paper, gpu-hour, laptop, or what the file has")
    add("--seeds", type=str | None, default=None, help="how many, or which, such as 0,1,2; null: as the file says")
    add("--variants", type=str | None, default=None, help="only these, separated by commas; null: all")
    add("--data", type=str | None, default=None, help="the data set, in place of the one that the file names")
    add("--out", type=str | None, default=None, help="folder of runs and results; null: reproduce/NAME-SCALE")
    add("--jobs", type=int, default=1, help="processes that train and evaluate at once on this machine")
    add(
        "--part",
        type=str | None,
        default=None,
        help="K/N: only each Nth run from the Kth on, to share them out; of claims: training or measuring",
    )
    add("--only", type=str | None, default=None, help="of claims: only these, separated by commas; null: all")
    add("--device", type=str, default="auto", help="auto, cpu, cuda or mps")
    add("--devices", type=int, default=1, help="devices that train one run together, on each node; started by torchrun")
    add("--nodes", type=int, default=1, help="nodes that train one run together")
    add("--batch_size", type=int, default=256, help="images that go through a network at a time, in the evaluation")
    add("--allow_code", action="store_true", help=ALLOW_CODE)
    add("--print", action="store_true", dest="printing", help="list the runs and their recipes, and do nothing else")
    return made


def run(config: "jsonargparse.Namespace") -> int:
    """Train, evaluate, compare; 3 where runs are missing."""
    if config.allow_code:
        working_folder_first()
    with allow_code(config.allow_code):
        return _run(config)


def _run(config: "jsonargparse.Namespace") -> int:
    if config.name is None:
        print(listed())
        return 0
    if config.name == "claims":
        return reproduce_claims(
            config.part,
            None if config.only is None else [name.strip() for name in config.only.split(",") if name.strip()],
            None if config.seeds is None else seeds_of(config.seeds, 0),
            Path(config.out or Path("reproduce") / "-".join(word for word in ("claims", config.part) if word)),
            config.jobs,
            config.printing,
        )
    check_values(config)
    experiment = load_experiment(config.name)
    seeds = seeds_of(config.seeds, experiment.seeds)
    variants = None if config.variants is None else [v.strip() for v in config.variants.split(",") if v.strip()]
    experiment.variants_at(config.scale, variants)  # a wrong name is an error before anything slow is imported
    part, parts = part_of(config.part)
    if config.jobs > 1 and config.devices * config.nodes > 1:
        raise ValueError(
            "--jobs trains several runs at once, --devices and --nodes one run on several: take one of them"
        )
    from kedge.experiments.running import first_here, plan

    out = Path(config.out or Path("reproduce") / f"{experiment.name}-{config.scale}")
    places = [config.data] if config.data else experiment.data
    changes = {"device": config.device, "devices": config.devices, "nodes": config.nodes}
    if config.printing:
        print(_shown(plan(experiment, config.scale, seeds, out, " or ".join(places), variants, changes)), end="")
        return 0
    planned = plan(experiment, config.scale, seeds, out, first_here(places), variants, changes)
    # By runs: what evaluates the run of another variant stays with it, or two processes would train it; so does what
    # starts from it.
    runs = {each.run for each in planned}
    first = list(dict.fromkeys(each.start or each.run for each in planned))
    mine = [each for each in planned if first.index(each.start or each.run) % parts == part - 1]
    print(
        f"{experiment.title}\n{len(runs)} runs, {len({each.run for each in mine})} of them here, in {out}", flush=True
    )
    failed: list[str] | None
    if config.jobs > 1:
        failed = _in_processes(config, out, part, parts)
    else:
        failed = _run_all(mine, config)
        if failed is None:
            return 0
    return _write(experiment, config, planned, out, failed, changes)


def _shown(planned: "list[Planned]") -> str:
    """What would be run, as YAML."""
    import yaml

    shown: dict[str, Any] = {}
    for each in planned:
        own = {**each.variant.recipe, "data": each.recipe.data, "seed": each.seed}
        if each.start is not None:
            own["init_from"] = each.recipe.init_from
        trained = {"recipe": own} if each.run.name == each.name else {"evaluates": each.run.name}
        shown[each.name] = {**trained, "evaluation": each.variant.evaluation}
    plain = json.loads(json.dumps(shown))  # else YAML refers from one to the other
    return str(yaml.safe_dump(plain, sort_keys=False, width=110))


def listed() -> str:
    """The experiments, with their scales."""
    rows = [(name, load_experiment(name)) for name in experiment_names()]
    width = max(len(name) for name, _ in rows)
    lines = [f"  {name:<{width}}  {e.title} ({', '.join(e.scales)})" for name, e in rows]
    return "\n".join(["kedge reproduce NAME, where NAME is one of", *lines])


def seeds_of(given: str | None, usual: int) -> list[int]:
    """`3` is 0, 1, 2; `0,4` is those. Raises ValueError for anything else."""
    if given is None:
        return list(range(usual))
    try:
        numbers = [int(word) for word in given.split(",")]
    except ValueError:
        numbers = [-1]
    if len(numbers) == 1 and numbers[0] > 0 and "," not in given:
        return list(range(numbers[0]))
    if min(numbers) < 0 or len(set(numbers)) < len(numbers) or "," not in given:
        raise ValueError(f"--seeds is a number of seeds, or different ones such as 0,1,2, not {given!r}")
    return numbers


def part_of(given: str | None) -> tuple[int, int]:
    """`2/4` as (2, 4). Raises ValueError for anything else."""
    if given is None:
        return 1, 1
    first, slash, last = given.partition("/")
    if not (slash and first.isdigit() and last.isdigit() and 1 <= int(first) <= int(last)):
        raise ValueError(f"--part is K/N with K from 1 to N, such as 2/4, not {given!r}")
    return int(first), int(last)


def _run_all(mine: "list[Planned]", config: "jsonargparse.Namespace") -> list[str] | None:
    """Train and evaluate one after another; what went wrong, in words. None in all processes of a run but the first."""
    from kedge.experiments.running import train_one
    from kedge.experiments.together import joined

    said: list[str] = []
    together = config.devices * config.nodes > 1
    with joined(config.devices, config.nodes) as first:
        for number, each in enumerate(mine, 1):
            started, before = time.perf_counter(), each.trained
            with _noted(each, said):
                train_one(each, progress=sys.stdout.isatty())
                if not before and first:
                    seconds = time.perf_counter() - started
                    print(f"{each.name} ({number} of {len(mine)}): trained in {seconds:.0f} s", flush=True)
                if not together:
                    _evaluate(each, config)
            gc.collect()  # a trainer and its run refer to each other, and hold the images
    if not first:
        return None
    for each in mine if together else []:  # the others need not wait for that
        with _noted(each, said):
            if each.trained:
                _evaluate(each, config)
    return said


@contextmanager
def _noted(each: "Planned", said: list[str]) -> Iterator[None]:
    """A run that fails leaves the others; a disk that is full stops all."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted: the same command goes on") from None
    except (ValueError, RuntimeError, FileExistsError) as error:
        said.append(f"{each.name}: {error}")
        print(said[-1], file=sys.stderr, flush=True)


def _evaluate(each: "Planned", config: "jsonargparse.Namespace") -> None:
    from kedge.experiments.evaluating import evaluate_one

    record = evaluate_one(each, batch_size=config.batch_size, device=config.device)
    found = record["measures"]
    shown = ", ".join(f"{m} {found[m]:.1f} %" for m in ("clean accuracy", "corrupted accuracy") if m in found)
    print(f"{each.name}: {shown}", flush=True)


def _in_processes(config: "jsonargparse.Namespace", out: Path, part: int, parts: int) -> list[str]:
    """Share the runs of this part out over processes of one CPU share (and GPU) each."""
    import torch

    from kedge.experiments.side_by_side import shares, side_by_side

    mine = shares(config.jobs, part, parts)
    commands = [_command(config, jobs=1, part=share, out=str(out))[1:] for share in mine]
    logs = [out / f"job-{share.partition('/')[0]}.log" for share in mine]
    print(f"{config.jobs} processes; what they say is in {out}/job-*.log", flush=True)
    seen = set((out / "measured").glob("*.json"))

    def tick() -> None:
        for path in sorted(set((out / "measured").glob("*.json")) - seen):
            print(f"{path.stem}: measured", flush=True)
            seen.add(path)

    try:
        said = side_by_side(commands, logs, tick, well=(0, 3), gpus=torch.cuda.device_count())
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted: the same command goes on") from None
    for words in said:
        print(words, file=sys.stderr, flush=True)
    return said


def _write(
    experiment: Experiment,
    config: "jsonargparse.Namespace",
    planned: "list[Planned]",
    out: Path,
    failed: list[str],
    changes: dict[str, Any],
) -> int:
    """Write the tables of all that was measured in the folder, whatever part of it this call was for."""
    from kedge.experiments.evaluating import all_measured, kept_record
    from kedge.experiments.reproducing import gathered
    from kedge.reporting.reproduction import reproduction_markdown, write_reproduction

    planned = all_measured(experiment, config.scale, planned, out, changes)
    records = {each.name: found for each in planned if (found := kept_record(each)) is not None}
    results = gathered(experiment, config.scale, planned, records, shlex.join(_command(config, jobs=1)))
    paths = write_reproduction(results, out)
    print()
    print(reproduction_markdown(results))
    print(f"report: {paths[-1]}")
    return 3 if failed or results["unfinished"] else 0


def _command(config: "jsonargparse.Namespace", **changed: Any) -> list[str]:
    """The command line that gives `config` again, with some options changed."""
    from kedge.cli.evaluate import command_line

    given = config.clone()
    for key, value in changed.items():
        setattr(given, key, value)
    return shlex.split(command_line("kedge reproduce", parser(), given))

"""`kedge reproduce`: the experiments of a paper, run again and set beside its figures."""

import gc
import json
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedge import own_code
from kedge.cli.flags import changed, command_line, command_words
from kedge.cli.reproduce_claims import reproduce_claims
from kedge.experiments.experiment import Experiment, experiment_names, load_experiment

if TYPE_CHECKING:
    from kedge.experiments.running import Planned

OF_CLAIMS = ("part", "only", "seeds", "out", "jobs", "print_")  # the options that claims take
INTERRUPTED = "interrupted: the same command goes on"


def run(
    name: str | None = None,
    *,
    scale: str = "laptop",
    seeds: str | None = None,
    variants: str | None = None,
    data: str | None = None,
    out: str | None = None,
    jobs: int = 1,
    part: str | None = None,
    only: str | None = None,
    known: str | None = None,
    precision: str | None = None,
    device: str = "auto",
    devices: int = 1,
    nodes: int = 1,
    batch_size: int = 256,
    allow_code: bool = False,
    print_: bool = False,
) -> int:
    """Run an experiment of a paper again.

    Its variants are trained with several seeds, all of them evaluated in the same way, and our numbers set beside the
    paper's. Called again, it does only what is missing; interrupted, it goes on.

    Writes results.json, table.md and report.html, one page that opens without a network.

    Args:
        name (NAME): an experiment, a YAML file of one, or claims
        scale: how large: paper, gpu-hour, laptop, or what the file has
        seeds: how many, or which, such as 0,1,2; null: as the file says
        variants: only these, separated by commas; null: all
        data: the data set, in place of the one that the file names
        out: folder of runs and results; null: reproduce/NAME-SCALE
        jobs: processes that train and evaluate at once on this machine
        part: K/N: only each Nth run from the Kth on, to share them out; of claims: training or measuring
        only: of claims: only these, separated by commas; null: all
        known: a results.json of the same experiment: runs that it has, with the same recipe, are not done again
        precision: 32, bf16 or 16 in place of the scale's own, for a processor that has no bf16
        device: auto, cpu, cuda or mps
        devices: devices that train one run together, on each node; started by torchrun
        nodes: nodes that train one run together
        batch_size: images that go through a network at a time, in the evaluation
        allow_code: {ALLOW_CODE}
        print_: list the runs and their recipes, and do nothing else

    Examples:
        kedge reproduce                                      lists the experiments
        kedge reproduce digits-masking --jobs 2              a quarter of an hour on a laptop, needs no data
        kedge reproduce claims --part training --jobs 2      each method against its control, in one table
        kedge reproduce cifar10-masking --scale laptop --seeds 3 --jobs 2
        kedge reproduce cifar10-masking --scale paper --part 2/4 --out /shared/masking      one of four machines
        torchrun --nproc-per-node 8 -m kedge reproduce imagenet --scale paper --devices 8   each run on eight GPUs

    Exit status: 0; 3 if some runs are missing (the tables say which); 1 if there is nothing to show.
    """
    options = locals()
    if name is None:
        print(listed())
        return 0
    _refuse_options_of_others(name == "claims", options)
    if allow_code:
        own_code.working_folder_first()
    with own_code.allow_code(allow_code):
        if name == "claims":
            folder = Path(out or Path("reproduce") / "-".join(word for word in ("claims", part) if word))
            some = None if seeds is None else seeds_of(seeds, 0)
            command = command_line("reproduce", {**options, "jobs": 1, "out": None})
            return reproduce_claims(part, _names(only), some, folder, jobs, print_, command)
        experiment = load_experiment(name)
        if precision is not None and scale in experiment.scales:
            ours = {**(experiment.scales[scale] or {}), "precision": precision}
            experiment = replace(experiment, scales={**experiment.scales, scale: ours})
            experiment.check()
        chosen = _names(variants)
        experiment.variants_at(scale, chosen)  # a wrong name is an error before anything slow is imported
        k, n = part_of(part)
        together = devices * nodes > 1
        if jobs > 1 and together:
            raise ValueError(
                "--jobs trains several runs at once, --devices and --nodes one run on several: take one of them"
            )
        from kedge.experiments.evaluating import check_judging, earlier_record, read_results
        from kedge.experiments.running import first_here, plan

        folder = Path(out or Path("reproduce") / f"{experiment.name}-{scale}")
        places = [data] if data else experiment.data
        place = " or ".join(places) if print_ else first_here(places)
        changes = {"device": device, "devices": devices, "nodes": nodes}
        before = None if known is None else read_results(Path(known), experiment)
        planned = plan(experiment, scale, seeds_of(seeds, experiment.seeds), folder, place, chosen, changes)
        if print_:
            print(_as_yaml(planned), end="")
            return 0
        check_judging(planned)
        absent = [each for each in planned if before is None or earlier_record(each, before) is None]
        starts = {each.start for each in absent}  # a record has no model to start from
        absent = [each for each in planned if each in absent or each.run in starts]
        # By runs: what evaluates the run of another variant stays with it, or two processes would train it; so does
        # what starts from it.
        runs = {each.run for each in absent}
        first = list(dict.fromkeys(each.start or each.run for each in absent))
        mine = [each for each in absent if first.index(each.start or each.run) % n == k - 1]
        here = len({each.run for each in mine})
        again = f"; {len(planned) - len(absent)} measured before" if before else ""
        print(f"{experiment.title}\n{len(runs)} runs, {here} of them here, in {folder}{again}", flush=True)
        failed: list[str] | None
        if jobs > 1:
            failed = _in_processes(options, folder, k, n)
        else:
            failed = _run_all(mine, devices, nodes, batch_size=batch_size, device=device)
            if failed is None:
                return 0
        return _write(experiment, options, planned, folder, failed, changes, before)


def _refuse_options_of_others(claims: bool, options: Mapping[str, Any]) -> None:
    """Raise ValueError for an option that claims do not take, or that only claims take: it would do nothing."""
    for name in changed(run, options):
        if name == "only" if not claims else name not in (*OF_CLAIMS, "name"):
            whose = "is of experiments; claims take" if claims else "is of claims; experiments take"
            others = [each for each in OF_CLAIMS if claims or each != "only"]
            rest = "" if claims else " and more (--help)"
            words = ", ".join(f"--{each.rstrip('_')}" for each in others)
            raise ValueError(f"--{name} {options[name]} {whose} {words}{rest}")


def _as_yaml(planned: "list[Planned]") -> str:
    """What would be run, as YAML."""
    import yaml

    entries: dict[str, Any] = {}
    for each in planned:
        own = {**each.variant.recipe, "data": each.recipe.data, "seed": each.seed}
        if each.start is not None:
            own["init_from"] = each.recipe.init_from
        trained = {"recipe": own} if each.run.name == each.name else {"evaluates": each.run.name}
        entries[each.name] = {**trained, "evaluation": each.variant.evaluation}
    plain = json.loads(json.dumps(entries))  # else YAML refers from one to the other
    return str(yaml.safe_dump(plain, sort_keys=False, width=110))


def _names(text: str | None) -> list[str] | None:
    """The names that commas separate; None without any text."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def listed() -> str:
    """The experiments, with their scales."""
    rows = [(name, load_experiment(name)) for name in experiment_names()]
    width = max(len(name) for name, _ in rows)
    lines = [f"  {name:<{width}}  {e.title} ({', '.join(e.scales)})" for name, e in rows]
    return "\n".join(["kedge reproduce NAME, where NAME is one of", *lines])


def seeds_of(text: str | None, usual: int) -> list[int]:
    """`3` is 0, 1, 2; `0,4` is those. Raises ValueError for anything else."""
    if text is None:
        return list(range(usual))
    try:
        numbers = [int(word) for word in text.split(",")]
    except ValueError:
        numbers = [-1]
    if len(numbers) == 1 and numbers[0] > 0 and "," not in text:
        return list(range(numbers[0]))
    if min(numbers) < 0 or len(set(numbers)) < len(numbers) or "," not in text:
        raise ValueError(f"--seeds is a number of seeds, or different ones such as 0,1,2, not {text!r}")
    return numbers


def part_of(text: str | None) -> tuple[int, int]:
    """`2/4` as (2, 4). Raises ValueError for anything else."""
    if text is None:
        return 1, 1
    first, slash, last = text.partition("/")
    if not (slash and first.isdigit() and last.isdigit() and 1 <= int(first) <= int(last)):
        raise ValueError(f"--part is K/N with K from 1 to N, such as 2/4, not {text!r}")
    return int(first), int(last)


def _run_all(mine: "list[Planned]", devices: int, nodes: int, **how: Any) -> list[str] | None:
    """Train and evaluate one after another; what went wrong, in words. None in all processes of a run but the first."""
    from kedge.experiments.running import train_one
    from kedge.experiments.together import joined

    faults: list[str] = []
    together = devices * nodes > 1
    with joined(devices, nodes) as first:
        for number, each in enumerate(mine, 1):
            started, before = time.perf_counter(), each.trained
            with _noted(each, faults):
                train_one(each, progress=sys.stdout.isatty())
                if not before and first:
                    seconds = time.perf_counter() - started
                    print(f"{each.name} ({number} of {len(mine)}): trained in {seconds:.0f} s", flush=True)
                if not together:
                    _evaluate(each, **how)
            gc.collect()  # a trainer and its run refer to each other, and hold the images
    if not first:
        return None
    for each in mine if together else []:  # the others need not wait for that
        with _noted(each, faults):
            if each.trained:
                _evaluate(each, **how)
    return faults


@contextmanager
def _noted(each: "Planned", faults: list[str]) -> Iterator[None]:
    """A run that fails leaves the others; a disk that is full stops all."""
    try:
        yield
    except KeyboardInterrupt:
        raise KeyboardInterrupt(INTERRUPTED) from None
    except (ValueError, RuntimeError, FileExistsError) as error:
        faults.append(f"{each.name}: {error}")
        print(faults[-1], file=sys.stderr, flush=True)


def _evaluate(each: "Planned", **how: Any) -> None:
    from kedge.experiments.evaluating import evaluate_one

    measures = evaluate_one(each, **how)["measures"]
    first = ("clean accuracy", "corrupted accuracy")
    print(f"{each.name}: {', '.join(f'{m} {measures[m]:.1f} %' for m in first if m in measures)}", flush=True)


def _in_processes(options: Mapping[str, Any], out: Path, part: int, parts: int) -> list[str]:
    """Share the runs of this part out over processes of one CPU share (and GPU) each."""
    import torch

    from kedge.experiments.side_by_side import shares, side_by_side

    mine = shares(options["jobs"], part, parts)
    alone = {**options, "jobs": 1, "out": str(out)}
    commands = [command_words("reproduce", {**alone, "part": share}) for share in mine]
    logs = [out / f"job-{share.partition('/')[0]}.log" for share in mine]
    print(f"{len(mine)} processes; what they say is in {out}/job-*.log", flush=True)
    measured = set((out / "measured").glob("*.json"))

    def tick() -> None:
        for path in sorted(set((out / "measured").glob("*.json")) - measured):
            print(f"{path.stem}: measured", flush=True)
            measured.add(path)

    try:
        faults = side_by_side(commands, logs, tick, well=(0, 3), gpus=torch.cuda.device_count())
    except KeyboardInterrupt:
        raise KeyboardInterrupt(INTERRUPTED) from None
    for words in faults:
        print(words, file=sys.stderr, flush=True)
    return faults


def _write(
    experiment: Experiment,
    options: Mapping[str, Any],
    planned: "list[Planned]",
    out: Path,
    failed: list[str],
    changes: dict[str, Any],
    before: dict[str, Any] | None,
) -> int:
    """Write the tables of all that was measured, in the folder or before, whatever part of it this call was for."""
    from kedge.experiments.evaluating import all_measured
    from kedge.experiments.reproducing import gathered
    from kedge.reporting.reproduction import reproduction_markdown, write_reproduction

    scale, command = options["scale"], command_line("reproduce", {**options, "jobs": 1})
    planned, records = all_measured(experiment, scale, planned, out, changes, before)
    if not records and not failed:  # this part has no run of its own, and others are not done yet
        print(f"nothing of {experiment.name} has been measured yet")
        return 3
    results = gathered(experiment, scale, planned, records, command)
    paths = write_reproduction(results, out)
    print(f"\n{reproduction_markdown(results)}\nreport: {paths[-1]}")
    return 3 if failed or results["unfinished"] else 0

"""`kedge reproduce claims`: each method against its control, with a criterion that it passes or not, in one table."""

from collections.abc import Sequence
from pathlib import Path

__all__ = ["reproduce_claims"]


def reproduce_claims(
    part: str | None,
    only: Sequence[str] | None,
    seeds: Sequence[int] | None,
    out: Path,
    jobs: int,
    printing: bool,
    command: str,
) -> int:
    """Run claims and write results.json and table.md in `out`; the exit status, 3 where some are missing.

    Other claims that results.json has stay in it and in the table; what is printed are those that were asked for.

    Args:
        part: "training" or "measuring"; None: both.
        only: the names of some; None: all of the part.
        seeds: None: as many as each claim says.
        jobs: processes at once.
        printing: list what would be run, and do nothing else.
        command: what the results say that they come from.
    """
    from kedge.claims import claim, claims_of
    from kedge.claims._running import missing_data, run_tasks, tasks
    from kedge.claims._table import another_text, joined, recorded, results_of, table_markdown, write_results

    names = claims_of(part, only)
    todo = tasks(names, seeds, out)
    if printing:
        print("\n".join(f"{task.name}, {task.variant}, seed {task.seed}" for task in todo))
        return 0
    before = recorded(out)
    missing = {name: what for name in names if (what := missing_data(claim(name))) is not None}
    for name, what in missing.items():
        print(f"{name}: left out, {what} is not here (KEDGE_DATA names the folder of data sets)", flush=True)
    print(f"{len(names)} claims, {len(todo)} runs, in {out}", flush=True)
    failed = run_tasks([task for task in todo if task.name not in missing], jobs, lambda line: print(line, flush=True))
    results = results_of(todo, command)
    whole = joined(results, before)
    paths = write_results(whole, out)
    print(f"\n{table_markdown(results)}")
    for name in another_text(whole):
        print(f"{name}: recorded by an earlier text of the claim; measure it anew with --only {name}")
    kept = sum("recorded" in each for each in whole["claims"])
    count = len(whole["claims"])
    print(
        f"table: {paths[-1]}"
        + (f" ({count} claims, {count - kept} of this call and {kept} recorded before)" if kept else "")
    )
    return 3 if failed or missing else 0

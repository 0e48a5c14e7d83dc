"""What runs of several variants and seeds gave, as tables."""

from typing import Any

from benchmarks.side_by_side import table
from kedge.experiments.comparing import comparison
from kedge.experiments.experiment import Experiment
from kedge.experiments.measures import MEASURES
from kedge.reporting import reproduction

Row = dict[str, Any]
Runs = dict[str, dict[int, Row]]  # variant to seed to what was measured


def tables(plan: Row, runs: Runs, said: str) -> list[Row]:
    """The result as tables: what each variant reaches, and its differences from standard, with Welch's interval."""
    whole = {v: {s: r for s, r in of.items() if r["finished"]} for v, of in runs.items()}
    names = [v for v, of in whole.items() if of]
    shown = [table("Milliseconds of a step, medians", ["", "ms"], plan["milliseconds"])]
    if not names:
        return [*shown, table("No run is finished", ["run", "epochs", "of"], unfinished(runs), said)]
    found = comparison(Experiment("", "", [], {}, {}, {}), names, {v: whole[v] for v in names})
    cells: dict[tuple[str, str], str] = {}
    for r in found["rows"]:
        cells[r["measure"], r["variant"]] = reproduction.cells(r)[1]
    of = ", ".join(f"{v} {len(whole[v])}" for v in names)
    rows = [
        [f"{m}, {MEASURES[m].unit}", *(cells.get((m, v), "") for v in names)]
        for m in MEASURES
        if (m, names[0]) in cells
    ]
    shown.append(table(f"Test images, {plan['epochs']} epochs; runs: {of}", ["", *names], rows, said))
    gains = [
        [g["measure"], g["variant"], g["difference"], *(g["interval"] or ("", "")), g["verdict"]]
        for g in found["gains"]
    ]
    shown.append(table("Against the first", ["", "", "points", "from", "to", ""], gains))
    if left := unfinished(runs):
        note = "Measured before the end of the schedule, in no table above; their measures are in the JSON."
        shown.append(table("Not finished", ["run", "epochs", "of"], left, note))
    return shown


def unfinished(runs: Runs) -> list[list[Any]]:
    """Name, epochs that were measured and epochs of the schedule of the runs that were broken off."""
    return [[f"{v}-{s}", r["epochs"], r["of"]] for v, of in runs.items() for s, r in of.items() if not r["finished"]]

"""Rows of single trainings to tables: mean and spread over seeds, and paired differences of kedge from each."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.side_by_side import table
from kedge.experiments.comparing import mean_interval, without_width

Row = Mapping[str, Any]
OURS = "kedge"
# Measure -> whether higher is better.
COMPARED = {"accuracy": True, "corrupted accuracy": True, "smooth ECE": False, "corrupted smooth ECE": False,
            "NLL": False, "corrupted NLL": False}  # fmt: skip
KIND = (
    "Difference: kedge minus the other method, paired by seed, in points; interval: Student's t over the seeds, 95 %, "
    "of the mean of these differences. A seed decides the training and, for the sets of 20, 50 and 200, which photos "
    "are drawn; the test photos are the same throughout, so the interval holds for them and not for other test photos. "
    "Corrupted: every third test photo in sixteen versions. Intervals are not corrected for their number. *ahead* and "
    "*behind*: kedge is better or worse, the interval "
    "without zero; *within*: it holds zero."
)


def summary(rows: Sequence[Row], sets: Mapping[str, str]) -> list[dict[str, Any]]:
    """For each set and method: mean and sd of every measure, and the paired difference of kedge from it."""
    lines = []
    for key in sets:
        of_set = [row for row in rows if row["set"] == key]
        ours = {row["seed"]: row for row in of_set if row["method"] == OURS}
        for method in dict.fromkeys(row["method"] for row in of_set):
            own = sorted((row for row in of_set if row["method"] == method), key=lambda row: row["seed"])
            measured = {m: _spread([row[m] for row in own]) for m in (*COMPARED, "cpu seconds", "seconds")}
            shared = [row for row in own if row["seed"] in ours] if method != OURS else []
            differences = {m: difference([ours[r["seed"]][m] - r[m] for r in shared], up) for m, up in COMPARED.items()}
            lines.append(
                {
                    "set": key,
                    "method": method,
                    "seeds": [row["seed"] for row in own],
                    "recipe": own[0]["recipe"],
                    "test photos": own[0]["test photos"],
                    "measures": measured,
                    "as shipped": _spread([row["as shipped"]["accuracy"] for row in own])
                    if _all_shipped(own)
                    else None,
                    "kedge minus this": differences if shared else {},
                    "one recipe": len({str(row.get("settings")) for row in own}) == 1,
                }
            )
    return lines


def difference(values: Sequence[float], higher: bool) -> dict[str, Any]:
    """Mean of paired differences, its t interval (None for fewer than two) and what it says of the first."""
    bounds = mean_interval(values)
    verdict = ""
    if bounds is not None:
        low, high = bounds if higher else (-bounds[1], -bounds[0])
        verdict = "ahead" if low > 0 else "behind" if high < 0 else "within"
        if without_width(bounds):  # differences that agree exactly, as two of few photos may, say nothing of others
            verdict = "within"
    mean = statistics.fmean(values) if values else None
    return {"mean": mean, "interval": None if bounds is None else list(bounds), "pairs": len(values), "kedge": verdict}


def tables(lines: Sequence[Row], sets: Mapping[str, str]) -> list[dict[str, Any]]:
    """One table for each set, one that says what the methods are, and how often kedge is ahead."""
    head = ["method", "accuracy, %", "kedge minus it", "corrupted, %", "kedge minus it", "smooth ECE, %",
            "its corrupted", "NLL", "CPU s", "wall s"]  # fmt: skip
    shown = []
    for key, words in sets.items():
        of_set = [line for line in lines if line["set"] == key]
        if of_set:
            fewest, most = (pick(len(line["seeds"]) for line in of_set) for pick in (min, max))
            seeds = f"{most} seed{'s' * (most != 1)}" if fewest == most else f"{fewest} to {most} seeds"
            title = f"{words}: {of_set[0]['test photos']} test photos, {seeds}, mean ± standard deviation"
            mixed = [line["method"] for line in of_set if not line["one recipe"]]
            notes = [f"Rows of {', '.join(mixed)} are of several recipes."] if mixed else []
            notes += [
                f"{line['method']} with the mean over its bank, many passes: accuracy {_level(line['as shipped'])}."
                for line in of_set
                if line["as shipped"]
            ]
            shown.append(table(title, head, [_cells(line) for line in of_set], " ".join(notes)))
    recipes = {line["method"]: line["recipe"] for line in reversed(lines)}
    order = dict.fromkeys(line["method"] for line in lines)
    shown.append(
        table("The methods (epochs as for the first set)", ["method", "recipe"], [[m, recipes[m]] for m in order])
    )
    return [*shown, _score(lines)]


def _all_shipped(rows: Sequence[Row]) -> bool:
    return all(row.get("as shipped") for row in rows)


def _score(lines: Sequence[Row]) -> dict[str, Any]:
    verdicts = ("ahead", "within", "behind")
    rows = []
    for measure in COMPARED:
        verdicts_of = [line["kedge minus this"][measure]["kedge"] for line in lines if line["kedge minus this"]]
        rows.append([measure, *(verdicts_of.count(verdict) for verdict in verdicts)])
    return table("How often kedge is ahead of a method on a set", ["measure", *verdicts], rows, KIND)


def _cells(line: Row) -> list[str]:
    of, apart = line["measures"], line["kedge minus this"]
    return [
        line["method"],
        _level(of["accuracy"]),
        _apart(apart.get("accuracy")),
        _level(of["corrupted accuracy"]),
        _apart(apart.get("corrupted accuracy")),
        _level(of["smooth ECE"]),
        _level(of["corrupted smooth ECE"]),
        _level(of["NLL"], 2),
        _level(of["cpu seconds"], 0),
        _level(of["seconds"], 0),
    ]


def _spread(values: Sequence[float]) -> dict[str, float | None]:
    return {"mean": statistics.fmean(values), "sd": statistics.stdev(values) if len(values) > 1 else None}


def _level(of: Mapping[str, Any], digits: int = 1) -> str:
    sd = "" if of["sd"] is None else f" ± {of['sd']:.{digits}f}"
    return f"{of['mean']:.{digits}f}{sd}"


def _apart(of: Mapping[str, Any] | None) -> str:
    if of is None:
        return ""
    bounds = "" if of["interval"] is None else f" [{of['interval'][0]:+z.1f}, {of['interval'][1]:+z.1f}] {of['kedge']}"
    return f"{of['mean']:+z.1f}{bounds}"

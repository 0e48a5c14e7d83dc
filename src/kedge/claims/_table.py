"""The table of claims: what each method did against its control, over seeds, and whether the claim passes."""

import json
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kedge import catalog
from kedge.claims._base import PARTS, claim, verdict_of
from kedge.claims._running import Task, missing_data, record_of
from kedge.claims._sources import text_digest
from kedge.clock import now
from kedge.evaluation.provenance import machine
from kedge.experiments.comparing import mean_interval
from kedge.files import write_text
from kedge.json_text import read_json

__all__ = ["another_text", "claim_lines", "joined", "recorded", "results_of", "table_markdown", "write_results"]

COST = "seconds a step"
WIDE = 6  # measures that stand beside each other; more stand below each other
MEANING = (
    "A criterion compares variants that share seed, images, order and first weights: the difference is the mean over "
    "seeds, with Student's 95 % interval of the paired differences in brackets. It passes where the mean does what the "
    "criterion says and the interval leaves out no effect, is not resolved where the mean does and the interval does "
    "not, and fails otherwise; a criterion of being near goes by the mean alone. Cost is the time "
    "of a training step over that of the first variant, measured in turn in the same run. Small "
    "networks on small images: which way an effect points at that size, nothing about the authors' scale."
)


def results_of(todo: Sequence[Task], command: str) -> dict[str, Any]:
    """What was measured, by claim: means over seeds, criteria with their verdicts, cost."""
    return {
        "name": "claims",
        "command": command,
        "created": now(),
        "machine": machine(),
        "claims": [_claim(name, [t for t in todo if t.name == name]) for name in dict.fromkeys(t.name for t in todo)],
    }


def recorded(out: Path) -> dict[str, Any]:
    """The results that a folder has; no claims where it has none.

    Raises:
        ValueError: for a file that is damaged.
    """
    path = out / "results.json"
    before: dict[str, Any] = read_json(path, nan=True) if path.is_file() else {"claims": []}
    return before


def joined(results: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """The results with the claims that were recorded before and are not among them, or were measured then alone.

    Those have `recorded`, the command and the date.
    """
    origin = {key: before.get(key) for key in ("command", "created")}
    old = {each["claim"]: {"recorded": origin, **each} for each in before["claims"]}
    new = {each["claim"]: each for each in results["claims"]}
    lost = [name for name, each in new.items() if not each["criteria"] and old.get(name, {}).get("criteria")]
    both = {**old, **{name: each for name, each in new.items() if name not in lost}}
    return {**results, "claims": [both[name] for name in catalog.names("claims") if name in both]}


def another_text(results: Mapping[str, Any]) -> list[str]:
    """The names of recorded claims that say by which text they were measured, and it is another one now."""
    texts = {each["claim"]: each["text"] for each in results["claims"] if "recorded" in each and each.get("text")}
    return [name for name, text in texts.items() if text != text_digest(name)]


def _claim(name: str, own: Sequence[Task]) -> dict[str, Any]:
    each, origin = claim(name), catalog.info("claims", name)
    values: dict[str, dict[int, dict[str, float]]] = {variant: {} for variant in each.variants}
    seconds, computing = 0.0, 0.0
    for task in own:
        if (record := record_of(task)) is not None:
            values[task.variant][task.seed] = record["measures"]
            seconds += record["seconds"]
            computing += record.get("seconds of a core", record["seconds"])  # records of earlier versions lack it
    whole = all(len(values[variant]) == len(own) // len(each.variants) for variant in each.variants)
    criteria = [criterion.judge(values) for criterion in each.criteria] if whole else []
    return {
        "claim": name,
        "title": catalog.summary("claims", name),
        "cite": origin.cite if origin else "",
        "url": origin.url if origin else "",
        "part": each.part,
        "methods": list(each.methods),
        "text": text_digest(name),
        "missing": missing_data(each),
        "seconds": seconds,
        "seconds of a core": computing,
        "variants": {variant: _summary(values[variant]) for variant in each.variants},
        "cost": _cost(values, each.variants),
        "criteria": criteria,
        "verdict": verdict_of(criteria) if criteria else "not measured",
    }


def _summary(measured: Mapping[int, Mapping[str, float]]) -> dict[str, Any]:
    names = [name for name in next(iter(measured.values()), {}) if name != COST]
    summary = {}
    for name in names:
        values = [measured[seed][name] for seed in sorted(measured)]
        interval = mean_interval(values)
        summary[name] = {
            "mean": statistics.fmean(values),
            "sd": statistics.stdev(values) if len(values) > 1 else None,
            "interval": list(interval) if interval else None,
            "values": values,
        }
    return summary


def _cost(values: Mapping[str, Mapping[int, Mapping[str, float]]], variants: Sequence[str]) -> dict[str, float]:
    """The time of a step over that of the first variant: the median over seeds."""
    control = values[variants[0]]
    ratios = {
        variant: [own[COST] / control[seed][COST] for seed, own in values[variant].items()
                  if COST in own and COST in control.get(seed, {})]
        for variant in variants
    }  # fmt: skip
    return {variant: statistics.median(each) for variant, each in ratios.items() if each}


def table_markdown(results: Mapping[str, Any]) -> str:
    """All claims: an overview, then each with its variants and criteria."""
    lines = [MEANING, "", _counted(results["claims"]), ""]
    lines += ["| claim | of | came out | cost |", "| --- | --- | --- | --- |"]
    for each in results["claims"]:
        cite = f"[{each['cite']}]({each['url']})" if each["url"] else each["cite"]
        lines.append(f"| {each['title']} | {cite} | {_outcome(each)} | {_cost_range(each['cost'])} |")
    for part, what in PARTS.items():
        mine = [each for each in results["claims"] if each["part"] == part]
        if mine:
            lines += ["", f"## {what[0].upper()}{what[1:]}"]
        for each in mine:
            lines += ["", f"### {each['claim'].replace('_', ' ')}", "", each["title"], "", *claim_lines(each)]
    where = results["machine"]
    minutes = sum(each.get("seconds of a core", each["seconds"]) for each in results["claims"]) / 60
    lines += ["", f"Made by `{results['command']}` ({results['created'][:10]}, kedge {where['kedge']}, torch "
              f"{where['torch']}, {where['system']}, one thread each; {minutes:.0f} minutes of one core)."]  # fmt: skip
    origins = [each["recorded"] for each in results["claims"] if "recorded" in each]
    for origin in [each for i, each in enumerate(origins) if each not in origins[:i]]:
        count = origins.count(origin)
        lines[-1] += (
            f" Of these {count} {'was' if count == 1 else 'were'} recorded before, by `{origin['command']}` "
            f"({(origin['created'] or '')[:10]})."
        )
    return "\n".join(lines) + "\n"


def _counted(claims: Sequence[Mapping[str, Any]]) -> str:
    """How many claims came out how, in words."""
    words = {
        "passes": "with all criteria passing",
        "fails": "with a criterion that fails",
        "not resolved": "with one that is not resolved and none that fails",
        "not measured": "not measured",
    }
    counts = {words[verdict]: sum(each["verdict"] == verdict for each in claims) for verdict in words}
    return (
        f"{len(claims)} claim{'s' * (len(claims) != 1)}: "
        + ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        + "."
    )


def _outcome(each: Mapping[str, Any]) -> str:
    """The verdict of a claim, and the criteria that made it where it does not pass."""
    deciding = [criterion["words"] for criterion in each["criteria"] if criterion["verdict"] == each["verdict"]]
    whole = each["verdict"] == "passes" or not deciding
    return str(each["verdict"]) if whole else f"{each['verdict']}: {'; '.join(deciding)}"


def _cost_range(cost: Mapping[str, float]) -> str:
    """Of all variants but the first: from the cheapest to the dearest step."""
    others = list(cost.values())[1:]
    ends = [f"{end:.2f}" for end in ((min(others), max(others)) if others else ())]
    return " to ".join(dict.fromkeys(ends))


def claim_lines(each: Mapping[str, Any]) -> list[str]:
    """The tables of one claim: variants with their measures, criteria with their verdicts."""
    if not each["criteria"]:
        why = f"{each['missing']} is not here" if each["missing"] else "not all of it was run"
        return [f"Not measured: {why}."]
    measures = list(dict.fromkeys(name for summary in each["variants"].values() for name in summary))
    rows = [["variant", *measures, *(["cost"] if each["cost"] else [])]]
    for variant, summary in each["variants"].items():
        cells = [_number(summary[name]) if name in summary else "" for name in measures]
        cost = [f"{each['cost'][variant]:.2f}"] if variant in each["cost"] else [""] if each["cost"] else []
        rows.append([variant, *cells, *cost])
    if len(measures) > WIDE:
        rows = [["measure", *rows[0][1:]], *rows[1:]]
        rows = [list(row) for row in zip(*rows, strict=True)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    lines.insert(1, "| --- " * len(rows[0]) + "|")
    lines += ["", "| criterion | difference | verdict |", "| --- | --- | --- |"]
    for criterion in each["criteria"]:
        lines.append(
            f"| {criterion['words']}: {_rule(criterion)} | {_difference(criterion)} | {criterion['verdict']} |"
        )
    return lines


def _rule(criterion: Mapping[str, Any]) -> str:
    other, must, by = criterion["other"], criterion["must"], criterion["by"]
    if other is None:
        return f"{criterion['measure']} of {criterion['one']} {must} {by:g}"
    if must == "near":
        return f"{criterion['measure']} of {criterion['one']} within {by:g} of {other}"
    return f"{criterion['measure']} of {criterion['one']} {must} {other}" + (f" by {by:g}" if by else "")


def _difference(criterion: Mapping[str, Any]) -> str:
    sign = "" if criterion["other"] is None else "+"
    form = sign + _form(criterion["difference"])
    low_high = criterion["interval"]
    bounds = "" if low_high is None else f" [{low_high[0]:{form}}, {low_high[1]:{form}}]"
    return f"{criterion['difference']:{form}}{bounds} ({criterion['seeds']} seeds)"


def _number(summary: Mapping[str, Any]) -> str:
    form = _form(summary["mean"])
    spread = "" if summary["sd"] is None else f" ± {summary['sd']:{form}}"
    return f"{summary['mean']:{form}}{spread}"


def _form(value: float) -> str:
    """Three significant figures and one decimal at least; powers of ten for what is close to 0."""
    if not value or not math.isfinite(value):
        return ".1f"
    return ".1e" if abs(value) < 1e-4 else f".{max(1, 2 - math.floor(math.log10(abs(value))))}f"


def write_results(results: Mapping[str, Any], out: Path) -> list[Path]:
    """Write results.json and table.md; their paths."""
    paths = [out / "results.json", out / "table.md"]
    write_text(paths[0], json.dumps(results, indent=1, ensure_ascii=False) + "\n")
    write_text(paths[1], table_markdown(results))
    return paths

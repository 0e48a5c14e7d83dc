"""From the records of an experiment's runs to its results."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from kedge.experiments.comparing import comparison
from kedge.experiments.experiment import Experiment
from kedge.experiments.running import Planned

__all__ = ["FORMAT_VERSION", "gathered"]

FORMAT_VERSION = 1


def gathered(
    experiment: Experiment, scale: str, planned: Sequence[Planned], records: Mapping[str, dict[str, Any]], command: str
) -> dict[str, Any]:
    """The results of an experiment, which `json.dumps` takes; `records`: `VARIANT-SEED` to what was measured.

    Runs without a record are listed as unfinished. Raises ValueError if there is no record at all.
    """
    from kedge.clock import now
    from kedge.evaluation.provenance import machine

    if not records:
        raise ValueError(f"nothing of {experiment.name} has been measured yet")
    names = list(dict.fromkeys(p.variant.name for p in planned))
    by_variant: dict[str, dict[int, dict[str, Any]]] = {name: {} for name in names}
    for each in planned:
        if each.name in records:
            by_variant[each.variant.name][each.seed] = records[each.name]
    names = [name for name in names if by_variant[name]]
    missing = sorted({name for record in records.values() for name in record["missing"]})
    failed = sorted({f"{n}: {e['part']}" for n, record in records.items() for e in record["errors"]})
    notes = list(experiment.notes)
    if missing:
        notes.append(f"Out-of-distribution sets that were not at hand, and are left out: {', '.join(missing)}.")
    if failed:
        notes.append(f"Parts that could not be measured: {'; '.join(failed[:10])}.")
    if shares := _taken_back(records):
        notes.append(
            f"Below its start on validation images, training was taken back in part, as by kedge train: {shares}."
        )
    notes += _on_other_images(by_variant)
    compared, apart = _on_the_same_sets({e.name: e for e in planned if e.name in records}, by_variant)
    notes += [f"{group} AUROC is not compared of {', '.join(runs)}: other runs had sets that these had not."
              for group, runs in apart.items()]  # fmt: skip
    recipe = {each.variant.name: each.recipe for each in planned}
    return {
        "format_version": FORMAT_VERSION,
        "experiment": experiment.name,
        "title": experiment.title,
        "source": experiment.source,
        "scale": scale,
        "seeds": sorted({each.seed for each in planned}),
        "created": now(),
        "command": command,
        "machine": machine(),
        "data": next(iter(recipe.values())).data,
        "images": min(record["images"] for record in records.values()),
        "notes": notes,
        "unfinished": [each.name for each in planned if each.name not in records],
        "variants": {name: _variant(by_variant[name], planned, name) for name in names},
        **comparison(experiment, names, compared),
    }


def _on_other_images(by_variant: Mapping[str, Mapping[int, Mapping[str, Any]]]) -> list[str]:
    """Sentences on runs that were judged on other images than those beside them."""
    notes = []
    for name, own in by_variant.items():
        by_images: dict[str, list[int]] = {}  # of which records of an earlier version say nothing
        for seed, record in own.items():
            if "judged_on" in record:
                by_images.setdefault(record["judged_on"], []).append(seed)
        if len(by_images) > 1:
            apart = " and ".join(", ".join(map(str, seeds)) for seeds in by_images.values())
            notes.append(
                f"Careful: seeds {apart} of {name} were judged on other images, though of one name: their mean means "
                "nothing. Delete the records of those that are to be measured anew."
            )
    counts = {name: max(record["images"] for record in own.values()) for name, own in by_variant.items() if own}
    if fewer := [f"{name} ({count:,})" for name, count in counts.items() if count < max(counts.values())]:
        notes.append(f"Tested on fewer images than the others: {', '.join(fewer)}.")
    return notes


def _taken_back(records: Mapping[str, dict[str, Any]]) -> str:
    """The runs of which a share of the trained weights was kept, with the share; empty if there are none."""
    shares = {}
    for name, record in records.items():
        trained = record.get("trained") or {}
        shares[name] = min((trained.get(key) or {}).get("share", 1) for key in ("start", "folds"))
    return ", ".join(f"{name} ({100 * share:.0f} % kept)" for name, share in shares.items() if share < 1)


def _on_the_same_sets(
    planned: Mapping[str, Planned], records: Mapping[str, Mapping[int, dict[str, Any]]]
) -> tuple[dict[str, dict[int, dict[str, Any]]], dict[str, list[str]]]:
    """The records without the AUROC of a group of sets where others had more of its sets, and group to those runs.

    A mean over other sets is another measure. Records of earlier results, or of another machine, may have had others.
    """
    same_sets = {variant: dict(own) for variant, own in records.items()}
    apart: dict[str, list[str]] = {}
    for group, key in (("near", "near"), ("far", "ood")):
        lacking = {}
        for name, each in planned.items():
            sets = {one if isinstance(one, str) else one[0] for one in each.variant.evaluation.get(key, [])}
            lacking[name] = sets & set(records[each.variant.name][each.seed]["missing"])
        fewest = min(lacking.values(), key=len)
        for name, each in planned.items():
            record = same_sets[each.variant.name][each.seed]
            own = {m: v for m, v in record["measures"].items() if not m.startswith(f"{group} AUROC")}
            if lacking[name] != fewest and len(own) < len(record["measures"]):
                same_sets[each.variant.name][each.seed] = {**record, "measures": own}
                apart.setdefault(group, []).append(name)
    return same_sets, apart


def _variant(records: Mapping[int, dict[str, Any]], planned: Sequence[Planned], name: str) -> dict[str, Any]:
    one = next(each for each in planned if each.variant.name == name)
    runs = [{"seed": seed, **{k: v for k, v in record.items() if k != "asked"}} for seed, record in records.items()]
    first = runs[0]
    return {
        "recipe": one.variant.recipe,
        "evaluation": one.variant.evaluation,
        "trained_as": one.variant.runs,
        **({} if one.variant.start is None else {"start": one.variant.start}),
        "network": first["network"],
        "parameters": first["parameters"],
        "training_seconds": statistics.fmean(run["training_seconds"] for run in runs),
        "evaluation_seconds": statistics.fmean(run["evaluation_seconds"] for run in runs),
        **{key: _means([run[key] for run in runs]) for key in ("severities", "corruptions")},
        "curve": _curve([run["curve"] for run in runs if "curve" in run]),
        "runs": runs,
    }


def _curve(each: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Measure to epoch to the mean over runs, in the order of the epochs."""
    epochs = sorted(each[0], key=int) if each else []
    along = {epoch: _means([run[epoch] for run in each]) for epoch in epochs if all(epoch in run for run in each)}
    measures = dict.fromkeys(measure for means in along.values() for measure in means)
    return {m: {epoch: means[m] for epoch, means in along.items() if m in means} for m in measures}


def _means(each: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {key: statistics.fmean(values[key] for values in each) for key in each[0] if all(key in v for v in each)}

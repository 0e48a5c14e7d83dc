"""The summary: what a practitioner needs first, one line for each number, one column for each model."""

from collections.abc import Sequence
from typing import Any

from kedge.epsilon import print_epsilon
from kedge.metrics._base import Metric, leading, metrics
from kedge.printable import printable
from kedge.reporting.rows import Row, ahead_of, dig, estimate, failure, short, value_of

FEW_SCORES = 3  # up to so many scores have lines of their own, more only the first and the best
FEW_SETS = 3  # up to so many sets that are neither near nor far have several lines each
UNLIKE = "told from validation images (AUROC)"


class _Lines:
    """Collects rows; a row that no model has a value for is left out unless something failed there."""

    def __init__(self, results: dict[str, Any]) -> None:
        self.models = list(results["models"].values())
        self.complete = results["complete"]
        self.class_names = results["data"]["class_names"]
        self.rows: list[Row] = []

    def add(
        self,
        group: str,
        label: str,
        unit: str,
        better: str | None,
        values: Sequence[Any],
        marks: tuple[str, ...] = (),
        notes: tuple[str, ...] = (),
        marked: bool = True,
        unbiased: bool = False,
    ) -> None:
        cells = [estimate(v) for v in values]
        first = all(row.group != group for row in self.rows)
        if not first:  # the reason once is enough
            marks = tuple(mark.partition(":")[0] for mark in marks)
        if any(c is not None for c in cells) or (first and any(marks)):
            ahead = ahead_of(cells, better, unit) if marked else ()
            self.rows.append(Row(group, label, unit, better, cells, ahead, marks, notes, unbiased))

    def metric(self, group: str, one: Metric, values: Sequence[Any], marks: tuple[str, ...] = ()) -> None:
        """The rows of a metric, as it says itself."""
        for line in one.lines(values, self.class_names):
            notes = tuple(short(note) if note else "" for note in line.notes)
            self.add(group, line.label, line.unit, line.better, line.cells, marks, notes, one.comparable(values),
                     one.unbiased)  # fmt: skip

    def marks(
        self, values: Sequence[Any], part: str, name: str | None = None, also: Sequence[str] = (), expected: bool = True
    ) -> tuple[str, ...]:
        """Per model: "" where there are `values`, else why not, "not done" in unfinished results, or ""."""

        def mark(model: dict[str, Any], here: Any) -> str:
            if here:
                return ""
            why = failure(model, part, name, also)
            if why and part != "clean" and model["clean"] is None:
                return "failed"  # with everything else of this model, for the reason given there
            return f"failed: {short(why, 60)}" if why else "not done" if expected and not self.complete else ""

        return tuple(mark(m, f) for m, f in zip(self.models, values, strict=True))


def summary_rows(results: dict[str, Any]) -> list[Row]:
    """The summary of all models, in reading order; `results` are of the newest format."""
    lines = _Lines(results)
    _clean(lines, results)
    _shift(lines, results)
    _outside(lines, results)
    _selective(lines, results)
    _attacks(lines, results["settings"]["attacks"])
    for name, rows in unlabelled(results["models"]).items():
        for label, values in [rows[0], *(row for row in rows if row[0] == UNLIKE)]:
            lines.add(f"Without labels: {printable(name)}", label, "%", None, values)
    _cost(lines)
    return lines.rows


def _clean(lines: _Lines, results: dict[str, Any]) -> None:
    marks = lines.marks([m["clean"] for m in lines.models], "clean")
    for one in summarised("clean", len(lines.class_names)):
        lines.metric("Clean images", one, [value_of(m, one) for m in lines.models], marks)


def summarised(place: str, classes: int = 0) -> list[Metric]:
    """The metrics that the summary has of a place."""
    return [one for one in metrics() if place in one.summary and classes >= one.classes]


def _shift(lines: _Lines, results: dict[str, Any]) -> None:
    settings, models = results["settings"], lines.models
    count, severities = len(settings["corruptions"]), settings["severities"]
    if count:
        means = [estimate(dig(m, "shift", "mean", "accuracy")) for m in models]
        marks = lines.marks(means, "shift", also=settings["corruptions"])
        many = len(severities) > 1
        group = f"Corrupted (mean of {count} × {len(severities)})" if many else (
            f"Corrupted ({count} kind{'s' if count > 1 else ''}, severity {severities[0]})"
        )  # fmt: skip
        for one in summarised("shift"):
            lines.metric(group, one, [dig(m, "shift", "mean", one.key) for m in models], marks)
        for severity in severities if many else []:
            own = [next((r for r in dig(m, "shift", "by_severity") or [] if r["severity"] == severity), None)
                   for m in models]  # fmt: skip
            lines.add(
                group, f"accuracy at severity {severity}", "%", "higher", [dig(r, "accuracy") for r in own], marks
            )
    for name in results["shift_sets"]:
        entries = [m["shift_sets"].get(name) for m in models]
        marks = lines.marks(entries, "shift_set", name)
        for one in summarised("sets"):
            lines.metric(f"Published set: {printable(name)}", one, [dig(f, one.key) for f in entries], marks)


def score_titles(results: dict[str, Any]) -> dict[str, str]:
    """Score to title over all models, in the order of the settings; the first is the one of the summary."""
    titles = {score: f["title"] for m in results["models"].values() for score, f in m["scores"].items()}
    order = [s for s in results["settings"]["scores"] if s in titles]
    return {s: titles[s] for s in dict.fromkeys([*(["msp"] if "msp" in titles else []), *order, *titles])}


def ood_places(results: dict[str, Any]) -> list[tuple[str, str, list[str]]]:
    """(kind, name, sets): the near and the far average, then each set that belongs to neither."""
    sets = results["ood_sets"]
    places = []
    for group in ("near", "far"):
        own = [name for name, record in sets.items() if record["group"] == group]
        if own:
            places.append(("group", group, own))
    return places + [("set", name, [name]) for name, record in sets.items() if record["group"] not in ("near", "far")]


def _many(results: dict[str, Any]) -> bool:
    """Whether so many sets belong to no group that each has only one line."""
    return sum(record["group"] not in ("near", "far") for record in results["ood_sets"].values()) > FEW_SETS


def at_place(model: dict[str, Any], kind: str, name: str, sets: list[str]) -> dict[str, Any]:
    """Score to metrics for a group of sets or a single one; empty where there is nothing.

    A mean over fewer `sets` than the group has is another number, and is left out.
    """
    if kind == "group":
        means = model["ood_groups"].get(name) or {}
        return {score: values for score, values in means.items() if set(values.get("sets", sets)) >= set(sets)}
    return dig(model, "ood", name, "scores") or {}


def place_title(kind: str, name: str, sets: list[str]) -> str:
    """What a place of `ood_places` is called."""
    if kind == "set":
        return printable(name)
    return f"{name}, mean of {len(sets)} sets" if len(sets) > 1 else f"{name} ({printable(sets[0])})"


def _outside(lines: _Lines, results: dict[str, Any]) -> None:
    titles = score_titles(results)
    chosen, first = list(titles)[: FEW_SCORES if len(titles) <= FEW_SCORES else 1], leading("ood")
    for kind, name, sets in ood_places(results):
        scores = [at_place(m, kind, name, sets) for m in lines.models]
        if kind == "set" and _many(results):
            values = [dig(f, next(iter(titles), ""), first.key) for f in scores]
            label = f"{first.label}, {titles.get(next(iter(titles), ''), 'all scores')}"
            lines.add(f"Out of distribution: {label}", printable(name), first.unit, first.better, values,
                      lines.marks(scores, "ood", name))  # fmt: skip
            continue
        group = f"Out of distribution: {place_title(kind, name, sets)}"
        marks = lines.marks(scores, "ood", name if kind == "set" else None)
        for score in chosen or [""]:
            for one in summarised("ood"):
                values = [dig(f, score, one.key) for f in scores]
                lines.add(group, f"{one.label}, {titles.get(score, 'all scores')}", one.unit, one.better, values, marks)
        if len(titles) > len(chosen):
            best = [chosen_afterwards(f) for f in scores]
            lines.add(
                group, f"{first.label}, best of the scores, chosen after the fact", first.unit, None,
                [{"value": f[b][first.key]["value"]} if b else None for f, b in zip(scores, best, strict=True)], marks,
                tuple(f"{titles[b]}, of {len(f)}" if b else "" for f, b in zip(scores, best, strict=True)),
                marked=False,
            )  # fmt: skip


def chosen_afterwards(scores: dict[str, Any]) -> str | None:
    """The best of `scores` (score to metrics): a choice that flatters."""
    areas = {score: dig(f, leading("ood").key, "value") for score, f in scores.items()}
    areas = {score: area for score, area in areas.items() if area is not None}
    return max(areas, key=areas.__getitem__) if areas else None


def _selective(lines: _Lines, results: dict[str, Any]) -> None:
    models = lines.models
    entries = [m["selective"] for m in models]
    marks = lines.marks(entries, "selective")
    group = "Answering only when confident"
    for one in summarised("selective"):
        lines.metric(group, one, [value_of(m, one) for m in models], marks)
    places = [place for place in ood_places(results) if place[0] == "group" or not _many(results)]
    for kind, name, sets in places:
        areas = [[dig(f, "joint", s, "aurc") for s in sets] for f in entries]
        values = [None if None in a else sum(a) / len(a) for a in areas]
        lines.add(group, f"AURC with {place_title(kind, name, sets)}", "%%", "lower", values)
    group = "Above the stored threshold"
    for place, words in (("clean", "clean"), ("shift", "corrupted")):
        lines.add(group, f"answered, {words}", "%", None, [dig(f, place, "coverage") for f in entries])
        lines.add(group, f"right when answered, {words}", "%", "higher", [dig(f, place, "accuracy") for f in entries])
    for kind, name, sets in places:
        areas = [[dig(m, "ood", s, "accepted") for s in sets] for m in models]
        values = [None if None in a else sum(a) / len(a) for a in areas]
        lines.add(group, f"answered, {place_title(kind, name, sets)}", "%", "lower", values)


def unlabelled(models: dict[str, dict[str, Any]]) -> dict[str, list[tuple[str, list[Any]]]]:
    """Set of images without labels to its lines, (label, value per model): the estimate to quote comes first."""
    entries = [dig(m, "unlabelled", "sets") or {} for m in models.values()]
    rows: dict[str, list[tuple[str, list[Any]]]] = {}
    for name in dict.fromkeys(name for sets in entries for name in sets):
        own = [sets.get(name) for sets in entries]
        titles = {key: one["title"] for f in own if f for key, one in f["estimates"].items()}
        first = next(f["headline"] for f in own if f)
        order = sorted(titles, key=lambda key: key != first)
        rows[name] = [(f"expected accuracy, {titles[key]}", [dig(f, "estimates", key) for f in own]) for key in order]
        rows[name].append((UNLIKE, [dig(f, "unlike") for f in own]))
    return rows


def strength(attack: dict[str, Any], title: str = "") -> str:
    """The norm, budget, steps and restarts of an attack in words; what its `title` says is not repeated."""
    norm = {"linf": "ℓ∞", "l2": "ℓ2"}.get(attack["norm"], printable(attack["norm"] or "norm not stated"))
    eps = attack["eps"]
    words = [norm if eps is None else f"{norm} {print_epsilon(eps)}"]
    steps, restarts = attack.get("steps"), attack.get("restarts") or 1
    if steps and attack["kind"] != "autoattack" and not (f"-{steps}" in title or (steps == 1 and "FGSM" in title)):
        words.append(f"{steps} step{'s' if steps > 1 else ''}")
    if restarts > 1 and "restarts" not in title:
        words.append(f"{restarts} restarts")
    return ", ".join(words)


def attack_names(models: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Attack to its record in the first model that has it."""
    attacks: dict[str, dict[str, Any]] = {}
    for model in models:
        for name, attack in model["attacks"].items():
            attacks.setdefault(name, attack)
    return attacks


def doubted(model: dict[str, Any]) -> bool:
    """Whether a check of the attack on this model failed: its accuracy under attack is not to be believed."""
    return any(not check["ok"] for check in model["sanity"])


def believed(models: list[dict[str, Any]], cells: Sequence[Any]) -> bool:
    """Whether accuracies under attack may be set against each other: no model with a number is doubted."""
    return not any(doubted(m) for m, c in zip(models, cells, strict=True) if estimate(c) is not None)


def lowest(model: dict[str, Any], attack: dict[str, Any]) -> tuple[float, str] | None:
    """The least accuracy that any attack of this norm and budget left, transfer and cross-checks too; by which one."""
    accuracies = [
        # Only the name tells a cross-check from the attack that it checks.
        (a["accuracy"]["value"], printable(name if ": " in name else a["title"]))
        for name, a in model["attacks"].items()
        if (a["norm"], a["eps"]) == (attack["norm"], attack["eps"]) and estimate(dig(a, "accuracy")) is not None
    ]
    return min(accuracies) if accuracies else None


def attack_title(name: str, attack: dict[str, Any]) -> str:
    """The attack with its strength and the number of images."""
    title = printable(attack["title"])
    return f"{title} ({strength(attack, title)}, {attack['images']:,} images)"


def headline(name: str, attack: dict[str, Any], requested: list[str]) -> bool:
    """Whether an attack belongs to the summary: it was asked for, or it is no mere cross-check."""
    return name in requested or attack["kind"] not in ("single-step", "transfer")


def _attacks(lines: _Lines, requested: list[str]) -> None:
    for name, attack in attack_names(lines.models).items():
        if headline(name, attack, requested):
            entries = [m["attacks"].get(name) for m in lines.models]
            # Expectation over references is for anchored models alone: its absence elsewhere is no gap.
            marks = lines.marks(entries, "attack", name, expected=attack["kind"] != "eot")
            group = f"Under attack: {attack_title(name, attack)}"
            values = [dig(f, "accuracy") for f in entries]
            lines.add(group, "accuracy", "%", "higher", values, marks, marked=believed(lines.models, values))
    for name in requested:
        if name not in attack_names(lines.models):
            nothing = [None] * len(lines.models)
            marks = lines.marks(nothing, "attack", name)
            lines.add(f"Under attack: {printable(name)}", "accuracy", "%", None, nothing, marks)


def _cost(lines: _Lines) -> None:
    models = lines.models
    lines.add("Cost", "images per second", "/s", None, [m["timing"]["images_per_second"] for m in models])
    lines.add("Cost", "parameters", "count", None, [m["parameters"] for m in models])

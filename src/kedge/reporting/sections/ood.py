"""Out-of-distribution images: rows, sentences, tables of every score, histograms, ROC curves."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from markupsafe import Markup

from kedge import catalog
from kedge.metrics._base import Detection, leading, metrics
from kedge.printable import printable
from kedge.reporting.lines import Lines
from kedge.reporting.rows import Number, Question, Row, bounds, dig, estimate, number, short, summarised
from kedge.reporting.svg import Plot, svg, thin

FEW_SCORES = 3  # up to so many scores have lines of their own, more only the first and the best
FEW_SETS = 3  # up to so many sets that are neither near nor far have several lines each
GROUPS = ("near", "far")


class Place(NamedTuple):
    """The near or the far average, or a set that belongs to neither: its name and its sets."""

    is_group: bool
    name: str
    sets: list[str]

    @property
    def title(self) -> str:
        """What it is called."""
        if not self.is_group:
            return printable(self.name)
        return f"{self.name}, mean of {len(self.sets)} sets" if len(self.sets) > 1 else (
            f"{self.name} ({printable(self.sets[0])})"
        )  # fmt: skip

    def scores(self, model: dict[str, Any]) -> dict[str, Any]:
        """Score to metrics of a model; empty where there is nothing.

        A mean over fewer sets than the group has is another number, and is left out.
        """
        if self.is_group:
            means = model["ood_groups"].get(self.name) or {}
            return {score: values for score, values in means.items()
                    if set(values.get("sets", self.sets)) >= set(self.sets)}  # fmt: skip
        return dig(model, "ood", self.name, "scores") or {}


def usual_score() -> str:
    """The score that every classifier has, by which models are compared where it was measured."""
    return catalog.ordered("scores")[0]


def score_titles(results: dict[str, Any]) -> dict[str, str]:
    """Score to title over all models, in the order of the settings; the first is the one of the summary."""
    titles = {score: f["title"] for m in results["models"].values() for score, f in m["scores"].items()}
    order = dict.fromkeys([usual_score(), *results["settings"]["scores"], *titles])
    return {score: titles[score] for score in order if score in titles}


def ood_places(results: dict[str, Any]) -> list[Place]:
    """The near and the far average, then each set that belongs to neither."""
    groups: dict[str | None, list[str]] = {}
    for name, record in results["ood_sets"].items():
        groups.setdefault(record["group"] if record["group"] in GROUPS else None, []).append(name)
    averages = [Place(True, group, groups[group]) for group in GROUPS if group in groups]
    return averages + [Place(False, name, [name]) for name in groups.get(None, ())]


def many_sets(places: list[Place]) -> bool:
    """Whether so many sets belong to no group that each has only one line."""
    return sum(not place.is_group for place in places) > FEW_SETS


def compared() -> dict[str, tuple[str, str]]:
    """What groups of seeds are compared by on each set: label and direction."""
    first = leading("ood")
    return {
        first.name: (f"{first.label} by confidence", first.better or ""),
        "answered": ("answered above the stored threshold", "lower"),
    }


def summary(lines: Lines) -> None:
    """The averages and sets by the first score, and of many scores the best."""
    places, titles, first = ood_places(lines.results), score_titles(lines.results), leading("ood")
    for name, record in lines.results["ood_sets"].items():
        values = [dig(m, "ood", name, "separability") for m in lines.models]
        label = f"{short(name)}{', seen in pre-training' if record['seen'] else ''}"
        lines.add(Row(label, "%", None, values, "Told from familiar images by a linear classifier on features"))
    chosen = list(titles)[: FEW_SCORES if len(titles) <= FEW_SCORES else 1] or [""]
    for place in places:
        scores = [place.scores(m) for m in lines.models]
        marks = lines.marks(scores, "ood", None if place.is_group else place.name)
        if not place.is_group and many_sets(places):
            values = [dig(f, chosen[0], first.key) for f in scores]
            group = f"Out of distribution: {first.label}, {titles.get(chosen[0], 'all scores')}"
            lines.add(Row(place.title, first.unit, first.better, values, group), marks)
            continue
        group = f"Out of distribution: {place.title}"
        for score in chosen:
            for one in summarised("ood"):
                values = [dig(f, score, one.key) for f in scores]
                label = f"{one.label}, {titles.get(score, 'all scores')}"
                lines.add(Row(label, one.unit, one.better, values, group), marks)
        if len(titles) > len(chosen):
            best = [ranked(f)[:1] for f in scores]
            lines.add(
                Row(f"{first.label}, best of the scores, chosen after the fact", first.unit, None,
                    [f[b[0]][first.key]["value"] if b else None for f, b in zip(scores, best, strict=True)], group,
                    notes=[f"{titles[b[0]]}, of {len(f)}" if b else "" for f, b in zip(scores, best, strict=True)]),
                marks,
            )  # fmt: skip


def _detections() -> list[Detection]:
    return [one for one in metrics("ood") if isinstance(one, Detection)]


def ranked(scores: dict[str, Any]) -> list[str]:
    """The scores (to their metrics) from the best down; to take the first is a choice that flatters."""
    areas = {score: dig(values, leading("ood").key, "value") for score, values in scores.items()}
    return sorted((s for s in areas if areas[s] is not None), key=areas.__getitem__, reverse=True)


def sentences(name: str, model: dict[str, Any], results: dict[str, Any]) -> list[str]:
    """What the first score makes of each average and set."""
    titles, words = score_titles(results), []
    for place in ood_places(results) if titles else []:
        score = next(iter(titles))
        images = f"a {place.name} set ({', '.join(map(printable, place.sets))})" if place.is_group else place.title
        for one in _detections():
            if (value := dig(place.scores(model), score, one.key)) is not None:
                words.append(one.told_apart(value, titles[score], images))
    return [*(sentence for sentence in words if sentence), *_of_seen(model, results)]


def _of_seen(model: dict[str, Any], results: dict[str, Any]) -> Iterator[str]:
    """How well features tell sets that were seen in pre-training from familiar images."""
    for name, record in results["ood_sets"].items():
        value = dig(model, "ood", name, "separability")
        if record["seen"] and value is not None:
            yield (
                f"A linear classifier on its features tells {printable(name)}, seen in pre-training, from familiar "
                f"images {number(value['value'])} % of the time{bounds(value)}; 50 is guessing, and where it is near "
                "that no score of this model will tell them."
            )


def questions(results: dict[str, Any]) -> list[Question]:
    """What models are compared by: the same score for all, as choosing each model's best would flatter."""
    titles, first = score_titles(results), leading("ood")
    return [
        Question(f"Out of distribution, {place.title}, {first.label} by {titles[score]}", first.name, place.name,
                 first.better or "", [dig(place.scores(m), score, first.key) for m in results["models"].values()])
        for score in list(titles)[:1]
        for place in ood_places(results)
    ]  # fmt: skip


def numbers(model: dict[str, Any], results: dict[str, Any]) -> Iterator[Number]:
    """Every number of every score, for each set and each average."""
    keys = [one.key for one in metrics("ood")]
    counted = ("tpr", "threshold", "accepted", "passed")
    for name, own in model["ood"].items():
        n = dig(results["ood_sets"], name, "images")
        for score, values in own["scores"].items():
            for metric in keys:
                yield "ood", name, "", score, metric, values.get(metric), n
                for one in counted if dig(values, metric, "threshold") is not None else ():
                    yield "ood", name, "", score, f"{metric} {one}", values[metric][one], n
        yield "ood", name, "", "", "accepted", own["accepted"], n
        yield "ood", name, "", "", "linear_separability", own["separability"], n
    for group, scores in model["ood_groups"].items():
        for score, values in scores.items():
            for metric in keys:
                yield "ood mean", group, "", score, metric, values.get(metric), None


def section(results: dict[str, Any], level: int) -> dict[str, Any] | None:
    """Averages of near and far sets, then each set with plots of the first score and a table of all."""
    titles, models, leader = score_titles(results), results["models"], leading("ood")
    if not results["ood_sets"] or not titles:
        return None
    first = next(iter(titles))
    averages = [
        {"title": place.title, "sets": [printable(s) for s in place.sets],
         "table": _table([place.scores(m) for m in models.values()], titles)}
        for place in ood_places(results)
        if place.is_group and level < 5
    ]  # fmt: skip
    order = {"near": 0, "far": 1}
    sets = []
    for name, record in sorted(results["ood_sets"].items(), key=lambda item: order.get(item[1]["group"], 2)):
        scores = [dig(m, "ood", name, "scores") or {} for m in models.values()]
        further = [s for s in titles if s != first and any(s in f for f in scores)]
        areas = [(i, number(dig(f, first, leader.key, "value"))) for i, f in enumerate(scores) if first in f]
        sets.append(
            {
                "name": printable(name),
                "record": record,
                "first": titles[first],
                "areas": areas,
                "plots": _plots(results, name, first, titles[first]) if level < 4 else None,
                "table": _table(scores, titles) if level < 5 else [],
                "linear": _linear(models, name),
                "thresholds": _thresholds(scores, titles) if level < 5 else [],
                "further": [_plots(results, name, s, titles[s]) for s in further] if level < 1 else [],
            }
        )
    positive = {
        side: " and ".join(one.label for one in _detections() if one.positive == side) for side in ("in", "out")
    }
    return {"averages": [a for a in averages if a["table"]], "sets": sets, "skipped": _skipped(results),
            "fitted": _fitted(results, titles), "first": titles[first], "count": len(titles), "leader": leader.label,
            "positive": positive}  # fmt: skip


def _table(scores: list[dict[str, Any]], titles: dict[str, str]) -> list[dict[str, Any]]:
    """Per score, sorted by the mean of the first metric over the models that have it, a row for each metric."""
    measured = [one for one in metrics("ood") if any(estimate(dig(f, s, one.key)) for f in scores for s in titles)]
    entries = []
    for score, title in titles.items():
        areas = [a for a in (dig(f, score, leading("ood").key, "value") for f in scores) if a is not None]
        if areas:
            rows = [Row(m.label, m.unit, m.better, [dig(f, score, m.key) for f in scores]) for m in measured]
            models = [i for i, f in enumerate(scores) if score in f]
            entries.append({"title": title, "mean": sum(areas) / len(areas), "rows": rows, "models": models})
    return sorted(entries, key=lambda entry: -entry["mean"])


def _thresholds(scores: list[dict[str, Any]], titles: dict[str, str]) -> list[dict[str, Any]]:
    """Per score and share of familiar images that must pass, of each model: the threshold and both counts, in words."""
    entries = []
    for score, title in titles.items():
        for one in metrics("ood"):
            for i, own in enumerate(scores):
                at = dig(own, score, one.key)
                if dig(at, "threshold") is not None:
                    entries.append({"title": title, "model": i, "threshold": f"{at['threshold']:.4g}",
                                    "asked": f"{100 * at['tpr']:g}",
                                    "familiar": _count(at["accepted"], at["inside"]),
                                    "unfamiliar": _count(at["passed"], at["outside"]),
                                    "note": printable(at["note"])})  # fmt: skip
    return entries


def _linear(models: dict[str, Any], name: str) -> list[tuple[str, list[Row]]]:
    """Linear separability of a set, where it was measured."""
    values = [dig(m, "ood", name, "separability") for m in models.values()]
    row = Row("told from familiar images by a linear classifier on features", "%", None, values)
    return [("", [row])] if row.measured else []


def _count(some: int, of: int) -> str:
    return f"{some:,} of {of:,} ({number(some / of)} %)"


def _plots(results: dict[str, Any], set_name: str, score: str, title: str) -> dict[str, Any]:
    """One ROC plot of all models and a histogram for each, by one score."""
    cards, curves, areas, leader = [], [], [], leading("ood")
    for i, (name, model) in enumerate(results["models"].items()):
        values, own = dig(model, "ood", set_name, "scores", score), model["scores"].get(score)
        if values is None:
            continue
        areas.append(f"{short(name)} {number(dig(values, leader.key, 'value'))} %")
        if values["roc"]:
            curves.append((i, values["roc"]))
        if own and values["outside"]:
            texts = [
                f"{one.label} {number(dig(values, one.key, 'value'), one.unit)} %"
                for one in summarised("ood")
                if dig(values, one.key) is not None
            ]
            aria = f"Histogram of {title} of {short(name)}, familiar images against {printable(set_name)}"
            plot = histogram(own["edges"], own["inside"], values["outside"], i)
            cards.append({"model": i, "numbers": ", ".join(texts), "aria": aria, "plot": plot})
    aria = f"ROC curves for {printable(set_name)} by {title}; {leader.label}: {', '.join(areas)}"
    return {"title": title, "aria": aria, "roc": roc(curves) if curves else None, "cards": cards}


def roc(curves: list[tuple[int, dict[str, list[float]]]]) -> Markup:
    """Share of familiar images that pass against the share of unfamiliar ones, for every threshold."""
    fifths = [0, 20, 40, 60, 80, 100]
    plot = Plot((0, 100), (0, 100), "unfamiliar accepted, %", "familiar accepted, %", width=280, height=240,
                x_ticks=fifths, y_ticks=fifths)  # fmt: skip
    plot.rule([0, 100], [0, 100])
    for i, curve in curves:
        fpr, tpr = thin(curve["fpr"], curve["tpr"])
        plot.line([100 * v for v in fpr], [100 * v for v in tpr], i, marks=3)
    return svg(plot)


def histogram(edges: list[float], inside: list[int], outside: list[int], i: int) -> Markup:
    """Shares of familiar (filled) and unfamiliar (outlined) images against a score."""
    a, b = ([100 * n / max(sum(counts), 1) for n in counts] for counts in (inside, outside))
    plot = Plot((edges[0], edges[-1]), (0, max([1.0, *a, *b])), "score → more familiar", "% of images", width=280,
                height=220)  # fmt: skip
    plot.steps(edges, a, f"b k{i % 6}")
    plot.steps(edges, b, "o")
    return svg(plot)


def _skipped(results: dict[str, Any]) -> list[tuple[str, str, tuple[int, ...]]]:
    """(scores, why, models that they were left out for)."""
    models: dict[tuple[str, str], list[int]] = {}
    for i, model in enumerate(results["models"].values()):
        for score, why in model["skipped_scores"].items():
            models.setdefault((printable(score), printable(why)), []).append(i)
    scores: dict[tuple[str, tuple[int, ...]], list[str]] = {}
    for (score, why), indices in models.items():
        scores.setdefault((why, tuple(indices)), []).append(score)
    return [(", ".join(names), why, indices) for (why, indices), names in scores.items()]


def _fitted(results: dict[str, Any], titles: dict[str, str]) -> list[tuple[str, int]]:
    """(title, number of training images) of the scores that are fitted."""
    counts = {
        score: own["fitted_on"]
        for model in results["models"].values()
        for score, own in model["scores"].items()
        if own["fitted_on"]
    }
    return [(titles[score], n) for score, n in counts.items()]

"""Out-of-distribution images: tables of every score, histograms, ROC curves."""

from typing import Any

from markupsafe import Markup

from kedge.metrics._base import leading, metrics
from kedge.printable import printable
from kedge.reporting.rows import Row, ahead_of, dig, estimate, number, short
from kedge.reporting.summary import at_place, ood_places, place_title, score_titles, summarised
from kedge.reporting.svg import Plot, svg


def section(results: dict[str, Any], level: int) -> dict[str, Any] | None:
    """Averages of near and far sets, then each set with plots of the first score and a table of all."""
    titles = score_titles(results)
    models = results["models"]
    if not results["ood_sets"] or not titles:
        return None
    first = next(iter(titles))
    averages = [
        {"title": place_title(kind, name, sets), "sets": [printable(s) for s in sets],
         "table": _table([at_place(m, kind, name, sets) for m in models.values()], titles)}
        for kind, name, sets in ood_places(results)
        if kind == "group" and level < 5
    ]  # fmt: skip
    order = {"near": 0, "far": 1}
    sets = []
    for name, record in sorted(results["ood_sets"].items(), key=lambda item: order.get(item[1]["group"], 2)):
        scores = [dig(m, "ood", name, "scores") or {} for m in models.values()]
        further = [s for s in titles if s != first and any(s in f for f in scores)]
        sets.append(
            {
                "name": printable(name),
                "record": record,
                "first": titles[first],
                "areas": [
                    (i, number(dig(f, first, leading("ood").key, "value"), "%"))
                    for i, f in enumerate(scores)
                    if first in f
                ],
                "plots": _plots(results, name, first, titles[first]) if level < 4 else None,
                "table": _table(scores, titles) if level < 5 else [],
                "further": [_plots(results, name, s, titles[s]) for s in further] if level < 1 else [],
            }
        )
    return {"averages": [a for a in averages if a["table"]], "sets": sets, "skipped": _skipped(results),
            "fitted": _fitted(results, titles), "first": titles[first], "count": len(titles)}  # fmt: skip


def _table(scores: list[dict[str, Any]], titles: dict[str, str]) -> list[dict[str, Any]]:
    """Per score, sorted by its mean AUROC over the models that have it, a row for each metric."""
    entries = []
    for score, title in titles.items():
        areas = [a for a in (dig(f, score, leading("ood").key, "value") for f in scores) if a is not None]
        if areas:
            rows = []
            for one in metrics("ood"):
                if any(estimate(dig(f, s, one.key)) for f in scores for s in titles):
                    cells = [estimate(dig(f, score, one.key)) for f in scores]
                    ahead = ahead_of(cells, one.better, one.unit)
                    rows.append(Row(title, one.label, one.unit, one.better, cells, ahead))
            has = [i for i, f in enumerate(scores) if score in f]
            entries.append({"title": title, "mean": sum(areas) / len(areas), "rows": rows, "models": has})
    return sorted(entries, key=lambda entry: -entry["mean"])


def _plots(results: dict[str, Any], set_name: str, score: str, title: str) -> dict[str, Any]:
    """One ROC plot of all models and a histogram for each, by one score."""
    cards, curves, areas = [], [], []
    for i, (name, model) in enumerate(results["models"].items()):
        values, own = dig(model, "ood", set_name, "scores", score), model["scores"].get(score)
        if values is None:
            continue
        area = number(dig(values, leading("ood").key, "value"), "%")
        areas.append(f"{short(name)} {area} %")
        if values["roc"]:
            curves.append((i, values["roc"]))
        if own and values["outside"]:
            cards.append(
                {
                    "model": i,
                    "numbers": ", ".join(
                        f"{one.label} {number(dig(values, one.key, 'value'), one.unit)} %" for one in summarised("ood")
                    ),
                    "aria": f"Histogram of {title} of {short(name)}, familiar images against {printable(set_name)}",
                    "plot": histogram(own["edges"], own["inside"], values["outside"], i),
                }
            )
    return {
        "title": title,
        "aria": f"ROC curves for {printable(set_name)} by {title}; AUROC: {', '.join(areas)}",
        "roc": roc(curves) if curves else None,
        "cards": cards,
    }


def thin(x: list[float], y: list[float], most: int = 60) -> tuple[list[float], list[float]]:
    """At most about `most` points of a curve, with both ends."""
    step = max(1, -(-len(x) // most))
    places = sorted({*range(0, len(x), step), len(x) - 1}) if x else []
    return [x[k] for k in places], [y[k] for k in places]


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

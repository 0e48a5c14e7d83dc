"""One self-contained HTML page: no network, no scripts, light and dark, phone and desk."""

import os
from pathlib import Path
from typing import Any

from kedge.files import write_text
from kedge.reporting import plots
from kedge.reporting.files import check_results
from kedge.reporting.rows import printable, short, summary_rows
from kedge.reporting.sentences import about, comparison
from kedge.reporting.table import subject_line

LIMIT = 2_000_000  # bytes
# What is left out, step by step, when a page would be larger.
_DETAILS = ("all", "no plot for each corruption", "no images", "no score histograms")


def write_report(results: dict[str, Any], path: str | os.PathLike[str]) -> Path:
    """Write the results of `kedge.evaluation.evaluate` as one HTML file under 2 MB, atomically, and return its path.

    Raises ValueError when `results` are something else.
    """
    return write_text(path, page(results))


def page(results: dict[str, Any]) -> str:
    """The page as text; what does not fit in 2 MB is left out and said."""
    check_results(results)
    text = ""
    for level in range(len(_DETAILS)):
        text = _page(results, level)
        if len(text.encode()) < LIMIT:
            break
    return text


def _page(results: dict[str, Any], level: int) -> str:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("kedge.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    models = results["models"]
    rows = summary_rows(results)
    return environment.get_template("report.html").render(
        results=results,
        level=level,
        subject=subject_line(results),
        few=plots.FEW,
        names=[short(n) for n in models],
        full=[printable(n) for n in models],
        glyphs=plots.GLYPHS,
        colors=plots.COLORS,
        groups=[(g, [r for r in rows if r.group == g]) for g in dict.fromkeys(r.group for r in rows)],
        claims=comparison(results),
        stories=[about(name, model, results) for name, model in models.items()],
        shift=_shift_plots(results, level),
        reliability=_reliability_plots(results),
        histograms=_histograms(results) if level < 3 else [],
        images=_images(results) if level < 2 else [],
        rerun=_rerun(results),
    )


def _shift_plots(results: dict[str, Any], level: int) -> dict[str, Any] | None:
    models = list(results["models"].values())
    if not results["settings"]["corruptions"]:
        return None

    def curves(metric: str, rows: list[list[dict]]) -> list[list[tuple[int, dict]]]:
        return [
            [(0, m["clean"][metric]), *((row["severity"], row[metric]) for row in own)]
            for m, own in zip(models, rows, strict=True)
        ]

    means = [m["shift"]["by_severity"] for m in models]
    each = []
    for corruption in results["settings"]["corruptions"]:
        own = [[r for r in m["shift"]["conditions"] if r["corruption"] == corruption] for m in models]
        plot = plots.against_severity(curves("accuracy", own), "accuracy, %", small=True) if level < 1 else None
        accuracies = [100 * sum(r["accuracy"]["value"] for r in rows) / len(rows) for rows in own]
        errors = [100 * sum(r["ece"]["value"] for r in rows) / len(rows) for rows in own]
        each.append({"name": corruption.replace("_", " "), "plot": plot, "accuracies": accuracies, "errors": errors})
    return {
        "accuracy": plots.against_severity(curves("accuracy", means), "accuracy, %"),
        "ece": plots.against_severity(curves("ece", means), "calibration error, %"),
        "each": each,
    }


def _reliability_plots(results: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """(kind of images, a diagram for each model)."""
    kinds = ["clean", "shift"] if results["settings"]["corruptions"] else ["clean"]
    return [
        (
            "Clean images" if kind == "clean" else "Corrupted images, all together",
            [
                {
                    "model": i,
                    "name": short(name),
                    # The mean ECE over corruptions is not that of this pooled diagram.
                    "ece": model["clean"]["ece"]["value"] if kind == "clean" else None,
                    "plot": plots.reliability_diagram(model[kind]["reliability"], i),
                }
                for i, (name, model) in enumerate(results["models"].items())
            ],
        )
        for kind in kinds
    ]


def _histograms(results: dict[str, Any]) -> list[tuple[str, list[list[dict[str, Any]]]]]:
    """(name of the set, for each model a histogram for each score)."""

    def card(i: int, name: str, model: dict[str, Any], score: str, values: dict[str, Any]) -> dict[str, Any]:
        own = model["scores"][score]
        plot = plots.score_histogram(own["edges"], own["inside"], values["outside"], i)
        return {"model": i, "name": short(name), "title": own["title"], "plot": plot, **values}

    return [
        (
            printable(set_name),
            [
                [card(i, name, model, score, values) for score, values in model["ood"][set_name]["scores"].items()]
                for i, (name, model) in enumerate(results["models"].items())
            ],
        )
        for set_name in results["ood_sets"]
    ]


def _images(results: dict[str, Any]) -> list[dict[str, Any]]:
    titles = {
        "least_certain": "Least certain",
        "confident_mistakes": "Most confident mistakes",
        "most_certain": "Most certain",
    }
    return [
        {
            "model": i,
            "name": short(name),
            "groups": [(title, model["images"].get(key, [])) for key, title in titles.items()],
        }
        for i, (name, model) in enumerate(results["models"].items())
    ]


def _rerun(results: dict[str, Any]) -> str:
    """The command, or the same in Python for results that were made there."""
    if results["command"]:
        return printable(results["command"])
    settings = results["settings"]
    arguments = [
        f"{{{', '.join(f'{name!r}: ...' for name in results['models'])}}}",
        "data",
        f"corruptions={settings['corruptions']!r}",
        f"severities={tuple(settings['severities'])!r}",
        f"ood={{{', '.join(f'{name!r}: ...' for name in results['ood_sets'])}}}",
        f"seed={settings['seed']}",
    ]
    if settings["limit"] is not None:
        arguments.append(f"limit={settings['limit']}")
    return printable(f"kedge.evaluation.evaluate({', '.join(arguments)})")

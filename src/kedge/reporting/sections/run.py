"""What was run, and what it cost: the command, the settings, the machine, the methods."""

from collections.abc import Iterator
from typing import Any

from kedge.metrics._base import metrics
from kedge.printable import printable
from kedge.reporting.evaluations import generated
from kedge.reporting.lines import Lines
from kedge.reporting.rows import Number, Row

_SETTINGS = {
    "seed": "seed",
    "limit": "at most so many images",
    "batch_size": "images at a time",
    "resamples": "bootstrap resamples",
    "bins": "bins",
    "severities": "severities",
    "corruptions": "corruptions",
    "shift_source": "where shifted images come from",
    "fit_images": "training images that scores were fitted on",
    "scores": "scores",
    "references": "references of anchored models",
    "attacks": "attacks",
    "risk": "stated risk",
    "equalise": "sets made alike by",
}


def summary(lines: Lines) -> None:
    """What a model costs."""
    speed = [m["timing"]["images_per_second"] for m in lines.models]
    lines.add(Row("images per second", "/s", None, speed, "Cost"))
    lines.add(Row("parameters", "count", None, [m["parameters"] for m in lines.models], "Cost"))


def numbers(model: dict[str, Any], results: dict[str, Any]) -> Iterator[Number]:
    """What a model costs."""
    for metric in ("images_per_second", "seconds"):
        yield "cost", "", "", "", metric, model["timing"][metric], None
    yield "cost", "", "", "", "parameters", model["parameters"], None


def section(results: dict[str, Any], level: int) -> dict[str, Any]:
    """The command, what the conventions and settings were, and where methods come from."""
    known = {key: value for key, value in results["settings"].items() if value not in (None, [], "")}
    return {
        "command": _command(results),
        "settings": [(_SETTINGS.get(key, printable(key)), _value(value)) for key, value in known.items()],
        "conventions": [
            (printable(key), printable(words))
            for key, words in results["conventions"].items()
            if (results["ood_sets"] or key not in ("ood", *(one.name for one in metrics("ood"))))
            and ((results["settings"]["corruptions"] and generated(results)) or key != "corruptions")
        ],
        "citations": [
            {**cite, "url": cite.get("url") if str(cite.get("url")).startswith(("https://", "http://")) else None}
            for cite in results["citations"]
        ],
        "time": time_in_words(results["seconds"]),
    }


def _value(value: Any) -> str:
    return printable(", ".join(str(v).replace("_", " ") for v in value) if isinstance(value, list) else value)


def time_in_words(seconds: float | None) -> str | None:
    """Seconds for people; None for None."""
    if seconds is None:
        return None
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _command(results: dict[str, Any]) -> str:
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

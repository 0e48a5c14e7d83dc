"""One self-contained HTML page: no network, no scripts, light and dark, phone and desk."""

import functools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from kedge.files import write_text
from kedge.metrics._base import metrics
from kedge.printable import printable
from kedge.reporting.claims import comparison, settled
from kedge.reporting.files import check_results
from kedge.reporting.rows import short, value_of
from kedge.reporting.sections import (
    attack,
    calibration,
    comparing,
    decision,
    details,
    images,
    ood,
    prediction_sets,
    run,
    selective,
    shift,
    stability,
    training,
    unlabelled,
)  # fmt: skip
from kedge.reporting.summary import about, cautions, summary_rows
from kedge.reporting.svg import COLORS, GLYPHS
from kedge.reporting.text_table import MARK, sizes, subject_line, warnings

SECTIONS = (
    decision,
    training,
    shift,
    details,
    calibration,
    ood,
    selective,
    prediction_sets,
    stability,
    unlabelled,
    attack,
    comparing,
    images,
    run,
)
LIMIT = 2_000_000  # bytes
# What is left out, step by step, when a page would be larger; each step also leaves out all those before it.
LADDER = (
    "",
    "the plots of all scores but the first",
    "most of the example images",
    "all example images",
    "the score histograms and ROC curves",
    "the tables of all scores",
)


def write_report(results: dict[str, Any], path: str | os.PathLike[str]) -> Path:
    """Write the results of `kedge.evaluation.evaluate` as one HTML file under 2 MB, atomically, and return its path.

    Raises ValueError when `results` are something else.
    """
    return write_text(path, page(results))


def page(results: dict[str, Any]) -> str:
    """The page as text; what does not fit in 2 MB is left out and said."""
    results = check_results(results)
    text = ""
    for level in range(len(LADDER)):
        text = _page(results, level)
        if len(text.encode()) < LIMIT:
            break
    return text


def together(sentence: str) -> str:
    """`sentence` with numbers that stay on the line of their unit."""
    return sentence.replace(" %", "\N{NO-BREAK SPACE}%").replace("p = ", "p\N{NO-BREAK SPACE}=\N{NO-BREAK SPACE}")


@functools.cache
def _compiled() -> Any:
    """Compiled templates: to compile those of a page takes longer than to fill them in, and runs write many pages."""
    from jinja2 import BytecodeCache
    from jinja2.bccache import Bucket

    class Memory(BytecodeCache):
        def __init__(self) -> None:
            self.code: dict[tuple[str, str], Any] = {}

        def load_bytecode(self, bucket: Bucket) -> None:
            bucket.code = self.code.get((bucket.key, bucket.checksum))

        def dump_bytecode(self, bucket: Bucket) -> None:
            self.code[bucket.key, bucket.checksum] = bucket.code

    return Memory()


def templates() -> Any:
    """The pages' templates, which escape what they are given and stop at a name that is not."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("kedge.reporting"),
        bytecode_cache=_compiled(),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _training_words(models: dict[str, Any]) -> str:
    """Whether validation images were trained on, as the beginning of a sentence."""
    counts = [model["trained_on"] for model in models.values()]
    if any(counts):
        return "some were trained on (see below), and"
    return "not trained on, but" if None not in counts else "whether any were trained on is not on record, and"


def glossary(results: dict[str, Any]) -> list[tuple[str, str]]:
    """(label, meaning) of the metrics that the summary has."""
    places = {"clean", "shift", "sets", "selective", *(["ood"] if results["ood_sets"] else [])}
    models = results["models"].values()
    listed = (m for m in metrics() if m.words and places & {*m.summary})
    return [
        (f"{m.label[0].upper()}{m.label[1:]}", m.words)
        for m in listed
        if (any_ood(models, m.key) if m.part == "ood" else any(value_of(model, m) is not None for model in models))
    ]


def any_ood(models: Iterable[dict[str, Any]], key: str) -> bool:
    """Whether a metric of out-of-distribution images was measured of any model."""
    return any(key in values for model in models for own in model["ood"].values() for values in own["scores"].values())


def _sections(parts: dict[str, Any], models: int) -> list[tuple[str, str, Any]]:
    """(id, title, whether it is there) of the sections, in the order of the page."""
    over_seeds, tests = (parts["comparing"] and parts["comparing"][key] for key in ("rows", "tests"))
    summary = [("summary", "Summary", True), ("seeds", "Over seeds", over_seeds)]
    looks = [
        ("details", "Class by class", parts["details"]),
        ("images", "Images", parts["images"]),
        ("training", "Training", parts["training"]),
    ]
    return [
        *(summary + looks if models > 1 else looks + summary),
        ("unlabelled", "Without labels", parts["unlabelled"]),
        ("shift", "When images get worse", parts["shift"]),
        ("calibration", "Confidence", parts["calibration"]),
        ("outside", "Out of distribution", parts["ood"]),
        ("selective", "Answering less", parts["selective"]),
        ("stability", "Stability", parts["stability"]),
        ("prediction-sets", "Prediction sets", parts["prediction_sets"]),
        ("attack", "Under attack", parts["attack"]),
        ("comparing", "Which is better", tests),
    ]


def _page(results: dict[str, Any], level: int) -> str:
    environment = templates()
    models = results["models"]
    rows = summary_rows(results)
    omitted = [LADDER[i] for i in range(1, level + 1) if not (i == 2 and level > 2)]
    environment.globals.update(
        # For the macros, which do not see what the page is rendered with.
        names=[short(n) for n in models],
        full=[printable(n) for n in models],
        glyphs=GLYPHS,
        colors=COLORS,
        safe_src=images.safe,
        tiny_src=images.tiny,
        together=together,
        better_mark=MARK + "\N{VARIATION SELECTOR-15}",  # as text, not as a picture
    )
    parts = {part.__name__.rpartition(".")[2]: part.section(results, level) for part in SECTIONS}
    return environment.get_template("report.html").render(
        results=results,
        subject=subject_line(results),
        trained=_training_words(models),
        omitted=f"{', '.join(omitted[:-1])} and {omitted[-1]}" if len(omitted) > 1 else "".join(omitted),
        warnings=warnings(results),
        sizes=sizes(results),
        cautions=cautions(rows),
        groups=[(g, [r for r in rows if r.group == g]) for g in dict.fromkeys(r.group for r in rows)],
        claims=comparison(results),
        glossary=glossary(results),
        settled=settled(results["groups"]) if len(results["groups"]) > 1 else "",
        stories=[about(name, model, results) for name, model in models.items()],
        heat_scale=shift.legend_of_heat(),
        sections=_sections(parts, len(models)),
        tails=list(decision.TAILS.items()),
        rule=decision.rule(parts["decision"]),
        each_image=any(model["answers"] for model in models.values()),
        **parts,
    )

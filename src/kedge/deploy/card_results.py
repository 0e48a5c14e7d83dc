"""The parts of a model card that come from results: the table of the evaluation, and what it leaves open."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedge.deploy.card_text import escaped, path_word
from kedge.metrics._base import metrics
from kedge.reporting.evaluations import generated, on_validation, shift_notes
from kedge.reporting.rows import dig, estimate, value_of
from kedge.reporting.summary import cautions, summary_rows
from kedge.reporting.text_table import LEGEND, OOD_LEGEND, sizes, subject_line, warnings

if TYPE_CHECKING:
    from huggingface_hub import EvalResult


def quick_look(results: dict[str, Any], references: int) -> bool:
    """Whether results are of some of the images alone, or of fewer references than the model answers with."""
    used = results["settings"].get("references")
    return bool(results["data"].get("limited")) or (isinstance(used, int) and used < references)


def evaluation(results: dict[str, Any] | None, why: str, run: Path | None, changed: str) -> str:
    """The table of the evaluation, with what its numbers mean; or `why` there is none, of the model of `run`."""
    if results is None:
        command = f"kedge evaluate {path_word(run)}" if run is not None else "kedge evaluate MODEL --data DATA"
        return (
            f"## Evaluation\n\n{escaped(why[:1].upper() + why[1:])}. `{command}` measures it, and `kedge card` writes "
            "the table here."
        )
    rows = summary_rows(results)
    lines = ["## Evaluation"]
    if changed:
        lines.append(f"**Measured before the model was changed, and not of the files here.** {changed}")
    if on_validation(results):
        lines.append(
            "**Measured on validation images, not on test images.** Those of the run set the reject threshold (and the "
            "temperature, where there is one), so new images may do worse."
        )
    lines.append(f"On {escaped(_public(subject_line(results)), 400)}.")
    table, group = "| | | 95 % interval |\n| --- | ---: | --- |", None
    for row in rows:
        if row.group != group:
            group = row.group
            table += f"\n| **{escaped(_public(group))}** | | |"
        arrow = {"higher": "↑ ", "lower": "↓ ", None: ""}[row.better]
        table += f"\n| {arrow}{escaped(_public(row.title))} | {escaped(row.text(0))} | {escaped(row.spread(0))} |"
    lines.append(table)
    legends = [LEGEND.partition(";")[0] + ".", cautions(rows), *_conditions(results)]
    legends += [OOD_LEGEND, sizes(results)] if results["ood_sets"] else []
    lines.append(escaped(" ".join(filter(None, legends)), 2000))
    lines += [escaped(f"{name}: {note}.", 600) for name, own in shift_notes(results) for note in own]
    lines += [f"**{escaped(_public(line), 400)}**" for line in warnings(results)]
    return "\n\n".join(lines)


def _conditions(results: dict[str, Any]) -> Iterator[str]:
    (model,), settings = results["models"].values(), results["settings"]
    when, version = str(results["created"])[:10], results["machine"]["kedge"]
    measured = f"Measured on {when} with kedge {version}, seed {settings['seed']}"
    references = model["references"]
    if references is not None:
        measured += f", {references} reference{'' if references == 1 else 's'}"
    yield f"{measured}."
    if settings["corruptions"]:
        if generated(results):
            yield "Corruptions are made by kedge; they are not the published corrupted files."
        else:
            yield f"Corrupted images are published ones: {settings['shift_source']}."


def limits(results: dict[str, Any] | None, folds: bool = False) -> str:
    """What was not looked into; `folds`: cross-validation judged the training."""
    lines = ["## Limits", "What was not measured is not known:"]
    if results is None:
        missing = [f"everything but the accuracy {'in cross-validation' if folds else 'on validation images'}"]
    else:
        (model,) = results["models"].values()
        missing = [
            words
            for measured, words in (
                (results["settings"]["corruptions"] or results["shift_sets"], "images under other conditions (shift)"),
                (results["ood_sets"], "whether it notices images of other kinds than its classes"),
                (model["attacks"], "images that were changed to deceive it (attacks)"),
            )
            if not measured
        ]
        kind = "validation" if on_validation(results) else "test"
        if kind == "validation":
            missing.insert(0, "test images")
        if results["data"]["limited"]:
            images, of = results["data"]["images"], results["data"]["of"]
            missing.append(f"{of - images:,} of the {of:,} {kind} images: the numbers are of a random subset")
    missing.append("whether it treats groups of people alike, and images from other sources than those named above")
    return "\n\n".join(lines) + "\n\n" + "\n".join(f"- {words}" for words in missing)


def eval_results(results: dict[str, Any], hub_data: str | None) -> list["EvalResult"]:
    """The numbers for the hub's metadata: those of which claims are made, clean and corrupted, as fractions."""
    from huggingface_hub import EvalResult

    (model,), data = results["models"].values(), results["data"]
    name = Path(str(data["name"])).name if hub_data is None else hub_data
    values = [(one, "", value_of(model, one)) for one in metrics() if one.claims]
    values += [(one, ", corrupted", dig(model, "shift", "mean", one.key)) for one, _, _ in values]
    return [
        EvalResult(
            task_type="image-classification", task_name="Image classification",
            dataset_type=name, dataset_name=name, dataset_split=data["split"] or None,
            metric_type=one.key, metric_value=round(cell["value"], 4), metric_name=f"{one.label}{place}",
        )
        for one, place, value in values
        if (cell := estimate(value)) is not None
    ]  # fmt: skip


def _public(line: str) -> str:
    """A line without the folders of this machine: of an absolute path only the last part stays."""
    return re.sub(r"(?<!\S)(~|[A-Za-z]:)?[/\\](?:[^/\\\s]+[/\\])+([^/\\\s]+)", r"\2", line)

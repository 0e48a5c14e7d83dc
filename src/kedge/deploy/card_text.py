"""The parts of a model card that come from a recipe and from results, and Markdown that a name cannot break out of."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedge import catalog
from kedge.metrics._base import metrics
from kedge.reporting.rows import dig, estimate, number, short, value_of
from kedge.reporting.sections.ood import ranked, usual_score
from kedge.reporting.summary import cautions, summary_rows
from kedge.reporting.table import LEGEND, OOD_LEGEND, sizes, subject_line, warnings
from kedge.training.nested import AUTO, DEFAULTS, ROOMS, innermost, methods, takes

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

MANY = 100  # so many classes are listed by name
_SIGNS = re.compile(r"([\\`*_{}\[\]<>#|~&!@$^]|:(?=//)|(?<=www)\.)")
# What a reader needs to train the like; names, folders and devices of this machine are no part of it.
_SHOWN = (
    "model", "arguments", "pretrained", "init_from", "image_size", "augment", "anchored", "references", "choose",
    "residuals", "objective", "class_weights", "optimizer", "lr", "momentum", "weight_decay", "clip", "ema", "schedule",
    "warmup", "sampler", "epochs", "batch_size", "precision", "label_noise", "average", "seed",
)  # fmt: skip

_PAPER = re.compile(r"https?://[\w./:%~+-]+")
_KEPT = ("model", "arguments", "image_size", "anchored", "references", "choose", "seed")
_WORDS = {"choose": "references chosen", "init_from": "started from", "lr": "learning rate"}


def escaped(value: Any, most: int = 200) -> str:
    """Text of a user as Markdown that shows it: no markup, no HTML, no links, no line breaks, not too long."""
    return _SIGNS.sub(r"\\\1", short(value, most))


def path_word(run: Path) -> str:
    """What the command line finds a run by, fit for a code span: its path below runs/, else the word RUN.

    Other parts of the path say how a machine is laid out.
    """
    parts = run.resolve().parts
    below = parts[len(parts) - parts[-2::-1].index("runs") - 1 :] if "runs" in parts[:-1] else ()
    plain = all(re.fullmatch(r"\w[\w.+-]*", part) for part in below)
    return "/".join(below) if below and plain else "RUN"


def hub_name(data: Any, run: Path | None) -> str | None:
    """`data` if it is a name of the hub, "owner/name", and no folder here or where the run was made."""
    if not isinstance(data, str) or not re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", data, re.ASCII):
        return None
    # A run may lie deep below the folder that it was made in: runs/low-on-digits/all-0/linear-probe.
    places = [Path(data), *([place / data for place in (run, *run.resolve().parents)] if run is not None else [])]
    return None if any(place.exists() for place in places) else data


def data_name(data: Any, run: Path | None) -> str:
    """What to call the data: a name of the hub, else the last part of the path."""
    return hub_name(data, run) or Path(str(data)).name or "data"


def training(recipe: dict[str, Any], facts: dict[str, Any], run: Path | None, moved: bool = False) -> str:
    """The section on training data and recipe; of an adapted model on what was done to which model.

    `moved`: whether a step has changed labels since the accuracy was measured.
    """
    before = ", before its labels were moved to other class shares" if moved else ""
    adapted: dict[str, Any] = facts.get("adaptation") or {}
    if not recipe:
        return "## Training\n\nHow it was trained is not recorded with the model."
    counts = facts.get("data") or {}
    data = escaped(data_name(recipe.get("data"), run))
    did = "Adapted to" if adapted else "Trained on"
    sentence = f"{did} {data}"
    if isinstance(counts.get("train"), int) and isinstance(counts.get("val"), int):
        validation = f"{counts['val']:,}" if counts["val"] else "none"
        sentence = f"{did} {counts['train']:,} images of {data}; {validation} were held out for validation"
    folds, accuracy = facts.get("folds"), estimate(dig(facts, "validation", "accuracy"))
    if folds and accuracy is not None:
        sentence = (
            f"{did} {counts.get('train')} images of {data}. None was held out: in {folds.get('folds')}-fold "
            f"cross-validation {folds.get('images')} of them were each judged by a model that was not trained on it, "
            f"and {number(accuracy['value'], '%')} % were right{before}"
        )
    elif accuracy is not None:
        sentence += f", of which it got {number(accuracy['value'], '%')} % right{before}"
    lines = ["## Training", f"{sentence}.", "| recipe | |\n| --- | --- |"]
    lines[-1] += "".join(f"\n| {words} | {escaped(value)} |" for words, value in _adapted(adapted, facts, run))
    for key in _SHOWN:
        value = recipe.get(key)
        # Of a way to adapt that is no training by the recipe that names the network.
        if adapted and (key == "init_from" or ("epochs" not in adapted and key not in _KEPT)):
            continue
        off = value is None or value is False or value in ({}, [], "none") or (value == 0 and key != "seed")
        if off or (key == "sampler" and value == DEFAULTS[key]):
            continue
        if key == "momentum" and not takes("optimizer", innermost(recipe.get("optimizer", AUTO)), key):
            continue
        if not recipe.get("anchored") and key in ("references", "choose", "residuals"):
            continue
        if key == "init_from":
            value = data_name(value, run)
        lines[-1] += f"\n| {_WORDS.get(key, key.replace('_', ' '))} | {escaped(_value(value))} |"
    if further := _further(recipe.get("extra") or {}, facts.get("extra") or {}, run):
        lines[-1] += f"\n| further images | {escaped(further)} |"
    return "\n\n".join(lines)


def _further(places: dict[str, Any], counted: dict[str, Any], run: Path | None) -> str:
    """The further images by the stream's name: how many, as run.json has it, of which data, as the recipe names it."""
    words = []
    for name in dict.fromkeys([*places, *counted]):
        count = dig(counted, name, "images")
        parts = [f"{count:,}"] if isinstance(count, int) else []
        if name in places:
            parts.append(data_name(places[name], run))
        words.append(f"{name}: {' of '.join(parts)}")
    return ", ".join(words)


def _adapted(done: dict[str, Any], facts: dict[str, Any], run: Path | None) -> Iterator[tuple[str, str]]:
    """The rows that say what `kedge adapt` did: (words, value)."""
    for key in ("how", "from"):
        value = str(done.get(key, ""))
        if key == "from" and not value.startswith(("hf-hub:", "timm/")):
            value = data_name(value.removesuffix("/model"), run)
        if value:
            yield key, f"{value}: {_way(value)}" if key == "how" and _way(value) else value
    if done.get("strength") is not None:
        chosen = f" ({done['chosen']})" if done.get("chosen") else ""
        yield "strength", f"{done['strength']:.3g}{chosen}"
    if done.get("share") is not None:
        yield "share", f"{done['share']:g} of lp-ft" + (", chosen on validation images" if done.get("curve") else "")
    # A study calls its folders SHOTS-DRAW, and takes exactly so many images of each class.
    shots = re.fullmatch(r"(\d+)-\d+", run.resolve().parent.name) if run is not None else None
    classes = dig(facts, "data", "classes")
    if shots and classes and done.get("train") == int(shots[1]) * len(classes):
        yield "shots", f"{int(shots[1]):,} of each class"


def _way(how: str) -> str:
    """What a way to adapt does, in a line; empty for one of another version."""
    try:
        return catalog.summary("procedures", how).rstrip(".")
    except ValueError:
        return ""


def _value(value: Any) -> str:
    """A value of a recipe for people: Anchored (alpha 0.25), CrossEntropy."""
    if isinstance(value, dict):
        parts = [f"{k} ({_value(v)})" if isinstance(v, dict) else f"{k} {_value(v)}" for k, v in value.items()]
        return ", ".join(parts)
    if isinstance(value, list):
        return ", ".join(map(_value, value))
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)


def on_validation(results: dict[str, Any]) -> bool:
    """Whether results are of validation images, by which a model is chosen and its reject threshold set."""
    return bool(results["data"]["split"] == "val")


def quick_look(results: dict[str, Any], references: int) -> bool:
    """Whether results are of some of the images alone, or of fewer references than the model answers with."""
    used = results["settings"].get("references")
    return bool(results["data"].get("limited")) or (isinstance(used, int) and used < references)


def evaluation(results: dict[str, Any] | None, why: str, changed: str) -> str:
    """The table of the evaluation, with what its numbers mean; or why there is none."""
    if results is None:
        return f"## Evaluation\n\n{why}"
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
        yield "Corruptions are made by kedge; they are not the published corrupted files."


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


def papers(recipe: dict[str, Any], results: dict[str, Any] | None, how: str = "", steps: Sequence[type] = ()) -> str:
    """The section on what model, training and table rest on: the papers that their methods name.

    `how`: the way that a model was adapted in; `steps`: the classes of those after its logits.
    """
    way = [catalog.get("procedures", how)] if _way(how) else []
    unseen = _not_in_the_table(results) if results else set()
    measured = [paper for paper in (results or {}).get("citations", []) if paper.get("url") not in unseen]
    lines: dict[str, str] = {}
    for paper in [*catalog.citations([*way, *_methods(recipe), *steps]), *measured]:
        if _PAPER.fullmatch(str(paper.get("url"))):
            what = escaped(str(paper["what"])[:1].upper() + str(paper["what"])[1:])
            lines.setdefault(paper["url"], f"- {what}: [{escaped(paper['cite'])}]({paper['url']})")
    return "## Papers\n\n" + "\n".join(lines.values()) if lines else ""


def _not_in_the_table(results: dict[str, Any]) -> set[str]:
    """The addresses of the papers of metrics and scores whose numbers the report has, but not the card's table."""
    sets = [own["scores"] for model in results["models"].values() for own in (model.get("ood") or {}).values()]
    best = {score for scores in sets for score in ranked(scores)[:1]} | {usual_score()}
    scores = {name: catalog.get("scores", name) for name in catalog.names("scores")}
    listed = [*(m for m in metrics() if m.summary), *(scores[name] for name in scores if name in best)]
    every = {paper["url"] for paper in catalog.citations([*metrics(), *scores.values()])}
    return every - {paper["url"] for paper in catalog.citations(listed)}


def _methods(recipe: dict[str, Any]) -> Iterator[Any]:
    """A recipe's objectives and the attacks in them, its rules, schedule and sampler; not those of one's own."""
    for entry in recipe.get("objective") or []:
        try:
            name, values = catalog.spelled("objectives", entry)
            specs = [("objectives", name), *([("attacks", values["attack"])] if values.get("attack") else [])]
            named = [(room, catalog.spelled(room, spec)[0]) for room, spec in specs]
            yield from (catalog.get(room, each) for room, each in named if ":" not in each)
        except ValueError:  # a name of another version
            continue
    for key, room in ROOMS.items():
        try:
            listed = [name for name, _ in methods(key, recipe.get(key, AUTO)) if ":" not in name and name != AUTO]
            yield from (catalog.get(room, name) for name in listed)
        except ValueError:
            continue


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

"""The parts of a model card that come from a recipe, the papers, and Markdown that a name cannot break out of."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from kedge import catalog, specs
from kedge.metrics._base import metrics
from kedge.reporting.rows import dig, estimate, number, short
from kedge.reporting.sections.ood import ranked, usual_score
from kedge.training.nested import AUTO, DEFAULTS, ROOMS, innermost, methods, takes

MANY = 100  # so many classes are listed by name
_SIGNS = re.compile(r"([\\`*_{}\[\]<>#|~&!@$^]|:(?=//)|(?<=www)\.)")
# What a reader needs to train the like; names, folders and devices of this machine are no part of it.
_SHOWN = (
    "model", "arguments", "pretrained", "init_from", "image_size", "imbalance", "augment", "anchored", "references",
    "choose", "residuals", "objective", "class_weights", "optimizer", "lr", "momentum", "weight_decay", "clip", "ema",
    "schedule", "warmup", "sampler", "epochs", "batch_size", "precision", "label_noise",
    "label_noise_kind", "label_noise_val", "average", "seed",
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
        if recipe.get("label_noise_val"):
            sentence += " by labels a share of which is wrong on purpose"
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
        if key == "label_noise_kind" and not recipe.get("label_noise"):
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
            name, values = specs.spelled("objectives", entry)
            written = [("objectives", name), *([("attacks", values["attack"])] if values.get("attack") else [])]
            named = [(room, specs.spelled(room, spec)[0]) for room, spec in written]
            yield from (catalog.get(room, each) for room, each in named if ":" not in each)
        except ValueError:  # a name of another version
            continue
    for key, room in ROOMS.items():
        try:
            listed = [name for name, _ in methods(key, recipe.get(key, AUTO)) if ":" not in name and name != AUTO]
            yield from (catalog.get(room, name) for name in listed)
        except ValueError:
            continue

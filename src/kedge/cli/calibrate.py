"""`kedge calibrate`: set a step after the logits on validation images and save it with the model, or take it out."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from kedge.catalog import class_name, class_names, stated
from kedge.cli.load_data import workers_for
from kedge.cli.output import warnings_of
from kedge.cli.parse import separated
from kedge.cli.resolve_model import Source, find
from kedge.cli.set_words import about_sets
from kedge.cli.validation_data import images_to_fit_on
from kedge.rejection import goal_in_words, in_words

if TYPE_CHECKING:
    from kedge.data import ImageSet

FEW = 100  # images below which it is said that they are few


def run(
    model: str,
    *,
    data: str | None = None,
    split: str = "val",
    step: Annotated[str, "postprocess"] = "temperature",
    prior: Sequence[str] | None = None,
    train_prior: Sequence[str] | None = None,
    coverage: float | None = None,
    sets: Literal["lac", "aps", "raps"] | None = None,
    by_class: bool = False,
    remove: bool = False,
    out: str | None = None,
    batch_size: int = 128,
    device: str = "auto",
) -> int:
    """Make confidences fit: divide the logits of a trained model by one number, the temperature.

    It is fitted on validation images (those that the run held out of training), saved with the model under its name,
    and used by kedge predict, evaluate and export from then on. No label changes. The reject threshold is set anew, for
    the same coverage on the same images. --remove takes the temperature out and brings the old threshold back.

    --step class_prior is for images with other shares of the classes than the training images, such as equal ones after
    training on few of some classes: log(share to come / share in training) is added to the logits (Saerens et al.
    2002). Labels change. It goes after the temperature: fit that first.

    --coverage 0.9 sets the threshold of prediction sets: for each image all classes that fit, with the true one among
    them for 90 % of images that are like these. Logits and reject threshold stay. It rests on the other steps: set
    those first.

    Args:
        model (MODEL): {TRAINED}
        data: images to fit on: an image folder, parquet files, a folder of $KEDGE_DATA or a hub name; null: those that
            the run held out of training
        split: part of the data; not test: those images are for judging the result
        step: what to do to the logits
        prior (SHARE): of class_prior, the class shares of the images to come: uniform, or a number for each class in
            the model's order; null: uniform
        train_prior (SHARE): of class_prior, a number for each class of the training images; null: counted from those of
            the run
        coverage: of prediction_sets, the share of images like these whose set holds the true class, such as 0.9
        sets: of prediction_sets: lac, the smallest on average; aps, never empty, larger for harder images; raps, aps
            without its longest ones; null: lac
        by_class: of prediction_sets, a threshold for each class, so that the share is that of each class too
        remove: take the step out instead of setting it
        out: model folder to write; null: the model's own, which is replaced
        batch_size: {BATCH_SIZE}
        device: {DEVICE}
    """
    if coverage is not None and step == "temperature":  # what coverage is said for has one meaning
        step = "prediction_sets"
    if (sets is not None or by_class) and (coverage is None or remove):
        flag = "--by_class" if by_class else f"--sets {sets}"
        raise ValueError(f"{flag} is of prediction sets that are set: say which coverage they promise, --coverage 0.9")
    if coverage is not None:
        from kedge.postprocess import images_needed

        images_needed(coverage)  # refuses what is no share, before a model is read
    source = find(model)
    own = source.folder(
        "an exported file is calibrated by calibrating the run it came from and exporting it again; of an ensemble its "
        "members are; of a cascade calibrate its two models, and choose the rule anew (kedge cascade)"
    )
    if source.on_hub and not out:
        raise ValueError(f"{model} is on the hub, and its copy here is not written to: name a folder with --out")
    import kedge
    from kedge.postprocess import kind_of

    loaded = source.load(device)
    if remove:
        if step not in loaded.steps:
            raise ValueError(f"{model} has no {step} to remove")
        if kind_of(step).stage < 0:
            raise ValueError(f"{model} was trained through its {step}: without it no confidence is right, so it stays")
        lines = _removed(loaded, step)
    else:
        stated = {"prior": _shares(prior, "--prior"), "train_prior": _shares(train_prior, "--train_prior")}
        stated |= {"coverage": coverage, "sets": sets, "by_class": by_class or None}
        if kind_of(step).changes_labels:
            _check_unweighted(source)
            stated["train_counts"] = _train_counts(source, loaded)
        images = images_to_fit_on(source, loaded, data, split)
        lines = _calibrated(loaded, images, batch_size, step, stated)
        if step == "temperature" and len(images) < FEW:
            lines.append(
                f"careful: {len(images)} images are few to fit a temperature on, and it may make confidences worse: "
                "measure before you trust them (kedge evaluate)"
            )
    folder = kedge.save(loaded.cpu(), out or own)
    print("\n".join(lines))
    print(f"saved: {folder}")
    if not remove:
        words = "" if step == "temperature" else f" --step {step}"
        print(f"take it out again: kedge calibrate {out or model}{words} --remove")
    return 0


def _shares(texts: Sequence[str] | None, flag: str) -> Any:
    """None, "uniform" or the numbers of a flag."""
    words = separated(texts or [])
    if not words or words == ["uniform"]:
        return words[0] if words else None
    try:
        return [float(word) for word in words]
    except ValueError:
        raise ValueError(f"{flag} is uniform or a number for each class, got {' '.join(words)}") from None


def _check_unweighted(source: Source) -> None:
    """Raise ValueError where a training weighed the classes: the logits are not of the shares of its images."""
    from kedge.training.checkpoint_selection import trainings_in

    for run in trainings_in(source.path) if source.path is not None else []:
        if weighs := _weighs(run):
            own = source.run is not None and run.resolve() == source.run.resolve()
            start = "" if own else f" in {run}, that it started from and has weights of"
            raise ValueError(
                f"{source.name} was trained with {weighs}{start}, which counts the classes in other shares than its "
                "training images have: a class prior on top would correct twice"
            )


def _weighs(run: Path) -> str | None:
    """What in the recipe or the making of a run weighed its classes; None where nothing did."""
    from kedge.training.nested import DEFAULTS, methods
    from kedge.training.recorded import recorded, recorded_facts

    recipe = recorded(run)
    for key, value in _entries({key: recipe.get(key) for key in ("class_weights", "objective")}):
        if (key == "class_weights" and value not in (None, "none")) or "balanced" in f"{key} {value}".lower():
            return f"{key} {value}"
    corrects = [name for name in _names(recipe.get("objective")) if stated("objectives", name, "equal_classes", False)]
    if corrects:
        return f"objective {corrects[0]}"
    sampler = methods("sampler", recipe.get("sampler", DEFAULTS["sampler"]))[0][0]
    if sampler != DEFAULTS["sampler"]:  # what one of the user's own draws is not known
        return f"sampler {sampler}"
    facts = recorded_facts(run) if (run / "run.json").is_file() else {}
    how = (facts.get("adaptation") or {}).get("how")
    return f"--how {how}" if how is not None and stated("procedures", how, "equal_classes", False) else None


def _names(value: Any) -> Iterator[str]:
    """The names of methods of kedge in an objective as a recipe has it, and in what is nested in it."""
    if isinstance(value, str) and class_name("objectives", value) in class_names("objectives"):
        yield value
    elif isinstance(value, Mapping):
        for name, inner in value.items():
            yield from [*_names(name), *_names(inner)]
    elif isinstance(value, list):
        for inner in value:
            yield from _names(inner)


def _entries(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """The names and plain values in a part of a recipe, each with the key that it stands at."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _entries(inner, str(name)) if isinstance(inner, Mapping | list) else [(str(name), inner)]
    elif isinstance(value, list) and key != "class_weights":
        for inner in value:
            yield from _entries(inner, key)
    elif value is not None:
        yield key, value


def _train_counts(source: Source, model: Any) -> list[int] | None:
    """How many training images of each class the run had; None where that is not known."""
    import torch

    from kedge.training.held_out import RunImages

    record = source.record()
    if record is not None:
        labels = record.labels
    elif source.run is not None and source.recipe().get("data"):
        try:
            labels = RunImages(source.run).train.labels
        except ValueError:
            return None
    else:
        return None
    counts: list[int] = torch.bincount(labels, minlength=model.num_outputs).tolist()
    return counts


def _calibrated(model: Any, images: "ImageSet", batch_size: int, name: str, stated: dict[str, Any]) -> list[str]:
    from kedge.postprocess import kind_of
    from kedge.training import calibrate

    before = _threshold(model.steps.get(name, {}).get("reject_before", model.reject))
    with warnings_of("calibrate"):
        step = calibrate(model, images, name, batch_size=batch_size, workers=workers_for(images), **stated)
    if kind_of(name).keeps_logits:
        return about_sets(name, step)
    after = _threshold(model.reject)
    changes = "accuracy_after" in step
    done = f"{'measured' if changes else 'fitted'} on {step['images']} images of {step['fitted_on']}"
    lines = [
        f"{_step_in_words(name, step)}, {done}",
        "on these images        before     after",
    ]
    if changes:
        lines.append(f"accuracy           {step['accuracy_before']:10.2%}{step['accuracy_after']:10.2%}")
    lines += [
        f"NLL                {step['nll_before']:10.4f}{step['nll_after']:10.4f}",
        f"ECE                {step['ece_before']:10.2%}{step['ece_after']:10.2%}",
    ]
    if "reject_before" in step:
        lines.append(f"reject threshold   {before:>10}{after:>10}   set anew to {goal_in_words(model.reject or {})}")
    elif model.reject is not None:
        lines.append(f"reject threshold   {before:>10}{after:>10}   what it was set for is not stored: left as it is")
    if "unknown_before" in step:
        from kedge.unknown import in_words as unknown_in_words

        lines.append(f"unknown where      {unknown_in_words(model.unknown)}   set anew, as was the reject threshold")
    lines.append(
        "(they have the class shares of these images, not the new ones, and so has the threshold: judge it on images "
        "like those to come, with kedge evaluate)"
        if changes
        else "(they chose the temperature: judge it on others, with kedge evaluate)"
    )
    return lines


def _removed(model: Any, name: str) -> list[str]:
    record = model.remove_step(name)
    lines = [f"{_step_in_words(name, record)} removed: the logits are those from before it again"]
    if "reject_before" in record:
        lines.append(f"reject threshold {_threshold(model.reject)}, as before the {name}")
    elif model.reject is not None:
        lines.append(f"reject threshold {_threshold(model.reject)} stays: none was stored from before the {name}")
    if "unknown_before" in record:
        lines.append(f"the rule for unknown is the one from before the {name}")
    elif model.unknown is not None:
        lines.append(f"the rule for unknown stays: none was stored from before the {name}")
    return lines


def _step_in_words(name: str, step: dict[str, Any]) -> str:
    from kedge.postprocess import describe_steps

    return f"temperature {step['value']:.4g}" if name == "temperature" else describe_steps({name: step})[0]


def _threshold(rule: dict[str, Any] | None) -> str:
    return "none" if rule is None else in_words(rule)

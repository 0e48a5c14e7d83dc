"""`kedge train`: a recipe, or a folder of images, to a model."""

import json
import os
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from kedge import catalog, own_code
from kedge.gate import measuring
from kedge.own_code import ALLOW_CODE
from kedge.rejection import in_words
from kedge.training.nested import ROOMS, check_code
from kedge.training.recipe import Recipe, read_recipe, recipe_names

if TYPE_CHECKING:
    from kedge.training.outcome import RunResult


class _Parser(ArgumentParser):
    """Keeps only what was given on the command line, so that a flag overrides a recipe also where it is a default."""

    def parse_args(self, args: Sequence[str] | None = None, *rest: Any, **settings: Any) -> Namespace:  # type: ignore[override]
        words = _listed(list(sys.argv[1:] if args is None else args))
        # Not handed on: jsonargparse has a --print_config of its own, which prints its own view of the flags.
        others = [argument for argument in words if argument != "--print_config"]
        for argument in others:
            key, dot, below = argument.removeprefix("--").partition(".")
            if argument.startswith("--") and dot and key in ("objective", *ROOMS):
                name = below.partition("=")[0].partition(".")[0]
                self.error(
                    f"--{key} has no flags below it: say --{key} '{{{name}: {{SETTING: VALUE}}}}'"
                    + ("" if key == "objective" else ", or a setting that has a flag of its own, such as --lr, by that")
                )
        options = super().parse_args(others, *rest, **{**settings, "defaults": False})
        options.print_config = len(others) < len(words)
        return options


def _listed(words: list[str]) -> list[str]:
    """The words of a command line with names of classes as a list, `low,medium,high` as `["low", "medium", "high"]`."""
    listed = list(words)
    for place, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if flag not in ("--classes", "--ordered") or not (equals or words[place + 1 :]):
            continue
        value = value if equals else words[place + 1]
        if not value.startswith(("[", "-")) and value != "null":
            text = json.dumps([name.strip() for name in value.split(",")], ensure_ascii=False)
            listed[place if equals else place + 1] = f"{flag}={text}" if equals else text
    return listed


def parser() -> ArgumentParser:
    """The flags of `kedge train`: every key of a recipe, and where to start from."""
    flags = _Parser(prog="kedge train", description=run.__doc__)
    recipes = f"recipe to start from: a YAML file, or one of {', '.join(recipe_names())}; other flags override it"
    flags.add_argument("--config", type=str, metavar="NAME|FILE", help=recipes)
    folder = "folder of a run that was broken off; goes on after its last epoch"
    flags.add_argument("--resume", type=str, metavar="RUN", help=folder)
    flags.add_argument("--allow_code", action="store_true", help=ALLOW_CODE)
    flags.add_argument("--print_config", action="store_true", help="print the recipe as YAML and do nothing else")
    flags.add_class_arguments(Recipe, None)
    for key, room in {"objective": "objectives", **ROOMS}.items():
        action = flags._option_string_actions[f"--{key}"]
        action.help = f"{str(action.help).rstrip('.')}; there are {', '.join(catalog.names(room)).replace('_', '-')}."
    return flags


def run(
    config: str | None = None,
    resume: str | None = None,
    allow_code: bool = False,
    print_config: bool = False,
    **values: Any,
) -> int:
    """Train a classifier on images.

    kedge train --data FOLDER needs nothing else: FOLDER/class/*.jpg, or FOLDER/train/class/*.jpg with val and test
    beside it. The run's folder holds the model, last.ckpt to resume from, metrics.csv, the recipe as it was run, and
    report.html.
    """
    if resume is not None:
        if config is not None:
            raise ValueError("--resume goes on with the run's own recipe: leave out --config")
        _first_line(f"{resume}: going on")
        from kedge.training.folder import RunFolder

        RunFolder.open(resume)  # a wrong name is said before Lightning is imported, which takes longer than PyTorch
        return _train(values, resume, allow_code)
    base = asdict(read_recipe(config)) if config is not None else {}
    recipe = Recipe.from_dict({**base, **Recipe.typed(values)})
    if print_config:
        print(recipe.to_yaml(), end="")
        return 0
    with own_code.allow_code(allow_code):  # before anything slow is imported
        check_code(vars(recipe))
    _first_line(f"{recipe.data or 'digits'}: looking through the images")
    if recipe.data is not None:
        from kedge.data.sources import resolve

        resolve(recipe.data)  # as above
    return _train(recipe, None, allow_code)


def _first_line(what: str) -> None:
    """Say that it begins, before PyTorch is imported, which takes seconds; of several processes the first speaks."""
    first = all(os.environ.get(rank, "0") == "0" for rank in ("RANK", "LOCAL_RANK", "SLURM_PROCID"))
    if first and sys.modules.get("torch") is None:
        print(f"{what}, once PyTorch is there (some seconds)", flush=True)


def _train(recipe: Recipe | dict[str, Any], resume: str | None, allowed: bool) -> int:
    from lightning.fabric.utilities.rank_zero import rank_zero_only

    from kedge.binomial import accuracy_interval, folds_interval
    from kedge.training import fit
    from kedge.training.banner import about_bank
    from kedge.training.folds import fold_folder
    from kedge.training.leaks import fares
    from kedge.unknown import about_unknown

    if allowed:
        own_code.working_folder_first()
    result = fit(recipe, resume=resume, allow_code=allowed)
    if getattr(rank_zero_only, "rank", 0) != 0:  # one of several processes: the first one speaks
        return 0
    measured, rule = result.validation, result.model.reject or {}
    accuracy, error = 100 * measured["accuracy"], 100 * measured["ece"]
    share = f", {result.recipe.average:g} of the trained weights" if result.recipe.average is not None else ""
    mean = f", mean over {result.recipe.references} references" if about_bank(result.recipe) else ""
    count = result.images
    which = f"{count:,} images"
    if result.folds is not None:
        which = f"{count:,} images by {result.folds['folds']} folds, each by a model that was not trained on it"
    interval = accuracy_interval if result.folds is None else folds_interval
    bounds = _bounds(measured["accuracy"], count, interval)
    print(
        f"\nvalidation{share}{mean}: accuracy {accuracy:.1f} % of {which}{bounds}, "
        f"NLL {measured['nll']:.3f}, ECE {error:.1f} %"
    )
    if words := fares(result.leaks, interval):
        print(words)
    if result.robust is not None:
        print(_robust(result.robust))
    if step := result.model.steps.get("temperature"):
        print(
            f"temperature {step['value']:.3g}, fitted on these images: NLL {step['nll_before']:.3f} before, "
            f"{step['nll_after']:.3f} after"
        )
    if rule:
        met, right = round(rule["validation_coverage"] * count), rule["validation_accuracy"]
        share = "" if right is None else f", {100 * right:.1f} % of them right{_bounds(right, met, interval)}"
        print(f"confidence of {in_words(rule)} or more: {met:,} of the {count:,} images{share}")
    if result.model.unknown is not None:
        print("\n".join(about_unknown(result.model)))
    print(f"model:  {result.folder / 'model'}")
    for other, measured in result.beside.items():
        print(f"{other}:   {result.folder / other}    validation accuracy {100 * measured['accuracy']:.1f} %")
    if result.report is not None:
        print(f"report: {result.report}")
    if result.folds is not None:
        print(
            f"        of fold 1; the folds can be evaluated: kedge evaluate {fold_folder(result.folder, 1)} --split val"
        )
    print(f"next:\n{_next_commands(result)}")
    if result.folds is not None and not _has_test(result.recipe):
        print(
            "to calibrate and evaluate it takes labelled photos that it has not seen: name them with --data, or hold "
            "some out from the start with kedge train --folds 0"
        )
    return 0


def _next_commands(result: "RunResult") -> str:
    """The commands that a newcomer needs after a training, each with what it is for."""
    folder = shlex.quote(str(result.folder))
    gate = result.recipe.gate
    further = f" {measuring(gate)}" if measuring(gate) else ""
    from kedge.training.record import ImageRecord

    unseen = result.folds is None  # of few photos none is left that the model did not see
    measured = unseen or _has_test(result.recipe)
    record = ImageRecord.read(result.folder)
    photos = record is not None and record.photos
    rows = [
        (unseen, "calibrate", "", "make its confidence fit"),
        (measured, "evaluate", further, "how far to trust it, on one page"),
        (measured and bool(gate), "check", "", "whether it meets the gate of its recipe, by that evaluation"),
        (True, "predict", " IMAGES...", "labels, confidences, and what to reject"),
        (unseen, "evaluate", " --unlabelled FOLDER", "about how many answers are right on new photos"),
        (not photos, "export", "", "one ordinary file to deploy"),
        (photos, "export", " --input photo", "one ordinary file to deploy: a photo in, its answer out"),
    ]
    lines = [(f"kedge {command} {folder}{rest}", about) for possible, command, rest, about in rows if possible]
    width = max(len(line) for line, _ in lines)
    return "\n".join(f"  {line:<{width}}   {about}" for line, about in lines)


def _has_test(recipe: Recipe) -> bool:
    from kedge import data

    return "test" in data.splits(str(recipe.data))


def _bounds(share: float, count: int, interval: Callable[[int, int], tuple[float, float]]) -> str:
    if not count:
        return ""
    low, high = interval(round(share * count), count)
    return f" (95 % interval {100 * low:.1f} to {100 * high:.1f} %)"


def _robust(record: dict[str, Any]) -> str:
    from kedge.epsilon import print_ball

    best, last = record["best"], record["last"]
    one = ", by one reference of the bank" if record["anchored"] else ""
    eps = print_ball(record["eps"], record["norm"])
    lines = [f"PGD-{record['steps']} with eps {eps} on {record['images']} of the validation images{one}:"]
    for name, row in (("best", best), ("last", last)):
        chosen = "  (kept as model)" if record["kept"] == name and "averaged" not in record else ""
        lines.append(
            f"  {name}: epoch {row['epoch']}, {100 * row['pgd']:.1f} % under attack, {100 * row['accuracy']:.1f} % "
            f"clean{chosen}"
        )
    lines.append(f"  robust overfitting (best less last): {100 * (best['pgd'] - last['pgd']):.1f} points")
    if averaged := record.get("averaged"):
        share, pgd = averaged["share"], averaged["pgd"]
        lines.append(f"  averaged with the start, {share:g} of the trained weights: {100 * pgd:.1f} % under attack")
    if best["pgd"] == 0:
        lines.append("  nothing survives the attack: train for longer, at a higher lr, or for a smaller eps")
    return "\n".join(lines)

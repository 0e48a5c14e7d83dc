"""What an average of two models needs besides their weights: batch statistics, a threshold, a folder."""

import json
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedge.cli.output import warnings_of
from kedge.cli.resolve_model import Source
from kedge.epsilon import print_epsilon
from kedge.rejection import goal_in_words, in_words

if TYPE_CHECKING:
    from kedge.attacks import Attack
    from kedge.data import ImageSet
    from kedge.data.statistics import NormBatches
    from kedge.training.record import ImageRecord

RECORD = "interpolation.json"


def norm_batches(
    ends: Sequence[Any],
    train: "ImageSet | None",
    recipe: Mapping[str, Any],
    most: int,
    batch_size: int,
    workers: int,
    seed: int,
) -> "NormBatches | None":
    """Training images, augmented as the recipe says, for the statistics of batch norm; None where none are estimated.

    That is for networks without batch norm, and for two ends with the same statistics.

    Raises:
        ValueError: if there are no training images.
    """
    from kedge.data.augment import CROP
    from kedge.data.statistics import NormBatches
    from kedge.weights.batch_norm import same_statistics

    if same_statistics(*ends):
        return None
    if train is None:
        raise ValueError(
            "the network has batch norm, whose statistics have to be estimated anew on training images, and the data "
            "has no part train: name data that has, with --data"
        )
    augment, crop = str(recipe.get("augment", "auto")), recipe.get("crop") or CROP
    return NormBatches(train, batch_size, augment, most, workers, seed, crop)


def about_norm(batches: "NormBatches | None", attack: "Attack | None") -> str:
    """What was done about batch norm, in words."""
    if batches is None:
        return "nothing was estimated anew: the network has no batch norm, or the same statistics of it at both ends"
    how = "as they are" if batches.augment == "none" else "augmented as in training"
    if attack is not None:
        steps = "" if attack.steps is None else f", {attack.steps} step{'s' if attack.steps > 1 else ''}"
        how += f", attacked as in training (eps {print_epsilon(attack.eps)}, {attack.norm}{steps})"
    return f"batch-norm statistics, between the ends, estimated anew on {len(batches.images)} training images, {how}"


def set_reject(
    model: Any, second: Any, recipe: Mapping[str, Any], val: "ImageSet", batch_size: int, workers: int
) -> list[str]:
    """Set the thresholds of `model` for what those of the second were set for; what to say of it."""
    from kedge.postprocess import describe_steps, trained_through
    from kedge.training.calibration import predict_logits, reject_rule
    from kedge.training.unknown_rule import rule_anew
    from kedge.unknown import in_words as unknown_in_words

    stated = ({key: rule.get(key) for key in ("risk", "coverage")} for rule in (second.reject or {}, recipe))
    goals = [{key: value} for rule in stated for key, value in rule.items() if value is not None]
    goal = [*goals, {"coverage": 0.95}][0]
    with warnings_of("interpolate"):
        logits, labels = predict_logits(model, val, batch_size, workers)
        model.reject = reject_rule(logits, labels, **goal)
    model.unknown = None if second.unknown is None else rule_anew(second.unknown, logits)
    if model.class_names is None:
        model.class_names = list(val.class_names)
    lines = [f"reject threshold {in_words(model.reject)}, set on these images to {goal_in_words(goal)}"]
    if second.unknown is not None and model.unknown is None:
        lines.append("the rule for unknown is left out: it is by features, and those of an average are others")
    elif model.unknown is not None:
        lines.append(
            f"unknown where {unknown_in_words(model.unknown)}: the score of the second, its threshold set anew"
        )
    fitted = {name: record for name, record in second.steps.items() if name not in trained_through(second.steps)}
    if fitted:
        lines.append(f"left out, as it was fitted to other logits: {', '.join(describe_steps(fitted))}")
    return lines


def check_free(out: Path, overwrite: bool) -> None:
    """Raise FileExistsError unless `out` is free, or an earlier result that is to be replaced."""
    if not out.exists():
        return
    if not (out / RECORD).is_file():
        raise FileExistsError(f"{out} is there already and was not written by kedge interpolate: name another --out")
    if not overwrite:
        raise FileExistsError(f"{out} is there already: name another --out, or replace it with --overwrite")


def write(
    model: Any,
    results: dict[str, Any],
    source: Source,
    out: Path,
    picture: bool,
    images: "ImageRecord | None",
) -> None:
    """Write the folder: the model, what it was made of, the recipe and the record that name its images, the sweep.

    A new folder is there whole or not at all; of an earlier one each file is replaced whole, the model first.
    """
    import kedge
    from kedge.files import sweep, whole_folder, write_text
    from kedge.regular import read_text
    from kedge.reporting.sweep import write_sweep

    results = {"kedge": kedge.__version__, **results}
    sweep(out.parent)
    with nullcontext(out) if out.exists() else whole_folder(out) as folder:
        kedge.save(model, folder / "model")
        for stale in folder.glob("sweep.*"):
            stale.unlink()
        if picture:
            write_sweep(results, folder)
        if source.run is not None and (source.run / "recipe.yaml").is_file():
            words = f"# Of {source.name}, whose images chose this average of weights; it is not what made it.\n"
            recipe = read_text(source.run / "recipe.yaml", 1_000_000)
            write_text(folder / "recipe.yaml", words + recipe)
            if images is not None:
                images.write(folder)
        write_text(folder / RECORD, json.dumps(results, indent=1, ensure_ascii=False) + "\n")

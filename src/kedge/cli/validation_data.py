"""What a run trained on and under which attack, and what it held out: for choosing between its models."""

import sys
import warnings
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kedge.cli.load_data import with_classes
from kedge.cli.parse import choose_attacks, radius
from kedge.cli.resolve_model import Source
from kedge.cli.trained_on import images_of_run, trained_by, unseen_by
from kedge.epsilon import parse_epsilon, print_epsilon

if TYPE_CHECKING:
    import jsonargparse

    from kedge.attacks import Attack
    from kedge.data import ImageSet
    from kedge.data.statistics import NormBatches
    from kedge.training.record import ImageRecord


def training_and_validation(
    source: Source, model: Any, name: str | None, first: Source
) -> "tuple[ImageSet | None, ImageSet]":
    """Training images (None where the data has none) and validation images, in the size and classes of the model.

    Of the data of the model's own run those that it trained on and held out; of other data its parts train and val.
    The validation images are such as neither the model nor `first` was trained on, as far as is known.

    Raises:
        ValueError: if no data is named and the model belongs to no run, for data without validation images, and for
            other classes.
    """
    from kedge import data

    recipe = source.recipe()
    if name in (None, recipe.get("data")) and recipe.get("data") is not None:
        images = images_of_run(source)
        train, val = images.train, unseen_by(first, images.val)
        named = with_classes(val, {source.name: model})
        train = train if named is val else with_classes(train, {source.name: model})
        return train, _checked(named, model)
    if name is None:
        raise ValueError("which data? the second model belongs to no run that says: name it with --data NAME")
    offered = data.splits(name)
    if "val" not in offered:
        raise ValueError(
            f"{name} has no validation images (it has: {', '.join(offered)}), and neither training nor test images can "
            "choose between models: the one has seen them, the other are to judge the choice. Put images of their own "
            f"into {name}/val, or name other data"
        )
    channels, height, width = model.input_shape
    side = height if height == width else None
    val = with_classes(data.load(name, "val", side, channels), {source.name: model})
    found = None
    if "train" in offered:
        found = data.load(name, "train", side, channels)
        if found.class_names != val.class_names:
            found = found.only_classes(val.class_names)
    return found, unseen_by(first, unseen_by(source, _checked(val, model)))


def _checked(images: "ImageSet", model: Any) -> "ImageSet":
    from kedge.checks import unlike_classes

    own, names = model.class_names or model.num_outputs, (images.name, "the model")
    if (unlike := unlike_classes(images.class_names, own, names)) is not None:
        raise ValueError(f"the classes of {images.name} are not those of the model: {unlike}")
    return images


def joint_record(a: Source, b: Source) -> "ImageRecord | None":
    """What the images are to an average of two models: seen by it is what either was trained on; None if not known."""
    own, other = b.record(), trained_by(a, deep=True)
    if own is None:
        return None
    if other is None or own.keys_of != other.keys_of:
        return replace(own, known=False)
    earlier = sorted(own.seen.union(other.seen).difference(own.trained))
    return replace(own, earlier=earlier, known=own.known and other.known)


def norm_batches(
    model: Any, train: "ImageSet | None", recipe: dict[str, Any], most: int, batch_size: int, workers: int, seed: int
) -> "NormBatches | None":
    """Training images, augmented as the recipe says, for the statistics of batch norm; None for a network without it.

    Raises:
        ValueError: if there are no training images.
    """
    from kedge.data.augment import CROP
    from kedge.data.statistics import NormBatches
    from kedge.weights.batch_norm import tracked

    if not tracked(model):
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
        return "the network has no batch norm, so nothing was estimated anew"
    how = "as they are" if batches.augment == "none" else "augmented as in training"
    if attack is not None:
        steps = "" if attack.steps is None else f", {attack.steps} step{'s' if attack.steps > 1 else ''}"
        how += f", attacked as in training (eps {print_epsilon(attack.eps)}, {attack.norm}{steps})"
    return f"batch-norm statistics, between the ends, estimated anew on {len(batches.images)} training images, {how}"


def chosen_attack(config: "jsonargparse.Namespace", recipe: dict[str, Any], images: "ImageSet") -> "tuple[str, Any]":
    """PGD and its name, in the norm and radius asked for, else those of the training, else the usual ones."""
    eps, norm = radius(config.eps, config.norm), config.norm
    trained = trained_attack(recipe)
    if norm is None:
        norm = trained.get("norm", "linf") if eps is None else "linf"
    if eps is None and trained.get("norm", "linf") == norm and trained.get("eps") is not None:
        eps = parse_epsilon(trained["eps"])
    config.norm = norm
    attacks = choose_attacks(["pgd"], eps, config, images)
    assert attacks is not None
    name, attack = next(iter(attacks.named.items()))
    return name, attack


def trained_attack(recipe: dict[str, Any]) -> dict[str, Any]:
    """The arguments of the attack that the recipe's objective trains with; empty if it attacks nothing."""
    _, attack = _attack_of(recipe)
    own = {} if attack is None or recipe.get("eps") is None else {"eps": recipe["eps"]}
    return {**dict((next(iter(attack.values()), None) or {}) if isinstance(attack, dict) else {}), **own}


def training_attack(recipe: dict[str, Any]) -> "Attack | None":
    """The attack that the recipe's objective trains with, in its training form; None if it attacks nothing.

    Raises:
        ValueError: for an attack that cannot be made.
    """
    from kedge import catalog
    from kedge.training.objective import with_radius
    from kedge.training.recipe import Recipe

    if _attack_of(recipe)[1] is None:
        return None
    entries = with_radius(Recipe(objective=recipe["objective"], eps=recipe.get("eps")))
    made: Attack = catalog.build("attacks", _attack_of({"objective": entries})[1]).training()
    return made


def _attack_of(recipe: dict[str, Any]) -> tuple[str, Any]:
    """The name of the first objective with an attack, and the attack as it is written; None if there is none."""
    for entry in recipe.get("objective") or []:
        for name, arguments in entry.items() if isinstance(entry, dict) else []:
            if (arguments or {}).get("attack") is not None:
                return name, arguments["attack"]
    return "", None


def set_reject(
    model: Any, second: Any, recipe: dict[str, Any], val: "ImageSet", batch_size: int, workers: int
) -> list[str]:
    """Set the reject threshold of `model` for what that of the second was set for; what to say of it."""
    from kedge.rejection import in_words
    from kedge.training.calibration import predict_logits, reject_rule

    wanted: dict[str, Any] = {}
    for rule in (second.reject or {}, recipe, {"coverage": 0.95}):
        wanted = wanted or {key: rule[key] for key in ("risk", "coverage") if rule.get(key) is not None}
    goal = {key: value for key, value in wanted.items() if key == next(iter(wanted))}
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        model.reject = reject_rule(*predict_logits(model, val, batch_size, workers), **goal)
    for warning in said:
        print(f"kedge interpolate: {warning.message}", file=sys.stderr)
    if model.class_names is None:
        model.class_names = list(val.class_names)
    words = f"keep {goal['coverage']:.0%}" if "coverage" in goal else f"be wrong in {goal['risk']:.1%} at most"
    lines = [f"reject threshold {in_words(model.reject)}, set on these images to {words}"]
    if second.steps:
        lines.append(f"left out, as it was fitted to other logits: {', '.join(second.describe_steps())}")
    return lines

"""What a model was trained on, by the record and the recipe of its run: which images, and under which attack."""

import sys
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from kedge.cli.parse import choose_attacks, radius
from kedge.cli.resolve_model import Source
from kedge.epsilon import parse_epsilon

if TYPE_CHECKING:
    from kedge.attacks import Attack
    from kedge.data import ImageSet
    from kedge.training.held_out import RunImages
    from kedge.training.record import ImageRecord


def images_of_run(source: Source, place: str | None = None, held_out: bool = True) -> "RunImages":
    """What the run of a model trained on and held out, as its data is now; what is left out is said.

    `place`: where that data is, if not where the run has it from. `held_out`: whether images that it held out are
    needed, of which a run that folds judged has none.

    Raises:
        ValueError: if it is not known which images those are, or too few of the held-out ones are left.
    """
    from kedge.training.held_out import RunImages

    assert source.run is not None
    images = RunImages(source.run, place)
    if held_out and len(images.val) and images.left_out:
        print(f"held out by {source.name}: {len(images.val)} images; {images.left_out}", file=sys.stderr)
    return images


def trained_by(source: Source) -> "ImageRecord | None":
    """What is known of the images that a model was trained on; None if nothing is."""
    from kedge.training.record import ImageRecord

    if source.members:
        records = [trained_by(member) for member in source.members]
        return ImageRecord.union([record for record in records if record is not None]) if all(records) else None
    return source.record()


def counters(sources: Mapping[str, Source], images: "ImageSet") -> dict[str, Callable[[Any], int | None]]:
    """For each model of which that is known, what counts the images of a set that it was trained on."""
    known = {name: trained_by(source) for name, source in sources.items()}
    return {name: record.count for name, record in known.items() if record is not None}


def class_counts(sources: Mapping[str, Source], images: "ImageSet") -> dict[str, list[int]]:
    """For each model of which that is known, how many training images each class had."""
    records = {name: trained_by(source) for name, source in sources.items()}
    counts = {name: r.of_classes(len(images.class_names)) for name, r in records.items() if r is not None}
    return {name: own for name, own in counts.items() if own is not None}


def about_runs(sources: Mapping[str, Source]) -> dict[str, dict[str, Any]]:
    """For each model that a run made, how it was trained, for the page."""
    from kedge.training.about_run import known_runs

    return known_runs({name: source.run for name, source in sources.items() if not source.members})


def seen_by(source: Source, images: "ImageSet") -> int:
    """How many of these images a model was trained on, as far as is known."""
    record = trained_by(source)
    return 0 if record is None else record.count(images) or 0


def unseen_by(source: Source, images: "ImageSet") -> "ImageSet":
    """The images that a model was not trained on, as far as is known; how many were left out is said.

    Raises:
        ValueError: if too few are left.
    """
    from kedge.training.held_out import unseen

    record = trained_by(source)
    others = images if record is None else unseen(images, record, source.name)
    if len(others) < len(images):
        print(f"left out, as {source.name} was trained on them: {len(images) - len(others)} images", file=sys.stderr)
    return others


def chosen_attack(
    recipe: Mapping[str, Any], images: "ImageSet", eps: str | None, norm: str | None, **how: int
) -> "tuple[str, Any]":
    """PGD and its name, in the norm and radius asked for, else those of the training, else the usual ones.

    `how`: steps, seed and most images, as of `choose_attacks`.
    """
    number, trained = radius(eps, norm), trained_attack(recipe)
    if norm is None:
        norm = trained.get("norm", "linf") if number is None else "linf"
    if number is None and trained.get("norm", "linf") == norm and trained.get("eps") is not None:
        number = parse_epsilon(trained["eps"])
    attacks = choose_attacks(["pgd"], number, images, norm=norm, **how)
    assert attacks is not None
    return next(iter(attacks.named.items()))


def trained_attack(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of the attack that the recipe's objective trains with; empty if it attacks nothing."""
    attack = _attack_of(recipe)
    own = {} if attack is None or recipe.get("eps") is None else {"eps": recipe["eps"]}
    return {**dict((next(iter(attack.values()), None) or {}) if isinstance(attack, dict) else {}), **own}


def training_attack(recipe: Mapping[str, Any]) -> "Attack | None":
    """The attack that the recipe's objective trains with, in its training form; None if it attacks nothing.

    Raises:
        ValueError: for an attack that cannot be made.
    """
    from kedge import specs
    from kedge.training.objective import with_radius
    from kedge.training.recipe import Recipe

    if _attack_of(recipe) is None:
        return None
    entries = with_radius(Recipe(objective=recipe["objective"], eps=recipe.get("eps")))
    attack: Attack = specs.build("attacks", _attack_of({"objective": entries})).training()
    return attack


def _attack_of(recipe: Mapping[str, Any]) -> Any:
    """The attack of the first objective that has one, as it is written; None if there is none."""
    entries = [entry for entry in recipe.get("objective") or [] if isinstance(entry, dict)]
    attacks = ((values or {}).get("attack") for entry in entries for values in entry.values())
    return next((attack for attack in attacks if attack is not None), None)

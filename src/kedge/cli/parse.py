"""What words on the command line of `kedge evaluate` stand for: shifts, scores, attacks."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedge import catalog, specs
from kedge.epsilon import check_epsilon, parse_epsilon
from kedge.own_code import near_names

if TYPE_CHECKING:
    from kedge.data import ImageSet
    from kedge.evaluation import Attacks
    from kedge.scores import Score


def attack_words() -> dict[str, dict[str, dict[str, Any]]]:
    """Word of --attack to what it builds, {attack: arguments}: what the files of attacks state, else their names."""
    return {
        word: {name: settings}
        for name in catalog.ordered("attacks")
        for word, settings in catalog.stated("attacks", name, "words", {name: {}}).items()
    }


def separated(words: Sequence[str]) -> list[str]:
    """Words given with commas as words of their own; a path with a comma stays whole.

    Raises:
        ValueError: nothing before, after or between two commas, as an unset variable leaves it.
    """
    separate: list[str] = []
    for word in words:
        parts = [word] if word.strip() and Path(word).exists() else word.split(",")
        if not all(part.strip() for part in parts):
            raise ValueError(
                f"{word!r} names nothing{' before or after a comma' if ',' in word else ''}: leave that out"
            )
        separate += parts
    return separate


def whole_numbers(words: Sequence[str]) -> list[int]:
    """Severities given with spaces or commas. Raises ValueError for what is no whole number."""
    numbers = separated(words)
    if wrong := [word for word in numbers if not word.lstrip("-").isdigit()]:
        raise ValueError(f"--severities are whole numbers, 1 to 5, got {wrong[0]!r}")
    return [int(word) for word in numbers]


def check_sets(ood: Sequence[str], near: Sequence[str]) -> None:
    """Raise ValueError for a set that is called near and far at once."""
    if both := set(ood) & set(near):
        raise ValueError(f"{sorted(both)[0]} is given to --ood and to --near: say which")


def check_seen(seen: Sequence[str], ood: Sequence[str]) -> None:
    """Raise ValueError for a set of --seen that neither --ood nor --near names."""
    if unknown := [name for name in seen if name not in ood]:
        raise ValueError(f"--seen {unknown[0]} is of out-of-distribution sets: name it with --ood or --near too")


def check_tpr(tpr: float | None, any_ood: bool) -> None:
    """Raise ValueError for a --tpr that is no share, or beside no --ood, before any model is loaded."""
    if tpr is None:  # and nothing slow need be imported
        return
    from kedge.evaluation.sets import check_tpr as check

    try:
        check(tpr, any_ood)
    except ValueError as error:
        raise ValueError(f"--{error}" if any_ood else f"--tpr {tpr:g} is for --ood NAME, which is missing") from error


def radius(text: str | None, norm: str | None) -> float | None:
    """The number that `--eps` stands for; None without one. Raises ValueError for text that is no radius in `norm`."""
    if text is None:
        return None
    eps = parse_epsilon(text, "--eps")
    check_epsilon(eps, norm or "linf")
    return eps


def choose_scores(words: Sequence[str], recipes: Iterable[Mapping[str, Any]] = ()) -> "list[Score] | None":
    """The scores of these names; None for all of kedge's. Raises ValueError for an unknown one.

    `recipes` are those of the models' runs. `all` leaves `masked` out where none says that masked images were trained
    to be uniform: of other models nothing gives that score a sign. Models without a recipe may have been.
    """
    from kedge import scores

    if words == ["all"]:
        if any(not recipe or _masked_to_uniform(recipe) for recipe in recipes):
            return None
        return [score for score in scores.usual() if not score.uniform_masking]
    chosen: list[Score] = []
    for word in words:
        library, _, detector = word.partition(":")
        if library == "pytorch-ood":
            score = scores.PytorchOOD(detector)
            if score.reads == "images":
                raise ValueError(
                    f"--scores {word}: this detector reads images itself; use it from Python (docs: Scores)"
                )
            chosen.append(score)
        elif word == "all":
            chosen += scores.usual()
        else:
            try:
                chosen.append(specs.build("scores", word))
            except ValueError as error:
                known = ", ".join(catalog.ordered("scores"))
                near = near_names(word, ["all", *catalog.names("scores")])
                raise ValueError(
                    f"--scores: there is no score {word!r}; there are: all, {known}, and pytorch-ood:NAME for a "
                    f"detector of that library{near}"
                ) from error
    return chosen


def _masked_to_uniform(recipe: Mapping[str, Any]) -> bool:
    from kedge.training.recorded import masking

    share, target = masking(recipe.get("objective"))
    return share > 0 and target == "uniform"


def choose_attacks(
    words: Sequence[str], eps: float | None, images: "ImageSet", *, norm: str, steps: int, seed: int, most: int
) -> "Attacks | None":
    """The attacks that these words stand for, in the usual radius for images of this size; None for none.

    `most`: how many images are attacked.
    """
    if words == ["none"]:
        return None
    from kedge.evaluation import Attacks

    if eps is None:
        eps = 0.5 if norm == "l2" else (8 if images.image_shape[1] <= 64 else 4) / 255
    how: dict[str, Any] = {"eps": eps, "norm": norm, "steps": steps, "seed": seed, "early_stop": True}
    how["step_size"] = None if norm == "linf" else 2.5 * eps / steps
    chosen = [*words, "pgd"] if "curve" in words else words
    attacks = [specs.build("attacks", spec, **how) for word, spec in attack_words().items() if word in chosen]
    grid = [eps * share for share in (0.125, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)] if "curve" in words else []
    return Attacks({attack.name: attack for attack in attacks}, images=most, curve=grid)


def check_words(attacks: Sequence[str], severities: Sequence[int]) -> None:
    """Raise ValueError for severities that there are not and words that are no attack, before any model is loaded."""
    from kedge.evaluation.sets import check_severities

    check_severities(severities)
    known = ["none", *attack_words(), "curve"]
    if attacks != ["none"] and (unknown := [word for word in attacks if word not in known[1:]]):
        raise ValueError(
            f"--attack: there is no attack {unknown[0]!r}; there are: {', '.join(known)}{near_names(unknown[0], known)}"
        )

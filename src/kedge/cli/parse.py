"""What words on the command line of `kedge evaluate` stand for: shifts, scores, attacks."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedge import catalog
from kedge.epsilon import check_epsilon, parse_epsilon
from kedge.own_code import near_names

if TYPE_CHECKING:
    import jsonargparse

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


def attacks_help() -> str:
    """The words of --attack with what they are, in a sentence."""
    parts = []
    for name in catalog.ordered("attacks"):
        words = [word for word, spec in attack_words().items() if name in spec]
        parts.append(f"{' or '.join(words)} ({catalog.summary('attacks', name).rstrip('.')})")
    return ", ".join(parts)


def groups_help() -> str:
    """The words for several corruptions, with how many each stands for."""
    groups: dict[str, int] = {}
    for name in catalog.ordered("data.corruptions"):
        for word in catalog.stated("data.corruptions", name, "groups", ()):
            groups[word] = groups.get(word, 0) + 1
    return ", ".join(f"{word} ({count})" for word, count in groups.items())


def fitted_scores() -> str:
    """The scores that learn from training images."""
    return ", ".join(name for name in catalog.ordered("scores") if catalog.stated("scores", name, "fits"))


def separated(words: list[str]) -> list[str]:
    """Words given with commas as words of their own; a path with a comma stays whole.

    Raises:
        ValueError: nothing before, after or between two commas, as an unset variable leaves it.
    """
    found = []
    for word in words:
        parts = [word] if word.strip() and Path(word).exists() else word.split(",")
        if not all(part.strip() for part in parts):
            raise ValueError(
                f"{word!r} names nothing{' before or after a comma' if ',' in word else ''}: leave that out"
            )
        found += parts
    return found


def whole_numbers(words: list[str]) -> list[int]:
    """Severities given with spaces or commas. Raises ValueError for what is no whole number."""
    found = separated([str(word) for word in words])
    if wrong := [word for word in found if not word.lstrip("-").isdigit()]:
        raise ValueError(f"--severities are whole numbers, 1 to 5, got {wrong[0]!r}")
    return [int(word) for word in found]


def check_sets(ood: list[str], near: list[str]) -> None:
    """Raise ValueError for a set that is called near and far at once."""
    if both := set(ood) & set(near):
        raise ValueError(f"{sorted(both)[0]} is given to --ood and to --near: say which")


def radius(text: str | None, norm: str | None) -> float | None:
    """The number that `--eps` stands for; None without one. Raises ValueError for text that is no radius in `norm`."""
    if text is None:
        return None
    eps = parse_epsilon(text, "--eps")
    check_epsilon(eps, norm or "linf")
    return eps


def choose_scores(words: list[str], recipes: Iterable[Mapping[str, Any]] = ()) -> "list[Score] | None":
    """The scores of these names; None for all of kedge's. Raises ValueError for an unknown one.

    `recipes` are those of the models' runs. `all` leaves `masked` out where none says that masked images were trained
    to be uniform: of other models nothing gives that score a sign. Models without a recipe may have been.
    """
    from kedge import scores

    if words == ["all"]:
        if any(not recipe or _masked_to_uniform(recipe) for recipe in recipes):
            return None
        return [score() for score in scores.SCORES.values() if not score.uniform_masking]
    chosen: list[Score] = []
    for word in words:
        library, _, detector = word.partition(":")
        if library == "pytorch-ood":
            made = scores.PytorchOOD(detector)
            if made.reads == "images":
                raise ValueError(
                    f"--scores {word}: this detector reads images itself; use it from Python (docs: Scores)"
                )
            chosen.append(made)
        elif word == "all":
            chosen += [score() for score in scores.SCORES.values()]
        else:
            try:
                chosen.append(catalog.build("scores", word))
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
    words: list[str], eps: float | None, config: "jsonargparse.Namespace", images: "ImageSet"
) -> "Attacks | None":
    """The attacks that these words stand for, in the usual radius for images of this size; None for none."""
    if words == ["none"]:
        return None
    from kedge.evaluation import Attacks

    if eps is None:
        eps = 0.5 if config.norm == "l2" else (8 if images.image_shape[1] <= 64 else 4) / 255
    step = None if config.norm == "linf" else 2.5 * eps / config.steps
    how = {"eps": eps, "norm": config.norm, "steps": config.steps, "seed": config.seed}
    chosen = [*words, "pgd"] if "curve" in words else words
    made = [
        catalog.build("attacks", spec, **how, step_size=step, early_stop=True)
        for word, spec in attack_words().items()
        if word in chosen
    ]
    named = {attack.name: attack for attack in made}
    grid = [eps * share for share in (0.125, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)] if "curve" in words else []
    return Attacks(named, images=config.attack_images, curve=grid)


def check_words(attacks: list[str], severities: list[int]) -> None:
    """Raise ValueError for severities that there are not and words that are no attack, before any model is loaded."""
    from kedge.evaluation.sets import check_severities

    check_severities(severities)
    known = ["none", *attack_words(), "curve"]
    if attacks != ["none"] and (unknown := [word for word in attacks if word not in known[1:]]):
        raise ValueError(
            f"--attack: there is no attack {unknown[0]!r}; there are: {', '.join(known)}{near_names(unknown[0], known)}"
        )


def with_examples(prog: str, positional: str, description: str, examples: str) -> "jsonargparse.ArgumentParser":
    """A parser whose help ends with examples, on lines of their own."""
    import argparse

    import jsonargparse

    class Formatter(jsonargparse.DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
        """Keeps the lines of the examples."""

    usage = f"{prog} {positional} [options]"
    return jsonargparse.ArgumentParser(
        prog=prog, usage=usage, description=description, epilog=examples, formatter_class=Formatter
    )

"""Plan the runs of an experiment and train them, each once: what is there already is not done again."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kedge import data
from kedge.clock import is_before
from kedge.data import DataError
from kedge.experiments.experiment import Experiment, Variant
from kedge.experiments.together import agreed
from kedge.own_code import is_allowed
from kedge.stated import is_count
from kedge.training.recipe import Recipe
from kedge.training.recorded import recorded_facts

__all__ = ["Planned", "first_here", "plan", "train_one"]


@dataclass(frozen=True)
class Planned:
    """One training of a variant, and how it is evaluated.

    Attributes:
        variant: what is trained.
        seed: of the training.
        recipe: of the training; that of another variant where `variant.runs` names one.
        out: folder of the experiment.
    """

    variant: Variant
    seed: int
    recipe: Recipe
    out: Path

    @property
    def name(self) -> str:
        """`VARIANT-SEED`."""
        return f"{self.variant.name}-{self.seed}"

    @property
    def run(self) -> Path:
        """The folder of the training."""
        return self.out / "runs" / f"{self.variant.runs}-{self.seed}"

    @property
    def start(self) -> Path | None:
        """The folder of the training that this one starts from; None for one that starts anew."""
        return None if self.variant.after is None else self.out / "runs" / f"{self.variant.after}-{self.seed}"

    def start_is_newer(self) -> bool:
        """Whether what this run started from was trained anew after that: its weights are of an earlier one."""
        if self.start is None:
            return False
        started, finished = (
            recorded_facts(run).get(key) if (run / "run.json").is_file() else None
            for run, key in ((self.run, "started"), (self.start, "finished"))
        )
        return is_before(started, finished)

    @property
    def record(self) -> Path:
        """The file of what was measured."""
        return self.out / "measured" / f"{self.name}.json"

    @property
    def trained(self) -> bool:
        """Whether the training is over."""
        return (self.run / "model" / "config.json").is_file()


def plan(
    experiment: Experiment,
    scale: str,
    seeds: Iterable[int],
    out: Path,
    place: str,
    variants: list[str] | None = None,
    changes: Mapping[str, Any] | None = None,
) -> list[Planned]:
    """What is to be trained and evaluated, all variants of a seed before the next seed.

    `place`: the data set; `changes`: keys of every recipe, such as devices.

    `place` may be a data set that is not here: nothing is read.

    Raises:
        ValueError: for a scale, a variant or a change that cannot be, names of a network, an objective or a
            corruption that are none, or an objective of one's own outside of `kedge.own_code.allow_code()`.
    """
    chosen = experiment.variants_at(scale, variants)
    for variant in chosen:
        try:
            _check_names(variant)
        except ValueError as error:
            raise ValueError(f"{experiment.name}, {variant.name}: {error}") from error
    return [
        Planned(
            variant,
            seed,
            Recipe.from_dict(
                {
                    **variant.recipe,
                    **(changes or {}),
                    **({} if variant.after is None else {"init_from": str(out / "runs" / f"{variant.after}-{seed}")}),
                    "data": place,
                    "seed": seed,
                    "name": f"{variant.runs}-{seed}",
                    "runs": str(out / "runs"),
                },
                f"{experiment.name}, {variant.name}: ",
            ),
            out,
        )
        for seed in seeds
        for variant in chosen
    ]


def _check_names(variant: Variant) -> None:
    """Raise ValueError for what would fail only after an hour of training."""
    from kedge import networks
    from kedge.training import Recipe
    from kedge.training.objective import check_objective

    model = variant.recipe.get("model", "auto")
    if model != "auto":
        networks.locate(model)
    says = ("objective", "eps", "class_weights", "extra")
    check_objective(Recipe.from_dict({key: variant.recipe[key] for key in says if key in variant.recipe}))
    _check_evaluation(variant)


def _check_evaluation(variant: Variant) -> None:
    from kedge.data.corruptions import expand

    wanted, anchored = variant.evaluation, variant.recipe.get("anchored") is not False
    expand(wanted.get("shift", []))
    severities = wanted.get("severities", [1])
    if wrong := [each for each in severities or ["none"] if each not in (1, 2, 3, 4, 5)]:
        raise ValueError(f"severities are of 1 to 5, not {wrong[0]}")
    limit, equalise = wanted.get("limit"), wanted.get("equalise", False)
    if not (limit is None or is_count(limit)):
        raise ValueError(f"limit is a number of images, 1 or more, not {limit!r}")
    if not isinstance(equalise, bool):
        raise ValueError(f"equalise is true or false, not {equalise!r}")
    references, views = wanted.get("references"), wanted.get("views")
    if not (references in (None, "blt", "adaptive") or is_count(references)):
        raise ValueError(f"references is a number, blt or adaptive, not {references!r}")
    if not (views is None or (is_count(views) and views <= 10)):
        raise ValueError(f"views is a number from 1 to 10, not {views!r}")
    if not anchored:
        return
    bank = variant.recipe.get("references", Recipe.references)
    if is_count(references) and references > bank:
        raise ValueError(f"references is {references}, and the bank holds {bank}: train with references {references}")
    if references == "blt" and not variant.recipe.get("residuals"):
        raise ValueError("references blt compares with residuals, and none are kept: train with residuals, such as 500")
    if views is not None and references not in (None, 1):
        raise ValueError(f"views meet the first reference alone, and references is {references}: leave one of them out")


def first_here(names: Iterable[str]) -> str:
    """The first of these data sets that can be read here.

    Raises:
        DataError: if none can.
    """
    reasons = []
    for name in names:
        try:
            data.splits(name)
        except DataError as error:
            reasons.append(str(error).split("\n")[0])
        else:
            return name
    raise DataError("the data of the experiment is not here: " + "; ".join(reasons) + ". Name a folder with --data")


def train_one(planned: Planned, progress: bool = False) -> None:
    """Train what is planned, or go on where it was broken off; nothing to do for a run that is over.

    Raises:
        ValueError: if there is a run of that name with another recipe, or no trained one that it starts from.
    """
    from kedge.training import fit

    if planned.start is not None and not (planned.start / "model" / "config.json").is_file():
        raise ValueError(f"{planned.name} starts from {planned.start}, which has no model yet: train that first")

    begun = agreed(lambda: _begun(planned))
    if begun and planned.start_is_newer():
        raise ValueError(
            f"{planned.run} started from {planned.start}, which was trained anew since: move it away to train it again"
        )
    # An experiment is a file: its recipes are not the calling program's own.
    fit(planned.recipe, resume=planned.run if begun else None, progress=progress, allow_code=is_allowed())


def _begun(planned: Planned) -> bool:
    """Whether there is a run to go on with."""
    from kedge.training.folder import unbegun

    if not planned.run.is_dir() or unbegun(planned.run):
        return False
    if (planned.run / "recipe.yaml").is_file():
        return True
    entries = sorted(path.name for path in planned.run.iterdir())
    raise ValueError(f"{planned.run} is no run, and holds {', '.join(entries[:3])}: move it away")

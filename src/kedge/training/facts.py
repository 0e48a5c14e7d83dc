"""The facts of a run, run.json: written when it begins, checked before it goes on, where others are then added.

What must be as it was is refused in words if it is not; what may differ is said.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import nn

from kedge import clock
from kedge.epsilon import print_ball
from kedge.files import write_text
from kedge.own_code import sources
from kedge.regular import file_digest
from kedge.training.cost import costs, earlier_passes
from kedge.training.digests import (
    MAY_CHANGE,
    PLACES,
    RUN_FORMAT,
    checkpoint_digests,
    may_grow,
    plain,
    recipe_digest,
    settle,
    stamp,
)
from kedge.training.epochs import AtomicCheckpoints
from kedge.training.folder import RunFolder, surroundings
from kedge.training.nested import code_of
from kedge.training.recipe import Recipe
from kedge.training.record import FILE, ImageRecord
from kedge.training.validation import ball

__all__ = ["EarlierRun", "check_run", "first_facts", "go_on"]

VERSIONS = ("kedge", "python", "torch", "torchvision", "timm", "lightning", "numpy")
_PUT_BACK = "Put it back from a copy, or start a new run"


@dataclass
class EarlierRun:
    """A run that goes on.

    Attributes:
        folder: of the run.
        facts: what run.json holds; nothing where the run was broken off before it was written.
        within: what kedge wrote into the checkpoint that it goes on with; None without one.
        grown: whether it goes on to more epochs than it had.
        over: whether nothing is left to train.
    """

    folder: RunFolder
    facts: dict[str, Any]
    within: dict[str, Any] | None = None
    grown: bool = False
    over: bool = False

    @classmethod
    def read(cls, folder: RunFolder, recipe: Recipe) -> "EarlierRun":
        """The run in a folder, which goes on by `recipe`. Of one that is over the checkpoint may be gone.

        Raises:
            ValueError: for a damaged run.json or checkpoint; for a model that no run.json says the making of.
        """
        facts = _facts_of(folder)
        epochs = (facts.get("recipe") or {}).get("epochs", folder.recipe().epochs)
        grown = epochs is not None and recipe.epochs is not None and recipe.epochs > epochs
        over = "finished" in facts and (folder.model / "config.json").is_file() and not grown
        within = None
        if folder.checkpoint.is_file() and not (over and folder.rows()):
            within = AtomicCheckpoints().load_checkpoint(folder.checkpoint).get("kedge") or {}
        return cls(folder, facts, within, grown, over)

    @property
    def checkpoint(self) -> Path | None:
        """The checkpoint with the weights to go on with."""
        return None if self.within is None else self.folder.checkpoint

    @property
    def knows_images(self) -> bool:
        """Whether anything says which images the run is on: not where it was broken off before."""
        return bool(self.facts.get("data")) or self.within is not None or ImageRecord.read(self.folder.path) is not None

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The rows of the epochs that the checkpoint holds; of an earlier version those of metrics.csv."""
        return [] if self.within is None else self.within.get("rows") or self.folder.rows()


def first_facts(
    recipe: Recipe,
    written: Recipe,
    data: dict[str, Any],
    objective: nn.Module,
    drawn: int,
    probe: dict[str, Any] | None,
    in_memory: bool,
) -> dict[str, Any]:
    """What is known at the start of a run by `recipe`, which was `written` with less filled in.

    `drawn`: how many images an epoch has. `in_memory`: whether it starts from a model that was handed over, whose own
    training is not on record.
    """
    facts = {**surroundings(), "seed": recipe.seed, "data": data, "given": asdict(written)}
    spent = None if in_memory else earlier_passes(recipe) if recipe.init_from or recipe.pretrained else 0.0
    facts["cost"] = costs(recipe, objective, drawn, spent)
    if attack := ball(objective):
        facts["attack"] = print_ball(attack.eps, attack.norm)
    if probe is not None:
        facts["probe"] = probe
    facts["record"] = FILE
    return facts


def check_run(run: EarlierRun) -> list[str]:
    """What is to be said before a run goes on: what cannot be checked, and versions that differ.

    Raises:
        ValueError: where its recipe, its record of images or its checkpoint is not what it wrote, or it was begun by a
            version whose runs this one cannot go on with; the message names what differs.
    """
    folder, facts = run.folder, run.facts
    if facts.get("run_format", 0) > RUN_FORMAT:
        raise ValueError(f"{folder.path} was begun by kedge {facts.get('kedge')}, which is newer: upgrade kedge")
    _check_recipe(folder, facts)
    _check_images(folder, facts)
    lines = [] if run.within is None else _about_checkpoint(folder, facts, run.within)
    if "data" not in facts:
        lines.append(f"{folder.path / 'run.json'} does not say how the run began: it cannot be checked, and is written")
    elif "digests" not in facts:
        lines.append("the run is of an earlier version, without digests: whether its recipe, its images and its "
                     "checkpoint are those it had cannot be checked; from now on they are")  # fmt: skip
    before = facts.get("code") or {}
    for module, digest in sources([*before, *code_of(vars(folder.recipe()))]).items():
        if module not in before and "digests" in facts:
            lines.append(f"nothing says whether the module {module} is as it was when the run began: it goes on as now")
        elif before.get(module, digest) != digest:
            lines.append(f"careful: the module {module} was changed since the run began: it goes on as it is now")
    if changed := _other_versions(facts):
        words = ", ".join(f"{name} {before}, now {now}" for name, (before, now) in changed.items())
        lines.append(f"begun with {words}: it goes on, and may end with other last digits than with one version alone")
    return lines


def go_on(folder: RunFolder, facts: dict[str, Any], epochs: int | None) -> dict[str, Any]:
    """Write what the run is from now on: its `epochs`, that it went on, and with which other versions; gives the facts.

    The recipe first: broken off between the two, it is one with more epochs, as somebody may write it.
    """
    recipe = folder.recipe()
    if epochs != recipe.epochs:
        recipe = replace(recipe, epochs=epochs)
        write_text(folder.path / "recipe.yaml", recipe.to_yaml())
    changed = {name: now for name, (_, now) in _other_versions(facts).items()}
    again = {"at": clock.now(), **changed}
    known = {key: value for key, value in facts.items() if key != "finished"}
    stamped = stamp(recipe, folder.path / FILE)
    before = (facts.get("digests") or {}).get("recipe")
    if before not in (None, stamped["digests"]["recipe"]):  # more epochs: the checkpoint is still of fewer
        known["earlier_recipes"] = [*facts.get("earlier_recipes", []), before]
    facts = {**known, **stamped, "resumed": [*facts.get("resumed", []), again]}
    folder.write_facts(facts)
    if folder.checkpoint.is_file():
        settle(folder.checkpoint)
    return facts


def _facts_of(folder: RunFolder) -> dict[str, Any]:
    if (folder.path / "run.json").exists():  # also what is no file: it is refused, and nothing begins again over it
        return folder.facts()
    if (folder.model / "config.json").is_file():
        raise ValueError(
            f"{folder.path} holds a model and no run.json that says how it was trained: there is no run to go on with"
        )
    return {}


def _check_recipe(folder: RunFolder, facts: dict[str, Any]) -> None:
    """Refuse a recipe that was edited, naming the key."""
    if (before := facts.get("recipe")) is None:
        return
    stored = folder.recipe()
    now, usual = plain(asdict(stored)), plain(asdict(Recipe()))
    edited = (facts.get("digests") or {}).get("recipe") != recipe_digest(now)
    for key, value in now.items():
        then = before.get(key, usual[key])
        if value == then or key in PLACES:
            continue
        if key == "epochs" and may_grow(replace(stored, epochs=then), value):
            continue
        what = f"recipe.yaml was changed since the run began: {key} is {value!r} there, and was {then!r}"
        if not edited:
            what = f"run.json was changed since the run began: {key} is {then!r} there, and was {value!r}"
        raise ValueError(
            f"{folder.path / what}. A resumed run keeps its recipe, only {', '.join(MAY_CHANGE[:7])} may change: put "
            "it back, or start a new run"
        )


def _check_images(folder: RunFolder, facts: dict[str, Any]) -> None:
    """Refuse a record of images that is not the one that was written."""
    path, digest = folder.path / FILE, (facts.get("digests") or {}).get("images")
    if digest is not None and path.is_file() and file_digest(path) != digest:
        raise ValueError(
            f"{path}, which says what the run trains on and holds out, is not the file that it wrote: it was changed "
            f"or damaged. {_PUT_BACK}"
        )


def _about_checkpoint(folder: RunFolder, facts: dict[str, Any], within: dict[str, Any]) -> list[str]:
    """Refuse a checkpoint, or the best weights so far, that this run did not write; say it where nothing tells."""
    path = folder.checkpoint
    vouched, digests = checkpoint_digests(path), facts.get("digests") or {}
    if vouched and file_digest(path) not in vouched:
        raise ValueError(
            f"{path} is not the checkpoint that the run wrote: it is another one, was changed, or damaged. "
            f"{_PUT_BACK}; without it, --resume begins again from the first epoch"
        )
    # Until it has written one of its own, a run with more epochs has the checkpoint of the recipe with fewer.
    before = {"recipe": facts.get("earlier_recipes", [])}
    for key, what in (("recipe", "another recipe"), ("images", "other images")):
        known = (digests.get(key), *before.get(key, []))
        if key in within and known[0] is not None and within[key] not in known:
            raise ValueError(f"{path} is the checkpoint of a run with {what}. {_PUT_BACK}")
    best = within.get("best")
    if (
        best is not None
        and (weights := folder.best(best["epoch"])).is_file()
        and file_digest(weights) != best["sha256"]
    ):
        raise ValueError(f"{weights} is not the file that the run wrote: it was changed or damaged. {_PUT_BACK}")
    if digests and not vouched:
        return [f"nothing says whether {path.name} is the one that the run wrote: it cannot be checked"]
    return []


def _other_versions(facts: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    now = surroundings()
    then = {**facts, **{k: v for again in facts.get("resumed", []) for k, v in again.items()}}
    return {name: (then[name], now[name]) for name in VERSIONS if name in then and then[name] != now[name]}

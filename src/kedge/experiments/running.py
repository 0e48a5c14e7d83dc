"""Train the runs of an experiment and evaluate them, each once: what is there already is not done again."""

import json
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kedge import data
from kedge.data import DataError, ImageSet
from kedge.experiments.experiment import Experiment, Variant
from kedge.experiments.measures import measured
from kedge.experiments.together import agreed
from kedge.files import write_text
from kedge.training.folder import RunFolder
from kedge.training.recipe import Recipe

__all__ = ["Planned", "evaluate_one", "first_here", "kept_record", "plan", "train_one"]

Say = Callable[[str], None]


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

    Raises:
        ValueError: for a scale, a variant or a change that cannot be.
    """
    chosen = experiment.variants_at(scale, variants)
    return [
        Planned(
            variant,
            seed,
            Recipe.from_dict(
                {
                    **variant.recipe,
                    **(changes or {}),
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


def first_here(names: Iterable[str]) -> str:
    """The first of these data sets that can be read here.

    Raises:
        DataError: if none can.
    """
    said = []
    for name in names:
        try:
            data.splits(name)
        except DataError as error:
            said.append(str(error).split("\n")[0])
        else:
            return name
    raise DataError("the data of the experiment is not here: " + "; ".join(said) + ". Name a folder with --data")


def train_one(planned: Planned, progress: bool = False) -> None:
    """Train what is planned, or go on where it was broken off; nothing to do for a run that is over.

    Raises:
        ValueError: if there is a run of that name with another recipe.
    """
    from kedge.training import fit

    begun = agreed(lambda: _begun(planned))
    fit(planned.recipe, resume=planned.run if begun else None, progress=progress)


def _begun(planned: Planned) -> bool:
    """Whether there is a run to go on with; what was broken off between its first two files is cleared away."""
    if not planned.run.is_dir():
        return False
    if (planned.run / "recipe.yaml").is_file():
        return True
    left = [path.name for path in planned.run.iterdir()]
    if not set(left) <= {"run.json"}:
        raise ValueError(f"{planned.run} is no run, and holds {', '.join(sorted(left)[:3])}: move it away")
    shutil.rmtree(planned.run)
    return False


def evaluate_one(
    planned: Planned,
    resamples: int = 0,
    batch_size: int = 256,
    device: str = "auto",
    say: Say | None = None,
) -> dict[str, Any]:
    """Evaluate a trained run as its variant says, and keep the record; one that was kept is given as it is.

    Out-of-distribution sets that are not here are left out, and the record says which.

    Raises:
        ValueError: if the run is not trained yet.
    """
    if not planned.trained:
        raise ValueError(f"{planned.run} has no model yet")
    found = kept_record(planned)
    if found is not None:
        return found
    trained = RunFolder(planned.run).facts()
    import torch

    import kedge
    from kedge import evaluation
    from kedge.evaluation.provenance import machine, now
    from kedge.networks import channels_last
    from kedge.scores import MSP, Energy, Masked

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    model: Any = channels_last(kedge.load(planned.run / "model").to(device))
    keywords = {key: value for key, value in planned.variant.evaluation.items() if key not in ("near", "ood")}
    whole = keywords.get("limit") is None
    channels, height, width = model.input_shape
    side = height if height == width else None
    test = data.load(str(planned.recipe.data), "test", side, channels, decode=whole)
    if planned.recipe.classes is not None:
        test = test.only_classes(planned.recipe.classes)
    near, missing = _outside(planned.variant.evaluation.get("near", []), side, channels, whole)
    far, more = _outside(planned.variant.evaluation.get("ood", []), side, channels, whole)
    if not hasattr(model, "references"):
        keywords.pop("references", None)
    started = time.perf_counter()
    results = evaluation.evaluate(
        {planned.name: model},
        test,
        ood={**near, **far} or None,
        near=list(near),
        scores=[MSP(), Energy(), Masked()],
        batch_size=batch_size,
        resamples=resamples,
        examples=0,
        seed=0,  # every run meets the same images and the same corruptions
        notice=say,
        **keywords,
    )
    entry = results["models"][planned.name]
    record = {
        "asked": _asked(planned),
        "finished": trained["finished"],
        "created": now(),
        "machine": machine(),
        "network": entry["network"],
        "parameters": entry["parameters"],
        "trained": {key: trained.get(key) for key in ("cost", "validation", "torch", "platform")},
        "training_seconds": sum(row["seconds"] for row in RunFolder(planned.run).rows()),
        "evaluation_seconds": time.perf_counter() - started,
        "images": results["data"]["images"],
        "missing": [*missing, *more],
        "errors": entry["errors"],
        **measured(entry),
    }
    write_text(planned.record, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    return record


def kept_record(planned: Planned) -> dict[str, Any] | None:
    """What was measured of a run; None if nothing was, or of another training, in another way, or on fewer sets."""
    folder = RunFolder(planned.run)
    try:
        found = json.loads(planned.record.read_text(encoding="utf-8"))
        trained = folder.facts()
        folder.recipe(planned.recipe)  # an error for another one than that of the run
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or "measures" not in found:
        return None
    same = found.get("asked") == _asked(planned) and found.get("finished") == trained.get("finished")
    if not same or any(_is_here(name) for name in found["missing"]):
        return None
    return found


def _is_here(names: str) -> bool:
    try:
        first_here([names])
    except DataError:
        return False
    return True


def _asked(planned: Planned) -> dict[str, Any]:
    return {**planned.variant.evaluation, "data": planned.recipe.data}


def _outside(
    wanted: Iterable[str | list[str]], side: int | None, channels: int, decode: bool
) -> tuple[dict[str, ImageSet], list[str]]:
    """Out-of-distribution sets by name, and the names of those that are not here."""
    found, missing = {}, []
    for names in wanted:
        names = [names] if isinstance(names, str) else names
        try:
            name = first_here(names)
        except DataError:
            missing.append(names[0])
            continue
        offered = data.splits(name)
        split = "test" if "test" in offered else offered[-1]
        found[names[0]] = data.load(name, split, side, channels, decode=decode)
    return found, missing

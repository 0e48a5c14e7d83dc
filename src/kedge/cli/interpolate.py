"""`kedge interpolate`: average the weights of two models, and choose how much of each on validation images."""

import json
import math
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedge.cli.parse import radius, separated, with_examples
from kedge.cli.ranges import check_values
from kedge.cli.resolve_model import Source, find

if TYPE_CHECKING:
    import jsonargparse

    from kedge.training.record import ImageRecord

PICKS = ("clean", "shifted", "pgd", "mean")
SHIFT = ["gaussian_noise", "defocus_blur", "fog", "pixelate"]  # one of each kind
ALPHAS = ["0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "1"]
RECORD = "interpolation.json"

DESCRIPTION = """\
Average the weights of two models that share their start: (1 - alpha) of the first and alpha of the second.

Between a model and what fine-tuning made of it there are often models that are better than both at something (WiSE-FT).
--sweep tries several alphas on the validation images that the run held out of training, draws what is given for what,
and takes the best. Statistics of batch norm are estimated anew on training images, the reject threshold is set anew on
validation images. Test images are never looked at.
"""
EPILOG = """\
examples:
  kedge interpolate runs/tuned --sweep                   from the model that the run began with to its own
  kedge interpolate runs/clean runs/tuned --alpha 0.5    one average, nothing to choose
  kedge interpolate A B --sweep --pick pgd --eps 8/255   by accuracy under attack"""


def parser() -> "jsonargparse.ArgumentParser":
    """The flags of `kedge interpolate`."""
    made = with_examples("kedge interpolate", "A B", DESCRIPTION, EPILOG)
    add = made.add_argument
    several: dict[str, Any] = {"type": str, "nargs": "+"}
    add(
        "models",
        metavar="MODEL",
        nargs="+",
        help="two run or model folders, for alpha 0 and alpha 1; or a single run that began from a model (init_from), "
        "which is kept in its folder",
    )
    add("--alpha", type=float | None, default=None, help="share of the second model; null: 0.5, unless --sweep chooses")
    add("--sweep", action="store_true", help="try several alphas, draw them, and take the best by --pick")
    add("--alphas", **several, default=ALPHAS, metavar="ALPHA", help="those that --sweep tries, and 0 and 1")
    add("--pick", choices=PICKS, default="mean", help="what --sweep chooses by; mean: of all that is measured")
    add(
        "--shift",
        **several,
        default=SHIFT,
        metavar="NAME",
        help="corruptions or groups of them (noise, blur, weather, ...) whose mean is the shifted accuracy; or none",
    )
    add("--severity", type=int, default=3, help="of the corruptions, 1 to 5")
    add("--attack", choices=["pgd", "none"], default="pgd", help="whether --sweep measures accuracy under attack")
    add(
        "--eps",
        type=str | None,
        default=None,
        help="radius of the attack in pixel units, such as 8/255; null: that of the training, else as kedge evaluate",
    )
    add("--norm", choices=["linf", "l2"], default=None, help="of the attack; null: that of the training, else linf")
    add("--steps", type=int, default=20, help="of PGD")
    add("--attack_images", type=int, default=500, help="at most so many images are attacked, a random subset")
    add(
        "--data",
        type=str | None,
        default=None,
        help="data with a part train and a part val; null: what the second run trained on and held out",
    )
    add("--limit", type=int | None, default=None, help="at most so many validation images, a random subset; null: all")
    add("--bn_images", type=int, default=5000, help="training images that statistics of batch norm are estimated on")
    add("--references", type=int | None, default=None, help="references of anchored models to measure with; null: all")
    add("--out", type=str | None, default=None, help="folder to write; null: the second one's name with -interpolated")
    add("--overwrite", action="store_true", help="replace what an earlier kedge interpolate wrote there")
    add("--seed", type=int, default=0, help="of the subsets, the corruptions, the attack and the references drawn")
    add("--batch_size", type=int, default=128, help="images that go through the network at a time")
    add(
        "--workers", type=int | None, default=None, help="processes that decode images; null: by the size of the images"
    )
    add("--device", type=str, default="auto", help="auto, cpu, cuda, ...")
    return made


def run(config: "jsonargparse.Namespace") -> int:
    """Average, measure, choose, save, and say what came of it."""
    asked = check(config)
    a, b = both(config.models)
    assert b.path is not None
    out = Path(config.out) if config.out else (b.run or b.path).with_name(f"{b.name}-interpolated")
    check_free(out, config.overwrite)
    from kedge import weights
    from kedge.cli import validation_data
    from kedge.cli.evaluate import command_line, progress_bar
    from kedge.cli.load_data import default_workers
    from kedge.evaluation.model_selection import Measure, best
    from kedge.evaluation.sets import limited
    from kedge.reporting.sweep import sweep_table
    from kedge.weights.wise_ft import between

    command = command_line("kedge interpolate", parser(), config)
    models = a.load(config.device), b.load(config.device)
    weights.interpolate_models(*models, 0.5)  # models that do not fit are said before images are read
    train, val = validation_data.training_and_validation(b, models[1], config.data, a)
    val, _ = limited(val, config.limit, config.seed)
    workers = default_workers(val) if config.workers is None else config.workers
    batches = validation_data.norm_batches(
        models[1], train, b.recipe(), config.bn_images, config.batch_size, workers, config.seed
    )
    trained = validation_data.training_attack(b.recipe())  # the end's own statistics are of images under this attack
    attacking = config.sweep and config.attack == "pgd"
    name, attack = validation_data.chosen_attack(config, b.recipe(), val) if attacking else ("", None)
    measure = Measure(
        val,
        shift=shifts(config),
        severity=config.severity,
        attack=attack,
        attack_images=config.attack_images,
        references=config.references,
        batch_size=config.batch_size,
        workers=workers,
        seed=config.seed,
    )
    if config.pick == "mean" and measure.names() == ["clean"]:
        config.pick = "clean"  # the mean of one number
    if config.sweep and config.pick not in measure.names():
        raise ValueError(f"--pick {config.pick}, but what is measured is {', '.join(measure.names())}")
    alphas = sorted({0.0, 1.0, *asked})
    with progress_bar() as (tick, say):
        say(f"{val.name} ({val.split}): {len(val)} images; alpha {', '.join(f'{alpha:g}' for alpha in alphas)}")
        done = iter(range(1, len(alphas) + 1))

        def look(model: Any) -> dict[str, float]:
            found, number = measure(model), next(done)
            if tick is not None:
                tick(number, len(alphas))
            return found

        rows = weights.wise_ft_curve(*models, alphas, look, batches, config.seed, trained)
    picked = best(rows, config.pick) if config.sweep else next(row for row in rows if row["alpha"] == asked[0])
    model = between(*models, picked["alpha"], batches, config.seed, trained)
    lines = validation_data.set_reject(model, models[1], b.recipe(), val, config.batch_size, workers)
    norm = validation_data.about_norm(batches, trained)
    if batches is not None and trained is not None:
        lines.insert(0, norm)
    results = {
        "format": "kedge sweep",
        "format_version": 1,
        "command": command,
        "a": config.models[0] if len(config.models) == 2 else str(a.path),
        "b": config.models[-1],
        "picked": {
            "alpha": picked["alpha"],
            "by": config.pick if config.sweep else "hand",
            "intervals": measure.intervals(picked),
        },
        "data": {"name": val.name, "split": val.split, "images": len(val)},
        "shift": {"corruptions": measure.shift, "severity": config.severity},
        "attack": measure.about_attack(name),
        "batch_norm": norm,
        "seed": config.seed,
        "rows": rows,
    }
    write(model.cpu(), results, b, out, config.sweep, validation_data.joint_record(a, b))
    print(sweep_table(results), *lines, sep="\n")
    if config.sweep and picked["alpha"] in (0, 1):
        print(f"nothing between the two is better by {config.pick}: the model of alpha {picked['alpha']:g} is written")
    chose = "these images chose" if config.sweep else "measured on the images of the threshold"
    print(f"({chose}: judge the result on others, with kedge evaluate)")
    if config.sweep:
        print(f"picture: {out / 'sweep.html'}")
    print(f"saved: {out}")
    return 0


def check(config: "jsonargparse.Namespace") -> list[float]:
    """The alphas that are asked for. Raises ValueError for flags that cannot be, before anything slow starts."""
    check_values(config)
    if (shifted := separated(config.shift)) != ["none"]:
        from kedge.data.corruptions import expand

        expand(shifted)  # a wrong name is an error whether they are measured or not
    radius(config.eps, config.norm)
    words = separated(config.alphas)
    if config.sweep and config.alpha is not None:
        raise ValueError(f"--sweep chooses alpha, and --alpha {config.alpha:g} names one: give one of the two")
    if not config.sweep and words != ALPHAS:
        raise ValueError("--alphas are what --sweep tries: say --sweep too, or give a single --alpha")
    if not config.sweep:
        words = ["0.5" if config.alpha is None else f"{config.alpha!r}"]
    found = []
    for word in words:
        try:
            value = float(word)
        except ValueError:
            value = math.nan
        if not 0 <= value <= 1:
            flag = "--alphas" if config.sweep else "--alpha"
            raise ValueError(f"{flag}: between 0 (the first model) and 1 (the second), got {word}")
        found.append(value)
    return found


def both(given: list[str]) -> tuple[Source, Source]:
    """The models of alpha 0 and 1: two, or a run and what it began from.

    Raises:
        FileNotFoundError: as of `find`.
        ValueError: for a run that began from nothing, and for what is no folder of a kedge model.
    """
    if len(given) > 2:
        raise ValueError(f"two models are averaged, or one run with the model it began from; got {len(given)}")
    sources = [find(each) for each in given]
    for source in sources:
        source.folder("weights are averaged between those")
    if len(sources) == 2:
        return sources[0], sources[1]
    run = sources[0].run
    if run is None or not (run / "start" / "config.json").is_file():
        raise ValueError(
            f"{given[0]} keeps no model that it began from (no folder start in it, which a run with init_from has): "
            "name two models, kedge interpolate A B"
        )
    end = sources[0]
    if end.recipe().get("average") is not None and end.path == run / "model":
        # That model is an average already: what was averaged is its end.
        end = next(find(str(run / name)) for name in ("best", "last") if (run / name / "config.json").is_file())
        print(f"{given[0]} is an average itself: from {run / 'start'} to {end.path}", file=sys.stderr)
    return find(str(run / "start")), end


def shifts(config: "jsonargparse.Namespace") -> list[str]:
    """The words of --shift; none of them without a sweep."""
    words = separated(config.shift)
    return [] if words == ["none"] or not config.sweep else words


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
    images: "ImageRecord | None" = None,
) -> None:
    """Write the folder: the model, what it was made of, the recipe and the record that name its images, the sweep.

    A new folder is there whole or not at all; of an earlier one each file is replaced whole, the model first.
    """
    import kedge
    from kedge.files import sweep, whole_folder, write_text
    from kedge.regular import read_text
    from kedge.reporting.sweep import write_sweep

    results = {"kedge": kedge.__version__, **results}
    sweep(out.parent, shared=True)
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

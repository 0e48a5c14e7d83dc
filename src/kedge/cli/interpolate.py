"""`kedge interpolate`: average the weights of two models, and choose how much of each on validation images."""

import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from kedge.cli.averaging import about_norm, check_free, norm_batches, set_reject, write
from kedge.cli.flags import command_line
from kedge.cli.load_data import workers_for
from kedge.cli.output import progress_bar
from kedge.cli.parse import radius, separated
from kedge.cli.resolve_model import Source, find
from kedge.cli.trained_on import chosen_attack, training_attack
from kedge.cli.validation_data import joint_record, training_and_validation

ALPHAS = ("0", "0.1", "0.2", "0.3", "0.4", "0.5", "0.6", "0.7", "0.8", "0.9", "1")


def run(
    models: Sequence[str],
    *,
    alpha: float | None = None,
    sweep: bool = False,
    alphas: Sequence[str] = ALPHAS,
    pick: Literal["clean", "shifted", "pgd", "mean"] = "mean",
    shift: Sequence[str] = ("gaussian_noise", "defocus_blur", "fog", "pixelate"),  # one of each kind
    severity: int = 3,
    attack: Literal["pgd", "none"] = "pgd",
    eps: str | None = None,
    norm: Literal["linf", "l2"] | None = None,
    steps: int = 20,
    attack_images: int = 500,
    data: str | None = None,
    limit: int | None = None,
    bn_images: int = 5000,
    references: int | None = None,
    out: str | None = None,
    overwrite: bool = False,
    seed: int = 0,
    batch_size: int = 128,
    workers: int | None = None,
    device: str = "auto",
) -> int:
    """Average the weights of two models that share their start: (1 - alpha) of the first and alpha of the second.

    Between a model and what fine-tuning made of it there are often models that are better than both at something
    (WiSE-FT). --sweep tries several alphas on the validation images that the run held out of training, draws what is
    given for what, and takes the best. Statistics of batch norm are estimated anew on training images, the reject
    threshold is set anew on validation images. Test images are never looked at.

    Args:
        models (MODEL): two run or model folders, for alpha 0 and alpha 1; or a single run that began from a model
            (init_from), which is kept in its folder
        alpha: share of the second model; null: 0.5, unless --sweep chooses
        sweep: try several alphas, draw them, and take the best by --pick
        alphas (ALPHA): those that --sweep tries, and 0 and 1
        pick: what --sweep chooses by; mean: of all that is measured
        shift (NAME): corruptions or groups of them (noise, blur, weather, ...) whose mean is the shifted accuracy; or
            none
        severity: of the corruptions, 1 to 5
        attack: whether --sweep measures accuracy under attack
        eps: radius of the attack in pixel units, such as 8/255; null: that of the training, else as kedge evaluate
        norm: of the attack; null: that of the training, else linf
        steps: of PGD
        attack_images: at most so many images are attacked, a random subset
        data: data with a part train and a part val; null: what the second run trained on and held out
        limit: at most so many validation images, a random subset; null: all
        bn_images: training images that statistics of batch norm are estimated on
        references: references of anchored models to measure with; null: all
        out: folder to write; null: the second one's name with -interpolated
        overwrite: replace what an earlier kedge interpolate wrote there
        seed: of the subsets, the corruptions, the attack and the references drawn
        batch_size: {BATCH_SIZE}
        workers: {WORKERS}
        device: {DEVICE}

    Examples:
        kedge interpolate runs/tuned --sweep                   from the model that the run began with to its own
        kedge interpolate runs/clean runs/tuned --alpha 0.5    one average, nothing to choose
        kedge interpolate A B --sweep --pick pgd --eps 8/255   by accuracy under attack
    """
    command = command_line("interpolate", locals())
    shifts, tried = separated(shift), _shares(sweep, alpha, separated(alphas))
    a, b = both(models)
    if shifts != ["none"]:
        from kedge.data.corruptions import expand

        expand(shifts)  # a wrong name is an error whether they are measured or not
    radius(eps, norm)
    assert b.path is not None
    folder = Path(out) if out else (b.run or b.path).with_name(f"{b.name}-interpolated")
    check_free(folder, overwrite)
    from kedge import weights
    from kedge.evaluation.model_selection import Measure, best
    from kedge.evaluation.sets import limited
    from kedge.reporting.sweep import sweep_table
    from kedge.weights.wise_ft import between

    ends, recipe = (a.load(device), b.load(device)), b.recipe()
    weights.interpolate_models(*ends, 0.5)  # models that do not fit are said before images are read
    train, val = training_and_validation(b, ends[1], data, a)
    val, _ = limited(val, limit, seed)
    count = workers_for(val, workers)
    batches = norm_batches(ends, train, recipe, bn_images, batch_size, count, seed)
    trained = training_attack(recipe)  # the end's own statistics are of images under this attack
    name, pgd = "", None
    if sweep and attack == "pgd":
        name, pgd = chosen_attack(recipe, val, eps, norm, steps=steps, seed=seed, most=attack_images)
    measure = Measure(
        val,
        shift=shifts if sweep and shifts != ["none"] else [],
        severity=severity,
        attack=pgd,
        attack_images=attack_images,
        references=references,
        batch_size=batch_size,
        workers=count,
        seed=seed,
    )
    by = "clean" if pick == "mean" and measure.names() == ["clean"] else pick  # the mean of one number
    if sweep and by not in measure.names():
        raise ValueError(f"--pick {by}, but what is measured is {', '.join(measure.names())}")
    points = sorted({0.0, 1.0, *tried})
    with progress_bar("averaging") as (tick, say):
        say(f"{val.name} ({val.split}): {len(val)} images; alpha {', '.join(f'{point:g}' for point in points)}")
        done = iter(range(1, len(points) + 1))

        def look(model: Any) -> dict[str, float]:
            measured, number = measure(model), next(done)
            if tick is not None:
                tick(number, len(points))
            return measured

        rows = weights.wise_ft_curve(*ends, points, look, batches, seed, trained)
    picked = best(rows, by) if sweep else next(row for row in rows if row["alpha"] == tried[0])
    model = between(*ends, picked["alpha"], batches, seed, trained)
    lines = set_reject(model, ends[1], recipe, val, batch_size, count)
    norm_in_words = about_norm(batches, trained)
    if batches is not None and trained is not None:
        lines.insert(0, norm_in_words)
    results = {
        "format": "kedge sweep",
        "format_version": 1,
        "command": command,
        "a": models[0] if len(models) == 2 else str(a.path),
        "b": models[-1],
        "picked": {"alpha": picked["alpha"], "by": by if sweep else "hand", "intervals": measure.intervals(picked)},
        "data": {"name": val.name, "split": val.split, "images": len(val)},
        "shift": {"corruptions": measure.shift, "severity": severity},
        "attack": measure.about_attack(name),
        "batch_norm": norm_in_words,
        "seed": seed,
        "rows": rows,
    }
    write(model.cpu(), results, b, folder, sweep, joint_record(a, b))
    print(sweep_table(results), *lines, sep="\n")
    if sweep and picked["alpha"] in (0, 1):
        print(f"nothing between the two is better by {by}: the model of alpha {picked['alpha']:g} is written")
    chose = "these images chose" if sweep else "measured on the images of the threshold"
    print(f"({chose}: judge the result on others, with kedge evaluate)")
    if sweep:
        print(f"picture: {folder / 'sweep.html'}")
    print(f"saved: {folder}")
    return 0


def _shares(sweep: bool, alpha: float | None, alphas: list[str]) -> list[float]:
    """The shares of the second model to try. Raises ValueError for flags that cannot be."""
    if sweep and alpha is not None:
        raise ValueError(f"--sweep chooses alpha, and --alpha {alpha:g} names one: give one of the two")
    if not sweep and alphas != list(ALPHAS):
        raise ValueError("--alphas are what --sweep tries: say --sweep too, or give a single --alpha")
    if not sweep:
        alphas = ["0.5" if alpha is None else f"{alpha!r}"]
    shares = []
    for word in alphas:
        try:
            value = float(word)
        except ValueError:
            value = math.nan
        if not 0 <= value <= 1:
            flag = "--alphas" if sweep else "--alpha"
            raise ValueError(f"{flag}: between 0 (the first model) and 1 (the second), got {word}")
        shares.append(value)
    return shares


def both(names: Sequence[str]) -> tuple[Source, Source]:
    """The models of alpha 0 and 1: two, or a run and what it began from.

    Raises:
        FileNotFoundError: as of `find`.
        ValueError: for a run that began from nothing, and for what is no folder of a kedge model.
    """
    if len(names) > 2:
        raise ValueError(f"two models are averaged, or one run with the model it began from; got {len(names)}")
    sources = [find(each) for each in names]
    for source in sources:
        source.folder("weights are averaged between those")
    if len(sources) == 2:
        return sources[0], sources[1]
    run = sources[0].run
    if run is None or not (run / "start" / "config.json").is_file():
        raise ValueError(
            f"{names[0]} keeps no model that it began from (no folder start in it, which a run with init_from has): "
            "name two models, kedge interpolate A B"
        )
    end = sources[0]
    if end.recipe().get("average") is not None and end.path == run / "model":
        # That model is an average already: what was averaged is its end.
        end = next(find(str(run / name)) for name in ("best", "last") if (run / name / "config.json").is_file())
        print(f"{names[0]} is an average itself: from {run / 'start'} to {end.path}", file=sys.stderr)
    return find(str(run / "start")), end

"""`kedge quickstart`: standard and anchored models of handwritten digits, several of each, compared on one page."""

import contextlib
import io
import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedge.cli.flags import check_range, command_line, command_words
from kedge.cli.reproduce import part_of
from kedge.cli.results_folder import free_folder, write
from kedge.experiments.side_by_side import cores, shares, side_by_side
from kedge.printable import counted
from kedge.training.recipe import Recipe

if TYPE_CHECKING:
    from kedge.data import ImageSet

SEEN = [str(digit) for digit in range(8)]
UNSEEN = ["8", "9"]
METHODS = ("anchored", "standard")  # the one that takes longer first: processes share the runs out in turn
SEEDS = 4
CORRUPTIONS = ("gaussian_noise", "gaussian_blur")


def run(
    *,
    epochs: int | None = None,
    seeds: int = SEEDS,
    seed: int = 0,
    device: str = "auto",
    jobs: int | None = None,
    part: str | None = None,
    out: str = "runs/quickstart",
) -> int:
    """See what kedge does, in one to three minutes on a laptop.

    Standard and anchored models are trained on the handwritten digits 0 to 7 with the same network and the same number
    of epochs, several seeds of each; then the two groups are compared on clean, noisy and blurred digits, and on the
    digits 8 and 9 that none has seen. Needs no download.

    Args:
        epochs: passes over the images; null: as kedge train
        seeds: trainings of each method
        seed: the first of them; decides every random draw
        device: auto, cpu, cuda or mps
        jobs: processes that train at once; null: one for each CPU core
        part: K/N: only train each Nth run from the Kth on, in --out
        out: folder for the runs and the page; numbered if it exists

    One training is chance: another seed, or another machine, gives another winner. So the means of the groups are
    compared, and a difference is claimed only where the spread over seeds and test images leaves no room for none. The
    digits are scikit-learn's, 8x8 pixels: too small and too easy for a verdict on the method.
    """
    options = locals()
    check_range("seed", seed, 0, 2**32 - 1 - seeds)
    k, n = part_of(part)
    folder = Path(out) if part is not None else free_folder(Path(out))
    planned = recipes(folder, seeds, seed, epochs=epochs, device=device)
    if part is not None:
        for recipe in planned[k - 1 :: n]:
            train(recipe, seed)
        return 0
    count = min(len(planned), jobs or cores())
    print(
        f"{len(planned)} models of the digits {SEEN[0]} to {SEEN[-1]}, trained alike but for anchoring and the seed, "
        f"{f'{count} at a time' if count > 1 else 'one after another'}; {' and '.join(UNSEEN)} are kept from them.",
        flush=True,
    )
    if count == 1:
        for recipe in planned:
            train(recipe, seed)
            _say_done(recipe)
    else:
        _train_together(planned, count, folder, options)
    return _compare(planned, folder, seed, command_line("quickstart", options))


def recipes(out: Path, seeds: int = SEEDS, first: int = 0, **settings: Any) -> list[Recipe]:
    """What is trained: the defaults of `kedge train`, anchored and not, once for each seed."""
    planned = [
        Recipe(
            name=method if seed == first else f"{method}-{seed}",
            data="digits",
            classes=SEEN,
            anchored=method == "anchored",
            seed=seed,
            runs=str(out),
            **settings,
        )
        for method in METHODS
        for seed in range(first, first + seeds)
    ]
    for recipe in planned:
        recipe.check("quickstart: ")
    return planned


def title(recipe: Recipe) -> str:
    """`METHOD-SEED`."""
    return f"{METHODS[0] if recipe.anchored else METHODS[1]}-{recipe.seed}"


def train(recipe: Recipe, first: int) -> None:
    """One run, and what it answers to the test images, which is kept for the comparison; `first`: of the seeds."""
    from kedge.training import fit

    with quiet(), one_thread():
        result = fit(recipe, progress=False, report=recipe.seed == first)
        measure({title(recipe): result.model}, first, Path(recipe.runs), resamples=0, examples=0)


def _train_together(planned: Sequence[Recipe], jobs: int, out: Path, options: Mapping[str, Any]) -> None:
    alone = {**options, "jobs": None, "out": str(out)}
    commands = [command_words("quickstart", {**alone, "part": share}) for share in shares(jobs)]
    waiting = list(planned)

    def tick() -> None:
        for recipe in [r for r in waiting if (out / str(r.name) / "model" / "config.json").is_file()]:
            waiting.remove(recipe)
            _say_done(recipe)

    logs = [out / f"job-{job}.log" for job in range(1, jobs + 1)]
    if faults := side_by_side(commands, logs, tick):
        raise RuntimeError("; ".join(faults))
    for log in logs:
        log.unlink()


def _say_done(recipe: Recipe) -> None:
    from kedge.training.folder import RunFolder

    rows = RunFolder(Path(recipe.runs) / str(recipe.name)).rows()
    seconds = sum(row["seconds"] for row in rows)
    print(f"  {title(recipe)}: {counted(len(rows), 'epoch')} in {seconds:.0f} s", flush=True)


def measure(models: dict[str, Any], seed: int, out: Path, **how: Any) -> dict[str, Any]:
    """Evaluate on clean, noisy and blurred test images of the digits that were trained on, and on the others."""
    from kedge import data, evaluation
    from kedge.scores import MSP, Disagreement, Energy

    digits = data.load("digits", "test")
    outside = {f"digits {' and '.join(UNSEEN)}": digits.only_classes(UNSEEN)}
    return evaluation.evaluate(
        models,
        digits.only_classes(SEEN),
        shift=CORRUPTIONS,
        ood=outside,
        scores=[MSP(), Energy(), Disagreement()],
        seed=seed,
        parts=out / "parts",
        **how,
    )


def _compare(planned: Sequence[Recipe], out: Path, seed: int, command: str) -> int:
    import kedge
    from kedge import data
    from kedge.reporting import comparison, over_seeds
    from kedge.reporting.claims import SETTLED

    models = {title(recipe): kedge.load(out / str(recipe.name) / "model") for recipe in planned}
    groups = {method: [name for name in models if name.startswith(method)] for method in reversed(METHODS)}
    with one_thread():
        results = measure(
            {name: models[name] for members in groups.values() for name in members},
            seed,
            out,
            groups=groups,
            command=command,
        )
    shutil.rmtree(out / "parts")
    print(f"\n{over_seeds(results)}")
    for question, answer in comparison(results):
        print(f"{question}: {answer}")
    if len(planned) > len(METHODS):
        print(SETTLED)
    save_samples(data.load("digits", "test"), out / "images")
    page = write(results, out)
    print(
        f"\nReport: {page.resolve()}\n\n"
        "Next:\n"
        f"  kedge predict {out}/anchored {out}/images\n"
        "      label, confidence and uncertainty of ten digits, 8 and 9 among them\n"
        "  kedge train --data FOLDER\n"
        "      your own photos: FOLDER/cat/*.jpg, FOLDER/dog/*.jpg, ..."
    )
    return 0


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: at 8x8 pixels a second one costs more than it brings, and far more on a busy CPU."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep the lines of each epoch off the screen; errors still come through."""
    logger = logging.getLogger("kedge")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logger.setLevel(level)


def save_samples(digits: "ImageSet", folder: Path) -> None:
    """One test image of each digit as a file, to predict on."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for label, name in enumerate(digits.class_names):
        index = int((digits.labels == label).nonzero()[0])
        Image.fromarray(digits[index][0][0].numpy()).save(folder / f"{name}.png")
